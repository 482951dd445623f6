"""A set of offsets, kept as sorted, disjoint, non-touching ranges with the end excluded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """Grows and shrinks by ranges; cost is that of a bisection and of a list insertion.

    Every change is a few statements without a call in between, so an interrupt leaves all of it or nothing.
    """

    __slots__ = ("_count", "_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for first, stop in ranges:
            self.add(first, stop)

    def add(self, first: int, stop: int) -> None:
        """Add first .. stop-1."""
        if first >= stop:
            return
        starts, stops = self._starts, self._stops
        left = bisect_left(stops, first)  # the first range that touches or follows
        right = bisect_right(starts, stop)  # behind the last that touches
        held = 0
        if left < right:
            first = min(first, starts[left])
            stop = max(stop, stops[right - 1])
            held = sum(stops[left:right]) - sum(starts[left:right])
        starts[left:right] = [first]
        stops[left:right] = [stop]
        self._count += stop - first - held

    def remove(self, first: int, stop: int) -> None:
        """Take out first .. stop-1, as far as it is in."""
        if first >= stop:
            return
        starts, stops = self._starts, self._stops
        left = bisect_right(stops, first)
        right = bisect_left(starts, stop)
        if left >= right:
            return
        kept_starts, kept_stops = [], []
        if starts[left] < first:
            kept_starts.append(starts[left])
            kept_stops.append(first)
        if stops[right - 1] > stop:
            kept_starts.append(stop)
            kept_stops.append(stops[right - 1])
        gone = sum(stops[left:right]) - sum(starts[left:right]) - sum(kept_stops) + sum(kept_starts)
        starts[left:right] = kept_starts
        stops[left:right] = kept_stops
        self._count -= gone

    def range_at(self, offset: int) -> tuple[int, int] | None:
        """The range that holds `offset`."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self._stops[index]:
            return self._starts[index], self._stops[index]
        return None

    def holes(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of first .. stop-1 that are not in the set."""
        index = bisect_right(self._stops, first)
        while first < stop:
            start = self._starts[index] if index < len(self._starts) else stop
            if start > first:
                yield first, min(start, stop)
            if index >= len(self._starts):
                return
            first = max(first, self._stops[index])
            index += 1

    def overlap(self, first: int, stop: int) -> list[tuple[int, int]]:
        """The parts of first .. stop-1 that are in the set."""
        found = []
        at = first
        for start, end in [*self.holes(first, stop), (stop, stop)]:
            if start > at:
                found.append((at, start))
            at = end
        return found

    def copy(self) -> Intervals:
        made = Intervals()
        made._starts = self._starts[:]
        made._stops = self._stops[:]
        made._count = self._count
        return made

    def count(self) -> int:
        """How many offsets are in the set."""
        return self._count

    def __contains__(self, offset: int) -> bool:
        return self.range_at(offset) is not None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)
