"""A consumer's durable position: watermark, ranges acked above it, attempts (FORMAT.md §7.3, §7.4).

Disk first, then fields: nothing here says "acked" before the cursor file has it.
"""

from __future__ import annotations

from seglog.disk.base import Directory
from seglog.errors import ConsumerBusy, LogFull, storage_error
from seglog.format import layout as L
from seglog.format.cursor_state import CursorState, Seen, decode_cursor, encode_cursor
from seglog.format.names import cursor_file_name
from seglog.intervals import Intervals
from seglog.slot_file import SlotFile

NOTHING_SEEN = Seen(L.NO_SEGMENT, 0, 0)


class Cursor:
    """One open cursor file, held by this process. Not thread-safe; the consumer serialises."""

    def __init__(self, slots: SlotFile, state: CursorState) -> None:
        self._slots = slots
        self.name = state.name
        self.start = state.start
        self.watermark = state.watermark
        self.acked = Intervals(state.acked)
        self.attempts = dict(state.attempts)
        self._unsaved = False

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
        try:
            if not file.lock():
                raise ConsumerBusy(f"consumer {name!r} is held by another process")
            payload = slots.load()
            state = None if payload is None or slots.log_id != log_id else decode_cursor(payload)
            slots.confirm()
        except ValueError:
            state = None
        except BaseException:
            file.close()
            raise
        if state is None or state.name != name:
            file.close()
            return None
        return cls(slots, state)

    def handled(self, offset: int) -> bool:
        """Acked, or passed over as a gap."""
        return offset < self.watermark or offset in self.acked

    def handled_until(self, offset: int) -> int:
        """The first offset from `offset` on that is not handled."""
        offset = max(offset, self.watermark)
        held = self.acked.range_at(offset)
        return offset if held is None else held[1]

    def pass_over(self, first: int, stop: int) -> None:
        """A gap: move on without writing. A crash finds the gap again; the next `store` or `flush` keeps it."""
        self.acked.add(first, stop)
        self.watermark, self.acked = advanced(self.watermark, self.acked)
        self._unsaved = True

    def store(
        self, watermark: int, acked: Intervals, attempts: dict[int, int], seen: Seen, *, start: int | None = None
    ) -> None:
        """Make a new position durable, then take it over. Raises LogFull if it is too scattered to be stored."""
        if len(acked) > L.CURSOR_RANGES_MAX:
            raise LogFull(
                f"consumer {self.name!r}: acks would leave {len(acked)} separate ranges above the watermark, "
                f"more than {L.CURSOR_RANGES_MAX}; ack the oldest messages first"
            )
        kept = dict(sorted(attempts.items())[: L.CURSOR_ATTEMPTS_MAX]) if attempts else attempts
        first = self.start if start is None else start
        state = CursorState(self.name, first, watermark, seen, tuple(acked), tuple(kept.items()))
        try:
            self._slots.write(encode_cursor(state))
        except OSError as error:
            raise storage_error(error, f"the cursor of consumer {self.name!r} could not be written") from error
        self.start, self.watermark, self.acked, self.attempts = first, watermark, acked, kept
        self._unsaved = False

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
