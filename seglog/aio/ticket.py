"""The outcome of an append, for whoever wants to know it, whenever."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any

from seglog.aio.bridge import Bridge


class Ticket:
    """What became of an append: await it, as often and from as many tasks as you like, for the offset or the error.

    Cancelling a task that awaits it does not touch the append, and the outcome stays to be asked for.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._outcome: Future[int] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None

    def result(self) -> int:
        """The offset, or the error of the append; asyncio.InvalidStateError while the outcome is not known."""
        if self._outcome is None:
            raise asyncio.InvalidStateError("the outcome is not known yet")
        return self._outcome.result()

    def __await__(self) -> Generator[Any, None, int]:
        if self._outcome is None:
            waiter: asyncio.Future[None] = self._bridge.loop.create_future()
            self._waiters.append(waiter)
            yield from waiter.__await__()
        return self.result()

    def settle(self, outcome: Future[int]) -> None:
        """In the loop: it is known now."""
        self._outcome = outcome
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def fail(self, error: BaseException) -> None:
        """In the loop: it is not in."""
        outcome: Future[int] = Future()
        outcome.set_exception(error)
        self.settle(outcome)
