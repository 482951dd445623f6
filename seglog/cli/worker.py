"""`seglog consume --exec CMD`: one run of a command for each message; acknowledged is what it exits 0 for.

CMD is started as it is, without a shell. What the command writes goes where our own output goes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess

import seglog
from seglog.cli import exit_codes, messages
from seglog.cli.output import say
from seglog.cli.stopping import Stop
from seglog.model import Gap, Message

POLL_SECONDS = 0.2  # how soon a signal is noticed while there is nothing to do
GRACE_SECONDS = 5.0  # between asking a command to end and killing it
NOT_IN_THIS_RUN = 1e6  # seconds that a message which failed stays hidden, unless this run tries again


class Worker:
    """One run of `seglog consume --exec`."""

    def __init__(self, args: argparse.Namespace, stop: Stop) -> None:
        self._args = args
        self._stop = stop
        self._failed: set[int] = set()  # and did not succeed later
        self._coming: set[int] = set()  # those of them that this run will see again

    def on_gap(self, gap: Gap) -> None:
        """What is passed over does not come again."""
        messages.tell_gap(gap)
        self._coming = {offset for offset in self._coming if not gap.first_offset <= offset <= gap.last_offset}

    def run(self, consumer: seglog.Consumer[bytes]) -> int:
        """Run the command for message after message; returns the exit code.

        A command that cannot be started raises OSError: that is no fault of the message, so no attempt is counted.
        """
        left: int | None = self._args.n
        while not self._stop and left != 0:
            waits = self._args.follow or bool(self._coming)
            message = consumer.receive(timeout=POLL_SECONDS if waits else 0)
            if message is None:
                if waits:
                    continue
                break
            status, late = _run(self._args, message, self._stop)
            if status != 0 and self._stop:
                break  # interrupted: not acked, and no attempt either
            self._answer(consumer, message, status, late)
            if left is not None:
                left -= 1
        return self._stop.exit_code or (exit_codes.NOT_WELL if self._failed else exit_codes.OK)

    def _answer(self, consumer: seglog.Consumer[bytes], message: Message[bytes], status: int, late: bool) -> None:
        offset, attempts_max = message.offset, self._args.max_attempts
        self._coming.discard(offset)
        if status == 0 and not late:  # else it may have ended because we asked, with the work undone
            consumer.ack(message)
            self._failed.discard(offset)
            return
        which = f"attempt {message.attempts}"
        if attempts_max is not None and message.attempts >= attempts_max:
            which += ", the last: it becomes a dead letter"
        why = f"took longer than {self._args.lease:g} s and " if late else ""
        say(f"offset {offset}: {self._args.exec[0]} {why}{_ended(status)} ({which})")
        tries_again = self._args.follow or attempts_max is not None
        consumer.nack(message, delay=None if tries_again else NOT_IN_THIS_RUN)
        self._failed.add(offset)
        if attempts_max is not None and message.attempts < attempts_max:
            self._coming.add(offset)


def _run(args: argparse.Namespace, message: Message[bytes], stop: Stop) -> tuple[int, bool]:
    """How the command ended, and whether its time was over; then it is asked to end, as it is when we are."""
    late = False
    payload = messages.as_json(message) if args.json else message.payload
    child = subprocess.Popen(args.exec, stdin=subprocess.PIPE, env=_environment(message))
    try:
        stop.call(child.terminate)
        try:
            child.communicate(payload, timeout=args.lease)
        except subprocess.TimeoutExpired:
            late = True
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=GRACE_SECONDS)
    finally:
        child.kill()  # does nothing to a child that has ended
        child.wait()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it did not read
            child.stdin.close()
    return child.returncode, late


def _environment(message: Message[bytes]) -> dict[str, str]:
    """Ours, and what the command is told about its message."""
    found = {name: value for name, value in os.environ.items() if name != "SEGLOG_KEY"}
    found |= {"SEGLOG_OFFSET": str(message.offset), "SEGLOG_ATTEMPTS": str(message.attempts), "SEGLOG_ID": message.id}
    key = message.key
    if key is not None and b"\0" not in key:
        with contextlib.suppress(UnicodeDecodeError):
            found["SEGLOG_KEY"] = key.decode()
    return found


def _ended(status: int) -> str:
    """For people."""
    return f"exited with {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
