"""A clock that stands still until it is told to go on, and random bytes that a seed replays."""

from __future__ import annotations

import threading
from hashlib import shake_256


class ManualClock:
    """A `seglog.clock.Clock` for tests. Sleeping takes no time: it moves the clock.

    Args:
        start_ns: Unix nanoseconds at the beginning.
        seed: the same seed gives the same random bytes in the same order.
    """

    def __init__(self, *, start_ns: int = 1_700_000_000_000_000_000, seed: int = 0) -> None:
        self._guard = threading.Lock()
        self._start_ns = start_ns
        self._passed_ns = 0
        self._jump_ns = 0
        self._seed = seed
        self._drawn = 0

    def time_ns(self) -> int:
        return max(0, self._start_ns + self._passed_ns + self._jump_ns)

    def monotonic(self) -> float:
        return self._passed_ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def random_bytes(self, count: int) -> bytes:
        with self._guard:
            self._drawn += 1
            return shake_256(f"{self._seed}/{self._drawn}".encode()).digest(count)

    def advance(self, seconds: float) -> None:
        """Time goes by, on both clocks."""
        if seconds < 0:
            raise ValueError("time does not go back; jump() sets the wall clock")
        with self._guard:
            self._passed_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock, forwards or back; the monotonic one does not notice."""
        with self._guard:
            self._jump_ns += round(seconds * 1e9)
