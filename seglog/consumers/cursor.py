"""A consumer's durable position: watermark, ranges acked above it, attempts (FORMAT.md §7.3, §7.4).

Disk first, then fields: nothing here says "acked" before the cursor file has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from seglog.disk.base import Directory
from seglog.errors import ConsumerBusy, LogFull, storage_error
from seglog.format import layout as L
from seglog.format.cursor_state import (
    CursorState,
    DeliveryNote,
    Seen,
    decode_cursor,
    decode_note,
    encode_cursor,
    encode_note,
)
from seglog.format.names import cursor_file_name
from seglog.intervals import Intervals
from seglog.slot_file import SlotFile

logger = logging.getLogger("seglog")

NOTHING_SEEN = Seen(L.NO_SEGMENT, 0, 0)
NOTHING_IN_FLIGHT = DeliveryNote(0, 0)


class Cursor:
    """One open cursor file, held by this process. Not thread-safe; the consumer serialises."""

    def __init__(self, slots: SlotFile, state: CursorState, note: DeliveryNote) -> None:
        self._slots = slots
        self.name = state.name
        self.start = state.start
        self.watermark = state.watermark
        self.acked = Intervals(state.acked)
        self.attempts = dict(state.attempts)  # failed deliveries by offset, the latest failure last
        self.note = note  # as the file has it
        self._note_lost = False
        self._unsaved = False
        self._uncounted = False  # a failure is not on disk yet

    @classmethod
    def create(cls, cursors: Directory, name: str, start: int, log_id: bytes) -> None:
        """Make the file of a new consumer; its name is durable once the caller syncs `cursors`."""
        state = CursorState(name, start, start, NOTHING_SEEN)
        SlotFile.create(
            cursors,
            cursor_file_name(name),
            encode_cursor(state),
            kind=L.KIND_CURSOR,
            log_id=log_id,
            slot_bytes=L.CURSOR_SLOT_BYTES,
            tail=L.BLOCK,
        ).close()

    @classmethod
    def open(cls, cursors: Directory, name: str, log_id: bytes) -> Cursor | None:
        """Take hold of an existing consumer; None if its file is missing or does not read back.

        Raises ConsumerBusy if another opening holds it.
        """
        try:
            file = cursors.open(cursor_file_name(name), write=True)
        except FileNotFoundError:
            return None
        slots = SlotFile(file, kind=L.KIND_CURSOR, log_id=log_id, slot_bytes=L.CURSOR_SLOT_BYTES)
        note = None
        try:
            if not file.lock():
                raise ConsumerBusy(f"consumer {name!r} is held by another process")
            payload = slots.load()
            state = None if payload is None or slots.log_id != log_id else decode_cursor(payload)
            note = decode_note(file.read(L.NOTE_AT, L.NOTE_BYTES))
            slots.confirm()
        except ValueError:
            state = None
        except BaseException:
            file.close()
            raise
        if state is None or state.name != name:
            file.close()
            return None
        return cls(slots, state, note or NOTHING_IN_FLIGHT)

    def handled(self, offset: int) -> bool:
        """Acked, or passed over as a gap."""
        return offset < self.watermark or offset in self.acked

    def unhandled(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of first .. stop-1 that are not handled."""
        return self.acked.holes(max(first, self.watermark), stop)

    def handled_until(self, offset: int) -> int:
        """The first offset from `offset` on that is not handled."""
        offset = max(offset, self.watermark)
        held = self.acked.range_at(offset)
        return offset if held is None else held[1]

    def pass_over(self, first: int, stop: int) -> None:
        """A gap: move on without writing. A crash finds the gap again; the next `store` or `flush` keeps it."""
        self.acked.add(first, stop)
        self.watermark, self.acked = advanced(self.watermark, self.acked)
        self.attempts = without(self.attempts, first, stop)
        self._unsaved = True

    def store(
        self, watermark: int, acked: Intervals, attempts: dict[int, int], seen: Seen, *, start: int | None = None
    ) -> None:
        """Make a new position durable, then take it over. Raises LogFull if it is too scattered to be stored.

        Of `attempts`, the latest failure last, the file keeps the latest ones.
        """
        if len(acked) > L.CURSOR_RANGES_MAX:
            raise LogFull(
                f"consumer {self.name!r}: acks would leave {len(acked)} separate ranges above the watermark, "
                f"more than {L.CURSOR_RANGES_MAX}; ack the oldest messages first"
            )
        latest = tuple(islice(reversed(attempts.items()), L.CURSOR_ATTEMPTS_MAX))[::-1]
        first = self.start if start is None else start
        state = CursorState(self.name, first, watermark, seen, tuple(acked), latest)
        try:
            self._slots.write(encode_cursor(state))
        except OSError as error:
            raise storage_error(error, f"the cursor of consumer {self.name!r} could not be written") from error
        self.start, self.watermark, self.acked, self.attempts = first, watermark, acked, attempts
        self._unsaved = self._uncounted = False

    def counted(self, offsets: Iterable[int]) -> dict[int, int]:
        """The attempts, with one more failure of each of these."""
        attempts = self.attempts.copy()
        for offset in offsets:
            attempts[offset] = attempts.pop(offset, 0) + 1
        return attempts

    def count(self, offsets: Iterable[int]) -> None:
        """These failed once more. Not durable before `keep_counts`, or the next `store`."""
        self.attempts = self.counted(offsets)
        self._unsaved = self._uncounted = True

    def keep_counts(self, seen: Callable[[], Seen]) -> None:
        """Whatever failed is durably counted on return."""
        if self._uncounted:
            self.store(self.watermark, self.acked, self.attempts, seen())

    def write_note(self, note: DeliveryNote) -> None:
        """Say what is in flight, for whoever opens the consumer after this process has died. Never synced.

        An error is only told: a note that is missing or old makes nobody lose or handle anything.
        """
        if note == self.note:
            return
        self.note = note
        try:
            self._slots.file.write(L.NOTE_AT, encode_note(note))
        except OSError as error:
            if not self._note_lost:
                logger.warning("consumer %s: what is in flight could not be noted: %s", self.name, error)
            self._note_lost = True

    def end(self, seen: Callable[[], Seen]) -> None:
        """A clean end: nothing is in flight, and all is durable. Else a power cut could bring an old note back."""
        if self.note != NOTHING_IN_FLIGHT:
            self.write_note(NOTHING_IN_FLIGHT)
            self._unsaved = True
        if self._unsaved:
            self.flush(seen())

    def flush(self, seen: Seen) -> None:
        """Make the position durable where only gaps moved it."""
        if self._unsaved:
            self.store(self.watermark, self.acked, self.attempts, seen)

    def close(self) -> None:
        self._slots.close()


def advanced(watermark: int, acked: Intervals) -> tuple[int, Intervals]:
    """The watermark moves over what is acked right at it; ranges below it are not needed any more."""
    held = acked.range_at(watermark)
    if held is not None:
        watermark = held[1]
    acked.remove(0, watermark)
    return watermark, acked


def without(attempts: dict[int, int], first: int, stop: int) -> dict[int, int]:
    """The attempts of all but first .. stop-1."""
    if not attempts:
        return attempts
    if stop - first > len(attempts):
        return {offset: count for offset, count in attempts.items() if not first <= offset < stop}
    if any(offset in attempts for offset in range(first, stop)):
        attempts = attempts.copy()
        for offset in range(first, stop):
            attempts.pop(offset, None)
    return attempts


def read_note(cursors: Directory, name: str) -> DeliveryNote:
    """What is in flight with a consumer that is open elsewhere, as its note says."""
    try:
        file = cursors.open(cursor_file_name(name))
    except FileNotFoundError:
        return NOTHING_IN_FLIGHT
    try:
        return decode_note(file.read(L.NOTE_AT, L.NOTE_BYTES)) or NOTHING_IN_FLIGHT
    finally:
        file.close()
