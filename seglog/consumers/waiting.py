"""The messages of a consumer that wait for their time: those that failed or were put back, then those not due yet.

Whatever is taken out of here may have been answered meanwhile, or be in flight; that is looked at when it is taken.
The one clock is monotonic, the other, for due times, is the wall's: they are in the records.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from seglog.consumers.cursor import Cursor
from seglog.consumers.flight import Flight
from seglog.consumers.schedule import Schedule
from seglog.consumers.timetable import Timetable
from seglog.format.extended import due_and_expiry
from seglog.reader import Hole
from seglog.source import Source

T = TypeVar("T")

IN_LINE_MAX = 32_768  # failed messages; with more of them nothing new is given out
_BLOCKED_PAUSE = 0.1  # seconds between looks at what is due and must wait for others all the same


class Waiting(Generic[T]):
    """Not thread-safe; the consumer serialises."""

    def __init__(self, source: Source[T], cursor: Cursor, flight: Flight) -> None:
        self._source = source
        self._cursor = cursor
        self._flight = flight
        self._line = Timetable()
        self._schedule = Schedule()

    def put(self, offset: int, when: float) -> None:
        """It comes again then, by the monotonic clock; 0 is first of all."""
        self._line.set(offset, when)

    def drop(self, first: int, stop: int) -> None:
        """first .. stop-1 were answered."""
        self._line.drop(first, stop)

    def schedule(self, due_ns: int, expiry_ns: int, offset: int) -> None:
        """A record that is not due yet."""
        self._schedule.add(passed(due_ns, expiry_ns), offset)

    def first(self, end: int) -> int | None:
        """What is due first; it waits on, in line, until it is dropped or put elsewhere: an interrupt or an error in
        between must not lose it. `end` is where the scan stands."""
        clock, line = self._source.clock, self._line
        now = clock.monotonic()
        while (first := line.first()) is not None and first[0] <= now:
            if not self._cursor.handled(first[1]):
                return first[1]
            line.drop(first[1], first[1] + 1)
        now_ns = clock.time_ns()
        while True:
            again = self._schedule.look_again(now_ns)
            if again is not None:
                self._schedule = self._scheduled_again(again, end)
            offset = self._schedule.first(now_ns)
            if offset is None:
                return None
            waits = self._still_waits(offset)
            if waits:
                line.set(offset, now)
            self._schedule.pop()
            if waits:
                return offset

    def due(self, offset: int) -> bool:
        """Whether its time in line has come."""
        return self._line.time(offset) <= self._source.clock.monotonic()

    def _scheduled_again(self, offset: int, end: int) -> Schedule:
        """What waits from `offset` to `end`, read anew, as the schedule had to forget it."""
        schedule = Schedule()
        scan = self._source.scan(offset)
        try:
            while scan.offset < end and (found := scan.next()) is not None:
                if isinstance(found, Hole) or not found.extended:
                    continue
                for at, stored in enumerate(found.records[: end - found.first], found.first):
                    due_ns, expiry_ns = due_and_expiry(stored)
                    if due_ns and self._still_waits(at):
                        schedule.add(passed(due_ns, expiry_ns), at)
        finally:
            scan.close()
        return schedule

    def _still_waits(self, offset: int) -> bool:
        return not (self._cursor.handled(offset) or offset in self._flight or offset in self._line)

    @property
    def full(self) -> bool:
        return len(self._line) >= IN_LINE_MAX

    @property
    def any_failed(self) -> bool:
        return len(self._line) > 0

    def delayed(self) -> int:
        """How many are not due yet, as far as the scan has met them."""
        return self._line.later(self._source.clock.monotonic()) + len(self._schedule)

    def pause(self) -> float | None:
        """Seconds until something is due; None if nothing waits."""
        pauses = []
        line, due_ns = self._line.first(), self._schedule.next_due()
        if line is not None:
            pauses.append(line[0] - self._source.clock.monotonic())
        if due_ns is not None:
            pauses.append((due_ns - self._source.clock.time_ns()) / 1e9)
        return min((pause if pause > 0 else _BLOCKED_PAUSE for pause in pauses), default=None)

    def __contains__(self, offset: int) -> bool:
        """Whether it failed or was put back, and waits."""
        return offset in self._line


def passed(due_ns: int, expiry_ns: int) -> int:
    """When a record is due; one that expires before is due by then, to be passed over."""
    return min(due_ns, expiry_ns or due_ns)
