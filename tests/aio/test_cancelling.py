"""Tasks that are cancelled wherever they can be: a change has happened or has not, and no message is lost."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import seglog
import seglog.aio
from seglog.aio.bridge import THREADS
from tests.support.gate_disk import GateDisk
from tests.support.place import Place
from tests.support.tasks import Run, cancelled_after, opening, steps, turns, until
from tools.crashtest.zygote import WAIT_SECONDS


@pytest.mark.parametrize("operation", ["write", "datasync"])
def test_f66_an_append_that_is_cancelled_while_it_is_written_or_synced_is_in_and_its_ticket_says_so(
    run: Run, place: Place, gate: GateDisk, operation: str
) -> None:
    async def main() -> None:
        async with opening(place, disk=gate) as log:
            gate.hold(operation, ".seg")
            ticket = log.submit(b"first")

            async def wait() -> int:
                return await ticket

            tasks = [asyncio.create_task(wait()), asyncio.create_task(log.append(b"second"))]
            await until(gate.reached.is_set)
            await turns(3)
            for task in tasks:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(answer) for answer in answers} == {asyncio.CancelledError}
            assert not ticket.done()
            with pytest.raises(asyncio.InvalidStateError):
                ticket.result()
            gate.let_go()
            assert await ticket == 0
            assert (ticket.done(), ticket.result()) == (True, 0)
            assert await log.append(b"third") == 2
            assert [message.payload async for message in log.read()] == [b"first", b"second", b"third"]

    run(main())


def test_f66_an_append_that_is_cancelled_before_it_begins_is_out(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            task = asyncio.create_task(log.append(b"never"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert log.next_offset == 0

    run(main())


def test_f66_p2_p3_appends_that_are_cancelled_anywhere_are_in_or_out_as_a_whole(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log:
            tickets: dict[bytes, seglog.aio.Ticket] = {}
            answered: dict[bytes, int] = {}

            async def work(number: int) -> None:
                one, many, ticketed = (b"%d-%d" % (number, kind) for kind in range(3))
                tickets[ticketed] = log.submit(ticketed)
                answered[one] = await log.append(one)
                answered[many] = (await log.append_many([many] * 3)).start
                answered[ticketed] = await tickets[ticketed]

            for number, count in enumerate(steps()):
                await cancelled_after(count, work(number))
            outcomes = {value: await ticket for value, ticket in tickets.items()}  # every one is known
            await log.append(b"last")
            there = [message.payload async for message in log.read()]
            for value, offset in {**answered, **outcomes}.items():
                assert there[offset] == value
            for value in set(there) - {b"last"}:
                assert there.count(value) == (3 if value.endswith(b"-1") else 1)
                if value.endswith(b"-1"):
                    first = there.index(value)
                    assert there[first : first + 3] == [value] * 3

    run(main())
    assert place.verify().ok


@pytest.mark.parametrize("timeout", [0, 0.001, None])
def test_f66_p5_a_receive_that_is_cancelled_anywhere_loses_no_message(
    run: Run, place: Place, timeout: float | None
) -> None:
    async def main() -> None:
        async with opening(place) as log, log.consumer("c", max_attempts=2) as consumer:
            got: list[tuple[int, int]] = []
            total = 0

            async def work() -> None:
                while True:
                    for message in await consumer.receive_many(3, timeout):
                        got.append((message.offset, message.attempts))
                    await asyncio.sleep(0)

            for count in steps():
                await log.append_many([b"x"] * 2)  # those that are there already, and one that comes meanwhile
                total += 3
                task = asyncio.create_task(work())
                await turns(count // 2)
                ticket = log.submit(b"y")
                await turns(count - count // 2)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                await ticket
            while len(got) < total:
                message = await consumer.receive(timeout=None)
                assert message is not None
                got.append((message.offset, message.attempts))
            assert sorted(got) == [(offset, 1) for offset in range(total)]  # each once, and none has failed
            assert (await consumer.stats()).in_flight == total

    run(main())


def test_f66_p5_what_a_thread_receives_for_a_task_that_is_gone_comes_first_again(
    run: Run, place: Place, gate: GateDisk
) -> None:
    async def main() -> None:
        async with opening(place, disk=gate) as log, log.consumer("c") as consumer:
            await log.append_many([b"a", b"b"])
            gate.hold("read", ".seg")
            task = asyncio.create_task(consumer.receive(timeout=None))
            await until(gate.reached.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.let_go()
            await log._bridge._idle.wait()  # the thread has put it back
            for offset in (0, 1):
                message = await consumer.receive(timeout=None)
                assert message is not None
                assert (message.offset, message.attempts) == (offset, 1)

    run(main())


def test_f66_p5_answers_that_are_cancelled_anywhere_count_or_do_not(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log, log.consumer("c") as consumer:
            done: set[int] = set()

            async def work(offset: int) -> None:
                other = asyncio.create_task(consumer.ack(offset + 1))
                await consumer.ack(offset)
                done.add(offset)
                await other
                done.add(offset + 1)
                await consumer.reject(offset + 2)
                done.add(offset + 2)

            for count in steps():
                offsets = await log.append_many([b"x"] * 3)
                await cancelled_after(count, work(offsets.start))
            await consumer.ack()  # behind all that was under way
            left = {message.offset async for message in consumer.unacked()}
            assert not left & done
            await consumer.ack(*left)
            assert len(consumer) == 0
            letters = [letter.offset async for letter in log.dead_letters]
            assert len(letters) == len(set(letters))

    run(main())


def test_f66_an_open_that_is_cancelled_anywhere_lets_go_of_the_log(run: Run, place: Place) -> None:
    async def main() -> None:
        async def work() -> Any:
            return await opening(place)

        for count in steps():
            log = await cancelled_after(count, work())
            if log is not None:
                await log.close()

            async def opened() -> bool:
                try:
                    async with opening(place):
                        return True
                except seglog.LogLocked:  # the thread that opened it is just closing it
                    return False

            for _ in range(1000):
                if await opened():
                    break
                await asyncio.sleep(0.001)
            else:
                raise AssertionError("it stayed locked")

    run(main())


def test_f66_a_close_that_is_cancelled_anywhere_goes_on_and_closing_again_waits_for_it(run: Run, place: Place) -> None:
    async def main() -> None:
        for number, count in enumerate(steps()):
            log = await opening(place)
            assert log.report.clean
            ticket = log.submit(b"%d" % number)
            await cancelled_after(count, log.close())
            await log.close()
            assert await ticket == number
            with pytest.raises(seglog.LogClosed):
                await log.append(b"x")

    run(main())
    assert place.verify().records == len(list(steps()))


def test_f66_reading_that_is_cancelled_anywhere_can_begin_again(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place) as log, log.consumer("c") as consumer:
            await log.append_many([b"x"] * 1000)

            async def work() -> list[int]:
                found = [message.offset async for message in log.read()]
                found += [message.offset async for message in consumer.unacked()]
                return found

            for count in steps():
                await cancelled_after(count, work())
            assert await work() == [*range(1000), *range(1000)]

    run(main())


def test_f66_other_changes_that_are_cancelled_anywhere_have_happened_or_not(run: Run, place: Place) -> None:
    async def main() -> None:
        async with opening(place, segment_bytes=4096) as log:

            async def work(number: int) -> None:
                consumer = await log.consumer(f"c{number}")
                await consumer.seek("latest")
                await log.compact()
                await consumer.close()
                await log.remove_consumer(f"c{number}")
                await log.sync()
                await log.stats()

            for number, count in enumerate(steps()):
                await log.append_many([bytes(1000)] * 5)
                await cancelled_after(count, work(number))
            await log._bridge._idle.wait()  # what was begun has ended
            for name in await log.consumers():
                consumer = await log.consumer(name)
                await consumer.seek("latest")
                await consumer.close()
                await log.remove_consumer(name)
            assert await log.consumers() == {}

    run(main())
    assert place.verify().ok


def test_f66_p5_what_on_gap_keeps_from_being_given_out_goes_back_though_the_task_is_cancelled_meanwhile(
    run: Run, place: Place
) -> None:
    busy, free = threading.Semaphore(0), threading.Event()

    async def main() -> None:
        async with opening(place, max_records=3, when_full="drop_oldest") as log:

            def occupy() -> bool:
                busy.release()
                return free.wait(WAIT_SECONDS)

            def on_gap(_: seglog.Gap) -> None:
                for _thread in range(THREADS):  # so that what is to go back has to wait
                    log._bridge.start(occupy, lambda _done: None)
                raise ValueError("no gaps, please")

            consumer = await log.consumer("c", on_gap=on_gap)
            for _ in range(6):
                await log.append(b"x")
            task = asyncio.create_task(consumer.receive_many(3))
            for _ in range(THREADS):
                await asyncio.to_thread(busy.acquire, timeout=WAIT_SECONDS)
            await turns(3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            free.set()
            assert [message.offset for message in await consumer.receive_many(3, timeout=5)] == [3, 4, 5]

    run(main())
