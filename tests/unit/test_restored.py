"""Directories that somebody put together by hand: old backups of single files, headers that were never written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import seglog
from seglog.format import layout as L
from tests.support.place import offsets, payloads


def test_p5_f3_an_old_backup_of_a_cursor_means_that_messages_come_again_and_none_is_missed(tmp_path: Path) -> None:
    cursor = tmp_path / "cursors" / "c.cursor"
    with seglog.open(tmp_path) as log:
        log.append_many([b"x"] * 10)
        log.consumer("c").ack(*range(3))
        log.consumer("c").close()
        shutil.copy(cursor, tmp_path / "cursors" / "backup")
        log.consumer("c").ack(*range(8))
    (tmp_path / "cursors" / "backup").replace(cursor)
    with seglog.open(tmp_path) as log:
        assert offsets(log.consumer("c").drain()) == list(range(3, 10))
        assert log.append(b"y") >= 10
    assert seglog.verify(tmp_path).ok


def test_p4_p5_f2_a_cursor_ahead_of_the_log_never_lands_in_the_middle_of_new_records(tmp_path: Path) -> None:
    """The log came back from an older backup than the cursor: new records get offsets behind all that was seen."""
    old = tmp_path / "old"
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"x"] * 100)
        log.consumer("c")
    shutil.copytree(tmp_path / "log", old)
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"seen, and then lost"] * 5)
        log.consumer("c").ack(*range(105))
    shutil.copy(tmp_path / "log" / "cursors" / "c.cursor", old / "cursors" / "c.cursor")
    report = seglog.verify(old)
    assert report.acknowledged_loss  # the cursor proves it
    lost = [(found.first_offset, found.last_offset) for found in report.missing]
    lost += [(found.first_offset or 0, found.last_offset or 0) for found in report.damage]
    assert lost == [(100, 104)]
    with seglog.open(old) as log:
        first = log.append_many([b"new"] * 10)[0]
        assert first >= 105
        assert payloads(log.consumer("c").drain()) == [b"new"] * 10


@pytest.mark.parametrize("what", ["zero", "short", "empty", "one copy"])
def test_f13_a_last_segment_whose_header_was_never_written_costs_what_it_may_have_held(
    what: str, tmp_path: Path
) -> None:
    with seglog.open(tmp_path, segment_bytes=4096) as log:
        log.append_many([bytes(1000)] * 4)
        log.append_many([bytes(1000)] * 4)
    last = max((tmp_path / "segments").iterdir())
    data = last.read_bytes()
    made = {
        "zero": bytes(len(data)),
        "short": data[:100],
        "empty": b"",
        "one copy": bytes(L.HEADER_COPY_AT) + data[L.HEADER_COPY_AT :],
    }
    last.write_bytes(made[what])
    with seglog.open(tmp_path) as log:
        there = offsets(log.read(on_gap=lambda gap: None))
        assert there[:4] == list(range(4))
        assert there == (list(range(8)) if what == "one copy" else list(range(4)))
        assert log.append(b"new") >= 8
    with seglog.open(tmp_path) as log:
        assert payloads(log.read(on_gap=lambda gap: None))[-1] == b"new"
