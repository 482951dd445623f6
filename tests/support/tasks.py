"""Tasks of an event loop, for tests: run to a place, cancelled there, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import seglog.aio
from seglog.aio.opening import Opening
from tests.support.place import Place

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
LOOKS = 10_000
MAIN_SECONDS_MAX = 100.0


class Run(Protocol):
    """Runs a coroutine in an event loop of its own."""

    def __call__(self, main: Coroutine[Any, Any, R], /) -> R: ...


async def bounded(main: Coroutine[Any, Any, R]) -> R:
    async with asyncio.timeout(MAIN_SECONDS_MAX):
        return await main


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, not for ever."""
    for _ in range(LOOKS):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came about")


async def turns(count: int) -> None:
    """Let the loop go round so often."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_after(count: int, work: Awaitable[R]) -> R | None:
    """Start it, let the loop go round so often, cancel it; its result, if it was done before that."""
    task = asyncio.ensure_future(work)
    await turns(count)
    task.cancel()
    with suppress(asyncio.CancelledError):
        return await task
    return None


def opening(place: Place, mode: str = "rw", **options: Any) -> Opening[seglog.aio.Log[Any]]:
    """What opens the place's log; on its disk unless another is given."""
    return seglog.aio.open(place.path, mode, **{"disk": place.disk, **options})


def steps(first: int = 0) -> Iterator[int]:
    """Numbers of turns after which to cancel: each of the first ones, where it matters most, then some."""
    yield from range(first, 12)
    yield from (16, 24, 40, 80, 160, 320)
