"""The payload of a cursor's slot, and the delivery note behind the slots (FORMAT.md §7.3, §7.4)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.checksum import crc32c


class Seen(NamedTuple):
    """A place in the log that was durable when the cursor was written: proof for recovery."""

    segment_id: int
    position: int
    end_offset: int


class CursorState(NamedTuple):
    """Below `watermark` all is acked or gapped; `acked` are ranges above it, end excluded."""

    name: str
    start: int
    watermark: int
    seen: Seen
    acked: tuple[tuple[int, int], ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()


class DeliveryNote(NamedTuple):
    """What was in flight, unsynced: it survives the death of the process, which is its purpose.

    `attempt`: of a message that is alone in flight, the number of this delivery; else 0. `ranges`: end excluded.
    """

    in_flight: int
    attempt: int
    ranges: tuple[tuple[int, int], ...] = ()


def encode_cursor(state: CursorState) -> bytes:
    name = state.name.encode()
    head = L.CURSOR_HEAD.pack(
        state.start,
        state.watermark,
        state.seen.segment_id,
        0,
        state.seen.position,
        state.seen.end_offset,
        len(state.acked),
        len(state.attempts),
        len(name),
    )
    ranges = b"".join(L.CURSOR_RANGE.pack(*pair) for pair in state.acked)
    attempts = b"".join(L.CURSOR_ATTEMPT.pack(*pair) for pair in state.attempts)
    return head + name + ranges + attempts


def decode_cursor(payload: bytes) -> CursorState:
    """Raises ValueError if the payload is not one of ours."""
    try:
        start, watermark, seen_id, _, seen_position, seen_end, ranges, attempts, length = L.CURSOR_HEAD.unpack_from(
            payload
        )
        at = L.CURSOR_HEAD.size
        name = payload[at : at + length].decode()
        at += length
        middle = at + ranges * L.CURSOR_RANGE.size
        end = middle + attempts * L.CURSOR_ATTEMPT.size
        if end != len(payload):
            raise ValueError("cursor payload of another length than it says")
        acked = tuple((first, stop) for first, stop in L.CURSOR_RANGE.iter_unpack(payload[at:middle]))
        tried = tuple((offset, count) for offset, count in L.CURSOR_ATTEMPT.iter_unpack(payload[middle:end]))
    except struct.error as error:
        raise ValueError(str(error)) from error
    return CursorState(name, start, watermark, Seen(seen_id, seen_position, seen_end), acked, tried)


def encode_note(note: DeliveryNote) -> bytes:
    head = L.NOTE.pack(L.NOTE_MAGIC, note.in_flight, note.attempt, len(note.ranges), 0)[:-4]
    ranges = b"".join(L.NOTE_RANGE.pack(*pair) for pair in note.ranges)
    return head + crc32c(ranges, crc32c(head)).to_bytes(4, "little") + ranges


def decode_note(data: bytes) -> DeliveryNote | None:
    """None if the checksum does not hold: then nothing is known, which is always allowed."""
    size = L.NOTE.size
    if len(data) < size or data[:8] != L.NOTE_MAGIC:
        return None
    _, in_flight, attempt, count, check = L.NOTE.unpack_from(data)
    ranges = data[size : size + count * L.NOTE_RANGE.size]
    if count > L.NOTE_RANGES_MAX or len(ranges) != count * L.NOTE_RANGE.size:
        return None
    if crc32c(ranges, crc32c(data[: size - 4])) != check:
        return None
    pairs = tuple((first, stop) for first, stop in L.NOTE_RANGE.iter_unpack(ranges))
    return DeliveryNote(in_flight, attempt, pairs)
