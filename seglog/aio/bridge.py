"""Between one event loop and the threads that work for it: jobs go over, answers come back, none is lost.

An answer to a task that was cancelled meanwhile is undone where that matters; an answer to a loop that was closed
meanwhile is dropped, and never disturbs the thread that gives it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from seglog.errors import LogClosed
from seglog.model import Gap

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger("seglog")

THREADS = 4  # they wait for the disk, and never for room or for messages
_CHUNK_ITEMS = 512
_CHUNK_BYTES = 1 << 20


class Bridge:
    """One log's threads, and the way back into its event loop. To be made in that loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._closing = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="seglog-aio")
        self._running = 0  # jobs in the pool whose end the loop has not seen
        self._idle = asyncio.Event()
        self._idle.set()
        self._posted: deque[Callable[[], object]] = deque()
        self._expected = False  # whether the loop is going to look there

    def check(self) -> None:
        """Raises LogClosed once closing began, RuntimeError in a loop that is not ours."""
        if self._closing:
            raise LogClosed("the log is closed")
        self.check_loop()

    def check_loop(self) -> None:
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("this log was opened in another event loop; what asyncio awaits belongs to its loop")

    def post(self, call: Callable[[], object]) -> None:
        """Have the loop call this; from any thread, in order. A thousand answers at once wake the loop once."""
        self._posted.append(call)
        if not self._expected:
            self._expected = True
            try:
                self.loop.call_soon_threadsafe(self._run_posted)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                logger.debug("an answer came after its event loop was closed")
                self._expected = False
                self._posted.clear()

    def _run_posted(self) -> None:
        self._expected = False  # before the look: whoever posts from here on wakes the loop again
        for _ in range(len(self._posted)):
            self.loop.call_soon(self._posted.popleft())  # by itself: an error in one does not stop the others

    def answer(self, future: Future[R], then: Callable[[Future[R]], object]) -> None:
        """Have the loop call `then` when some thread has settled the future."""
        future.add_done_callback(lambda done: self.post(partial(then, done)))

    def start(self, job: Callable[[], R], then: Callable[[Future[R]], object]) -> Future[R]:
        """Run a job in the pool; the loop calls `then` when it is done, failed or cancelled."""
        future = self._pool.submit(job)
        self._count_up()
        self.answer(future, partial(self._ended, then))
        return future

    def _ended(self, then: Callable[[Future[R]], object], future: Future[R]) -> None:
        try:
            then(future)
        finally:
            self._count_down()

    def _count_up(self) -> None:
        self._running += 1
        self._idle.clear()

    def _count_down(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def run(self, job: Callable[[], R], undo: Callable[[R], object] | None = None) -> R:
        """What the job returns. If the task is cancelled meanwhile, the job does not begin; or it goes on in its
        thread, and `undo` is called with what it returns."""
        self.check()
        waiter: asyncio.Future[None] = self.loop.create_future()
        future: Future[R] = self.start(job, partial(_wake, waiter))
        try:
            await waiter
        except BaseException:
            if not future.cancel() and undo is not None:
                self._count_up()
                future.add_done_callback(partial(self._undo, undo))  # at once, if the answer is on its way already
            raise
        return future.result()

    def _undo(self, undo: Callable[[R], object], future: Future[R]) -> None:
        """In whichever thread: the loop may be gone."""
        try:
            if future.exception() is None:
                undo(future.result())
        finally:
            self.post(self._count_down)

    async def run_aside(self, job: Callable[[], R]) -> R:
        """What the job returns, from a thread of its own, as it may wait for long. Cancelled or closed, it goes on."""
        self.check()
        waiter: asyncio.Future[None] = self.loop.create_future()
        future = in_a_thread(job, "seglog-aio-aside", daemon=True)
        self.answer(future, partial(_wake, waiter))
        await waiter
        return future.result()

    async def stream(
        self,
        begin: Callable[[Callable[[Gap], None]], Iterator[T]],
        size: Callable[[T], int],
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncIterator[T]:
        """Iterate in a thread, a bounded chunk at a time; `begin` is given what to call for each gap."""
        found: list[T | Gap] = []
        iterator = await self.run(lambda: begin(found.append))
        more = True
        while more:
            # Cancelled in here, the thread is the last that holds the iterator, which closes when it is let go of.
            more, error = await self.run(partial(_fill, iterator, found, size))
            for item in found:
                if not isinstance(item, Gap):
                    yield item
                elif on_gap is not None:
                    on_gap(item)
            found.clear()
            if error is not None:
                raise error

    async def close(self, last: Callable[[], None]) -> None:
        """Refuse new jobs, finish those that run, then do the `last` one in a thread of its own; raises its error.

        If the task is cancelled, the last job is done all the same, and the threads end.
        """
        self._closing = True
        waiter: asyncio.Future[None] = self.loop.create_future()
        try:
            await self._idle.wait()
        finally:
            future = in_a_thread(last, "seglog-aio-close", daemon=False)
            self.answer(future, partial(_wake, waiter))
            self.let_go()
        await waiter
        future.result()

    def let_go(self) -> None:
        """The threads end once what is given to them is done."""
        self._closing = True
        self._pool.shutdown(wait=False)


def in_a_thread(job: Callable[[], R], name: str, *, daemon: bool) -> Future[R]:
    """Do a job in a thread of its own, so that it waits for nothing in the pool."""
    future: Future[R] = Future()

    def work() -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=daemon).start()
    return future


def _wake(waiter: asyncio.Future[None], _: Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _fill(iterator: Iterator[T], found: list[T | Gap], size: Callable[[T], int]) -> tuple[bool, Exception | None]:
    """Add what comes next: whether there may be more, and the error, if that came instead."""
    room = _CHUNK_BYTES
    try:
        for item in iterator:
            found.append(item)
            room -= size(item)
            if room <= 0 or len(found) >= _CHUNK_ITEMS:
                return True, None
    except Exception as error:
        return False, error
    return False, None
