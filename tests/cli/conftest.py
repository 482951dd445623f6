"""Runs `seglog` as a process of its own, the way people do."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import run_forked
from tools.crashtest.zygote import Zygote

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0
COMMAND = [sys.executable, "-m", "seglog"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::ResourceWarning"}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # as most people run it


class Cli:
    """`cli("stat", directory)` runs to the end; `cli.start(…)` leaves it running.

    What runs to its end and has nothing special about it is forked; the others start as a shell starts them.
    """

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.command = COMMAND
        self.environment = ENVIRONMENT.copy()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._zygote = zygote
        self._folder = folder

    def __call__(self, *args: object, input: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        if (self.command, self.environment, options) == (COMMAND, ENVIRONMENT, {}):
            return run_forked(self._zygote, [str(each) for each in args], self.environment, input, self._folder)
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        if "stdin" not in options:
            options["input"] = input
        return subprocess.run(
            [*self.command, *map(str, args)], env=self.environment, timeout=TIMEOUT, check=False, **options
        )

    def start(self, *args: object, **options: Any) -> subprocess.Popen[bytes]:
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        process = subprocess.Popen([*self.command, *map(str, args)], env=self.environment, bufsize=0, **options)
        self.processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
        """Exit code and the rest of what it wrote."""
        out, err = process.communicate(timeout=TIMEOUT)
        return process.returncode, out or b"", (err or b"").decode()

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(TIMEOUT)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def cli(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    runner = Cli(zygote, tmp_path_factory.mktemp("streams"))
    yield runner
    runner.stop_all()


def read_lines(process: subprocess.Popen[bytes], count: int) -> list[bytes]:
    """The next lines of its stdout, in bounded time."""
    assert process.stdout is not None
    data = b""
    deadline = time.monotonic() + TIMEOUT
    while data.count(b"\n") < count:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"only this came: {data!r}"
        piece = os.read(process.stdout.fileno(), 1 << 16)
        assert piece, f"it ended after {data!r}"
        data += piece
    return data.splitlines()


def wait_until(condition: Callable[[], bool]) -> None:
    """Bounded."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def one_line(error: bytes | str) -> str:
    """What a failing command says: exactly one line, from us, and no traceback."""
    text = error.decode() if isinstance(error, bytes) else error
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("seglog: "), text
    assert "Traceback" not in text
    return lines[0]
