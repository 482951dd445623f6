"""A consumer as asyncio sees it. Waiting for messages occupies no thread; what a cancelled task was given goes back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from seglog.aio.acks import Acks
from seglog.aio.bridge import Bridge
from seglog.aio.news import News, heard
from seglog.consumers.consumer import Consumer as SyncConsumer
from seglog.errors import LogClosed
from seglog.model import ConsumerStats, Gap, Message, Start
from seglog.options import seconds

T = TypeVar("T")
_LOOK_SECONDS = 0.05  # how often another process's progress is looked at: it tells nobody of it


class GapsToTell:
    """Gaps that a thread met and the loop is to be told of. Equal if they are told to the same function."""

    def __init__(self, on_gap: Callable[[Gap], None]) -> None:
        self._on_gap = on_gap
        self._met: deque[Gap] = deque()

    def __call__(self, gap: Gap) -> None:
        self._met.append(gap)

    def tell(self) -> None:
        while self._met:
            self._on_gap(self._met.popleft())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GapsToTell) and self._on_gap == other._on_gap

    def __hash__(self) -> int:
        return hash(self._on_gap)


class Consumer(Generic[T]):
    """A named reader with a durable cursor, for the tasks of one event loop. Made by `Log.consumer`."""

    def __init__(self, bridge: Bridge, consumer: SyncConsumer[T], news: News) -> None:
        self.name = consumer.name
        self._bridge = bridge
        self._consumer = consumer
        self._news = news
        self._gaps = consumer._on_gap
        self._acks: Acks[T] = Acks(bridge, consumer.ack)
        self._reads_only = consumer._source.appender is None
        self._turn = asyncio.Lock()  # of all tasks that wait for messages, one looks

    # -- receiving

    async def receive(self, timeout: float | None = 0) -> Message[T] | None:
        """The next message, or None if there is none within `timeout` seconds (0: do not wait, None: no limit).

        As `seglog.Consumer.receive`. If the task is cancelled, its message goes to whoever receives next.
        """
        messages = await self.receive_many(1, timeout)
        return messages[0] if messages else None

    async def receive_many(
        self, limit: int, timeout: float | None = 0, max_bytes: int | None = None
    ) -> list[Message[T]]:
        """Up to `limit` messages as soon as one is there; as `seglog.Consumer.receive_many`."""
        wait = None if timeout is None else seconds("timeout", timeout)
        messages, _ = await self._take(limit, max_bytes)
        if messages or wait == 0:
            return messages
        with suppress(TimeoutError):
            async with asyncio.timeout(wait), self._turn:
                return await self._wait(limit, max_bytes)
        return []

    async def _wait(self, limit: int, max_bytes: int | None) -> list[Message[T]]:
        with self._news.listening() as event:
            while True:
                event.clear()
                messages, pause = await self._take(limit, max_bytes)
                if messages:
                    return messages
                await heard(event, pause)

    async def _take(self, limit: int, max_bytes: int | None) -> tuple[list[Message[T]], float]:
        """What is there, and how long to wait if nothing is. Goes back if the task is cancelled or `on_gap` raises."""
        found = await self._bridge.run(partial(self._look, limit, max_bytes), self._put_back)
        if isinstance(self._gaps, GapsToTell):
            try:
                self._gaps.tell()
            except BaseException:
                back = self._bridge.start(partial(self._put_back, found), lambda _: None)
                await asyncio.wait([asyncio.wrap_future(back)])  # cancelled here, they go back all the same
                raise
        return found

    def _look(self, limit: int, max_bytes: int | None) -> tuple[list[Message[T]], float]:
        messages = self._consumer.receive_many(limit, 0, max_bytes)
        if messages:
            return messages, 0.0
        pause = self._consumer.pause()
        return messages, min(pause, _LOOK_SECONDS) if self._reads_only else pause

    def _put_back(self, found: tuple[list[Message[T]], float]) -> None:
        if found[0]:
            self._consumer.put_back(found[0])

    async def __aiter__(self) -> AsyncIterator[Message[T]]:
        """Messages for ever, waiting for more; acks none. Raises LogClosed when the log is closed."""
        while True:
            for message in await self.receive_many(1, timeout=None):
                yield message

    async def drain(self) -> AsyncIterator[Message[T]]:
        """Messages until there is none to receive now; acks none."""
        while (message := await self.receive()) is not None:
            yield message

    # -- answering

    async def ack(self, *messages: Message[T] | int) -> None:
        """Handled: never given out again; durable on return. As `seglog.Consumer.ack`.

        What many tasks ack at the same time is written together. Cancelled, these are acked or not.
        """
        await self._acks.add(messages)

    async def nack(self, *messages: Message[T] | int, delay: float | None = None) -> None:
        """Give these to me again; as `seglog.Consumer.nack`."""
        await self._bridge.run(lambda: self._consumer.nack(*messages, delay=delay))

    async def extend(self, *messages: Message[T] | int, seconds: float = 30) -> None:
        """The leases of these, as far as they are still in flight, end `seconds` from now. Nothing is written."""
        await self._bridge.run(lambda: self._consumer.extend(*messages, seconds=seconds))

    async def reject(self, *messages: Message[T] | int, reason: str = "") -> None:
        """Put these in the dead-letter queue; as `seglog.Consumer.reject`."""
        await self._bridge.run(lambda: self._consumer.reject(*messages, reason=reason))

    async def refuse(self, *messages: Message[T] | int, detail: str = "") -> None:
        """Like `reject`, for what the far end of a forwarder will not take."""
        await self._bridge.run(lambda: self._consumer.refuse(*messages, detail=detail))

    # -- position

    async def seek(self, where: Start) -> None:
        """Go on from `where`: "earliest", "latest", an offset, or an aware datetime. Durable on return."""
        await self._bridge.run(lambda: self._consumer.seek(where))

    def unacked(self) -> AsyncIterator[Message[T]]:
        """All that is not yet handled, in order, without receiving it."""
        return self._bridge.stream(lambda _: self._consumer.unacked(), lambda message: len(message.payload))

    @property
    def watermark(self) -> int:
        """Every offset below it is handled."""
        return self._consumer.watermark

    def __len__(self) -> int:
        """How many messages are not yet handled, in flight included; does not read them."""
        return len(self._consumer)

    def __bool__(self) -> bool:
        return True

    async def stats(self) -> ConsumerStats:
        """Where this consumer stands now."""
        return await self._bridge.run(self._consumer.stats)

    # -- end

    async def close(self) -> None:
        """Let go of the consumer; what is in flight will be given out again. Twice is fine.

        Tasks that wait for its messages get LogClosed.
        """
        with suppress(LogClosed):  # the log is closed, and its consumers with it
            await self._bridge.run(self._consumer.close)

    async def __aenter__(self) -> Consumer[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._consumer)
