"""receive, receive_many, drain, iterating: what comes, in which order, and when it is waited for."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import seglog
from seglog import Record
from seglog.testing import ManualClock
from tests.support.place import Place, offsets, payloads


def in_background(work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run it in a thread; the future has what it returned or raised."""
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def test_messages_come_in_order_once_and_then_none(place: Place) -> None:
    log = place.open()
    log.append_many([b"a", b"b"])
    log.append(b"c")
    consumer = log.consumer("c")
    first = consumer.receive()
    assert first is not None
    assert (first.offset, first.payload, first.value, first.attempts) == (0, b"a", b"a", 1)
    assert payloads(consumer.drain()) == [b"b", b"c"]
    assert consumer.receive() is None
    assert list(consumer.drain()) == []
    log.append(b"d")
    assert payloads(consumer.drain()) == [b"d"]


def test_receive_many_fills_up_with_what_is_there_across_batches_and_segments(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    for n in range(0, 300, 3):
        log.append_many([b"%d" % (n + k) + bytes(100) for k in range(3)])
    consumer = log.consumer("c")
    assert offsets(consumer.receive_many(100)) == list(range(100))
    assert offsets(consumer.receive_many(1)) == [100]
    assert offsets(consumer.receive_many(1000)) == list(range(101, 300))
    assert consumer.receive_many(5) == []


def test_receive_many_gives_no_more_bytes_than_asked_for_but_never_fewer_than_one_message(place: Place) -> None:
    log = place.open()
    log.append_many([bytes(n) for n in (10, 20, 500, 30, 40)])
    consumer = log.consumer("c")
    assert offsets(consumer.receive_many(10, max_bytes=40)) == [0, 1]
    assert offsets(consumer.receive_many(10, max_bytes=40)) == [2]
    assert offsets(consumer.receive_many(10, max_bytes=70)) == [3, 4]
    assert consumer.receive_many(10, max_bytes=1) == []


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("receive_many", {"limit": 0}),
        ("receive_many", {"limit": True}),
        ("receive_many", {"limit": 1.5}),
        ("receive_many", {"limit": 1, "max_bytes": 0}),
        ("receive_many", {"limit": 1, "timeout": -1}),
        ("receive", {"timeout": "long"}),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(place: Place, call: str, options: dict[str, Any]) -> None:
    consumer = place.open().consumer("c")
    with pytest.raises(seglog.InvalidOption):
        getattr(consumer, call)(**options)


def test_receive_waits_for_an_append_of_another_thread(place: Place) -> None:
    log = place.open()
    consumer = log.consumer("c")
    waiting = in_background(lambda: consumer.receive(timeout=60))
    log.append(b"x")
    message = waiting.result(30)
    assert (message.offset, message.payload) == (0, b"x")


def test_receive_gives_up_after_the_timeout(place: Place) -> None:
    consumer = place.open().consumer("c")
    begun = time.monotonic()
    assert consumer.receive(timeout=0.05) is None
    assert time.monotonic() - begun >= 0.05
    assert consumer.receive_many(3, timeout=0.01) == []


def test_receive_many_never_waits_to_fill(place: Place) -> None:
    log = place.open()
    log.append(b"x")
    consumer = log.consumer("c")
    assert in_background(lambda: consumer.receive_many(100, timeout=None)).result(30)[0].offset == 0


def test_iterating_waits_for_more_and_ends_with_log_closed(place: Place) -> None:
    log = place.open()
    consumer = log.consumer("c")
    seen: list[int] = []
    arrived = threading.Condition()

    def iterate() -> None:
        for message in consumer:
            with arrived:
                seen.append(message.offset)
                arrived.notify()

    iterating = in_background(iterate)
    for n in range(5):
        log.append(b"x")
        with arrived:
            assert arrived.wait_for(lambda n=n: len(seen) > n, 30)  # type: ignore[misc]
    log.close()
    assert isinstance(iterating.exception(30), seglog.LogClosed)
    assert seen == list(range(5))


def test_f93_closing_the_consumer_ends_a_receive_that_waits(place: Place) -> None:
    log = place.open()
    consumer = log.consumer("c")
    waiting = in_background(lambda: consumer.receive(timeout=None))
    consumer.close()
    assert isinstance(waiting.exception(30), seglog.LogClosed)


def test_p5_what_was_received_and_not_acked_comes_again_after_closing(place: Place) -> None:
    log = place.open()
    log.append_many([b"a", b"b", b"c"])
    with log.consumer("c") as consumer:
        consumer.receive()
        consumer.ack(1)
        assert offsets(consumer.drain()) == [2]
    with log.consumer("c") as consumer:
        assert offsets(consumer.drain()) == [0, 2]
        consumer.ack(0, 2)
    log.close()
    log = place.open()
    assert list(log.consumer("c").drain()) == []


def test_no_more_than_max_in_flight_are_given_out_and_a_waiting_receiver_gets_the_room(place: Place) -> None:
    log = place.open()
    for _ in range(10):
        log.append_many([b"x"] * 3)
    consumer = log.consumer("c", max_in_flight=5)
    assert offsets(consumer.receive_many(100)) == [0, 1, 2, 3, 4]
    assert consumer.receive() is None
    assert consumer.receive(timeout=0.02) is None
    waiting = in_background(lambda: consumer.receive_many(100, timeout=60))
    consumer.ack(1, 3)
    assert offsets(waiting.result(30))[0] == 5


def test_waiting_for_room_among_the_messages_in_flight_does_not_spin(place: Place) -> None:
    log = place.open()
    for _ in range(4):
        log.append(b"x")
    consumer = log.consumer("c", max_in_flight=1)
    consumer.receive()
    before = time.thread_time()
    assert consumer.receive(timeout=0.5) is None
    assert time.thread_time() - before < 0.25


def test_several_threads_share_one_consumer_and_no_message_goes_to_two(place: Place) -> None:
    log = place.open()
    log.append_many([b"%d" % n for n in range(2000)])
    consumer = log.consumer("c")

    def work() -> list[int]:
        found: list[int] = []
        while messages := consumer.receive_many(7):
            consumer.ack(*messages)
            found += offsets(messages)
        return found

    results = [in_background(work) for _ in range(4)]
    assert sorted(itertools.chain(*(result.result(60) for result in results))) == list(range(2000))
    assert len(consumer) == 0


def test_consumers_are_independent_of_each_other(place: Place) -> None:
    log = place.open()
    log.append_many([b"a", b"b"])
    one, two = log.consumer("one"), log.consumer("two")
    one.ack(*one.receive_many(2))
    assert (len(one), len(two)) == (0, 2)
    assert offsets(two.drain()) == [0, 1]


def test_a_delayed_message_is_passed_over_until_it_is_due(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([Record(b"late", delay=10), b"now", Record(b"later", delay=20)])
    consumer = log.consumer("c")
    assert payloads(consumer.receive_many(10)) == [b"now"]
    clock.advance(9.9)
    assert consumer.receive() is None
    clock.advance(0.2)
    assert payloads(consumer.receive_many(10)) == [b"late"]
    clock.advance(10)
    assert payloads(consumer.receive_many(10)) == [b"later"]
    assert payloads(log.read()) == [b"late", b"now", b"later"]
    assert len(consumer) == 3


def test_a_delay_outlives_a_reopening(place: Place) -> None:
    clock = ManualClock()
    with place.open(clock=clock) as log:
        log.append(b"late", delay=100)
        log.consumer("c")
    log = place.open(clock=clock)
    consumer = log.consumer("c")
    assert consumer.receive() is None
    clock.advance(100.1)
    assert payloads(consumer.drain()) == [b"late"]


def test_an_expired_message_is_skipped_and_told_as_a_gap(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([Record(b"short", ttl=5), Record(b"long", ttl=50), b"ever"])
    clock.advance(10)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    assert payloads(consumer.drain()) == [b"long", b"ever"]
    assert gaps == [seglog.Gap(0, 0, "expired")]
    consumer.ack(1, 2)
    assert len(consumer) == 0


def test_f62_delays_of_nacks_do_not_notice_a_wall_clock_that_jumps(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append(b"x")
    consumer = log.consumer("c")
    message = consumer.receive()
    assert message is not None
    consumer.nack(message, delay=10)
    clock.jump(3650 * 86400)
    assert consumer.receive() is None
    clock.jump(-3650 * 2 * 86400)
    clock.advance(10.1)
    again = consumer.receive()
    assert again is not None
    assert (again.offset, again.attempts) == (0, 2)


# Errors and those who listen


class Picky:
    """A serializer that does not read everything."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, data: bytes) -> bytes:
        if data == b"bad":
            raise self._error("bad")
        return data


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError, seglog.DeadLetterWriteFailed), (ZeroDivisionError, ZeroDivisionError)]
)
@pytest.mark.parametrize("failed", [False, True])
def test_an_error_waits_until_there_is_nothing_else_to_give(
    place: Place, error: type[Exception], raised: type[Exception], failed: bool
) -> None:
    log = place.open(serializer=Picky(error), dead_letter_bytes=4096)
    log.append_many([bytes(3600), b"a", b"b", b"bad", b"c"])
    consumer = log.consumer("c")
    consumer.reject(0)
    if failed:
        consumer.nack(*consumer.receive_many(2))
    messages = consumer.receive_many(10)
    assert offsets(messages) == [1, 2]
    for _ in range(2):
        with pytest.raises(raised):
            consumer.receive_many(10)
    assert offsets(consumer.unacked()) == [1, 2, 3, 4]
    consumer.ack(*messages)
    assert consumer.stats().in_flight == 0


@pytest.mark.parametrize("closes", [False, True])
def test_if_on_gap_raises_the_other_gaps_and_the_messages_come_the_next_time(place: Place, closes: bool) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([seglog.Record(b"%d" % n, ttl=None if n % 2 else 5) for n in range(6)])
    clock.advance(9)
    told: list[int] = []

    def on_gap(gap: seglog.Gap) -> None:
        told.append(gap.first_offset)
        if closes:
            consumer.close()
        if len(told) < 3:
            raise ZeroDivisionError

    consumer = log.consumer("c", on_gap=on_gap)
    with pytest.raises(ZeroDivisionError):
        consumer.receive_many(9)
    assert told == [0]
    if closes:
        with pytest.raises(seglog.LogClosed):
            consumer.receive()
        return
    with pytest.raises(ZeroDivisionError):
        consumer.receive_many(9)
    assert offsets(consumer.receive_many(9)) == [1, 3, 5]
    assert told == [0, 2, 4]
