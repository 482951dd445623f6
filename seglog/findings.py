"""Damage as reports name it: from what the walk over a segment met to `Damage` values (FORMAT.md §10.8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seglog.errors import DamageFound
from seglog.format.names import SegmentName
from seglog.model import Damage, OffsetRange
from seglog.segment_reader import Block, Rot


def rot_damage(name: SegmentName, rot: Rot) -> Damage:
    """Bytes that belong to no batch that reads back."""
    first, last = (rot.first, rot.stop - 1) if rot.stop > rot.first else (None, None)
    return Damage(name.file_name, rot.position, rot.end - rot.position, first, last, "unreadable bytes")


def hurt_runs(block: Block, records: list[bytes | None]) -> Iterator[tuple[int, int]]:
    """The damaged records of a batch as ranges of offsets, end excluded."""
    base = block.header.base_offset
    start = None
    for index, record in enumerate([*records, b""]):
        if record is None and start is None:
            start = index
        elif record is not None and start is not None:
            yield base + start, base + index
            start = None


def block_damage(name: SegmentName, block: Block, records: list[bytes | None] | None = None) -> list[Damage]:
    """What is damaged in a batch: its records one range at a time, or a spare, which costs none."""
    undamaged = block.fault != "body" and block.adds_up()
    if undamaged and not block.fault:
        return []
    lost = [] if undamaged else list(hurt_runs(block, block.records() if records is None else records))
    length = block.header.length
    if not lost:
        reason = "batch framing" if block.fault == "body" else block.fault
        return [Damage(name.file_name, block.position, length, None, None, reason)]
    base = block.header.base_offset
    return [
        Damage(name.file_name, *block.extent(first - base, stop - base), first, stop - 1, "record checksum")
        for first, stop in lost
    ]


def refusal(
    damage: Sequence[Damage], missing: Sequence[OffsetRange], suspect: Sequence[OffsetRange]
) -> DamageFound | None:
    """The first finding as an error, for those who open with strict=True."""
    for found in damage:
        message = f"{found.segment}: {found.reason} at byte {found.position}"
        return DamageFound(message, segment=found.segment, position=found.position, reason=found.reason)
    for kind, ranges in (("missing", missing), ("suspect", suspect)):
        for lost in ranges:
            message = f"offsets {lost.first_offset} to {lost.last_offset} are {kind}"
            return DamageFound(message, segment="", position=0, reason=kind)
    return None
