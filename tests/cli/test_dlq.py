"""`seglog dlq`: what could not be handled is listed, shown, exported, replayed and deleted, beside a writer too."""

from __future__ import annotations

import base64
import json
import os
import pty
import stat
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.cli import exit_codes, main
from seglog.disk.local import LocalDirectory, LocalFile
from tests.cli.conftest import Cli, one_line

ESCAPE = b"\x1b[31m\x07"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Four dead letters: two rejected by `a`, one of them no UTF-8; one refused by `b`; one of damage."""
    path = tmp_path / "log"
    with seglog.open(path) as made:
        made.append(b"text", key=b"k", headers={"h": b"v", "raw": b"\xff"})
        made.append_many([b"\xff\x00", ESCAPE, b"spoilt"])
        with made.consumer("a") as a, made.consumer("b") as b:
            a.reject(*a.receive_many(2), reason="because")
            b.refuse(2, detail=f"{ESCAPE.decode()} said no")
    segment = next((path / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[data.index(b"spoilt")] ^= 1
    segment.write_bytes(data)
    with seglog.open(path, mode="r") as reader, reader.consumer("a") as a:
        assert [message.offset for message in a.drain()] == [2]
    return path


def listed(cli: Cli, log: Path, *options: str) -> list[dict[str, Any]]:
    result = cli("dlq", "list", log, "--json", *options)
    assert (result.returncode, result.stderr) == (0, b"")
    return [json.loads(line) for line in result.stdout.splitlines()]


def ids(cli: Cli, log: Path) -> list[int]:
    return [row["id"] for row in listed(cli, log)]


def test_list(cli: Cli, log: Path) -> None:
    rows = listed(cli, log)
    assert [(row["reason"], row["consumer"], row["offset"]) for row in rows] == [
        ("rejected", "a", 0),
        ("rejected", "a", 1),
        ("refused", "b", 2),
        ("damaged", "", 3),
    ]
    assert rows[0]["detail"] == "because"
    assert (rows[0]["key"], rows[0]["headers"]) == ("k", {"h": "v"})
    assert base64.b64decode(rows[0]["headers_base64"]["raw"]) == b"\xff"
    assert not any("payload" in name for row in rows for name in row)
    assert [row["offset"] for row in listed(cli, log, "--reason", "refused")] == [2]
    assert [row["offset"] for row in listed(cli, log, "--consumer", "a")] == [0, 1]
    text = cli("dlq", "list", log).stdout
    assert [line.split()[1] for line in text.decode().splitlines()[1:]] == [
        "rejected",
        "rejected",
        "refused",
        "damaged",
    ]
    assert b"\x1b" not in text


def test_nothing_to_list(cli: Cli, tmp_path: Path) -> None:
    seglog.open(tmp_path / "empty").close()
    assert listed(cli, tmp_path / "empty") == []
    result = cli("dlq", "list", tmp_path / "empty")
    assert (result.returncode, result.stdout) == (0, b"")
    assert "no dead letters" in one_line(result.stderr)


def test_show(cli: Cli, log: Path) -> None:
    first, second, third, _ = ids(cli, log)
    text = cli("dlq", "show", log, first).stdout
    for part in (b"rejected", b"because", b"header:     h: v", b"key:        k", b"4 bytes\ntext\n"):
        assert part in text
    assert cli("dlq", "show", log, second, "--raw").stdout == b"\xff\x00"
    shown = json.loads(cli("dlq", "show", log, second, "--json").stdout)
    assert base64.b64decode(shown["payload_base64"]) == b"\xff\x00"
    assert b"\x1b" not in cli("dlq", "show", log, third).stdout.replace(ESCAPE, b"")
    result = cli("dlq", "show", log, 99)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    assert "no dead letter 99" in one_line(result.stderr)


def test_f87_a_terminal_is_shown_no_control_characters(cli: Cli, log: Path) -> None:
    third = ids(cli, log)[2]
    ours, theirs = pty.openpty()
    try:
        assert cli("dlq", "show", log, third, stdout=theirs).returncode == 0
        assert b"\x1b" not in os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)


def test_export_to_stdout_and_to_a_file(cli: Cli, log: Path, tmp_path: Path) -> None:
    known = ids(cli, log)
    rows = [json.loads(line) for line in cli("dlq", "export", log).stdout.splitlines()]
    assert [row.get("payload") for row in rows[:3]] == ["text", None, ESCAPE.decode()]
    assert base64.b64decode(rows[1]["payload_base64"]) == b"\xff\x00"
    out = tmp_path / "dead.ndjson"
    result = cli("dlq", "export", log, known[2], known[0], "-o", out)
    assert (result.returncode, result.stdout) == (0, b"")
    assert "2 dead letters" in one_line(result.stderr)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [known[0], known[2]]
    assert len(cli("dlq", "export", log, "--reason", "refused", "--consumer", "b").stdout.splitlines()) == 1
    again = cli("dlq", "export", log, "--output", out)
    assert again.returncode == exit_codes.FAILED  # what was exported before is never written over
    assert len(out.read_text().splitlines()) == 2
    assert ids(cli, log) == known
    result = cli("dlq", "export", log, known[0], 99, "-o", tmp_path / "none")
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    assert "no dead letter 99" in one_line(result.stderr)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("written", ["", "{}/"])
def test_an_export_needs_the_name_of_a_file(cli: Cli, log: Path, tmp_path: Path, written: str) -> None:
    result = cli("dlq", "export", log, "-o", written.format(tmp_path))
    assert result.returncode == exit_codes.USAGE
    assert "expected the name of a new file" in one_line(result.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_export_that_is_cut_short_has_failed(cli: Cli, log: Path, tmp_path: Path, unbuffered: str) -> None:
    whole = cli("dlq", "export", log).stdout
    cli.environment["PYTHONUNBUFFERED"] = unbuffered
    script = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from seglog.cli.main import entry; entry()"
    cli.command = [cli.command[0], "-c", script]
    with open(tmp_path / "out", "wb") as out:
        result = cli("dlq", "export", log, stdout=out)
    assert result.returncode == exit_codes.FAILED
    assert one_line(result.stderr) == "seglog: stdout: File too large"
    assert (tmp_path / "out").read_bytes() == whole[:100]
    result = cli("dlq", "export", log, "-o", tmp_path / "file")
    assert result.returncode == exit_codes.FAILED
    assert one_line(result.stderr) == f"seglog: {tmp_path / 'file'}: File too large"


def test_an_exported_file_is_synced_with_its_name_and_its_owners_alone(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(LocalFile, "sync", lambda self: synced.append(self.name))
    monkeypatch.setattr(LocalDirectory, "sync", lambda self: synced.append(self.path))
    monkeypatch.chdir(tmp_path)
    for output, expected in (("dead.ndjson", ["dead.ndjson", "."]), ("log/x", ["x", "log"])):
        args = main.parser("dlq").parse_args(["dlq", "export", str(log), "-o", output])
        assert args.run(args) == 0
        assert synced == expected
        synced.clear()
        assert stat.S_IMODE((tmp_path / output).stat().st_mode) == 0o600
        assert len((tmp_path / output).read_bytes().splitlines()) == 4


@pytest.mark.parametrize(
    ("which", "wrong"),
    [
        (["0", "2", "--reason", "rejected"], "dead letter 2 has the reason refused, not rejected"),
        (["0", "--reason", "rejected", "--consumer", "b"], "dead letter 0 is of consumer a, not b"),
        (["3", "--consumer", "b"], "dead letter 3 is of no consumer, not b"),
        (["99", "--reason", "rejected"], "there is no dead letter 99"),
        (["0", "99", "--consumer", "a"], "there is no dead letter 99"),
    ],
)
@pytest.mark.parametrize("action", ["export", "replay"])
def test_ids_that_the_filters_leave_out_are_wrong_usage(
    cli: Cli, log: Path, action: str, which: list[str], wrong: str
) -> None:
    known = ids(cli, log)
    assert known == [0, 1, 2, 3]
    result = cli("dlq", action, log, *which)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    assert one_line(result.stderr) == f"seglog: {wrong}"
    assert ids(cli, log) == known


def test_ids_that_match_the_filters_are_handled_as_without_them(cli: Cli, log: Path) -> None:
    which = ["1", "0", "--reason", "rejected", "--consumer", "a"]
    assert [json.loads(line)["id"] for line in cli("dlq", "export", log, *which).stdout.splitlines()] == [0, 1]
    assert cli("dlq", "replay", log, *which).stdout == b"4\n5\n"
    with seglog.open(log, mode="r") as reader:
        found = reader.get(5)
        assert found is not None
        assert found.payload == b"text", "in the order of the ids"


def test_replay_by_id_and_all(cli: Cli, log: Path) -> None:
    known = ids(cli, log)
    result = cli("dlq", "replay", log, known[1])
    assert (result.returncode, result.stdout) == (0, b"4\n")
    assert ids(cli, log) == [known[0], known[2], known[3]]
    assert cli("dlq", "replay", log, "--all", "--reason", "rejected", "--consumer", "a").stdout == b"5\n"
    result = cli("dlq", "replay", log, "--all")
    assert (result.returncode, result.stdout) == (0, b"6\n")  # the damaged one stays
    assert ids(cli, log) == [known[3]]
    with seglog.open(log, mode="r") as reader:
        found = reader.get(5)
        assert found is not None
        assert (found.payload, found.key, found.headers) == (b"text", b"k", {"h": b"v", "raw": b"\xff"})


@pytest.mark.parametrize("which", [[], ["--all", "0"], ["3"], ["99"], ["0", "99"]])
def test_replay_of_what_cannot_be_changes_nothing(cli: Cli, log: Path, which: list[str]) -> None:
    known = ids(cli, log)
    result = cli("dlq", "replay", log, *which)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    assert one_line(result.stderr)
    assert ids(cli, log) == known
    assert seglog.verify(log).next_offset == 4


def test_beside_a_writer_all_works_but_replay(cli: Cli, log: Path) -> None:
    known = ids(cli, log)
    with seglog.open(log):
        result = cli("dlq", "replay", log, known[0])
        assert result.returncode == exit_codes.FAILED
        assert f"pid {os.getpid()}" in one_line(result.stderr)
        assert cli("dlq", "delete", log, known[0]).returncode == 0
        assert ids(cli, log) == known[1:]
        assert cli("dlq", "purge", log, "--yes").returncode == 0
        assert ids(cli, log) == []


def test_delete_twice(cli: Cli, log: Path) -> None:
    known = ids(cli, log)
    for gone in (b"2", b"0"):
        result = cli("dlq", "delete", log, known[0], known[2])
        assert (result.returncode, result.stdout) == (0, b"")
        assert gone + b" dead letters deleted" in result.stderr
    assert ids(cli, log) == [known[1], known[3]]


def test_purge_by_age(cli: Cli, log: Path) -> None:
    known = ids(cli, log)
    for duration in ("7d", "2w", "12h", "90m", "86400"):
        assert b"0 dead letters deleted" in cli("dlq", "purge", log, "--older-than", duration, "--yes").stderr
    assert ids(cli, log) == known
    assert b"4 dead letters deleted" in cli("dlq", "purge", log, "--older-than", "0s").stderr  # nobody to ask
    assert ids(cli, log) == []
    assert cli("dlq", "purge", log, "--older-than", "soon").returncode == exit_codes.USAGE


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 4), (b"y\n", 0)])
def test_purge_asks_on_a_terminal(cli: Cli, log: Path, answer: bytes, left: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = cli.start("dlq", "purge", log, stdin=theirs, stderr=theirs)
        os.write(ours, answer)
        assert process.wait(30) == (exit_codes.FAILED if left else 0)
        assert b"Delete all 4 dead letters" in os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert len(ids(cli, log)) == left


@pytest.mark.parametrize("action", ["list", "show", "export", "replay", "delete", "purge"])
def test_where_there_is_no_log_none_is_made(cli: Cli, tmp_path: Path, action: str) -> None:
    which = ["0"] if action in ("show", "replay", "delete") else []
    result = cli("dlq", action, tmp_path / "none", *which)
    assert result.returncode == exit_codes.FAILED
    assert "none" in one_line(result.stderr)
    assert not (tmp_path / "none").exists()


def test_f77_what_does_not_read_back_is_said_and_the_rest_is_shown(cli: Cli, log: Path) -> None:
    known = ids(cli, log)
    segment = next((log / "dead" / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[data.index(b"because") + 2] ^= 1
    segment.write_bytes(data)
    result = cli("dlq", "list", log, "--json")
    assert result.returncode == exit_codes.NOT_WELL
    assert f"dead letters {known[0]}" in result.stderr.decode()
    assert len(result.stdout.splitlines()) < 4
    assert cli("dlq", "export", log).returncode == exit_codes.NOT_WELL
