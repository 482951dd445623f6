"""`when_full="drop_oldest"`: just as many of the oldest records go as it takes, and whoever wanted them is told."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seglog
from seglog.disk.local import LocalDisk
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk, ManualClock
from tests.support.backlog import Worker, blocked, stored_bytes
from tests.support.place import Place, offsets
from tools.crashtest.zygote import Start

CHILDREN = "tests.support.children:"


def dropping(place: Place, max_records: int | None = 10, **options: Any) -> seglog.Log[bytes]:
    return place.open(max_records=max_records, when_full="drop_oldest", **options)


def test_the_newest_records_stay_and_the_consumer_is_told_of_the_others(place: Place) -> None:
    log = dropping(place)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    for n in range(15):
        assert log.append(b"%d" % n) == n
    assert len(consumer) == 10
    assert offsets(log.read()) == list(range(5, 15))
    assert offsets(consumer.drain()) == list(range(5, 15))
    assert gaps == [seglog.Gap(0, 4, "dropped")]
    stats = log.stats()
    assert (stats.first_offset, stats.records, stats.dropped, stats.used_records) == (5, 10, 5, 10)
    assert stats.consumers["c"].lag_records == 10
    assert log.get(4) is None
    assert log.get(5) is not None
    assert place.verify().ok


def test_the_reason_is_told_even_if_nobody_has_looked_at_meta_since(place: Place) -> None:
    log = dropping(place)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    for n in range(15):
        log.append(b"%d" % n)
    assert offsets(consumer.drain()) == list(range(5, 15))
    assert gaps == [seglog.Gap(0, 4, "dropped")]


def test_a_batch_is_dropped_in_part(place: Place) -> None:
    log = dropping(place)
    log.append_many([b"%d" % n for n in range(10)])
    log.append_many([b"x"] * 3)
    assert offsets(log.read()) == list(range(3, 13))


def test_what_was_consumed_goes_first(place: Place) -> None:
    log = dropping(place)
    consumer = log.consumer("c")
    log.append_many([b"x"] * 10)
    consumer.ack(*range(4))
    log.append_many([b"x"] * 4)
    assert (log.stats().dropped, log.first_offset) == (0, 0)
    assert offsets(log.read()) == list(range(14))
    log.append(b"x")
    assert (log.stats().dropped, log.first_offset) == (1, 5)


def test_a_step_back_counts_again_at_the_next_append(place: Place) -> None:
    log = dropping(place)
    consumer = log.consumer("c")
    log.append_many([b"x"] * 10)
    consumer.ack(*range(10))
    log.append_many([b"x"] * 5)
    consumer.seek("earliest")
    assert log.stats().used_records == 15
    log.append(b"x")
    assert (log.stats().used_records, log.first_offset) == (10, 6)


def test_what_is_noted_is_never_ahead_of_what_is_durable(place: Place) -> None:
    log = dropping(place, 3, durability="interval", sync_interval=3600.0)
    for _ in range(10):
        log.append(b"x")
    assert (log.first_offset, log.durable_offset) == (7, 0)
    other = place.open("r")
    assert other.first_offset == 0
    log.sync()
    log.append(b"x")
    log.close()
    assert other.first_offset == 8


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_bytes_are_counted_record_by_record(place: Place, options: dict[str, Any]) -> None:
    log = dropping(place, None, max_bytes=8000, segment_bytes=4096, **options)
    log.append_many([b"%d" % n * 30 for n in range(40)])
    before = 0
    for _ in range(60):
        log.append(b"x" * 10)
        assert log.stats().used_bytes is not None
        assert log.stats().used_bytes <= 8000  # type: ignore[operator]
        assert log.first_offset - before <= 5, "more than it takes"
        before = log.first_offset
    if not options:
        assert before > 10


def test_disk_space_follows_by_segment(place: Place) -> None:
    log = dropping(place, None, max_bytes=20_000, segment_bytes=4096)
    for _ in range(200):
        log.append(bytes(500))
        assert log.stats().segments <= 20_000 // 4096 + 3
    assert log.stats().segments > 3
    assert stored_bytes(log) > 100_000


def test_a_reader_under_way_passes_over_what_is_dropped(place: Place) -> None:
    log = dropping(place)
    log.append_many([b"x"] * 10)
    gaps: list[seglog.Gap] = []
    seen = []
    for message in log.read(on_gap=gaps.append):
        seen.append(message.offset)
        if message.offset < 20:
            log.append_many([b"x"] * 7)
    assert seen[0] == 0
    assert seen[-1] == log.next_offset - 1
    told = [offset for gap in gaps for offset in range(gap.first_offset, gap.last_offset + 1)]
    assert sorted(seen + told) == list(range(log.next_offset))
    assert {gap.reason for gap in gaps} == {"dropped"}


def test_a_consumer_gets_nothing_that_was_dropped_while_it_waited_to_be_given_out(place: Place) -> None:
    log = dropping(place)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    log.append_many([b"x"] * 10)
    first, second = consumer.receive_many(2)
    consumer.nack(second)
    log.append_many([b"y"] * 5)
    assert offsets(consumer.receive_many(3)) == [5, 6, 7]
    assert gaps == [seglog.Gap(0, 4, "dropped")]
    consumer.ack(first)  # in flight when it was dropped: nothing happens
    consumer.nack(first)
    assert offsets(consumer.drain()) == [8, 9, 10, 11, 12, 13, 14]
    assert consumer.stats().watermark == 5
    assert len(gaps) == 1


def test_what_is_acked_in_between_is_no_gap(place: Place) -> None:
    log = dropping(place)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    log.append_many([b"x"] * 10)
    consumer.ack(0, 3, 4)
    log.append_many([b"x"] * 9)
    consumer.receive()
    assert [(gap.first_offset, gap.last_offset) for gap in gaps] == [(1, 2), (5, 8)]


def test_reopened_the_reason_and_the_count_are_still_known(place: Place) -> None:
    with dropping(place) as log:
        log.consumer("c")
        for _ in range(15):
            log.append(b"x")
    gaps: list[seglog.Gap] = []
    with dropping(place) as log:
        assert (log.first_offset, log.stats().dropped) == (5, 5)
        log.append(b"x")
        log.purge()
        log.append(b"x")
        consumer = log.consumer("c", on_gap=gaps.append)
        assert offsets(consumer.drain()) == [16]
        assert log.stats().dropped == 6
    assert gaps == [seglog.Gap(0, 5, "dropped"), seglog.Gap(6, 15, "purged")]
    assert place.verify().ok


def test_a_smaller_limit_drops_more_at_the_next_append(place: Place) -> None:
    with dropping(place) as log:
        log.append_many([b"x"] * 10)
    with dropping(place, 3) as log:
        assert log.stats().records == 10
        log.append(b"x")
        assert offsets(log.read()) == [8, 9, 10]


def test_a_consumer_in_another_process_is_told(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with dropping(Place(path, None)) as log:
        log.append(b"x")
        child = start(CHILDREN + "drain_when_told", path, "c")
        assert child.line() == "open"
        for _ in range(14):
            log.append(b"x")
    child.tell()
    assert child.line() == "gap 0 4 dropped"
    assert [child.line() for _ in range(11)] == [f"message {n}" for n in range(5, 15)] + ["drained"]


def test_the_process_dies_and_less_is_dropped_never_more(place: Place) -> None:
    clock = ManualClock()
    log = dropping(place, clock=clock)
    log.consumer("c")
    for _ in range(15):
        log.append(b"x")
    log._after_fork()  # it dies: files closed, nothing written
    gaps: list[seglog.Gap] = []
    with dropping(place) as log:
        consumer = log.consumer("c", on_gap=gaps.append)
        there = offsets(log.read())
        assert there[-10:] == list(range(5, 15))
        assert offsets(consumer.drain()) == there
        log.append(b"x")
        assert offsets(log.read()) == list(range(6, 16))
    assert place.verify().ok


def test_more_threads_than_the_limit_holds(place: Place) -> None:
    log = dropping(place, 5)
    workers = [Worker(partial(log.append_many, [b"%d" % n] * (1 + n % 5))) for n in range(24)]
    for worker in workers:
        worker.ends()
    assert len(offsets(log.read())) == 5
    assert log.stats().dropped == log.next_offset - 5


def test_a_refused_append_drops_no_more_with_every_attempt(tmp_path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    with seglog.open(tmp_path / "log", disk=disk, max_records=10, when_full="drop_oldest") as log:
        log.append_many([b"x"] * 10)
        disk.arm(Fault(error=28, onwards=True), match=lambda operation, name: operation == "write" and ".seg" in name)
        for _ in range(20):
            with pytest.raises(seglog.DiskFull):
                log.append(b"y")
        assert log.stats().dropped == 1
        disk.arm(None)


def test_p9_what_is_dropped_counts_once_however_often_its_space_cannot_be_given_back() -> None:
    disk, clock = FaultDisk(MemoryDisk()), ManualClock()
    with seglog.open("log", disk=disk, clock=clock, max_records=10, when_full="drop_oldest", segment_bytes=4096) as log:
        disk.arm(Fault(onwards=True), match=lambda operation, _: operation == "unlink")
        for _ in range(40):
            log.append(bytes(900))
            clock.advance(1)
        assert disk.matched > 1
        assert log.stats().dropped == 30
        disk.arm(None)
    with seglog.open("log", "r", disk=disk) as log:
        assert log.stats().dropped == 30


def test_where_the_disk_does_not_take_the_note_appends_go_on(tmp_path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    with seglog.open(tmp_path / "log", disk=disk, max_records=10, when_full="drop_oldest") as log:
        log.append_many([b"x"] * 10)
        disk.arm(Fault(onwards=True), match=lambda operation, name: operation == "write" and name == "meta")
        log.append_many([b"y"] * 5)
        assert offsets(log.read()) == list(range(5, 15))
        disk.arm(None)


def test_that_records_are_dropped_is_told_once_in_a_while(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    log = dropping(place, clock=clock)
    with caplog.at_level(logging.WARNING, "seglog"):
        for _ in range(50):
            log.append(b"x")
        clock.advance(61)
        for _ in range(50):
            log.append(b"x")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["1", "40"]


def test_a_removed_middle_is_passed_over(place: Place) -> None:
    log = dropping(place, 60, segment_bytes=4096)
    consumer = log.consumer("c")
    for _ in range(6):
        log.append_many([bytes(400)] * 10)
    consumer.ack(*range(10, 40))
    log.compact()
    log.append_many([bytes(400)] * 10)
    assert log.first_offset == 0
    for _ in range(30):
        log.append(b"x")
    assert log.first_offset == 10
    assert offsets(log.read()) == list(range(40, 100))
    log.append(b"x")
    assert log.first_offset == 41
    assert log.stats().dropped == 11


def test_nobody_stays_in_line_for_what_others_were_promised(place: Place) -> None:
    log = dropping(place, 3)
    assert not blocked(log)()
    workers = [Worker(partial(log.append, b"x", timeout=0)) for _ in range(12)]
    for worker in workers:
        worker.ends()
    assert log.next_offset == 12


@given(
    limit=st.integers(1, 20),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 8)),
            st.tuples(st.just("ack"), st.integers(0, 8)),
            st.tuples(st.just("purge"), st.none()),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=20,
    ),
)
def test_the_log_is_a_list_that_forgets_its_front(limit: int, steps: list[tuple[str, Any]]) -> None:
    place = Place("log", MemoryDisk())
    log = dropping(place, limit, segment_bytes=4096)
    written, mark, first = 0, 0, 0  # records ever, how far the consumer is, what was dropped or purged below
    told: set[int] = set()
    seen: set[int] = set()

    def on_gap(gap: seglog.Gap) -> None:
        told.update(range(gap.first_offset, gap.last_offset + 1))

    consumer = log.consumer("c", on_gap=on_gap)
    for what, number in steps:
        before = log.first_offset
        if what == "append" and number <= limit:
            log.append_many([b"%d" % n + bytes(300) for n in range(written, written + number)])
            written += number
            if written - max(mark, first) > limit:
                first = written - limit
        elif what == "ack":
            messages = consumer.receive_many(number) if number else []
            consumer.ack(*messages)
            seen.update(offsets(messages))
            mark = max([mark, *(offset + 1 for offset in offsets(messages))])
        elif what == "purge":
            assert log.purge() == written - before
            first = written
        elif what == "reopen":
            log.close()
            log = dropping(place, limit, segment_bytes=4096)
            consumer = log.consumer("c", on_gap=on_gap)
        assert offsets(log.read())[-limit:] == list(range(max(first, log.first_offset), written))[-limit:]
        assert log.first_offset >= first
        assert len(consumer) == written - max(mark, first)
        assert log.stats().used_records == written - max(mark, first)
    rest = offsets(consumer.drain())
    assert rest == list(range(max(mark, first), written))
    assert seen | told | set(rest) == set(range(written))
    assert not seen & told
    assert place.verify().ok
    place.close()


@pytest.mark.parametrize("answer", ["nack", "lease", "ack"])
def test_what_is_dropped_while_it_is_in_flight_fails_no_more_and_is_told_once(place: Place, answer: str) -> None:
    clock = ManualClock()
    log = dropping(place, clock=clock)
    log.append_many([b"x"] * 10)
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", lease=5, max_attempts=1, on_gap=gaps.append)
    messages = consumer.receive_many(3)
    log.append_many([b"y"] * 9)
    assert offsets(consumer.receive_many(1)) == [9]
    assert consumer.stats().in_flight == 1
    if answer == "nack":
        consumer.nack(*messages)
    elif answer == "ack":
        consumer.ack(*messages)
    else:
        clock.advance(6)
    consumer.nack(9)
    assert offsets(consumer.drain()) == list(range(10, 19))
    assert gaps == [seglog.Gap(0, 8, "dropped")]
    assert [letter.offset for letter in log.dead_letters] == [9]
    assert consumer._cursor.attempts == {}
