"""Verify beside others, and what it says of losses that were declared."""

from __future__ import annotations

import shutil
from pathlib import Path

import seglog
from seglog.format import layout as L
from seglog.segment_reader import Rot
from seglog.spares import rot_patches
from seglog.verify import verify
from tools.crashtest.anatomy import batches
from tools.crashtest.images import ROOT, disk_with, flipped, segment_paths
from tools.crashtest.subjects import SUBJECTS


def test_p11_two_that_verify_at_the_same_time_are_no_writer_to_each_other() -> None:
    subject = SUBJECTS["unproven"]()
    last = segment_paths(subject.image)[-1]
    rotten = flipped(subject.image, last, batches(subject.image, last)[-1].position + 72, 0)
    disk = disk_with(rotten, boot_id=subject.boot_id)
    alone = verify(ROOT, disk=disk)
    assert alone.suspect
    other = disk.open(ROOT, create=False).open("lock")
    assert other.lock(shared=True)  # as the other one, when it asks whether a writer lives
    assert verify(ROOT, disk=disk) == alone
    other.unlock()
    assert other.lock()  # a writer: past what it called durable nothing is judged
    assert not verify(ROOT, disk=disk).suspect


def test_a_registered_consumer_is_missed_although_the_whole_directory_of_cursors_is_gone(tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append_many([b"a", b"b"])
        log.consumer("c").ack(0)
    shutil.rmtree(tmp_path / "cursors")
    report = verify(tmp_path)
    assert not report.ok
    assert not report.cursors["c"].ok
    with seglog.open(tmp_path, mode="r") as reader:
        assert reader.consumers()["c"].lag_records == 2  # it begins again
    assert [action.action for action in seglog.repair(tmp_path).actions] == ["restart"]
    assert verify(tmp_path).ok


def test_a_lost_meta_costs_nothing_and_is_told(tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        assert verify(tmp_path).warnings == ()
        log.append(b"a")
    (tmp_path / "meta").unlink()
    report = verify(tmp_path)
    assert report.ok
    assert [warning for warning in report.warnings if warning.startswith("meta is missing")]
    with seglog.open(tmp_path) as log:
        assert [message.payload for message in log.read()] == [b"a"]
        assert verify(tmp_path).warnings == ()


def test_p10_f25_an_end_that_nonsense_declares_is_not_filled_with_batches() -> None:
    """Under checksums that hold, as only a faulty or hostile writer makes them: what is done for it has a limit."""
    few, far = (Rot(L.DATA_START, L.DATA_START + 72 * count, 0, 0) for count in (3, 1 << 40))
    assert len(rot_patches(few, salt=1)) == 3
    assert rot_patches(far, salt=1) == ()
