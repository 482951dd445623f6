"""Threads and processes beside each other on one log: nobody hangs, nothing is told twice or taken for damage."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog import catalog
from seglog.catalog import Meta
from seglog.disk.base import Directory
from seglog.disk.memory import MemoryDisk
from seglog.format.names import SegmentName
from seglog.testing import Fault, FaultDisk, ManualClock
from tests.support.place import Place

SECONDS = 20.0  # far more than any of this takes; a deadlock ends the wait, not the test run


def all_end(*works: Callable[[], object]) -> bool:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return not any(thread.is_alive() for thread in threads)


def broken_reads(disk: FaultDisk, nth: int) -> None:
    disk.arm(Fault(nth), match=lambda operation, name: operation == "read" and name.endswith(".seg"))


@pytest.mark.parametrize("nth", range(1, 25))
def test_p9_an_error_while_a_scan_enters_a_segment_is_not_taken_for_damage(nth: int) -> None:
    disk = FaultDisk(MemoryDisk())
    sizes = [900, 900, 900, 3000, 900, 900, 900, 900, 900, 100, 100, 3500, 3900]  # unequal, so that places differ
    with seglog.open("log", disk=disk, segment_bytes=4096) as log:
        for number, size in enumerate(sizes):
            log.append(b"%04d" % number + b"x" * size)
    with seglog.open("log", disk=disk, segment_bytes=4096) as log:
        gaps: list[seglog.Gap] = []
        consumer = log.consumer("c", on_gap=gaps.append)
        broken_reads(disk, nth)
        got: list[int] = []
        for _ in range(3 * len(sizes)):
            try:
                message = consumer.receive()
            except seglog.StorageError:
                continue
            if message is None:
                break
            got.append(message.offset)
            consumer.ack(message)
        disk.arm(None)
        assert (got, gaps, len(log.dead_letters)) == (list(range(len(sizes))), [], 0)


def test_p5_a_redelivery_that_fails_stays_in_line() -> None:
    disk = FaultDisk(MemoryDisk())
    with seglog.open("log", disk=disk) as log:
        log.append_many([b"a", b"b"])
        consumer = log.consumer("c")
        first, second = consumer.receive_many(2)
        consumer.nack(first)
        consumer.ack(second)
        broken_reads(disk, 1)
        with pytest.raises(seglog.StorageError):
            consumer.receive()
        disk.arm(None)
        again = consumer.receive()
        assert again is not None
        assert (again.offset, again.attempts) == (0, 2)


class Moody:
    """A serializer that fails for a while, in a way that says nothing about the payload."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, payload: bytes) -> bytes:
        if payload == b"moody" and self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        return payload


def test_p5_a_delayed_message_comes_once_though_its_batch_was_read_again() -> None:
    clock = ManualClock()
    with seglog.open(":memory:", serializer=Moody(3), clock=clock) as log:
        log.append_many([seglog.Record(b"late", delay=5), seglog.Record(b"moody"), seglog.Record(b"last")])
        consumer = log.consumer("c")
        for _ in range(3):
            with pytest.raises(RuntimeError):
                consumer.receive_many(10)
        assert [message.offset for message in consumer.receive_many(10)] == [1, 2]
        clock.advance(6)
        assert [message.offset for message in consumer.receive_many(10)] == [0]
        assert consumer.receive_many(10) == []
        assert consumer.stats().in_flight == 3


def test_p11_the_callback_of_a_future_may_append(place: Place) -> None:
    log = place.open()
    offsets: list[int] = []
    done = threading.Event()

    def more(_: Future[int]) -> None:
        offsets.append(log.append(b"from the callback"))
        done.set()

    first = log.submit(b"first")
    first.add_done_callback(more)
    others = [log.submit(b"other %d" % number) for number in range(200)]
    assert all_end(lambda: log.append(b"plain"))
    assert done.wait(SECONDS)
    assert len({first.result(SECONDS), *offsets, *(future.result(SECONDS) for future in others)}) == 202


def test_p11_closing_a_consumer_beside_a_compaction_hangs_nobody(place: Place, hasty: None) -> None:
    log = place.open()
    log.append(b"x")

    def opens_and_closes() -> None:
        for _ in range(100):
            log.consumer("c").close()

    def compacts() -> None:
        for _ in range(100):
            log.compact()

    assert all_end(opens_and_closes, compacts)


@pytest.mark.parametrize("asked", ["stats", "compact"])
def test_p11_on_gap_may_ask_the_log_anything(place: Place, asked: str) -> None:
    log = place.open()
    log.append_many([seglog.Record(b"x", ttl=0.0)] * 3)
    meet = threading.Barrier(2)
    told: list[seglog.Gap] = []

    def on_gap(gap: seglog.Gap) -> None:
        if not told:
            meet.wait(SECONDS)
        getattr(log, asked)()
        told.append(gap)

    first = log.consumer("first", on_gap=on_gap)

    def beside() -> None:
        meet.wait(SECONDS)
        getattr(log, asked)()

    assert all_end(first.receive, beside)
    assert [(gap.first_offset, gap.reason) for gap in told] == [(0, "expired"), (1, "expired"), (2, "expired")]


def test_messages_go_back_when_on_gap_raises(place: Place) -> None:
    log = place.open()
    log.append_many([seglog.Record(b"gone", ttl=0.0), b"kept"])

    def on_gap(_: seglog.Gap) -> None:
        raise LookupError("mine")

    consumer = log.consumer("c", on_gap=on_gap)
    with pytest.raises(LookupError):
        consumer.receive_many(10)
    assert consumer.stats().in_flight == 0
    assert [message.value for message in consumer.receive_many(10)] == [b"kept"]


def test_wait_durable_waits_without_spinning(place: Place) -> None:
    log = place.open(durability="never")
    log.append(b"x")
    offset = log.append(b"y")
    looked: list[int] = []
    source = log._source
    wait = source.wait_beyond

    def counted(offset: int, timeout: float, *, durable: bool = False) -> None:
        looked.append(offset)
        wait(offset, timeout, durable=durable)

    source.wait_beyond = counted  # type: ignore[method-assign, assignment]
    with pytest.raises(TimeoutError):
        log.wait_durable(offset, timeout=0.3)
    assert len(looked) < 10
    log.sync()
    log.wait_durable(offset, timeout=0)


def test_a_reader_calls_durable_only_what_is_synced(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log", durability="never") as log:
        log.append(b"x")
        log.append(b"y")
        with seglog.open(tmp_path / "log", mode="r") as reader:
            assert reader.next_offset == 2
            assert reader.durable_offset <= log.durable_offset


def test_p11_a_listing_that_is_late_undoes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.open(segment_bytes=4096)
    catalog = log._source.catalog
    listed = catalog.segments.list
    rotated = threading.Event()

    def slow() -> list[str]:
        names = listed()
        if threading.current_thread() is not threading.main_thread():
            rotated.wait(1)  # the writer makes a segment after we listed; it waits for our lock, or we would undo it
        return names

    monkeypatch.setattr(catalog.segments, "list", slow)
    reader = threading.Thread(target=catalog.refresh)
    reader.start()
    for _ in range(6):
        log.append(b"x" * 1500)
    rotated.set()
    reader.join(SECONDS)
    monkeypatch.undo()
    assert catalog.names == tuple(sorted(catalog.refresh(), key=lambda name: name.segment_id))
    assert catalog.names[-1].segment_id == log._source.seen().segment_id


def test_p11_an_opening_beside_a_compaction_misses_nothing_and_reports_nothing_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    with seglog.open("log", disk=disk, segment_bytes=4096) as log:
        for _ in range(6):
            log.append_many([bytes(400)] * 10)
        log.consumer("c").ack(*range(10, 40))
        assert log.compact().removed_segments == 3  # in the middle: ids lack in the listing
    beside = seglog.open("log", "r", disk=disk)
    beside.consumer("c").ack(*range(10))
    opened = Meta.open

    def meanwhile(root: Directory, *, write: bool) -> Meta | None:
        beside.compact()  # the opening has listed the segments by now
        return opened(root, write=write)

    monkeypatch.setattr(Meta, "open", meanwhile)
    with seglog.open("log", disk=disk, strict=True) as log:
        assert log.report.missing == ()
        assert [message.offset for message in log.read()] == list(range(40, 60))
    beside.close()


@pytest.mark.parametrize("look", ["read", "bytes"])
def test_p3_a_look_at_the_listing_is_not_led_astray_by_a_compaction_in_another_thread(
    look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seglog.open(":memory:", segment_bytes=4096) as log:
        consumer = log.consumer("c")
        for _ in range(60):
            log.append(bytes(1000))
        consumer.ack(*range(20))
        source = log._source
        looks: dict[str, Callable[[], object]] = {
            "read": lambda: next(log.read(30)).offset,
            "bytes": lambda: source.bytes_before(30),
        }
        expected = looks[look]()

        def found(names: Sequence[SegmentName], offset: int, **options: Any) -> int:
            """Between the bisection and what is made of it, segments go."""
            place = bisect_right(names, offset, **options)
            monkeypatch.undo()
            compacting = threading.Thread(target=log.compact)
            compacting.start()
            compacting.join(SECONDS)
            return place

        monkeypatch.setattr(catalog, "bisect_right", found)
        assert looks[look]() == expected
        assert log.first_offset > 0, "it was compacted meanwhile"


def test_p11_an_append_does_not_wait_for_a_consumer_that_waits_for_another_process() -> None:
    disk = MemoryDisk()
    with seglog.open("log", disk=disk, segment_bytes=4096) as log:
        log.consumer("c")
        compacts = seglog.open("log", "r", disk=disk)
        with compacts._roster.registry().locked():
            opening = threading.Thread(target=log.consumer, args=("new",), daemon=True)
            opening.start()
            assert opening.is_alive()
            assert all_end(lambda: [log.append(bytes(900)) for _ in range(20)])  # over rotations
        opening.join(SECONDS)
        assert not opening.is_alive()
        compacts.close()


class Spool(logging.Handler):
    """Appends what is logged to the log that it is logged about."""

    def __init__(self, log: seglog.Log[bytes]) -> None:
        super().__init__()
        self._log = log
        self.refused: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.append(record.getMessage().encode())
        except seglog.SeglogError as error:
            self.refused.append(error)


@pytest.fixture
def spools() -> Iterator[Callable[[seglog.Log[bytes]], Spool]]:
    made: list[Spool] = []
    logger = logging.getLogger("seglog")

    def begin(log: seglog.Log[bytes]) -> Spool:
        made.append(Spool(log))
        logger.addHandler(made[-1])
        return made[-1]

    yield begin
    for spool in made:
        logger.removeHandler(spool)


def test_what_is_told_of_dropped_records_may_go_into_the_same_log(
    spools: Callable[[seglog.Log[bytes]], Spool],
) -> None:
    with seglog.open(":memory:", max_records=5, when_full="drop_oldest") as log:
        spool = spools(log)
        assert all_end(lambda: [log.append(b"x") for _ in range(6)])
        assert [message.payload for message in log.read()][-1].startswith(b"1 records were dropped")
        assert spool.refused == []


def test_p9_what_a_commit_tells_of_its_failure_does_not_wait_for_that_commit(
    spools: Callable[[seglog.Log[bytes]], Spool],
) -> None:
    disk = FaultDisk(MemoryDisk())
    log = seglog.open("log", disk=disk)
    spool = spools(log)
    disk.arm(Fault(), match=lambda operation, name: operation == "datasync" and name.endswith(".seg"))
    failed: list[BaseException] = []

    def append() -> None:
        try:
            log.append(b"x")
        except seglog.LogFailed as error:
            failed.append(error)

    assert all_end(append, append)
    assert len(failed) == 2
    assert spool.refused
    assert not isinstance(spool.refused[0], seglog.LogFailed), "it is not accepted"
    log.close()
