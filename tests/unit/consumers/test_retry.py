"""Leases, backoff, attempts, and giving up: what becomes of a message that is not acked."""

from __future__ import annotations

import random
from typing import Any

import pytest

import seglog
from seglog.format.layout import CURSOR_ATTEMPTS_MAX
from seglog.testing import ManualClock
from tests.support.place import Place, offsets


def opened(place: Place, clock: ManualClock, count: int = 4, **options: Any) -> seglog.Consumer[bytes]:
    """A consumer "c" of a log with so many records."""
    log = place.open(clock=clock)
    if log.next_offset < count:
        log.append_many([b"%d" % n for n in range(log.next_offset, count)])
    return log.consumer("c", **options)


def reopened(place: Place, clock: ManualClock, **options: Any) -> seglog.Consumer[bytes]:
    place.opened()[-1].close()
    return opened(place, clock, 0, **options)


def tries(messages: Any) -> list[tuple[int, int]]:
    return [(message.offset, message.attempts) for message in messages]


def letters(place: Place) -> list[tuple[int, str, int]]:
    return [(d.offset, d.reason, d.attempts) for d in place.opened()[-1].dead_letters]


# Leases


def test_a_message_whose_lease_is_over_comes_again_first_of_all_with_one_more_attempt(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, lease=30)
    assert tries(consumer.receive_many(2)) == [(0, 1), (1, 1)]
    clock.advance(29.9)
    assert tries(consumer.receive_many(1)) == [(2, 1)]
    clock.advance(0.2)
    assert tries(consumer.receive_many(9)) == [(0, 2), (1, 2), (3, 1)]
    clock.advance(29.8)
    assert tries(consumer.drain()) == [(2, 2)]


def test_f62_leases_and_backoff_do_not_notice_a_wall_clock_that_jumps(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 1, lease=30, backoff=10)
    consumer.receive()
    clock.jump(3650 * 86400)
    assert consumer.receive() is None
    clock.jump(-2 * 3650 * 86400)
    clock.advance(31)
    assert consumer.receive() is None
    clock.jump(3650 * 86400)
    assert consumer.receive() is None
    clock.advance(10.1)
    assert tries(consumer.drain()) == [(0, 2)]


def test_p5_an_ack_after_the_lease_is_over_still_counts(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 3, lease=10)
    first, second, third = consumer.receive_many(3)
    clock.advance(11)
    consumer.ack(first)
    assert offsets(consumer.receive_many(1)) == [1]
    consumer.ack(second)  # by whoever had it first
    consumer.ack(third)
    assert (len(consumer), consumer.receive()) == (0, None)


def test_an_answer_to_a_delivery_that_is_over_changes_nothing(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 1, lease=10, max_attempts=3)
    old = consumer.receive()
    assert old is not None
    clock.advance(11)
    consumer.extend(old, seconds=1000)
    consumer.nack(old, delay=1000)
    new = consumer.receive()
    assert new is not None
    assert new.attempts == 2
    consumer.nack(old, delay=500)
    consumer.extend(old, seconds=1000)
    assert consumer.receive() is None
    clock.advance(11)
    assert tries(consumer.drain()) == [(0, 3)]


def test_a_lease_is_extended_from_now_on_for_exactly_these(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 3, lease=10)
    first, second, _ = consumer.receive_many(3)
    clock.advance(9)
    consumer.extend(first, 1, seconds=5)
    clock.advance(2)
    assert tries(consumer.drain()) == [(2, 2)]
    consumer.extend(second)
    clock.advance(3.5)
    assert tries(consumer.drain()) == [(0, 2)]
    clock.advance(7)
    assert tries(consumer.drain()) == [(2, 3)]
    consumer.ack(first)
    clock.advance(20)
    assert tries(consumer.drain()) == [(1, 2), (2, 4)]


def test_without_leases_messages_stay_hidden_and_there_is_nothing_to_extend(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 1)
    message = consumer.receive()
    assert message is not None
    consumer.extend(message, seconds=1)
    clock.advance(1e6)
    assert consumer.receive() is None


def test_extend_checks_what_it_is_given(place: Place) -> None:
    consumer = opened(place, ManualClock(), lease=5)
    for seconds in (-1, "1", None, float("nan")):
        with pytest.raises(seglog.InvalidOption):
            consumer.extend(0, seconds=seconds)  # type: ignore[arg-type]
    with pytest.raises(seglog.OffsetOutOfRange):
        consumer.extend(4)
    consumer.extend(3)
    consumer.extend()
    assert len(list(consumer.drain())) == 4


def test_a_lease_that_is_over_makes_room_in_flight(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 4, lease=10, max_in_flight=2, backoff=100)
    assert offsets(consumer.receive_many(9)) == [0, 1]
    assert consumer.receive() is None
    clock.advance(10)
    assert consumer.stats().in_flight == 0
    assert offsets(consumer.receive_many(9)) == [2, 3]


# Backoff


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (None, [0, 0, 0]),
        (10, [10, 20, 40, 80]),
        (1000.0, [1000, 2000, 3600, 3600]),
        (7200, [7200, 7200]),
        (0, [0, 0, 0]),
        (lambda failures: failures * 7.5, [7.5, 15, 22.5]),
    ],
)
def test_a_message_that_fails_waits_for_the_backoff(place: Place, backoff: Any, waits: list[float]) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 1, lease=60, backoff=backoff)
    for number, wait in enumerate(waits):
        message = consumer.receive()
        assert message is not None
        if number % 2:
            clock.advance(60)  # the lease fails it
            consumer.stats()
        else:
            consumer.nack(message)
        assert consumer.stats().delayed == (wait > 0)
        if wait:
            clock.advance(wait - 0.01)
            assert consumer.receive() is None
            clock.advance(0.02)


def test_a_delay_of_its_own_goes_before_the_backoff(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 2, backoff=100)
    first, second = consumer.receive_many(2)
    consumer.nack(first, delay=5)
    consumer.nack(second, delay=0)
    assert offsets(consumer.drain()) == [1]
    clock.advance(5.01)
    assert offsets(consumer.drain()) == [0]


def test_a_backoff_that_does_not_work_changes_nothing(place: Place) -> None:
    def broken(failures: int) -> float:
        raise ZeroDivisionError(failures)

    consumer = opened(place, ManualClock(), 1, backoff=broken)
    message = consumer.receive()
    assert message is not None
    with pytest.raises(ZeroDivisionError):
        consumer.nack(message)
    assert consumer.stats().in_flight == 1
    consumer.nack(message, delay=0)
    assert tries(consumer.drain()) == [(0, 2)]


@pytest.mark.parametrize("value", [-1.0, "soon", None, float("inf")])
def test_a_backoff_of_no_seconds_is_refused(place: Place, value: Any) -> None:
    consumer = opened(place, ManualClock(), 1, backoff=lambda failures: value)
    message = consumer.receive()
    assert message is not None
    with pytest.raises(seglog.InvalidOption, match="after 1 failures"):
        consumer.nack(message)
    assert consumer.stats().in_flight == 1


# Attempts


@pytest.mark.parametrize("fail", ["nack", "lease"])
def test_the_failure_of_the_last_attempt_makes_it_a_dead_letter(place: Place, fail: str) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 2, lease=10, max_attempts=3)
    for attempt in range(1, 4):
        message = consumer.receive()
        assert message is not None
        assert (message.offset, message.attempts) == (0, attempt)
        assert letters(place) == []
        if fail == "nack":
            consumer.nack(message)
        else:
            clock.advance(10)
    assert tries(consumer.drain()) == [(1, 1)]
    assert letters(place) == [(0, "exhausted", 3)]
    assert offsets(consumer.unacked()) == [1]
    consumer = reopened(place, clock, max_attempts=3)
    assert tries(consumer.drain()) == [(1, 1)]
    assert letters(place) == [(0, "exhausted", 3)]


def test_with_one_attempt_the_first_failure_is_the_last(place: Place) -> None:
    consumer = opened(place, ManualClock(), 3, max_attempts=1)
    first, second, third = consumer.receive_many(3)
    consumer.nack(first, third, delay=50)
    consumer.ack(second)
    assert letters(place) == [(0, "exhausted", 1), (2, "exhausted", 1)]
    assert (len(consumer), consumer.receive()) == (0, None)


def test_failures_are_counted_across_openings_whatever_kind_they_are(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 1, lease=10, max_attempts=3)
    consumer.nack(0, *consumer.receive_many(1))
    consumer = reopened(place, clock, lease=10, max_attempts=3)
    assert tries(consumer.receive_many(1)) == [(0, 2)]
    clock.advance(10)
    assert consumer.stats().in_flight == 0  # noticed, and not given out again before the close
    consumer = reopened(place, clock, lease=10, max_attempts=3)
    assert tries(consumer.receive_many(1)) == [(0, 3)]
    consumer = reopened(place, clock, lease=10, max_attempts=3)
    assert tries(consumer.receive_many(1)) == [(0, 3)], "closing in between is no failure"
    consumer.nack(0)
    assert letters(place) == [(0, "exhausted", 3)]


def test_fewer_attempts_at_the_next_opening_count_for_what_failed_before(place: Place) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 2)
    for _ in range(4):
        consumer.nack(*consumer.receive_many(1))
    consumer = reopened(place, clock, max_attempts=2)
    assert tries(consumer.drain()) == [(1, 1)]
    assert letters(place) == [(0, "exhausted", 4)]


def test_a_dead_letter_that_cannot_be_kept_changes_nothing_of_a_nack(place: Place) -> None:
    log = place.open(dead_letter_bytes=4096)
    log.append_many([bytes(3000), bytes(3000), b"small"])
    consumer = log.consumer("c", max_attempts=1)
    first, second, third = consumer.receive_many(3)
    consumer.nack(first)
    with pytest.raises(seglog.DeadLetterWriteFailed):
        consumer.nack(second, third)
    assert consumer.stats().in_flight == 2
    assert offsets(consumer.unacked()) == [1, 2]
    consumer.ack(second)
    consumer.nack(third)
    assert letters(place) == [(0, "exhausted", 1), (2, "exhausted", 1)]


def test_a_dead_letter_that_cannot_be_kept_stays_and_does_not_keep_others(place: Place) -> None:
    clock = ManualClock()
    log = place.open(dead_letter_bytes=4096, clock=clock)
    log.append_many([bytes(3000), bytes(3000), b"other"])
    consumer = log.consumer("c", max_attempts=1, lease=10)
    consumer.reject(0)
    assert offsets(consumer.receive_many(1)) == [1]
    clock.advance(10)
    other = consumer.receive()
    assert other is not None
    assert other.offset == 2
    consumer.ack(other)
    assert consumer.receive() is None
    clock.advance(5.1)
    with pytest.raises(seglog.DeadLetterWriteFailed):
        consumer.receive()
    assert offsets(consumer.unacked()) == [1]
    log.dead_letters.purge()
    clock.advance(5.1)
    assert consumer.receive() is None
    assert (len(consumer), letters(place)) == (0, [(1, "exhausted", 1)])


def test_if_dead_letters_cannot_be_kept_one_is_tried_and_not_thousands(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    consumer = opened(place, clock, 51, max_attempts=1, lease=10)
    consumer.receive_many(50)
    clock.advance(11)
    tries: list[int] = []

    def divert(letters: Any) -> None:
        tries.append(len(letters))
        raise seglog.DeadLetterWriteFailed("busy")

    with monkeypatch.context() as broken:
        broken.setattr(place.opened()[-1].dead_letters, "divert", divert)
        assert offsets(consumer.receive_many(9)) == [50]
        assert tries == [1]
    clock.advance(5.1)
    assert consumer.receive() is None
    assert letters(place) == [(offset, "exhausted", 1) for offset in range(50)]


def test_a_gap_that_was_met_before_an_error_is_told_after_it(place: Place) -> None:
    clock = ManualClock()
    log = place.open(dead_letter_bytes=4096, clock=clock)
    log.append_many([bytes(3500), bytes(3500), seglog.Record(b"short", ttl=5)])
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", max_attempts=1, lease=10, on_gap=gaps.append)
    consumer.reject(0)
    consumer.receive()
    clock.advance(10)
    with pytest.raises(seglog.DeadLetterWriteFailed):
        consumer.receive()
    assert gaps == []
    assert consumer.receive() is None
    assert gaps == [seglog.Gap(2, 2, "expired")]


def test_of_more_failed_messages_than_a_cursor_holds_the_latest_are_remembered(place: Place) -> None:
    clock = ManualClock()
    count = CURSOR_ATTEMPTS_MAX + 50
    consumer = opened(place, clock, count)
    order = list(range(count))
    random.Random(3).shuffle(order)
    consumer.receive_many(count)
    for start in range(0, count, 100):
        consumer.nack(*order[start : start + 100])
    assert {message.attempts for message in consumer.drain()} == {2}, "while it is open, none is forgotten"
    consumer = reopened(place, clock)
    first_chunk = sorted(order[:100])
    forgotten = {message.offset for message in consumer.drain() if message.attempts == 1}
    assert len(forgotten) == 50
    assert forgotten <= set(first_chunk)


def test_a_message_that_fails_again_is_among_the_latest(place: Place) -> None:
    clock = ManualClock()
    count = CURSOR_ATTEMPTS_MAX + 1
    consumer = opened(place, clock, count)
    consumer.receive_many(count)
    consumer.nack(*range(count - 1))
    assert tries(consumer.receive_many(1)) == [(0, 2)]
    consumer.nack(0, count - 1)
    consumer = reopened(place, clock)
    found = dict(tries(consumer.drain()))
    assert (found[0], found[1], found[2], found[count - 1]) == (3, 1, 2, 2)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"lease": 0},
        {"lease": -1.0},
        {"lease": True},
        {"lease": "1"},
        {"lease": float("nan")},
        {"lease": float("inf")},
        {"max_attempts": 0},
        {"max_attempts": 1.0},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"backoff": -0.1},
        {"backoff": "1"},
        {"backoff": True},
        {"backoff": [1, 2]},
        {"backoff": float("nan")},
        {"max_in_flight": 0},
        {"max_in_flight": 10_001},
        {"max_in_flight": 1.5},
    ],
)
def test_options_that_cannot_be_meant_register_nobody(place: Place, options: dict[str, Any]) -> None:
    log = place.open()
    with pytest.raises(seglog.InvalidOption, match=next(iter(options))):
        log.consumer("c", **options)
    assert log.consumers() == {}


@pytest.mark.parametrize("option", [{"lease": 31}, {"max_attempts": 4}, {"backoff": 3}, {"max_in_flight": 7}])
def test_f89_the_same_name_with_other_options_is_refused_while_it_is_open(place: Place, option: dict[str, Any]) -> None:
    log = place.open()
    given: dict[str, Any] = {"lease": 30, "max_attempts": 3, "backoff": 2, "max_in_flight": 6}
    consumer = log.consumer("c", **given)
    assert log.consumer("c", **given) is consumer
    for other in ({**given, **option}, {}):
        with pytest.raises(seglog.InvalidOption, match="other options"):
            log.consumer("c", **other)


# All at once


def test_p5_nothing_is_lost_or_given_twice_whatever_fails(place: Place) -> None:
    """Every message ends acked or as a dead letter, after exactly as many attempts as it failed, or one more."""
    clock = ManualClock()
    consumer = opened(place, clock, 200, lease=10, max_attempts=3, backoff=5, max_in_flight=40)
    dice = random.Random(11)
    failed: dict[int, int] = {}
    hidden: dict[int, float] = {}
    acked: set[int] = set()
    for _ in range(3000):
        if len(consumer) == 0:
            break
        now = clock.monotonic()
        for offset in [o for o, end in hidden.items() if end <= now]:
            del hidden[offset]
            failed[offset] = failed.get(offset, 0) + 1
        for message in consumer.receive_many(dice.randint(1, 10)):
            assert message.offset not in hidden
            assert message.offset not in acked
            assert message.attempts == 1 + failed.get(message.offset, 0)
            hidden[message.offset] = now + 10
        for offset in dice.sample(sorted(hidden), min(len(hidden), 5)):
            answer = dice.choice(("ack", "nack", "extend", "nothing"))
            if answer == "ack":
                consumer.ack(offset)
                acked.add(offset)
                del hidden[offset]
            elif answer == "nack":
                consumer.nack(offset)
                failed[offset] = failed.get(offset, 0) + 1
                del hidden[offset]
            elif answer == "extend":
                consumer.extend(offset, seconds=7)
                hidden[offset] = now + 7
        clock.advance(dice.choice((0, 0.5, 3)))
    exhausted = {offset for offset, _, attempts in letters(place) if attempts == 3}
    assert acked | exhausted == set(range(200))
    assert not acked & exhausted
    assert exhausted == {offset for offset, count in failed.items() if count == 3}
    assert exhausted
