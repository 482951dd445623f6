"""`seglog read`: what comes out, from where to where, in which form."""

from __future__ import annotations

import base64
import datetime
import json
import os
import pty
import signal
from pathlib import Path

import pytest

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import TIMEOUT, Cli, one_line, read_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(10)])
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], range(10)),
        (["--from", "7"], range(7, 10)),
        (["--to", "2"], range(2)),
        (["--from", "3", "--to", "5"], range(3, 5)),
        (["--from", "5", "--to", "3"], range(0)),
        (["--from", "10"], range(0)),
        (["--from", "9223372036854775807"], range(0)),
        (["--from", "2001-01-01"], range(10)),
        (["--to", "2001-01-01T00:00Z"], range(0)),
        (["--from", "2101-01-01T00:00:00+01:00"], range(0)),
    ],
)
def test_from_and_to(cli: Cli, log: Path, options: list[str], expected: range) -> None:
    result = cli("read", log, *options)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"".join(b"%d\n" % number for number in expected)


@pytest.mark.parametrize("where", ["-1", "x", "", "9223372036854775808", "2025-02-30"])
def test_bad_offsets_and_times(cli: Cli, log: Path, where: str) -> None:
    for option in ("--from", "--to"):
        result = cli("read", log, f"{option}={where}")
        assert result.returncode == exit_codes.USAGE
        assert b"Traceback" not in result.stderr
    assert cli("read", log, "--follow", "--to", "3").returncode == exit_codes.USAGE


def test_json(cli: Cli, tmp_path: Path) -> None:
    before = datetime.datetime.now().timestamp()
    with seglog.open(tmp_path) as log:
        log.append("é".encode(), key=b"k", headers={"text": b"v", "bytes": b"\xff"})
        log.append(b"\xff\n", key=b"\xfe")
        identity = log.id
    first, second = map(json.loads, cli("read", tmp_path, "--json").stdout.splitlines())
    assert before - 1 <= first.pop("timestamp") <= datetime.datetime.now().timestamp() + 1
    assert first == {
        "offset": 0,
        "id": f"{identity}:0",
        "attempts": 0,
        "key": "k",
        "headers": {"text": "v"},
        "headers_base64": {"bytes": "/w=="},
        "payload": "é",
    }
    assert base64.b64decode(second["payload_base64"]) == b"\xff\n"
    assert base64.b64decode(second["key_base64"]) == b"\xfe"
    assert "payload" not in second
    assert "key" not in second


@pytest.mark.parametrize(
    ("text", "between"), [(r"\0", b"\0"), ("", b""), (", ", b", "), (r"\t\x7c\\", b"\t|\\"), ("é", "é".encode())]
)
def test_delimiter_stands_after_each_payload(cli: Cli, log: Path, text: str, between: bytes) -> None:
    result = cli("read", log, "--to", "3", "--delimiter", text)
    assert (result.returncode, result.stdout) == (0, b"".join(b"%d" % number + between for number in range(3)))


def test_it_changes_nothing(cli: Cli, log: Path) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        files = (path for path in log.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    for _ in range(2):
        assert cli("read", log, "--from", "9").stdout == b"9\n"
    assert state() == before


def test_follow_sees_what_a_live_writer_appends(cli: Cli, log: Path) -> None:
    process = cli.start("read", log, "--from", "9", "--follow")
    assert read_lines(process, 1) == [b"9"]
    with seglog.open(log, segment_bytes=4096) as writer:
        for number in range(3):
            writer.append(b"new %d " % number + b"x" * 4096)  # each in a segment of its own
            assert read_lines(process, 1)[0].startswith(b"new %d" % number)
    process.send_signal(signal.SIGINT)
    assert cli.end(process) == (exit_codes.INTERRUPTED, b"", "")


def test_a_reader_that_leaves_is_no_error(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append_many([b"x" * 1000] * 5000)
    process = cli.start("read", tmp_path)
    assert process.stdout is not None
    assert process.stdout.read(3) == b"xxx"
    process.stdout.close()
    assert process.wait(TIMEOUT) == exit_codes.OK
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_gaps_are_told_and_the_rest_comes(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        for word in (b"first", b"second", b"third"):
            log.append(word)
    segment = next((tmp_path / "segments").iterdir())
    segment.write_bytes(segment.read_bytes().replace(b"second", b"sEcond"))
    result = cli("read", tmp_path)
    assert (result.returncode, result.stdout) == (0, b"first\nthird\n")
    assert one_line(result.stderr) == "seglog: gap: offsets 1-1 are not delivered: damaged"


def test_f87_a_terminal_gets_no_control_characters_from_payloads(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append(b"\x1b[2Jcleared\tand\nmore \xff")
    ours, theirs = pty.openpty()
    process = cli.start("read", tmp_path, stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"more" not in shown or not shown.endswith(b"\n"):
        shown += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(TIMEOUT) == 0
    assert shown.replace(b"\r\n", b"\n") == b"\\x1b[2Jcleared\tand\nmore \\xff\n"
