"""An event loop in a thread of its own, for the clients that there are for asyncio only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_GRACE_SECONDS = 5.0  # for a coroutine to notice that it was cancelled


class EventLoop:
    """Runs coroutines for a caller that waits for them. Its thread starts with the first one and ends with `close`.

    Args:
        name: of the thread.
        seconds: that one coroutine may take; None if it bounds itself.
    """

    def __init__(self, name: str, seconds: float | None) -> None:
        self._name = name
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """What it returns, or raises. Raises TimeoutError when the time is over; it is cancelled then.

        `seconds`: for this one alone.
        """
        bound = self._seconds if seconds is None else seconds
        if self._loop is None or self._thread is None:
            try:
                self._loop, self._thread = self._start()
            except BaseException:
                work.close()  # it will never be waited for
                raise
        running = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, bound), self._loop)
        try:
            return running.result(None if bound is None else bound + _GRACE_SECONDS)
        except BaseException:
            running.cancel()  # the caller was interrupted; of no effect on what has ended
            raise

    @property
    def runs(self) -> bool:
        """Whether there was anything to run since it was closed."""
        return self._loop is not None

    def close(self) -> None:
        """What still runs is cancelled, and left behind if it does not end. A later `run` starts anew."""
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end(), loop)
        thread.join(2 * _GRACE_SECONDS)
        if not thread.is_alive():  # else it hangs; it ends when it goes on
            loop.close()

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
        try:
            thread.start()
        except Exception:  # there are too many threads, perhaps not for long
            loop.close()
            raise
        return loop, thread


async def _end() -> None:
    """Cancel all others, and stop the loop, also if they do not end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    ending = asyncio.gather(*others, return_exceptions=True)
    await asyncio.wait((ending,), timeout=_GRACE_SECONDS)
    asyncio.get_running_loop().stop()
