"""The dead letter of a damaged place: the same whoever meets it first, a consumer or a repair (FORMAT.md §9)."""

from __future__ import annotations

from typing import TypeVar

from seglog.format.dead_letter import Envelope
from seglog.format.layout import LETTER_PAYLOAD_MAX
from seglog.reader import Hole
from seglog.source import Source

T = TypeVar("T")


def damage_letter(source: Source[T], hole: Hole) -> Envelope | None:
    """None for a hole without bytes: what is missing, or was never there. Raises OSError."""
    if hole.reason not in ("damaged", "suspect") or hole.segment is None:
        return None
    file = source.catalog.segments.open(hole.segment.file_name)
    try:
        data = file.read(hole.position, min(hole.length, LETTER_PAYLOAD_MAX))
    finally:
        file.close()
    return Envelope(
        reason="damaged",
        detail=f"{hole.detail}: {hole.segment.file_name}, {hole.length} bytes at {hole.position}",
        consumer="",
        offset=hole.whole[0],
        last_offset=hole.whole[1] - 1,
        attempts=0,
        time_ns=source.clock.time_ns(),
        segment_id=hole.segment.segment_id,
        position=hole.position,
        length=hole.length,
        payload=data,
    )
