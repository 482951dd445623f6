"""Which segments exist, in order, where each ends, and what `meta` knows of those that are gone (FORMAT.md §5.4, §7.2).

The list of segments is an immutable snapshot; whoever sees another one than expected asks for a refresh.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from seglog.disk.base import Directory, File
from seglog.errors import DamageFound
from seglog.format import layout as L
from seglog.format.footer import Footer
from seglog.format.meta_state import MetaState, decode_meta, encode_meta
from seglog.format.names import META, SegmentName, is_temporary, parse_segment_name
from seglog.format.segment_header import SegmentHeader
from seglog.segment_reader import SegmentReader, read_footer, read_header
from seglog.slot_file import SlotFile

_FACTS_CACHED = 64


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


class Catalog:
    """The segments of one log directory. Safe to use from several threads: snapshots are replaced, never changed."""

    def __init__(self, segments: Directory) -> None:
        self.segments = segments
        self.names: tuple[SegmentName, ...] = ()
        self.foreign: tuple[str, ...] = ()
        self._facts: OrderedDict[SegmentName, SegmentFacts] = OrderedDict()
        self.refresh()

    def refresh(self) -> tuple[SegmentName, ...]:
        """List the directory again."""
        names, foreign = [], []
        for entry in self.segments.list():
            name = parse_segment_name(entry)
            if name is not None:
                names.append(name)
            elif not is_temporary(entry):
                foreign.append(entry)
        self.foreign = tuple(foreign)
        names.sort(key=lambda name: name.segment_id)
        self.names = tuple(names)
        return self.names

    def add(self, name: SegmentName) -> None:
        """The writer made a segment."""
        if name not in self.names:
            self.names = (*self.names, name)

    def index_of(self, offset: int) -> int:
        """Index of the segment that holds `offset`, or would; -1 if it lies before the first."""
        return bisect_right(self.names, offset, key=lambda name: name.base_offset) - 1

    def after(self, name: SegmentName) -> SegmentName | None:
        """The next segment in the listing, whether or not some are missing between."""
        names = self.names
        index = bisect_right(names, name.segment_id, key=lambda other: other.segment_id)
        return names[index] if index < len(names) else None

    def open(self, name: SegmentName) -> SegmentReader:
        """Open a segment for reading. Raises FileNotFoundError, and DamageFound if its salt is lost."""
        file = self.segments.open(name.file_name)
        try:
            facts = self.facts(name, file)
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
        known = self._facts.get(name)
        if known is not None:
            return known
        opened = file if file is not None else self.segments.open(name.file_name)
        try:
            header, bad = read_header(opened, name)
            found = read_footer(opened, name, opened.size())
        finally:
            if file is None:
                opened.close()
        footer = found[0] if found else None
        if header is None and footer is not None:
            header = footer.header
        sealed = self.after(name) is not None
        if header is None and sealed:
            header = self._inherited_header(name)
        facts = SegmentFacts(header, footer, tuple(bad))
        # The footer appears after the successor does: only what cannot change any more is kept.
        if sealed and header is not None and (footer is not None or name != self.names[-2]):
            self._facts[name] = facts
            while len(self._facts) > _FACTS_CACHED:
                self._facts.popitem(last=False)
        return facts

    def _inherited_header(self, name: SegmentName) -> SegmentHeader | None:
        """Both copies and the footer are lost: the successor knows the salt, the name the rest."""
        successor = self._successor_header(name)
        if successor is None or successor.predecessor is None:
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

    def _successor_header(self, name: SegmentName) -> SegmentHeader | None:
        """The header of the direct successor, if it is there."""
        successor = self.after(name)
        if successor is None or successor.segment_id != name.segment_id + 1:
            return None
        return self.facts(successor).header

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

    def records_before(self, offset: int) -> int:
        """How many records were ever given an offset below this one, by the segments' own count."""
        index = self.index_of(offset)
        if index < 0:
            return 0 if not self.names else self._counted(self.names[0])
        name = self.names[index]
        inside = offset - name.base_offset
        if index + 1 < len(self.names):
            end = self.end_of(name)
            if end is not None:
                inside = min(inside, end.offset - name.base_offset)
        return self._counted(name) + inside

    def _counted(self, name: SegmentName) -> int:
        header = self.facts(name).header
        return name.base_offset if header is None else header.records_before


class Meta:
    """The open `meta` file and what it says. Written only under the cursors' lock."""

    def __init__(self, file: SlotFile, state: MetaState) -> None:
        self.file = file
        self.state = state

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
            payload = slots.load()
            state = None if payload is None else decode_meta(payload)
        except ValueError:
            state = None
        except BaseException:
            file.close()
            raise
        if state is None:
            file.close()
            return None
        return cls(slots, state)

    @property
    def log_id(self) -> bytes:
        return self.file.log_id

    def reload(self) -> MetaState:
        """What another process may have written since."""
        payload = self.file.load()
        if payload is not None:
            self.state = decode_meta(payload)
        return self.state

    def store(self, state: MetaState) -> None:
        """Durable on return, in both slots."""
        self.file.write_both(encode_meta(state))
        self.state = state

    def close(self) -> None:
        self.file.close()


def missing_ids(names: Sequence[SegmentName], meta: MetaState) -> list[tuple[SegmentName, SegmentName]]:
    """Neighbours in the listing between which ids lack that `meta` does not call removed."""
    found = []
    for left, right in zip(names, names[1:], strict=False):
        lacking = set(range(left.segment_id + 1, right.segment_id)) if right.segment_id - left.segment_id < 1 << 20 else {-1}
        for removed in meta.removed:
            lacking -= set(range(max(removed.first_id, left.segment_id), min(removed.last_id, right.segment_id) + 1))
        if lacking:
            found.append((left, right))
    return found
