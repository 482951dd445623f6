"""ack, nack, reject: which messages count as handled, which come again, in which order."""

from __future__ import annotations

import random
from typing import Any

import pytest

import seglog
from seglog.testing import ManualClock
from tests.support.place import Place, offsets, payloads


def consumer_of(place: Place, count: int = 10, **options: Any) -> seglog.Consumer[bytes]:
    """A consumer of a log with so many records, in batches of three."""
    log = place.open(**options)
    for first in range(0, count, 3):
        log.append_many([b"%d" % n for n in range(first, min(first + 3, count))])
    return log.consumer("c")


def reopened(place: Place, consumer: seglog.Consumer[bytes]) -> seglog.Consumer[bytes]:
    consumer.close()
    for log in place.opened():
        log.close()
    return place.open().consumer("c")


def test_p5_acks_count_in_any_order_and_survive_a_reopening(place: Place) -> None:
    consumer = consumer_of(place, 100)
    order = list(range(100))
    random.Random(1).shuffle(order)
    for offset in order[:90]:
        consumer.ack(offset)
    assert len(consumer) == 10
    consumer = reopened(place, consumer)
    assert len(consumer) == 10
    assert offsets(consumer.drain()) == sorted(order[90:])


def test_an_ack_takes_messages_and_offsets_exactly_these_and_not_up_to(place: Place) -> None:
    consumer = consumer_of(place, 6)
    messages = consumer.receive_many(6)
    consumer.ack(messages[4], 2)
    assert offsets(consumer.unacked()) == [0, 1, 3, 5]


def test_an_ack_twice_or_of_nothing_is_fine(place: Place) -> None:
    consumer = consumer_of(place, 3)
    message = consumer.receive()
    assert message is not None
    consumer.ack(message)
    consumer.ack(message, message, 0)
    consumer.ack()
    assert len(consumer) == 2


def test_an_ack_counts_whether_or_not_the_message_was_received(place: Place) -> None:
    consumer = consumer_of(place, 5)
    consumer.ack(3)
    assert offsets(consumer.drain()) == [0, 1, 2, 4]


@pytest.mark.parametrize("offset", [10, 11, 1 << 40, 1 << 70, -1])
def test_an_ack_beyond_the_end_is_out_of_range_and_none_of_its_offsets_count(place: Place, offset: int) -> None:
    consumer = consumer_of(place, 10)
    for call in (consumer.ack, consumer.nack, consumer.reject):
        with pytest.raises(seglog.OffsetOutOfRange):
            call(0, offset, 1)
    assert len(consumer) == 10
    assert offsets(consumer.drain()) == list(range(10))


def test_a_nacked_message_comes_first_again_with_one_more_attempt(place: Place) -> None:
    consumer = consumer_of(place, 6)
    messages = consumer.receive_many(4)
    consumer.nack(messages[3], messages[1])
    again = consumer.receive_many(10)
    assert offsets(again) == [1, 3, 4, 5]
    assert [message.attempts for message in again] == [2, 2, 1, 1]
    consumer.nack(again[0])
    third = consumer.receive()
    assert third is not None
    assert (third.offset, third.attempts) == (1, 3)


def test_the_number_of_attempts_survives_a_reopening(place: Place) -> None:
    consumer = consumer_of(place, 2)
    for _ in range(3):
        message = consumer.receive()
        assert message is not None
        consumer.nack(message)
    consumer = reopened(place, consumer)
    assert [(m.offset, m.attempts) for m in consumer.drain()] == [(0, 4), (1, 1)]


def test_a_nack_with_a_delay_holds_the_message_back_and_lets_others_pass(place: Place) -> None:
    clock = ManualClock()
    consumer = consumer_of(place, 4, clock=clock)
    messages = consumer.receive_many(2)
    consumer.nack(messages[0], delay=30)
    consumer.nack(messages[1], delay=10)
    assert offsets(consumer.receive_many(10)) == [2, 3]
    clock.advance(10.1)
    assert offsets(consumer.receive_many(10)) == [1]
    clock.advance(20)
    assert offsets(consumer.receive_many(10)) == [0]
    assert consumer.receive() is None


def test_a_nack_of_what_is_not_in_flight_changes_nothing(place: Place) -> None:
    consumer = consumer_of(place, 3)
    message = consumer.receive()
    assert message is not None
    consumer.ack(message)
    consumer.nack(message, 1, 2)
    consumer.nack()
    assert [(m.offset, m.attempts) for m in consumer.drain()] == [(1, 1), (2, 1)]


def test_an_ack_after_a_nack_still_counts(place: Place) -> None:
    consumer = consumer_of(place, 2)
    message = consumer.receive()
    assert message is not None
    consumer.nack(message)
    consumer.ack(message)
    assert offsets(consumer.drain()) == [1]


def test_a_rejected_message_is_a_dead_letter_and_counts_as_handled(place: Place) -> None:
    log = place.open()
    log.append(b"bad", key=b"k", headers={"h": b"v"})
    log.append(b"good")
    consumer = log.consumer("c")
    message = consumer.receive()
    assert message is not None
    consumer.reject(message, reason="no such customer")
    assert offsets(consumer.unacked()) == [1]
    (letter,) = log.dead_letters
    assert (letter.reason, letter.detail, letter.consumer) == ("rejected", "no such customer", "c")
    assert (letter.payload, letter.key, letter.headers) == (b"bad", b"k", {"h": b"v"})
    assert (letter.offset, letter.last_offset, letter.attempts) == (0, 0, 1)
    consumer.reject(message, 0, reason="again")
    assert len(log.dead_letters) == 1
    log.close()
    assert len(place.open().dead_letters) == 1


def test_rejecting_by_offset_and_by_two_consumers_makes_a_letter_each(place: Place) -> None:
    log = place.open()
    log.append(b"bad")
    for name in ("a", "b"):
        log.consumer(name).reject(0)
    assert sorted(letter.consumer for letter in log.dead_letters) == ["a", "b"]
    assert payloads(log.dead_letters) == [b"bad", b"bad"]


def test_a_reject_that_cannot_be_kept_leaves_the_message_where_it_is(place: Place) -> None:
    log = place.open(dead_letter_bytes=4096)
    log.append_many([bytes(3000), bytes(3000), b"small"])
    consumer = log.consumer("c")
    consumer.reject(0)
    with pytest.raises(seglog.DeadLetterWriteFailed, match="may hold 4096"):
        consumer.reject(1)
    assert offsets(consumer.unacked()) == [1, 2]
    consumer.reject(2)
    assert offsets(consumer.unacked()) == [1]
    assert len(log.dead_letters) == 2


def test_more_separate_acks_than_a_cursor_holds_are_refused_and_change_nothing(place: Place) -> None:
    log = place.open()
    for _ in range(3):
        log.append_many([b""] * 7000)
    consumer = log.consumer("c")
    consumer.ack(*range(1, 20000, 2))
    assert len(consumer) == 11000
    with pytest.raises(seglog.LogFull, match="ack the oldest"):
        consumer.ack(*range(20001, 21000, 2))
    assert len(consumer) == 11000
    consumer.ack(*range(0, 20000, 2))
    assert len(consumer) == 1000
    assert consumer.stats().watermark == 20000


def test_whatever_was_given_out_can_be_acked_in_any_order(place: Place) -> None:
    log = place.open()
    for _ in range(4):
        log.append_many([b""] * 7000)
    consumer = log.consumer("c")
    given = []
    while messages := consumer.receive_many(5000):
        given += messages
    assert len(given) == 10_000
    for half in (given[1::2], given[::2]):
        consumer.ack(*half)
    assert len(consumer) == 18_000
    assert consumer.receive_many(1)[0].offset == 10_000
