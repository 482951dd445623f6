"""What a process that died had in flight: given out again one at a time, so that a message which kills its process is
found, and the innocents that were in flight beside it are not blamed (FORMAT.md §7.4).
"""

from __future__ import annotations

from seglog.consumers.cursor import Cursor
from seglog.consumers.flight import Flight
from seglog.format.cursor_state import DeliveryNote
from seglog.format.layout import NOTE_RANGES_MAX
from seglog.intervals import Intervals


class Doubt:
    """The messages that must go alone, once each. Not thread-safe; the consumer serialises."""

    def __init__(self) -> None:
        self._offsets = Intervals()
        self.alone: int | None = None  # the one that is in flight

    def learn(self, note: DeliveryNote, cursor: Cursor) -> None:
        """Doubt what was in flight, as far as it is not handled."""
        for first, stop in note.ranges if note.in_flight else ():
            for start, end in cursor.unhandled(first, stop):
                self._offsets.add(start, end)

    def answered(self, first: int, stop: int) -> None:
        """first .. stop-1 were answered, and nobody died of it."""
        if self._offsets:
            self._offsets.remove(first, stop)
            if self.alone is not None and first <= self.alone < stop:
                self.alone = None

    def first_part(self, first: int, stop: int) -> int:
        """How far from `first` on messages may go together: one that is doubtful goes by itself."""
        if not self._offsets:
            return stop
        return min(stop, first + 1) if first in self._offsets else next(self._offsets.holes(first, stop))[1]

    def __contains__(self, offset: int) -> bool:
        return offset in self._offsets


def blamed(note: DeliveryNote, cursor: Cursor) -> int | None:
    """The message that was alone in flight at the death, if this delivery of it was not counted as failed before."""
    if not note.attempt or not note.ranges:  # nothing was in flight, or several
        return None
    offset = note.ranges[0][0]
    if cursor.handled(offset) or cursor.attempts.get(offset, 0) + 1 != note.attempt:
        return None
    return offset


def note_of(flight: Flight, cursor: Cursor) -> DeliveryNote:
    """What to write down, for the case that this process dies."""
    ranges = flight.ranges(NOTE_RANGES_MAX)
    attempt = 1 + cursor.attempts.get(ranges[0][0], 0) if flight.count == 1 else 0
    return DeliveryNote(flight.count, attempt, ranges)
