"""The end of a log's last segment: how far it is proven durable, how far it reads, what follows (FORMAT.md §10.6).

Only reads. What to do about it stands in `recovery`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from seglog.format import layout as L
from seglog.format.batch import BatchHeader, zero_sectors
from seglog.format.footer import Footer
from seglog.recovery import Ending
from seglog.segment_reader import Block, Rot, SegmentReader
from seglog.segment_writer import Mark


@dataclass
class Tail:
    """What was found. Positions and offsets as in `Mark`."""

    proven: Mark  # everything before was durable
    run_end: Mark  # the valid run goes on to here
    ending: Ending
    bad_end: Mark  # behind the bad bytes and all that follows them; equal to run_end where nothing follows
    last_byte: int = 0  # of a torn or suspect tail: the end of its last byte that is not zero
    count_known: bool = True  # of a suspect: whether its header says how many records it held
    highest: int = 0  # no valid header in the tail claims an offset at or past this
    rot: list[Rot | Block] = field(default_factory=list)  # damage before `proven`

    @property
    def unproven(self) -> bool:
        return self.run_end.position > self.proven.position


def examine(
    segment: SegmentReader, proofs: Iterable[Mark], *, footer: Footer | None, covered: Mark | None, restarted: bool
) -> Tail:
    """Examine the last segment, whose end nobody has declared.

    Args:
        proofs: places known to be durable: born end, hint, what cursors have seen.
        footer: the segment's, if it has one. Then it had a successor, which is lost, and ends where the footer says.
        covered: the hint, if it validates and names this segment.
        restarted: the hint names another boot, so what is read now was read from the disk.
    """
    size = segment.file.size()
    if footer is not None:
        size = min(size, footer.end_position)
        proofs = (*proofs, Mark(footer.end_position, footer.end_offset))
    known = max(proofs)
    start = known if known.position <= size else Mark(L.DATA_START, segment.header.base_offset)
    proven, highest, last = _survey(segment, start, known, size)
    tail = _follow(segment, start, proven, size)
    tail.highest = max(highest, proven.offset)
    if tail.ending is Ending.ZERO and _closed(segment, tail, start, covered, restarted, last):
        tail.ending = Ending.CLOSED
        tail.proven = tail.run_end
    return tail


def _survey(segment: SegmentReader, start: Mark, known: Mark, size: int) -> tuple[Mark, int, Block | None]:
    """The furthest durable mark, the highest end offset, and the last block, of all valid headers behind `start`."""
    proven, highest, last = known, start.offset, None
    for found in segment.walk(start.position, start.offset, size):
        if isinstance(found, Rot):
            continue
        last = found
        header = found.header
        highest = max(highest, header.end_offset)
        mark = Mark(header.durable_position, header.durable_offset)
        if header.is_close_marker:
            mark = max(mark, Mark(found.position, header.base_offset))  # proves what is before it, never itself
        proven = max(proven, mark)
    return proven, highest, last


def _follow(segment: SegmentReader, start: Mark, proven: Mark, size: int) -> Tail:
    """Go through damage up to the proven end, then along the valid run to its end."""
    rot: list[Rot | Block] = []
    here = start
    for found in segment.walk(start.position, start.offset, size):
        if here.position >= proven.position and (isinstance(found, Rot) or found.fault == "body"):
            break
        if isinstance(found, Rot):
            if found.end > proven.position:
                break  # what the proof asks for is not there any more; what follows the bad bytes is no run from here
            rot.append(found)
            here = Mark(found.end, found.stop)
        else:
            if found.fault and here.position < proven.position:
                rot.append(found)  # behind it a spare may just not have been written yet
            here = Mark(found.end, found.header.end_offset)
    if here.position < proven.position:
        # Durable once, gone now (a file cut short, or rot to the end): declared, reported, never re-used.
        rot.append(Rot(here.position, proven.position, here.offset, proven.offset))
        here = proven
    return _judge(segment, Tail(proven, here, Ending.ZERO, here, rot=rot), size)


def _judge(segment: SegmentReader, tail: Tail, size: int) -> Tail:
    """Torn or suspect, or nothing: by the bytes behind the run (FORMAT.md §10.6)."""
    position, offset = tail.run_end
    last = segment.last_non_zero(position, size)
    if last == position:
        return tail
    tail.last_byte = last
    header = _header_of(segment, position, offset, size)
    extent = header.length if header is not None else L.BATCH_HEADER_BYTES
    behind = max(L.aligned(last), position + extent if header is not None else 0)
    if _shows_unwritten(segment, position, extent, size, header):
        tail.ending = Ending.TORN
        tail.bad_end = Mark(behind, offset)
        return tail
    tail.ending = Ending.SUSPECT
    end_offset = header.end_offset if header is not None else offset
    tail.count_known = header is not None
    following: Block | Rot | None = None
    for following in segment.walk(position, offset, size):
        if isinstance(following, Block):
            end_offset = max(end_offset, following.header.end_offset)
            tail.count_known = True
    if tail.count_known and isinstance(following, Rot):
        end_offset += L.SEGMENT_RECORDS_MAX  # bad bytes behind the last header that holds: nobody knows how many
    tail.bad_end = Mark(behind, end_offset)
    return tail


def _header_of(segment: SegmentReader, position: int, offset: int, size: int) -> BatchHeader | None:
    """The header of the batch that begins here, by itself or by its copy, even where its extent passes the file."""
    end = size + segment.header.max_batch_bytes + L.BLOCK
    header = segment.header_at(position, offset, end)
    if header is None:
        found = segment.resynchronise(position, offset, offset + L.SEGMENT_RECORDS_MAX, size)
        header = found.header if found is not None and found.position == position else None
    return header


def _shows_unwritten(segment: SegmentReader, position: int, extent: int, size: int, header: BatchHeader | None) -> bool:
    """Whether a sector of the batch was never written: sectors are zero before, and a batch's own are known."""
    end = position + extent
    if end > size:
        return True
    first_end = min(end, (position // L.SECTOR + 1) * L.SECTOR)
    last_start = max(position, (end - 1) // L.SECTOR * L.SECTOR)
    if segment.is_zero(position, first_end) or segment.is_zero(last_start, end):
        return True
    return header is not None and zero_sectors(segment.bytes_at(position, extent), position) > header.zero_sectors


def _closed(
    segment: SegmentReader, tail: Tail, start: Mark, covered: Mark | None, restarted: bool, last: Block | None
) -> bool:
    """Whether the run ends with a close marker that can be believed."""
    if last is None:
        # The walk began behind the marker: the hint says where, and the batch is found backwards by its end mark.
        length = L.BATCH_HEADER_BYTES + L.END_MARK_BYTES
        position = tail.run_end.position - length
        if position < L.DATA_START:
            return False
        header = segment.header_at(position, tail.run_end.offset, tail.run_end.position)
        if header is None or header.count:
            return False
        last = segment.block(position, header, spares=True)
    elif last.position >= start.position:
        last = segment.block(last.position, last.header, spares=True)
    if not last.header.is_close_marker or last.fault or last.end != tail.run_end.position:
        return False
    return restarted or (covered is not None and covered.position >= last.end)
