"""What a call costs depends neither on the backlog, nor on the number of segments, nor on who lags behind.

Work is counted, not timed: calls to the disk, names listed, lines run (tests/support/work.py). The ratios in time are
in tools/bench/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import seglog
from tests.support.work import CountingDisk, least_work

FEW_RECORDS, MANY_RECORDS = 1_000, 1_000_000
FEW_SEGMENTS, MANY_SEGMENTS = 10, 5_000
SLACK = 1.3  # what was found last may lie a step further

Logs = tuple[seglog.Log[bytes], CountingDisk]


def with_records(count: int) -> Logs:
    """So many records that nobody has consumed, in few segments."""
    disk = CountingDisk()
    log = seglog.open("log", disk=disk)
    log.consumer("late").receive()
    for _ in range(0, count, 1000):
        log.append_many([b"x"] * 1000)
    log.consumer("quick", start="latest")
    return log, disk


def with_segments(count: int) -> Logs:
    """So many segments of one record each, all pinned by a consumer that lags behind; limits that are never met."""
    disk = CountingDisk()
    log = seglog.open("log", disk=disk, segment_bytes=4096, max_records=1 << 40, max_bytes=1 << 50)
    log.consumer("late").receive()
    for _ in range(count):
        log.append(bytes(4000))
    log.consumer("quick", start="latest")
    return log, disk


def with_straggler(acked: int) -> Logs:
    """One consumer that holds the first message and has acked so many behind it."""
    disk = CountingDisk()
    log = seglog.open("log", disk=disk, segment_bytes=1 << 16)
    late = log.consumer("late")
    late.receive()
    for _ in range(0, acked, 100):
        log.append_many([bytes(100)] * 100)
    late.receive()
    while messages := late.receive_many(100):
        late.ack(*messages)
    log.consumer("quick", start="latest")
    return log, disk


def append_and_ack(log: seglog.Log[bytes], name: str) -> Any:
    log.append(b"x")
    consumer = log.consumer(name)
    message = consumer.receive()
    assert message is not None
    consumer.ack(message)


CALLS: dict[str, Callable[[seglog.Log[bytes]], Any]] = {
    "append": lambda log: log.append(b"x"),
    "append, rotating": lambda log: log.append(bytes(log._options.segment_bytes - 100)),
    "append_many": lambda log: log.append_many([b"x"] * 10),
    "append, receive, ack": lambda log: append_and_ack(log, "quick"),
    "append, receive, ack by the straggler": lambda log: append_and_ack(log, "late"),
    "nack": lambda log: log.consumer("late").nack(log.first_offset),
    "len": lambda log: len(log.consumer("late")),
    "len of one that has consumed": lambda log: len(log.consumer("quick")),
    "first and next offset": lambda log: (log.first_offset, log.next_offset),
    "get": lambda log: log.get(log.first_offset),
}
DIMENSIONS: dict[str, tuple[Callable[[int], Logs], int, int]] = {
    "backlog": (with_records, FEW_RECORDS, MANY_RECORDS),
    "segments": (with_segments, FEW_SEGMENTS, MANY_SEGMENTS),
    "straggler": (with_straggler, 100, 20_000),
}


@pytest.fixture(scope="module", params=DIMENSIONS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Logs, Logs]]:
    """A log with little and one with much of something."""
    make, few, many = DIMENSIONS[request.param]
    made = make(few), make(many)
    yield made
    for log, _ in made:
        log.close()


@pytest.mark.parametrize("call", CALLS)
def test_p10_a_call_costs_the_same_with_little_and_with_much_behind_it(call: str, pair: tuple[Logs, Logs]) -> None:
    if call.startswith("append, rotating") and pair[0][0]._options.segment_bytes > 1 << 16:
        pytest.skip("its segments are large")
    little, much = (least_work(disk, lambda log=log: CALLS[call](log)) for log, disk in pair)  # type: ignore[misc]
    assert len(much.calls) <= SLACK * len(little.calls), (little.calls, much.calls)
    assert much.listed <= little.listed
    assert much.lines <= SLACK * little.lines


def test_p10_where_consumers_stand_is_found_from_a_place_near_by_not_from_the_beginning() -> None:
    log, disk = with_records(MANY_RECORDS)  # in one segment
    with log:
        for _ in range(2):
            work = least_work(disk, log.consumers)
            assert len(work.calls) < 50
            assert work.lines < 10_000
            log.append(b"x")


def test_p10_many_separate_acks_in_many_segments_are_counted_without_asking_any_of_them() -> None:
    disk = CountingDisk()
    with seglog.open("log", disk=disk, segment_bytes=4096) as log:
        for _ in range(1800):
            log.append(bytes(1000))
        consumer = log.consumer("late")
        consumer.ack(*range(1, 1800, 2))
        assert len(consumer) == 900
        assert least_work(disk, lambda: len(consumer)).calls == ()


def test_the_counts_notice_a_listing_and_a_loop() -> None:
    log, disk = with_segments(100)
    with log:
        work = least_work(disk, log.stats)
        assert work.listed > 100
        assert work.lines > 100
        assert "list" in work.calls
        assert least_work(disk, lambda: log.next_offset)[1:] == ((), 0)
