"""seglog.aio: what the log does, as tasks see it; and that none of it happens in the thread of the event loop."""

from __future__ import annotations

import asyncio
import datetime
import gc
import threading
from typing import TYPE_CHECKING, assert_type

import pytest

import seglog
import seglog.aio
from seglog import Record
from tests.support.gate_disk import GateDisk
from tests.support.place import Place
from tests.support.tasks import Run, opening, until

TASKS = 1000


def test_p1_what_tasks_append_is_durable_and_there_after_a_reopening(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            assert bool(log)
            assert await log.append(b"first", key=b"k", headers={"h": b"v"}) == 0
            assert await log.append_many([b"second", Record(b"third", key=b"k")]) == range(1, 3)
            assert await log.append_many([]) == range(3, 3)
            ticket = log.submit(b"fourth")
            assert (await ticket, await ticket, ticket.done(), ticket.result()) == (3, 3, True, 3)
            assert log.durable_offset == log.next_offset == 4
        log = await opening(place)
        assert log.report.clean
        assert [message.payload async for message in log.read()] == [b"first", b"second", b"third", b"fourth"]
        message = await log.get(0)
        assert message is not None
        assert (message.key, message.headers, message.id) == (b"k", {"h": b"v"}, f"{log.id}:0")
        assert await log.get(4) is None
        assert log.first_offset == 0
        await log.close()
        await log.close()

    run(main())
    assert place.verify().ok


@pytest.mark.parametrize("many", [False, True])
def test_p1_the_appends_of_a_thousand_tasks_share_syncs(run: Run, gate: GateDisk, place: Place, many: bool) -> None:
    async def main() -> None:
        async with opening(place, disk=gate) as log:
            gate.hold("datasync", ".seg")
            before = gate.count("datasync")

            async def append(number: int) -> int:
                value = b"%d" % number
                if many:
                    return (await log.append_many([value, value])).start
                return await log.append(value)

            tasks = [asyncio.create_task(append(number)) for number in range(TASKS)]
            await until(gate.reached.is_set)
            await asyncio.sleep(0)
            gate.let_go()  # the first sync ends when all the others are queued
            offsets = await asyncio.gather(*tasks)
            step = 2 if many else 1
            assert sorted(offsets) == list(range(0, step * TASKS, step))
            assert gate.count("datasync") - before <= 4

    run(main())
    assert place.verify().records == (2 * TASKS if many else TASKS)


def test_tasks_that_append_one_after_the_other_are_each_in_order(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:

            async def client(number: int) -> list[int]:
                return [await log.append(b"%d" % number) for _ in range(20)]

            answers = await asyncio.gather(*(client(number) for number in range(50)))
            assert sorted(offset for answer in answers for offset in answer) == list(range(1000))
            assert all(answer == sorted(answer) for answer in answers)

    run(main())


def test_p3_what_one_task_submits_is_in_the_order_in_which_it_did(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            tickets = [log.submit(b"%d" % number) for number in range(100)]
            assert [await ticket for ticket in tickets] == list(range(100))
            assert [message.payload async for message in log.read()] == [b"%d" % number for number in range(100)]

    run(main())


def test_refusals_are_those_of_the_log(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, max_record_bytes=100) as log:
            for attempt in (log.append, log.submit, lambda value: log.append_many([value])):
                with pytest.raises(seglog.RecordTooLarge):
                    await attempt(bytes(101))
                with pytest.raises(seglog.InvalidOption):
                    await attempt("text")
            with pytest.raises(seglog.InvalidOption, match="timeout"):
                await log.append(b"x", timeout=-1)
            with pytest.raises(seglog.LogLocked):
                await opening(place)
            with pytest.raises(seglog.InvalidOption):
                await opening(place, durability="sometimes")
            async with opening(place, "r") as reader:
                with pytest.raises(seglog.ReadOnly):
                    await reader.append(b"x")
                with pytest.raises(seglog.ReadOnly):
                    await reader.append_many([])
                with pytest.raises(seglog.ReadOnly):
                    await reader.sync()
            assert log.next_offset == 0

    run(main())


def test_the_type_of_a_log_follows_from_its_serializer(run: Run) -> None:
    async def main() -> None:
        async with seglog.aio.open(":memory:", serializer=seglog.serializers.json) as log:
            await log.append({"a": [1]})
            with pytest.raises(seglog.SerializeError):
                await log.append(object())
            async with log.consumer("c") as consumer:
                message = await consumer.receive()
                assert message is not None
                assert message.value == {"a": [1]}
        if TYPE_CHECKING:
            async with seglog.aio.open(":memory:") as plain:
                assert_type(plain, seglog.aio.Log[bytes])
                assert_type(await plain.consumer("c"), seglog.aio.Consumer[bytes])

    run(main())


def test_a_failed_sync_is_told_to_every_task_that_waits_for_it(run: Run, place: Place, gate: GateDisk) -> None:
    async def main() -> None:
        log = await opening(place, disk=gate)
        gate.arm(seglog.testing.Fault(onwards=True), match=lambda operation, name: operation == "datasync")
        answers = await asyncio.gather(*(log.append(b"x") for _ in range(50)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {seglog.LogFailed}
        with pytest.raises(seglog.LogFailed):
            await log.append(b"y")
        gate.arm(None)
        await log.close()

    run(main())


def test_sync_and_wait_durable(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, durability="never") as log:
            await log.append(b"x")
            with pytest.raises(TimeoutError, match="offset 0 is not durable"):
                await log.wait_durable(0, timeout=0)
            with pytest.raises(TimeoutError, match="offset 0 is not durable"):
                await log.wait_durable(0, timeout=0.01)
            waiting = asyncio.create_task(log.wait_durable(0))
            await asyncio.sleep(0)
            await log.sync()
            await waiting
            await log.wait_durable(0, timeout=0)
            assert log.durable_offset == 1

    run(main())


def test_reading_by_offset_and_time_in_chunks(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, segment_bytes=64 << 10) as log:
            await log.append_many([b"%d" % number for number in range(2000)])
            await log.append_many([bytes(700_000)] * 4)  # less than two of these in a chunk
            assert [message.offset async for message in log.read()] == list(range(2004))
            assert [message.offset async for message in log.read(5, 9)] == [5, 6, 7, 8]
            assert [message.offset async for message in log.read(stop=2)] == [0, 1]
            later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
            assert [message.offset async for message in log.read(later)] == []
            with pytest.raises(seglog.OffsetOutOfRange):
                await anext(log.read(-1))

    run(main())


def damage(place: Place, text: bytes) -> None:
    """Flip a bit of a record in the only segment."""
    log = place.open()
    segments = log._source.catalog.segments
    name = log._source.catalog.names[0].file_name
    file = segments.open(name, write=True)
    data = file.read(0, file.size())
    position = data.index(text)
    file.write(position, bytes([data[position] ^ 1]))
    file.sync()
    file.close()
    log.close()


def test_gaps_are_told_in_the_loop_and_in_order(run: Run, place: Place) -> None:
    with place.open() as sync_log:
        sync_log.append_many([b"one", b"two", b"three"])
    damage(place, b"two")
    seen: list[object] = []

    def on_gap(gap: seglog.Gap) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append(gap)

    async def main() -> None:
        async with opening(place) as log:
            async for message in log.read(on_gap=on_gap):
                seen.append(message.offset)
            gap = seglog.Gap(1, 1, "damaged")
            assert seen == [0, gap, 2]
            seen.clear()
            async with log.consumer("c", on_gap=on_gap) as consumer:
                assert await log.consumer("c", on_gap=on_gap) is consumer
                async for message in consumer.drain():
                    seen.append(message.offset)
            assert seen == [0, gap, 2]

    run(main())


def test_an_error_of_the_disk_comes_behind_what_was_read_before_it(run: Run, place: Place, gate: GateDisk) -> None:
    async def main() -> None:
        async with opening(place, disk=gate, segment_bytes=4096) as log:
            for _ in range(3):
                await log.append(bytes(3000))  # each in a segment of its own
            gate.arm(seglog.testing.Fault(onwards=True), match=lambda operation, name: name.endswith("2.seg"))
            reading = log.read()
            assert (await anext(reading)).offset == 0
            with pytest.raises(seglog.StorageError):
                await anext(reading)
            gate.arm(None)
            assert [message.offset async for message in log.read()] == [0, 1, 2]

    run(main())


def test_nothing_waits_for_the_disk_in_the_thread_of_the_loop(run: Run, place: Place, gate: GateDisk) -> None:
    async def main() -> None:
        async with opening(place, disk=gate, segment_bytes=4096) as log:
            await asyncio.gather(*(log.append(bytes(1000)) for _ in range(20)))
            await log.append_many([b"x"] * 100)
            await log.submit(b"x")
            await log.sync()
            await log.wait_durable(5)
            assert [message.offset async for message in log.read()] == list(range(121))
            await log.get(50)
            async with log.consumer("c", on_gap=print) as consumer, log.consumer("other"):
                first = await consumer.receive(timeout=None)
                second, third, *rest = await consumer.receive_many(100, timeout=1)
                assert first is not None
                await consumer.ack(first, *rest)
                await consumer.nack(second)
                await consumer.reject(third)
                assert [message.offset async for message in consumer.unacked()][:1] == [second.offset]
                async for message in consumer.drain():
                    await consumer.ack(message)
                await consumer.stats()
                await consumer.seek("latest")
                waiting = asyncio.ensure_future(anext(aiter(consumer)))
                await log.append(b"news")
                await waiting
            assert len([letter async for letter in log.dead_letters]) == 1
            await log.consumers()
            await log.stats()
            await log.remove_consumer("other")
            await log.compact()

    run(main())
    mine = [operation for operation, thread in gate.threads if thread == threading.get_ident()]
    assert mine == []
    assert len(gate.threads) > 200


def test_verify(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            await log.append(b"x")
        calls: list[tuple[int, int]] = []
        report = await seglog.aio.verify(place.path, lambda *done: calls.append(done), disk=place.disk)
        assert (report.ok, report.records) == (True, 1)
        with pytest.raises(seglog.LogNotFound):
            await seglog.aio.verify("nowhere", disk=place.disk)

    run(main())


def test_repair(run: Run, place: Place) -> None:
    with place.open() as sync_log:
        sync_log.append_many([b"one", b"two", b"three"])
    damage(place, b"two")

    async def main() -> None:
        assert not (await seglog.aio.repair(place.path, dry_run=True, disk=place.disk)).ok
        assert not (await seglog.aio.verify(place.path, disk=place.disk)).ok
        await seglog.aio.repair(place.path, disk=place.disk)
        assert (await seglog.aio.verify(place.path, disk=place.disk)).ok

    run(main())


def test_another_event_loop_is_refused(run: Run) -> None:
    logs: list[seglog.aio.Log[bytes]] = []

    async def make() -> None:
        logs.append(await seglog.aio.open(":memory:"))

    async def use() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await logs[0].append(b"x")
        with pytest.raises(RuntimeError, match="another event loop"):
            await logs[0].stats()
        with pytest.raises(RuntimeError, match="another event loop"):
            await logs[0].close()

    run(make())
    run(use())
    logs[0]._log.close()


def test_a_log_that_was_never_closed_warns(run: Run) -> None:
    async def forget() -> None:
        log = await seglog.aio.open(":memory:")
        await log.append(b"x")

    def run_and_collect() -> None:
        run(forget())
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        run_and_collect()
