"""Power fails, or the process is killed, at every operation of the disk: nothing acknowledged is lost, nothing comes
back, no offset names two records, and the log goes on (P1 to P5, P7, P8; rows 1, 2, 4, 7, 9, 11 to 15, 17, 18, 76, 95).

`SEGLOG_REPLAY=<place> pytest tests/crash` runs the one crash that a failure names; SEGLOG_DEEP multiplies the second
crashes that follow each first one. How many states the default run sees: test_sim.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest

import seglog
from seglog.appender import Appender
from seglog.continuation import Target
from seglog.opening import _Opening
from seglog.segment_reader import SegmentReader
from seglog.segment_writer import SegmentWriter
from seglog.tail import Tail
from seglog.testing import CrashDisk, ManualClock, Operation
from tests.support.place import payloads
from tools.crashtest.history import Broken
from tools.crashtest.life import Life
from tools.crashtest.power_loss import REPLAY, Crashes, Workload
from tools.crashtest.workloads import WORKLOADS, appends_many, workload


@pytest.mark.parametrize("each", WORKLOADS, ids=lambda each: each.name)
def test_p1_to_p5_hold_after_every_crash(each: Workload) -> None:
    if REPLAY and not REPLAY.startswith(f"{each.name}/"):
        pytest.skip("another crash is to be replayed")
    states = Crashes(each).run(REPLAY)
    assert REPLAY or states >= each.at_least


def test_p4_an_offset_is_not_shown_before_it_is_safe() -> None:
    """Another thread looks at the log's offsets whenever a sync is under way."""
    lives: list[Life] = []

    def run(life: Life) -> None:
        lives.append(life)
        appends_many(life)
        lives.clear()

    def looks(_: Operation) -> bool:
        for life in lives:
            life.show()
        return False

    each = replace(workload("appends_many"), run=run, again=0)
    assert Crashes(each, ignore=looks).run("") > 60


@pytest.mark.parametrize("name", ["appends", "rotations", "acks", "compaction", "creation"])
def test_a_disk_that_lies_about_every_sync_is_noticed(name: str) -> None:
    def lies(_: Operation) -> bool:
        return True

    with pytest.raises(Broken, match=r"lost|forgotten|gone|acked"):
        Crashes(workload(name), ignore=lies).run()


def lives_on_after_a_failed_sync() -> None:
    """The kernel drops what a failed sync was to write and forgets the error: what reads back is not on the disk."""
    failing = [False]
    disk = CrashDisk(fail=lambda operation: failing[0] and "segments/" in operation.path)
    log = seglog.open("log", disk=disk)
    log.append(b"a")
    failing[0] = True
    with pytest.raises(seglog.LogFailed):
        log.append(b"b")
    failing[0] = False
    with contextlib.suppress(seglog.LogFailed):
        log.close()
    with seglog.open("log", disk=disk) as log:
        assert payloads(log.read()) == [b"a", b"b"]  # from the page cache; from now on it is shown, and must stay
        shown = len(disk.journal)
        log.append(b"c")
        acknowledged = len(disk.journal)
    for step in range(shown, len(disk.journal) + 1):
        for image in disk.images(step, rng=random.Random(step)):
            with seglog.open("log", disk=image.disk()) as log:
                there = payloads(log.read())
            assert there[:2] == [b"a", b"b"], image.label
            assert there[2:] == [b"c"] or (step < acknowledged and there[2:] == []), image.label


def test_p1_p9_f17_f38_what_reads_back_after_a_failed_sync_is_copied_and_not_trusted() -> None:
    lives_on_after_a_failed_sync()


def shows_what_is_before_suspect_bytes_after_a_failed_sync() -> None:
    failing = [False]
    disk = CrashDisk(fail=lambda operation: failing[0] and "segments/" in operation.path)
    log = seglog.open("log", disk=disk, clock=ManualClock(), durability="never")
    log.append_many([b"b" * 1000])
    log.append_many([b"c" * 1000])
    failing[0] = True
    with pytest.raises(seglog.LogFailed):
        log.sync()
    failing[0] = False
    with contextlib.suppress(seglog.LogFailed):
        log.close()
    file = disk.open("log/segments", create=False).open("00000000000000000000-00000000.seg", write=True)
    file.write(file.read(0, file.size()).index(b"c" * 1000) + 900, b"rot")
    with seglog.open("log", disk=disk) as log:
        assert len(log.report.suspect) == 1
        assert payloads(log.read(on_gap=lambda _: None)) == [b"b" * 1000]
        shown = len(disk.journal)
    for step in range(shown, len(disk.journal) + 1):
        for image in disk.images(step, rng=random.Random(step)):
            with seglog.open("log", disk=image.disk()) as log:
                assert payloads(log.read(on_gap=lambda _: None)) == [b"b" * 1000], image.label


def test_p1_p7_f17_f38_what_is_before_suspect_bytes_is_written_again_and_not_trusted() -> None:
    shows_what_is_before_suspect_bytes_after_a_failed_sync()


def test_a_recovery_that_only_syncs_again_what_is_before_suspect_bytes_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trusting(opening: _Opening, segment: SegmentReader, tail: Tail) -> None:
        opening.segments.open(segment.name.file_name, write=True).datasync()

    monkeypatch.setattr(_Opening, "_write_again", trusting)
    with pytest.raises(AssertionError, match="power lost"):
        shows_what_is_before_suspect_bytes_after_a_failed_sync()


def test_a_recovery_that_trusts_what_reads_back_and_syncs_it_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(
        opening: _Opening, segment: SegmentReader, tail: Tail, target: Target, appender: Appender
    ) -> SegmentWriter:
        opening.segments.open(segment.name.file_name, write=True).datasync()  # succeeds, and writes nothing
        return opening._continue(segment, tail, appender)

    monkeypatch.setattr(_Opening, "_succeed", trusting)
    with pytest.raises(AssertionError, match="power lost"):
        lives_on_after_a_failed_sync()
