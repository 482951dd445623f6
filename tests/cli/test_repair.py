"""`seglog repair`: the plan first, then the question, then what was done."""

from __future__ import annotations

import json
import os
import pty
import select
import time
from pathlib import Path

import seglog
from tests.cli.conftest import TIMEOUT, Cli, one_line

FIRST = "segments/00000000000000000000-00000000.seg"


def damaged(path: Path) -> None:
    """Three records, the second rotten."""
    with seglog.open(path) as log:
        for number in range(3):
            log.append(b"record %d" % number)
    rot(path, 1)


def rot(path: Path, number: int) -> None:
    segment = path / FIRST
    content = bytearray(segment.read_bytes())
    content[content.index(b"record %d" % number)] ^= 1
    segment.write_bytes(content)


def files(path: Path) -> dict[str, bytes]:
    found = {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    return {name: content for name, content in found.items() if name != "lock"}


def test_a_repair_says_what_it_did_and_verify_is_content(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    assert cli("verify", tmp_path).returncode == 1
    result = cli("repair", tmp_path, "--yes")
    assert result.returncode == 0
    assert result.stdout.decode().splitlines() == [
        f"divert: {FIRST} position 8352 length 8: offsets 1-1: record checksum",
        "declared lost: offsets 1-1",
        "kept: quarantine/000001.manifest.json",
    ]
    after = cli("verify", tmp_path)
    assert after.returncode == 0
    lines = after.stdout.decode().splitlines()
    assert lines[:2] == [
        "nothing acknowledged is lost, apart from 1 offsets that a repair declared",
        "repaired: offsets 1-1",
    ]
    again = cli("repair", tmp_path, "--yes")
    assert (again.returncode, again.stdout) == (0, b"nothing to repair\n")
    rot(tmp_path, 2)
    assert cli("verify", tmp_path).returncode == 1


def test_a_dry_run_prints_the_plan_and_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    before = files(tmp_path)
    result = cli("repair", tmp_path, "--dry-run")
    assert result.returncode == 1
    plan, end = result.stdout.decode().splitlines()
    assert plan.startswith(f"divert: {FIRST}")
    assert end == "nothing was changed"
    assert files(tmp_path) == before


def test_json_is_the_report(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    result = cli("repair", tmp_path, "--yes", "--json")
    assert json.loads(result.stdout) == {
        "dry_run": False,
        "ok": True,
        "actions": [
            {
                "file": FIRST,
                "position": 8352,
                "length": 8,
                "first_offset": 1,
                "last_offset": 1,
                "reason": "record checksum",
                "action": "divert",
            }
        ],
        "left": [],
        "repaired": [{"first_offset": 1, "last_offset": 1}],
        "quarantine": ["quarantine/000001.manifest.json"],
    }


def test_without_a_terminal_it_wants_yes(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    before = files(tmp_path)
    result = cli("repair", tmp_path)
    assert result.returncode == 2
    assert "--yes" in one_line(result.stderr)
    assert files(tmp_path) == before


def test_a_log_that_is_being_written_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    with seglog.open(tmp_path):
        result = cli("repair", tmp_path, "--yes")
        assert result.returncode == 3
        assert f"pid {os.getpid()} " in one_line(result.stderr)
        assert cli("repair", tmp_path, "--dry-run").returncode == 1


def answered(cli: Cli, path: Path, answer: bytes) -> tuple[int, str]:
    """Exit code, and what a person at a terminal sees, who answers the question."""
    ours, theirs = pty.openpty()
    try:
        process = cli.start("repair", path, stdin=theirs, stderr=theirs)
        shown, told = b"", False
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 1 << 16)
            if b"[y/N]" in shown and not told:
                os.write(ours, answer)
                told = True
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 1 << 16)
        return process.returncode, shown.decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_on_a_terminal_it_shows_the_plan_and_asks(cli: Cli, tmp_path: Path) -> None:
    damaged(tmp_path)
    before = files(tmp_path)
    code, shown = answered(cli, tmp_path, b"n\n")
    assert code == 1
    assert "divert: " in shown
    assert "nothing was changed" in shown
    assert files(tmp_path) == before
    code, shown = answered(cli, tmp_path, b"y\n")
    assert code == 0
    assert cli("verify", tmp_path).returncode == 0
