"""Where a consumer begins and stands: start, seek, unacked, len, stats, names, busy, removal."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

import seglog
from seglog.testing import ManualClock
from tests.support.place import Place, offsets

NAMES = ["a", "A9", "uploader.v2", "x-y_z", "0", "a" * 64]
SEPARATORS_AND_SIGNS = r"../x /x .. . .hidden -x _x a/b a\b a:b CON? a*b %2e%2e ~".split()
ODD_LETTERS = ["aé", "\uff41", "a\u0301", "a\u200b", "", " a", "a ", "a\n", "\0", "lock\0", "a\0b"]
BAD_NAMES = [*SEPARATORS_AND_SIGNS, *ODD_LETTERS, "a" * 65, "a" * 5000]


def filled(place: Place, count: int = 30, **options: Any) -> seglog.Log[bytes]:
    log = place.open(segment_bytes=4096, **options)
    for first in range(0, count, 3):
        log.append_many([b"%d" % n + bytes(300) for n in range(first, first + 3)])
    return log


def test_a_new_consumer_begins_where_it_is_told_and_only_when_it_is_new(place: Place) -> None:
    log = filled(place)
    for name, start, first in (("e", "earliest", 0), ("l", "latest", 30), ("o", 17, 17), ("end", 30, 30)):
        assert log.consumer(name, start=start).stats().watermark == first
    log.consumer("o").close()
    assert log.consumer("o", start=3).stats().watermark == 17


def test_a_new_consumer_may_begin_at_a_time(place: Place) -> None:
    clock = ManualClock(start_ns=10**18)
    log = place.open(clock=clock)
    for _ in range(10):
        log.append(b"x")
        clock.advance(60)
    when = datetime.datetime.fromtimestamp(10**9 + 240, datetime.UTC)
    assert offsets(log.consumer("t", start=when).drain()) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("start", ["first", "", None, 1.5, True, datetime.datetime(2024, 1, 1)])
def test_a_start_that_cannot_be_meant_registers_nobody(place: Place, start: Any) -> None:
    log = filled(place)
    with pytest.raises(seglog.InvalidOption):
        log.consumer("c", start=start)
    assert log.consumers() == {}


@pytest.mark.parametrize("start", [-1, 31, 1 << 80])
def test_a_start_out_of_range_registers_nobody(place: Place, start: int) -> None:
    log = filled(place)
    with pytest.raises(seglog.OffsetOutOfRange):
        log.consumer("c", start=start)
    assert log.consumers() == {}


@pytest.mark.parametrize("name", NAMES)
def test_f79_good_names_are_names(place: Place, name: str) -> None:
    with place.open() as log:
        log.consumer(name)
    assert list(place.open().consumers()) == [name]


@pytest.mark.parametrize("name", [*BAD_NAMES, None, 1, b"a"])
def test_f79_p12_other_names_are_refused_and_nothing_is_touched(place: Place, name: Any) -> None:
    log = place.open()
    for call in (log.consumer, log.remove_consumer):
        with pytest.raises(seglog.InvalidOption):
            call(name)
    assert log.consumers() == {}


def test_f79_a_name_that_differs_only_in_case_is_refused(place: Place) -> None:
    log = place.open()
    log.consumer("Uploader")
    with pytest.raises(seglog.InvalidOption, match="only in case"):
        log.consumer("uploader")
    assert list(log.consumers()) == ["Uploader"]


def test_f89_one_name_on_one_log_is_one_object_and_other_options_are_refused(place: Place) -> None:
    log = place.open()
    consumer = log.consumer("c")
    assert log.consumer("c") is consumer
    with pytest.raises(seglog.InvalidOption, match="other options"):
        log.consumer("c", max_in_flight=5)
    consumer.close()
    consumer.close()
    assert log.consumer("c", max_in_flight=5) is not consumer


def test_f89_a_second_opening_of_the_log_finds_the_consumer_busy(place: Place) -> None:
    log = place.open()
    log.append(b"x")
    consumer = log.consumer("c")
    other = place.open("r")
    with pytest.raises(seglog.ConsumerBusy, match="'c'"):
        other.consumer("c")
    with pytest.raises(seglog.ConsumerBusy):
        other.remove_consumer("c")
    assert offsets(other.consumer("d").drain()) == [0]
    consumer.ack(0)
    consumer.close()
    assert list(other.consumer("c").drain()) == []


def test_seek_goes_back_and_forth_and_is_durable(place: Place) -> None:
    with filled(place) as log:
        consumer = log.consumer("c")
        consumer.ack(*consumer.receive_many(20))
        consumer.receive_many(3)
        consumer.seek(5)
        assert (len(consumer), consumer.stats().in_flight) == (25, 0)
        assert offsets(consumer.receive_many(3)) == [5, 6, 7]
        consumer.seek("latest")
        assert (len(consumer), consumer.receive()) == (0, None)
        consumer.seek("earliest")
        assert offsets(consumer.drain()) == list(range(30))
        consumer.seek(12)
    log = place.open()
    consumer = log.consumer("c")
    assert offsets(consumer.drain()) == list(range(12, 30))
    for where in (-1, 31):
        with pytest.raises(seglog.OffsetOutOfRange):
            consumer.seek(where)
    with pytest.raises(seglog.InvalidOption):
        consumer.seek("now")
    assert len(consumer) == 18


def test_seek_takes_an_aware_time_and_no_other(place: Place) -> None:
    clock = ManualClock(start_ns=10**18)
    log = place.open(clock=clock)
    for _ in range(10):
        log.append(b"x")
        clock.advance(60)
    consumer = log.consumer("c")
    consumer.ack(*consumer.receive_many(10))
    consumer.seek(datetime.datetime.fromtimestamp(10**9 + 240, datetime.UTC))
    assert offsets(consumer.drain()) == [4, 5, 6, 7, 8, 9]
    consumer.seek(datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC))
    assert len(consumer) == 10
    consumer.seek(datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC))
    assert len(consumer) == 0
    with pytest.raises(seglog.InvalidOption):
        consumer.seek(datetime.datetime(2999, 1, 1))
    assert len(consumer) == 0


def test_seek_forgets_what_is_in_flight_and_what_has_failed(place: Place) -> None:
    log = filled(place)
    consumer = log.consumer("c", max_attempts=2)
    held = consumer.receive_many(6)
    consumer.nack(*held[:2], delay=1000)
    consumer.seek(0)
    stats = consumer.stats()
    assert (stats.in_flight, stats.delayed, stats.ready) == (0, 0, 30)
    assert [(m.offset, m.attempts) for m in consumer.receive_many(3)] == [(0, 1), (1, 1), (2, 1)]
    consumer.ack(*held)
    assert offsets(consumer.drain()) == list(range(6, 30))


def test_seek_back_to_what_was_reclaimed_goes_to_the_first_that_is_there(place: Place) -> None:
    log = filled(place, 60)
    consumer = log.consumer("c")
    consumer.ack(*range(60))
    log.compact()
    assert log.first_offset > 0
    consumer.seek(0)
    assert offsets(consumer.drain()) == list(range(log.first_offset, 60))


def test_unacked_shows_what_is_not_handled_without_receiving_it(place: Place) -> None:
    log = filled(place)
    consumer = log.consumer("c")
    consumer.ack(3, 4, 29)
    held = consumer.receive_many(2)
    expected = [n for n in range(30) if n not in (3, 4, 29)]
    assert offsets(consumer.unacked()) == expected
    assert {message.attempts for message in consumer.unacked()} == {0}
    assert offsets(held) + offsets(consumer.drain()) == expected


def test_len_is_what_is_not_yet_handled_in_flight_included(place: Place) -> None:
    log = filled(place)
    consumer = log.consumer("c", start=10)
    assert len(consumer) == 20
    consumer.receive_many(5)
    assert len(consumer) == 20
    consumer.ack(12, 25)
    assert len(consumer) == 18
    log.append(b"x")
    assert len(consumer) == 19
    assert bool(log.consumer("empty", start="latest"))


def test_stats_of_a_consumer(place: Place) -> None:
    clock = ManualClock()
    log = place.open(clock=clock)
    log.append_many([bytes(100)] * 10)
    clock.advance(60)
    log.append(b"x")
    consumer = log.consumer("c")
    consumer.receive_many(4)
    stats = consumer.stats()
    assert (stats.watermark, stats.lag_records, stats.in_flight, stats.oldest_age_seconds) == (0, 11, 4, 60.0)
    assert stats.lag_bytes > 1000
    consumer.ack(*range(10))
    stats = consumer.stats()
    assert (stats.watermark, stats.lag_records, stats.in_flight, stats.oldest_age_seconds) == (10, 1, 0, 0.0)
    assert 0 < stats.lag_bytes < 1000
    consumer.ack(10)
    assert consumer.stats() == seglog.ConsumerStats(11, 0, 0, None, 0, ready=0, delayed=0, expired=0)


def test_consumers_lists_the_open_and_the_closed_and_those_of_others(place: Place) -> None:
    log = filled(place)
    log.consumer("open").receive_many(3)
    log.consumer("closed").ack(0)
    log.consumer("closed").close()
    other = place.open("r")
    other.consumer("theirs").ack(0, 1, 2)
    found = log.consumers()
    assert {name: (stats.watermark, stats.lag_records) for name, stats in found.items()} == {
        "open": (0, 30),
        "closed": (1, 29),
        "theirs": (3, 27),
    }
    assert found["open"].in_flight == 3


def test_a_removed_consumer_is_forgotten_pins_nothing_and_may_be_made_anew(place: Place) -> None:
    log = filled(place, 60)
    stays, goes = log.consumer("stays"), log.consumer("goes")
    stays.ack(*range(60))
    assert log.compact().removed_segments == 0
    log.remove_consumer("goes")
    with pytest.raises(seglog.LogClosed):
        goes.receive()
    with pytest.raises(seglog.UnknownConsumer):
        log.remove_consumer("goes")
    assert log.compact().removed_segments > 0
    assert list(log.consumers()) == ["stays"]
    assert log.consumer("goes").stats().watermark == log.first_offset
    assert place.verify().ok
