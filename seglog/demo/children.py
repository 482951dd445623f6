"""The demo's processes: started, listened to, killed by their own pid, and none left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from seglog.errors import SeglogError

END_SECONDS = 4.0


class Child:
    """One process. Its stdout is read line by line without ever waiting; its stderr goes to a file."""

    def __init__(self, name: str, arguments: list[str], errors: Path) -> None:
        self.name = name
        self._errors = errors
        self._unfinished = b""
        with errors.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """What it wrote since the last call, whole lines only. After its end: all the rest."""
        assert self._process.stdout is not None
        data = self._unfinished
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._process.stdout.fileno(), 1 << 16):
                data += chunk
        *lines, self._unfinished = data.split(b"\n")
        return [line.decode() for line in lines]

    def kill(self) -> None:
        """SIGKILL. What it wrote before can still be read."""
        self._process.kill()
        self._process.wait(END_SECONDS)

    def ask_to_end(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Whatever it was doing, it runs no more. Idempotent."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def failure(self) -> SeglogError:
        """What to raise when it ended and should not have."""
        said = self._errors.read_text("utf-8", "replace").strip().splitlines()
        last = f": {said[-1]}" if said else ""
        return SeglogError(f"the {self.name} ended with exit code {self.exit_code()}{last}")


class Children:
    """All of them, so that not one is forgotten."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        self._all: list[Child] = []

    def start(self, name: str, *arguments: str) -> Child:
        """`python -m` with these arguments."""
        child = Child(name, list(arguments), self._errors / f"{name}.stderr")
        self._all.append(child)
        return child

    def close(self) -> None:
        for child in self._all:
            child.close()
