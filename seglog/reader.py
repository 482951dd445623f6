"""Read offsets in order across segments, up to the visible end: runs of records, and holes with their reason.

A scan never reads past what its horizon calls visible, so a half-written tail is never seen, and it survives
segments that are sealed or reclaimed while it reads (FORMAT.md §10.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from seglog.catalog import Catalog, SegmentEnd
from seglog.errors import DamageFound, LogFailed, storage_error
from seglog.findings import hurt_runs
from seglog.format import layout as L
from seglog.format.cursor_state import Seen
from seglog.format.meta_state import MetaState
from seglog.format.names import SegmentName
from seglog.segment_reader import Block, Rot, SegmentReader

_ATTEMPTS = 100  # bounds how often a scan starts over because segments vanish under it


@dataclass(slots=True)
class Run:
    """Consecutive stored records of one batch."""

    first: int
    records: list[bytes]
    extended: bool
    time_ns: int


@dataclass(slots=True)
class Hole:
    """Offsets without records, the end excluded. For damage: where the bytes are, and all offsets they held."""

    first: int
    stop: int
    reason: str
    whole: tuple[int, int] = (0, 0)
    segment: SegmentName | None = None
    position: int = 0
    length: int = 0
    detail: str = ""


def given_up(first: int, stop: int, meta: MetaState) -> Iterator[Hole]:
    """Why there is nothing from `first` to before `stop`, all of it below the start of the log."""
    dropped, end = meta.dropped
    for start, last, reason in ((0, dropped, "purged"), (dropped, end, "dropped"), (end, stop, "purged")):
        if max(start, first) < min(last, stop):
            yield Hole(max(start, first), min(last, stop), reason)


class Scan:
    """Iterates by `next()`, which gives None at the visible end and may be called again later. Not thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        meta: Callable[[], MetaState],
        horizon: Callable[[], Seen],
        offset: int,
        floor: Callable[[], int] = int,  # 0: what lies below the start is noticed where it is gone from the disk
    ) -> None:
        self._catalog = catalog
        self._meta = meta
        self._horizon = horizon
        self._floor = floor
        self.offset = offset  # what `next` gives out next
        self._ready: deque[Run | Hole] = deque()
        self._segment: SegmentReader | None = None
        self._end: SegmentEnd | None = None  # of a sealed segment, None while it is active
        self._position = 0
        self._at = 0  # the offset that is next at `_position`
        self._limit = -1  # how far was visible when the segment's window was read

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def seek(self, offset: int) -> None:
        """Go on from another offset."""
        self.close()
        self._ready.clear()
        self.offset = offset

    def next(self) -> Run | Hole | None:
        """The next run or hole, or None at the visible end. Raises StorageError if the disk does not read."""
        for _ in range(_ATTEMPTS):
            if self.offset < self._floor():
                self._overtaken()
            if self._ready:
                found = self._ready.popleft()
                self.offset = found.first + len(found.records) if isinstance(found, Run) else found.stop
                return found
            seen = self._horizon()
            if self.offset >= seen.end_offset:
                return None
            try:
                if self._segment is None:
                    self._enter(seen)
                else:
                    self._advance(seen)
            except FileNotFoundError:
                self.close()
                self._catalog.refresh()  # reclaimed under us: the next look finds what follows
            except OSError as error:
                raise storage_error(error, f"reading offset {self.offset}") from error
        raise LogFailed(5, f"offset {self.offset} cannot be reached: segments vanish faster than they are read")

    def _overtaken(self) -> None:
        """What was to come next was dropped or purged meanwhile."""
        stop = min(self._floor(), self._horizon().end_offset)
        if self.offset < stop:
            self.seek(self.offset)
            self._ready.append(self._given_up(stop))

    def _given_up(self, stop: int) -> Hole:
        return next(given_up(self.offset, stop, self._meta()))

    def _enter(self, seen: Seen) -> None:
        """Open the segment that holds the offset, or say why there is none."""
        catalog = self._catalog
        if not catalog.names or catalog.names[-1].segment_id < seen.segment_id:
            catalog.refresh()
        name = catalog.holder(self.offset)
        if name is None:
            self._before_first()
            return
        sealed = name.segment_id < seen.segment_id
        following = catalog.after(name)
        if sealed and following is not None and catalog.reclaimed(name, self._meta()):
            self._ready.append(self._given_up(following.base_offset))
            return
        end = catalog.end_of(name) if sealed else None
        if end is not None and self.offset >= end.offset:
            self._between(name, end.offset)
            return
        try:
            segment = catalog.open(name)
        except DamageFound as error:
            self._unreadable(name, end, seen, str(error))
            return
        try:
            if sealed and end is None:
                # Its successor is lost and it has no footer: it ends where it stops to read well.
                end = SegmentEnd(segment.file.size(), -1, segment.file.size())
            limit = end.position if end is not None else seen.position
            position, at = catalog.locate(segment, self.offset, limit)
        except BaseException:
            segment.close()
            raise
        self._end, self._position, self._at, self._limit = end, position, at, limit
        self._segment = segment  # last: whoever finds it set reads on from these

    def _before_first(self) -> None:
        start = self._meta().start_offset
        names = self._catalog.names
        first = names[0].base_offset if names else self._horizon().end_offset
        if self.offset < min(start, first):
            self._ready.append(self._given_up(min(start, first)))
        else:
            self._ready.append(Hole(self.offset, first, "missing"))

    def _between(self, name: SegmentName, end_offset: int) -> None:
        """The offset lies behind a segment's end and before the next one's base."""
        following = self._catalog.after(name)
        if following is None:
            self._catalog.refresh()
            return
        stop = jump = following.base_offset
        header = self._catalog.facts(following).header
        if header is not None and header.jump_reason and header.predecessor is not None:
            jump = header.predecessor.end_offset  # from here on the offsets were never given out, unless it says so
        removed = self._meta().removed if following.segment_id != name.segment_id + 1 else ()
        if any(gone.first_offset <= self.offset < gone.end_offset for gone in removed):
            reason = "purged"
        elif self.offset < jump:
            reason, stop = "missing", min(stop, jump)
        else:
            lost = header is None or L.JUMP_REASONS[header.jump_reason] == "missing"
            reason = "missing" if lost else "skipped"
        if stop > self.offset:  # else nothing is between: the next one begins right here
            self._ready.append(Hole(self.offset, stop, reason))

    def _unreadable(self, name: SegmentName, end: SegmentEnd | None, seen: Seen, detail: str) -> None:
        following = self._catalog.after(name)
        stop = end.offset if end is not None else following.base_offset if following else seen.end_offset
        self._ready.append(Hole(self.offset, stop, "damaged", (name.base_offset, stop), name, 0, L.DATA_START, detail))

    def _advance(self, seen: Seen) -> None:
        """One block or rot further in the open segment."""
        segment = self._segment
        assert segment is not None
        if self._end is None and seen.segment_id != segment.name.segment_id:
            if self._catalog.after(segment.name) is None:
                self._catalog.refresh()
            self._end = self._catalog.end_of(segment.name)
            if self._end is None:
                self._end = SegmentEnd(segment.file.size(), -1, segment.file.size())
        limit, stop = (seen.position, seen.end_offset) if self._end is None else self._end[:2]
        if self._position >= limit:
            self.close()
            if stop < 0:
                self._between(segment.name, self.offset)
            return
        if limit != self._limit:
            segment.forget()  # the window may hold zeros from before these bytes were written
            self._limit = limit
        for found in segment.walk(self._position, self._at, limit, stop if stop >= 0 else None):
            self._take(found, segment)
            if isinstance(found, Rot):
                self._position, self._at = found.end, max(found.stop, self._at)
            else:
                self._position, self._at = found.end, found.header.end_offset
            return
        self._position = limit

    def _take(self, found: Block | Rot, segment: SegmentReader) -> None:
        """Make runs and holes of what the walk met, from `offset` on."""
        suspect = self._end.suspect_position if self._end is not None else found.end
        reason = "suspect" if self._end is not None and suspect <= found.position < self._end.position else "damaged"
        if isinstance(found, Rot):
            first = max(found.first, self.offset)
            if found.stop > first:
                length = found.end - found.position
                self._ready.append(
                    Hole(
                        first,
                        found.stop,
                        reason,
                        (found.first, found.stop),
                        segment.name,
                        found.position,
                        length,
                        "unreadable bytes",
                    )
                )
            return
        header = found.header
        if header.end_offset <= self.offset or not header.count:
            return
        extended = bool(header.flags & L.FLAG_EXTENDED)
        at = max(header.base_offset, self.offset)
        whole = found.intact()
        if whole is not None:
            self._ready.append(Run(at, whole[at - header.base_offset :], extended, header.time_ns))
            return
        records = found.records()
        for first, stop in [*hurt_runs(found, records), (header.end_offset, header.end_offset)]:
            if stop < at:
                continue
            intact = [r for r in records[at - header.base_offset : first - header.base_offset] if r is not None]
            if intact:
                self._ready.append(Run(at, intact, extended, header.time_ns))
            if stop > max(first, at):
                position, length = found.extent(first - header.base_offset, stop - header.base_offset)
                self._ready.append(
                    Hole(max(first, at), stop, reason, (first, stop), segment.name, position, length, "record checksum")
                )
            at = max(at, stop)
