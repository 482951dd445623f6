"""Compaction: what is given back, what is kept and why, and that nothing is ever missed for it."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.testing import CrashDisk, ManualClock
from tests.support.place import Place, offsets

PER_SEGMENT = 10


def filled(place: Place, segments: int = 6, **options: Any) -> seglog.Log[bytes]:
    """A log with ten records in each segment."""
    log = place.open(segment_bytes=4096, **options)
    for _ in range(segments):
        log.append_many([bytes(400)] * PER_SEGMENT)
    assert log.stats().segments == segments
    return log


def test_p8_without_consumers_nothing_is_given_back(place: Place) -> None:
    log = filled(place)
    report = log.compact()
    assert (report.removed_segments, report.removed_bytes, report.first_offset) == (0, 0, 0)
    assert {pinned.pinned_by for pinned in report.remaining[:-1]} == {("no consumers",)}
    assert report.remaining[-1].pinned_by == ("active",)
    assert offsets(log.read()) == list(range(60))


def test_what_all_consumers_have_passed_is_given_back_and_the_active_segment_stays(place: Place) -> None:
    log = filled(place)
    before = log.stats().bytes
    log.consumer("c").ack(*range(60))
    report = log.compact()
    assert report.removed_segments == 5
    assert report.first_offset == log.first_offset == 50
    assert log.stats().bytes + report.removed_bytes == before
    assert [pinned.pinned_by for pinned in report.remaining] == [("active",)]
    assert offsets(log.read()) == list(range(50, 60))
    assert place.verify().ok


def test_f71_one_straggler_pins_and_is_named(place: Place) -> None:
    log = filled(place)
    log.consumer("fast").ack(*range(60))
    slow = log.consumer("slow")
    slow.ack(*range(25))
    report = log.compact()
    assert report.removed_segments == 2
    assert [pinned.pinned_by for pinned in report.remaining[:3]] == [("slow",)] * 3
    assert log.stats().pinned_by == ("slow",)
    assert offsets(slow.drain()) == list(range(25, 60))


def test_f71_a_consumer_that_nobody_opens_pins_all_the_same(place: Place) -> None:
    with filled(place) as log:
        log.consumer("abandoned")
    log = place.open(segment_bytes=4096)
    log.consumer("c").ack(*range(60))
    assert log.compact().removed_segments == 0
    assert offsets(log.consumer("abandoned").drain()) == list(range(60))


def test_middle_segments_are_given_back_and_the_straggler_in_front_misses_nothing(place: Place) -> None:
    with filled(place) as log:
        consumer = log.consumer("c")
        consumer.ack(*range(10, 40), *range(5))
        assert log.compact().removed_segments == 3
        assert log.first_offset == 0
        gaps: list[seglog.Gap] = []
        assert offsets(log.read(on_gap=gaps.append)) == [*range(10), *range(40, 60)]
        assert gaps == [seglog.Gap(10, 39, "purged")]
        assert len(consumer) == 25
        assert offsets(consumer.drain()) == [*range(5, 10), *range(40, 60)]
        report = place.verify()
        assert report.ok
        assert (report.records, report.segments, report.missing) == (30, 3, ())
    with place.open() as log:
        consumer = log.consumer("c")
        assert offsets(consumer.drain()) == [*range(5, 10), *range(40, 60)]
        consumer.ack(*range(5, 10))
        assert log.compact().first_offset == 40
    assert place.verify().ok


def test_a_step_back_over_reclaimed_segments_does_not_count_them_as_backlog(place: Place) -> None:
    with filled(place) as log:
        consumer = log.consumer("c")
        consumer.ack(*range(10, 40))
        assert log.compact().removed_segments == 3
        for start, left in ((0, 30), (5, 25), (25, 20), (40, 20)):
            consumer.seek(start)
            assert len(consumer) == len(list(consumer.unacked())) == left
            assert log.consumers()["c"].lag_records == place.verify().cursors["c"].lag_records == left
        consumer.seek(0)
        consumer.ack(*range(2, 4), *range(8, 15), 39)
        assert len(consumer) == 26
        assert log.consumers()["c"].lag_records == place.verify().cursors["c"].lag_records == 26


def test_a_new_consumer_begins_at_the_first_record_that_is_left(place: Place) -> None:
    log = filled(place)
    log.consumer("c").ack(*range(60))
    log.compact()
    assert offsets(log.consumer("new").drain()) == list(range(50, 60))


def test_space_comes_back_by_itself_at_rotation(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    consumer = log.consumer("c")
    for _ in range(40):
        log.append_many([bytes(400)] * PER_SEGMENT)
        consumer.ack(*consumer.receive_many(PER_SEGMENT))
    assert log.stats().segments <= 3
    assert log.stats().first_offset >= 370


def test_twice_is_fine_and_so_is_an_empty_log(place: Place) -> None:
    log = place.open()
    log.consumer("c")
    assert log.compact().removed_segments == 0
    filled_log = place.open("r")
    assert filled_log.compact().removed_segments == 0


def test_after_everything_was_given_back_offsets_go_on(place: Place) -> None:
    with filled(place) as log:
        log.consumer("c").ack(*range(60))
        log.compact()
    with place.open() as log:
        assert log.append(b"x") == 60
        assert offsets(log.consumer("c").drain()) == [60]


def test_f67_a_reader_in_a_segment_that_is_given_back_finishes_or_goes_on_behind_it(place: Place) -> None:
    log = filled(place)
    reading = log.read()
    seen = [next(reading).offset for _ in range(3)]
    log.consumer("c").ack(*range(60))
    log.compact()
    gaps: list[seglog.Gap] = []
    seen += offsets(reading)
    assert seen[:10] == list(range(10))  # its own segment, through the open file
    assert seen[10:] == list(range(50, 60))
    late = log.read(on_gap=gaps.append)
    assert offsets(late) == list(range(50, 60))


def test_f67_f70_readers_consumers_writer_and_compaction_at_once(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    total = 600
    consumers = [log.consumer(name) for name in ("a", "b")]
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                done.set()

        return threading.Thread(target=run)

    def write() -> None:
        for n in range(0, total, 5):
            log.append_many([b"%d" % k + bytes(200) for k in range(n, n + 5)])

    def consume(consumer: seglog.Consumer[bytes]) -> None:
        seen: list[int] = []
        while len(seen) < total and not done.is_set():
            messages = consumer.receive_many(7, timeout=1)
            consumer.ack(*messages)
            seen += offsets(messages)
        assert seen == list(range(total))

    def compact() -> None:
        while any(worker.is_alive() for worker in workers[:3]):
            log.compact()

    def read() -> None:
        while any(worker.is_alive() for worker in workers[:3]):
            found = offsets(log.read(on_gap=lambda gap: None))
            assert found == sorted(set(found))

    workers = [guarded(work) for work in (write, lambda: consume(consumers[0]), lambda: consume(consumers[1]))]
    workers += [guarded(compact), guarded(read)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert errors == []
    assert place.verify().ok


@pytest.mark.parametrize("when", ["before", "after"])
def test_f15_a_crash_between_meta_and_unlink_leaves_segments_that_the_next_compaction_drops(
    place: Place, when: str
) -> None:
    """`meta` says reclaimed, the files are still there, or there again: nobody reads them as records."""
    if place.disk is not None:
        pytest.skip("done on files")
    segments = Path(place.path) / "segments"
    with filled(place) as log:
        kept = {path.name: path.read_bytes() for path in segments.iterdir()}
        log.consumer("c").ack(*range(60))
        log.compact()
        assert log.first_offset == 50
    for name in sorted(kept)[: 5 if when == "after" else 2]:
        if not (segments / name).exists():
            (segments / name).write_bytes(kept[name])
    report = place.verify()
    assert report.ok, report
    assert report.missing == ()
    with place.open() as log:
        assert log.first_offset == 50
        assert offsets(log.read()) == list(range(50, 60))
        assert len(log.consumer("c")) == 0
        log.append(b"x")
        log.compact()
        assert {path.name for path in segments.iterdir()} & set(sorted(kept)[:5]) == set()
    assert place.verify().ok


def test_p6_a_reader_goes_on_behind_a_reclaimed_segment_that_held_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The footer of the segment before it was never synced: after a power cut only a walk shows where that one ends."""
    disk, clock = CrashDisk(), ManualClock()

    def opened(disk: CrashDisk, durability: str = "always") -> seglog.Log[bytes]:
        return seglog.open("log", disk=disk, clock=clock, durability=durability, sync_interval=3600)

    log = opened(disk)
    log.append_many([b"0", b"1"])
    log._after_fork()  # it dies
    log = opened(disk, "interval")  # another class: another segment
    log.append(b"2")
    log._after_fork()  # it dies: what it wrote is copied, and its own segment ends before it
    with opened(disk) as log:
        log.consumer("c").ack(1)
        assert log.compact().removed_segments == 1
        (image, *_) = disk.images(len(disk.journal), rng=random.Random(0))  # nothing that was not synced
        with opened(image.disk()) as after:
            assert offsets(after.read()) == offsets(log.read()) == [0, 1, 2]
            assert offsets(after.consumer("c").drain()) == [0, 2]
    assert "offsets" not in caplog.text  # no word of a gap where nothing is missing
