"""A whole log directory read through: what is there, and everything that is not well (FORMAT.md §10.8).

One walk for `verify`, which tells, and `repair`, which acts; it changes nothing. Streaming, in bounded memory, beside a
live writer too: past what the writer called durable nothing is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from seglog.catalog import Catalog, Meta, SegmentEnd, SegmentFacts
from seglog.consumers.standing import unhandled
from seglog.continuation import JUMP, Continuation, Target, behind_unreadable, without_segments
from seglog.cursor_files import read_cursors
from seglog.disk.base import Directory, Disk
from seglog.errors import DamageFound
from seglog.findings import block_damage, rot_damage
from seglog.format import layout as L
from seglog.format import names as N
from seglog.format.cursor_state import CursorState
from seglog.format.footer import Footer, encode_footer
from seglog.format.hint import Hint
from seglog.format.meta_state import MetaState
from seglog.format.names import SegmentName
from seglog.intervals import Intervals
from seglog.lock_file import LockFile
from seglog.model import CursorReport, Damage, OffsetRange
from seglog.recovery import Ending
from seglog.segment_reader import Block, SegmentReader
from seglog.segment_writer import Mark
from seglog.spares import Patch, batch_patches, header_patch, rot_patches
from seglog.tail import Tail, examine
from seglog.view import View

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Bad bytes. `suspect`: nothing proves that they were ever durable. `patches` would make them as they were."""

    damage: Damage
    suspect: bool = False
    patches: tuple[Patch, ...] = ()


@dataclass
class Audit:
    """What one reading found. `alone`: the caller holds the writer's lock, so no writer lives."""

    disk: Disk
    root: Directory
    progress: Progress | None = None
    alone: bool = False
    findings: list[Finding] = field(default_factory=list)
    missing: list[OffsetRange] = field(default_factory=list)
    skipped: list[OffsetRange] = field(default_factory=list)
    repaired: list[OffsetRange] = field(default_factory=list)  # lost, and declared so by a repair
    cursors: dict[str, CursorReport] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    half_meta: bool = False  # one of its slots does not read back
    lost_meta: bool = False  # it is not there, and segments are
    segments: int = 0
    records: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    first_offset: int = 0
    next_offset: int = 0
    _done: int = 0
    _start: int = 0  # what lies below is no part of the log any more
    _unread: int = 0  # offsets at the end that the next opening will jump over: nobody has to read them

    def run(self) -> Audit:
        """Read everything. Raises NotALog, UnsupportedVersion, OSError."""
        view = View.open(self.disk, self.root)
        if view is None:
            self._without_segments()
            return self
        try:
            self._run(view)
        finally:
            view.close()
        return self

    @property
    def lost(self) -> bool:
        """Whether a record that was acknowledged is damaged or missing, or perhaps is."""
        return bool(self.missing) or any(found.damage.first_offset is not None for found in self.findings)

    @property
    def well(self) -> bool:
        return not (self.findings or self.missing) and all(cursor.ok for cursor in self.cursors.values())

    def _without_segments(self) -> None:
        """An empty directory, or what an interrupted creation leaves: an empty log. Else all its segments are lost."""
        meta, lock = Meta.open(self.root, write=False), LockFile.for_reading(self.root)
        try:
            state = meta.state if meta is not None else MetaState()
            states = self._cursor_states(meta)
            hint = lock.hint() if lock is not None else None
            self._all_lost(without_segments(None if meta is None else state, hint, states), state)
            self._conclude(state, states, lambda offset: offset)
        finally:
            for handle in (meta, lock):
                if handle is not None:
                    handle.close()

    def _all_lost(self, target: Target, state: MetaState) -> None:
        self.next_offset = target.base
        if target.lost_segments:
            self.missing.append(OffsetRange(state.start_offset, target.base - 1))
            self._unread = target.base - state.start_offset

    def _run(self, view: View) -> None:
        catalog = view.catalog
        # The hint before the bytes: what is written after this look is not judged.
        hint = view.lock.hint() if view.lock is not None else None
        # Cursors before the end of the log, or a busy consumer would seem to have seen more than there is.
        states = self._cursor_states(view.meta)
        alive = not self.alone and view.lock is not None and view.lock.is_held()
        horizon = view.seen() if alive else None
        catalog.refresh()
        self._set_strangers_aside(catalog)
        state = view.state
        self._start = state.start_offset
        # What was reclaimed and came back is no part of the log, nor is what the writer made after our look.
        names = tuple(
            name
            for name in catalog.names
            if (horizon is None or name.segment_id <= horizon.segment_id) and not catalog.reclaimed(name, state)
        )
        self.warnings += [f"foreign file {name!r} in segments/" for name in catalog.foreign]
        self._check_meta(view, bool(names))
        sizes = {name: _size(catalog, name) for name in names}
        self.bytes = sum(size or 0 for size in sizes.values())
        expected = state.start_offset
        before: SegmentName | None = None
        for name in names:
            self.next_offset = expected
            try:
                self._gap_before(catalog, view, name, before, expected)
                try:
                    if horizon is not None and horizon.segment_id == name.segment_id:
                        end = SegmentEnd(horizon.position, horizon.end_offset, horizon.position)
                        expected = self._walk(catalog.open(name), end)
                    elif horizon is not None or name != names[-1]:
                        sealing = horizon is not None and name.segment_id == horizon.segment_id - 1
                        expected = self._sealed(catalog, name, sealing=sealing)
                    else:
                        expected = self._last(view, name, hint, states)
                except DamageFound:
                    expected = self._unreadable(view, name, hint, states, sizes[name] or 0)
            except FileNotFoundError:
                continue  # reclaimed while we read: for the next one it is as if it had never been listed
            before = name
            self._done += sizes[name] or 0
        self.next_offset = expected
        if horizon is not None:
            self.next_offset = max(expected, horizon.end_offset)  # the writer may have moved past all that was listed
        elif not catalog.names:
            self._all_lost(without_segments(view.meta.state if view.meta is not None else None, hint, states), state)
        if view.meta is None and self.records and N.META not in self.root.list():  # made before the first record
            self.lost_meta = True
            self.warnings.append(f"{N.META} is missing; the next opening for writing, or a repair, makes it anew")
        self.segments = len(names)
        self._conclude(state, states, catalog.records_before)

    # -- segments

    def _set_strangers_aside(self, catalog: Catalog) -> None:
        for name in catalog.names:
            try:
                if catalog.facts(name).foreign:
                    catalog.exclude(name)
            except FileNotFoundError:
                continue  # reclaimed just now

    def _gap_before(
        self, catalog: Catalog, view: View, name: SegmentName, before: SegmentName | None, expected: int
    ) -> None:
        """Offsets between the end of what was read and this segment's base, and why they are not there."""
        if name.base_offset <= expected and (before is None or name.segment_id == before.segment_id + 1):
            return
        first, stop = expected, name.base_offset
        adjacent = before is not None and name.segment_id == before.segment_id + 1
        removed: Intervals | None = None
        if not adjacent:
            if view.meta is not None:
                view.meta.reload()  # a compaction may have passed by since: `meta` tells before anything is unlinked
            first = max(first, view.state.start_offset)
            removed = Intervals((gone.first_offset, gone.end_offset) for gone in view.state.removed)
        header = catalog.facts(name).header
        jump = stop  # where a declared jump begins; what lies before it was lost
        if before is not None and header is not None and header.jump_reason and header.predecessor is not None:
            jump = min(stop, max(first, header.predecessor.end_offset))
        for start, end in (removed or Intervals()).holes(first, jump):
            self.missing.append(OffsetRange(start, end - 1))
        if header is not None and jump < stop:
            missing = L.JUMP_REASONS[header.jump_reason] == "missing"
            (self.missing if missing else self.skipped).append(OffsetRange(jump, stop - 1))

    def _sealed(self, catalog: Catalog, name: SegmentName, *, sealing: bool) -> int:
        end = catalog.end_of(name)
        segment = catalog.open(name)
        facts = catalog.facts(name)
        self._header_copies(name, facts)
        if end is None:
            # The successor is lost, and so is the footer: it ends behind the last batch whose header holds.
            end = _last_batch_end(segment)
        if not sealing:  # a live writer may be adding the footer at this moment: then that is no cut tail
            self.torn_bytes += _cut_bytes(segment, end, facts.footer)
        return self._walk(segment, end)

    def _walk(self, segment: SegmentReader, end: SegmentEnd, *, proven: int | None = None) -> int:
        """Read a segment to a declared end; returns the offset that follows.

        From `proven` on nothing says that a batch was written whole: a spare that lacks there is no damage.
        """
        try:
            header = segment.header
            stop = end.offset if end.offset >= 0 else None
            offset = header.base_offset
            for found in segment.walk(L.DATA_START, offset, end.position, stop, spares=True):
                is_suspect = end.suspect_position <= found.position < end.position
                if isinstance(found, Block):
                    offset = found.header.end_offset
                    spare = found.fault != "body" and proven is not None and found.position >= proven
                    self._block(segment, replace(found, fault="") if spare else found, is_suspect)
                else:
                    offset = max(offset, found.stop)
                    self._note(rot_damage(segment.name, found), is_suspect, rot_patches(found, header.salt))
                self._tick(found.end)
            return max(offset, stop if stop is not None else offset)
        finally:
            segment.close()

    def _block(self, segment: SegmentReader, block: Block, is_suspect: bool) -> None:
        header = block.header
        self.records += header.end_offset - min(max(header.base_offset, self._start), header.end_offset)
        if not block.fault:
            return
        for damage in block_damage(segment.name, block):
            if damage.first_offset is None or damage.last_offset is None:
                self._note(damage, is_suspect, batch_patches(block))
            else:
                self.records -= max(0, damage.last_offset + 1 - max(damage.first_offset, self._start))
                self._note(damage, is_suspect)

    def _note(self, damage: Damage, suspect: bool = False, patches: tuple[Patch, ...] = ()) -> None:
        """Suspect are records; bytes that cost none are just bad, and so are those of records below the start."""
        first, last = damage.first_offset, damage.last_offset
        if first is not None and last is not None and first < self._start:
            known = (None, None) if last < self._start else (self._start, last)
            damage = replace(damage, first_offset=known[0], last_offset=known[1])
        self.findings.append(Finding(damage, suspect and damage.first_offset is not None, patches))

    def _last(self, view: View, name: SegmentName, hint: Hint | None, states: dict[str, CursorState | None]) -> int:
        """The last segment, whose end nobody declares: the same judgement as at open."""
        catalog, boot_id = view.catalog, self.disk.boot_id()
        segment = catalog.open(name)
        try:
            facts = catalog.facts(name)
            self._header_copies(name, facts)
            header = segment.header
            covered, restarted = None, False
            if hint is not None and hint.segment_id == name.segment_id and hint.salt == header.salt:
                covered = Mark(hint.position, hint.end_offset)
                restarted = hint.boot_id != boot_id
            proofs = [Mark(L.DATA_START, header.base_offset), Mark(header.born_position, header.born_offset)]
            proofs += [covered] if covered is not None else []
            for state in states.values():
                if state is not None and state.seen.segment_id == name.segment_id:
                    proofs.append(Mark(state.seen.position, state.seen.end_offset))
            tail = examine(segment, proofs, footer=facts.footer, covered=covered, restarted=restarted)
        except BaseException:
            segment.close()
            raise
        meta = view.meta.state if view.meta is not None else None
        target = Continuation(catalog, header, tail, hint, states, meta, boot_id).target()
        expected = self._walk(segment, self._end_as_declared(tail), proven=tail.proven.position)
        if tail.ending is Ending.TORN:
            self.torn_bytes += tail.last_byte - tail.run_end.position
        if target.lost_segments and target.base > expected:
            self.missing.append(OffsetRange(expected, target.base - 1))
            self._unread = target.base - expected
            return target.base
        return expected

    def _end_as_declared(self, tail: Tail) -> SegmentEnd:
        """The end that the next opening will declare: suspect bytes are inside, with the records that they may hold."""
        position, offset = tail.run_end
        if tail.ending is not Ending.SUSPECT:
            return SegmentEnd(position, offset, position)
        return SegmentEnd(tail.bad_end.position, tail.bad_end.offset if tail.count_known else offset + JUMP, position)

    def _unreadable(
        self, view: View, name: SegmentName, hint: Hint | None, states: dict[str, CursorState | None], size: int
    ) -> int:
        """No copy of the header, and nothing that knows the salt: every record of the segment is out of reach."""
        following = view.catalog.after(name)
        end = view.catalog.end_of(name) if following is not None else None
        if end is not None:
            stop = end.offset
        elif following is not None:
            stop = following.base_offset
        else:
            stop = behind_unreadable(name, view.meta.state if view.meta is not None else None, states, hint)
            self._unread = stop - name.base_offset
        first, last = (name.base_offset, stop - 1) if stop > name.base_offset else (None, None)
        self._note(Damage(name.file_name, 0, size, first, last, "segment header"))
        return stop

    def _header_copies(self, name: SegmentName, facts: SegmentFacts) -> None:
        # Of a header that had to be put together (§5.1) the copies are made, too: reading stays the same, and the salt,
        # without which all is lost, stands in more than one place again.
        known = facts.header if facts.header is not None and any(facts.header.log_id) else None
        for position in facts.bad_copies:
            damage = Damage(name.file_name, position, L.SEGMENT_HEADER.size, None, None, "segment header copy")
            self._note(damage, patches=() if known is None else (header_patch(known, position),))

    # -- around them

    def _check_meta(self, view: View, has_segments: bool) -> None:
        if view.meta is None and has_segments:
            if N.META in self.root.list():
                self._note(Damage(N.META, 0, 2 * L.META_SLOT_BYTES, None, None, "no slot reads back"))
        elif view.meta is not None and not view.meta.file.whole:
            # A crash while it is written leaves the same, and the other slot says all there is to know.
            self.half_meta = True
            self.warnings.append(f"one slot of {N.META} does not read back; the other one counts")

    def _cursor_states(self, meta: Meta | None) -> dict[str, CursorState | None]:
        """The registered consumers' cursors, None where one is missing or does not read back. A file that `meta` does
        not know is what an interrupted change of the register leaves; it counts only while `meta` is in doubt."""
        states: dict[str, CursorState | None] = {}
        with suppress(FileNotFoundError):  # then all that are registered are missing
            cursors = self.root.directory(N.CURSORS)
            try:
                states = read_cursors(cursors, None if meta is None else meta.log_id)
            finally:
                cursors.close()
        if meta is None or not meta.file.whole:
            return states
        if any(name not in states for name, _ in meta.state.consumers):
            meta.reload()  # it may just have been removed: `meta` first, then its file
        return {name: states.get(name) for name, _ in meta.state.consumers}

    def _take_out(self, repaired: Intervals) -> None:
        """What a repair declared is told as repaired, and as nothing else."""
        told = Intervals()
        findings, missing = self.findings, self.missing
        self.findings, self.missing = [], []
        for found in findings:
            first, last = found.damage.first_offset, found.damage.last_offset
            if first is None or last is None:
                self.findings.append(found)
                continue
            for start, stop in repaired.holes(first, last + 1):
                left = replace(found.damage, first_offset=start, last_offset=stop - 1)
                self.findings.append(replace(found, damage=left))
            for start, stop in repaired.overlap(first, last + 1):
                told.add(start, stop)
        for gone in missing:
            for start, stop in repaired.holes(gone.first_offset, gone.last_offset + 1):
                self.missing.append(OffsetRange(start, stop - 1))
            for start, stop in repaired.overlap(gone.first_offset, gone.last_offset + 1):
                told.add(start, stop)
        self.repaired = [OffsetRange(start, stop - 1) for start, stop in told]

    def _tick(self, position: int) -> None:
        if self.progress is not None:
            self.progress(min(self._done + position, self.bytes), self.bytes)

    def _conclude(self, state: MetaState, states: dict[str, CursorState | None], count: Callable[[int], int]) -> None:
        """`count`: how many records were ever given an offset below this one."""
        self.first_offset = state.start_offset
        for name, cursor in states.items():
            mark = cursor.watermark if cursor is not None else state.start_offset
            from_here = max(mark, state.start_offset)  # what was dropped or purged is nobody's backlog
            end = max(self.next_offset - self._unread, from_here)
            lag = unhandled(count, from_here, end, Intervals(cursor.acked if cursor else ()), state.removed)
            # Nothing was ever shown further ahead than a jump: such a cursor is damaged, whatever its checksum says.
            believable = cursor is not None and mark <= self.next_offset + JUMP
            self.cursors[name] = CursorReport(mark, lag, believable)
        self.warnings += [
            f"the cursor of consumer {name!r} does not read back"
            for name, found in self.cursors.items()
            if not found.ok
        ]
        self._take_out(Intervals(state.repaired))


def _last_batch_end(segment: SegmentReader) -> SegmentEnd:
    position, offset = L.DATA_START, segment.header.base_offset
    for found in segment.walk(position, offset, segment.file.size()):
        if isinstance(found, Block):
            position, offset = found.end, found.header.end_offset
    return SegmentEnd(position, offset, position)


def _cut_bytes(segment: SegmentReader, end: SegmentEnd, footer: Footer | None) -> int:
    """Bytes behind a declared end that were cut; valid batches there were copied into the successor."""
    size = segment.file.size() - (len(encode_footer(footer)) if footer is not None else 0)
    position = end.position
    for found in segment.walk(end.position, end.offset, size):
        if not isinstance(found, Block) or found.fault == "body":
            break
        position = found.end
    return segment.last_non_zero(position, size) - position


def _size(catalog: Catalog, name: SegmentName) -> int | None:
    try:
        file = catalog.segments.open(name.file_name)
    except FileNotFoundError:
        return None
    try:
        return file.size()
    finally:
        file.close()
