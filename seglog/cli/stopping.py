"""An orderly end on Ctrl-C and SIGTERM: what is in hand is finished, then the command stops.

While a `Stop` is active the signals only set a flag; a second one means "now" and raises KeyboardInterrupt.
SIGHUP, where it is asked for, means "read your configuration again" and ends nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from seglog.cli import exit_codes


class Stop:
    """True once a signal asked for the end. `fileno()` becomes readable then, so that a select() wakes up.

    With `reload`, SIGHUP is caught as well; `fileno()` is then readable after that, too.
    """

    def __init__(self, *, reload: bool = False) -> None:
        self._signal = 0
        self._reload = reload
        self._reload_asked = False
        self._at_once = False
        self._callback: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def __enter__(self) -> Stop:
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        if self._reload:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_reload)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read_end)
        os.close(self._write_end)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self._signal != 0
        self._signal = self._signal or number
        if self._callback is not None:
            self._callback()
        if again or self._at_once:
            raise KeyboardInterrupt

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._reload_asked = True

    def take_reload(self) -> bool:
        """Whether SIGHUP came since this was asked last."""
        asked, self._reload_asked = self._reload_asked, False
        return asked

    def __bool__(self) -> bool:
        return self._signal != 0

    def fileno(self) -> int:
        """Readable once a signal came."""
        return self._read_end

    def call(self, callback: Callable[[], None]) -> None:
        """Also call this when a signal comes; at once if one came already."""
        self._callback = callback
        if self:
            callback()

    def wait(self, seconds: float) -> None:
        """Sleep, at most until a signal comes."""
        select.select([self], [], [], seconds)
        if self._reload and not self:  # what SIGHUP left in the pipe would end the next wait, too
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_end, 4096)

    @property
    def exit_code(self) -> int:
        """What to exit with: 0 if nobody asked to stop."""
        codes = {0: exit_codes.OK, signal.SIGINT: exit_codes.INTERRUPTED, signal.SIGTERM: exit_codes.TERMINATED}
        return codes[self._signal]

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """In this block a signal raises KeyboardInterrupt: for waits that the other side may never end."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
