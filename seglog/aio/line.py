"""Appends that wait for room in a full log: the first of them in a thread of its own, the others behind it, in order.

The threads of the pool stay free for those who make room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from seglog.aio.bridge import Bridge, in_a_thread
from seglog.aio.ticket import Ticket
from seglog.errors import LogClosed, LogFull, SeglogError
from seglog.group_commit import GroupCommit
from seglog.group_commit import Ticket as Batch
from seglog.limits import Limits


@dataclass(eq=False)
class Waiting:
    """One append in the line."""

    ticket: Ticket
    batch: Batch
    limits: Limits[Any]
    commits: GroupCommit
    deadline: float | None = None  # of the loop's clock
    timer: asyncio.TimerHandle | None = None

    def submit(self, timeout: float | None) -> Future[int]:
        """In a thread: append it once there is room. Returns what will have the outcome."""
        self.limits.admit(self.batch, timeout)
        self.commits.submit(self.batch)
        assert self.batch.future is not None
        return self.batch.future


class Line:
    """Who waits for room. False while nobody does."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._first: Waiting | None = None  # a thread waits for it
        self._behind: deque[Waiting] = deque()

    def __bool__(self) -> bool:
        return self._first is not None

    def enter(self, last: Waiting, timeout: float | None) -> None:
        """Behind all others. Its ticket fails with LogFull after `timeout` seconds without room."""
        self._behind.append(last)
        if timeout is not None:
            loop = self._bridge.loop
            last.deadline = loop.time() + timeout
            error = LogFull(f"the log is full, and others waited for room before this for {timeout:g} seconds")
            last.timer = loop.call_later(timeout, self._leave, last, error)
        if self._first is None:
            self._go_on()

    async def outcome(self, ticket: Ticket) -> int:
        """That of a ticket that nobody else knows: if the task is cancelled, it need not be appended any more."""
        try:
            return await ticket
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    def _withdraw(self, ticket: Ticket) -> None:
        if self._first is not None and self._first.ticket is ticket:
            self._first.limits.withdraw(self._first.batch)
        for waiting in self._behind:
            if waiting.ticket is ticket:
                self._leave(waiting, LogFull("given up before there was room"))
                return

    def _leave(self, waiting: Waiting, error: SeglogError) -> None:
        self._behind.remove(waiting)
        if waiting.timer is not None:
            waiting.timer.cancel()
        waiting.ticket.fail(error)

    def _go_on(self) -> None:
        """It is the next one's turn."""
        first = self._first = self._behind.popleft() if self._behind else None
        if first is None:
            return
        if first.timer is not None:
            first.timer.cancel()
        left = None if first.deadline is None else max(0.0, first.deadline - self._bridge.loop.time())
        # A daemon: it waits for as long as the log is full, and a program that ends must not wait for it.
        future = in_a_thread(partial(first.submit, left), "seglog-aio-room", daemon=True)
        self._bridge.answer(future, partial(self._admitted, first.ticket))

    def _admitted(self, ticket: Ticket, done: Future[Future[int]]) -> None:
        error = done.exception()
        if error is None:
            self._bridge.answer(done.result(), ticket.settle)
        else:
            ticket.fail(error)
        self._go_on()

    def close(self) -> None:
        """The log is closing: nobody in the line is accepted. It tells the first one itself."""
        while self._behind:
            self._leave(self._behind[0], LogClosed("the log is closed"))

    async def ended(self) -> None:
        """When the first one was told, too."""
        if self._first is not None:
            with suppress(SeglogError):
                await self._first.ticket
