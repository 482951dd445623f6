"""What a log holds that is not yet consumed, counted from outside: by reading it, without asking its limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import seglog
from seglog.format import layout as L
from tools.crashtest.zygote import WAIT_SECONDS


def stored_bytes(log: seglog.Log[Any]) -> int:
    """Bytes of all batches ever written, as the active segment's header counts them.

    Raises FileNotFoundError where another thread has gone on to the next segment meanwhile.
    """
    opened = log._opened
    assert opened is not None
    written = opened.appender.written
    for name in reversed(opened.catalog.names):
        header = opened.catalog.facts(name).header
        if name.segment_id == written.segment_id and header is not None:
            return header.bytes_before + written.position - L.DATA_START
    raise FileNotFoundError("the active segment is another one by now")


class Worker:
    """A thread whose errors are the test's."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._work = work
        self.result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def ends(self) -> object:
        """What the work gave. Raises its error."""
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self.result


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, in bounded time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "that never happens"
        time.sleep(0.001)


def blocked(log: seglog.Log[Any], count: int = 1) -> Callable[[], bool]:
    """Whether so many appends wait for room."""
    limits = log._limits
    assert limits is not None
    return lambda: len(limits._line) == count
