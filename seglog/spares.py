"""What a segment holds besides records, as it was written: headers, copies, marks, tables (FORMAT.md §10.11).

Only what the rest proves: the same bytes as before, by their checksums. Bytes in, bytes out; it writes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.batch import encode_again, encode_batch
from seglog.format.salvage import whole_body
from seglog.format.segment_header import SegmentHeader, encode_segment_header
from seglog.segment_reader import Block, Rot

_EMPTY_BYTES = L.BATCH_HEADER_BYTES + L.END_MARK_BYTES  # a batch without records
_EMPTY_MAX = 1024


class Patch(NamedTuple):
    """These bytes belong at this position."""

    position: int
    data: bytes


def batch_patches(block: Block) -> tuple[Patch, ...]:
    """What to write so that a batch that lost no record is again as it was; nothing where that cannot be proven."""
    body = whole_body(block.header, block.body, salt=block.salt, position=block.position)
    if body is None:
        return ()
    there = block.data[block.at : block.at + block.header.length]
    whole = encode_again(block.header, body, salt=block.salt, position=block.position)
    body_end = L.BATCH_HEADER_BYTES + len(body)
    parts = ((0, L.BATCH_HEADER_BYTES), (L.BATCH_HEADER_BYTES, body_end), (body_end, len(whole)))
    return tuple(
        _difference(block.position, there, whole, start, stop)
        for start, stop in parts
        if there[start:stop] != whole[start:stop]
    )


def _difference(position: int, there: bytes, whole: bytes, start: int, stop: int) -> Patch:
    """From the first to the last byte between start and stop that is another one."""
    while start < len(there) and there[start] == whole[start]:
        start += 1
    while stop <= len(there) and there[stop - 1] == whole[stop - 1]:
        stop -= 1
    return Patch(position + start, whole[start:stop])


def rot_patches(rot: Rot, salt: int) -> tuple[Patch, ...]:
    """Bad bytes in which no record was: only batches without records fit there, so such are put in their place.

    They say that what is before them was durable, which is why the bad bytes are called damage. No writer leaves many
    of them in a row; and where a header declares nonsense, the end may be anywhere.
    """
    length = rot.end - rot.position
    if rot.stop > rot.first or not length or length % _EMPTY_BYTES or length > _EMPTY_MAX * _EMPTY_BYTES:
        return ()
    return tuple(
        Patch(
            position,
            bytes(
                encode_batch(
                    (), salt=salt, position=position, base_offset=rot.first, time_ns=0, durable=(position, rot.first)
                )
            ),
        )
        for position in range(rot.position, rot.end, _EMPTY_BYTES)
    )


def header_patch(header: SegmentHeader, position: int) -> Patch:
    """A copy of a segment header."""
    return Patch(position, encode_segment_header(header)[: L.SEGMENT_HEADER.size])
