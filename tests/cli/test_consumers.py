"""`seglog consumers`: who reads a log and where they stand, changed by name only."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import Cli, one_line


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten records; `c` has handled four of them."""
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(10)])
        with log.consumer("c") as consumer:
            consumer.ack(*consumer.receive_many(4))
    return tmp_path / "log"


def watermarks(log: Path) -> dict[str, int]:
    with seglog.open(log, mode="r") as reader:
        return {name: stats.watermark for name, stats in reader.consumers().items()}


def rest(log: Path, name: str) -> list[bytes]:
    with seglog.open(log, mode="r") as reader, reader.consumer(name) as consumer:
        return [message.payload for message in consumer.drain()]


def test_list_is_the_statistics_one_per_line(cli: Cli, log: Path) -> None:
    assert cli("consumers", "add", log, "d").returncode == 0
    result = cli("consumers", "list", log, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    shown: dict[str, Any] = {row.pop("name"): row for row in map(json.loads, result.stdout.splitlines())}
    assert list(shown) == ["c", "d"]
    assert list(shown["c"]) == [field.name for field in dataclasses.fields(seglog.ConsumerStats)]
    assert (shown["c"]["watermark"], shown["c"]["lag_records"], shown["d"]["lag_records"]) == (4, 6, 10)
    text = cli("consumers", "list", log).stdout.decode()
    assert any(line.split()[:3] == ["c", "4", "6"] for line in text.splitlines())


def test_list_of_nobody(cli: Cli, tmp_path: Path) -> None:
    seglog.open(tmp_path / "empty").close()
    assert cli("consumers", "list", tmp_path / "empty", "--json").stdout == b""
    result = cli("consumers", "list", tmp_path / "empty")
    assert (result.returncode, result.stdout) == (0, b"")
    assert "no consumer" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("options", "watermark"),
    [
        ([], 0),
        (["--start", "latest"], 10),
        (["--start", "7"], 7),
        (["--start", "2001-01-01T00:00:00Z"], 0),
        (["--start", "2101-01-01"], 10),
    ],
)
def test_add_registers_without_consuming(cli: Cli, log: Path, options: list[str], watermark: int) -> None:
    result = cli("consumers", "add", log, "new", *options)
    assert (result.returncode, result.stdout) == (0, b"")
    assert f"offset {watermark}" in one_line(result.stderr)
    assert watermarks(log) == {"c": 4, "new": watermark}
    assert len(rest(log, "new")) == 10 - watermark


def test_add_leaves_a_known_name_as_it_is(cli: Cli, log: Path) -> None:
    result = cli("consumers", "add", log, "c", "--start", "latest")
    assert result.returncode == exit_codes.FAILED
    assert "already, at offset 4" in one_line(result.stderr)
    assert watermarks(log) == {"c": 4}


@pytest.mark.parametrize(
    ("where", "watermark"), [("earliest", 0), ("latest", 10), ("2", 2), ("9", 9), ("2001-01-01T00:00:00Z", 0)]
)
def test_seek_moves_back_and_ahead(cli: Cli, log: Path, where: str, watermark: int) -> None:
    result = cli("consumers", "seek", log, "c", "--to", where)
    assert (result.returncode, result.stdout) == (0, b"")
    assert f"from offset 4 to {watermark}" in one_line(result.stderr)
    assert rest(log, "c") == [b"%d" % number for number in range(watermark, 10)]


def test_remove_forgets(cli: Cli, log: Path) -> None:
    result = cli("consumers", "remove", log, "c", "--yes")
    assert (result.returncode, result.stdout) == (0, b"")
    assert "6 records" in one_line(result.stderr)
    assert watermarks(log) == {}
    assert len(rest(log, "c")) == 10  # a new one of that name begins anew


@pytest.mark.parametrize(("answer", "removed"), [(b"y\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)])
def test_remove_asks_on_a_terminal(cli: Cli, log: Path, answer: bytes, removed: bool) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        result = cli("consumers", "remove", log, "c", stdin=theirs, stderr=theirs)
        said = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"6 records. Forget it? [y/N]" in said
    assert result.returncode == (exit_codes.OK if removed else exit_codes.FAILED)
    assert ("c" in watermarks(log)) != removed


def test_remove_does_not_ask_where_nobody_can_answer(cli: Cli, log: Path) -> None:
    result = cli("consumers", "remove", log, "c")
    assert result.returncode == exit_codes.OK
    assert b"[y/N]" not in result.stderr


@pytest.mark.parametrize("action", [["seek", "--to", "0"], ["remove"]], ids=" ".join)
def test_a_name_that_is_not_there(cli: Cli, log: Path, action: list[str]) -> None:
    result = cli("consumers", action[0], log, "nobody", *action[1:])
    assert result.returncode == exit_codes.FAILED
    assert "no consumer 'nobody'" in one_line(result.stderr)
    assert watermarks(log) == {"c": 4}


@pytest.mark.parametrize("action", [["seek", "--to", "0"], ["remove", "--yes"]], ids=" ".join)
def test_f89_a_consumer_in_use_is_not_moved_away_from_under_it(cli: Cli, log: Path, action: list[str]) -> None:
    with seglog.open(log) as writer, writer.consumer("c") as held:
        result = cli("consumers", action[0], log, "c", *action[1:])
        assert result.returncode == exit_codes.FAILED
        assert "'c' is held by another process" in one_line(result.stderr)
        message = held.receive()
        assert message is not None
        assert message.offset == 4
    assert watermarks(log) == {"c": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["list"],
        ["add", "{log}"],
        ["add", "{log}", "../x"],
        ["add", "{log}", "C"],
        ["add", "{log}", "new", "--start", "newest"],
        ["add", "{log}", "new", "--start", "1000"],
        ["seek", "{log}", "c"],
        ["seek", "{log}", "c", "--to", "-1"],
        ["seek", "{log}", "c", "--to", "1000"],
        ["seek", "{log}", "c", "--to", "yesterday"],
        ["remove", "{log}", "a b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_changes_nothing(cli: Cli, log: Path, arguments: list[str]) -> None:
    result = cli("consumers", *[str(log) if word == "{log}" else word for word in arguments])
    assert result.returncode == exit_codes.USAGE
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr
    assert watermarks(log) == {"c": 4}
