"""The dead-letter queue: each thing once, durably, bounded, and never a danger to the log itself."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, offsets, payloads


def damaged(path: Path, records: int = 6) -> None:
    """A log whose third record of the first segment is damaged, with a segment behind."""
    with seglog.open(path, segment_bytes=4096) as log:
        log.append_many([b"%d" % n + bytes(600) for n in range(records)])
        log.append(bytes(3000))
    segment = min((path / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    at = data.index(b"2" + bytes(600))
    data[at + 300] ^= 0x40
    segment.write_bytes(data)


def test_p6_f76_damage_is_kept_once_whoever_meets_it_and_however_often(tmp_path: Path) -> None:
    damaged(tmp_path)
    for _ in range(2):
        with seglog.open(tmp_path) as log:
            gaps: list[seglog.Gap] = []
            for name in ("a", "b"):
                consumer = log.consumer(name, on_gap=gaps.append)
                consumer.seek("earliest")
                assert offsets(consumer.drain()) == [0, 1, 3, 4, 5, 6]
            assert gaps == [seglog.Gap(2, 2, "damaged")] * 2
            (letter,) = log.dead_letters
            assert (letter.reason, letter.offset, letter.last_offset, letter.consumer) == ("damaged", 2, 2, "")
            assert len(letter.payload) == 601
            assert ".seg" in letter.detail


def test_f76_a_consumer_that_dies_between_letter_and_ack_makes_no_second_letter() -> None:
    disk = FaultDisk(MemoryDisk())
    place = Place("log", disk)
    log = place.open()
    log.append_many([b"good", b"bad"])
    consumer = log.consumer("c")
    disk.arm(
        Fault(1, errno.EIO, onwards=True), match=lambda operation, name: name == "c.cursor" and operation != "close"
    )
    with pytest.raises(seglog.StorageError):
        consumer.reject(1, reason="bad")
    disk.arm(None)
    log.close()
    log = place.open()
    assert offsets(log.consumer("c").unacked()) == [0, 1]
    log.consumer("c").reject(1, reason="bad, again")
    assert [letter.detail for letter in log.dead_letters] == ["bad"]
    assert offsets(log.consumer("c").unacked()) == [0]
    log.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=lambda e: errno.errorcode[e])
def test_p9_f75_what_cannot_be_kept_stays_and_pins_its_segment(error: int) -> None:
    inner = MemoryDisk()
    disk = FaultDisk(inner)
    place = Place("log", disk)
    log = place.open(segment_bytes=4096)
    log.append_many([b"a", b"b"])
    for _ in range(3):
        log.append(bytes(3500))
    consumer = log.consumer("c")
    writing = ("write", "allocate", "sync", "datasync", "create")
    in_dead = {"armed": False}

    def match(operation: str, name: str) -> bool:
        return in_dead["armed"] and operation in writing and name != "c.cursor"

    disk.arm(Fault(1, error, onwards=True), match=match)
    in_dead["armed"] = True
    with pytest.raises(seglog.DeadLetterWriteFailed):
        consumer.reject(1)
    in_dead["armed"] = False
    assert offsets(consumer.unacked()) == [0, 1, 2, 3, 4]
    consumer.ack(0, 2, 3, 4)
    log.compact()
    assert log.get(1) is not None
    disk.arm(None)
    consumer.reject(1)
    assert payloads(log.dead_letters) == [b"b"]
    log.close()
    assert place.verify().ok


@pytest.mark.parametrize("what", ["gone", "empty", "one byte", "noise", "no segments", "no meta", "a file"])
def test_f77_whatever_happens_to_the_queue_the_log_itself_works(what: str, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append_many([b"a", b"b", b"c"])
        log.consumer("c").reject(0, reason="first")
    dead = tmp_path / "dead"
    segment = min((dead / "segments").iterdir())
    if what in ("gone", "a file"):
        for path in sorted(dead.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        dead.rmdir()
        if what == "a file":
            dead.write_bytes(b"")
    elif what == "no segments":
        segment.unlink()
    elif what == "no meta":
        (dead / "meta").unlink()
    else:
        noise = random.Random(1).randbytes(segment.stat().st_size)
        segment.write_bytes({"empty": b"", "one byte": b"x", "noise": noise}[what])
    with seglog.open(tmp_path) as log:
        assert payloads(log.read()) == [b"a", b"b", b"c"]
        assert log.append(b"d") == 3
        consumer = log.consumer("c")
        if what == "a file":  # somebody's: it is not replaced, so nothing can be kept, and nothing moves
            with pytest.raises(seglog.DeadLetterWriteFailed):
                consumer.reject(1)
            assert offsets(consumer.unacked()) == [1, 2, 3]
            assert log.stats().dead_letters == 0
            report = seglog.verify(tmp_path)
            assert (report.ok, report.records) == (True, 4)
            assert any("dead" in warning for warning in report.warnings)
            return
        consumer.reject(1, reason="second")
        assert "second" in [letter.detail for letter in log.dead_letters]
        assert offsets(consumer.unacked()) == [2, 3]
    report = seglog.verify(tmp_path)
    assert report.ok
    assert report.records == 4


def test_f78_a_segment_that_is_rotten_from_end_to_end_makes_few_letters(tmp_path: Path) -> None:
    with seglog.open(tmp_path, segment_bytes=200_000) as log:
        for first in range(0, 2000, 50):
            log.append_many([b"%d" % n + bytes(90) for n in range(first, first + 50)])
        log.append(bytes(150_000))
    segment = min((tmp_path / "segments").iterdir())
    original = segment.read_bytes()
    segment.write_bytes(original[:8192] + random.Random(2).randbytes(len(original) - 8192))
    with seglog.open(tmp_path) as log:
        consumer = log.consumer("c")
        held = [message.offset for message in consumer.drain()]
        assert held == list(range(held[0], 2001))
        assert len(log.dead_letters) <= 2
    assert len(segment.read_bytes()) == len(original)


def test_p10_f78_the_queue_is_capped_and_at_the_cap_the_record_stays(tmp_path: Path) -> None:
    damaged(tmp_path)
    with seglog.open(tmp_path, dead_letter_bytes=4096) as log:
        log.consumer("other").reject(3, 4, 5, reason="r" * 500)
        consumer = log.consumer("c")
        assert offsets(consumer.receive_many(2)) == [0, 1]
        for _ in range(3):
            with pytest.raises(seglog.DeadLetterWriteFailed):
                log.consumer("other").reject(0, 1, reason="r" * 1500)
        assert len(log.dead_letters) == 3
    with seglog.open(tmp_path) as log:
        assert offsets(log.consumer("c").drain()) == [0, 1, 3, 4, 5, 6]
        assert len(log.dead_letters) == 4


def test_a_letter_keeps_everything_and_survives_a_reopening(place: Place) -> None:
    with place.open() as log:
        log.append(b"\x00payload", key=b"key", headers={"h": b"v"})
        log.consumer("c").reject(0, reason="ünfit")
        (letter,) = log.dead_letters
    with place.open() as log:
        assert list(log.dead_letters) == [letter]
        assert bool(log.dead_letters)
    assert (letter.id, letter.payload, letter.key, letter.headers) == (0, b"\x00payload", b"key", {"h": b"v"})
    assert (letter.detail, letter.offset, letter.last_offset) == ("ünfit", 0, 0)
    assert letter.timestamp > 0
    assert place.verify().dead_letters == 1
