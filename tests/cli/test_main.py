"""The command as a whole: help, wrong usage, exit codes, what it imports, how it ends."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from seglog.cli import exit_codes, main
from seglog.errors import DiskFull, InvalidOption, LogLocked, NotALog, OffsetOutOfRange
from tests.cli.conftest import ROOT, Cli, one_line, wait_until

COMMANDS = main.COMMANDS
# What each command needs to be a whole command line; wrong options are then the only thing wrong with it.
NEEDED = {"consume": ["--consumer", "c"], "forward": ["--to", "stdout:"]}


def test_help_lists_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.returncode == 0
    text = result.stdout.decode()
    for name in COMMANDS:
        assert len(re.findall(rf"^    {name}(?: |$)", text, re.MULTILINE)) == 1, "which group of manual.GROUPS has it?"
    for code in ("130", "wrong usage"):
        assert code in text


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        (["help"], ["--help"]),
        (["help", "stat"], ["stat", "--help"]),
        (["help", "consumers", "seek"], ["consumers", "seek", "--help"]),
    ],
)
def test_help_is_a_command_too(cli: Cli, asked: list[str], page: list[str]) -> None:
    result = cli(*asked)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == cli(*page).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["app"],
        ["help", "frobnicate"],
        ["--frobnicate"],
        ["append"],
        ["append", ""],
        *([name, "--frobnicate"] for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.returncode == exit_codes.USAGE
    assert result.stdout == b""
    assert b"usage: seglog" in result.stderr
    assert b"Traceback" not in result.stderr


def test_options_cannot_be_abbreviated(cli: Cli, tmp_path: Path) -> None:
    assert cli("stat", tmp_path, "--js").returncode == exit_codes.USAGE


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(b"seglog")


@pytest.mark.parametrize("arguments", [["--help"], ["append", "--help"], ["forward", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = "asyncio rich urllib3 http.client ssl msgspec seglog.forward seglog.testing"
    script = (
        "import sys\nfrom seglog.cli.main import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: print('HEAVY', [m for m in {heavy.split()!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("HEAVY []\n"), result.stdout + result.stderr


def test_a_command_imports_no_other(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom seglog.cli.main import main\n"
        f"main(['append', {str(tmp_path / 'log')!r}, '/dev/null'])\n"
        "print([m for m in ('seglog.cli.forward', 'seglog.cli.read', 'seglog.forward', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n", result.stdout + result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidOption("x"), 2),
        (OffsetOutOfRange("x"), 2),
        (NotALog("x"), 3),
        (LogLocked("x"), 3),
        (DiskFull(28, "no space"), 3),
        (FileNotFoundError(2, "No such file", "f"), 3),
        (MemoryError("x"), 3),
        (ValueError("a bug"), 3),
    ],
)
def test_every_error_has_its_code(error: Exception, code: int) -> None:
    assert exit_codes.of_error(error) == code


def test_errors_in_one_line() -> None:
    assert main.describe(FileNotFoundError(2, "No such file", "a\x1b[31m")) == "a\x1b[31m: No such file"
    assert main.describe(NotALog("there is something else")) == "there is something else"
    error = OSError(5, "Input/output error")
    error.add_note("3 records are in the log")
    assert main.describe(error) == "Input/output error; 3 records are in the log"
    with pytest.raises(KeyError) as bug:
        {}["x"]  # type: ignore[index]
    assert main.describe(bug.value).startswith("internal error, please report it: KeyError: 'x' (test_main.py:")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["stat", "verify", "inspect", "read", "consume"])
def test_a_full_device_behind_stdout(cli: Cli, tmp_path: Path, command: str, unbuffered: str) -> None:
    cli.environment["PYTHONUNBUFFERED"] = unbuffered
    assert cli("append", tmp_path, input=b"a\n").returncode == 0
    target = tmp_path / "meta" if command == "inspect" else tmp_path
    with open("/dev/full", "wb") as full:
        result = cli(command, target, *NEEDED.get(command, []), stdout=full)
    assert result.returncode == exit_codes.FAILED
    assert one_line(result.stderr) == "seglog: stdout: No space left on device"
    assert cli("consume", tmp_path, "--consumer", "c").stdout == b"a\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_printed_is_printed_whole_or_the_command_fails(cli: Cli, tmp_path: Path, unbuffered: str) -> None:
    cli.environment["PYTHONUNBUFFERED"] = unbuffered
    whole = cli("completions", "bash")
    assert whole.returncode == 0
    script = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from seglog.cli.main import entry; entry()"
    cli.command = [cli.command[0], "-c", script]
    with open(tmp_path / "out", "wb") as out:
        cut = cli("completions", "bash", stdout=out)
    assert cut.returncode == exit_codes.FAILED
    assert one_line(cut.stderr) == "seglog: stdout: File too large"
    assert (tmp_path / "out").read_bytes() == whole.stdout[:100]


def test_a_reader_that_is_slow_gets_all_of_what_is_printed(cli: Cli) -> None:
    whole = cli("completions", "bash").stdout
    theirs, ours = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(ours, False)  # for our child, too: the descriptor is shared
    process = cli.start("completions", "bash", stdout=ours)
    os.close(ours)
    with open(theirs, "rb") as reader:
        wait_until(lambda: fcntl.ioctl(theirs, termios.FIONREAD, bytes(4)) == struct.pack("i", 4096))
        assert reader.read() == whole
    assert cli.end(process)[::2] == (0, "")


def test_f87_terminal_escapes_in_names_are_not_obeyed(cli: Cli, tmp_path: Path) -> None:
    result = cli("stat", tmp_path / "\x1b[31mred\u202e\udcff\n")
    line = one_line(result.stderr)
    assert r"\x1b[31mred\u202e\udcff\n" in line


@pytest.mark.parametrize("command", ["read", "stat", "verify", "compact", "consume", "forward"])
def test_what_is_no_log(cli: Cli, tmp_path: Path, command: str) -> None:
    needed = [*NEEDED.get(command, []), *(["--once"] if command == "forward" else [])]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("not a directory")
    for name in ("nowhere", "other", "file"):
        result = cli(command, tmp_path / name, *needed)
        assert result.returncode == exit_codes.FAILED, name
        assert name in one_line(result.stderr.splitlines()[0]), name
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "other", "thesis.txt"]


def test_closed_streams_are_an_error_and_never_a_file_of_the_log(cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert cli("append", log, input=b"one\ntwo\n").returncode == 0

    def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {line}', "sh", *cli.command, *map(str, arguments)],
            env=cli.environment,
            capture_output=True,
            timeout=60,
        )

    for arguments in (["append", log], ["read", log], ["consume", log, "--consumer", "c"], ["stat", log]):
        result = shell("<&- >&-", *arguments)
        assert result.returncode == exit_codes.FAILED, arguments
        assert "Bad file descriptor" in one_line(result.stderr)
    assert shell("2>&-", "verify", log).returncode == 0
    assert cli("read", log).stdout == b"one\ntwo\n"
    assert cli("consume", log, "--consumer", "c").stdout == b"one\ntwo\n"  # nothing was taken for handled
