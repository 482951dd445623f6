"""`seglog crashtest`: what was acknowledged is noted elsewhere, and --check tells whether it is still there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.crashtest import place, work
from seglog.crashtest.ack_log import Appended, Handled, NotesFile, read_notes
from seglog.crashtest.check import check
from tests.cli.conftest import TIMEOUT, Cli, one_line, wait_until
from tools.crashtest.zygote import Zygote

SEGMENT = "segments/00000000000000000000-00000000.seg"


def noted(acks: Path) -> int:
    return acks.read_bytes().count(b"\n") if acks.exists() else 0


def killed(cli: Cli, trial: Path, acks: Path, ack_log: str = "") -> None:
    """Let it write a while, then SIGKILL."""
    before = noted(acks)
    process = cli.start("crashtest", trial, "--ack-log", ack_log or acks)
    wait_until(lambda: noted(acks) > before + 40)
    process.kill()
    process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """A directory with trial/ and acks, left by a process that was killed: nothing was closed."""
    root = tmp_path_factory.mktemp("worked")
    runner = Cli(zygote, root)
    try:
        killed(runner, root / "trial", root / "acks")
    finally:
        runner.stop_all()
    return root


@pytest.fixture
def copied(worked: Path, tmp_path: Path) -> Path:
    shutil.copytree(worked, tmp_path / "copy")
    return tmp_path / "copy"


def checked(cli: Cli, root: Path, expected: int) -> dict[str, Any]:
    result = cli("crashtest", root / "trial", "--ack-log", root / "acks", "--check", "--json")
    assert result.returncode == expected, result.stderr.decode()
    report = json.loads(result.stdout)
    assert report["ok"] is (expected == 0)
    return dict(report)


def test_p1_p5_after_a_kill_everything_that_was_acknowledged_is_there_and_again_after_the_next(
    cli: Cli, copied: Path
) -> None:
    first = checked(cli, copied, 0)
    assert first["acknowledged"] > 20
    assert (first["starts"], first["lost"], first["forgotten_acks"], first["disk_lied"]) == (1, [], {}, False)
    killed(cli, copied / "trial", copied / "acks")
    second = checked(cli, copied, 0)
    assert second["acknowledged"] > first["acknowledged"]
    assert second["starts"] == 2
    result = cli("crashtest", copied / "trial", "--ack-log", copied / "acks", "--check")
    assert result.returncode == 0
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "everything that was acknowledged is there"
    assert lines[1].endswith("records acknowledged in 2 runs: 0 lost, 0 given back since")


def test_a_check_changes_nothing(cli: Cli, copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    checked(cli, copied, 0)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_a_disk_that_lost_the_end_of_a_segment_is_found_out(cli: Cli, copied: Path) -> None:
    entries = [note for note in read_notes(copied / "acks") if isinstance(note, Appended)]
    middle = entries[len(entries) // 2]
    segment = copied / "trial" / SEGMENT
    content = segment.read_bytes()
    at = content.index(work.payload(middle.run, middle.first))
    segment.write_bytes(content[:at] + bytes(len(content) - at))
    (copied / "trial" / "lock").write_bytes(b"")  # the hint as well: as if no sync had ever reached the disk
    report = checked(cli, copied, 1)
    assert report["disk_lied"] is True
    first = report["lost"][0]["first_offset"]
    assert first <= middle.offset < first + 8  # it may stand in one batch with others
    assert report["lost"][-1]["last_offset"] == entries[-1].stop - 1
    result = cli("crashtest", copied / "trial", "--ack-log", copied / "acks", "--check")
    assert result.returncode == 1
    assert b"ARE LOST: the disk, its controller or its file system" in result.stdout
    assert b"lost: offsets %d-" % first in result.stdout


def test_a_record_with_other_bytes_is_lost(cli: Cli, copied: Path) -> None:
    (entry, *_) = (note for note in read_notes(copied / "acks") if isinstance(note, Appended))
    segment = copied / "trial" / SEGMENT
    content = bytearray(segment.read_bytes())
    content[content.index(work.payload(entry.run, entry.first))] ^= 1
    segment.write_bytes(content)
    report = checked(cli, copied, 1)
    assert report["lost"] == [{"first_offset": entry.offset, "last_offset": entry.offset}]
    assert report["damaged"] == 1


def test_a_record_with_the_bytes_of_another_is_lost(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "trial") as log:
        offsets = log.append_many([work.payload("run", 0), work.payload("run", 7)])
        log.consumer(work.PROMPT)
    notes = NotesFile(tmp_path / "acks")
    notes.write(str(Appended(offsets[0], 2, "run", 0)))
    notes.close()
    report = check(tmp_path / "trial", tmp_path / "acks")
    assert [(found.first_offset, found.last_offset) for found in report.lost] == [(1, 1)]
    assert report.verify_ok
    assert not report.ok


def test_an_ack_that_the_disk_forgot_is_found_out(cli: Cli, copied: Path) -> None:
    """The cursor as it was before anything was acked."""
    handled = [note for note in read_notes(copied / "acks") if isinstance(note, Handled)]
    mark = max(note.watermark for note in handled if note.consumer == work.PROMPT)
    with seglog.open(copied / "trial", "r") as log, log.consumer(work.PROMPT) as consumer:
        consumer.seek("earliest")
    report = checked(cli, copied, 1)
    assert report["forgotten_acks"] == {work.PROMPT: mark}
    assert (report["disk_lied"], report["lost"]) == (True, [])
    result = cli("crashtest", copied / "trial", "--ack-log", copied / "acks", "--check")
    assert b"lost acks of crashtest-prompt: %d records would come again" % mark in result.stdout


def test_a_log_that_is_gone_is_lost(cli: Cli, copied: Path) -> None:
    whole = checked(cli, copied, 0)["acknowledged"]
    shutil.rmtree(copied / "trial")
    report = checked(cli, copied, 1)
    assert sum(found["last_offset"] - found["first_offset"] + 1 for found in report["lost"]) == whole
    result = cli("crashtest", copied / "trial", "--ack-log", copied / "acks", "--check")
    assert b"trial: no such directory; is it the right one, and its disk mounted?" in result.stderr


def test_offsets_that_were_given_out_twice_are_named(copied: Path) -> None:
    (entry, *_) = (note for note in read_notes(copied / "acks") if isinstance(note, Appended))
    notes = NotesFile(copied / "acks")
    notes.write(str(Appended(entry.offset, 1, "another", 0)))
    notes.close()
    report = check(copied / "trial", copied / "acks")
    assert [(found.first_offset, found.last_offset) for found in report.reused] == [(entry.offset, entry.offset)]
    assert report.disk_lied


def test_a_last_line_that_was_cut_short_proves_nothing_and_harms_nothing(cli: Cli, copied: Path) -> None:
    acks = copied / "acks"
    before = checked(cli, copied, 0)
    acks.write_bytes(acks.read_bytes() + b"appended 999999 1 0123456789abcdef 99999 01ab")
    report = checked(cli, copied, 0)
    assert report == {**before, "unreadable_notes": 1}
    killed(cli, copied / "trial", acks)
    after = checked(cli, copied, 0)
    assert (after["unreadable_notes"], after["starts"]) == (1, 2)


def test_what_was_given_back_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "SEGMENT_BYTES", 64 << 10)
    monkeypatch.setattr(work, "KEPT_BYTES", 0)
    monkeypatch.setattr(work, "LATE_BY", 10)
    notes = NotesFile(tmp_path / "acks")
    with work.Work(tmp_path / "trial", notes, (), seed=1) as working:
        for _ in range(80):
            working.step()
    notes.close()
    report = check(tmp_path / "trial", tmp_path / "acks")
    assert report.ok
    assert 0 < report.reclaimed < report.acknowledged


# -- noted elsewhere


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Somebody on another machine, as `nc -l` is."""
    acks = tmp_path / "acks"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def keep() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, acks.open("ab", buffering=0) as file:
                    while data := connection.recv(1 << 16):
                        file.write(data)

        thread = threading.Thread(target=keep)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", acks
        server.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_acknowledgements_are_noted_on_another_machine(cli: Cli, tmp_path: Path, listener: tuple[str, Path]) -> None:
    address, acks = listener
    killed(cli, tmp_path / "trial", acks, address)
    first = checked(cli, tmp_path, 0)
    assert first["acknowledged"] > 20
    with acks.open("ab") as file:
        file.write(b"appended 9")  # what had arrived when the power went
    killed(cli, tmp_path / "trial", acks, address)
    second = checked(cli, tmp_path, 0)
    assert second["acknowledged"] > first["acknowledged"]
    assert (second["starts"], second["unreadable_notes"]) == (2, 1)


def test_nobody_listens_there(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    result = cli("crashtest", tmp_path / "trial", "--ack-log", address)
    assert result.returncode == 3
    assert address in one_line(result.stderr)


def test_it_ends_when_nobody_takes_the_acknowledgements_any_more(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        process = cli.start("crashtest", tmp_path / "trial", "--ack-log", address)
        connection, _ = server.accept()
        connection.recv(1)
        connection.close()
        code, _, err = cli.end(process)
    assert code == 3
    assert f"{address} takes no more acknowledgements" in err


# -- how it is called


def test_ctrl_c_ends_it_in_order(cli: Cli, tmp_path: Path) -> None:
    process = cli.start("crashtest", tmp_path / "trial", "--ack-log", tmp_path / "acks")
    wait_until(lambda: noted(tmp_path / "acks") > 10)
    process.send_signal(signal.SIGINT)
    code, out, err = cli.end(process)
    assert (code, out) == (130, b"")
    assert "is on the file system of" in err, "both may lose the same"
    assert "records were acknowledged" in err
    assert checked(cli, tmp_path, 0)["torn_tail_bytes"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["trial"],
        ["trial", "--ack-log", ""],
        ["trial", "--check"],
        ["trial", "--ack-log", "acks", "--json"],
        ["trial", "--ack-log", "localhost:7000", "--check"],
    ],
    ids=" ".join,
)
def test_wrong_usage(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    result = cli("crashtest", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
    assert not os.listdir(tmp_path)


def test_what_cannot_be_checked_is_no_loss(cli: Cli, copied: Path, tmp_path: Path) -> None:
    for trial, acks in (("trial", "nowhere"), ("nowhere", "empty")):
        (tmp_path / "copy" / "empty").touch()
        result = cli("crashtest", copied / trial, "--ack-log", copied / acks, "--check")
        assert result.returncode == 3
        one_line(result.stderr)
    with seglog.open(tmp_path / "other"):
        pass
    result = cli("crashtest", tmp_path / "other", "--ack-log", copied / "acks", "--check")
    assert result.returncode == 3
    assert "is about another log" in one_line(result.stderr)


def test_somebody_elses_log_is_left_alone(cli: Cli, copied: Path, tmp_path: Path) -> None:
    with seglog.open(tmp_path / "other") as log:
        log.append(b"dear to me")
    before = {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()}
    result = cli("crashtest", tmp_path / "other", "--ack-log", tmp_path / "new")
    assert result.returncode == 2
    assert "records of somebody else" in one_line(result.stderr)
    assert {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()} == before
    result = cli("crashtest", tmp_path / "fresh", "--ack-log", copied / "acks")
    assert result.returncode == 2
    assert "about another log" in one_line(result.stderr)


# -- what is known of the disk


def test_the_place_is_the_innermost_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro",
        r"2 1 8:17 / /mnt/a\040disk rw,noatime shared:1 - xfs /dev/sdb1 rw,attr2",
        "3 1 0:9 / /proc rw - proc proc rw",
        "not a mount",
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    monkeypatch.setattr(place, "_MOUNTS", tmp_path / "mountinfo")
    found = place._mount(lines[1], Path("/mnt/a disk/trial"))
    assert found == place.Place("xfs", "/mnt/a disk", "rw,noatime,attr2", "/dev/sdb1")
    assert place._mount(lines[1], Path("/mnt/a")) is None
    assert place.place_of(tmp_path / "not" / "there").file_system == "ext4"
    monkeypatch.setattr(place, "_MOUNTS", tmp_path / "nothing")
    assert place.place_of(tmp_path) == place.Place()
