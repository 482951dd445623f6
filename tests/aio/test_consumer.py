"""Consumers as tasks see them: waiting occupies no thread, and what is given out, is given to one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import seglog
from seglog.aio.bridge import THREADS
from seglog.consumers import delivery
from tests.support.gate_disk import GateDisk
from tests.support.place import Place
from tests.support.tasks import Run, opening, turns, until

MANY = 10 * THREADS


def test_p5_receive_ack_nack_reject_and_what_is_left(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            await log.append_many([b"%d" % number for number in range(5)])
            async with log.consumer("c", max_attempts=3) as consumer:
                assert bool(consumer)
                first = await consumer.receive()
                assert first is not None
                assert (first.offset, first.attempts, len(consumer)) == (0, 1, 5)
                second, third = await consumer.receive_many(2)
                await consumer.ack(first)
                await consumer.ack(0, first)
                await consumer.nack(second)
                await consumer.reject(third, reason="no")
                assert (consumer.watermark, len(consumer)) == (1, 3)
                again = await consumer.receive()
                assert again is not None
                assert (again.offset, again.attempts) == (1, 2)
                assert [message.offset async for message in consumer.drain()] == [3, 4]
                assert await consumer.receive(timeout=0.01) is None
                assert [message.offset async for message in consumer.unacked()] == [1, 3, 4]
                await consumer.extend(again, seconds=10)
                assert (await consumer.stats()).in_flight == 3
                assert list(await log.consumers()) == ["c"]
                with pytest.raises(seglog.OffsetOutOfRange):
                    await consumer.ack(99)
                with pytest.raises(seglog.InvalidOption):
                    await consumer.receive(timeout=-1)
                with pytest.raises(seglog.InvalidOption):
                    await log.consumer("c", max_in_flight=5)
                assert await log.consumer("c", max_attempts=3) is consumer
                await consumer.seek(3)
                assert [message.offset async for message in consumer.drain()] == [3, 4]
            await consumer.close()
            with pytest.raises(seglog.LogClosed):
                await consumer.receive()
            assert [letter.detail async for letter in log.dead_letters] == ["no"]
            await log.remove_consumer("c")
            with pytest.raises(seglog.UnknownConsumer):
                await log.remove_consumer("c")

    run(main())


def test_dead_letters_are_read_replayed_and_deleted(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log, log.consumer("c") as consumer:
            await log.append_many([b"a", b"b", b"c"])
            await consumer.reject(*[message async for message in consumer.drain()])
            letters = log.dead_letters
            assert bool(letters)
            assert len(letters) == 3
            ids = [letter.id async for letter in letters]
            assert ids == [letter.id async for letter in letters.read(print)]
            letter = await letters.get(ids[1])
            assert letter is not None
            assert letter.payload == b"b"
            assert await letters.replay(iter([ids[1]])) == [3]
            assert await letters.delete(iter(ids)) == 2
            assert await letters.purge() == len(letters) == 0
            with pytest.raises(seglog.InvalidOption):
                await letters.replay(7)  # type: ignore[arg-type]  # the error is that of the log
            message = await consumer.receive()
            assert message is not None
            assert (message.offset, message.value) == (3, b"b")

    run(main())


def test_waiting_for_messages_occupies_no_thread(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            consumers = [await log.consumer(f"c{number}") for number in range(MANY)]
            waiting = [asyncio.create_task(consumer.receive(timeout=None)) for consumer in consumers]
            await turns(100)
            await log.append(b"x")  # with more waiting tasks than threads, nothing is held up
            assert [message is not None and message.offset for message in await asyncio.gather(*waiting)] == [0] * MANY

    run(main())


def test_p5_each_message_is_given_to_one_of_the_tasks_that_wait(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log, log.consumer("c") as consumer:
            got: list[int] = []

            async def worker() -> None:
                async for message in consumer:
                    got.append(message.offset)
                    await consumer.ack(message)

            workers = [asyncio.create_task(worker()) for _ in range(MANY)]
            for _ in range(10):
                await log.append_many([b"x"] * 10)
                await turns(3)
            await until(lambda: len(got) == 100 and not len(consumer))
            assert sorted(got) == list(range(100))
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    run(main())


def test_a_task_that_waits_is_woken_by_whatever_gives_it_a_message(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_PAUSE_MAX", 1000.0)  # no look by chance

    async def main() -> None:
        async with opening(place) as log, log.consumer("c", max_in_flight=1, lease=1000) as consumer:
            await log.append_many([b"a", b"b"])
            first = await consumer.receive()
            assert first is not None

            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await consumer.nack(first)
            again = await waiting
            assert again is not None
            assert (again.offset, again.attempts) == (0, 2)

            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await consumer.ack(again)  # there is room among those in flight
            second = await waiting
            assert second is not None
            assert second.offset == 1

            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await consumer.nack(second, delay=0.05)
            second = await waiting
            assert second is not None
            assert second.attempts == 2

            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await consumer.extend(second, seconds=0.05)  # the lease ends
            assert await waiting is not None

            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await consumer.seek("earliest")
            assert await waiting is not None

    run(main())


def test_a_task_that_waits_looks_only_when_there_is_news(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_PAUSE_MAX", 1000.0)

    async def main() -> None:
        async with opening(place) as log, log.consumer("c", max_in_flight=1) as consumer:
            looks: list[object] = []
            plain = consumer._consumer.receive_many

            def counted(*arguments: Any) -> Any:
                looks.append(arguments)
                return plain(*arguments)

            monkeypatch.setattr(consumer._consumer, "receive_many", counted)
            await log.append_many([b"a", b"b"])
            first = await consumer.receive()
            assert first is not None
            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(20)
            await log.append(b"news, and still no room")
            for _ in range(20):
                await log.stats()  # time for many looks
            assert len(looks) <= 4
            await consumer.ack(first)
            assert await waiting is not None

    run(main())


def test_p11_beside_a_writer_in_another_process_a_task_waits_by_looking(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as writer, opening(place, "r") as reader, reader.consumer("c") as consumer:
            waiting = asyncio.create_task(consumer.receive(timeout=None))
            await turns(50)
            await writer.append(b"x")
            message = await waiting
            assert message is not None
            assert message.offset == 0
            await consumer.ack(message)
            assert len(consumer) == 0

    run(main())


@pytest.mark.parametrize("wrong", [[], [5000]])
def test_the_acks_of_a_thousand_tasks_share_writes_of_the_cursor(
    run: Run, place: Place, gate: GateDisk, wrong: list[int]
) -> None:
    async def main() -> None:
        async with opening(place, disk=gate) as log, log.consumer("c") as consumer:
            await log.append_many([b"x"] * 1000)
            gate.hold("datasync", ".cursor")
            before = gate.count("datasync")
            tasks = [asyncio.create_task(consumer.ack(offset)) for offset in [*range(1000), *wrong]]
            await until(gate.reached.is_set)
            gate.let_go()  # the first write ends when all the others wait
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert answers[:1000] == [None] * 1000
            assert [type(answer) for answer in answers[1000:]] == [seglog.OffsetOutOfRange] * len(wrong)
            assert len(consumer) == 0
            assert gate.count("datasync") - before <= (20 if wrong else 2)

    run(main())


def test_a_disk_that_fails_an_ack_fails_those_that_were_written_with_it(run: Run, place: Place, gate: GateDisk) -> None:
    async def main() -> None:
        async with opening(place, disk=gate) as log, log.consumer("c") as consumer:
            await log.append_many([b"x"] * 10)
            gate.arm(seglog.testing.Fault(onwards=True), match=lambda operation, name: name == "c.cursor")
            answers = await asyncio.gather(*(consumer.ack(offset) for offset in range(10)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {seglog.StorageError}
            gate.arm(None)
            await asyncio.gather(*(consumer.ack(offset) for offset in range(10)))
            assert len(consumer) == 0

    run(main())


def test_p5_an_on_gap_that_raises_costs_no_message(run: Run, place: Place) -> None:
    told: list[seglog.Gap] = []

    def on_gap(gap: seglog.Gap) -> None:
        told.append(gap)
        raise KeyError("the callback fails")

    async def main() -> None:
        async with opening(place) as log, log.consumer("c", on_gap=on_gap) as consumer:
            await log.append(b"goes", ttl=0)
            await log.append(b"stays")
            with pytest.raises(KeyError):
                await consumer.receive_many(10)
            message = await consumer.receive()
            assert message is not None
            assert (message.offset, message.attempts) == (1, 1)
            assert told == [seglog.Gap(0, 0, "expired")]

    run(main())
