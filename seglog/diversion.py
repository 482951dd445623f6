"""What a consumer gives up goes to the dead letters: first kept there, durably, then the position moves (FORMAT.md
§10.10).

Each is kept once, however often it is tried. Whoever calls this moves the position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from seglog.format.dead_letter import Envelope
from seglog.format.layout import LETTER_PAYLOAD_MAX, NO_SEGMENT
from seglog.model import Message
from seglog.reader import Hole
from seglog.source import Source

T = TypeVar("T")


def divert_messages(source: Source[T], consumer: str, messages: Sequence[Message[T]], reason: str, detail: str) -> None:
    """Keep these as dead letters. Raises DeadLetterWriteFailed."""
    now = source.clock.time_ns()
    letters = [
        Envelope(
            reason=reason,
            detail=detail,
            consumer=consumer,
            offset=message.offset,
            last_offset=message.offset,
            attempts=message.attempts,
            time_ns=now,
            segment_id=NO_SEGMENT,
            position=0,
            length=0,
            payload=message.payload,
            key=message.key,
            headers=message.headers or None,
        )
        for message in messages
    ]
    source.dead_letters.divert(letters)


def divert_damage(source: Source[T], hole: Hole) -> None:
    """Keep the bytes of a hole, if it has any. Raises DeadLetterWriteFailed, OSError."""
    if hole.reason not in ("damaged", "suspect") or hole.segment is None:
        return
    file = source.catalog.segments.open(hole.segment.file_name)
    try:
        data = file.read(hole.position, min(hole.length, LETTER_PAYLOAD_MAX))
    finally:
        file.close()
    letter = Envelope(
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
    source.dead_letters.divert([letter])
