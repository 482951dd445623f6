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
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
            self._thread.start()
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
        """What still runs is cancelled. A later `run` starts anew."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_others(), loop).result(_GRACE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_GRACE_SECONDS)
        loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
