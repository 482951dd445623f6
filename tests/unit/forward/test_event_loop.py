"""The thread in which asynchronous clients run: it starts when it is wanted, and it ends whatever runs in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from seglog.forward.sinks import event_loop
from seglog.forward.sinks.event_loop import EventLoop

NAME = "test-event-loop"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.AbstractEventLoop]:
    """The loops that were made."""
    loops = list[asyncio.AbstractEventLoop]()
    real = asyncio.new_event_loop

    def make() -> asyncio.AbstractEventLoop:
        loops.append(real())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make)
    return loops


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop(NAME, 5)
    yield made
    made.close()


async def one() -> int:
    return 1


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_a_thread_that_could_not_be_started_is_started_the_next_time(
    loop: EventLoop, made: list[asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            loop.run(one())
    assert made[0].is_closed()
    assert not loop.runs
    loop.close()
    assert loop.run(one()) == 1


def test_closing_ends_what_runs_and_a_later_run_starts_anew(
    loop: EventLoop, made: list[asyncio.AbstractEventLoop]
) -> None:
    ended = list[str]()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return task

    begun = loop.run(begin())
    loop.close()
    assert ended == ["cancelled"]
    assert begun.cancelled()
    assert made[0].is_closed()
    assert not threads()
    assert loop.run(one()) == 1


def test_closing_stops_the_loop_though_something_does_not_end(
    loop: EventLoop, made: list[asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "_GRACE_SECONDS", 0.1)

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        return task

    task = loop.run(begin())
    loop.close()
    assert not task.done()
    assert made[0].is_closed()
    assert not threads()


def test_closing_returns_though_the_loop_hangs(
    loop: EventLoop, made: list[asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "_GRACE_SECONDS", 0.1)
    hangs, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        go_on.wait(10)

    loop.run(one())
    (thread,) = threads()
    made[0].call_soon_threadsafe(hang)
    assert hangs.wait(10)
    loop.close()
    assert thread.is_alive()
    assert loop.run(one()) == 1
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
    made[0].close()
