"""What an open log directory offers to those who read it, whether or not this process writes it.

One class for both: with an appender the visible end is the appender's, without one it is the hint's.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, TypeVar

from seglog.appender import Appender
from seglog.catalog import Catalog, Meta
from seglog.clock import Clock
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Directory
from seglog.errors import (
    DamageFound,
    InvalidOption,
    LogClosed,
    LogForked,
    OffsetOutOfRange,
    storage_error,
    storage_errors,
)
from seglog.format import layout as L
from seglog.format.cursor_state import Seen
from seglog.format.extended import decode_extended
from seglog.format.meta_state import MetaState
from seglog.format.names import SegmentName
from seglog.horizon import HintHorizon
from seglog.model import Gap, Message, Origin, Start, Where
from seglog.reader import Hole, Run, Scan

T = TypeVar("T")
logger = logging.getLogger("seglog")
_POLL_SECONDS = 0.05  # how often another process's progress is looked at


@dataclass
class Source(Generic[T]):
    """The reading side of a log."""

    origin: Origin[T]
    catalog: Catalog
    clock: Clock
    dead_letters: DeadLetters
    root: Directory
    meta: Meta | None  # an opening of its own, only read: the register writes through another
    appender: Appender | None = None
    horizon: HintHorizon | None = None
    closed: bool = False
    forked: bool = False
    _progress: threading.Condition = field(default_factory=threading.Condition)
    _waiting: int = 0
    listeners: list[Callable[[], None]] = field(default_factory=list)  # called when somebody who waits should look
    changes: int = 0  # goes up with everything that somebody may wait for
    setbacks: int = 0  # goes up when something that was handled may be wanted again
    _said: MetaState | None = None  # what `meta` said last
    _floor: int = 0  # nothing below it is given out: what `meta` said last, or what was dropped since
    _dropped: tuple[int, int] = (0, 0)  # these two as in `meta`, with what it does not have yet
    _dropped_records: int = 0
    _look_again: float = 0.0  # when to ask `meta` the next time

    def check_open(self) -> None:
        """Raises LogClosed, LogForked."""
        if self.forked:
            raise LogForked("this log was opened before fork(); open it again in the child")
        if self.closed:
            raise LogClosed("the log is closed")

    def state(self) -> MetaState:
        """What `meta` says now (any process may have changed it); without it, what the listing says. What this process
        has dropped is in it already."""
        if self.meta is not None:
            try:
                state = self.meta.reload()
            except OSError as error:
                raise storage_error(error, "reading where the log begins") from error
        else:
            names = self.catalog.names
            state = MetaState(names[0].base_offset if names else 0)
        self._look_again = self.clock.monotonic() + _POLL_SECONDS
        with self._progress:  # what is dropped meanwhile must not be taken back by what `meta` said before
            self._said, state = state, self.overlaid(state, self._floor)
            self._floor, self._dropped = state.start_offset, state.dropped
            self._dropped_records = state.dropped_records
        return state

    def overlaid(self, state: MetaState, limit: int) -> MetaState:
        """`state` with what was given up here and is not in it yet, as far as that lies below `limit`."""
        start = max(state.start_offset, min(self._floor, limit))
        first, end = max(state.dropped, self._dropped, key=itemgetter(1))
        return state._replace(
            start_offset=start,
            dropped=(min(first, start), min(end, start)),
            dropped_records=max(state.dropped_records, self._dropped_records),  # nobody else drops any
        )

    def recent(self) -> MetaState:
        """What `meta` said a moment ago, with what this process has dropped since."""
        if self._said is None or self.clock.monotonic() >= self._look_again:
            return self.state()
        with self._progress:
            return self.overlaid(self._said, self._floor)

    def floor(self) -> int:
        """Nothing below it is given out any more. Other processes' word of it may be as old as they are waited for."""
        if self.clock.monotonic() >= self._look_again:
            self.state()
        return self._floor

    def drop(self, first: int, stop: int, records: int) -> None:
        """Give up `records` records, which lie from `first` to before `stop`, to stay within a limit.

        Nothing below `stop` is given out any more, from now on; `meta` is to follow.
        """
        with self._progress:
            before, end = self._dropped
            floor = max(self._floor, stop)
            # No call from here on, so that no interrupt strikes between: it is all told, or nothing is.
            self._dropped = (before if first <= end else first), stop
            self._dropped_records += records
            self._floor = floor

    def undone(self) -> bool:
        """Whether something was given up here that `meta` does not say yet."""
        if self.meta is None:
            return False
        noted = self.meta.state
        return self._dropped_records > noted.dropped_records or self._floor > noted.start_offset

    def scan(self, offset: int) -> Scan:
        return Scan(self.catalog, self.state, self.seen, offset, self.floor)

    def seen(self) -> Seen:
        """The visible end."""
        if self.appender is not None:
            return self.appender.visible
        assert self.horizon is not None
        try:
            return self.horizon.seen()
        except OSError as error:
            raise storage_error(error, "looking for the end of the log") from error

    def durable(self) -> Seen:
        """A place that is known to be durable: what a cursor remembers as proof for recovery."""
        if self.appender is not None:
            return self.appender.seen
        assert self.horizon is not None
        try:
            return self.horizon.durable()
        except OSError as error:
            raise storage_error(error, "looking for the durable end of the log") from error

    def first_offset(self) -> int:
        return self.state().start_offset  # not the first segment's: if that one is lost, readers are told of the gap

    def progressed(self) -> None:
        """The appender or a consumer moved on: wake who waits. Costs nothing while nobody does."""
        self.changes += 1
        if self._waiting:
            with self._progress:
                self._progress.notify_all()
        for listener in self.listeners:
            listener()

    def wait_beyond(
        self, offset: int, timeout: float, *, durable: bool = False, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Until the visible (or durable) end is beyond `offset`, at most `timeout` seconds; may return early.

        `unless` is asked once, when every later `progressed` is heard: whether what is waited for has happened already.
        """
        if self.appender is None:
            if not unless():
                self.clock.sleep(min(timeout, _POLL_SECONDS))
            return
        with self._progress:
            self._waiting += 1
            try:
                place = self.appender.seen if durable else self.appender.visible
                if place.end_offset <= offset and not self.closed and not unless():
                    self._progress.wait(timeout)
            finally:
                self._waiting -= 1

    def wait_for_change(self, changes: int, timeout: float) -> None:
        """Until `changes` is not this any more, at most `timeout` seconds; may return early."""
        with self._progress:
            self._waiting += 1
            try:
                if self.changes == changes and not self.closed:
                    self._progress.wait(timeout)
            finally:
                self._waiting -= 1

    def wake(self) -> None:
        """Everybody who waits looks again."""
        self.changes += 1
        with self._progress:
            self._progress.notify_all()
        for listener in self.listeners:
            listener()

    def resolve(self, where: Start) -> int:
        """The offset that "earliest", "latest", an offset or an aware datetime means."""
        end = self.seen().end_offset
        if where == "earliest":
            return min(self.first_offset(), end)
        if where == "latest":
            return end
        if isinstance(where, datetime.datetime):
            return self.offset_at(where)
        if isinstance(where, bool) or not isinstance(where, int):
            raise InvalidOption(f'{where!r}: expected "earliest", "latest", an offset or an aware datetime')
        if not 0 <= where <= end:
            raise OffsetOutOfRange(f"offset {where} is not between 0 and the visible end {end}")
        return max(where, min(self.first_offset(), end))

    def offset_at(self, when: datetime.datetime) -> int:
        """The first offset whose append time is at or after `when`, by the segments' advisory times."""
        if when.tzinfo is None:
            raise InvalidOption(f"{when!r} has no time zone; pass an aware datetime")
        wanted = int(when.timestamp() * 1e9)
        with storage_errors("looking for a time"):
            start = self._segment_before(wanted)
        scan = self.scan(max(start, self.first_offset()))
        try:
            while (found := scan.next()) is not None:
                if isinstance(found, Run) and found.time_ns >= wanted:
                    return found.first
        finally:
            scan.close()
        return self.seen().end_offset

    def _segment_before(self, wanted_ns: int) -> int:
        """The base of the last segment that was made before that time, by bisection over their headers."""
        names = self.catalog.names
        low, high = 0, len(names)
        while low < high:
            middle = (low + high) // 2
            header = self.catalog.facts(names[middle]).header
            if header is not None and header.created_ns >= wanted_ns:
                high = middle
            else:
                low = middle + 1
        return self._indexed(names[low - 1], wanted_ns) if low else 0

    def _indexed(self, name: SegmentName, wanted_ns: int) -> int:
        footer = self.catalog.facts(name).footer
        best = name.base_offset
        for entry in footer.entries if footer is not None else ():
            if entry.time_ns >= wanted_ns:
                break
            best = entry.offset
        return best

    def bytes_before(self, offset: int) -> int:
        """Bytes of all batches before the one that holds `offset`; before the first segment, of what is gone."""
        catalog = self.catalog
        try:
            name = catalog.holder(offset)
            if name is None:
                header = catalog.facts(catalog.names[0]).header if catalog.names else None
                return 0 if header is None else header.bytes_before
            segment = catalog.open(name)
        except (DamageFound, FileNotFoundError):
            return 0
        except OSError as error:
            raise storage_error(error, f"looking for offset {offset}") from error
        try:
            seen = self.seen()
            active = seen.segment_id == segment.name.segment_id
            end = None if active else catalog.end_of(segment.name)
            limit = seen.position if active else end.position if end is not None else segment.file.size()
            position, _ = catalog.locate(segment, offset, limit)
            return segment.header.bytes_before + position - L.DATA_START
        finally:
            segment.close()

    # -- records

    def get(self, offset: int) -> Message[T] | None:
        """See `Log.get`."""
        if offset < self.first_offset() or offset >= self.seen().end_offset:
            return None
        scan = self.scan(offset)
        try:
            found = scan.next()
        finally:
            scan.close()
        if isinstance(found, Run) and found.first == offset:
            return next(self._messages(found, offset + 1))
        if isinstance(found, Hole) and found.segment is not None:
            raise DamageFound(
                f"offset {offset}: {found.detail} in {found.segment.file_name} at byte {found.position}; "
                "seglog verify lists all damage",
                segment=found.segment.file_name,
                position=found.position,
                reason=found.detail,
            )
        return None

    def read(
        self, start: Where | None, stop: Where | None, on_gap: Callable[[Gap], None] | None, check: Callable[[], None]
    ) -> Iterator[Message[T]]:
        """See `Log.read`; `check` raises once the log is closed."""
        first = self.first_offset() if start is None else max(self._place(start), self.first_offset())
        return self._read(first, None if stop is None else self._place(stop), on_gap, check)

    def _place(self, where: Where) -> int:
        if isinstance(where, int) and not isinstance(where, bool):
            if where < 0:
                raise OffsetOutOfRange(f"offset {where} is negative")
            return where
        return self.resolve(where)

    def _read(
        self, offset: int, stop: int | None, on_gap: Callable[[Gap], None] | None, check: Callable[[], None]
    ) -> Iterator[Message[T]]:
        scan = self.scan(offset)
        try:
            while stop is None or scan.offset < stop:
                check()
                found = scan.next()
                if found is None:
                    return
                if isinstance(found, Run):
                    yield from self._messages(found, stop)
                    continue
                last = found.stop if stop is None else min(found.stop, stop)
                if last <= found.first:
                    return
                gap = Gap(found.first, last - 1, found.reason)
                if on_gap is not None:
                    on_gap(gap)
                else:
                    logger.warning("read: offsets %d to %d: %s", gap.first_offset, gap.last_offset, gap.reason)
        finally:
            scan.close()

    def _messages(self, run: Run, stop: int | None) -> Iterator[Message[T]]:
        for offset, stored in enumerate(run.records, run.first):
            if stop is not None and offset >= stop:
                return
            payload, extras = decode_extended(stored) if run.extended else (stored, None)
            yield Message(offset, payload, run.time_ns, self.origin, extras)
