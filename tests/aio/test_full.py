"""A full log: tasks wait for room without holding up the loop, the threads, or each other's order."""

from __future__ import annotations

import asyncio

import pytest

import seglog
from tests.support.place import Place
from tests.support.tasks import Run, opening, turns, until

TASKS = 1000


def test_a_thousand_tasks_wait_for_room_and_acks_go_through(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=100) as log, log.consumer("c") as consumer:
            tasks = [asyncio.create_task(log.append(b"%d" % number)) for number in range(TASKS)]
            received: list[bytes] = []
            while len(received) < TASKS:
                messages = await consumer.receive_many(100, timeout=None)
                assert log.next_offset - consumer.watermark <= 100
                received += [message.payload for message in messages]
                await consumer.ack(*messages)
            assert await asyncio.gather(*tasks) == list(range(TASKS))
            assert received == [b"%d" % number for number in range(TASKS)]  # first come, first served

    run(main())


def test_waiting_for_room_ends_after_the_timeout_of_each(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=1) as log, log.consumer("c") as consumer:
            await log.append(b"x")
            for timeout in (0, 0.01):
                with pytest.raises(seglog.LogFull, match="max_records=1"):
                    await log.append(b"y", timeout=timeout)
                with pytest.raises(seglog.LogFull, match="max_records=1"):
                    await log.append_many([b"y"], timeout=timeout)
            patient = asyncio.create_task(log.append(b"patient"))
            await turns(20)
            with pytest.raises(seglog.LogFull, match=r"0\.01 seconds"):
                await log.append(b"behind", timeout=0.01)
            with pytest.raises(seglog.LogFull, match="never fit"):
                await asyncio.gather(log.append_many([b"y"] * 2), consumer.ack(0))
            assert await patient == 1
            assert log.next_offset == 2

    run(main())


def test_when_full_error_and_drop_oldest(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=2, when_full="error") as log:
            await log.append_many([b"a", b"b"])
            with pytest.raises(seglog.LogFull):
                await log.append(b"c")
            ticket = log.submit(b"c")
            with pytest.raises(seglog.LogFull):
                await ticket
        async with opening(place, max_records=2, when_full="drop_oldest") as log, log.consumer("c") as consumer:
            assert await asyncio.gather(*(log.append(b"%d" % number) for number in range(100))) == list(range(2, 102))
            assert [message.payload async for message in consumer.drain()] == [b"98", b"99"]

    run(main())


def test_f66_appends_that_are_cancelled_while_they_wait_for_room_are_out(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=1) as log, log.consumer("c") as consumer:
            await log.append(b"x")
            tickets = [log.submit(b"submitted")]
            tasks = [asyncio.create_task(log.append(b"cancelled")) for _ in range(5)]
            await turns(20)
            tickets.append(log.submit(b"submitted"))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for offset in range(2):
                await consumer.ack(offset)
                assert await tickets[offset] == offset + 1
            assert [message.payload async for message in log.read()] == [b"x", b"submitted", b"submitted"]

    run(main())


def test_f66_an_append_that_is_cancelled_while_it_is_the_first_to_wait_for_room_is_out(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=1) as log, log.consumer("c") as consumer:
            await log.append(b"x")
            task = asyncio.create_task(log.append(b"cancelled"))
            await until(lambda: log._line)
            await turns(20)
            task.cancel()
            await asyncio.wait([task])
            await until(lambda: not log._line)
            await consumer.ack(0)
            assert await log.append(b"next") == 1
            assert [message.payload async for message in log.read()] == [b"x", b"next"]

    run(main())


def test_replaying_waits_for_room_and_lets_others_work(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_records=1) as log, log.consumer("c") as consumer:
            await log.append(b"x")
            message = await consumer.receive()
            assert message is not None
            await consumer.reject(message)
            await log.append(b"y")
            (letter,) = [letter async for letter in log.dead_letters]
            replaying = asyncio.create_task(log.dead_letters.replay([letter.id]))
            await turns(50)
            assert not replaying.done()
            assert (await log.stats()).dead_letters == 1
            await consumer.ack(1)
            assert await replaying == [2]

    run(main())
