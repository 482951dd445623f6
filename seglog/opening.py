"""Open a log directory for writing: lock, finish an interrupted creation, find the end, recover (FORMAT.md §10.6).

Recovery never writes into the segment it recovers: what nothing proves durable is copied into a successor whose
header declares the old one's end. A crash in here leaves a `.tmp` or a name that is not yet durable, so doing it
again gives the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial

from seglog.appender import Appender, first_header
from seglog.catalog import Catalog, Meta
from seglog.clock import Clock
from seglog.continuation import JUMP, Continuation, Target, behind_unreadable, missing_segments, without_segments
from seglog.cursor_files import read_cursors
from seglog.disk.base import Directory, Disk
from seglog.errors import DamageFound, SeglogError, UnsupportedVersion
from seglog.findings import block_damage, refusal, rot_damage
from seglog.format import layout as L
from seglog.format import names as N
from seglog.format.cursor_state import CursorState, Seen
from seglog.format.meta_state import MetaState
from seglog.lock_file import WAITING_ERRNOS, LockFile
from seglog.model import Damage, OffsetRange, OpenReport
from seglog.options import LogOptions
from seglog.recovery import Action, Ending, Situation, Verdict, decide
from seglog.segment_reader import Block, SegmentReader
from seglog.segment_writer import Mark, SegmentWriter, StoredBatch
from seglog.tail import Tail, examine
from seglog.view import check_is_log, id_from_segments

logger = logging.getLogger("seglog")

LOCK_WAIT_SECONDS = 0.1  # `verify` holds the lock for an instant, to learn whether a writer lives
_COPY_BYTES = 1 << 20


@dataclass
class Opened:
    """A log directory, open for writing."""

    root: Directory
    segments: Directory
    cursors: Directory
    lock: LockFile
    meta: Meta
    catalog: Catalog
    appender: Appender
    report: OpenReport

    def close(self) -> None:
        """Let go of all but `root`, without a word to the disk."""
        with ExitStack() as handles:  # every one, whatever the others say: above all the lock
            for handle in (self.lock, self.cursors, self.segments, self.meta):
                handles.callback(handle.close)
            handles.callback(self.appender.abandon)


def open_for_writing(
    disk: Disk,
    clock: Clock,
    root: Directory,
    options: LogOptions,
    *,
    wait: float = LOCK_WAIT_SECONDS,
    lock: LockFile | None = None,
) -> Opened:
    """Open, recover and report. The caller closes `root` if this raises; it hands over `lock` if it holds that."""
    entries = check_is_log(root)
    if lock is None:
        lock = LockFile.acquire(root, disk.holder(), wait=wait)
    opened: list[Directory] = []
    try:
        created = N.META not in entries
        for name in (N.SEGMENTS, N.CURSORS):
            opened.append(root.directory(name, create=name not in entries))
        segments, cursors = opened
        _remove_temporary(root, segments)
        named = _postponed(lambda: _sync_names(root, segments, cursors)) is None
        catalog = Catalog(segments)
        catalog.hint = lock.hint
        return _Opening(disk, clock, root, segments, cursors, lock, catalog, options, named).run(created)
    except BaseException:
        with suppress(OSError), ExitStack() as handles:  # the first error is the one to tell
            handles.callback(lock.close)
            for directory in opened:
                handles.callback(directory.close)
        raise


def _remove_temporary(*directories: Directory) -> None:
    for directory in directories:
        for entry in directory.list():
            if N.is_temporary(entry):
                _postponed(partial(directory.unlink, entry))


def _sync_names(root: Directory, segments: Directory, cursors: Directory) -> None:
    """Whoever made these names may have died before syncing them: nothing is acknowledged on top of that."""
    for directory in (segments, cursors, root):
        directory.sync()
    root.sync_parents()


def _postponed(work: Callable[[], object]) -> OSError | None:
    """Do it; why not, if that has to wait until the disk takes writes again."""
    try:
        work()
    except OSError as error:
        if error.errno not in WAITING_ERRNOS:
            raise
        return error
    return None


class _Opening:
    """One opening under way; the pieces it needs, so that they are not handed through every call."""

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        root: Directory,
        segments: Directory,
        cursors: Directory,
        lock: LockFile,
        catalog: Catalog,
        options: LogOptions,
        named: bool,
    ) -> None:
        self.root, self.segments, self.cursors = root, segments, cursors
        self.named = named  # the names that were found are synced
        self.lock, self.catalog, self.clock, self.options = lock, catalog, clock, options
        self.boot_id = disk.boot_id()
        self.states: dict[str, CursorState | None] = {}
        self.hint = lock.hint()
        self.damage: list[Damage] = []
        self.suspect: list[OffsetRange] = []
        self.skipped: list[OffsetRange] = []
        self.missing: list[OffsetRange] = []
        self.torn_bytes = 0
        self.recovered = 0
        self.clean = True
        self._copy: SegmentWriter | None = None  # of what lay behind the proven end, in a segment of its own

    def run(self, created: bool) -> Opened:
        meta = self._open_meta()
        had_segments = bool(self.catalog.names)
        log_id = meta.log_id if meta is not None else id_from_segments(self.catalog) or self.clock.random_bytes(16)
        self.states = read_cursors(self.cursors, log_id)
        self._set_aside_strangers(log_id)
        appender = self._end(log_id, meta)
        if meta is None:
            meta = self._new_meta(log_id)
        self.clean = self.clean or (created and not had_segments)
        warnings = [*self.root.warnings(), *(f"foreign file {name!r} in segments/" for name in self.catalog.foreign)]
        for warning in warnings:
            logger.warning("%s", warning)
        report = OpenReport(
            created=created and not had_segments,
            clean=self.clean,
            recovered_records=self.recovered,
            torn_tail_bytes=self.torn_bytes,
            damage=tuple(self.damage),
            suspect=tuple(self.suspect),
            missing=tuple(self.missing),
            skipped=tuple(self.skipped),
            warnings=tuple(warnings),
        )
        return Opened(self.root, self.segments, self.cursors, self.lock, meta, self.catalog, appender, report)

    def _open_meta(self) -> Meta | None:
        try:
            return Meta.open(self.root, write=True)
        except OSError as error:
            if error.errno not in WAITING_ERRNOS:
                raise
            return Meta.open(self.root, write=False)

    def _set_aside_strangers(self, log_id: bytes) -> None:
        """Segments that are not ours are no end of this log: reported, not touched. Newer ones are not written to."""
        self.catalog.log_id = log_id
        self.catalog.settle()
        for name in self.catalog.names[-1:]:
            header = self.catalog.facts(name).header
            if header is not None and header.write_version > L.WRITE_VERSION:
                raise UnsupportedVersion(
                    f"{name.file_name}: only format version {header.write_version} or newer may write it; "
                    f"this seglog writes up to {L.WRITE_VERSION}"
                )

    def _new_meta(self, log_id: bytes) -> Meta:
        """`meta` comes last in a creation; where segments are older than it, it was lost and is rebuilt."""
        names = self.catalog.names
        start = names[0].base_offset if names else 0
        consumers = tuple((name, state.start if state else start) for name, state in sorted(self.states.items()))
        if N.META in self.root.list():
            self.root.unlink(N.META)
        meta = Meta.create(self.root, log_id, MetaState(start, self.clock.time_ns(), consumers))
        self.root.sync()
        return meta

    def _end(self, log_id: bytes, meta: Meta | None) -> Appender:
        """Find the end, decide, and make the appender; recovery itself waits if the disk takes no writes."""
        if not self.catalog.names:
            return self._without_segments(log_id, meta)
        name = self.catalog.names[-1]
        try:
            segment = self.catalog.open(name)
        except DamageFound as error:
            return self._unreadable_last(log_id, meta, name, error)
        tail = self._examine(segment)
        state = None if meta is None else meta.state
        target = Continuation(self.catalog, segment.header, tail, self.hint, self.states, state, self.boot_id).target()
        jumps = target.base > tail.run_end.offset or target.lost_segments
        # A file that was cut short is not written to again: a hole in it would read as other damage than before.
        short = segment.file.size() < tail.run_end.position
        verdict = decide(Situation(tail.ending, tail.unproven, jumps or short))
        self._note(segment, tail, target, verdict)
        self.missing += missing_segments(self.catalog, meta)
        appender = self._appender(
            log_id, Seen(name.segment_id, tail.proven.position, tail.proven.offset), tail.proven.offset
        )
        appender.next_offset = target.base

        goes_on = verdict.action is Action.CONTINUE
        self._recovers(
            appender,
            lambda: (
                self._continue(segment, tail, appender) if goes_on else self._succeed(segment, tail, target, appender)
            ),
        )
        self._try(appender, marked=tail.ending is Ending.CLOSED)
        return appender

    def _appender(self, log_id: bytes, seen: Seen, next_offset: int) -> Appender:
        return Appender(
            self.catalog,
            self.lock,
            self.clock,
            self.options,
            log_id,
            self.boot_id,
            seen=seen,
            next_offset=next_offset,
        )

    def _try(self, appender: Appender, *, marked: bool = False) -> None:
        refused = refusal(self.damage, self.missing, self.suspect) if self.options.strict else None
        if refused is not None:
            raise refused  # before anything is written: the next strict opening shall find it, too
        if (error := _postponed(lambda: appender.ready(marked=marked))) is not None:
            logger.warning("opened for reading; appends wait until the disk takes writes again (%s)", error)

    def _recovers(self, appender: Appender, make: Callable[[], SegmentWriter]) -> None:
        """What is to be done before the first append."""

        def recover() -> SegmentWriter:
            if not self.named:
                _sync_names(self.root, self.segments, self.cursors)
                self.named = True
            return make()

        appender.recover = recover

    # -- what is known

    def _examine(self, segment: SegmentReader) -> Tail:
        header, number = segment.header, segment.name.segment_id
        covered = None
        restarted = False
        if self.hint is not None and self.hint.segment_id == number and self.hint.salt == header.salt:
            covered = Mark(self.hint.position, self.hint.end_offset)
            restarted = self.hint.boot_id != self.boot_id
        proofs = [Mark(header.born_position, header.born_offset), Mark(L.DATA_START, header.base_offset)]
        if covered is not None:
            proofs.append(covered)
        for state in self.states.values():
            if state is not None and state.seen.segment_id == number:
                proofs.append(Mark(state.seen.position, state.seen.end_offset))
        footer = self.catalog.facts(segment.name).footer
        return examine(segment, proofs, footer=footer, covered=covered, restarted=restarted)

    # -- what is done about it

    def _continue(self, segment: SegmentReader, tail: Tail, appender: Appender) -> SegmentWriter:
        """Nothing but zero bytes follows what is proven: the segment just goes on."""
        segment.close()
        file = self.segments.open(segment.name.file_name, write=True)
        writer = SegmentWriter(
            file,
            segment.header,
            tail.run_end,
            allocated=file.size(),
            segment_bytes=appender.segment_bytes,
            compress=appender.compression,
        )
        writer.first_time_ns = segment.header.created_ns
        return writer

    def _succeed(self, segment: SegmentReader, tail: Tail, target: Target, appender: Appender) -> SegmentWriter:
        old = segment.header
        if tail.ending is Ending.SUSPECT:
            end = Mark(tail.bad_end.position, tail.bad_end.offset if tail.count_known else tail.run_end.offset + JUMP)
            self._write_again(segment, tail)
            writer = appender.succeed(
                appender.header_after(
                    old,
                    end,
                    segment_id=target.segment_id,
                    base_offset=target.base,
                    reason=target.reason or "suspect",
                    suspect_position=tail.run_end.position,
                ),
                (),
            )
        elif tail.run_end.offset > tail.proven.offset:
            # The copy first, alone: it declares the old end. A jump behind it waits in its floor until it is done.
            header = appender.header_after(old, tail.proven, floor=target.base)
            if self._copy is None:  # else it is there since an attempt that failed behind it
                self._copy = appender.succeed(header, self._run(segment, tail))
            writer = self._copy
            if target.base > writer.next_offset or target.lost_segments:
                first = writer
                writer = appender.succeed(
                    appender.header_after(
                        first.header,
                        Mark(first.position, first.next_offset),
                        segment_id=target.segment_id,
                        base_offset=target.base,
                        reason=target.reason,
                    ),
                    (),
                )
                with suppress(OSError):  # all of it is durable
                    first.close()
        else:
            header = appender.header_after(
                old, tail.proven, segment_id=target.segment_id, base_offset=target.base, reason=target.reason
            )
            writer = appender.succeed(header, ())
        self._trim(segment, tail)
        return writer

    def _write_again(self, segment: SegmentReader, tail: Tail) -> None:
        """The suspect bytes stay in the old segment with the run before them: what was read must be on the disk before
        a successor declares it. Written as it reads: after a failed sync the disk may not have it, and another sync
        alone proves nothing (A7)."""
        file = self.segments.open(segment.name.file_name, write=True)
        try:
            at, end = tail.proven.position, tail.bad_end.position
            while at < end and (piece := file.read(at, min(_COPY_BYTES, end - at))):
                file.write(at, piece)
                at += len(piece)
            file.datasync()
        finally:
            file.close()

    def _run(self, segment: SegmentReader, tail: Tail) -> Iterator[StoredBatch]:
        """The valid batches behind the proven end, to be written anew."""
        for found in segment.walk(tail.proven.position, tail.proven.offset, tail.run_end.position):
            assert isinstance(found, Block)
            records = [record for record in found.records() if record is not None]
            if records:
                yield StoredBatch(records, found.header.time_ns, found.header.flags & ~L.FLAG_CLOSE)

    def _trim(self, segment: SegmentReader, tail: Tail) -> None:
        """Give back the zeros behind the last byte; bytes that were cut stay. Never fails: the successor is durable by
        now, and would be in the way of a second attempt."""
        try:
            size = segment.file.size()
            used = max(segment.last_non_zero(tail.proven.position, size), tail.proven.position)
            file = self.segments.open(segment.name.file_name, write=True)
            try:
                file.truncate(min(L.aligned(used), size))
            finally:
                file.close()
            segment.close()
        except OSError as error:
            logger.warning("%s keeps its preallocated space (%s)", segment.name.file_name, error)

    def _without_segments(self, log_id: bytes, meta: Meta | None) -> Appender:
        """A new log; or, where `meta` or a cursor remembers more, one that lost all its segments."""
        state = None if meta is None else meta.state
        target = without_segments(state, self.hint, self.states)
        name = N.SegmentName(target.base, target.segment_id or 0)
        header = first_header(self.clock, self.options, log_id, name, target.reason)
        if target.lost_segments:
            self.clean = False
            self.missing.append(OffsetRange(0 if state is None else state.start_offset, target.base - 1))
        appender = self._appender(log_id, Seen(name.segment_id, L.DATA_START, target.base), target.base)
        self._recovers(appender, lambda: appender.succeed(header, ()))
        if target.lost_segments:
            self._try(appender)
        else:
            appender.ready()  # a new log is not made on a full disk: `meta` without a segment tells of a loss
        return appender

    def _unreadable_last(self, log_id: bytes, meta: Meta | None, name: N.SegmentName, error: SeglogError) -> Appender:
        """No salt is left for the last segment: all its batches are out of reach. A jump goes over whatever it held."""
        size = self._size(name)
        base = behind_unreadable(name, None if meta is None else meta.state, self.states, self.hint)
        self.damage.append(Damage(name.file_name, 0, size, name.base_offset, base - 1, "segment header"))
        self.clean = False
        lost = first_header(self.clock, self.options, log_id, name)
        appender = self._appender(log_id, Seen(name.segment_id, L.DATA_START, name.base_offset), name.base_offset)
        header = appender.header_after(lost, Mark(max(size, L.DATA_START), base), reason="missing")
        header = header._replace(predecessor=header.predecessor._replace(salt=0) if header.predecessor else None)
        self._recovers(appender, lambda: appender.succeed(header, ()))
        self._try(appender)
        logger.error("%s", error)
        return appender

    def _size(self, name: N.SegmentName) -> int:
        with closing(self.segments.open(name.file_name)) as file:
            return file.size()

    def _note(self, segment: SegmentReader, tail: Tail, target: Target, verdict: Verdict) -> None:
        """For the report: what was found here."""
        self.clean = verdict.clean
        self.recovered = tail.run_end.offset - tail.proven.offset
        for found in tail.rot:
            made = block_damage(segment.name, found) if isinstance(found, Block) else [rot_damage(segment.name, found)]
            self.damage += made
        end = tail.run_end.offset
        if verdict.finding == "torn":
            self.torn_bytes = tail.last_byte - tail.run_end.position
        elif verdict.finding == "suspect":
            end = tail.bad_end.offset if tail.count_known else end + JUMP
            if end > tail.run_end.offset:
                self.suspect.append(OffsetRange(tail.run_end.offset, end - 1))
        if target.base > end:
            lost = target.lost_segments
            (self.missing if lost else self.skipped).append(OffsetRange(end, target.base - 1))
