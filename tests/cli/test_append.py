"""`seglog append`: what goes in, when it is durable, what happens to bad input."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import TIMEOUT, Cli, one_line, read_lines


def read(directory: Path) -> list[bytes]:
    with seglog.open(directory, mode="r") as log:
        return [message.payload for message in log.read()]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(lines=st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"\r")), max_size=50))
def test_append_then_read_is_byte_identical(
    cli: Cli, tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    log = tmp_path_factory.mktemp("round-trip") / "log"
    text = b"".join(line + b"\n" for line in lines)
    result = cli("append", log, input=text)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert cli("read", log).stdout == text


def test_100000_lines_of_all_lengths(cli: Cli, tmp_path: Path) -> None:
    text = b"".join(b"%d %s\n" % (number, b"x" * (number * 7919 % 211)) for number in range(100_000))
    (tmp_path / "input").write_bytes(text)
    assert cli("append", tmp_path / "log", tmp_path / "input").returncode == 0
    assert cli("read", tmp_path / "log").stdout == text


def test_the_last_line_needs_no_newline_and_empty_lines_count(cli: Cli, tmp_path: Path) -> None:
    assert cli("append", tmp_path, input=b"\n\na\r\n\0b").returncode == 0
    assert read(tmp_path) == [b"", b"", b"a\r", b"\0b"]


def test_empty_input_makes_an_empty_log(cli: Cli, tmp_path: Path) -> None:
    assert cli("append", tmp_path / "log").returncode == 0
    assert read(tmp_path / "log") == []
    assert cli("verify", tmp_path / "log").returncode == 0


def test_files_in_order_and_stdin_among_them(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2")
    (tmp_path / "b").write_bytes(b"4\n5\n")
    assert cli("append", tmp_path / "log", tmp_path / "a", "-", tmp_path / "b", input=b"3").returncode == 0
    assert read(tmp_path / "log") == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("second", ["missing", "directory"])
def test_a_bad_second_file_costs_nothing(cli: Cli, tmp_path: Path, second: str) -> None:
    (tmp_path / "good").write_bytes(b"1\n")
    (tmp_path / "directory").mkdir()
    result = cli("append", tmp_path / "log", tmp_path / "good", tmp_path / second)
    assert result.returncode == exit_codes.FAILED
    assert second in one_line(result.stderr)
    assert not (tmp_path / "log").exists()


def test_offsets_are_printed(cli: Cli, tmp_path: Path) -> None:
    assert cli("append", tmp_path, "--print-offsets", input=b"a\nb\n").stdout == b"0\n1\n"
    for durability in ("interval", "never"):
        result = cli("append", tmp_path, "--print-offsets", "--durability", durability, input=b"c")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) == 1
    assert read(tmp_path) == [b"a", b"b", b"c", b"c"]


def test_a_live_pipe_does_not_wait_for_a_batch_to_fill(cli: Cli, tmp_path: Path) -> None:
    process = cli.start("append", tmp_path, "--print-offsets")
    assert process.stdin is not None
    for number in range(3):
        process.stdin.write(b"event\n")
        assert read_lines(process, 1) == [b"%d" % number]
        assert read(tmp_path) == [b"event"] * (number + 1)
    process.stdin.write(b"unfinished")
    assert cli.end(process) == (0, b"3\n", "")
    assert read(tmp_path)[-1] == b"unfinished"


@pytest.mark.parametrize(("option", "byte"), [(r"\0", b"\0"), (r"\x1e", b"\x1e"), ("||", b"||"), (r"\r\n", b"\r\n")])
def test_other_delimiters(cli: Cli, tmp_path: Path, option: str, byte: bytes) -> None:
    records = [b"one\nline", b"", b"two"]
    assert cli("append", tmp_path, f"--delimiter={option}", input=byte.join(records)).returncode == 0
    assert read(tmp_path) == records
    assert cli("read", tmp_path, f"--delimiter={option}").stdout == b"".join(record + byte for record in records)


def test_whole_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n")
    (tmp_path / "b").write_bytes(b"")
    result = cli("append", tmp_path / "log", "--whole-file", tmp_path / "a", tmp_path / "b", "-", input=b"3\n")
    assert result.returncode == 0
    assert read(tmp_path / "log") == [b"1\n2\n", b"", b"3\n"]


def test_f90_a_line_that_is_too_long_is_named_and_earlier_ones_stay(cli: Cli, tmp_path: Path) -> None:
    result = cli("append", tmp_path, "--max-record-bytes", "64KiB", input=b"a\nb\n" + b"x" * 65537 + b"\nlater\n")
    assert result.returncode == exit_codes.FAILED
    line = one_line(result.stderr)
    assert "stdin, record 3" in line
    assert "2 records of the input are in the log" in line
    assert read(tmp_path) == [b"a", b"b"]
    assert cli("append", tmp_path, "--max-record-bytes", "64KiB", input=b"x" * 65536).returncode == 0
    assert read(tmp_path)[2] == b"x" * 65536


def test_a_line_that_never_ends_is_not_collected_for_ever(cli: Cli, tmp_path: Path) -> None:
    with open("/dev/zero", "rb") as endless:
        result = cli("append", tmp_path, "--max-record-bytes", "1MiB", stdin=endless)
        assert result.returncode == exit_codes.FAILED
        assert "stdin, record 1" in one_line(result.stderr)
        result = cli("append", tmp_path, "--max-record-bytes", "1MiB", "--whole-file", "/dev/zero")
        assert result.returncode == exit_codes.FAILED
        assert "/dev/zero" in one_line(result.stderr)
    assert read(tmp_path) == []


def test_a_huge_line_with_small_ones_behind_it(cli: Cli, tmp_path: Path) -> None:
    huge = b"x" * (3 << 20)
    assert cli("append", tmp_path, input=b"a\n" + huge + b"\nb\nc\n").returncode == 0
    assert read(tmp_path) == [b"a", huge, b"b", b"c"]


@pytest.mark.parametrize(
    "options",
    [
        ["--segment-bytes", "1"],
        ["--segment-bytes", "x"],
        ["--max-record-bytes", "0"],
        ["--max-record-bytes", "2GiB"],
        ["--durability", "often"],
        ["--compression", "gzip"],
        ["--delimiter", ""],
        ["--delimiter", r"\q"],
        ["--delimiter", "x", "--whole-file"],
    ],
    ids=" ".join,
)
def test_bad_options_touch_nothing(cli: Cli, tmp_path: Path, options: list[str]) -> None:
    result = cli("append", tmp_path / "log", *options, input=b"a\n")
    assert result.returncode == exit_codes.USAGE
    assert b"Traceback" not in result.stderr
    assert not (tmp_path / "log").exists()


def test_p11_a_second_writer_hears_who_the_first_is(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path):
        result = cli("append", tmp_path, input=b"a\n")
    assert result.returncode == exit_codes.FAILED
    assert str(os.getpid()) in one_line(result.stderr)
    assert read(tmp_path) == []


def test_the_retention_that_the_program_asked_for_stays(cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    seglog.open(log, retention_bytes=1 << 40).close()
    before = (log / "meta").read_bytes()
    cli("append", log, input=b"x\n")
    assert (log / "meta").read_bytes() == before


def test_not_a_log_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "thesis.txt"):
        result = cli("append", target, input=b"a\n")
        assert result.returncode == exit_codes.FAILED
        one_line(result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_f47_no_permission(cli: Cli, tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may do everything, so it must give that up
        drop = "-dac_override,-dac_read_search"
        cli.command = ["setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}", *cli.command]
        if shutil.which("setpriv") is None or cli("append", "--help").returncode:
            pytest.skip("root cannot give up its rights here")
    (tmp_path / "locked" / "log").mkdir(parents=True)
    (tmp_path / "locked").chmod(0o000)
    try:
        for command in (["append"], ["read"], ["verify"], ["consume", "--consumer", "c"]):
            result = cli(command[0], tmp_path / "locked" / "log", *command[1:], input=b"a\n")
            assert result.returncode == exit_codes.FAILED
            line = one_line(result.stderr)
            assert "ermission denied" in line
            assert "locked" in line
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert list((tmp_path / "locked" / "log").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)]
)
def test_a_signal_ends_it_orderly(cli: Cli, tmp_path: Path, number: int, expected: int) -> None:
    process = cli.start("append", tmp_path, "--print-offsets")
    assert process.stdin is not None
    process.stdin.write(b"a\nb\nunfinished")
    assert read_lines(process, 2) == [b"0", b"1"]
    process.send_signal(number)
    assert process.wait(TIMEOUT) == expected
    line = one_line(cli.end(process)[2])
    assert "2 records of the input are in the log, 10 bytes of an unfinished record are not" in line
    assert read(tmp_path) == [b"a", b"b"]
    with seglog.open(tmp_path) as log:
        assert log.report.clean


def test_offsets_that_nobody_reads_end_it_with_an_error(cli: Cli, tmp_path: Path) -> None:
    process = cli.start("append", tmp_path, "--print-offsets")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a\n")
    assert read_lines(process, 1) == [b"0"]
    process.stdout.close()
    process.stdin.write(b"b\n")
    assert process.wait(TIMEOUT) == exit_codes.FAILED
    assert process.stderr is not None
    assert "2 records of the input are in the log" in one_line(process.stderr.read())
    assert read(tmp_path) == [b"a", b"b"]


def test_a_shell_loop_leaves_few_segments(cli: Cli, tmp_path: Path) -> None:
    for number in range(10):
        assert cli("append", tmp_path, input=b"%d\n" % number).returncode == 0
    assert read(tmp_path) == [b"%d" % number for number in range(10)]
    assert len(list((tmp_path / "segments").iterdir())) <= 2
