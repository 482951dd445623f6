"""A process that dies with messages in flight: what it was given comes alone, and only what was alone is blamed."""

from __future__ import annotations

from typing import Any

import pytest

import seglog
from seglog.consumers.cursor import read_note
from seglog.testing import ManualClock
from tests.support.place import Place, offsets
from tests.unit.consumers.test_retry import letters, tries


def born(place: Place, count: int = 0, *, clock: ManualClock | None = None, **options: Any) -> seglog.Consumer[bytes]:
    """A process that consumes as "c"; the first one appends so many records."""
    log = place.open(clock=clock or ManualClock(seed=len(place.opened())))
    if count:
        log.append_many([b"%d" % n for n in range(count)])
    return log.consumer("c", **options)


def die(place: Place) -> None:
    """As SIGKILL would have it: every file is closed, nothing is written."""
    place.opened()[-1]._after_fork()


def test_p5_what_was_in_flight_at_a_death_comes_one_at_a_time_and_the_rest_after_it(place: Place) -> None:
    consumer = born(place, 10)
    consumer.ack(*consumer.receive_many(2))
    consumer.receive_many(4)
    die(place)
    consumer = born(place)
    for offset in (2, 3, 4, 5):
        (message,) = consumer.receive_many(100)
        assert (message.offset, message.attempts) == (offset, 1)
        assert consumer.receive() is None
        consumer.ack(message)
    assert tries(consumer.receive_many(100)) == [(6, 1), (7, 1), (8, 1), (9, 1)]


@pytest.mark.parametrize("answer", ["ack", "nack", "reject", "lease"])
def test_whatever_answers_it_a_doubtful_message_is_doubted_once(place: Place, answer: str) -> None:
    clock = ManualClock()
    consumer = born(place, 4)
    consumer.receive_many(3)
    die(place)
    consumer = born(place, clock=clock, lease=10, backoff=50)
    for offset in (0, 1, 2):
        (message,) = consumer.receive_many(100)
        assert message.offset == offset
        if answer == "lease":
            clock.advance(11)
        else:
            getattr(consumer, answer)(message)
    assert offsets(consumer.receive_many(100)) == [3]
    clock.advance(51)
    assert offsets(consumer.receive_many(100)) == ([] if answer in ("ack", "reject") else [0, 1, 2])


def test_only_the_message_that_was_alone_in_flight_is_blamed(place: Place) -> None:
    consumer = born(place, 5)
    consumer.receive_many(5)
    die(place)
    consumer = born(place)
    assert tries(consumer.receive_many(9)) == [(0, 1)]
    die(place)
    consumer = born(place)
    assert tries(consumer.receive_many(9)) == [(0, 2)]
    consumer.ack(0)
    assert tries(consumer.receive_many(9)) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    consumer.ack(1, 2, 4)
    die(place)  # with 3 alone, as the others have been acked
    assert tries(born(place).drain()) == [(3, 2)]


def test_a_poison_message_ends_in_the_dead_letters_and_the_innocents_beside_it_do_not(place: Place) -> None:
    poison, deaths = 137, 0
    born(place, 500, max_attempts=3)
    for _ in range(20):
        consumer = place.opened()[-1].consumer("c", max_attempts=3)
        dead = False
        while not dead and (messages := consumer.receive_many(50)):
            for message in messages:
                if message.offset == poison:
                    dead = True
                    break
                assert message.attempts == 1
                consumer.ack(message)
        if not dead:
            break
        deaths += 1
        die(place)
        consumer = born(place, max_attempts=3)
    assert deaths == 4  # one to doubt it, three with it alone
    assert letters(place) == [(poison, "exhausted", 3)]
    assert len(consumer) == 0


def test_p5_a_death_before_the_failure_is_counted_counts_it_once(place: Place) -> None:
    born(place, 1).receive()
    die(place)
    for _ in range(5):
        assert born(place).stats().in_flight == 0  # opened, nothing given out, dead
        die(place)
    assert tries(born(place).drain()) == [(0, 2)]


def test_what_was_answered_before_the_death_is_not_blamed(place: Place) -> None:
    consumer = born(place, 2)
    first, second = consumer.receive_many(2)
    consumer.ack(first)
    consumer.nack(second)
    die(place)
    assert tries(born(place).drain()) == [(1, 2)]


def test_a_note_that_was_left_behind_by_a_power_cut_blames_nobody_again(place: Place) -> None:
    consumer = born(place, 1)
    consumer.receive()
    old = consumer._cursor.note
    consumer.nack(0)
    consumer._cursor.write_note(old)  # as if the write after the nack had not reached the disk
    die(place)
    consumer = born(place)
    assert tries(consumer.drain()) == [(0, 2)]
    consumer.ack(0)
    consumer._cursor.write_note(old)
    die(place)
    consumer = born(place)
    assert (consumer.stats().delayed, len(consumer)) == (0, 0)


def test_a_clean_close_leaves_no_doubt(place: Place) -> None:
    born(place, 5).receive_many(5)
    die(place)
    consumer = born(place)
    assert offsets(consumer.receive_many(9)) == [0]
    place.opened()[-1].close()
    consumer = born(place)
    assert tries(consumer.receive_many(9)) == [(n, 1) for n in range(5)]


def test_a_seek_leaves_no_doubt(place: Place) -> None:
    born(place, 5).receive_many(5)
    die(place)
    consumer = born(place)
    assert offsets(consumer.receive_many(9)) == [0]
    consumer.seek(1)
    assert offsets(consumer.receive_many(9)) == [1, 2, 3, 4]


def test_the_blamed_message_waits_for_its_backoff_and_then_goes_alone(place: Place) -> None:
    clock = ManualClock()
    born(place, 4, backoff=10).receive()
    die(place)
    consumer = born(place, clock=clock, backoff=10)
    assert offsets(consumer.receive_many(2)) == [1, 2]
    clock.advance(10)
    assert consumer.receive_many(9) == [], "the doubtful one goes alone, so all wait for those in flight"
    assert consumer.pause() >= 0.05, "it does not spin"
    consumer.ack(1, 2)
    assert tries(consumer.receive_many(9)) == [(0, 2)]
    assert consumer.receive() is None
    consumer.ack(0)
    assert offsets(consumer.drain()) == [3]


@pytest.mark.parametrize("guilty", [0, 3])
def test_the_blamed_message_comes_before_its_turn_and_not_again_in_its_turn(place: Place, guilty: int) -> None:
    consumer = born(place, 6)
    consumer.receive_many(guilty + 1)
    consumer.nack(*range(guilty))
    die(place)
    consumer = born(place)
    assert tries(consumer.receive_many(9)) == [(guilty, 2)]
    consumer.nack(guilty)
    others = [(offset, 1 + (offset < guilty)) for offset in range(6) if offset != guilty]
    assert tries(consumer.receive_many(9)) == [(guilty, 3), *others]
    assert consumer.receive() is None


def test_more_ranges_in_flight_than_a_note_names_are_doubted_as_a_whole(place: Place) -> None:
    consumer = born(place, 100)
    consumer.receive_many(80)
    consumer.ack(*range(1, 80, 2))
    assert len(read_note(place.opened()[-1]._opened.cursors, "c").ranges) == 16  # type: ignore[union-attr]
    die(place)
    consumer = born(place)
    for offset in range(0, 80, 2):
        (message,) = consumer.receive_many(100)
        assert message.offset == offset
        consumer.ack(message)
    assert offsets(consumer.drain()) == list(range(80, 100))


def test_others_see_in_the_note_how_many_are_in_flight(place: Place) -> None:
    consumer = born(place, 10)
    consumer.receive_many(4)
    other = place.open("r")
    assert other.consumers()["c"].in_flight == 4
    consumer.ack(1)
    consumer.nack(2)
    assert other.consumers()["c"].in_flight == 2
    consumer.close()
    assert other.consumers()["c"].in_flight == 0


def test_a_note_that_does_not_read_back_says_nothing(place: Place) -> None:
    consumer = born(place, 3)
    consumer.receive_many(3)
    consumer._cursor._slots.file.write(2 * 43 * 4096 + 8, b"rot")
    die(place)
    assert tries(born(place).receive_many(9)) == [(0, 1), (1, 1), (2, 1)]


def test_after_a_fork_the_child_writes_no_note(place: Place) -> None:
    consumer = born(place, 3)
    consumer.receive_many(2)
    cursors = place.opened()[-1]._opened.cursors  # type: ignore[union-attr]
    before = read_note(cursors, "c")
    consumer.after_fork()
    consumer.close()
    assert before.in_flight == 2
    place.opened()[-1]._after_fork()
    log = place.open("r")
    assert log.consumers()["c"].in_flight == 2
