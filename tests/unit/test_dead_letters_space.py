"""The queue of dead letters on a full disk, on one that fails, and with several processes at it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog import dead_log, options
from seglog.dead_log import RESERVE_BYTES
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, offsets, payloads
from tools.crashtest.zygote import Start

CHILDREN = "tests.support.children:"
SIZE = 1000
RESERVED = RESERVE_BYTES // (SIZE + 400)  # so many letters of that size


def filled(disk: MemoryDisk, **options: Any) -> seglog.Log[Any]:
    """A log with 100 records to reject."""
    log = Place("log", disk).open(**options)
    log.append_many([bytes(SIZE)] * 100)
    log.consumer("c")
    return log


def fill_up(disk: MemoryDisk) -> int:
    """Not one byte is free; how many are used."""
    disk.capacity = 1 << 40
    disk.capacity -= disk.room()
    return disk.capacity


def reject_until_it_fails(log: seglog.Log[Any]) -> int:
    """How many more of its records become dead letters; the one that does not stays."""
    kept = 0
    for message in log.consumer("c").unacked():
        try:
            log.consumer("c").reject(message.offset)
        except seglog.DeadLetterWriteFailed:
            assert next(offsets_left(log)) == message.offset
            break
        kept += 1
    return kept


def offsets_left(log: seglog.Log[Any]) -> Iterator[int]:
    return (message.offset for message in log.consumer("c").unacked())


def test_p9_f43_f75_the_reserve_takes_letters_when_the_disk_is_full_and_then_the_records_stay() -> None:
    disk = MemoryDisk()
    with filled(disk) as log:
        fill_up(disk)
        kept = reject_until_it_fails(log)
        assert RESERVED <= kept < 100
        assert len(log.dead_letters) == kept
        disk.capacity = None
        assert reject_until_it_fails(log) == 100 - kept
    assert seglog.verify("log", disk=disk).ok


@pytest.mark.parametrize("before", [30, 40, 44, 48])
def test_p9_f43_there_is_a_reserve_however_many_there_are(before: int) -> None:
    disk = MemoryDisk()
    with filled(disk) as log:
        for offset in range(before):
            log.consumer("c").reject(offset)
        fill_up(disk)
        assert reject_until_it_fails(log) >= RESERVED


@pytest.mark.parametrize("cap", [1 << 16, 1 << 26])
def test_p9_f43_the_reserve_is_there_again_after_every_purge(cap: int) -> None:
    disk = MemoryDisk()
    with filled(disk, dead_letter_bytes=cap) as log:
        left = 100
        for _ in range(2):
            log.consumer("c").reject(*range(100 - left, 103 - left))
            assert log.dead_letters.purge() == 3
            fill_up(disk)
            kept = reject_until_it_fails(log)
            assert kept >= RESERVED
            left -= kept + 3
            disk.capacity = None
            assert log.dead_letters.purge() == kept
    assert seglog.verify("log", disk=disk).ok


def test_p9_f43_what_is_deleted_on_a_full_disk_is_deleted_and_gives_its_space_back() -> None:
    disk = MemoryDisk()
    with filled(disk, dead_letter_bytes=1 << 16) as log:
        log.consumer("c").reject(*range(20))
        for offset in range(20, 40):
            log.consumer("c").reject(offset)
        used = fill_up(disk)
        assert log.dead_letters.delete(range(39)) == 39
        assert [letter.id for letter in log.dead_letters] == [39]
        assert disk.room() > 20 * SIZE
        assert fill_up(disk) < used
        assert log.dead_letters.purge() == 1
        assert len(log.dead_letters) == 0
    disk.capacity = None
    assert seglog.verify("log", disk=disk).ok


def test_p9_f43_where_nothing_could_be_registered_in_time_a_deletion_on_a_full_disk_is_refused_whole() -> None:
    disk = MemoryDisk()
    with filled(disk) as log:
        fill_up(disk)
        log.consumer("c").reject(0, 1)
        with pytest.raises(seglog.DiskFull):
            log.dead_letters.delete([0])
        with pytest.raises(seglog.DiskFull):
            log.dead_letters.replay([0])
        assert (len(log.dead_letters), log.next_offset) == (2, 100)
        disk.capacity = None
        assert log.dead_letters.delete([0]) == 1


def mounted(path: Path) -> bool:
    """Whether a file system of 4 MiB could be mounted there."""
    path.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_p9_f43_f75_on_a_real_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk):
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        with seglog.open(disk / "log", dead_letter_bytes=1 << 16) as log:
            log.append_many([bytes(SIZE)] * 100)
            log.consumer("c").reject(0)
            fill(disk / "fill")
            kept = reject_until_it_fails(log)
            assert kept >= RESERVED
            assert log.dead_letters.delete(range(kept)) == kept
            assert len(log.dead_letters) == 1
            (disk / "fill").unlink()
            assert log.dead_letters.purge() == 1
            fill(disk / "fill")
            assert reject_until_it_fails(log) >= RESERVED
        assert seglog.verify(disk / "log").ok
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(path: Path) -> None:
    """With a file, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with pytest.raises(OSError, match="No space"):
                write_on(file, size)


def write_on(file: RawIOBase, size: int) -> None:
    for _ in range(1 << 12):
        file.write(bytes(size))


def diverting(log: seglog.Log[Any], reason: str) -> seglog.Consumer[Any]:
    """A consumer whose next message but one has to go to the dead letters."""
    consumer = log.consumer("c", max_attempts=1)
    consumer.ack(0)
    if reason in ("rejected", "refused"):
        (consumer.reject if reason == "rejected" else consumer.refuse)(1)
    elif reason == "exhausted":
        assert offsets(consumer.receive_many(1)) == [1]
        consumer.nack(1)
    else:
        consumer.receive()
    return consumer


class Picky:
    """A serializer that does not read one payload."""

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, payload: bytes) -> bytes:
        if payload == b"bad":
            raise ValueError("bad")
        return payload


@pytest.mark.parametrize("reason", ["damaged", "undecodable", "rejected", "exhausted", "refused"])
def test_f75_whatever_the_reason_what_cannot_be_kept_stays_with_its_consumer(reason: str) -> None:
    inner = MemoryDisk()
    disk = FaultDisk(inner)
    place = Place("log", disk)
    serializer: dict[str, Any] = {"serializer": Picky()} if reason == "undecodable" else {}
    with place.open() as log:
        log.append_many([b"zero", b"bad", b"two"])
    if reason == "damaged":
        spoil(inner, b"bad")
    with place.open(**serializer) as log:
        disk.arm(
            Fault(1, errno.EIO, onwards=True),
            match=lambda operation, name: operation == "open_directory" and name == "dead",
        )
        with pytest.raises(seglog.DeadLetterWriteFailed):
            diverting(log, reason)
        assert log.consumers()["c"].lag_records == 2
        disk.arm(None)
        consumer = log.consumer("c", max_attempts=1)
        if reason in ("rejected", "refused"):
            diverting(log, reason)
        elif reason == "exhausted":
            consumer.nack(1)
        assert payloads(consumer.drain()) == [b"two"]
        assert [(letter.reason, letter.offset) for letter in log.dead_letters] == [(reason, 1)]


def spoil(disk: MemoryDisk, payload: bytes) -> None:
    """Change a byte of it on the disk."""
    segments = disk.open("log/segments", create=False)
    (name,) = segments.list()
    file = segments.open(name, write=True)
    at = file.read(0, file.size()).index(payload)
    file.write(at, b"B")
    file.close()
    segments.close()


def test_letters_may_be_larger_than_any_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader believes no batch that is larger than the segment says."""
    monkeypatch.setattr(dead_log, "_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(options, "BATCH_BYTES_MIN", 1 << 20)
    sizes = [10, 3 << 20, 10, 5 << 20]
    with Place("log", MemoryDisk()).open() as log:
        for offset, size in enumerate(sizes):
            log.append(bytes(size))
            log.consumer("c").reject(offset)
        assert [len(letter.payload) for letter in log.dead_letters] == sizes


def test_many_letters_at_once_are_kept_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_log, "_BATCH_BYTES", 10_000)
    disk = FaultDisk(MemoryDisk())
    with Place("log", disk).open() as log:
        log.append_many([b"%d" % n + bytes(3000) for n in range(9)])
        consumer = log.consumer("c")
        written = disk.calls.count(("write", "00000000000000000000-00000000.seg"))
        consumer.reject(*range(9), reason="all")
        assert disk.calls.count(("write", "00000000000000000000-00000000.seg")) - written >= 3
        assert [letter.offset for letter in log.dead_letters] == list(range(9))


def test_f76_processes_that_divert_at_once_keep_everything_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with seglog.open(path, segment_bytes=4096) as log:
        log.append_many([b"%d" % n + bytes(600) for n in range(6)])
        log.append(bytes(3000))
    segment = min((path / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[data.index(b"2" + bytes(600)) + 300] ^= 0x40
    segment.write_bytes(data)
    children = [start(CHILDREN + "reject_when_told", str(path), name) for name in ("a", "b", "c")]
    for child in children:
        assert child.line() == "open"
    for child in children:
        child.tell("go")
    for child in children:
        assert child.line() == "rejected 6"
    with seglog.open(path, "r") as log:
        found = sorted((letter.consumer, letter.offset) for letter in log.dead_letters)
        assert found == [("", 2), *((name, n) for name in "abc" for n in (0, 1, 3, 4, 5, 6))]
        assert log.dead_letters.purge() == len(found)
