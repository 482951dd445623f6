"""What a log directory holds and what it lost: reads everything, changes nothing (FORMAT.md §10.8).

Streaming, in bounded memory, beside a live writer too: past what the writer called durable nothing is judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from seglog.catalog import Catalog, Meta, SegmentEnd
from seglog.clock import SystemClock
from seglog.continuation import JUMP, Continuation, Target, behind_unreadable, without_segments
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Directory, Disk
from seglog.errors import DamageFound, LogNotFound, NotALog, StorageError, storage_error
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
from seglog.model import CursorReport, Damage, OffsetRange, VerifyReport
from seglog.opening import read_cursors
from seglog.options import LogOptions
from seglog.recovery import Ending
from seglog.segment_reader import Block, SegmentReader
from seglog.segment_writer import Mark
from seglog.tail import Tail, examine
from seglog.view import View

Progress = Callable[[int, int], None]


def verify(path: str | os.PathLike[str], progress: Progress | None = None, *, disk: Disk | None = None) -> VerifyReport:
    """Read the whole log and say what is lost.

    Args:
        path: the log directory.
        progress: called with (bytes read so far, bytes in all) now and then.
        disk: for tests.

    Returns a report; `ok` is False where anything is damaged, suspect or missing.
    Raises LogNotFound, NotALog, UnsupportedVersion, StorageError: it could not be checked.
    """
    if disk is None:
        from seglog.disk.local import LocalDisk

        disk = LocalDisk()
    name = os.fspath(path)
    try:
        root = disk.open(name, create=False)
    except FileNotFoundError as error:
        raise LogNotFound(f"{name}: no such directory") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise NotALog(f"{name}: a log is a directory, this is a file") from error
    except OSError as error:
        raise storage_error(error, f"verifying {name}") from error
    try:
        view = View.open(disk, root)
        if view is None:
            return _Verification(disk, root, progress).run_without_segments()
        try:
            return _Verification(disk, root, progress).run(view)
        finally:
            view.close()
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, f"verifying {name}") from error
    finally:
        root.close()


@dataclass
class _Verification:
    """One verification under way."""

    disk: Disk
    root: Directory
    progress: Progress | None
    damage: list[Damage] = field(default_factory=list)
    suspect: list[OffsetRange] = field(default_factory=list)
    missing: list[OffsetRange] = field(default_factory=list)
    skipped: list[OffsetRange] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    records: int = 0
    torn_bytes: int = 0
    done: int = 0
    total: int = 0
    next_offset: int = 0
    unread: int = 0  # offsets at the end that the next opening will jump over: nobody has to read them

    def run_without_segments(self) -> VerifyReport:
        """An empty directory, or what an interrupted creation leaves: an empty log. Else all its segments are lost."""
        meta, lock = Meta.open(self.root, write=False), LockFile.for_reading(self.root)
        try:
            state = meta.state if meta is not None else MetaState()
            states = self._cursor_states(meta)
            hint = lock.hint() if lock is not None else None
            self._all_lost(without_segments(None if meta is None else state, hint, states), state)
            return self._report(0, state.start_offset, 0, states, state.repaired)
        finally:
            for handle in (meta, lock):
                if handle is not None:
                    handle.close()

    def _all_lost(self, target: Target, state: MetaState) -> None:
        self.next_offset = target.base
        if target.lost_segments:
            self.missing.append(OffsetRange(state.start_offset, target.base - 1))
            self.unread = target.base - state.start_offset

    def run(self, view: View) -> VerifyReport:
        catalog = view.catalog
        # The hint before the bytes: what is written after this look is not judged.
        hint = view.lock.hint() if view.lock is not None else None
        # Cursors before the end of the log, or a busy consumer would seem to have seen more than there is.
        states = self._cursor_states(view.meta)
        alive = view.lock is not None and view.lock.is_held()
        horizon = view.seen() if alive else None
        catalog.refresh()
        self._set_strangers_aside(catalog)
        state = view.state
        # What was reclaimed and came back is no part of the log, nor is what the writer made after our look.
        names = tuple(
            name
            for name in catalog.names
            if (horizon is None or name.segment_id <= horizon.segment_id) and not catalog.reclaimed(name, state)
        )
        self.warnings += [f"foreign file {name!r} in segments/" for name in catalog.foreign]
        self._check_meta(view, bool(names))
        sizes = {name: _size(catalog, name) for name in names}
        self.total = sum(size or 0 for size in sizes.values())
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
            self.done += sizes[name] or 0
        self.next_offset = expected
        if horizon is not None:
            self.next_offset = max(expected, horizon.end_offset)  # the writer may have moved past all that was listed
        elif not catalog.names:
            self._all_lost(without_segments(view.meta.state if view.meta is not None else None, hint, states), state)
        return self._report(len(names), state.start_offset, self.total, states, state.repaired, view)

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
        facts = catalog.facts(name)
        self._header_copies(name, facts.bad_copies)
        segment = catalog.open(name)
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
                    if is_suspect and found.stop > found.first:
                        self._note_suspect(found.first, found.stop)
                    else:
                        self.damage.append(rot_damage(segment.name, found))
                self._tick(found.end)
            return max(offset, stop if stop is not None else offset)
        finally:
            segment.close()

    def _block(self, segment: SegmentReader, block: Block, is_suspect: bool) -> None:
        if not block.fault:
            self.records += block.header.count
            return
        found = block_damage(segment.name, block)
        lost = 0
        for damage in found:
            if damage.first_offset is None or damage.last_offset is None:
                self.damage.append(damage)
                continue
            lost += damage.last_offset - damage.first_offset + 1
            if is_suspect:
                self._note_suspect(damage.first_offset, damage.last_offset + 1)
            else:
                self.damage.append(damage)
        self.records += block.header.count - lost

    def _note_suspect(self, first: int, stop: int) -> None:
        self.suspect.append(OffsetRange(first, stop - 1))

    def _last(self, view: View, name: SegmentName, hint: Hint | None, states: dict[str, CursorState | None]) -> int:
        """The last segment, whose end nobody declares: the same judgement as at open."""
        catalog, boot_id = view.catalog, self.disk.boot_id()
        facts = catalog.facts(name)
        self._header_copies(name, facts.bad_copies)
        segment = catalog.open(name)
        try:
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
            self.unread = target.base - expected
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
            self.unread = stop - name.base_offset
        first, last = (name.base_offset, stop - 1) if stop > name.base_offset else (None, None)
        self.damage.append(Damage(name.file_name, 0, size, first, last, "segment header"))
        return stop

    def _header_copies(self, name: SegmentName, bad: tuple[int, ...]) -> None:
        for position in bad:
            self.damage.append(
                Damage(name.file_name, position, L.SEGMENT_HEADER.size, None, None, "segment header copy")
            )

    # -- around them

    def _check_meta(self, view: View, has_segments: bool) -> None:
        if view.meta is None and has_segments:
            if N.META in self.root.list():
                self.damage.append(Damage(N.META, 0, 2 * L.META_SLOT_BYTES, None, None, "no slot reads back"))
        elif view.meta is not None and not view.meta.file.whole:
            # A crash while it is written leaves the same, and the other slot says all there is to know.
            self.warnings.append(f"one slot of {N.META} does not read back; the other one counts")

    def _cursor_states(self, meta: Meta | None) -> dict[str, CursorState | None]:
        """The registered consumers' cursors, None where one is missing or does not read back. A file that `meta` does
        not know is what an interrupted change of the register leaves; it counts only while `meta` is in doubt."""
        try:
            cursors = self.root.directory(N.CURSORS)
        except FileNotFoundError:
            return {}
        try:
            states = read_cursors(cursors, None if meta is None else meta.log_id)
        finally:
            cursors.close()
        if meta is None or not meta.file.whole:
            return states
        if any(name not in states for name, _ in meta.state.consumers):
            meta.reload()  # it may just have been removed: `meta` first, then its file
        return {name: states.get(name) for name, _ in meta.state.consumers}

    def _take_out(self, repaired: tuple[tuple[int, int], ...]) -> None:
        """What was repaired is told as repaired, and as nothing else."""
        mended = Intervals(repaired)
        for ranges in (self.suspect, self.missing, self.skipped):
            ranges[:] = [
                OffsetRange(first, stop - 1)
                for found in ranges
                for first, stop in mended.holes(found.first_offset, found.last_offset + 1)
            ]
        self.damage = [
            damage
            for damage in self.damage
            if damage.first_offset is None
            or damage.last_offset is None
            or any(mended.holes(damage.first_offset, damage.last_offset + 1))
        ]

    def _tick(self, position: int) -> None:
        if self.progress is not None:
            self.progress(min(self.done + position, self.total), self.total)

    def _report(
        self,
        segments: int,
        start: int,
        size: int,
        states: dict[str, CursorState | None],
        repaired: tuple[tuple[int, int], ...],
        view: View | None = None,
    ) -> VerifyReport:
        cursors = {}
        count = view.catalog.records_before if view is not None else (lambda offset: offset)
        for name, state in states.items():
            mark = state.watermark if state is not None else start
            acked = sum(count(stop) - count(first) for first, stop in (state.acked if state is not None else ()))
            end = max(self.next_offset - self.unread, mark)
            lag = max(0, count(end) - count(mark) - acked)
            # Nothing was ever shown further ahead than a jump: such a cursor is damaged, whatever its checksum says.
            believable = state is not None and mark <= self.next_offset + JUMP
            cursors[name] = CursorReport(mark, lag, believable)
        unreadable = [name for name, cursor in cursors.items() if not cursor.ok]
        self.warnings += [f"the cursor of consumer {name!r} does not read back" for name in unreadable]
        letters = DeadLetters(self.disk, SystemClock(), self.root, LogOptions(), 1 << 40)
        self._take_out(repaired)
        lost = any(d.first_offset is not None for d in self.damage) or bool(self.missing) or bool(self.suspect)
        return VerifyReport(
            ok=not (self.damage or self.suspect or self.missing or unreadable),
            acknowledged_loss=lost,
            segments=segments,
            records=self.records,
            first_offset=start,
            next_offset=self.next_offset,
            bytes=size,
            torn_tail_bytes=self.torn_bytes,
            damage=tuple(self.damage),
            suspect=tuple(self.suspect),
            missing=tuple(self.missing),
            skipped=tuple(self.skipped),
            repaired=tuple(OffsetRange(first, stop - 1) for first, stop in repaired),
            cursors=cursors,
            dead_letters=len(letters),
            warnings=tuple(self.warnings),
        )


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
