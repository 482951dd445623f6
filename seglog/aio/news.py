"""Tells waiting tasks that the log moved on: something became visible or durable, was put back, or made room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seglog.aio.bridge import Bridge


class News:
    """Told by any thread, heard by the tasks of one loop. Costs next to nothing while nobody listens."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._listeners: set[asyncio.Event] = set()

    def tell(self) -> None:
        """From any thread: whoever listens looks again."""
        if self._listeners:
            self._bridge.post(self._wake)

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set by what is told from now on. Clear it before looking, not after."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)


async def heard(event: asyncio.Event, pause: float) -> None:
    """Until the event is set, at most `pause` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(pause):
            await event.wait()
