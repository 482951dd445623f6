"""A small file system that is really full, mounted by the test where it may: acks, compaction, dead letters and purging
work with no byte free, and appends go on by themselves when there is space again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import seglog
from seglog.forward import Forwarder
from tests.support.place import offsets

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two mebibytes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is refused here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], timeout=30, check=True)


def fill(path: Path) -> None:
    """Take every free byte."""
    with (path / "ballast").open("ab", buffering=0) as ballast:
        for size in (64 * 1024, 4096, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                continue
    assert os.statvfs(path).f_bavail == 0


def append_until_full(log: seglog.Log[bytes]) -> int:
    """How many records were accepted before the disk refused one."""
    for count in range(4 * MIB // 1000):
        try:
            log.append(b"%d." % count * 200)
        except seglog.DiskFull:
            return count
    raise AssertionError("the disk is never full")


def test_p9_f42_f43_what_a_full_disk_must_do_it_does(small: Path) -> None:
    path = small / "log"
    with seglog.open(path, segment_bytes=64 * 1024, max_bytes=64 * MIB, when_full="block") as log:
        consumer = log.consumer("c")
        append_until_full(log)
        fill(small)
        append_until_full(log)  # what was allocated is used up, too
        end = log.next_offset
        assert end > 500
        with pytest.raises(seglog.DiskFull):
            log.append(b"one more", timeout=0)
        assert offsets(consumer.receive_many(end)) == list(range(end))
        consumer.ack(*range(1, end // 2))
        consumer.reject(0, reason="kept in the space that was set aside")
        assert len(log.dead_letters) == 1
        assert log.compact().removed_segments > 3
        assert log.append(b"there is space again") >= end
        append_until_full(log)
        fill(small)
        with pytest.raises(seglog.DiskFull):
            log.append_many([b"x" * 100_000] * 3)
        left = log.stats().records
        assert log.purge() == left
        (small / "ballast").unlink()
        assert log.append(b"again") >= end
        assert offsets(log.read())[-1] == log.next_offset - 1
    report = seglog.verify(path)
    assert (report.ok, report.torn_tail_bytes, report.damage) == (True, 0, ())


def test_p8_p9_f43_a_full_disk_opens_and_takes_appends_when_it_has_space(small: Path) -> None:
    path = small / "log"
    log = seglog.open(path, segment_bytes=64 * 1024)
    log.consumer("c")
    append_until_full(log)
    end = log.next_offset
    fill(small)
    log._after_fork()  # the process dies
    with seglog.open(path, segment_bytes=64 * 1024, max_records=2 * end) as log:
        assert offsets(log.read()) == list(range(end))
        consumer = log.consumer("c")
        consumer.ack(*range(10))
        assert len(consumer) == end - 10
        with pytest.raises(seglog.DiskFull):
            log.append(b"x" * 70_000)
        (small / "ballast").unlink()
        assert log.append(b"x") == end
    assert seglog.verify(path).ok


@pytest.mark.parametrize("reopened", [False, True])
def test_p9_f43_what_was_handled_makes_room_on_a_full_disk_without_anybody_asking(small: Path, reopened: bool) -> None:
    """The writer gives back space when it begins a segment; there is no space for one, so it does when that fails."""
    path = small / "log"
    log = seglog.open(path, segment_bytes=64 * 1024)
    try:
        log.append(b"the first")
        with seglog.open(path, "r") as other:
            consumer = other.consumer("c")
            append_until_full(log)
            fill(small)
            append_until_full(log)
            end = log.next_offset
            with pytest.raises(seglog.DiskFull):
                log.append(b"x" * 2000)
            assert offsets(consumer.receive_many(end)) == list(range(end))
            consumer.ack(*range(end))
        if reopened:
            log.close()
            log = seglog.open(path, segment_bytes=64 * 1024)
        assert append_until_full(log) > 500
        assert log.first_offset > 0
    finally:
        log.close()
    assert seglog.verify(path).ok


def test_a_full_disk_is_forwarded_from_though_a_batch_cannot_be_noted(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Sink:
        same_batches = True
        sent = 0

        def send(self, batch: Sequence[object]) -> None:
            self.sent += len(batch)

    path, sink = small / "log", Sink()
    with seglog.open(path, segment_bytes=64 * 1024) as log:
        with log.consumer("c") as consumer:
            append_until_full(log)
            fill(small)
            append_until_full(log)
            forwarder = Forwarder(consumer, sink, batch_file=path / "cursors" / "c.batch")
            forwarder.run(once=True)
        assert sink.sent == log.next_offset
    assert caplog.text.count("may come again in other batches") == 1


def test_p10_f43_drop_oldest_never_fills_a_disk_that_holds_its_limit(small: Path) -> None:
    path = small / "log"
    with seglog.open(path, segment_bytes=64 * 1024, max_bytes=MIB // 2, when_full="drop_oldest") as log:
        log.consumer("nobody-opens-it-again").close()
        for n in range(4000):
            log.append(b"%d." % n * 200)
        assert log.stats().dropped > 2000
        assert os.statvfs(small).f_bavail > 0
    assert seglog.verify(path).ok
