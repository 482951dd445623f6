"""Many threads on one consumer, and what wakes a thread that waits for a message."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import seglog
from tests.support.place import Place, offsets
from tests.unit.consumers.test_receive import in_background

THREADS = 8


def test_p5_eight_threads_lose_nothing_and_give_nothing_twice_while_it_is_leased(place: Place) -> None:
    count = 1500
    log = place.open()
    for first in range(0, count, 100):
        log.append_many([b"%d" % n for n in range(first, first + 100)])
    consumer = log.consumer("c", lease=60, max_attempts=4, max_in_flight=100)
    held: set[int] = set()
    deliveries: Counter[int] = Counter()
    acked: set[int] = set()
    guard = threading.Lock()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while len(consumer):
            messages = consumer.receive_many(dice.randint(1, 20), timeout=0.02)
            with guard:
                for message in messages:
                    assert message.offset not in held, "given to two at the same time"
                    assert message.offset not in acked, "given out again after its ack returned"
                    held.add(message.offset)
                    deliveries[message.offset] += 1
                    assert message.attempts == deliveries[message.offset]
            consumer.extend(*messages, seconds=90)
            for message in messages:
                done = dice.random() < 0.8
                with guard:
                    held.remove(message.offset)
                if done:
                    consumer.ack(message)
                    with guard:
                        acked.add(message.offset)
                else:
                    consumer.nack(message)

    for worker in [in_background(lambda seed=seed: work(seed)) for seed in range(THREADS)]:  # type: ignore[misc]
        worker.result(60)
    exhausted = {letter.offset for letter in log.dead_letters}
    assert acked | exhausted == set(range(count))
    assert not acked & exhausted
    assert {deliveries[offset] for offset in exhausted} <= {4}
    log.close()
    assert place.verify().ok
    assert len(place.open().consumer("c")) == 0


def test_seek_and_close_beside_threads_that_work_leave_the_consumer_whole(place: Place) -> None:
    log = place.open()
    log.append_many([b"%d" % n for n in range(300)])
    consumer = log.consumer("c", lease=0.001, backoff=0.001)

    def work() -> None:
        try:
            while True:
                messages = consumer.receive_many(7, timeout=0.01)
                consumer.nack(*messages[:2])
                consumer.ack(*messages[2:5])
                list(consumer.unacked())
        except seglog.LogClosed:
            return

    workers = [in_background(work) for _ in range(4)]
    for where in range(0, 300, 10):
        consumer.seek(where)
        assert 0 <= consumer.stats().lag_records <= 300
    consumer.seek(0)
    log.remove_consumer("c")
    for worker in workers:
        worker.result(30)
    assert log.consumers() == {}
    assert offsets(log.consumer("c").drain()) == list(range(300))


Act = Callable[[seglog.Log[bytes], seglog.Consumer[bytes]], None]


def waiting(consumer: seglog.Consumer[bytes]) -> Future[list[seglog.Message[bytes]]]:
    """A thread that waits in receive_many, and surely has begun to."""
    waiters = consumer._source._waiting
    future = in_background(lambda: consumer.receive_many(5, timeout=60))
    deadline = time.monotonic() + 30
    while consumer._source._waiting == waiters:
        assert time.monotonic() < deadline
        assert not future.done()
        time.sleep(0.001)
    return future


@pytest.mark.parametrize(
    ("act", "given"),
    [
        (lambda log, consumer: log.append(b"new"), [3]),
        (lambda log, consumer: consumer.nack(1), [1]),
        (lambda log, consumer: consumer.put_back(list(log.read(0, 1))), [0]),
        (lambda log, consumer: consumer.seek(2), [2]),
    ],
    ids=["append", "nack", "put back", "seek"],
)
def test_what_wakes_a_receiver_that_waits_for_a_message(
    place: Place, monkeypatch: pytest.MonkeyPatch, act: Act, given: list[int]
) -> None:
    monkeypatch.setattr("seglog.consumers.delivery._PAUSE_MAX", 1e6)  # else it would look again by itself
    log = place.open()
    log.append_many([b"a", b"b", b"c"])
    consumer = log.consumer("c")
    consumer.receive_many(3)
    future = waiting(consumer)
    act(log, consumer)
    assert offsets(future.result(30)) == given


def test_what_happens_between_looking_and_waiting_is_not_missed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seglog.consumers.delivery._PAUSE_MAX", 1e6)
    log = place.open()
    log.append(b"a")
    consumer = log.consumer("c")
    consumer.receive()
    wait_beyond = consumer._source.wait_beyond

    def late(*args: Any, **options: Any) -> None:
        consumer.nack(0)
        wait_beyond(*args, **options)

    monkeypatch.setattr(consumer._source, "wait_beyond", late)
    assert in_background(lambda: consumer.receive(timeout=60)).result(10).attempts == 2


def test_room_among_those_in_flight_wakes_a_receiver(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seglog.consumers.delivery._PAUSE_MAX", 1e6)
    log = place.open()
    log.append_many([b"a", b"b", b"c"])
    consumer = log.consumer("c", max_in_flight=2)
    consumer.receive_many(3)
    future = waiting(consumer)
    consumer.ack(0)
    assert offsets(future.result(30)) == [2]


@pytest.mark.parametrize("closed", ["log", "consumer"])
def test_f93_closing_wakes_every_receiver(place: Place, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr("seglog.consumers.delivery._PAUSE_MAX", 1e6)
    log = place.open()
    consumer = log.consumer("c")
    futures = [waiting(consumer) for _ in range(3)]
    (log if closed == "log" else consumer).close()
    for future in futures:
        assert isinstance(future.exception(30), seglog.LogClosed)


@pytest.mark.parametrize("options", [{"lease": 0.05}, {"lease": 0.02, "backoff": 0.03}])
def test_a_receiver_wakes_when_a_lease_or_a_backoff_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    monkeypatch.setattr("seglog.consumers.delivery._PAUSE_MAX", 1e6)
    log = place.open()
    log.append(b"a")
    consumer = log.consumer("c", **options)  # type: ignore[arg-type]
    consumer.receive()
    again = in_background(lambda: consumer.receive(timeout=None)).result(30)
    assert (again.offset, again.attempts) == (0, 2)
