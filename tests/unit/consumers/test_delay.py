"""Due times and expiry as a consumer meets them, many of them, and where its position gets too scattered."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import seglog
from seglog import Record
from seglog.consumers import delivery, schedule, waiting
from seglog.format import layout
from seglog.reader import Scan
from seglog.testing import ManualClock
from tests.support.place import Place, offsets, payloads

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))


@pytest.fixture
def small_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "Schedule", lambda: schedule.Schedule(nearest=20))


@pytest.fixture
def ten_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CURSOR_RANGES_MAX", 10)
    monkeypatch.setattr(layout, "CURSOR_RANGES_MAX", 10)


def scheduled(place: Place, delays: list[float | None], clock: ManualClock, **options: Any) -> seglog.Consumer[bytes]:
    log = place.open(clock=clock)
    for first in range(0, len(delays), 100):
        some = enumerate(delays[first : first + 100], first)
        log.append_many([Record(b"%d" % offset, delay=delay) for offset, delay in some])
    return log.consumer("c", **options)


def forward(clock: ManualClock, end: float, step: float) -> Iterator[float]:
    while clock.monotonic() < end:
        clock.advance(step)
        yield clock.monotonic()


@pytest.mark.usefixtures("small_schedule")
@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_p5_p10_more_scheduled_messages_than_are_remembered_all_come_when_they_are_due(
    place: Place, order: str
) -> None:
    delays: list[float | None] = [10.0 + n for n in range(300)]
    if order == "falling":
        delays.reverse()
    elif order == "shuffled":
        random.Random(5).shuffle(delays)
    clock = ManualClock()
    consumer = scheduled(place, delays, clock)
    assert consumer.receive() is None
    assert consumer.stats().delayed == 300
    taken: list[int] = []
    again: list[int] = []
    for now in forward(clock, 320, 3.5):
        found = offsets(consumer.receive_many(50))
        assert all(delays[offset] <= now for offset in found)  # type: ignore[operator]
        assert [delays[offset] for offset in found] == sorted(delays[offset] for offset in found)  # type: ignore[type-var]
        taken += found
        assert len(taken) == sum(delay <= now for delay in delays)  # type: ignore[operator]
        consumer.ack(*found[::2])
        again += found[1::2]
        consumer.nack(*found[1::2], delay=1000)
    assert sorted(taken) == list(range(300))
    assert len(consumer) == consumer.stats().delayed == len(again)
    clock.advance(1000)
    assert sorted(offsets(consumer.receive_many(500))) == sorted(again)


@pytest.mark.usefixtures("small_schedule")
def test_a_message_that_is_acked_while_it_waits_for_its_time_never_comes(place: Place) -> None:
    clock = ManualClock()
    consumer = scheduled(place, [50.0 + n % 7 for n in range(200)], clock)
    assert consumer.receive() is None
    consumer.ack(*range(0, 200, 2))
    assert consumer.receive() is None
    clock.advance(100)
    assert sorted(offsets(consumer.receive_many(500))) == list(range(1, 200, 2))
    consumer.nack(1, delay=60)
    consumer.ack(1)
    clock.advance(100)
    assert consumer.receive() is None


@pytest.mark.usefixtures("small_schedule")
def test_expired_messages_are_skipped_and_counted_wherever_they_wait(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([Record(b"", delay=100, ttl=50 if n % 2 else 150) for n in range(100)])
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    assert consumer.receive() is None
    clock.advance(60)
    assert consumer.receive() is None
    assert consumer.stats().expired == 50
    assert [(gap.first_offset, gap.reason) for gap in gaps] == [(n, "expired") for n in range(1, 100, 2)]
    clock.advance(45)
    assert offsets(consumer.receive_many(3)) == [0, 2, 4]
    clock.advance(50)
    assert consumer.receive() is None
    stats = consumer.stats()
    assert (stats.expired, stats.in_flight, stats.ready, stats.delayed) == (97, 3, 0, 0)


def test_receive_wakes_when_something_becomes_due_and_does_not_spin_before(place: Place) -> None:
    log = place.open()
    log.append(b"late", delay=0.4)
    consumer = log.consumer("c")
    cpu, begun = time.thread_time(), time.monotonic()
    message = consumer.receive(timeout=30)
    assert message is not None
    assert time.monotonic() - begun < 5
    assert time.thread_time() - cpu < 0.2


def test_stats_tell_what_is_ready_delayed_and_in_flight(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([Record(b"a"), Record(b"b", delay=10), Record(b"c"), Record(b"d"), Record(b"e", ttl=5)])
    consumer = log.consumer("c")
    clock.advance(6)
    first, second = consumer.receive_many(2)
    consumer.nack(second, delay=30)
    consumer.receive_many(9)
    stats = consumer.stats()
    assert (stats.lag_records, stats.in_flight, stats.delayed, stats.ready, stats.expired) == (4, 2, 2, 0, 1)
    clock.advance(10)
    stats = consumer.stats()
    assert (stats.lag_records, stats.in_flight) == (4, 2)
    consumer.ack(first)
    assert payloads(consumer.drain()) == [b"b"]
    assert log.consumers()["c"] == consumer.stats()


# A position that is too scattered to be stored with more in it


@pytest.mark.usefixtures("ten_ranges")
def test_where_no_more_ranges_can_be_stored_the_oldest_go_first_and_all_come_in_the_end(place: Place) -> None:
    clock = ManualClock()
    consumer = scheduled(place, [500.0 if n % 2 == 0 else None for n in range(100)], clock)
    taken: list[int] = []
    while messages := consumer.receive_many(7):
        taken += offsets(messages)
        consumer.ack(*messages)
    assert taken == list(range(1, 21, 2))
    stats = consumer.stats()
    assert (stats.acked_ranges, stats.watermark, stats.in_flight) == (10, 0, 0)
    assert consumer.pause() >= 0.05, "it does not spin"
    clock.advance(501)
    while messages := consumer.receive_many(7):
        taken += offsets(messages)
        consumer.ack(*messages)
    assert sorted(taken) == list(range(100))
    assert len(consumer) == 0


@pytest.mark.usefixtures("ten_ranges", "small_schedule")
def test_the_oldest_comes_when_it_is_due_though_many_that_cannot_go_are_due_before_it(place: Place) -> None:
    clock = ManualClock()
    consumer = scheduled(place, [100.0, *[50.0] * 200, 1000.0, *[None, 1000.0] * 10], clock)
    for offset in range(202, 222, 2):
        (message,) = consumer.receive_many(1)
        assert message.offset == offset
        consumer.ack(message)
    assert consumer.receive() is None
    for _ in forward(clock, 90, 10):
        assert consumer.receive() is None
        assert consumer.pause() >= 0.05, "it does not spin"
    clock.advance(11)
    assert offsets(consumer.receive_many(9)) == [0]
    consumer.ack(0)
    clock.advance(1000)
    left = len(consumer)
    while messages := consumer.receive_many(9):
        consumer.ack(*messages)
        left -= len(messages)
    assert left == len(consumer) == 0


@pytest.mark.usefixtures("ten_ranges", "small_schedule")
@pytest.mark.parametrize("seed", range(5))
def test_p5_a_scattered_position_never_hangs(place: Place, seed: int) -> None:
    dice = random.Random(seed)
    clock = ManualClock()
    delays = [dice.choice((None, None, 20.0, dice.uniform(1, 200))) for _ in range(200)]
    consumer = scheduled(place, delays, clock, max_in_flight=9, lease=5)
    acked: set[int] = set()
    for _ in forward(clock, 2000, 2.0):
        messages = consumer.receive_many(dice.randint(1, 6))
        for message in messages:
            assert message.offset not in acked
            if dice.random() < 0.7:
                consumer.ack(message)
                acked.add(message.offset)
        if len(acked) == 200:
            break
    assert acked == set(range(200))


def test_p5_an_outage_never_hangs_a_scattered_position(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CURSOR_RANGES_MAX", 70)
    clock = ManualClock()
    consumer = scheduled(place, [None] * 400, clock, backoff=10)
    while messages := consumer.receive_many(4):
        consumer.ack(*[m for m in messages if m.offset % 4 == 3])
        consumer.nack(*[m for m in messages if m.offset % 4 != 3])
    for _ in range(5):
        clock.advance(4000)
        failed = 0
        while messages := consumer.receive_many(20):
            failed += len(messages)
            consumer.nack(*messages)
        assert failed > 0
    for _ in range(400):
        clock.advance(4000)
        consumer.ack(*consumer.receive_many(20))
        if not len(consumer):
            return
    raise AssertionError(consumer.stats())


@pytest.mark.usefixtures("ten_ranges", "small_schedule")
def test_the_oldest_is_passed_over_when_it_expires_before_it_is_due_however_scattered_the_position(
    place: Place,
) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many(
        [Record(b"o", delay=900, ttl=100), *[Record(b"w", delay=50)] * 200, *[Record(b"a", delay=950)] * 21]
    )
    consumer = log.consumer("c")
    assert consumer.receive() is None
    consumer.ack(*range(202, 222, 2))
    clock.advance(101)
    assert offsets(consumer.receive_many(1)) == []
    assert offsets(consumer.receive_many(1)) == [1]


@pytest.mark.usefixtures("small_schedule")
def test_p5_what_is_due_comes_once_the_disk_reads_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    consumer = scheduled(place, [10.0 + n for n in range(100)], clock)
    assert consumer.receive() is None
    clock.advance(200)
    taken = offsets(consumer.receive_many(5))
    with monkeypatch.context() as broken:
        broken.setattr(Scan, "next", failing(after=3))
        with pytest.raises(seglog.StorageError):
            taken.extend(message.offset for message in consumer.drain())
    assert len(taken) < 100
    taken += offsets(consumer.drain())
    assert sorted(taken) == list(range(100))


def failing(after: int) -> Callable[[Scan], Any]:
    """Reads so often, then the disk does not read any more."""
    left, read = [after], Scan.next

    def step(scan: Scan) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise seglog.StorageError(5, "injected")
        return read(scan)

    return step


@pytest.mark.usefixtures("small_schedule")
def test_what_is_due_is_not_hidden_by_what_was_handled_while_it_waited(place: Place) -> None:
    clock = ManualClock()
    consumer = scheduled(place, [10.0 + n for n in range(100)], clock)
    assert consumer.receive() is None
    consumer.ack(*range(30))
    clock.advance(200)
    assert offsets(consumer.drain()) == list(range(30, 100))


# A great many


@pytest.mark.timeout(600)
def test_p10_memory_does_not_grow_with_the_scheduled_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "Schedule", lambda: schedule.Schedule(nearest=500))

    def growth(count: int) -> int:
        clock = ManualClock()
        with seglog.open(":memory:", clock=clock) as log:
            for first in range(0, count, 5000):
                log.append_many([Record(b"", delay=60 + (n * 7919) % count) for n in range(first, first + 5000)])
            consumer = log.consumer("c")
            tracemalloc.start()
            assert consumer.receive() is None
            assert consumer.stats().delayed == count
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            clock.advance(60 + count / 20)
            found = consumer.receive_many(10_000)
            dues = [(offset * 7919) % count for offset in offsets(found)]
            assert dues == sorted(dues)
            assert len(dues) == min(10_000, count // 20 + 1)
            return most

    growth(5000)
    few, many = growth(10_000), growth(50_000 * min(DEEP, 20))
    assert many < 1.3 * few
