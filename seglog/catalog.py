"""Which segments exist, in order, where each ends, and what `meta` knows of those that are gone (FORMAT.md §5.4, §7.2).

The list of segments is an immutable snapshot; whoever sees another one than expected asks for a refresh.
"""

from __future__ import annotations

import errno
import itertools
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from operator import attrgetter
from typing import NamedTuple

from seglog.disk.base import Directory, File
from seglog.errors import DamageFound
from seglog.format import layout as L
from seglog.format.footer import Footer
from seglog.format.hint import Hint
from seglog.format.meta_state import MetaState, RemovedRange, decode_meta, encode_meta
from seglog.format.names import META, SegmentName, is_temporary, parse_segment_name
from seglog.format.segment_header import SegmentHeader
from seglog.lock_file import undisturbed
from seglog.segment_reader import SegmentReader, read_footer, read_header
from seglog.slot_file import SlotFile

by_offset: Callable[[SegmentName], int] = attrgetter("base_offset")  # keys for bisections in the listing
by_id: Callable[[SegmentName], int] = attrgetter("segment_id")

_FACTS_CACHED = 64
_LOOKS = 10  # how often segments may vanish under a question before it is given up
_WAYPOINT_BYTES = 64 * 1024


class SegmentEnd(NamedTuple):
    """Where a sealed segment ends; from `suspect_position` on (if below the end) its bytes are suspect."""

    position: int
    offset: int
    suspect_position: int


class SegmentFacts(NamedTuple):
    """What is asked often of a segment and never changes. `header` is None where it can be had from nowhere."""

    header: SegmentHeader | None
    footer: Footer | None
    bad_copies: tuple[int, ...]
    foreign: bool = False  # a segment of another log, or under a name that is not its own


class Catalog:
    """The segments of one log directory. Safe to use from several threads: snapshots are replaced, never changed."""

    def __init__(self, segments: Directory) -> None:
        self.segments = segments
        self.names: tuple[SegmentName, ...] = ()
        self.foreign: tuple[str, ...] = ()
        self.log_id: bytes | None = None  # once known, segments of other logs are told apart
        self.hint: Callable[[], Hint | None] = lambda: None
        self._lock = threading.RLock()
        self._strangers: set[SegmentName] = set()
        self._facts: OrderedDict[tuple[SegmentName, bool], SegmentFacts] = OrderedDict()
        self._waypoints: OrderedDict[SegmentName, list[tuple[int, int]]] = OrderedDict()
        self.refresh()

    def refresh(self) -> tuple[SegmentName, ...]:
        """List the directory again. Under a lock: an old listing must not undo what the writer added since."""
        with self._lock:
            return self._list()

    def _list(self) -> tuple[SegmentName, ...]:
        names, foreign = [], []
        for entry in self.segments.list():
            name = parse_segment_name(entry)
            if name is not None and name not in self._strangers:
                names.append(name)
            elif not is_temporary(entry):
                foreign.append(entry)
        names.sort(key=lambda name: (name.segment_id, name.base_offset))
        suspicious = {
            name
            for left, right in itertools.pairwise(names)
            for name in (left, right)
            if left.segment_id == right.segment_id or left.base_offset > right.base_offset
        }
        # A copy under another name, or of another log: only headers can tell, so only where the names do not fit.
        strangers = {name for name in suspicious if self.facts(name).foreign}
        self._strangers |= strangers
        self.names = tuple(name for name in names if name not in strangers)
        self.foreign = (*foreign, *(name.file_name for name in sorted(self._strangers)))
        return self.names

    def exclude(self, name: SegmentName) -> None:
        """Treat a segment as foreign from now on: its header says that it is not ours."""
        with self._lock:
            self._strangers.add(name)
            self._list()

    def add(self, name: SegmentName) -> None:
        """The writer made a segment."""
        with self._lock:
            if self.names[-1:] != (name,):  # it is always the last: a listing may have found it before us
                self.names = (*self.names, name)

    def drop(self, gone: Iterable[SegmentName]) -> None:
        """These were given back. Costs what they cost, not what all that stay would."""
        with self._lock:
            kept: list[tuple[SegmentName, ...]] = []
            names, at = self.names, 0
            for name in gone:  # ascending
                index = bisect_left(names, name.segment_id, lo=at, key=by_id)
                if names[index : index + 1] == (name,):
                    kept.append(names[at:index])
                    at = index + 1
            self.names = tuple(itertools.chain(*kept, names[at:]))

    def holder(self, offset: int) -> SegmentName | None:
        """The segment that holds `offset`, or would; None if it lies before the first.

        By one look at the listing: a place found in one would name another segment in the next, and a reader that
        took it would pass over all between.
        """
        names = self.names
        index = bisect_right(names, offset, key=by_offset) - 1
        return names[index] if index >= 0 else None

    def before(self, name: SegmentName) -> SegmentName | None:
        """The one before it in the listing, whether or not some are missing between."""
        names = self.names
        index = bisect_left(names, name.segment_id, key=by_id) - 1
        return names[index] if index >= 0 else None

    def after(self, name: SegmentName) -> SegmentName | None:
        """The next segment in the listing, whether or not some are missing between."""
        names = self.names
        index = bisect_right(names, name.segment_id, key=by_id)
        return names[index] if index < len(names) else None

    def open(self, name: SegmentName) -> SegmentReader:
        """Open a segment for reading. Raises FileNotFoundError, and DamageFound if its salt is lost."""
        file = self.segments.open(name.file_name)
        try:
            facts = self.facts(name, file)
            if facts.foreign:
                self.exclude(name)
                raise FileNotFoundError(errno.ENOENT, "a segment of another log, or under another name", name.file_name)
            if facts.header is None:
                raise DamageFound(
                    f"{file.name}: no copy of the segment header reads back, so its batches cannot be checked",
                    segment=name.file_name,
                    position=0,
                    reason="segment header",
                )
            return SegmentReader(file, name, facts.header)
        except BaseException:
            file.close()
            raise

    def facts(self, name: SegmentName, file: File | None = None) -> SegmentFacts:
        """Header and footer of a segment, read once."""
        sealed = self.after(name) is not None
        known = self._facts.get((name, sealed))
        if known is not None:
            return known
        opened = file if file is not None else self.segments.open(name.file_name)
        try:
            copies = read_header(opened, name, self.log_id)
            found = read_footer(opened, name, opened.size())
        finally:
            if file is None:
                opened.close()
        header = copies.header
        footer = found[0] if found else None
        if header is None and footer is not None:
            header = footer.header
        foreign = copies.foreign and header is None
        if header is not None and self.log_id is not None and header.log_id != self.log_id:
            foreign = True
        if header is None and not foreign:
            header = self._inherited_header(name) if sealed else self._hinted_header(name)
        facts = SegmentFacts(header, footer, copies.bad, foreign)
        if header is not None:  # a footer that appears later is done without
            self._facts[name, sealed] = facts
            while len(self._facts) > _FACTS_CACHED:
                self._facts.popitem(last=False)
        return facts

    def _inherited_header(self, name: SegmentName) -> SegmentHeader | None:
        """Both copies and the footer are lost: the successor knows the salt, the name the rest."""
        successor = self._successor_header(name)
        if successor is None or successor.predecessor is None or not successor.predecessor.salt:
            return None
        before = successor.predecessor
        return successor._replace(
            segment_id=name.segment_id,
            base_offset=name.base_offset,
            salt=before.salt,
            jump_reason=0,
            max_batch_bytes=max(successor.max_batch_bytes, L.OFFSET_MAX >> 33),
            records_before=successor.records_before - (before.end_offset - name.base_offset),
            bytes_before=successor.bytes_before - (before.end_position - L.DATA_START),
            born_position=L.DATA_START,
            born_offset=name.base_offset,
            floor_offset=name.base_offset,
            predecessor=None,
        )

    def _hinted_header(self, name: SegmentName) -> SegmentHeader | None:
        """Both copies of the active segment are lost: the hint knows the salt, the name the rest."""
        hint = self.hint()
        if hint is None or hint.segment_id != name.segment_id:
            return None
        counted = self._counted_before(name)
        return SegmentHeader(
            log_id=self.log_id or bytes(16),
            segment_id=name.segment_id,
            base_offset=name.base_offset,
            salt=hint.salt,
            durability=0,
            jump_reason=0,
            max_record_bytes=0,  # less than any record may have: the next append opens another segment
            max_batch_bytes=L.OFFSET_MAX >> 33,
            bytes_before=counted[0],
            records_before=counted[1],
            born_position=L.DATA_START,
            born_offset=name.base_offset,
            floor_offset=name.base_offset,
            predecessor=None,
            created_ns=0,
        )

    def _counted_before(self, name: SegmentName) -> tuple[int, int]:
        """Bytes and records before a segment that cannot say it, as the footer before it tells; else 0 and its base."""
        before = next((other for other in reversed(self.names) if other.segment_id == name.segment_id - 1), None)
        try:
            footer = None if before is None else self.facts(before).footer
        except FileNotFoundError:  # reclaimed since it was listed
            footer = None
        if footer is None:
            return 0, name.base_offset
        size, records = footer.end_position - L.DATA_START, footer.end_offset - footer.header.base_offset
        return footer.header.bytes_before + size, footer.header.records_before + records

    def _successor_header(self, name: SegmentName) -> SegmentHeader | None:
        """The header of the direct successor, if it is there."""
        successor = self.after(name)
        if successor is None or successor.segment_id != name.segment_id + 1:
            return None
        try:
            header = self.facts(successor).header
        except FileNotFoundError:  # reclaimed since it was listed: the footer has to say
            return None
        if header is None or header.predecessor is None or header.predecessor.segment_id != name.segment_id:
            return None
        return header

    def end_of(self, name: SegmentName) -> SegmentEnd | None:
        """Where a sealed segment ends, as its successor says, else its footer; None if neither can say."""
        successor = self._successor_header(name)
        if successor is not None and successor.predecessor is not None:
            before = successor.predecessor
            return SegmentEnd(before.end_position, before.end_offset, before.suspect_position or before.end_position)
        footer = self.facts(name).footer
        if footer is not None:
            return SegmentEnd(footer.end_position, footer.end_offset, footer.end_position)
        return None

    def locate(self, segment: SegmentReader, offset: int, end: int) -> tuple[int, int]:
        """Position and base offset of the batch that holds `offset`, or as near before it as headers lead.

        Begins at the footer's index, or where an earlier look passed by, so that it does not cost the whole segment.
        """
        name = segment.name
        footer = self.facts(name).footer
        known = self._waypoints.get(name, [])
        points = [(entry.offset, entry.position) for entry in footer.entries] if footer is not None else known
        index = bisect_right(points, offset, key=lambda point: point[0]) - 1
        at, position = points[index] if index >= 0 else (name.base_offset, L.DATA_START)
        if index >= 0 and position < end and segment.header_at(position, at, end) is None:
            # The walk must meet the damage here from the same place as everybody else's, or it seems to be another.
            at, position = name.base_offset, L.DATA_START
        found: list[tuple[int, int]] = []

        def waypoint(offset: int, position: int) -> None:
            last = found[-1][1] if found else known[-1][1] if known else L.DATA_START
            if position - last >= _WAYPOINT_BYTES:
                found.append((offset, position))

        place = segment.find(position, at, offset, end, None if footer is not None else waypoint)
        if found:
            self._waypoints[name] = known + found
            while len(self._waypoints) > _FACTS_CACHED:
                self._waypoints.popitem(last=False)
        return place

    def settle(self) -> None:
        """Set aside what is no end of this log: last segments of other logs, or under a name that is not theirs."""
        for _ in range(_LOOKS):
            try:
                while self.names and self.facts(self.names[-1]).foreign:
                    self.exclude(self.names[-1])
                return
            except FileNotFoundError:
                self.refresh()  # the log moved on and reclaimed it

    def reclaimed(self, name: SegmentName, meta: MetaState) -> bool:
        """Whether this is a segment that was given back, and whose unlinking did not survive a crash."""
        following = self.after(name)
        if following is None:
            return False
        if name.base_offset < meta.start_offset and following.base_offset <= meta.start_offset:
            return True
        return any(gone.first_id <= name.segment_id <= gone.last_id for gone in meta.removed)

    def records_before(self, offset: int) -> int:
        """How many records were ever given an offset below this one, by the segments' own count."""
        for _ in range(_LOOKS):
            try:
                return self._records_before(offset)
            except FileNotFoundError:
                self.refresh()  # reclaimed since it was listed
        return self._records_before(offset)

    def _records_before(self, offset: int) -> int:
        names = self.names
        index = bisect_right(names, offset, key=by_offset) - 1
        if index < 0:
            return 0 if not names else self._counted(names[0])
        name = names[index]
        inside = offset - name.base_offset
        if index + 1 < len(names):
            end = self.end_of(name)
            if end is not None:
                inside = min(inside, end.offset - name.base_offset)
        return self._counted(name) + inside

    def records_between(self, first: int, stop: int, removed: Iterable[RemovedRange]) -> int:
        """How many records are there from `first` to before `stop`."""
        total = self.records_before(stop) - self.records_before(first)
        for gone in removed:
            left, right = max(first, gone.first_offset), min(stop, gone.end_offset)
            if left < right:
                total -= self.records_before(right) - self.records_before(left)
        return max(0, total)

    def offset_behind(self, count: int, start: int) -> int:
        """The first offset from `start` on with at least `count` records before it, by the segments' own count."""
        for _ in range(_LOOKS):
            try:
                return self._offset_behind(count, start)
            except FileNotFoundError:
                self.refresh()
        return self._offset_behind(count, start)

    def _offset_behind(self, count: int, start: int) -> int:
        names = self.names
        index = max(bisect_right(names, start, key=by_offset) - 1, 0)
        while index + 1 < len(names) and self._counted(names[index + 1]) <= count:
            index += 1
        if not names:
            return start
        offset = max(start, names[index].base_offset + count - self._counted(names[index]))
        if index + 1 < len(names):
            end = self.end_of(names[index])
            if end is not None and offset > end.offset:
                offset = names[index + 1].base_offset
        return offset

    def _counted(self, name: SegmentName) -> int:
        header = self.facts(name).header
        return name.base_offset if header is None else header.records_before


class Meta:
    """The open `meta` file and what it says. Written only under the cursors' lock."""

    def __init__(self, file: SlotFile, state: MetaState, *, writable: bool = True) -> None:
        self.file = file
        self.state = state
        self._writable = writable

    @classmethod
    def create(cls, root: Directory, log_id: bytes, state: MetaState) -> Meta:
        """Make it; its name is durable once the caller syncs the root."""
        made = SlotFile.create(
            root, META, encode_meta(state), kind=L.KIND_META, log_id=log_id, slot_bytes=L.META_SLOT_BYTES
        )
        return cls(made, state)

    @classmethod
    def open(cls, root: Directory, *, write: bool) -> Meta | None:
        """None if there is no file, or neither slot reads back."""
        try:
            file = root.open(META, write=write)
        except FileNotFoundError:
            return None
        slots = SlotFile(file, kind=L.KIND_META, log_id=bytes(16), slot_bytes=L.META_SLOT_BYTES)
        try:
            with undisturbed(root) if write else nullcontext(False) as alone:
                payload = slots.load()
                state = None if payload is None else decode_meta(payload)
                if write:
                    slots.confirm(alone=alone)
        except ValueError:
            state = None
        except BaseException:
            file.close()
            raise
        if state is None:
            file.close()
            return None
        return cls(slots, state, writable=write)

    @property
    def log_id(self) -> bytes:
        return self.file.log_id

    def reload(self) -> MetaState:
        """What another process may have written since."""
        payload = self.file.load()
        if payload is not None:
            self.state = state = decode_meta(payload)
            return state  # not the field: another thread may have put back what it read before us
        return self.state

    def confirm(self) -> None:
        """What was loaded is durable on return; under the cursors' lock, so that nobody else writes here now."""
        self.file.confirm(alone=self._writable)

    def store(self, state: MetaState) -> None:
        """Durable on return, in both slots."""
        if not self._writable:
            raise OSError(errno.EROFS, "the disk took no writes when this was opened; open the log again", META)
        self.file.write_both(encode_meta(state))
        self.state = state

    def close(self) -> None:
        self.file.close()
