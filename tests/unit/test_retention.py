"""`retention_bytes` and `retention_seconds`: what all have passed is kept for replay, by whichever process compacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock
from tests.support.place import Place, offsets

PER_SEGMENT = 10
SEGMENT_BYTES = 4216  # of ten records of 400 bytes, framing too


def filled(place: Place, segments: int = 6, consumer: str = "c", **options: Any) -> seglog.Log[bytes]:
    """A log with ten records in each segment; the last one is active."""
    log = place.open(segment_bytes=4096, **options)
    if consumer:
        log.consumer(consumer)
    for _ in range(segments):
        log.append_many([bytes(400)] * PER_SEGMENT)
    return log


def kept(report: seglog.CompactReport) -> list[tuple[str, ...]]:
    return [segment.pinned_by for segment in report.remaining]


@pytest.mark.parametrize(
    ("retained", "first"),
    [(0, 50), (SEGMENT_BYTES, 50), (SEGMENT_BYTES + 1, 40), (3 * SEGMENT_BYTES, 30), (1 << 40, 0)],
)
def test_so_many_bytes_of_what_all_have_passed_are_kept(place: Place, retained: int, first: int) -> None:
    log = filled(place, retention_bytes=retained)
    log.consumer("c").ack(*range(60))
    report = log.compact()
    assert report.first_offset == log.first_offset == first
    assert kept(report) == [("retention",)] * (len(report.remaining) - 1) + [("active",)]
    assert offsets(log.read()) == list(range(first, 60))
    consumer = log.consumer("c")
    consumer.seek("earliest")
    assert offsets(consumer.drain()) == list(range(first, 60))
    assert place.verify().ok


def test_only_what_was_passed_counts(place: Place) -> None:
    log = filled(place, retention_bytes=SEGMENT_BYTES)
    log.consumer("c").ack(*range(35))
    report = log.compact()
    assert report.first_offset == 20, "ten before the last five that are passed"
    assert kept(report) == [("retention",), ("c",), ("c",), ("active",)]


def test_the_age_of_the_last_append_suffices(place: Place) -> None:
    clock = ManualClock()
    log = place.open(segment_bytes=4096, retention_seconds=100, clock=clock)
    log.consumer("c")
    for n in range(6):
        log.append_many([bytes(400)] * PER_SEGMENT)
        log.consumer("c").ack(*range(10 * n, 10 * n + 10))
        clock.advance(30)
    assert log.compact().first_offset == 30
    clock.advance(20)
    assert log.compact().first_offset == 40
    clock.jump(-1000)
    assert log.compact().first_offset == 40, "what was given back stays so"
    clock.advance(2000)
    assert log.compact().first_offset == 50, "the active segment is not touched"


def test_one_of_both_suffices(place: Place) -> None:
    clock = ManualClock()
    log = filled(place, retention_bytes=1 << 40, retention_seconds=100, clock=clock)
    log.consumer("c").ack(*range(60))
    assert log.compact().first_offset == 0
    clock.advance(101)
    assert log.compact().first_offset == 50
    other = Place("other", MemoryDisk())
    log = filled(other, retention_bytes=0, retention_seconds=1e9)
    log.consumer("c").ack(*range(60))
    assert log.compact().first_offset == 50
    other.close()


def test_without_consumers_it_is_the_most_that_is_kept(place: Place) -> None:
    log = filled(place, consumer="", retention_bytes=2 * SEGMENT_BYTES)
    assert log.first_offset == 30, "at the rotation, when the active one was empty"
    log.append_many([bytes(400)] * PER_SEGMENT)
    assert log.first_offset == 40
    report = log.compact()
    assert (report.first_offset, kept(report)[0]) == (50, ("retention",)), "the active one is there, too"
    assert place.verify().ok


def test_f71_whatever_the_retention_no_unread_record_goes(place: Place) -> None:
    clock = ManualClock()
    log = filled(place, consumer="", retention_bytes=0, retention_seconds=0, clock=clock)
    assert log.first_offset == 50
    consumer = log.consumer("abandoned")
    clock.advance(1e8)
    for _ in range(5):
        log.append_many([bytes(400)] * PER_SEGMENT)
    report = log.compact()
    assert log.first_offset == 50
    assert kept(report)[0] == ("abandoned",)
    assert offsets(consumer.drain()) == list(range(50, 110))


@pytest.mark.parametrize("seconds", [-(10.0**8), 10.0**8])
def test_f62_a_wall_clock_that_jumps_costs_no_consumer_a_record(place: Place, seconds: float) -> None:
    """Ahead: what all have passed may go too early. Back: it stays for longer. Nothing else."""
    clock = ManualClock()
    log = filled(place, retention_seconds=100, clock=clock)
    consumer = log.consumer("c")
    consumer.ack(*range(25))
    clock.jump(seconds)
    for _ in range(3):
        log.append_many([bytes(400)] * PER_SEGMENT)
    log.compact()
    assert log.first_offset == (20 if seconds > 0 else 0)
    assert offsets(consumer.drain()) == list(range(25, 90))


def test_another_process_that_compacts_keeps_it_too(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = filled(Place(path, None), retention_bytes=2 * SEGMENT_BYTES)
    log.consumer("c").ack(*range(60))
    with seglog.open(path, "r") as other:
        assert other.compact().first_offset == 40
    log.close()
    with seglog.open(path, "r") as other:
        assert other.compact().first_offset == 40, "and without a writer"
    with seglog.open(path, "r", retention_bytes=0) as other:
        assert other.compact().first_offset == 50, "unless it is told otherwise"
    with seglog.open(path, "r") as other:
        assert other.compact().first_offset == 50


def test_the_next_writer_says_what_holds_from_now_on(place: Place) -> None:
    with filled(place, retention_bytes=1 << 40) as log:
        log.consumer("c").ack(*range(60))
        assert log.compact().first_offset == 0
    with place.open(segment_bytes=4096) as log:
        assert log.compact().first_offset == 50


def test_a_writer_that_keeps_the_retention_changes_nothing_of_it(place: Place) -> None:
    with filled(place, retention_bytes=1 << 40) as log:
        log.consumer("c").ack(*range(60))
    with place.open(segment_bytes=4096, retention_bytes="kept", retention_seconds="kept") as log:
        assert log.compact().first_offset == 0
    with place.open(segment_bytes=4096, retention_bytes=1 << 40, retention_seconds="kept") as log:
        assert log.compact().first_offset == 0
    with place.open(segment_bytes=4096, retention_seconds="kept") as log:
        assert log.compact().first_offset == 50


@pytest.mark.parametrize("option", ["retention_bytes", "retention_seconds"])
def test_a_retention_that_says_nothing_is_refused(place: Place, option: str) -> None:
    with pytest.raises(seglog.InvalidOption, match=option):
        place.open(**{option: "keep"})


def test_nothing_is_written_where_the_retention_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log"
    seglog.open(path, retention_bytes=5, retention_seconds=7.5).close()
    before = (path / "meta").read_bytes()
    seglog.open(path, retention_bytes=5, retention_seconds=7.5).close()
    assert (path / "meta").read_bytes() == before
    seglog.open(path, retention_bytes=5).close()
    assert (path / "meta").read_bytes() != before


def test_a_removed_middle_waits_for_its_age(place: Place) -> None:
    clock = ManualClock()
    log = filled(place, retention_bytes=0, retention_seconds=100, clock=clock)
    consumer = log.consumer("c")
    consumer.ack(*range(10, 40))
    assert log.compact().removed_segments == 0
    clock.advance(101)
    assert log.compact().removed_segments == 3
    assert offsets(consumer.drain()) == [*range(10), *range(40, 60)]


def test_limits_do_not_count_what_is_kept_for_replay(place: Place) -> None:
    log = place.open(segment_bytes=4096, retention_bytes=1 << 40, max_records=10, when_full="error")
    consumer = log.consumer("c")
    for n in range(6):
        log.append_many([bytes(400)] * PER_SEGMENT)
        consumer.ack(*range(10 * n, 10 * n + 10))
    assert offsets(log.read()) == list(range(60))
    assert log.stats().used_records == 0


def test_the_cost_of_a_rotation_does_not_grow_with_what_is_kept(tmp_path: Path) -> None:
    """Bisection: with four times as many segments kept, two more are looked at."""

    def looks(segments: int) -> int:
        log = filled(Place(str(tmp_path / str(segments)), None), segments, retention_bytes=1 << 40)
        log.consumer("c").ack(*range(10 * segments))
        catalog = log._source.catalog
        catalog._facts.clear()
        log._housekeeping.reclaim()
        log.close()
        return len(catalog._facts)

    assert looks(40) - looks(10) < 8
