"""How many bytes lie before an offset, and up to which offset so many bytes lie: what the limits count (FORMAT.md §6).

It remembers the place that was asked for last, so that going forward costs what is passed, not what lies behind.
Inside a batch, records count with their own bytes; header and trailer with the last of them. In a compressed batch all
records count the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate

from seglog.catalog import Catalog
from seglog.errors import DamageFound
from seglog.format import layout as L
from seglog.format.batch import BatchHeader, decode_header, words
from seglog.format.cursor_state import Seen
from seglog.segment_reader import SegmentReader

_LOOKS = 10  # how often segments may vanish under a question before it is given up


class Gauge:
    """Not thread-safe. `end` is always where the log ends at this moment: the place behind its last batch."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._segment: SegmentReader | None = None
        self._position = 0  # where the batch begins that was looked at last
        self._offset = 0  # its base offset
        self._sums: tuple[int, array[int]] = (-1, array("q"))  # of the batch at this position: bytes before each record

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def bytes_before(self, offset: int, end: Seen) -> int:
        """Bytes of all records below `offset`. Raises OSError."""
        for _ in range(_LOOKS):
            try:
                return self._bytes_before(offset, end)
            except FileNotFoundError:  # given back since it was listed
                self.close()
                self._catalog.refresh()
        return self._bytes_before(offset, end)

    def offset_behind(self, count: int, start: int, end: Seen) -> int:
        """The first offset from `start` on with at least `count` bytes before it; the end offset, if all are fewer."""
        for _ in range(_LOOKS):
            try:
                self._bytes_before(start, end)
                return max(start, self._offset_behind(count, end))
            except FileNotFoundError:
                self.close()
                self._catalog.refresh()
        return start

    def _bytes_before(self, offset: int, end: Seen) -> int:
        if self._segment is None or offset < self._offset:
            self._enter(offset, end)
        while self._segment is not None:
            header = self._batch(end)
            if header is None:
                if not self._next_segment(offset, end):
                    return self._passed()
            elif header.end_offset <= offset:
                self._position, self._offset = self._position + header.length, header.end_offset
            else:
                inside = offset - header.base_offset
                return self._passed() + (self._shares(header)[inside] if inside > 0 else 0)
        header_of_first = self._catalog.facts(self._catalog.names[0]).header if self._catalog.names else None
        return 0 if header_of_first is None else header_of_first.bytes_before

    def _offset_behind(self, count: int, end: Seen) -> int:
        while self._segment is not None:
            header = self._batch(end)
            if header is None:
                if not self._next_segment(end.end_offset, end):
                    break
                if self._passed() >= count:
                    return self._offset
                continue
            left = count - self._passed()
            if left <= header.length:
                return header.base_offset + bisect_left(self._shares(header), left)
            self._position, self._offset = self._position + header.length, header.end_offset
        return end.end_offset

    def _passed(self) -> int:
        """Bytes before the batch at hand."""
        assert self._segment is not None
        return self._segment.header.bytes_before + self._position - L.DATA_START

    def _enter(self, offset: int, end: Seen) -> SegmentReader | None:
        """Find the batch that holds `offset`; None where the log begins behind it."""
        self.close()
        catalog = self._catalog
        name = catalog.holder(offset)
        while name is not None:
            try:
                segment = catalog.open(name)
            except DamageFound:  # nothing can be counted in there
                name = catalog.before(name)
                continue
            try:
                self._position, self._offset = catalog.locate(segment, offset, self._limit(segment, end))
            except BaseException:
                segment.close()
                raise
            self._segment = segment
            return segment
        return None

    def _limit(self, segment: SegmentReader, end: Seen) -> int:
        """Where the batches of a segment end."""
        if segment.name.segment_id == end.segment_id:
            return end.position
        declared = self._catalog.end_of(segment.name)
        return segment.file.size() if declared is None else declared.position

    def _batch(self, end: Seen) -> BatchHeader | None:
        """The batch at hand, or the next one behind bytes that do not read; None at the end of the segment."""
        segment = self._segment
        assert segment is not None
        limit = self._limit(segment, end)
        if self._position >= limit:
            return None
        data = segment.file.read(self._position, L.BATCH_HEADER_BYTES)
        header = decode_header(data, 0, salt=segment.header.salt, position=self._position)
        if header is not None and header.base_offset == self._offset and self._position + header.length <= limit:
            return header
        found = segment.resynchronise(self._position, self._offset, self._offset + L.SEGMENT_RECORDS_MAX, limit)
        if found is None:
            self._position = limit
            return None
        self._position, self._offset = found.position, found.header.base_offset
        return found.header

    def _shares(self, header: BatchHeader) -> array[int]:
        """Bytes before each record of the batch at hand, and behind the last."""
        if self._sums[0] == self._passed():
            return self._sums[1]
        assert self._segment is not None
        count = header.count
        table = self._segment.file.read(self._position + L.BATCH_HEADER_BYTES, 4 * count)
        lengths = words(count).unpack(table) if len(table) == 4 * count else ()
        if header.codec == L.CODEC_NONE and sum(lengths) + 8 * count == header.stored_length:
            sums = array("q", accumulate((length + 8 for length in lengths), initial=0))
        else:  # compressed, or damaged
            sums = array("q", (header.stored_length * number // count for number in range(count + 1)))
        sums[count] = header.length
        self._sums = self._passed(), sums
        return sums

    def _next_segment(self, offset: int, end: Seen) -> bool:
        """Go on in the segment that follows, if it does not begin behind `offset`."""
        assert self._segment is not None
        if self._segment.name.segment_id == end.segment_id:
            return False
        following = self._catalog.after(self._segment.name)
        if following is None or following.base_offset > offset:
            return False
        try:
            segment = self._catalog.open(following)
        except DamageFound:
            found = self._enter(offset, end)
            return found is not None and found.name.segment_id > following.segment_id
        self._segment.close()
        self._segment, self._position, self._offset = segment, L.DATA_START, following.base_offset
        return True
