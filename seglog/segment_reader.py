"""Walk one segment: valid batches, bad bytes, and where reading can go on (FORMAT.md §10.3, §10.5).

It reads forward in windows, believes no length before its checksum, and never decides what bad bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from seglog.disk.base import File
from seglog.errors import storage_errors
from seglog.format import layout as L
from seglog.format.batch import (
    BatchHeader,
    body_holds,
    check_bounds,
    decode_copy,
    decode_header,
    split_records,
    trailer_fault,
    words,
)
from seglog.format.extended import check_extended
from seglog.format.footer import Footer, decode_footer, footer_length
from seglog.format.names import SegmentName
from seglog.format.salvage import salvage
from seglog.format.segment_header import SegmentHeader, decode_segment_header

WINDOW_BYTES = 256 * 1024
_MAGICS = (L.BATCH_MAGIC, L.COPY_MAGIC)
_COMMON = b"SL"  # the middle of both
_MARGIN = L.BATCH_HEADER_BYTES


@dataclass(slots=True)
class Block:
    """A batch whose header is known. `fault` names a hit header, body or spare; "body" means records may be lost."""

    position: int
    header: BatchHeader
    data: bytes  # what was read; it may hold more batches, and is not copied to take this one out
    at: int  # where in `data` this batch begins
    fault: str
    salt: int

    @property
    def body(self) -> bytes:
        """The padded body."""
        start = self.at + L.BATCH_HEADER_BYTES
        return self.data[start : start + L.aligned(self.header.stored_length)]

    @property
    def end(self) -> int:
        return self.position + self.header.length

    def extent(self, first: int, stop: int) -> tuple[int, int]:
        """Position and length of records `first` .. `stop` (excluded, counted from 0), else of the batch."""
        header, body = self.header, self.body
        if header.codec == L.CODEC_NONE and len(body) >= 8 * header.count:
            lengths = words(header.count).unpack_from(body)
            if sum(lengths) == header.stored_length - 8 * header.count:
                start = self.position + L.BATCH_HEADER_BYTES + 8 * header.count + sum(lengths[:first])
                return start, sum(lengths[first:stop])
        return self.position, header.length

    def intact(self) -> list[bytes] | None:
        """The stored records, if none of them is damaged."""
        if self.fault == "body":
            return None
        try:
            records = split_records(self.header, self.data, self.at + L.BATCH_HEADER_BYTES)
            if self.header.flags & L.FLAG_EXTENDED:
                for record in records:
                    check_extended(record)
        except ValueError:  # a writer's fault under a valid checksum; the bytes are not what they say
            return None
        return records

    def adds_up(self) -> bool:
        """Whether a body whose checksum holds can be taken apart; cheaper than doing it."""
        header = self.header
        if header.codec != L.CODEC_NONE or header.flags & L.FLAG_EXTENDED:
            return self.intact() is not None
        if 8 * header.count > header.stored_length:
            return False
        lengths = words(header.count).unpack_from(self.data, self.at + L.BATCH_HEADER_BYTES)
        return bool(sum(lengths) == header.stored_length - 8 * header.count)

    def records(self) -> list[bytes | None]:
        """The stored records, None where damaged."""
        intact = self.intact()
        if intact is not None:
            return list(intact)
        if self.fault != "body":
            return [None] * self.header.count
        found = salvage(self.header, self.body, salt=self.salt, position=self.position)
        return [_readable(record) for record in found] if self.header.flags & L.FLAG_EXTENDED else found


def _readable(record: bytes | None) -> bytes | None:
    """An extended record, if its block fits."""
    try:
        if record is not None:
            check_extended(record)
    except ValueError:
        return None
    return record


@dataclass(slots=True)
class Rot:
    """Bytes that belong to no batch that can be read. Offsets `first` .. `stop` (excluded) were in them, if known."""

    position: int
    end: int
    first: int
    stop: int


class SegmentReader:
    """One segment file, open for reading."""

    def __init__(self, file: File, name: SegmentName, header: SegmentHeader) -> None:
        self.file = file
        self.name = name
        self.header = header
        self._start = 0  # of the window
        self._window = b""

    def close(self) -> None:
        with storage_errors("closing a segment"):
            self.file.close()

    def _place(self, position: int, length: int) -> int:
        """Where in the window these bytes begin, read if need be; fewer are there at the end of the file."""
        at = position - self._start
        if at < 0 or at + length > len(self._window):
            # A header more than asked for: walking big batches then reads each byte once.
            self._window = self.file.read(position, max(length + L.BATCH_HEADER_BYTES, WINDOW_BYTES))
            self._start, at = position, 0
        return at

    def bytes_at(self, position: int, length: int) -> bytes:
        """Bytes through the window; fewer at the end of the file."""
        at = self._place(position, length)
        return self._window[at : at + length]

    def forget(self) -> None:
        """Drop the window: the file may have grown."""
        self._window = b""

    def header_at(self, position: int, offset: int | None, end: int) -> BatchHeader | None:
        """The valid, plausible header of a batch that starts here and ends by `end`."""
        at = self._place(position, L.BATCH_HEADER_BYTES)
        header = decode_header(self._window, at, salt=self.header.salt, position=position)
        if header is None or (offset is not None and header.base_offset != offset):
            return None
        return header if self._plausible(header, position, end) else None

    def _plausible(self, header: BatchHeader, position: int, end: int) -> bool:
        return position + header.length <= end and check_bounds(header, limit=self.header.max_batch_bytes)

    def block(self, position: int, header: BatchHeader, fault: str = "", *, spares: bool = False) -> Block:
        """The batch at `position`, body checked, spares too if asked."""
        at, salt = self._place(position, header.length), self.header.salt
        data = self._window
        raw = memoryview(data)[at : at + header.length]
        body = raw[L.BATCH_HEADER_BYTES : L.BATCH_HEADER_BYTES + L.aligned(header.stored_length)]
        if not body_holds(header, body, salt=salt, position=position):
            fault = "body"
        elif spares and not fault:
            fault = trailer_fault(header, raw, salt=salt, position=position)
        return Block(position, header, data, at, fault, salt)

    def walk(
        self, position: int, offset: int, end: int, stop_offset: int | None = None, *, spares: bool = False
    ) -> Iterator[Block | Rot]:
        """Blocks and rot from `position` (where `offset` is next) to `end`.

        `stop_offset`: the offset that follows `end`, where it is known (a sealed segment). Without it a tail of
        zero bytes is no rot, and rot at the end has an unknown number of records (`stop` == `first`).
        """
        while position < end:
            header = self.header_at(position, offset, end)
            if header is not None:
                block = self.block(position, header, spares=spares)
            else:
                limit = stop_offset if stop_offset is not None else offset + L.SEGMENT_RECORDS_MAX
                found = self.resynchronise(position, offset, limit, end)
                if found is None:
                    if stop_offset is not None or not self.is_zero(position, end):
                        yield Rot(position, end, offset, offset if stop_offset is None else stop_offset)
                    return
                block = found
                if block.position > position or block.header.base_offset > offset:
                    yield Rot(position, block.position, offset, block.header.base_offset)
            yield block
            position, offset = block.end, block.header.end_offset
        if stop_offset is not None and offset < stop_offset:
            yield Rot(end, end, offset, stop_offset)

    def find(
        self, position: int, offset: int, target: int, end: int, waypoint: Callable[[int, int], None] | None = None
    ) -> tuple[int, int]:
        """Hop over valid headers to the batch that holds `target`; stops earlier where one does not validate.

        `waypoint(offset, position)` is told each batch start on the way.
        """
        while position < end:
            header = self.header_at(position, offset, end)
            if header is None or header.end_offset > target:
                break
            position, offset = position + header.length, header.end_offset
            if waypoint is not None:
                waypoint(offset, position)
        return position, offset

    def resynchronise(self, position: int, offset: int, limit: int, end: int) -> Block | None:
        """The next batch that can be read at or after `position`, by its header or by its header's copy."""
        salt = self.header.salt
        at = position
        while at < end:
            # Not through the window: a find may pass over megabytes.
            data = self.file.read(at, min(WINDOW_BYTES, end - at))
            if len(data) < _MARGIN:
                return None
            for found in _magics(data):
                place = at + found
                if place % L.ALIGNMENT or found + _MARGIN > len(data):
                    continue
                if data.startswith(L.BATCH_MAGIC, found):
                    header, start, fault = decode_header(data, found, salt=salt, position=place), place, ""
                else:
                    copy = decode_copy(data, found, salt=salt, position=place)
                    start, header = copy if copy is not None else (0, None)
                    fault = "header"
                if (
                    header is not None
                    and start >= position
                    and offset <= header.base_offset
                    and header.end_offset <= limit
                    and self._plausible(header, start, end)
                ):
                    return self.block(start, header, fault)
            if at + len(data) >= end or len(data) < WINDOW_BYTES:
                return None
            at += len(data) - _MARGIN
        return None

    def is_zero(self, position: int, end: int) -> bool:
        """Whether only zero bytes (or nothing) lie between."""
        return self.last_non_zero(position, end) == position

    def last_non_zero(self, position: int, end: int) -> int:
        """The end of the last non-zero byte in [position, end); `position` if there is none."""
        last = position
        while position < end:
            data = self.file.read(position, min(4 * WINDOW_BYTES, end - position))
            if not data:
                break
            if data != bytes(len(data)):  # forty times as fast as stripping
                last = position + len(data.rstrip(b"\0"))
            position += len(data)
        return last


def _magics(data: bytes) -> Iterator[int]:
    """Where batches or header copies may begin. Not by `re`, which takes four times as long over zeros."""
    at = data.find(_COMMON)
    while at >= 0:
        if data[max(at - 1, 0) : at + 3] in _MAGICS:
            yield at - 1
        at = data.find(_COMMON, at + 1)


class HeaderCopies(NamedTuple):
    """What the two copies of a segment header say."""

    header: SegmentHeader | None  # of a valid copy that names this segment
    bad: tuple[int, ...]  # positions of copies that do not hold
    foreign: bool  # every valid copy names another segment: the file was copied or renamed by somebody


def read_header(file: File, name: SegmentName, log_id: bytes | None = None) -> HeaderCopies:
    """Look at both copies; one of this log is believed before another. Raises UnsupportedVersion if newer than us."""
    held: dict[int, SegmentHeader] = {}
    bad, others = [], 0
    for at in (0, L.HEADER_COPY_AT):
        header = decode_segment_header(file.read(at, L.SEGMENT_HEADER.size))
        if header is None:
            bad.append(at)
        elif (header.segment_id, header.base_offset) != (name.segment_id, name.base_offset):
            others += 1
        else:
            held[at] = header
    found = next((header for header in held.values() if header.log_id == log_id), next(iter(held.values()), None))
    bad += [at for at, header in held.items() if found is not None and header.log_id != found.log_id]
    return HeaderCopies(found, tuple(sorted(bad)), found is None and others > 0)


def read_footer(file: File, name: SegmentName, size: int) -> tuple[Footer, int] | None:
    """The footer and where it begins, if there is a valid one at the end of the file."""
    length = footer_length(file.read(size - L.FOOTER_TAIL.size, L.FOOTER_TAIL.size)) if size > L.DATA_START else None
    if length is None or length > size - L.DATA_START:
        return None
    footer = decode_footer(file.read(size - length, length))
    if footer is None or (footer.header.segment_id, footer.header.base_offset) != (name.segment_id, name.base_offset):
        return None
    return footer, size - length
