"""Walk one segment: valid batches, bad bytes, and where reading can go on (FORMAT.md §10.3, §10.5).

It reads forward in windows, believes no length before its checksum, and never decides what bad bytes mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from seglog.disk.base import File
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
from seglog.format.checksum import BadFrame
from seglog.format.footer import Footer, decode_footer, footer_length
from seglog.format.names import SegmentName
from seglog.format.salvage import salvage
from seglog.format.segment_header import SegmentHeader, decode_segment_header

WINDOW_BYTES = 256 * 1024
_MAGICS = re.compile(re.escape(L.BATCH_MAGIC) + b"|" + re.escape(L.COPY_MAGIC))
_MARGIN = L.BATCH_HEADER_BYTES


@dataclass(slots=True)
class Block:
    """A batch whose header is known. `fault` names a hit header, body or spare; "body" means records may be lost."""

    position: int
    header: BatchHeader
    body: bytes  # padded
    fault: str
    salt: int

    @property
    def end(self) -> int:
        return self.position + self.header.length

    def extent(self, first: int, stop: int) -> tuple[int, int]:
        """Position and length of records `first` .. `stop` (excluded, counted from 0), else of the batch."""
        header = self.header
        if header.codec == L.CODEC_NONE and len(self.body) >= 8 * header.count:
            lengths = words(header.count).unpack_from(self.body)
            if sum(lengths) == header.stored_length - 8 * header.count:
                start = self.position + L.BATCH_HEADER_BYTES + 8 * header.count + sum(lengths[:first])
                return start, sum(lengths[first:stop])
        return self.position, header.length

    def records(self) -> list[bytes | None]:
        """The stored records, None where damaged."""
        if self.fault == "body":
            return salvage(self.header, self.body, salt=self.salt, position=self.position)
        try:
            return list(split_records(self.header, self.body))
        except BadFrame:  # a writer's fault under a valid checksum; the bytes are not what they say
            return [None] * self.header.count


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
        self.file.close()

    def bytes_at(self, position: int, length: int) -> bytes:
        """Bytes through the window; fewer at the end of the file."""
        at = position - self._start
        if at < 0 or at + length > len(self._window):
            self._start = position
            self._window = self.file.read(position, max(length, WINDOW_BYTES))
            at = 0
        return self._window[at : at + length]

    def forget(self) -> None:
        """Drop the window: the file may have grown."""
        self._window = b""

    def header_at(self, position: int, offset: int | None, end: int) -> BatchHeader | None:
        """The valid, plausible header of a batch that starts here and ends by `end`."""
        data = self.bytes_at(position, L.BATCH_HEADER_BYTES)
        header = decode_header(data, 0, salt=self.header.salt, position=position)
        if header is None or (offset is not None and header.base_offset != offset):
            return None
        return header if self._plausible(header, position, end) else None

    def _plausible(self, header: BatchHeader, position: int, end: int) -> bool:
        return position + header.length <= end and check_bounds(header, limit=self.header.max_batch_bytes)

    def block(self, position: int, header: BatchHeader, fault: str = "", *, spares: bool = False) -> Block:
        """The batch at `position`, body checked, spares too if asked."""
        length = header.length
        raw = self.bytes_at(position, length)
        body = raw[L.BATCH_HEADER_BYTES : L.BATCH_HEADER_BYTES + L.aligned(header.stored_length)]
        salt = self.header.salt
        if not body_holds(header, body, salt=salt, position=position):
            fault = "body"
        elif spares and not fault:
            fault = trailer_fault(header, raw, salt=salt, position=position)
        return Block(position, header, body, fault, salt)

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

    def find(self, position: int, offset: int, target: int, end: int) -> tuple[int, int]:
        """Hop over valid headers to the batch that holds `target`; stops earlier where one does not validate."""
        while position < end:
            header = self.header_at(position, offset, end)
            if header is None or header.end_offset > target:
                break
            position, offset = position + header.length, header.end_offset
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
            for match in _MAGICS.finditer(data):
                place = at + match.start()
                if place % L.ALIGNMENT or match.start() + _MARGIN > len(data):
                    continue
                if match.group() == L.BATCH_MAGIC:
                    header, start, fault = decode_header(data, match.start(), salt=salt, position=place), place, ""
                else:
                    copy = decode_copy(data, match.start(), salt=salt, position=place)
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
            stripped = data.rstrip(b"\0")
            if stripped:
                last = position + len(stripped)
            position += len(data)
        return last


class HeaderCopies(NamedTuple):
    """What the two copies of a segment header say."""

    header: SegmentHeader | None  # of a valid copy that names this segment
    bad: tuple[int, ...]  # positions of copies that do not hold
    foreign: bool  # every valid copy names another segment: the file was copied or renamed by somebody


def read_header(file: File, name: SegmentName) -> HeaderCopies:
    """Look at both copies. Raises UnsupportedVersion if newer than us."""
    found = None
    bad, others = [], 0
    for at in (0, L.HEADER_COPY_AT):
        header = decode_segment_header(file.read(at, L.SEGMENT_HEADER.size))
        if header is None:
            bad.append(at)
        elif (header.segment_id, header.base_offset) != (name.segment_id, name.base_offset):
            others += 1
        else:
            found = found or header
    return HeaderCopies(found, tuple(bad), found is None and others > 0)


def read_footer(file: File, name: SegmentName, size: int) -> tuple[Footer, int] | None:
    """The footer and where it begins, if there is a valid one at the end of the file."""
    length = footer_length(file.read(size - L.FOOTER_TAIL.size, L.FOOTER_TAIL.size)) if size > L.DATA_START else None
    if length is None or length > size - L.DATA_START:
        return None
    footer = decode_footer(file.read(size - length, length))
    if footer is None or (footer.header.segment_id, footer.header.base_offset) != (name.segment_id, name.base_offset):
        return None
    return footer, size - length
