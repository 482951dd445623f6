"""The writing end of a log: commits, rotation, the hint, the close marker (FORMAT.md §10.1, §10.2).

Order of a commit: write, sync, hint, answer. Everything here runs under the group commit's leadership, one
thread at a time; other threads only read `seen` and `next_offset`, which are replaced whole.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from seglog.catalog import Catalog
from seglog.clock import Clock
from seglog.errors import DiskFull, LogFailed, LogFull, storage_error, storage_errors
from seglog.format import layout as L
from seglog.format.checksum import compress
from seglog.format.cursor_state import Seen
from seglog.format.extended import encode_extended
from seglog.format.names import SegmentName
from seglog.format.segment_header import Predecessor, SegmentHeader
from seglog.group_commit import Ticket
from seglog.lock_file import LockFile
from seglog.options import DURABILITIES, LogOptions
from seglog.segment_writer import Mark, SegmentWriter, StoredBatch

logger = logging.getLogger("seglog")


def _nothing() -> None:
    return


class Appender:
    """Owns the active segment. `recover` makes it ready; on a full disk that waits for the first append."""

    def __init__(
        self,
        catalog: Catalog,
        lock: LockFile,
        clock: Clock,
        options: LogOptions,
        log_id: bytes,
        boot_id: bytes,
        *,
        seen: Seen,
        next_offset: int,
    ) -> None:
        self.seen = seen  # all before it is durable: segment, position, end offset
        self.next_offset = next_offset
        self.visible = seen  # readers may read to here: the same, except under "never"
        self.on_progress: Callable[[], None] = _nothing
        self.on_rotation: Callable[[], object] = _nothing
        self.on_full: Callable[[], object] = _nothing  # the disk is: whether that gave some of it back
        self.make_room: Callable[[int, int], None] | None = None  # before so many records and bytes of body are written
        self.segment_bytes = options.segment_bytes
        self._catalog = catalog
        self._lock = lock
        self._clock = clock
        self._options = options
        self._log_id = log_id
        self._boot_id = boot_id
        self.recover: Callable[[], SegmentWriter] | None = None  # set by the opening; used once
        self._writer: SegmentWriter | None = None
        self._outdated = False  # the next append opens a segment whose header says what is allowed now
        self._failure: str | None = None
        self._marked = True  # the segment ends with a close marker, or holds nothing that needs one

    @property
    def durable_offset(self) -> int:
        return self.seen.end_offset

    @property
    def written(self) -> Seen:
        """Like `seen`, for what is written, synced or not."""
        writer = self._writer
        return self.seen if writer is None else Seen(writer.header.segment_id, writer.position, writer.next_offset)

    @property
    def totals(self) -> tuple[int, int] | None:
        """Bytes of all batches that were ever written, in all segments, and records; None before it is ready."""
        writer = self._writer
        if writer is None:
            return None
        header = writer.header
        written = writer.position - L.DATA_START, writer.next_offset - header.base_offset
        return header.bytes_before + written[0], header.records_before + written[1]

    @property
    def compression(self) -> Callable[[bytes], bytes] | None:
        return compress if self._options.compression == "zstd" else None

    def check(self) -> None:
        """Raises LogFailed once a write or a sync has failed for good."""
        if self._failure is not None:
            raise LogFailed(errno.EIO, f"{self._failure}; what was in flight is decided when the log is opened again")

    def ready(self, *, marked: bool = False) -> SegmentWriter:
        """The active segment; finishes a recovery that had to wait. Raises StorageError while it has to."""
        self.check()
        writer = self._writer
        if writer is None:
            assert self.recover is not None
            try:
                writer = self.recover()
            except OSError as error:
                raise storage_error(error, "the log cannot be made ready for appends") from error
            self.recover = None
            self._install(writer)
            # In the other classes an empty segment needs its marker too: it says that no offset was shown unsynced.
            empty = writer.position == L.DATA_START and self._options.durability == "always"
            self._marked = marked or empty
            self._publish(writer, self._hint(writer, *writer.durable))
        return writer

    def commit(self, tickets: list[Ticket]) -> None:
        """Write the tickets' records as one batch; durable on return under durability "always"."""
        try:
            self._commit(tickets)
        except DiskFull:
            # Nothing was accepted. A rotation would give back what everybody has handled, but needs space itself.
            if not self.on_full():
                raise
            self._commit(tickets)

    def _commit(self, tickets: list[Ticket]) -> None:
        writer = self.ready()
        records, flags, size = _gather(tickets)
        count = len(records)
        if self.make_room is not None:
            self.make_room(count, size)
        if writer.next_offset + count > L.OFFSET_MAX:
            raise LogFull(f"offsets end at {L.OFFSET_MAX}; start a new log")
        if self._outdated or not writer.has_room(size, count):
            writer = self.rotate()
        try:
            base = self._write(writer, records, flags)
        except OSError as error:
            raise storage_error(error, f"append of {count} records ({size} bytes) was not accepted") from error
        if self._options.durability == "always" or self._marked:
            # In every class once: were a close marker still the last thing on disk when power fails, the next opening
            # would take it for the end, and give out again the offsets that were shown since.
            self._marked = False
            self._sync(writer)
        else:
            self.next_offset = writer.next_offset  # never before a sync that is due: what was shown is not used again
            if self._options.durability == "never":
                self.visible = self.written
                self.on_progress()
        for ticket in tickets:
            ticket.base_offset = base
            base += len(ticket.payloads)

    def _install(self, writer: SegmentWriter) -> None:
        """From now on this is the active segment. What its header declares must cover what the options allow."""
        header, options = writer.header, self._options
        self._writer = writer
        self._outdated = (
            DURABILITIES[header.durability] != options.durability
            or header.max_record_bytes < options.max_record_bytes
            or header.max_batch_bytes < options.max_batch_bytes
        )

    def _write(self, writer: SegmentWriter, records: Sequence[bytes], flags: int = 0) -> int:
        """Write a batch and return its base. After OSError it is not in the log; after anything else nobody knows."""
        try:
            try:
                return writer.write(records, self._clock.time_ns(), flags)
            except OSError as error:
                self._undo(writer, error)
                raise
        except OSError:
            raise
        except BaseException as error:
            self._fail(f"a write was interrupted ({type(error).__name__})")
            raise

    def _undo(self, writer: SegmentWriter, error: OSError) -> None:
        try:
            writer.cut_back()
        except OSError:
            self._fail(f"a failed write could not be taken back ({error})")
            raise LogFailed(errno.EIO, self._failure) from error

    def _fail(self, why: str) -> None:
        self._failure = why
        logger.error("append fails until the log is opened again: %s", why)

    def _sync(self, writer: SegmentWriter) -> None:
        hint = self._hint(writer, writer.position, writer.next_offset)
        try:
            writer.sync()
        except BaseException as error:
            # The kernel may have dropped the pages and forgotten the error: a second sync would prove nothing.
            self._fail(f"a sync failed ({error!r})")
            if isinstance(error, OSError):
                raise LogFailed(
                    error.errno, f"sync failed ({error.strerror}): the append is in or out", error.filename
                ) from error
            raise
        self._publish(writer, hint)

    def _hint(self, writer: SegmentWriter, position: int, offset: int) -> bytes:
        return self._lock.make_hint(writer.header.segment_id, position, offset, writer.header.salt, self._boot_id)

    def _publish(self, writer: SegmentWriter, hint: bytes) -> None:
        """Tell what is durable: in the hint, for other processes and the next opening, then here."""
        position, offset = writer.durable
        try:
            # After the sync, so that it never claims too much; unsynced, as an old hint is still true.
            self._lock.write_hint(hint)
            if writer.hint_due:
                # Once in a while: bounds what recovery must walk after a power cut.
                self._lock.sync()
                writer.hint_due = False
        except OSError as error:
            logger.warning("the hint could not be written (%s); recovery will read more, nothing is lost", error)
        self.seen = Seen(writer.header.segment_id, position, offset)
        self.next_offset = writer.next_offset
        self.visible = self.written if self._options.durability == "never" else self.seen
        self.on_progress()

    def sync(self) -> None:
        """All that was appended is durable on return, and a batch without records proves it."""
        writer = self.ready()
        if writer.position == writer.durable.position:
            return
        self._sync(writer)
        try:
            self._write(writer, ())
        except LogFailed:
            raise
        except OSError:
            return
        self._sync(writer)

    def sync_written(self) -> None:
        """All that was appended is durable on return."""
        writer = self.ready()
        if writer.position > writer.durable.position:
            self._sync(writer)

    def rotate(self) -> SegmentWriter:
        """Seal the active segment by making its successor, whose header says where it ends."""
        old = self.ready()
        if old.position > old.durable.position:
            # In every durability mode: the successor declares the end, so what lies before it must be there.
            self._sync(old)
        header = self.header_after(old.header, Mark(old.position, old.next_offset))
        try:
            new = SegmentWriter.create(
                self._catalog.segments, header, (), segment_bytes=self.segment_bytes, compress=self.compression
            )
            self._install(new)
        except LogFailed as error:
            self._fail(str(error))
            raise
        except OSError as error:
            raise storage_error(error, "a new segment could not be made; nothing was accepted") from error
        except BaseException as error:
            # The successor may be there, and says where this segment ends: nothing more may be appended to it.
            self._fail(f"a rotation was interrupted ({type(error).__name__})")
            raise
        self._catalog.add(new.name)
        self._publish(new, self._hint(new, *new.durable))
        try:
            try:
                # Only now: a footer on the last segment would say that its successor is lost.
                old.seal()
            finally:
                old.close()
        except OSError as error:
            logger.warning("%s keeps no footer (%s); reading does without", old.name.file_name, error)
        self.on_rotation()
        return new

    def reserve(self, length: int) -> None:
        """Have so many bytes allocated behind the end, if the disk has them: appends into them need no free space."""
        if self._writer is not None:
            self._writer.reserve(length)

    def header_after(
        self,
        old: SegmentHeader,
        end: Mark,
        *,
        segment_id: int | None = None,
        base_offset: int | None = None,
        reason: str = "",
        suspect_position: int = 0,
        floor: int = 0,
    ) -> SegmentHeader:
        """The header of the segment behind `old`, which it declares to end at `end`."""
        options = self._options
        number = old.segment_id + 1 if segment_id is None else segment_id
        if number > L.SEGMENT_ID_MAX:
            raise LogFull(f"segment ids end at {L.SEGMENT_ID_MAX}; start a new log")
        return SegmentHeader(
            log_id=self._log_id,
            segment_id=number,
            base_offset=end.offset if base_offset is None else base_offset,
            salt=new_salt(self._clock),
            durability=DURABILITIES.index(options.durability),
            jump_reason=L.JUMP_REASONS.index(reason),
            max_record_bytes=options.max_record_bytes,
            max_batch_bytes=max(options.max_batch_bytes, old.max_batch_bytes),
            bytes_before=min(old.bytes_before + end.position - L.DATA_START, L.OFFSET_MAX),
            records_before=min(old.records_before + end.offset - old.base_offset, L.OFFSET_MAX),
            born_position=0,
            born_offset=0,
            floor_offset=floor,
            predecessor=Predecessor(number - 1, end.position, end.offset, suspect_position, old.salt),
            created_ns=self._clock.time_ns(),
        )

    def succeed(self, header: SegmentHeader, run: Iterable[StoredBatch]) -> SegmentWriter:
        """Make a segment for recovery."""
        made = SegmentWriter.create(
            self._catalog.segments, header, run, segment_bytes=self.segment_bytes, compress=self.compression
        )
        self._catalog.add(made.name)
        return made

    def abandon(self) -> None:
        """Close the file and nothing else."""
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        """Leave a close marker if all before it is durable, so that the next opening just goes on."""
        writer = self._writer
        if writer is None:
            return
        try:
            self._leave_marker(writer)
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                writer.close()
            raise
        with storage_errors("closing the last segment"):
            writer.close()

    def _leave_marker(self, writer: SegmentWriter) -> None:
        try:
            if self._failure is not None:
                if self._options.durability != "always" and self.written != self.seen:
                    self.check()  # their appends returned before the sync that failed: nobody was told yet
                return
            if writer.position > writer.durable.position:
                self._sync(writer)  # the marker proves what is before it, so that must be durable first
            if not self._marked:
                self._write(writer, (), L.FLAG_CLOSE)
                self._sync(writer)
        except OSError as error:
            logger.warning("closed without a marker: %s", error)
            if isinstance(error, LogFailed):
                raise


def new_salt(clock: Clock) -> int:
    """A random odd 64-bit number (odd, so that multiplying by it loses nothing)."""
    return int.from_bytes(clock.random_bytes(8), "little") | 1


def first_header(
    clock: Clock, options: LogOptions, log_id: bytes, name: SegmentName, reason: str = ""
) -> SegmentHeader:
    """The header of a segment without a predecessor."""
    return SegmentHeader(
        log_id=log_id,
        segment_id=name.segment_id,
        base_offset=name.base_offset,
        salt=new_salt(clock),
        durability=DURABILITIES.index(options.durability),
        jump_reason=L.JUMP_REASONS.index(reason),
        max_record_bytes=options.max_record_bytes,
        max_batch_bytes=options.max_batch_bytes,
        bytes_before=0,
        records_before=name.base_offset,
        born_position=0,
        born_offset=0,
        floor_offset=0,
        predecessor=None,
        created_ns=clock.time_ns(),
    )


def _gather(tickets: list[Ticket]) -> tuple[Sequence[bytes], int, int]:
    """The stored records of all tickets, the batch's flags, and the size of lengths, checks and records."""
    if len(tickets) == 1:
        payloads, extras = tickets[0].payloads, tickets[0].extras
    else:
        payloads = [payload for ticket in tickets for payload in ticket.payloads]
        extras = None
        if any(ticket.extras is not None for ticket in tickets):
            extras = [extra for ticket in tickets for extra in ticket.extras or [None] * len(ticket.payloads)]
    if extras is None:
        return payloads, 0, sum(ticket.size for ticket in tickets)
    records = [encode_extended(payload, extra) for payload, extra in zip(payloads, extras, strict=True)]
    return records, L.FLAG_EXTENDED, sum(map(len, records)) + 8 * len(records)
