"""The messages in flight: given out and not yet answered, and when their leases end.

Leases run on the monotonic clock, whose time is passed in. Nothing here is on disk.
"""

from __future__ import annotations

from seglog.consumers.timetable import Timetable
from seglog.intervals import Intervals


class Flight:
    """Not thread-safe; the consumer serialises. `lease`: seconds, or None for no end."""

    def __init__(self, lease: float | None) -> None:
        self._lease = lease
        self._offsets = Intervals()
        self._ends = Timetable()

    @property
    def count(self) -> int:
        """How many are in flight."""
        return self._offsets.count()

    def start(self, first: int, stop: int, now: float) -> None:
        """first .. stop-1 are given out."""
        self._offsets.add(first, stop)
        if self._lease is not None:
            for offset in range(first, stop):
                self._ends.set(offset, now + self._lease)

    def extend(self, offset: int, end: float) -> None:
        """The lease of a message in flight ends then; without leases nothing ends."""
        if self._lease is not None and offset in self._offsets:
            self._ends.set(offset, end)

    def land(self, first: int, stop: int) -> None:
        """first .. stop-1 are in flight no more."""
        self._offsets.remove(first, stop)
        self._ends.drop(first, stop)

    def ground(self, first: int, stop: int) -> tuple[int, int]:
        """The first part of first .. stop-1 that is not in flight; (stop, stop) if all is."""
        return next(self._offsets.holes(first, stop), (stop, stop))

    def within(self, first: int, stop: int) -> list[int]:
        """Which of first .. stop-1 are in flight."""
        return [offset for start, end in self._offsets.overlap(first, stop) for offset in range(start, end)]

    def ended(self, now: float) -> list[int]:
        """In flight, though their lease is over."""
        ended = self._ends.until(now)
        for offset in ended:
            if offset not in self._offsets:  # an interrupt came between
                self._ends.drop(offset, offset + 1)
        return [offset for offset in ended if offset in self._offsets]

    def next_end(self) -> float | None:
        """When the next lease ends."""
        first = self._ends.first()
        return None if first is None else first[0]

    def ranges(self, limit: int) -> tuple[tuple[int, int], ...]:
        """The offsets in flight as `limit` ranges at most; if there are more, the last one spans the rest."""
        ranges = list(self._offsets)
        if len(ranges) > limit:
            ranges[limit - 1 :] = [(ranges[limit - 1][0], ranges[-1][1])]
        return tuple(ranges)

    def __contains__(self, offset: int) -> bool:
        return offset in self._offsets
