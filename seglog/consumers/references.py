"""The messages or offsets that `ack` and its like are given, checked and as ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from seglog.errors import InvalidOption, OffsetOutOfRange
from seglog.intervals import Intervals
from seglog.model import Message

_offset: Callable[[object], int] = attrgetter("offset")


def referred(messages: Sequence[Message[Any] | int], end: int) -> list[tuple[int, int]]:
    """Their offsets as ascending ranges, end excluded. Raises OffsetOutOfRange unless all are below `end`."""
    try:
        offsets = list(map(_offset, messages))
    except AttributeError:
        offsets = [_offset_of(m) for m in messages]
    if not offsets:
        return []
    count, first = len(offsets), offsets[0]
    consecutive = offsets[-1] - first + 1 == count and offsets == list(range(first, first + count))
    ranges = [(first, first + count)] if consecutive else list(Intervals((o, o + 1) for o in sorted(offsets)))
    if ranges[0][0] < 0 or ranges[-1][1] > end:
        wrong = ranges[0][0] if ranges[0][0] < 0 else ranges[-1][1] - 1
        raise OffsetOutOfRange(f"offset {wrong} is not below the visible end {end}")
    return ranges


def _offset_of(message: object) -> int:
    if isinstance(message, int) and not isinstance(message, bool):
        return message
    if isinstance(message, Message):
        return int(message.offset)
    raise InvalidOption(
        f"{type(message).__name__} is neither a message nor an offset; pass them one by one: ack(*messages)"
    )
