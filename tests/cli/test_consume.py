"""`seglog consume`: acknowledged is what was written out in full, and nothing else."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import TIMEOUT, Cli, one_line, read_lines, wait_until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(10)])
    return tmp_path / "log"


def lines(first: int, stop: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, stop))


def watermark(cli: Cli, log: Path, name: str = "c") -> int:
    found: int = json.loads(cli("stat", log, "--json").stdout)["consumers"][name]["watermark"]
    return found


def test_it_goes_on_where_it_was(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "-n", "3")
    assert (result.returncode, result.stdout, result.stderr) == (0, lines(0, 3), b"")
    assert cli("consume", log, "--consumer", "c").stdout == lines(3, 10)
    assert cli("consume", log, "--consumer", "c").stdout == b""
    assert cli("consume", log, "--consumer", "d", "-n", "1").stdout == lines(0, 1)
    assert watermark(cli, log) == 10


@pytest.mark.parametrize(
    ("start", "expected"),
    [("earliest", 0), ("4", 4), ("latest", 10), ("2001-01-01", 0), ("2101-01-01T00:00Z", 10)],
)
def test_where_a_new_name_starts(cli: Cli, log: Path, start: str, expected: int) -> None:
    assert cli("consume", log, "--consumer", "c", "--start", start).stdout == lines(expected, 10)


def test_delimiter_stands_after_each_payload(cli: Cli, log: Path) -> None:
    assert cli("consume", log, "--consumer", "c", "-n", "3", "--delimiter", r"\0").stdout == b"0\x001\x002\0"
    assert cli("consume", log, "--consumer", "c", "--delimiter", "").stdout == b"3456789"


def test_json_has_the_attempts(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "-n", "1", "--json")
    shown = json.loads(result.stdout)
    assert (shown["offset"], shown["payload"], shown["attempts"]) == (0, "0", 1)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--consumer", "../x"],
        ["--consumer", "/etc/passwd"],
        ["--consumer", "a b"],
        ["--consumer", ""],
        ["--consumer", "x" * 65],
        ["--consumer", "c", "-n", "0"],
        ["--consumer", "c", "-n", "x"],
        ["--consumer", "c", "--start", "newest"],
        ["--consumer", "c", "--start", "-1"],
        ["--consumer", "c", "--start", "1000"],
    ],
    ids=" ".join,
)
def test_bad_usage_registers_nobody(cli: Cli, log: Path, options: list[str]) -> None:
    result = cli("consume", log, *options)
    assert result.returncode == exit_codes.USAGE
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr
    assert json.loads(cli("stat", log, "--json").stdout)["consumers"] == {}


def test_f89_a_consumer_that_another_process_holds(cli: Cli, log: Path) -> None:
    with seglog.open(log, mode="r") as other, other.consumer("c"):
        result = cli("consume", log, "--consumer", "c")
    assert result.returncode == exit_codes.FAILED
    assert "c" in one_line(result.stderr)


def test_p5_what_could_not_be_written_is_not_acknowledged(cli: Cli, tmp_path: Path) -> None:
    count, size = 3000, 1000  # more than any pipe holds
    with seglog.open(tmp_path) as log:
        log.append_many([b"%06d" % number + b"x" * size for number in range(count)])
    process = cli.start("consume", tmp_path, "--consumer", "c")
    assert process.stdout is not None
    read = process.stdout.read(size * 700)
    process.stdout.close()
    assert process.wait(TIMEOUT) == exit_codes.OK
    assert process.stderr is not None
    assert process.stderr.read() == b""
    whole = read.count(b"\n")
    acknowledged = watermark(cli, tmp_path)
    # Acknowledged batches were taken by the pipe: read, or in its buffer (64 KiB) when it was closed.
    assert whole - 1000 <= acknowledged <= whole + 70
    rest = cli("consume", tmp_path, "--consumer", "c").stdout
    assert [int(line[:6]) for line in rest.splitlines()] == list(range(acknowledged, count))


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)]
)
def test_follow_ends_orderly(cli: Cli, log: Path, number: int, expected: int) -> None:
    process = cli.start("consume", log, "--consumer", "c", "--follow")
    assert b"".join(line + b"\n" for line in read_lines(process, 10)) == lines(0, 10)
    with seglog.open(log) as writer:
        writer.append(b"10")
        assert read_lines(process, 1) == [b"10"]
        wait_until(lambda: watermark(cli, log) == 11)
    process.send_signal(number)
    assert cli.end(process) == (expected, b"", "")
    assert cli("consume", log, "--consumer", "c").stdout == b""


def test_ctrl_c_frees_it_from_a_reader_that_does_not_read(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append(b"x" * (1 << 20))
    process = cli.start("consume", tmp_path, "--consumer", "c")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"  # it writes, and nobody reads the rest
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == exit_codes.INTERRUPTED
    assert watermark(cli, tmp_path) == 0
    assert cli("consume", tmp_path, "--consumer", "c").stdout == b"x" * (1 << 20) + b"\n"
