"""`log.purge()`: all that was appended so far is gone, for everybody, and the disk has its space back."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk.local import LocalDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, offsets
from tools.crashtest.zygote import Start

CHILDREN = "tests.support.children:"


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_everything_so_far_is_gone_and_offsets_go_on(place: Place, durability: str) -> None:
    log = place.open(segment_bytes=4096, durability=durability)
    for _ in range(6):
        log.append_many([bytes(400)] * 10)
    under_way = log.read()
    next(under_way)
    assert log.purge() == 60
    assert offsets(log.read()) == []
    assert offsets(under_way) == list(range(1, 10)), "at most what was read already"
    assert (log.first_offset, log.next_offset, log.stats().records, log.stats().segments) == (60, 60, 0, 1)
    assert log.stats().dropped == 0
    assert log.purge() == 0
    assert log.append(b"x") == 60
    log.sync()
    assert offsets(log.read()) == [60]
    assert place.verify().ok
    log.close()
    with place.open() as log:
        assert offsets(log.read()) == [60]
        assert log.purge() == 1


def test_consumers_are_told_and_go_on(place: Place) -> None:
    log = place.open()
    gaps: list[seglog.Gap] = []
    consumer = log.consumer("c", on_gap=gaps.append)
    log.append_many([b"x"] * 10)
    consumer.ack(*consumer.receive_many(3))
    held = consumer.receive()
    assert held is not None
    assert log.purge() == 10
    assert len(consumer) == 0
    assert consumer.receive() is None
    assert gaps == [seglog.Gap(3, 9, "purged")]
    consumer.ack(held)
    consumer.nack(held)
    log.append(b"y")
    assert offsets(consumer.drain()) == [10]
    with pytest.raises(seglog.OffsetOutOfRange):
        consumer.ack(11)
    consumer.seek("earliest")
    assert offsets(consumer.drain()) == [10]


def test_what_was_removed_before_is_not_counted_again(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    for _ in range(6):
        log.append_many([bytes(400)] * 10)
    log.consumer("c").ack(*range(10, 40))
    log.compact()
    assert log.stats().records == 30
    assert log.purge() == 30


def test_a_consumer_in_another_process_is_told(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with seglog.open(path) as log:
        log.append(b"x")
        child = start(CHILDREN + "drain_when_told", path, "c")
        assert child.line() == "open"
        child.tell()
        assert [child.line() for _ in range(2)] == ["message 0", "drained"]
        log.append_many([b"x"] * 5)
        log.purge()
        log.append(b"x")
        child.tell()
        assert [child.line() for _ in range(3)] == ["gap 0 5 purged", "message 6", "drained"]


def test_another_process_purges_beside_the_writer(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with seglog.open(path, segment_bytes=4096) as log:
        consumer = log.consumer("c", on_gap=lambda _: None)
        log.append_many([bytes(1000)] * 10)
        with seglog.open(path, "r") as other:
            assert other.purge() == 10
            assert offsets(other.read()) == []
        assert log.first_offset == 10
        assert offsets(log.read()) == []
        assert offsets(consumer.drain()) == []
        assert log.append(b"x") == 10
        assert offsets(consumer.drain()) == [10]
        assert log.stats().segments == 1
    assert seglog.verify(path).ok


@pytest.mark.parametrize("operation", ["create", "write", "allocate"])
def test_p9_f43_on_a_full_disk_the_active_segment_stays_and_the_rest_goes(operation: str, tmp_path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    full = Fault(error=errno.ENOSPC, onwards=True)
    with seglog.open(tmp_path / "log", disk=disk, segment_bytes=4096) as log:
        log.append_many([bytes(3000)] * 2)
        log.append_many([bytes(3000)] * 2)

        def new_space(what: str, name: str) -> bool:
            return what == operation and ".tmp" in name

        disk.arm(full, match=new_space)
        assert log.purge() == 4
        disk.arm(None)
        assert offsets(log.read()) == []
        assert log.append(b"x") == 4
        assert offsets(log.read()) == [4]
        assert log.stats().records == 1
    assert seglog.verify(tmp_path / "log").ok


def test_damage_in_what_is_purged_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "log"
    disk = FaultDisk(LocalDisk())
    with seglog.open(path, disk=disk) as log:
        log.append_many([b"a" * 100, b"b" * 100])
        log.append(b"c" * 100)
        disk.arm(Fault(error=errno.ENOSPC, onwards=True), match=lambda what, name: what == "create" and ".seg" in name)
        log.purge()
        disk.arm(None)
        log.append(b"d" * 100)
    segment = next((path / "segments").iterdir())
    segment.write_bytes(
        segment.read_bytes().replace(b"b" * 100, b"b" * 99 + b"?").replace(b"c" * 100, b"c" * 99 + b"?")
    )
    report = seglog.verify(path)
    assert (report.acknowledged_loss, report.records, report.first_offset) == (False, 1, 3)
    assert {(d.first_offset, d.last_offset) for d in report.damage} == {(None, None)}
    with seglog.open(path) as log:
        assert offsets(log.read()) == [3]


def test_a_purge_that_fails_has_not_happened(tmp_path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    with seglog.open(tmp_path / "log", disk=disk) as log:
        log.append_many([b"x"] * 5)
        disk.arm(Fault(onwards=True), match=lambda what, name: what == "write" and name == "meta")
        with pytest.raises(seglog.StorageError):
            log.purge()
        disk.arm(None)
        assert offsets(log.read()) == list(range(5))


def test_purging_is_for_open_logs(place: Place) -> None:
    log: seglog.Log[Any] = place.open()
    log.close()
    with pytest.raises(seglog.LogClosed):
        log.purge()


def test_what_was_dropped_before_it_was_durable_is_not_purged_once_more(place: Place) -> None:
    with place.open(durability="never", max_records=8, when_full="drop_oldest") as log:
        log.append_many([b"x"] * 4)
        log.append_many([b"x"] * 5)
        assert log.first_offset == 1
        assert log.purge() == 8
