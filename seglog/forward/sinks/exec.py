"""`exec:command argument…`: runs a command for each batch, with the batch on its standard input. Needs no extra.

The command is started as it is, without a shell, as `seglog consume --exec` does it. What it writes goes where our own
output goes; the end of what it writes to standard error also stands in the dead letter of a record that it refused.

    exit code      what follows
    0              confirmed
    65             refused (EX_DATAERR of sysexits.h): the batch is halved until the record is found
    78             configuration (EX_CONFIG): everything is kept; so it is when the command cannot be started
    other          retried; so is a command that takes longer than `timeout` seconds and is ended then, also if it
                   exits with 0 for that

In its environment are SEGLOG_LOG_ID, SEGLOG_FIRST_OFFSET and SEGLOG_LAST_OFFSET, those of the first and of the last
record of the batch. A batch whose run did not end with 0 comes again with the same records, also after we were killed
while the command ran, where `Forwarder` was given a `batch_file`: so a command can know by the offsets what it has had.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import InvalidOption
from seglog.forward.sinks.base import SinkError, Verdict
from seglog.forward.sinks.encoding import encoder
from seglog.model import Message

GRACE_SECONDS = 5.0  # between asking a command to end and killing it
_SLICE_SECONDS = 0.05  # how soon an end is noticed, where a child of the command holds its pipes
_PIECE_BYTES = 64 * 1024
_TAIL_BYTES = 1000
_STDERR = 2
_VERDICTS = {os.EX_DATAERR: Verdict.REFUSED, os.EX_CONFIG: Verdict.CONFIGURATION}
_PASSES = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE))  # of a command that was not started


class ExecSink:
    """Runs one command for each batch. See `seglog.forward.open_sink`.

    Args:
        url: `exec:` and a command with its arguments, quoted as for a shell.
        format: "lines" or "envelope".
        timeout: seconds that one run may take. Then the command and what it started are terminated, and killed if they
            are still there `GRACE_SECONDS` later.
    """

    same_batches = True

    def __init__(self, url: str, *, format: str = "lines", timeout: float = 30.0, clock: Clock | None = None) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        self._encode = encoder(format)
        self._command = _words(url.partition(":")[2])
        self._name = self._command[0]  # its arguments may hold a secret
        self._timeout = timeout
        self._clock = SystemClock() if clock is None else clock

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """One run. Raises SinkError, which says what its end means, unless it exited with 0."""
        body = self._encode(batch)
        child = self._started(_environment(batch))
        try:
            tail, late = self._talk(child, body)
        finally:
            _end(child)
        status = child.returncode
        if status == 0 and not late:  # else it may have ended by our signal, with the work undone
            return
        what = f"took longer than {self._timeout:g} s and {_ended(status)}" if late else _ended(status)
        text = tail.decode("utf-8", "replace").strip()
        raise SinkError(
            f"{self._name} {what}",
            verdict=Verdict.RETRY if late else _VERDICTS.get(status or 0, Verdict.RETRY),
            detail=f"{what}: {text}" if text else what,
        )

    def _started(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,  # a group to end as a whole; and Ctrl-C lets the batch under way finish
            )
        except OSError as error:
            raise SinkError(
                f"{self._name} cannot be started: {error.strerror or error}",
                verdict=Verdict.RETRY if error.errno in _PASSES else Verdict.CONFIGURATION,
            ) from error

    def _talk(self, child: subprocess.Popen[bytes], body: bytes) -> tuple[bytes, bool]:
        """Give it its input until it ends; the end of what it says, and whether its time was over."""
        with contextlib.closing(_Pipes(child, body)) as pipes:  # to its very end: who cannot write dies of that
            late = not self._ends_within(self._timeout, pipes)
            if late:
                _signal(child, signal.SIGTERM)
                self._ends_within(GRACE_SECONDS, pipes)
                _signal(child, signal.SIGKILL)  # what is left of its group, too
            return pipes.tail, late

    def _ends_within(self, seconds: float, pipes: _Pipes) -> bool:
        deadline = self._clock.monotonic() + seconds
        while not pipes.ended():
            if self._clock.monotonic() >= deadline:
                return False
            pipes.exchange(_SLICE_SECONDS)
        return True


class _Pipes:
    """A command's standard input and error, neither of which may make the other wait."""

    def __init__(self, child: subprocess.Popen[bytes], body: bytes) -> None:
        assert child.stdin is not None
        assert child.stderr is not None
        self._child, self._in, self._err = child, child.stdin, child.stderr
        self._left = memoryview(body)
        self.tail = b""
        self._selector = selectors.DefaultSelector()
        for stream, event in ((self._in, selectors.EVENT_WRITE), (self._err, selectors.EVENT_READ)):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, event)

    def exchange(self, seconds: float) -> None:
        """What is possible now, or after a wait of so many seconds at most."""
        if not self._selector.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._in:
                self._write()
            else:
                self._read()

    def ended(self) -> bool:
        """Whether the command has; what it said is in the tail then."""
        if self._child.poll() is None:
            return False
        self.exchange(0.0)
        return True

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._in.fileno(), self._left[:_PIECE_BYTES]) :]
        except BlockingIOError:  # less room than a pipe says it has
            return
        except BrokenPipeError:  # it does not want the rest; its exit code says whether that is well
            self._left = self._left[:0]
        if not self._left:
            self._done(self._in)

    def _read(self) -> None:
        try:
            piece = os.read(self._err.fileno(), _PIECE_BYTES)
        except BlockingIOError:  # nothing there after all
            return
        self.tail = (self.tail + piece)[-_TAIL_BYTES:]
        if not piece:
            self._done(self._err)
        if sys.__stderr__ is not None:  # else its number may be that of another file by now
            _pass_on(piece)

    def _done(self, stream: IO[bytes]) -> None:
        self._selector.unregister(stream)
        stream.close()

    def close(self) -> None:
        self._selector.close()
        self._in.close()
        self._err.close()


def _pass_on(piece: bytes) -> None:
    """To our standard error, as far as there is room: who does not read it is no reason to hold up records."""
    with contextlib.suppress(OSError):  # it is closed, or full
        while piece and select.select([], [_STDERR], [], 0)[1]:
            piece = piece[os.write(_STDERR, piece[: select.PIPE_BUF]) :]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever came: it does not run any more, unless it became another user, or the kernel does not let it go."""
    if child.poll() is None:
        _signal(child, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended; none of them is ours any more
        os.killpg(child.pid, number)


def _environment(batch: Sequence[Message[Any]]) -> dict[str, str]:
    """Ours, and what the command is told about its batch."""
    told = {"LOG_ID": batch[0].id.rpartition(":")[0], "FIRST_OFFSET": batch[0].offset, "LAST_OFFSET": batch[-1].offset}
    return {**os.environ, **{f"SEGLOG_{name}": str(value) for name, value in told.items()}}


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidOption(f"the command of exec: cannot be split into words: {error}") from None
    if not words or not words[0] or "\0" in text:
        raise InvalidOption("exec: needs a command behind the colon, as in exec:curl --data-binary @- localhost")
    return words


def _ended(status: int | None) -> str:
    """For people."""
    if status is None:
        return "cannot be ended"
    if status >= 0:
        return f"exited with {status}"
    names = {int(one): one.name for one in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"
