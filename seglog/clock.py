"""Time and random bytes, the real ones. Nothing else in seglog reads a clock or makes randomness."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """Where time and randomness come from; tests pass their own."""

    def time_ns(self) -> int:
        """Unix nanoseconds: advisory, may jump; never negative, whatever year the machine believes in."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: leases, backoff, timeouts."""
        ...

    def sleep(self, seconds: float, /) -> None: ...

    def random_bytes(self, count: int, /) -> bytes: ...


class SystemClock:
    """The machine's own."""

    @staticmethod
    def time_ns() -> int:
        return max(0, time.time_ns())

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    random_bytes = staticmethod(os.urandom)
