"""The footer of a sealed segment: a sparse index and a third copy of the header (FORMAT.md §5.3).

An accelerator, never a truth: a bad one is ignored, and the successor's header says where the segment ends.
"""

from __future__ import annotations

from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.checksum import crc32c
from seglog.format.segment_header import SegmentHeader, decode_segment_header, encode_segment_header


class IndexEntry(NamedTuple):
    """A batch: its first offset, its position, its append time."""

    offset: int
    position: int
    time_ns: int


class Footer(NamedTuple):
    """Where the segment ends, and a way into it."""

    header: SegmentHeader
    end_position: int
    end_offset: int
    first_time_ns: int
    last_time_ns: int
    entries: tuple[IndexEntry, ...]


def encode_footer(footer: Footer) -> bytes:
    """Head, header copy, entries, tail; the tail is the end of the file."""
    head = L.FOOTER_HEAD.pack(
        L.FOOTER_MAGIC,
        len(footer.entries),
        0,
        footer.end_position,
        footer.end_offset,
        footer.first_time_ns,
        footer.last_time_ns,
    )
    copy = encode_segment_header(footer.header)[: L.SEGMENT_HEADER.size]
    entries = b"".join(L.FOOTER_ENTRY.pack(*entry) for entry in footer.entries)
    body = head + copy + entries
    return body + L.FOOTER_TAIL.pack(len(body) + L.FOOTER_TAIL.size, crc32c(body), L.FOOTER_MAGIC)


def footer_length(tail: bytes) -> int | None:
    """How long the footer is whose last bytes are `tail`; None if there is none."""
    if len(tail) != L.FOOTER_TAIL.size:
        return None
    length, _, magic = L.FOOTER_TAIL.unpack(tail)
    fixed = L.FOOTER_HEAD.size + L.SEGMENT_HEADER.size + L.FOOTER_TAIL.size
    if magic != L.FOOTER_MAGIC or length < fixed or (length - fixed) % L.FOOTER_ENTRY.size:
        return None
    return int(length)


def decode_footer(data: bytes) -> Footer | None:
    """The footer in exactly these bytes; None if its checksum does not hold."""
    if footer_length(data[-L.FOOTER_TAIL.size :]) != len(data):
        return None
    body = data[: -L.FOOTER_TAIL.size]
    _, check, _ = L.FOOTER_TAIL.unpack(data[-L.FOOTER_TAIL.size :])
    if crc32c(body) != check or body[:8] != L.FOOTER_MAGIC:
        return None
    _, count, _, end_position, end_offset, first_time, last_time = L.FOOTER_HEAD.unpack_from(body)
    at = L.FOOTER_HEAD.size
    header = decode_segment_header(body[at : at + L.SEGMENT_HEADER.size])
    at += L.SEGMENT_HEADER.size
    if header is None or len(body) - at != count * L.FOOTER_ENTRY.size:
        return None
    entries = tuple(IndexEntry(*fields) for fields in L.FOOTER_ENTRY.iter_unpack(body[at:]))
    return Footer(header, end_position, end_offset, first_time, last_time, entries)
