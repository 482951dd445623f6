"""The durable hint in `lock`: a true lower bound of what is durable (FORMAT.md §8).

It is written after a sync, never before, and is not synced itself. So a valid hint may be old; it is never
ahead. It says where a reader may read to, and where recovery begins its walk; it never says where a log ends.
"""

from __future__ import annotations

from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.checksum import crc32c


class Hint(NamedTuple):
    """In segment `segment_id` with this salt, all before `position` is fsynced; `end_offset` comes next."""

    generation: int
    segment_id: int
    position: int
    end_offset: int
    salt: int
    boot_id: bytes


def encode_hint(hint: Hint) -> bytes:
    head = L.HINT.pack(
        L.HINT_MAGIC,
        hint.generation,
        hint.segment_id,
        0,
        hint.position,
        hint.end_offset,
        hint.salt,
        hint.boot_id,
    )
    return head[:20] + crc32c(head).to_bytes(4, "little") + head[24:]


def decode_hint(data: bytes) -> Hint | None:
    """None if the checksum does not hold: then nothing is known, which is always allowed."""
    if len(data) < L.HINT.size or data[:8] != L.HINT_MAGIC:
        return None
    data = data[: L.HINT.size]
    _, generation, segment_id, check, position, end_offset, salt, boot_id = L.HINT.unpack(data)
    if crc32c(data[:20] + bytes(4) + data[24:]) != check:
        return None
    return Hint(generation, segment_id, position, end_offset, salt, boot_id)
