"""The end of a log: closed with work under way, its event loop gone, its program interrupted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

import seglog
import seglog.aio
from seglog.aio.bridge import Bridge
from seglog.group_commit import Ticket as Batch
from tests.support.gate_disk import GateDisk
from tests.support.place import Place, payloads
from tests.support.tasks import Run, opening, turns, until


def test_p1_close_finishes_what_was_begun_and_answers_everybody(run: Run, place: Place, gate: GateDisk) -> None:
    async def main() -> None:
        log = await opening(place, disk=gate)
        await log.append_many([b"x"] * 10)
        consumer = await log.consumer("c")
        gate.hold("datasync")
        work: list[asyncio.Task[Any]] = [asyncio.create_task(log.append(b"%d" % number)) for number in range(100)]
        work += [asyncio.create_task(consumer.ack(offset)) for offset in range(10)]
        await until(gate.reached.is_set)
        await turns(5)
        closing = [asyncio.create_task(log.close()) for _ in range(3)]
        await turns(5)
        with pytest.raises(seglog.LogClosed):
            await log.append(b"late")
        with pytest.raises(seglog.LogClosed):
            await consumer.ack(0)
        gate.let_go()
        assert (await asyncio.gather(*work))[:100] == list(range(10, 110))
        await asyncio.gather(*closing)

    run(main())
    with place.open() as log:
        assert log.report.clean
        assert len(payloads(log.read())) == 110
        assert log.consumers()["c"].watermark == 10


def test_after_closing_everything_says_so(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            await log.append(b"x")
            consumer = await log.consumer("c")
            reading = log.read()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append(b"x"),
            lambda: log.append_many([b"x"]),
            lambda: log.get(0),
            log.sync,
            lambda: log.wait_durable(5),
            log.stats,
            log.compact,
            log.purge,
            log.consumers,
            lambda: log.consumer("c"),
            lambda: log.remove_consumer("c"),
            lambda: anext(reading),
            consumer.receive,
            lambda: consumer.receive(timeout=None),
            lambda: consumer.ack(0),
            lambda: consumer.nack(0),
            lambda: consumer.reject(0),
            lambda: consumer.seek(0),
            consumer.stats,
            lambda: anext(aiter(consumer)),
            lambda: anext(consumer.drain()),
            lambda: anext(consumer.unacked()),
            lambda: anext(aiter(log.dead_letters)),
            lambda: log.dead_letters.get(0),
            lambda: log.dead_letters.replay([0]),
        ]
        for call in calls:
            with pytest.raises(seglog.LogClosed):
                await call()
        with pytest.raises(seglog.LogClosed):
            log.submit(b"x")
        with pytest.raises(seglog.LogClosed):
            _ = log.next_offset
        await consumer.close()
        await log.close()

    run(main())


def test_tasks_that_wait_for_messages_are_told_that_the_log_is_closed(run: Run, place: Place) -> None:
    async def main() -> None:
        log = await opening(place, durability="never")
        consumers = [await log.consumer(f"c{number}") for number in range(5)]
        await log.append(b"x")
        for consumer in consumers:
            await consumer.ack(0)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(consumer.receive(timeout=None)) for consumer in consumers for _ in range(3)
        ]
        tasks.append(asyncio.create_task(log.wait_durable(0)))
        await turns(50)
        assert not any(task.done() for task in tasks)
        await consumers[0].close()
        await asyncio.wait(tasks[:3])
        await log.close()
        *answers, durable = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {seglog.LogClosed}
        assert durable is None or isinstance(durable, seglog.LogClosed)  # closing makes it durable

    run(main())


def test_a_loop_that_is_closed_while_a_commit_is_under_way_disturbs_nothing(
    run: Run, place: Place, gate: GateDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """The tasks are gone, the log is not: the thread that commits finishes, and the log can still be closed."""
    logs: list[seglog.aio.Log[Any]] = []
    others = set(threading.enumerate())  # a thread that another test left idle is not ours

    async def main() -> None:
        logs.append(await opening(place, disk=gate))
        gate.hold("datasync", ".seg")
        for number in range(10):
            logs[0].submit(b"%d" % number)
        await until(gate.reached.is_set)

    run(main())  # closes the loop
    gate.let_go()
    log = logs[0]._log
    log.wait_durable(9, timeout=30)
    log.close()
    for thread in set(threading.enumerate()) - others:
        if thread.name == "seglog-commit":
            thread.join(30)
            assert not thread.is_alive()
    with place.open() as reopened:
        assert payloads(reopened.read()) == [b"%d" % number for number in range(10)]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, KeyError])
def test_a_program_that_is_interrupted_in_its_loop_leaves_a_closed_log(
    run: Run, place: Place, error: type[BaseException]
) -> None:
    answered: list[int] = []

    async def main() -> None:
        async with opening(place) as log, log.consumer("c") as consumer:

            async def client() -> None:
                with suppress(seglog.LogClosed):
                    while True:
                        answered.append(await log.append(b"x"))

            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(client()) for _ in range(10)]
            tasks.append(asyncio.create_task(consumer.receive(timeout=None)))
            await until(lambda: len(answered) > 50)
            raise error("stop")

    with pytest.raises(error):
        run(main())
    with place.open() as log:
        assert log.report.clean
        there = {message.offset for message in log.read()}
        assert there >= set(answered)


def test_an_interrupt_that_no_task_sees_leaves_a_closed_log(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            await log.append(b"x")

            def strike() -> None:
                raise KeyboardInterrupt("in a callback of the loop")

            asyncio.get_running_loop().call_soon(strike)
            while True:
                await log.append(b"y")

    with pytest.raises(KeyboardInterrupt):
        run(main())
    with place.open() as log:
        assert log.report.clean


def test_close_waits_for_no_room_and_answers_who_did(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = await opening(place, max_records=1)
        limits = log._log._limits
        assert limits is not None
        admit, close, closed = limits.admit, log._log.close, threading.Event()

        def late(batch: Batch, timeout: float | None) -> None:
            try:
                admit(batch, timeout)
            except seglog.LogClosed:  # the thread of the first one hears of it last of all
                assert closed.wait(30)
                raise

        monkeypatch.setattr(limits, "admit", late)
        loop = asyncio.get_running_loop()

        def close_first() -> None:
            close()
            loop.call_soon_threadsafe(loop.call_later, 0.05, closed.set)

        monkeypatch.setattr(log._log, "close", close_first)
        await log.append(b"x")
        waiting = [asyncio.create_task(log.append(b"y")) for _ in range(100)]
        await turns(50)
        await log.close()
        await turns(3)
        assert all(task.done() for task in waiting)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in answers} == {seglog.LogClosed}

    run(main())
    assert place.verify().records == 1


def test_an_error_in_one_answer_keeps_no_other_from_coming(run: Run) -> None:
    async def main() -> None:
        bridge, seen = Bridge(), asyncio.Event()
        errors: list[object] = []
        bridge.loop.set_exception_handler(lambda _, context: errors.append(context.get("exception")))

        def fail() -> None:
            raise KeyError("a fault in seglog")

        bridge.post(fail)
        bridge.post(seen.set)
        await seen.wait()
        assert [type(error) for error in errors] == [KeyError]
        bridge.let_go()

    run(main())
