"""Offsets, each with a time, in the order of their times: leases that end, failed messages that come again.

Every operation costs a logarithm, however often an offset is set anew. It reads no clock.
"""

from __future__ import annotations

import heapq


class Timetable:
    """Not thread-safe; its owner serialises."""

    __slots__ = ("_heap", "_times")

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # also what was set anew or dropped since: told by comparing

    def set(self, offset: int, time: float) -> None:
        """This is its time from now on."""
        heapq.heappush(self._heap, (time, offset))  # first: an interrupt in between leaves what was before
        self._times[offset] = time
        if len(self._heap) > 2 * len(self._times) + 64:
            heap = [(at, kept) for kept, at in self._times.items()]
            heapq.heapify(heap)
            self._heap = heap

    def drop(self, first: int, stop: int) -> None:
        """Take out first .. stop-1, as far as they are in."""
        times = self._times
        if not times:
            return
        if stop - first <= len(times):
            for offset in range(first, stop):
                times.pop(offset, None)
        else:
            for offset in [offset for offset in times if first <= offset < stop]:
                del times[offset]

    def time(self, offset: int) -> float:
        """Its time, which it must have."""
        return self._times[offset]

    def first(self) -> tuple[float, int] | None:
        """The earliest time and its offset."""
        heap, times = self._heap, self._times
        while heap:
            time, offset = heap[0]
            if times.get(offset) == time:
                return heap[0]
            heapq.heappop(heap)
        return None

    def until(self, time: float) -> list[int]:
        """The offsets whose time has come, in order; they stay in."""
        first = self.first()
        if first is None or first[0] > time:
            return []
        return [offset for _, offset in sorted((at, offset) for offset, at in self._times.items() if at <= time)]

    def later(self, time: float) -> int:
        """How many have a time after this one."""
        return sum(at > time for at in self._times.values())

    def __contains__(self, offset: int) -> bool:
        return offset in self._times

    def __len__(self) -> int:
        return len(self._times)
