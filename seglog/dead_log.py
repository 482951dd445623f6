"""The log in `dead/`: opened for each change under its own lock, and closed again (FORMAT.md §9, §10.10).

It holds envelopes. What its one consumer has handled was deleted, and compaction gives the space back. It never looks
into the log around it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from seglog.catalog import Catalog
from seglog.clock import Clock
from seglog.compact import compact
from seglog.consumers.cursor import Cursor, advanced
from seglog.consumers.registry import Registry
from seglog.cursor_files import read_cursors
from seglog.disk.base import Directory, Disk
from seglog.errors import DeadLetterWriteFailed, DiskFull, LogFull, LogLocked, SeglogError, StorageError
from seglog.format import layout as L
from seglog.format.cursor_state import Seen
from seglog.format.dead_letter import Envelope, decode_letter
from seglog.format.meta_state import MetaState
from seglog.format.names import CURSORS, DEAD, DELETED
from seglog.group_commit import Ticket
from seglog.intervals import Intervals
from seglog.model import Gap
from seglog.opening import Opened, open_for_writing
from seglog.options import KIB, MIB, RECORD_BYTES_MAX, LogOptions
from seglog.reader import Run, Scan
from seglog.view import View

logger = logging.getLogger("seglog")

LOCK_WAIT_SECONDS = 5.0
RESERVE_BYTES = 32 * KIB  # allocated behind the end: so much can still be diverted when the disk is full
SEGMENTS_AT_CAP = 16  # an entry that stays holds back the space of its neighbours, a sixteenth of the cap at most
_RECORD_BYTES = 32 * MIB  # the largest envelope of a segment, unless one needs more
_BATCH_BYTES = 8 * MIB
_BATCH_OVERHEAD = 256  # of a batch and the close marker behind it, at most
_SEGMENT_BYTES = 1 << 40  # rotation is decided here, not by the appender: on a full disk it has to wait

Found = tuple[int, Envelope] | Gap


@dataclass
class Contents:
    """What is in `dead/` at one moment."""

    catalog: Catalog
    state: Callable[[], MetaState]
    seen: Callable[[], Seen]
    log_id: bytes
    deleted: Intervals

    def everything(self, first: int = 0) -> Iterator[Found]:
        """Ids with their envelopes, deleted ones too as long as they are there; a gap for what does not read back."""
        scan = Scan(self.catalog, self.state, self.seen, max(first, self.state().start_offset))
        try:
            while (found := scan.next()) is not None:
                if not isinstance(found, Run):
                    yield Gap(found.first, found.stop - 1, found.reason)
                    continue
                for offset, payload in enumerate(found.records, found.first):
                    try:
                        yield offset, decode_letter(payload)
                    except ValueError:
                        yield Gap(offset, offset, "damaged")
        finally:
            scan.close()

    def entries(self, first: int = 0) -> Iterator[Found]:
        """The same without what was deleted; gaps only where an entry is lost."""
        for found in self.everything(first):
            if not isinstance(found, Gap):
                if found[0] not in self.deleted:
                    yield found
            elif found.reason not in ("purged", "skipped"):
                for start, stop in self.deleted.holes(found.first_offset, found.last_offset + 1):
                    yield Gap(start, stop - 1, found.reason)

    def __len__(self) -> int:
        """How many entries are kept, by the segments' own count: those that do not read back are among them."""
        count, end = self.catalog.records_before, self.seen().end_offset
        start = min(self.state().start_offset, end)
        gone = sum(count(stop) - count(first) for first, stop in self.deleted.overlap(start, end))
        return count(end) - count(start) - gone


@contextmanager
def reading(disk: Disk, root: Directory) -> Iterator[Contents | None]:
    """`dead/` below `root` as it is now, beside whoever changes it; None if there is nothing yet."""
    with ExitStack() as handles:
        try:
            dead = root.directory(DEAD)
        except FileNotFoundError:
            yield None
            return
        handles.callback(dead.close)
        view = View.open(disk, dead)
        if view is None:
            yield None
            return
        handles.callback(view.close)
        try:
            cursors = dead.directory(CURSORS)
        except FileNotFoundError:
            deleted = Intervals()
        else:
            handles.callback(cursors.close)
            deleted = _deleted(cursors, view.log_id, view.seen().end_offset)
        yield Contents(view.catalog, lambda: view.state, view.seen, view.log_id, deleted)


def _deleted(cursors: Directory, log_id: bytes, end: int) -> Intervals:
    """If the cursor does not read back, what was deleted and is still there counts as an entry again."""
    state = read_cursors(cursors, log_id).get(DELETED)
    if state is None or not _believable(state.watermark, end):
        return Intervals()
    return Intervals([(0, state.watermark), *state.acked])


def _believable(watermark: int, end: int) -> bool:
    """Nothing was ever deleted this far ahead; opening would have jumped."""
    return watermark <= end + L.SEGMENT_RECORDS_MAX


@contextmanager
def changing(
    disk: Disk, clock: Clock, root: Directory, file_mode: int, cap_bytes: int, *, largest: int = 0
) -> Iterator[DeadLog]:
    """`dead/` below `root`, made if need be, with its lock; `largest` is what one envelope may have, in bytes.

    Raises LogLocked after a bounded wait, StorageError.
    """
    record_bytes = min(max(_RECORD_BYTES, largest), RECORD_BYTES_MAX)
    options = LogOptions(max_record_bytes=record_bytes, segment_bytes=_SEGMENT_BYTES, file_mode=file_mode)
    dead = root.directory(DEAD, create=DEAD not in root.list())
    try:
        try:
            opened = open_for_writing(disk, clock, dead, options, wait=LOCK_WAIT_SECONDS)
        except LogLocked as error:
            raise LogLocked(
                f"{error} (another change of the dead letters; waited {LOCK_WAIT_SECONDS:.0f} s)"
            ) from error
        try:
            yield DeadLog(opened, cap_bytes)
        finally:
            try:
                opened.appender.close()
            finally:
                opened.lock.file.unlock()  # not by closing alone: a child forked meanwhile has a copy
                opened.close()
    finally:
        dead.close()


class DeadLog:
    """`dead/`, open for a change. Not thread-safe."""

    def __init__(self, opened: Opened, cap_bytes: int) -> None:
        self._appender = opened.appender
        self._catalog = opened.catalog
        self._meta = opened.meta
        self._cursors = opened.cursors
        self._registry = Registry(opened.cursors, opened.meta)
        self._cap_bytes = cap_bytes

    def contents(self) -> Contents:
        seen, log_id = self._appender.seen, self._meta.log_id
        deleted = _deleted(self._cursors, log_id, seen.end_offset)
        return Contents(self._catalog, lambda: self._meta.state, lambda: seen, log_id, deleted)

    # -- adding

    def append(self, payloads: Sequence[bytes]) -> None:
        """Durable on return. Raises DeadLetterWriteFailed at the cap (then none is in), StorageError."""
        batches = _batches(payloads)
        size = sum(size for _, size in batches)
        if self._used() + size > self._cap_bytes:
            self.reclaim()  # a deletion may have died before it came to this
        used = self._used()
        if used + size > self._cap_bytes:
            raise DeadLetterWriteFailed(
                f"it holds {used} bytes and may hold {self._cap_bytes}; delete entries or raise dead_letter_bytes"
            )
        if self._used_by_active() * SEGMENTS_AT_CAP >= self._cap_bytes:
            with suppress(DiskFull):  # then on in this one: it has the reserve
                self._appender.rotate()
        for batch, size in batches:
            self._appender.commit([Ticket(batch, None, size)])
        if not any(name == DELETED for name, _ in self._meta.state.consumers):
            self._make_deletable()
        self.reserve()

    def _make_deletable(self) -> None:
        """Register the consumer with the first entry: were the disk full by the time when one is to be deleted, it
        could not be."""
        try:
            with self._registry.locked():
                if DELETED not in self._registry.names():
                    self._registry.register(DELETED, self._meta.state.start_offset)
        except (SeglogError, OSError) as error:
            logger.warning("dead letters cannot be deleted yet: %s", error)

    def reserve(self) -> None:
        """Keep space for what is diverted when the disk is full; as much as the disk has."""
        try:
            self._appender.reserve(RESERVE_BYTES)
        except (SeglogError, OSError) as error:
            logger.warning("the dead-letter queue has no reserve: %s", error)

    def _used(self) -> int:
        """Bytes of the batches in all segments that are there."""
        total = self._used_by_active()
        for name in self._catalog.refresh()[:-1]:
            end = self._catalog.end_of(name)
            total += 0 if end is None else end.position - L.DATA_START
        return total

    def _used_by_active(self) -> int:
        return self._appender.written.position - L.DATA_START

    # -- deleting

    def delete(self, ranges: Intervals) -> int:
        """How many went. Durable on return; the space comes back where nothing is left of a segment.

        Raises LogFull if what is deleted is too scattered to be noted: then nothing is. Raises StorageError.
        """
        before = len(self.contents())
        cursor = self._cursor()
        try:
            acked = self._acked(cursor, ranges)
            if list(acked) != list(cursor.acked):
                cursor.store(*advanced(cursor.watermark, acked), {}, self._appender.seen)
        finally:
            cursor.close()
        gone = before - len(self.contents())
        self.reclaim()
        self.reserve()
        return gone

    def check_deletable(self, ranges: Intervals) -> None:
        """Raises what `delete` would raise, and changes nothing."""
        cursor = self._cursor()
        try:
            self._acked(cursor, ranges)
        finally:
            cursor.close()

    def _acked(self, cursor: Cursor, ranges: Intervals) -> Intervals:
        """What the cursor holds with these in it; never beyond the end, where entries are still to come."""
        acked, end = cursor.acked.copy(), self._appender.seen.end_offset
        for first, stop in ranges:
            acked.add(max(first, cursor.watermark), min(stop, end))
        if len(acked) > L.CURSOR_RANGES_MAX:
            raise LogFull(
                f"too scattered: {len(acked)} separate ranges of dead letters would be deleted, and at most "
                f"{L.CURSOR_RANGES_MAX} can be noted; delete the oldest ones first"
            )
        return acked

    def _cursor(self) -> Cursor:
        """The cursor of what was deleted, made if need be; to be closed by the caller."""
        cursor: Cursor | None = None
        try:
            with self._registry.locked():
                state = self._meta.state
                if DELETED not in self._registry.names():
                    self._registry.register(DELETED, state.start_offset)
                cursor = Cursor.open(self._cursors, DELETED, self._meta.log_id)
                if cursor is not None and not _believable(cursor.watermark, self._appender.seen.end_offset):
                    cursor.close()
                    cursor = None
                if cursor is None:
                    logger.warning("which dead letters were deleted does not read back; those still there are back")
                    self._registry.restart(DELETED, state.start_offset)
                    cursor = Cursor.open(self._cursors, DELETED, self._meta.log_id)
        except BaseException:
            if cursor is not None:
                cursor.close()
            raise
        if cursor is None:
            raise StorageError(
                5, "what is deleted cannot be noted: the cursor cannot be read even after it was made anew"
            )
        return cursor

    def reclaim(self) -> None:
        """Give back the segments of which nothing is left, the active one too. If that fails, it is tried again by
        the next deletion, and at the cap."""
        try:
            compact(self._catalog, self._registry)
            contents = self.contents()
            base, end = self._catalog.names[-1].base_offset, contents.seen().end_offset
            if end > base and not any(contents.deleted.holes(base, end)):
                self._appender.rotate()
                compact(self._catalog, self._registry)
        except (SeglogError, OSError) as error:
            logger.warning("the space of deleted dead letters is not given back yet: %s", error)


def _batches(payloads: Sequence[bytes]) -> list[tuple[list[bytes], int]]:
    """Batches of a moderate size, with the bytes that each takes."""
    made: list[tuple[list[bytes], int]] = []
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        if batch and size + len(payload) + 8 > _BATCH_BYTES:
            made.append((batch, size))
            batch, size = [], 0
        size = (size or _BATCH_OVERHEAD) + len(payload) + 8
        batch.append(payload)
    return [*made, (batch, size)] if batch else made
