"""Messages that are not due yet, in the order of their due times, in bounded memory.

The nearest are kept, one whole number each. Of the others only two things are remembered: the lowest offset and the
earliest due time. Nothing is lost by that: when the near ones are given out, whoever owns this reads the log again
from that offset. Due times are Unix nanoseconds of the wall clock, as they are in the records (FORMAT.md §6.3).
"""

from __future__ import annotations

import heapq

NEAREST = 32_768  # kept at least, once there are so many; twice as many at most, a few megabytes

_OFFSET_BITS = 63
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class Schedule:
    """Not thread-safe; the consumer serialises. An offset may be in it twice: whoever takes it looks at it anyway."""

    def __init__(self, nearest: int = NEAREST) -> None:
        self._nearest = nearest
        self._near: list[int] = []  # a heap of due time << 63 | offset
        self._far_offset: int | None = None  # the lowest that was forgotten
        self._far_due = 0  # the earliest due time among them: never before one that is near
        self._far_count = 0

    def add(self, due_ns: int, offset: int) -> None:
        """Remember that it becomes due, or forget it for now."""
        if self._far_offset is not None and due_ns >= self._far_due:
            self._forget(due_ns, offset, 1)
            return
        heapq.heappush(self._near, due_ns << _OFFSET_BITS | offset)
        if len(self._near) >= 2 * self._nearest:
            self._near.sort()  # sorted, it is a heap too
            far = self._near[self._nearest :]
            self._forget(far[0] >> _OFFSET_BITS, min(entry & _OFFSET_MASK for entry in far), len(far))
            del self._near[self._nearest :]  # last: an interrupt must not lose them

    def _forget(self, due_ns: int, offset: int, count: int) -> None:
        if self._far_offset is None or due_ns < self._far_due:
            self._far_due = due_ns
        self._far_offset = offset if self._far_offset is None else min(offset, self._far_offset)
        self._far_count += count

    def first(self, now_ns: int) -> int | None:
        """The offset that was due first, if one is due; it stays in until it is popped."""
        if not self._near or self._near[0] >> _OFFSET_BITS > now_ns:
            return None
        return self._near[0] & _OFFSET_MASK

    def pop(self) -> None:
        """Take out what was due first."""
        heapq.heappop(self._near)

    def look_again(self, now_ns: int) -> int | None:
        """From which offset on the log must be read again before more can be taken; None if that is not needed.

        Every waiting record from there on makes a new schedule, which takes the place of this one once it is whole:
        whatever goes wrong before, nothing is forgotten.
        """
        return None if self._near or self._far_offset is None or self._far_due > now_ns else self._far_offset

    def next_due(self) -> int | None:
        """When something becomes due next."""
        if self._near:
            return self._near[0] >> _OFFSET_BITS
        return None if self._far_offset is None else self._far_due

    def __len__(self) -> int:
        """How many wait, the forgotten ones too."""
        return len(self._near) + self._far_count
