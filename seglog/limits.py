"""How much may wait for consumers: `max_bytes` and `max_records`, and what happens when that much is there.

What an append may need is promised to it before it is queued, so that never more is accepted than fits, whichever
appends meet in a commit. Nobody gives a promise back: what is still to come is counted anew whenever the log seems
full, and an append that was refused or interrupted is then not among it. No lock of the commits is held in here.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from seglog.appender import Appender
from seglog.cursor_files import read_cursors
from seglog.errors import LogClosed, LogFull, storage_errors
from seglog.format import layout as L
from seglog.format.cursor_state import Seen
from seglog.format.meta_state import RemovedRange
from seglog.format.names import CURSORS
from seglog.gauge import Gauge
from seglog.group_commit import Ticket
from seglog.options import LogOptions
from seglog.source import Source

T = TypeVar("T")
logger = logging.getLogger("seglog")

LOOK_SECONDS = 0.05  # how old word of other processes' consumers may be while somebody waits
WARN_SECONDS = 5.0
RECLAIM_SECONDS = 0.1  # how often it is tried to give back space, or to note in `meta` what was dropped
TELL_SECONDS = 60.0
# Of a batch, with the two batches without records that a sync and a close may put behind it, at most.
_BATCH_BYTES = 2 * L.BATCH_HEADER_BYTES + L.END_MARK_BYTES + L.ALIGNMENT + 2 * (L.BATCH_HEADER_BYTES + L.END_MARK_BYTES)
_RECORD_BYTES = L.EXTENDED.size  # of one that is committed together with extended ones
_TICKETS_MIN = 1000
_NO_LIMIT = 1 << 62


class Amount(NamedTuple):
    """Bytes of batches, and records."""

    bytes: int
    records: int

    def plus(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.records + other.records)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.bytes - other.bytes, self.records - other.records)


NOTHING = Amount(0, 0)


class Standing(NamedTuple):
    """Where consumption stands: the first offset that somebody may still want, and who is slowest ("" for nobody)."""

    offset: int
    slowest: str


class Limits(Generic[T]):
    """Lets appends in, one after the other. Thread-safe.

    `held` gives the watermarks of the consumers that are open here; `reclaim` gives disk space back, and never raises.
    """

    def __init__(
        self,
        options: LogOptions,
        source: Source[T],
        appender: Appender,
        held: Callable[[], dict[str, int]],
        reclaim: Callable[[], object],
    ) -> None:
        self.max_bytes = options.max_bytes
        self.max_records = options.max_records
        self.when_full = options.when_full
        self._limit = Amount(*(_NO_LIMIT if limit is None else limit for limit in (self.max_bytes, self.max_records)))
        self._source = source
        self._appender = appender
        self._held = held
        self._reclaim = reclaim
        self._gauge = Gauge(source.catalog)
        self._mutex = threading.Lock()
        self._line: deque[weakref.ref[Ticket]] = deque()  # who waits: first come, first served
        self._promised: list[weakref.ref[Ticket]] = []  # admitted; those that are settled are dropped now and then
        self._tidy_at = _TICKETS_MIN
        self._room: Amount | None = None  # for so much more, when that was counted; less what got in since
        self._slowest = ""
        self._setbacks = -1  # of the source, when that was counted
        self._passed = NOTHING  # what lay before the first that somebody wanted when room was made last
        self._passed_setbacks = -1
        self._others: dict[str, int] = {}  # watermarks of consumers that are not open here
        self._look_again = -1.0
        self._removed: tuple[tuple[RemovedRange, ...], list[tuple[int, Amount]]] = ((), [])
        self._reclaim_at = -1.0
        self._reclaimed = -1
        self._dropped = 0  # since that was told
        self._tell_at = -1.0
        self._closing = False
        self._withdrawn: weakref.WeakSet[Ticket] = weakref.WeakSet()

    # -- letting in

    def admit(self, ticket: Ticket, timeout: float | None) -> None:
        """Return once there is room for these records. Raises LogFull, LogClosed, StorageError: not accepted.

        `timeout`: seconds to wait under when_full="block"; None: no limit.
        """
        need = needed(ticket)
        with self._mutex:
            if self._admits(ticket, need):
                return
        self._check_alone(need)
        try:
            self._wait(ticket, need, timeout)
        except BaseException:
            ticket.done = True  # nothing of it is to come, however long somebody keeps it, or the traceback
            raise
        finally:
            with self._mutex:
                self._line = deque(other for other in self._line if other() not in (None, ticket))
                others = bool(self._line)
            if others:
                self._source.wake()  # one of them is first now

    def admit_at_once(self, ticket: Ticket) -> bool:
        """As `admit`, if that takes no look at the disk and no waiting; False if it would."""
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            return self._admits(ticket, needed(ticket))
        finally:
            self._mutex.release()

    def withdraw(self, ticket: Ticket) -> None:
        """Who waits in `admit` with this ticket gets LogFull, if it is not too late. Waits for nobody."""
        self._withdrawn.add(ticket)
        self._source.wake()

    def settled(self) -> None:
        """Some of those that were admitted are settled, or gone: what they were promised may be too much now."""
        if self._line:
            self._source.wake()
        if self._dropped and self._source.clock.monotonic() >= self._tell_at:
            self._tell_of_dropped()

    def _admits(self, ticket: Ticket, need: Amount) -> bool:
        """By what was counted last."""
        if self._line or self._setbacks != self._source.setbacks or not self._has_room(need):
            return False
        self._promise(ticket, need)
        return True

    def _wait(self, ticket: Ticket, need: Amount, timeout: float | None) -> None:
        clock = self._source.clock
        begun = clock.monotonic()
        blocks = self.when_full == "block"
        warned = waits = tried = False
        while True:
            changes = self._source.changes
            waited = clock.monotonic() - begun
            self._appender.check()  # one that failed lets nobody in, however much room there is
            with self._mutex, storage_errors("looking how full the log is"):
                if self._closing:
                    raise LogClosed("the log is closed")
                if ticket in self._withdrawn:
                    raise LogFull("given up before there was room")
                if self._is_first(ticket) and self._makes_room(need):
                    self._promise(ticket, need)
                    if waits:
                        self._line.popleft()
                    return
                # Under "drop_oldest" nothing but what other appends were promised is waited for.
                ends = self.when_full == "error" or (blocks and timeout is not None and waited >= timeout)
                reclaims = self._is_first(ticket) and not (ends and tried) and self._may_reclaim()
                if ends and not reclaims:
                    raise LogFull(self._described())
                if not waits and not ends:  # only who found it full stands in the way of others
                    waits = True
                    self._line.append(weakref.ref(ticket))  # weak, as promises are: who is gone stands in nobody's way
                why = self._described()
            if reclaims:
                self._reclaim()  # segments that are acked behind an unacked one count no more once they are gone
                self._reclaimed, tried = self._source.changes, True
                continue
            if blocks and not warned and waited >= WARN_SECONDS:
                warned = True
                logger.warning("an append waits since %.0f s: %s", waited, why)
            pause = LOOK_SECONDS if timeout is None or not blocks else min(LOOK_SECONDS, timeout - waited)
            self._source.wait_for_change(changes, pause)

    def _is_first(self, ticket: Ticket) -> bool:
        while self._line and ((first := self._line[0]()) is None or first.done):
            self._line.popleft()
        return not self._line or self._line[0]() is ticket

    def _check_alone(self, need: Amount) -> None:
        if self.max_records is not None and need.records > self.max_records:
            raise LogFull(f"{need.records} records can never fit into max_records={self.max_records}")
        if self.max_bytes is not None and need.bytes > self.max_bytes:
            raise LogFull(f"a batch of up to {need.bytes} bytes can never fit into max_bytes={self.max_bytes}")

    def _promise(self, ticket: Ticket, need: Amount) -> None:
        assert self._room is not None
        self._promised.append(weakref.ref(ticket))  # the promise ends with the ticket, however that comes about
        self._room = self._room.minus(need)
        if len(self._promised) > self._tidy_at:
            self._pending()
            self._tidy_at = max(_TICKETS_MIN, 2 * len(self._promised))

    def _has_room(self, need: Amount) -> bool:
        """By what was counted last; by now it may be more, or less if a consumer of another process stepped back."""
        room = self._room
        return room is not None and need.bytes <= room.bytes and need.records <= room.records

    def _fits(self, used: Amount) -> bool:
        return used.bytes <= self._limit.bytes and used.records <= self._limit.records

    # -- counting

    def used(self) -> Amount:
        """What is there and not yet consumed. Raises StorageError."""
        with self._mutex, storage_errors("looking how full the log is"):
            return self._written().minus(self._before(self._standing(fresh=True).offset))

    def _described(self) -> str:
        """Why there is no room, in words."""
        used = self._limit.minus(self._room or NOTHING)
        parts = []
        if self.max_records is not None:
            parts.append(f"{used.records} of max_records={self.max_records} records")
        if self.max_bytes is not None:
            parts.append(f"{used.bytes} of max_bytes={self.max_bytes} bytes")
        who = f"the slowest consumer is {self._slowest!r}" if self._slowest else "no consumer is registered"
        return f"the log is full: {' and '.join(parts)} are not consumed, or promised to appends under way; {who}"

    def _makes_room(self, need: Amount) -> bool:
        """Count anew."""
        self._count()
        return self._has_room(need)

    def _may_reclaim(self) -> bool:
        """Whether it is worth while to give back space now; then the caller does, without the mutex: it takes syncs,
        and a logging handler that hears of it may append to this very log."""
        now = self._source.clock.monotonic()
        if self.when_full == "drop_oldest":
            return False
        if self._reclaimed == self._source.changes and now < self._reclaim_at:
            return False
        self._reclaim_at = now + RECLAIM_SECONDS
        return True

    def _count(self) -> None:
        """How far the log may reach, and how far it is consumed."""
        self._setbacks = self._source.setbacks
        pending = self._pending()  # first: what is settled in between is then counted twice, not never
        if self.when_full == "drop_oldest":  # the other records make room when it comes to writing
            self._room = self._limit.minus(pending)
            return
        ahead = self._written().plus(pending)
        standing = self._standing(fresh=True)
        self._slowest = standing.slowest
        self._room = self._limit.minus(ahead.minus(self._before(standing.offset)))

    def _pending(self) -> Amount:
        """What is admitted and not settled."""
        tickets = [ticket for ref in self._promised if (ticket := ref()) is not None and not ticket.done]
        self._promised = [weakref.ref(ticket) for ticket in tickets]
        total = NOTHING
        for ticket in tickets:
            total = total.plus(needed(ticket))
        return total

    def _written(self) -> Amount:
        totals = self._appender.totals
        if totals is not None:
            return Amount(*totals)
        end = self._appender.written  # recovery waits for the disk
        return Amount(
            self._gauge.bytes_before(end.end_offset, end), self._source.catalog.records_before(end.end_offset)
        )

    def _before(self, offset: int) -> Amount:
        """What lies before an offset, and what was removed behind it."""
        size = 0 if self.max_bytes is None else self._gauge.bytes_before(offset, self._appender.written)
        total = Amount(size, self._source.catalog.records_before(offset))
        for end, gone in self._gone():
            if end > offset:
                total = total.plus(gone)
        return total

    def _gone(self) -> list[tuple[int, Amount]]:
        """The removed ranges: end offset, and what was in them."""
        removed = self._source.recent().removed
        if removed != self._removed[0]:
            catalog, gauge, end = self._source.catalog, Gauge(self._source.catalog), self._appender.written
            found = []
            try:
                for r in removed:
                    size = gauge.bytes_before(r.end_offset, end) - gauge.bytes_before(r.first_offset, end)
                    records = catalog.records_before(r.end_offset) - catalog.records_before(r.first_offset)
                    found.append((r.end_offset, Amount(size, records)))
            finally:
                gauge.close()
            self._removed = removed, found
        return self._removed[1]

    def _standing(self, *, fresh: bool) -> Standing:
        """Where the slowest consumer stands: one that is open here by its own word, others by their cursors."""
        source, now = self._source, self._source.clock.monotonic()
        state = source.state() if fresh else source.recent()
        marks = self._held()
        names = {name for name, _ in state.consumers} - marks.keys()
        uncertain = source.meta is None or not source.meta.file.whole  # then every cursor may be a consumer's
        if uncertain or names:
            if fresh or now >= self._look_again or not names <= self._others.keys():
                self._others = self._read_cursors(names)
                self._look_again = now + LOOK_SECONDS
            marks.update((name, mark) for name, mark in self._others.items() if uncertain or name in names)
        slowest = min(marks, key=lambda name: marks[name], default="")
        return Standing(max(source.floor(), marks.get(slowest, 0)), slowest)

    def _read_cursors(self, names: set[str]) -> dict[str, int]:
        """Watermarks; 0 where a cursor is missing or does not read back: its consumer begins again at the start."""
        cursors = self._source.root.directory(CURSORS)
        try:
            states = read_cursors(cursors, bytes.fromhex(self._source.origin.log_id))
        finally:
            cursors.close()
        found = {name: 0 if state is None else state.watermark for name, state in states.items()}
        return {**dict.fromkeys(names, 0), **found}

    # -- dropping

    def make_room(self, count: int, size: int) -> None:
        """Before `count` records in `size` bytes of body are written: give up just as many of the oldest as it takes.

        Called by the one who writes, so that what is there is known exactly. Raises StorageError.
        """
        with self._mutex, storage_errors("making room"):
            wanted = self._written().plus(Amount(size + _BATCH_BYTES, count))
            if self._passed_setbacks == self._source.setbacks and self._fits(wanted.minus(self._passed)):
                return
            self._passed_setbacks = self._source.setbacks
            # Dropping what was consumed a moment ago harms nobody, so older word of other processes will do.
            standing = self._standing(fresh=False)
            self._passed = self._before(standing.offset)
            if not self._fits(wanted.minus(self._passed)):
                self._passed = self._drop(wanted, standing, self._passed)

    def _drop(self, wanted: Amount, standing: Standing, before: Amount) -> Amount:
        end, stop, behind = self._appender.written, standing.offset, before
        while stop < end.end_offset and not self._fits(wanted.minus(behind)):
            stop = max(stop + 1, self._far_enough(wanted, behind, stop, end))
            behind = self._before(stop)
        count = behind.records - before.records
        self._source.drop(standing.offset, stop, count)
        self._dropped += count
        self._slowest = standing.slowest
        now = self._source.clock.monotonic()
        if now >= self._reclaim_at:
            self._reclaim()
            self._reclaim_at = now + RECLAIM_SECONDS
        return behind

    def _tell_of_dropped(self) -> None:
        """Without a lock, and while nobody commits for us: a logging handler may append to this very log."""
        with self._mutex:
            count, slowest = self._dropped, self._slowest
            self._dropped, self._tell_at = 0, self._source.clock.monotonic() + TELL_SECONDS
        who = f"consumer {slowest!r} is the slowest" if slowest else "no consumer is registered"
        if count:
            logger.warning("%d records were dropped to stay within the limit; %s", count, who)

    def _far_enough(self, wanted: Amount, behind: Amount, start: int, end: Seen) -> int:
        """The first offset from `start` on by which both limits are kept, if no removed range lies before it."""
        stop = start
        if self.max_bytes is not None:
            removed = behind.bytes - self._gauge.bytes_before(start, end)
            stop = max(stop, self._gauge.offset_behind(wanted.bytes - self.max_bytes - removed, start, end))
        if self.max_records is not None:
            catalog = self._source.catalog
            removed = behind.records - catalog.records_before(start)
            stop = max(stop, catalog.offset_behind(wanted.records - self.max_records - removed, start))
        return min(stop, end.end_offset)

    def refuse(self) -> None:
        """Who waits gets LogClosed, and nobody looks at the disk any more."""
        with self._mutex:
            self._closing = True
        self._source.wake()

    def close(self) -> None:
        """Close files and nothing else."""
        self._gauge.close()


def needed(ticket: Ticket) -> Amount:
    """What a ticket may take, at most."""
    count = len(ticket.payloads)
    return Amount(ticket.size + _BATCH_BYTES + count * _RECORD_BYTES, count)
