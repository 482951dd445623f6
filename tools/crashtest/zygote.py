"""Child processes that start in milliseconds: a helper imports what they run once, and forks a child for each task.

A child runs one function of the test tree, named "module:function", with `say` (writes a line to the test), `hear`
(reads one) and its arguments. What it said before SIGKILL has arrived: the pipe outlives it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 30.0  # a bound, never a measure: nothing here takes so long unless it hangs

Say = Callable[[str], None]
Hear = Callable[[], str]


class Start(Protocol):
    """The fixture `start`."""

    def __call__(self, function: str, *arguments: Any) -> Child: ...


class Child:
    """One child process, as the test sees it."""

    def __init__(self, zygote: Zygote, pid: int, output: int, commands: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self._output = output
        self._commands = commands
        self._unread = b""
        self._status: int | None = None

    def line(self, timeout: float = WAIT_SECONDS) -> str | None:
        """The next line it says; None when it has ended. Raises AssertionError for a traceback, and for silence."""
        while b"\n" not in self._unread:
            if not wait_for([self], timeout):
                raise AssertionError(f"child {self.pid} says nothing for {timeout} s")
            data = os.read(self._output, 1 << 16)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        text = line.decode()
        if text.startswith("!"):
            raise AssertionError("in the child: " + json.loads(text[1:]))
        return text

    def has_said(self) -> bool:
        """Whether `line` would return at once."""
        return b"\n" in self._unread or wait_for([self], 0.0)

    def lines_so_far(self) -> list[str]:
        """What it has said by now, as far as a few reads show it."""
        found: list[str] = []
        while b"\n" in self._unread or (len(found) < 1000 and wait_for([self], 0.0)):
            line = self.line()
            assert line is not None, f"child {self.pid} ended by itself"
            found.append(line)
        return found

    def lines(self) -> Iterator[str]:
        """All it still says, to its end."""
        while (line := self.line()) is not None:
            yield line

    def tell(self, text: str = "") -> None:
        os.write(self._commands, text.encode() + b"\n")

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._status is None:  # until it is reaped, its pid is nobody else's
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, negative for a signal. Read all its lines first, or kill it."""
        if self._status is None:
            self._status = int(self._zygote.ask({"wait": self.pid}))
        return self._status

    def fileno(self) -> int:
        return self._output

    def close(self) -> None:
        """Whatever it was doing, it runs no more."""
        self.kill()
        self.wait()
        for fd in (self._output, self._commands):
            if fd >= 0:
                os.close(fd)
        self._output = self._commands = -1


def wait_for(children: Sequence[Child], timeout: float) -> bool:
    """Until one of them says something, or ends; False if none does for so many seconds."""
    waiting = select.poll()  # not select(): a descriptor may be above 1,024
    for child in children:
        waiting.register(child, select.POLLIN)
    return bool(waiting.poll(timeout * 1000))


class Zygote:
    """The helper process. It ends when this object is closed, or with the process that has it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._socket.settimeout(WAIT_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.crashtest.zygote", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def start(self, function: str, *arguments: Any) -> Child:
        """Run `function` ("module:name") in a child; the arguments go through JSON."""
        output, said = os.pipe()
        heard, commands = os.pipe()
        try:
            pid = int(self.ask({"run": function, "arguments": arguments}, said, heard))
        finally:
            os.close(said)
            os.close(heard)
        return Child(self, pid, output, commands)

    def ask(self, request: dict[str, Any], *fds: int) -> str:
        socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        answer = self._socket.recv(1 << 16)
        assert answer, "the helper that forks children has died"
        return answer.decode()

    def close(self) -> None:
        self._socket.close()
        self._process.wait(WAIT_SECONDS)


def serve(requests: socket.socket) -> None:
    """The helper's life: fork and wait as asked, until nobody asks any more."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 1 << 16, 2)
        if not message:
            return
        request = json.loads(message)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            requests.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        with contextlib.suppress(Exception):  # then the child fails at it, and says how
            importlib.import_module(request["run"].partition(":")[0])  # here, so that no child after it has to
        pid = os.fork()
        if pid == 0:
            requests.close()
            live(request["run"], request["arguments"], *fds)
        for fd in fds:
            os.close(fd)
        requests.send(str(pid).encode())


def live(function: str, arguments: list[Any], said: int, heard: int) -> NoReturn:
    """A child's life."""
    commands = os.fdopen(heard, "r")

    writing = threading.Lock()  # a line may be longer than what the kernel writes as one

    def say(text: str) -> None:
        line = text.encode() + b"\n"
        with writing:
            while line:
                line = line[os.write(said, line) :]

    try:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(say, lambda: commands.readline().strip(), *arguments)
    except BaseException:
        os.write(said, b"!" + json.dumps(traceback.format_exc()[-3000:]).encode() + b"\n")
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
