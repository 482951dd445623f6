"""Many acks, one write of the cursor: those that come while one is written go together with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

from seglog.aio.bridge import Bridge
from seglog.errors import SeglogError, StorageError
from seglog.model import Message

T = TypeVar("T")


class Acks(Generic[T]):
    """The acks of one consumer. `ack` is the blocking call."""

    def __init__(self, bridge: Bridge, ack: Callable[..., None]) -> None:
        self._bridge = bridge
        self._ack = ack
        self._waiting: list[tuple[Sequence[Message[T] | int], asyncio.Future[None]]] = []
        self._writing = False

    async def add(self, messages: Sequence[Message[T] | int]) -> None:
        """Returns when these are acked. Cancelled before their turn, they are not."""
        self._bridge.check()
        waiter: asyncio.Future[None] = self._bridge.loop.create_future()
        self._waiting.append((messages, waiter))
        if not self._writing:
            self._write()
        await waiter

    def _write(self) -> None:
        group = [(messages, waiter) for messages, waiter in self._waiting if not waiter.done()]
        self._waiting.clear()
        self._writing = bool(group)
        if group:
            each = [messages for messages, _ in group]
            self._bridge.start(lambda: self._acked(each), partial(self._tell, [waiter for _, waiter in group]))

    def _acked(self, each: Sequence[Sequence[Message[T] | int]]) -> list[BaseException | None]:
        """In a thread. One that cannot be acked does not stop the others; a disk that fails stops them all."""
        try:
            self._ack(*chain.from_iterable(each))
        except SeglogError as error:
            if len(each) == 1 or isinstance(error, StorageError):
                return [error] * len(each)
            middle = len(each) // 2
            return self._acked(each[:middle]) + self._acked(each[middle:])
        return [None] * len(each)

    def _tell(self, waiters: list[asyncio.Future[None]], done: Future[list[BaseException | None]]) -> None:
        self._write()
        failed = done.exception()
        outcomes = done.result() if failed is None else [failed] * len(waiters)
        for waiter, error in zip(waiters, outcomes, strict=True):
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
