"""read and get: by offset, by time, to the visible end, with gaps told."""

from __future__ import annotations

import datetime
import logging
import threading
from typing import Any

import pytest

import seglog
from seglog import Gap
from seglog.testing import ManualClock
from tests.support.place import Place, offsets
from tests.support.process import open_descriptors

UTC = datetime.UTC


def filled(place: Place, count: int = 100, **options: Any) -> seglog.Log[bytes]:
    """Records 0, 1, 2 … in batches of ten, over several segments."""
    log = place.open(segment_bytes=4096, **options)
    for first in range(0, count, 10):
        log.append_many([b"%d" % n + bytes(200) for n in range(first, first + 10)])
    return log


def test_read_goes_from_start_to_before_stop(place: Place) -> None:
    log = filled(place)
    assert offsets(log.read()) == list(range(100))
    assert offsets(log.read(37)) == list(range(37, 100))
    assert offsets(log.read(stop=23)) == list(range(23))
    assert offsets(log.read(15, 62)) == list(range(15, 62))
    assert offsets(log.read(15, 15)) == []
    assert offsets(log.read(62, 15)) == []
    assert offsets(log.read(0, 1000)) == list(range(100))


def test_read_at_or_past_the_end_yields_nothing(place: Place) -> None:
    log = filled(place)
    assert offsets(log.read(100)) == []
    assert offsets(log.read(1 << 62)) == []


@pytest.mark.parametrize("wrong", [1.0, True, b"0", "now", datetime.datetime(2024, 1, 1)])
def test_a_start_that_is_no_offset_and_no_aware_datetime_is_refused(place: Place, wrong: Any) -> None:
    log = filled(place, 10)
    for call in (lambda: log.read(wrong), lambda: log.read(stop=wrong)):
        with pytest.raises(seglog.InvalidOption):
            call()


def test_a_negative_offset_is_out_of_range(place: Place) -> None:
    log = filled(place, 10)
    with pytest.raises(seglog.OffsetOutOfRange):
        log.read(-1)


def test_read_by_time_begins_with_the_first_record_appended_then_or_later(place: Place) -> None:
    clock = ManualClock(start_ns=1_700_000_000 * 10**9)
    log = place.open(segment_bytes=4096, clock=clock)
    for n in range(100):
        log.append(b"%d" % n + bytes(200))
        clock.advance(10)

    def at(seconds: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(1_700_000_000 + seconds, UTC)

    assert offsets(log.read(at(-5))) == list(range(100))
    assert offsets(log.read(at(0))) == list(range(100))
    assert offsets(log.read(at(250))) == list(range(25, 100))
    assert offsets(log.read(at(251))) == list(range(26, 100))
    assert offsets(log.read(at(250), at(300))) == list(range(25, 30))
    assert offsets(log.read(at(5000))) == []
    zone = datetime.timezone(datetime.timedelta(hours=5))
    assert offsets(log.read(at(250).astimezone(zone), 30)) == list(range(25, 30))
    assert next(log.read(at(250))).timestamp == 1_700_000_250.0


def test_f62_reading_by_time_survives_a_wall_clock_that_jumps(place: Place) -> None:
    clock = ManualClock()
    log = place.open(segment_bytes=4096, clock=clock)
    for jump in (0, -365 * 86400, 3650 * 86400, -3650 * 86400):
        clock.jump(jump)
        log.append_many([bytes(200)] * 30)
    for days in (-4000, -100, 0, 100, 4000):
        when = datetime.datetime.fromtimestamp(1_700_000_000 + days * 86400, UTC)
        found = offsets(log.read(when))
        assert found == list(range(120 - len(found), 120))


def test_get_gives_one_record_or_none(place: Place) -> None:
    log = filled(place)
    for offset in (0, 9, 10, 55, 99):
        message = log.get(offset)
        assert message is not None
        assert (message.offset, message.attempts) == (offset, 0)
        assert message.payload.startswith(b"%d\0" % offset)
        assert message.id == f"{log.id}:{offset}"
    assert [log.get(offset) for offset in (100, 1 << 62, -1)] == [None, None, None]
    with pytest.raises(seglog.InvalidOption):
        log.get("0")  # type: ignore[arg-type]


def test_get_of_a_reclaimed_record_is_none_and_reading_begins_behind_it(place: Place) -> None:
    log = filled(place)
    consumer = log.consumer("c")
    consumer.ack(*range(60))
    log.compact()
    assert 0 < log.first_offset <= 60
    assert log.get(0) is None
    assert log.get(log.first_offset - 1) is None
    assert offsets(log.read(0)) == list(range(log.first_offset, 100))
    assert log.get(60) is not None


def test_read_sees_what_is_appended_while_it_reads(place: Place) -> None:
    log = filled(place, 20)
    reading = log.read()
    seen = [next(reading).offset for _ in range(20)]
    log.append(b"late")
    seen += offsets(reading)
    assert seen == list(range(21))


def test_f69_a_reader_at_the_end_misses_nothing_while_the_writer_rotates(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    seen: list[int] = []
    done = threading.Event()

    def follow() -> None:
        while not done.is_set() or len(seen) < 400:
            seen.extend(offsets(log.read(len(seen))))

    reader = threading.Thread(target=follow)
    reader.start()
    for n in range(400):
        log.append(b"%d" % n + bytes(300))
    done.set()
    reader.join(60)
    assert seen == list(range(400))


def test_gaps_are_told_or_else_a_warning_is_logged(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    log = filled(place)
    log.consumer("a").ack(*range(20, 80))
    log.consumer("b").ack(*range(20, 80))
    assert log.compact().removed_segments > 0
    gaps: list[Gap] = []
    there = offsets(log.read(on_gap=gaps.append))
    assert gaps
    assert {gap.reason for gap in gaps} == {"purged"}
    missing = [offset for gap in gaps for offset in range(gap.first_offset, gap.last_offset + 1)]
    assert sorted(there + missing) == list(range(100))
    with caplog.at_level(logging.WARNING, "seglog"):
        assert offsets(log.read()) == there
    assert "purged" in caplog.text
    # A gap never tells of more than was asked for.
    clipped: list[Gap] = []
    list(log.read(stop=missing[0] + 1, on_gap=clipped.append))
    assert clipped == [Gap(missing[0], missing[0], "purged")]


def test_dropping_the_iterator_early_leaves_no_descriptor_open(place: Place) -> None:
    log = filled(place)
    before = open_descriptors()
    for _ in range(20):
        reading = log.read()
        next(reading)
        del reading
        log.get(50)
    assert open_descriptors() == before


def test_two_iterators_do_not_disturb_each_other(place: Place) -> None:
    log = filled(place, 40)
    left, right = log.read(), log.read(20)
    pairs = [(next(left).offset, next(right).offset) for _ in range(20)]
    assert pairs == [(n, n + 20) for n in range(20)]


def test_stats_and_properties_agree(place: Place) -> None:
    log = filled(place, compression="zstd")
    stats = log.stats()
    assert (stats.first_offset, stats.next_offset, stats.durable_offset, stats.records) == (0, 100, 100, 100)
    assert (log.first_offset, log.next_offset, log.durable_offset) == (0, 100, 100)
    assert stats.segments >= 1
    assert stats.bytes > 0
    assert stats.consumers == {}
    assert stats.dead_letters == len(log.dead_letters) == 0
    consumer = log.consumer("c", start=30)
    stats = log.stats()
    assert stats.consumers["c"].lag_records == len(consumer) == 70
    assert len(log.id) == 32
