"""The segment header: what a segment is, and where its predecessor ends (FORMAT.md §5.1).

It is stored twice, a block apart, and once more inside the footer, so one bad bit or block costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from seglog.errors import UnsupportedVersion
from seglog.format import layout as L
from seglog.format.checksum import crc32c


class Predecessor(NamedTuple):
    """Where the segment before ends: this seals it. `suspect_position` is its end where nothing is suspect."""

    segment_id: int
    end_position: int
    end_offset: int
    suspect_position: int
    salt: int


class SegmentHeader(NamedTuple):
    """A segment's identity, limits and ancestry."""

    log_id: bytes
    segment_id: int
    base_offset: int
    salt: int
    durability: int  # index into options.DURABILITIES
    jump_reason: int  # index into layout.JUMP_REASONS
    max_record_bytes: int
    max_batch_bytes: int
    bytes_before: int
    records_before: int
    born_position: int
    born_offset: int
    floor_offset: int  # whatever follows the born run begins here or later: its jump, if a crash delays it
    predecessor: Predecessor | None
    created_ns: int
    write_version: int = L.WRITE_VERSION


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header area of a segment: two copies, the rest of their blocks zero."""
    before = header.predecessor or Predecessor(L.NO_SEGMENT, 0, 0, 0, 0)
    packed = L.SEGMENT_HEADER.pack(
        L.SEGMENT_MAGIC,
        L.READ_VERSION,
        header.write_version,
        header.durability,
        header.jump_reason,
        0,
        header.log_id,
        header.segment_id,
        0,
        header.base_offset,
        header.salt,
        header.max_record_bytes,
        header.max_batch_bytes,
        header.bytes_before,
        header.records_before,
        header.born_position,
        header.born_offset,
        header.floor_offset,
        before.segment_id,
        0,
        before.end_position,
        before.end_offset,
        before.suspect_position,
        before.salt,
        header.created_ns,
        0,
    )[:-4]
    block = (packed + crc32c(packed).to_bytes(4, "little")).ljust(L.BLOCK, b"\0")
    return block + block


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """One copy of the header; None if its checksum does not hold. Raises UnsupportedVersion if newer than us."""
    size = L.SEGMENT_HEADER.size
    if len(data) < size or data[:8] != L.SEGMENT_MAGIC:
        return None
    fields = L.SEGMENT_HEADER.unpack_from(data)
    if crc32c(data[: size - 4]) != fields[-1]:
        return None
    if fields[1] > L.READ_VERSION:
        raise UnsupportedVersion(f"segment of format version {fields[1]}; this seglog reads up to {L.READ_VERSION}")
    if fields[3] >= L.DURABILITY_CLASSES or fields[4] >= len(L.JUMP_REASONS):
        raise UnsupportedVersion(
            f"segment with durability class {fields[3]} and jump reason {fields[4]}: of a newer format"
        )
    if max(*fields[13:18], *fields[20:23]) > L.OFFSET_MAX:
        return None  # no writer counts so far: these numbers mean nothing, and sums of them would not fit
    before = Predecessor(fields[18], fields[20], fields[21], fields[22], fields[23])
    return SegmentHeader(
        log_id=fields[6],
        segment_id=fields[7],
        base_offset=fields[9],
        salt=fields[10],
        durability=fields[3],
        jump_reason=fields[4],
        max_record_bytes=fields[11],
        max_batch_bytes=fields[12],
        bytes_before=fields[13],
        records_before=fields[14],
        born_position=fields[15],
        born_offset=fields[16],
        floor_offset=fields[17],
        predecessor=None if before.segment_id == L.NO_SEGMENT else before,
        created_ns=fields[24],
        write_version=fields[2],
    )
