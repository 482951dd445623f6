"""The public object: one directory, appended to by one process, read and consumed by any number.

It puts the parts together and keeps no logic of its own: appender and group commit write, scans read, consumers
keep their place, the registry and compaction share `meta`.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from seglog.consumers.consumer import MAX_IN_FLIGHT, Consumer
from seglog.consumers.registry import Registry
from seglog.consumers.retry import Backoff, RetryPolicy
from seglog.consumers.roster import Roster
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Disk
from seglog.errors import ReadOnly, storage_errors
from seglog.group_commit import GroupCommit, Ticket
from seglog.housekeeping import Housekeeping
from seglog.intake import Intake
from seglog.limits import Limits
from seglog.model import (
    CompactReport,
    ConsumerStats,
    Gap,
    LogStats,
    Message,
    OpenReport,
    Record,
    Start,
    Where,
)
from seglog.opening import Opened
from seglog.options import (
    GROUP_COMMIT_BYTES,
    LogOptions,
    seconds,
    whole,
)
from seglog.replay import Replay
from seglog.source import Source
from seglog.survey import survey
from seglog.syncer import Syncer
from seglog.view import View

T = TypeVar("T")
logger = logging.getLogger("seglog")

_open_logs: weakref.WeakSet[Log[Any]] = weakref.WeakSet()


class Log(Generic[T]):
    """One open log directory. Thread-safe. Made by `seglog.open`."""

    def __init__(
        self,
        options: LogOptions,
        source: Source[T],
        disk: Disk,
        path: str,
        report: OpenReport,
        opened: Opened | None,
        view: View | None,
    ) -> None:
        self._options = options
        self._source = source
        registry = None if opened is None else Registry(opened.cursors, opened.meta)
        self._roster = Roster(source, registry, path)
        self._intake = Intake(options, source.origin, source.clock)
        self._disk = disk
        self._path = path
        self._report = report
        self._opened = opened
        self._view = view
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = True  # until it is made: whatever is raised in here, nobody has it to close
        self._forked = False
        self._syncer: Syncer | None = None
        self._commits: GroupCommit | None = None
        self._limits: Limits[T] | None = None
        self._housekeeping = Housekeeping(source, options, self._roster.registry)
        if opened is not None:
            self._commits = GroupCommit(opened.appender.commit, max_bytes=GROUP_COMMIT_BYTES)
            if options.durability == "interval":
                self._syncer = Syncer(opened.appender, self._commits, options.sync_interval)
            opened.appender.on_progress = source.progressed
            # It does not know the log: `__del__`.
            opened.appender.on_rotation = opened.appender.on_full = self._housekeeping.reclaim
            self._housekeeping.set_retention()
            if options.limited:
                marks, reclaim = self._roster.watermarks, self._housekeeping.reclaim
                self._limits = Limits(options, source, opened.appender, marks, reclaim)
                self._commits.on_settled = self._limits.settled
                if options.when_full == "drop_oldest":
                    opened.appender.make_room = self._limits.make_room
        replay = None
        if opened is not None and self._commits is not None:
            replay = Replay(self._intake, self._limits, self._commits, opened.appender)
        source.dead_letters.attach(source.check_open, replay)
        self._closed = False
        _open_logs.add(self)

    # -- what it is

    @property
    def id(self) -> str:
        """The log's identity, 32 hexadecimal digits, made at its creation."""
        return self._source.origin.log_id

    @property
    def report(self) -> OpenReport:
        """What opening found and did."""
        return self._report

    @property
    def first_offset(self) -> int:
        """The lowest offset that may still be there."""
        self._check_open()
        return self._source.first_offset()

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets, at least."""
        self._check_open()
        appender = self._source.appender
        return appender.next_offset if appender is not None else self._source.seen().end_offset

    @property
    def durable_offset(self) -> int:
        """Every record below it is fsynced."""
        self._check_open()
        appender = self._source.appender
        return appender.durable_offset if appender is not None else self._source.durable().end_offset

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be handled; iterable, oldest first. It can be deleted, and appended anew."""
        return self._source.dead_letters

    # -- appending

    def append(
        self,
        value: T,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """Append one record and return its offset, once it is durable (under `durability="always"`).

        Args:
            value: bytes, or what the log's serializer takes.
            key, headers: stored beside it, never interpreted.
            delay: seconds before consumers get it.
            ttl: seconds after which consumers no longer get it.
            timeout: seconds to wait while the log is full, under when_full="block" (None: no limit, 0: not at all).

        Raises RecordTooLarge, SerializeError, LogFull, DiskFull, StorageError, LogClosed, ReadOnly: not accepted.
        Raises LogFailed: not known; in or out is decided when the log is opened again.
        """
        if key is None and headers is None and delay is None and ttl is None and type(value) is bytes:
            ticket = self._intake.plain(value)
        else:
            ticket = self._intake.ticket([Record(value, key, headers, delay, ttl)])
        self._admitted(ticket, timeout).commit(ticket)
        return ticket.base_offset

    def append_many(self, values: Iterable[T | Record[T]], timeout: float | None = None) -> range:
        """Append all of these or none, and return their offsets once they are durable.

        `values`: values, or `Record`s with what accompanies them; `timeout` in seconds, as in `append`. One batch,
        never split: raises RecordTooLarge before any byte is written if it exceeds the batch limit of 64 MiB (or the
        largest record). Otherwise as `append`.
        """
        ticket = self._intake.batch(values)
        if not ticket.payloads:
            self._writable()
            return range(self.next_offset, self.next_offset)
        self._admitted(ticket, timeout).commit(ticket)
        return range(ticket.base_offset, ticket.base_offset + len(ticket.payloads))

    def submit(
        self,
        value: T,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Future[int]:
        """Append without waiting for the disk: the future has the offset once the record is durable, or the error.

        `value`, `key`, `headers`, and in seconds `delay`, `ttl` and `timeout`, as in `append`. Raises what refuses the
        record before it is queued (LogFull, RecordTooLarge …), as that does.
        """
        ticket = self._intake.ticket([Record(value, key, headers, delay, ttl)])
        ticket.future = Future()
        self._admitted(ticket, timeout).submit(ticket)
        return ticket.future

    def sync(self) -> None:
        """All that was appended is durable on return. Raises LogFailed, after which it is not known."""
        opened = self._writer_parts()
        self._writable().exclusively(opened.appender.sync)

    def wait_durable(self, offset: int, timeout: float | None = None) -> None:
        """Return when `durable_offset` > `offset`. Raises TimeoutError after `timeout` seconds, LogClosed."""
        opened = self._writer_parts()
        clock = self._source.clock
        deadline = None if timeout is None else clock.monotonic() + seconds("timeout", timeout)
        while opened.appender.durable_offset <= offset:
            self._check_open()
            left = 1.0 if deadline is None else deadline - clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"offset {offset} is not durable yet")
            self._source.wait_beyond(offset, min(left, 1.0), durable=True)

    def _writable(self) -> GroupCommit:
        commits = self._commits
        if commits is None or self._closed or self._forked:
            self._check_open()
            raise ReadOnly('the log was opened with mode "r"')
        if self._syncer is not None:
            self._syncer.start()
        return commits

    def _admitted(self, ticket: Ticket, timeout: float | None) -> GroupCommit:
        """Where the ticket is to be committed, once the limits let it in."""
        commits = self._writable()
        commits.check_thread()
        if timeout is not None:
            seconds("timeout", timeout)
        if self._limits is not None:
            self._limits.admit(ticket, timeout)
        return commits

    def _writer_parts(self) -> Opened:
        self._check_open()
        if self._opened is None:
            raise ReadOnly('the log was opened with mode "r"')
        return self._opened

    # -- reading

    def get(self, offset: int) -> Message[T] | None:
        """The record at `offset`; None if it was never there or is gone. Raises DamageFound, StorageError."""
        self._check_open()
        whole("offset", offset, -(1 << 63), 1 << 63)
        return self._source.get(offset)

    def read(
        self, start: Where | None = None, stop: Where | None = None, on_gap: Callable[[Gap], None] | None = None
    ) -> Iterator[Message[T]]:
        """Iterate over the records from `start` to before `stop`, ending at the visible end.

        Args:
            start, stop: an offset or an aware datetime; None for the first and the visible end.
            on_gap: called for each gap that is passed over; without it a warning is logged.

        Raises StorageError if the disk does not read. The iterator is not thread-safe.
        """
        self._check_open()
        return self._source.read(start, stop, on_gap, self._check_open)

    # -- consumers

    def consumer(
        self,
        name: str,
        start: Start = "earliest",
        *,
        lease: float | None = None,
        max_attempts: int | None = None,
        backoff: Backoff = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Consumer[T]:
        """The consumer of this name, registered if it is new (durable on return).

        Args:
            name: 1 to 64 of A-Z a-z 0-9 . _ - , beginning with a letter or digit.
            start: "earliest", "latest", an offset or an aware datetime; only when the name is new.
            lease: seconds, on the monotonic clock, after which a message that was not answered has failed and comes
                again; None: it stays hidden until it is nacked, or the consumer is closed.
            max_attempts: a message whose delivery of this number fails (nacked, lease over, or the process died with
                nothing else in flight) becomes a dead letter, "exhausted"; None: it is tried for ever.
            backoff: what a failed message waits before it comes again: seconds, doubled with each further failure up to
                an hour, or a function from the number of failures to seconds; None: nothing.
            max_in_flight: messages given out and not yet answered, at most (1 to 10,000).
            on_gap: called for each range of offsets that will not come; without it a warning is logged.

        How often each message failed survives the process (of the 512 that failed last, FORMAT.md §7.3). The other
        options last as long as the consumer is open. Twice on one Log it is the same object.

        Raises ConsumerBusy if another process holds it, InvalidOption (also for other options than it is open with),
        OffsetOutOfRange, StorageError.
        """
        self._check_open()
        policy = RetryPolicy(lease, max_attempts, backoff)
        return self._roster.consumer(name, start, policy, max_in_flight, on_gap)

    def consumers(self) -> dict[str, ConsumerStats]:
        """Every registered consumer and where it stands, those of other processes too. Raises StorageError."""
        self._check_open()
        with storage_errors("looking at the consumers"):
            return self._roster.stats()

    def remove_consumer(self, name: str) -> None:
        """Forget the consumer `name`, so that it pins nothing any more; durable on return.

        Raises UnknownConsumer, and ConsumerBusy while another process holds it.
        """
        self._check_open()
        self._roster.remove(name)
        self._source.wake()

    # -- housekeeping

    def compact(self) -> CompactReport:
        """Give back the segments that every registered consumer has passed; durable on return.

        What the writer was opened with as retention is kept. Without consumers nothing is reclaimed but by retention.
        Works beside a live writer too. Raises StorageError.
        """
        self._check_open()
        with storage_errors("compaction"):
            self._roster.flush()
            report = self._housekeeping.compact()
        self._source.wake()
        return report

    def purge(self) -> int:
        """All that was appended so far is gone, for every reader and consumer (they get a gap "purged").

        Returns how many records that were. Durable on return; the disk space is back but for the active segment's
        where the disk is full. Works beside other processes, also from one of them: up to the durable end then, and
        the writer's active segment stays. The dead letters stay. Raises StorageError.
        """
        self._check_open()
        with storage_errors("purging"):
            return self._housekeeping.purge(self._commits, None if self._opened is None else self._opened.appender)

    def stats(self) -> LogStats:
        """The log as it stands now. Raises StorageError."""
        self._check_open()
        with storage_errors("looking at the log"):
            return survey(self._source, self.consumers(), self._limits)

    def close(self) -> None:
        """Finish what is queued, leave a close marker, let go of lock and files. Twice is fine.

        Closes the log's consumers. Raises LogFailed if the last sync failed, StorageError if a file could not be closed
        (nothing that was acknowledged hangs on that).
        """
        with self._lock:
            if self._closed or self._forked:
                self._abandon()  # all of it again: an interrupt may have struck in the middle
                return
            if self._syncer is not None:
                self._syncer.stop()
        if self._limits is not None:
            self._limits.refuse()  # those who wait for room do not get it any more
        try:
            try:
                self._roster.close()
                if self._source.undone():
                    self._housekeeping.reclaim(wait=1.0)  # else what was dropped comes back at the next opening
            finally:
                if self._commits is not None and self._opened is not None:
                    self._commits.close(self._opened.appender.close)
        finally:
            with self._lock, storage_errors(f"closing {self._path}"):
                self._abandon()
            self._source.wake()

    def _abandon(self) -> None:
        """Close the files and nothing else."""
        self._closed = True
        self._source.closed = True
        with ExitStack() as parts:  # every one, whatever the others say
            for part in (self._source.root, self._source.meta, self._view, self._opened):
                if part is not None:
                    parts.callback(part.close)
            parts.callback(self._roster.abandon)
            if self._limits is not None:
                parts.callback(self._limits.close)

    def _after_fork(self) -> None:
        """In the child: this handle is dead. Closing our copies of the descriptors leaves the parent's lock alone."""
        self._forked = self._source.forked = True
        self._lock = threading.RLock()
        self._roster.after_fork()
        self._abandon()

    def _check_open(self) -> None:
        self._source.check_open()

    def __enter__(self) -> Log[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Log {self._path!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Log does not pickle; pass its path")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._forked:
            if self._syncer is not None:
                self._syncer.stop()
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
