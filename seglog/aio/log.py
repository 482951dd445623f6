"""The log as asyncio sees it: hands every call to the log that does the work, in its threads, and waits for the answer.

It keeps no logic of its own. Appends need no thread: their outcome is told by whoever commits them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from seglog.aio.bridge import Bridge
from seglog.aio.consumer import Consumer, GapsToTell
from seglog.aio.dead_letters import DeadLetters
from seglog.aio.line import Line, Waiting
from seglog.aio.news import News, heard
from seglog.aio.opening import Opening
from seglog.aio.ticket import Ticket
from seglog.consumers.consumer import MAX_IN_FLIGHT
from seglog.consumers.consumer import Consumer as SyncConsumer
from seglog.consumers.retry import Backoff
from seglog.group_commit import Ticket as Batch
from seglog.log import Log as SyncLog
from seglog.model import CompactReport, ConsumerStats, Gap, LogStats, Message, OpenReport, Record, Start, Where
from seglog.options import seconds

T = TypeVar("T")
_PAUSE_SECONDS = 1.0


class Log(Generic[T]):
    """One open log directory, for the tasks of one event loop. Made by `seglog.aio.open`."""

    def __init__(self, bridge: Bridge, log: SyncLog[T]) -> None:
        self._bridge = bridge
        self._log = log
        self._news = News(bridge)
        self._line = Line(bridge)
        self._consumers: WeakValueDictionary[str, Consumer[T]] = WeakValueDictionary()
        self._closing: asyncio.Task[None] | None = None
        self._dead_letters = DeadLetters(bridge, log.dead_letters)
        log._source.listeners.append(self._news.tell)

    # -- what it is

    @property
    def id(self) -> str:
        """The log's identity, 32 hexadecimal digits, made at its creation."""
        return self._log.id

    @property
    def report(self) -> OpenReport:
        """What opening found and did."""
        return self._log.report

    @property
    def first_offset(self) -> int:
        """The lowest offset that may still be there."""
        return self._log.first_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets, at least."""
        return self._log.next_offset

    @property
    def durable_offset(self) -> int:
        """Every record below it is fsynced."""
        return self._log.durable_offset

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be handled."""
        return self._dead_letters

    # -- appending

    async def append(
        self,
        value: T,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """Append one record and return its offset, once it is durable; as `seglog.Log.append`.

        Cancelled, the record is in or out. To learn which, `submit` it and await the ticket instead.
        """
        return await self._line.outcome(self.submit(value, key, headers, delay, ttl, timeout))

    async def append_many(self, values: Iterable[T | Record[T]], timeout: float | None = None) -> range:
        """Append all of these or none, and return their offsets once they are durable; as `seglog.Log.append_many`.

        Cancelled, all are in or none is.
        """
        self._bridge.check()
        batch = self._log._intake.batch(values)
        self._log._writable()
        if not batch.payloads:
            return range(self.next_offset, self.next_offset)
        first = await self._line.outcome(self._submit(batch, timeout))
        return range(first, first + len(batch.payloads))

    def submit(
        self,
        value: T,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Ticket:
        """Append without waiting: awaiting the ticket gives the offset once the record is durable, or the error.

        Awaiting may be cancelled: the append goes on, and `ticket.done()`, `ticket.result()` and awaiting it again
        tell what became of it. What is refused whatever the log's state is raised here.
        """
        self._bridge.check()
        return self._submit(self._log._intake.ticket([Record(value, key, headers, delay, ttl)]), timeout)

    def _submit(self, batch: Batch, timeout: float | None) -> Ticket:
        log = self._log
        commits, limits = log._writable(), log._limits
        limit = None if timeout is None else seconds("timeout", timeout)
        batch.future = Future()
        ticket = Ticket(self._bridge)
        if limits is None or (not self._line and limits.admit_at_once(batch)):
            commits.submit(batch)
            self._bridge.answer(batch.future, ticket.settle)
        else:
            self._line.enter(Waiting(ticket, batch, limits, commits), limit)
        return ticket

    async def sync(self) -> None:
        """All that was appended is durable on return. Raises LogFailed, after which it is not known."""
        await self._bridge.run(self._log.sync)

    async def wait_durable(self, offset: int, timeout: float | None = None) -> None:
        """Return when `durable_offset` > `offset`. Raises TimeoutError after `timeout` seconds, LogClosed."""
        self._log._writer_parts()
        limit = None if timeout is None else seconds("timeout", timeout)
        with self._news.listening() as event:
            try:
                async with asyncio.timeout(limit):
                    while self._log.durable_offset <= offset:
                        self._bridge.check()
                        event.clear()
                        await heard(event, _PAUSE_SECONDS)
            except TimeoutError:
                raise TimeoutError(f"offset {offset} is not durable yet") from None

    # -- reading

    async def get(self, offset: int) -> Message[T] | None:
        """The record at `offset`; None if it was never there or is gone. Raises DamageFound, StorageError."""
        return await self._bridge.run(lambda: self._log.get(offset))

    def read(
        self, start: Where | None = None, stop: Where | None = None, on_gap: Callable[[Gap], None] | None = None
    ) -> AsyncIterator[Message[T]]:
        """Iterate over the records from `start` to before `stop`, ending at the visible end; as `seglog.Log.read`.

        `on_gap` is called in the event loop. At most a mebibyte of records is read ahead, or one record.
        """

        def begin(tell: Callable[[Gap], None]) -> Iterator[Message[T]]:
            return self._log.read(start, stop, None if on_gap is None else tell)

        return self._bridge.stream(begin, lambda message: len(message.payload), on_gap)

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
    ) -> Opening[Consumer[T]]:
        """The consumer of this name, registered if it is new; as `seglog.Log.consumer`.

        To be awaited, or entered with `async with`. `on_gap` is called in the event loop, `backoff` in a thread.
        """
        make = partial(
            self._log.consumer,
            name,
            start,
            lease=lease,
            max_attempts=max_attempts,
            backoff=backoff,
            max_in_flight=max_in_flight,
            on_gap=None if on_gap is None else GapsToTell(on_gap),
        )
        return Opening(partial(self._consumer, make))

    async def _consumer(self, make: Callable[[], SyncConsumer[T]]) -> Consumer[T]:
        made = await self._bridge.run(make)
        known = self._consumers.get(made.name)
        if known is None or known._consumer is not made:
            known = self._consumers[made.name] = Consumer(self._bridge, made, self._news)
        return known

    async def consumers(self) -> dict[str, ConsumerStats]:
        """Every registered consumer and where it stands, those of other processes too."""
        return await self._bridge.run(self._log.consumers)

    async def remove_consumer(self, name: str) -> None:
        """Forget a consumer, so that it pins nothing any more; as `seglog.Log.remove_consumer`."""
        await self._bridge.run(lambda: self._log.remove_consumer(name))

    # -- housekeeping

    async def compact(self) -> CompactReport:
        """Give back the segments that every registered consumer has passed; durable on return."""
        return await self._bridge.run(self._log.compact)

    async def purge(self) -> int:
        """All that was appended so far is gone, for every reader and consumer; as `seglog.Log.purge`."""
        return await self._bridge.run(self._log.purge)

    async def stats(self) -> LogStats:
        """The log as it stands now. Raises StorageError."""
        return await self._bridge.run(self._log.stats)

    async def close(self) -> None:
        """Finish what was begun, leave a close marker, let go of lock, files and threads. Twice is fine.

        Who waits for messages or for room gets LogClosed. Cancelled, it goes on; closing again waits for its end.
        Raises LogFailed if the last sync failed.
        """
        self._bridge.check_loop()
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._line.close()
        await self._bridge.close(self._log.close)
        await self._line.ended()

    async def __aenter__(self) -> Log[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<seglog.aio.Log {self._log._path!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Log does not pickle; pass its path")
