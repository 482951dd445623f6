"""`seglog consume --exec`: acked is what the command exits 0 for; what it fails for comes again; no shell."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

import pytest

import seglog
from seglog.cli import exit_codes
from seglog.cli.stopping import Stop
from seglog.cli.worker import Worker
from tests.cli.conftest import TIMEOUT, Cli, one_line, read_lines, wait_until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(5)])
    return tmp_path / "log"


def unhandled(log: Path) -> list[int]:
    with seglog.open(log, mode="r") as reader, reader.consumer("c") as consumer:
        return [message.offset for message in consumer.unacked()]


def attempts(log: Path) -> dict[int, int]:
    """How often each message would have been delivered, this time included."""
    with seglog.open(log, mode="r") as reader, reader.consumer("c") as consumer:
        return {message.offset: message.attempts for message in consumer.drain()}


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "command"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_payload_is_stdin_and_the_output_passes_through(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "--exec", "cat")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"01234", b"")
    assert unhandled(log) == []


def test_any_bytes_come_through(cli: Cli, tmp_path: Path) -> None:
    payload = bytes(range(256)) * 4096
    with seglog.open(tmp_path / "log") as log:
        log.append(payload)
    assert cli("consume", tmp_path / "log", "--consumer", "c", "--exec", "cat").stdout == payload


def test_a_command_need_not_read_its_stdin(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log:
        log.append(b"x" * (4 << 20))  # more than any pipe holds
    assert cli("consume", tmp_path / "log", "--consumer", "c", "--exec", "true").returncode == 0
    assert unhandled(tmp_path / "log") == []


def test_the_environment_says_which_message(cli: Cli, tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log:
        log.append(b"a", key="Zoë".encode())
        log.append_many([seglog.Record(b"b", key=key) for key in (b"\xff", b"a\0b", b"k" * 65_000)])
        log.append(b"c")
        name = log.id
    cli.environment["SEGLOG_KEY"] = "not the message's"
    show = 'echo "$SEGLOG_OFFSET|$SEGLOG_ATTEMPTS|$SEGLOG_ID|${SEGLOG_KEY-none}"'
    result = cli("consume", tmp_path / "log", "--consumer", "c", "--exec", script(tmp_path, show))
    keys = ["Zoë", "none", "none", "k" * 65_000, "none"]
    assert result.stdout.decode().splitlines() == [f"{at}|1|{name}:{at}|{key}" for at, key in enumerate(keys)]


def test_with_json_the_object_is_stdin(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "-n", "1", "--json", "--exec", "cat")
    shown = json.loads(result.stdout)
    assert (shown["offset"], shown["payload"], shown["attempts"]) == (0, "0", 1)


def test_there_is_no_shell(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "-n", "1", "--exec", "printf '%s|' a 'b c' $HOME ; *")
    assert result.stdout == b"a|b c|$HOME|;|*|"
    result = cli("consume", log, "--consumer", "c", "-n", "1", "--exec", "sh -c 'cat; echo $SEGLOG_OFFSET | tr 1 x'")
    assert result.stdout == b"1x\n"


@pytest.mark.parametrize("options", [[], ["--backoff", "0"]], ids=" ".join)
def test_p5_what_failed_stays_and_holds_up_nobody(cli: Cli, log: Path, tmp_path: Path, options: list[str]) -> None:
    command = script(tmp_path, 'read x; test "$x" != 2')
    # `read` fails at the end of input without a newline, and has the value all the same.
    result = cli("consume", log, "--consumer", "c", "--exec", command, *options)
    assert result.returncode == exit_codes.NOT_WELL
    assert one_line(result.stderr) == f"seglog: offset 2: {command} exited with 1 (attempt 1)"
    assert unhandled(log) == [2]
    assert attempts(log) == {2: 2}  # the failure counts
    assert cli("consume", log, "--consumer", "c", "--exec", "cat").stdout == b"2"
    assert unhandled(log) == []


def test_max_attempts_then_a_dead_letter(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, 'read x; echo "$x $SEGLOG_ATTEMPTS"; test "$x" != 2')
    options = ["--max-attempts", "3", "--backoff", "0.01"]
    result = cli("consume", log, "--consumer", "c", "--exec", command, *options)
    assert result.returncode == exit_codes.NOT_WELL
    last = f"seglog: offset 2: {command} exited with 1 (attempt 3, the last: it becomes a dead letter)"
    assert result.stderr.decode().splitlines()[2:] == [last]
    tries = [line.split() for line in result.stdout.decode().splitlines()]
    assert [attempt for payload, attempt in tries if payload == "2"] == ["1", "2", "3"]
    assert sorted(payload for payload, _ in tries if payload != "2") == ["0", "1", "3", "4"]
    assert unhandled(log) == []
    with seglog.open(log, mode="r") as reader:
        (letter,) = reader.dead_letters
    assert (letter.offset, letter.reason, letter.payload, letter.attempts) == (2, "exhausted", b"2", 3)


def test_what_succeeds_later_is_well(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, 'test "$SEGLOG_ATTEMPTS" = 2')
    result = cli("consume", log, "--consumer", "c", "--exec", command, "--max-attempts", "3", "--backoff", "0")
    assert result.returncode == exit_codes.OK
    assert unhandled(log) == []
    with seglog.open(log, mode="r") as reader:
        assert list(reader.dead_letters) == []


def test_follow_tries_again(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, 'test "$SEGLOG_ATTEMPTS" = 2 && cat && echo')
    process = cli.start("consume", log, "--consumer", "c", "--follow", "--exec", command, "--backoff", "0.01")
    assert sorted(read_lines(process, 5)) == [b"0", b"1", b"2", b"3", b"4"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) in (exit_codes.TERMINATED,)


def test_what_is_passed_over_is_not_waited_for() -> None:
    args = argparse.Namespace(exec=["false"], json=False, lease=None, follow=False, max_attempts=3, n=None)
    with seglog.open(":memory:") as log, Stop() as stop:
        log.append(b"soon expired")
        worker = Worker(args, stop)
        with log.consumer("c", on_gap=worker.on_gap) as consumer:
            answers = [consumer.receive(), None, None]

            def receive(timeout: float | None = 0) -> seglog.Message[bytes] | None:
                if len(answers) == 2:
                    worker.on_gap(seglog.Gap(0, 0, "expired"))
                return answers.pop(0)  # it does not look for ever

            consumer.receive = receive  # type: ignore[method-assign]
            assert worker.run(consumer) == exit_codes.NOT_WELL


def test_n_counts_runs(cli: Cli, log: Path) -> None:
    result = cli("consume", log, "--consumer", "c", "-n", "2", "--exec", "cat")
    assert (result.returncode, result.stdout) == (0, b"01")
    assert unhandled(log) == [2, 3, 4]


@pytest.mark.parametrize("command", ["/no/such/command", "no-such-command-anywhere", "{directory}", "{garbage}"])
def test_a_command_that_cannot_be_started_is_no_fault_of_the_message(
    cli: Cli, log: Path, tmp_path: Path, command: str
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF nonsense")
    garbage.chmod(0o755)
    text = command.format(directory=tmp_path, garbage=garbage)
    result = cli("consume", log, "--consumer", "c", "--exec", text, "--max-attempts", "1")
    assert result.returncode == exit_codes.FAILED
    assert text in one_line(result.stderr)
    assert attempts(log) == dict.fromkeys(range(5), 1)
    with seglog.open(log, mode="r") as reader:
        assert list(reader.dead_letters) == []


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)]
)
def test_a_signal_ends_the_command_too_and_is_no_attempt(
    cli: Cli, log: Path, tmp_path: Path, number: int, expected: int
) -> None:
    command = script(tmp_path, "echo $$; exec sleep 1000")
    process = cli.start("consume", log, "--consumer", "c", "--exec", command, "--max-attempts", "1")
    (pid,) = read_lines(process, 1)
    process.send_signal(number)
    assert cli.end(process) == (expected, b"", "")
    wait_until(lambda: not alive(int(pid)))
    assert attempts(log) == dict.fromkeys(range(5), 1)


def test_a_second_signal_does_not_wait_for_a_stubborn_command(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, "trap 'echo no' TERM; echo $$; while :; do sleep 0.05; done")
    process = cli.start("consume", log, "--consumer", "c", "--exec", command)
    (pid,) = read_lines(process, 1)
    process.send_signal(signal.SIGINT)
    assert read_lines(process, 1) == [b"no"]
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == exit_codes.INTERRUPTED
    assert not alive(int(pid))
    assert unhandled(log) == list(range(5))


def test_what_the_command_finished_before_it_was_stopped_is_acked(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, "trap 'exit 0' TERM; echo $$; while :; do sleep 0.05; done")
    process = cli.start("consume", log, "--consumer", "c", "--exec", command)
    read_lines(process, 1)
    process.send_signal(signal.SIGTERM)
    assert cli.end(process)[0] == exit_codes.TERMINATED
    assert unhandled(log) == [1, 2, 3, 4]


def test_the_lease_ends_a_command_that_takes_too_long(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, 'test "$SEGLOG_OFFSET" != 0 || exec sleep 1000')
    result = cli("consume", log, "--consumer", "c", "--exec", command, "--lease", "0.2")
    assert result.returncode == exit_codes.NOT_WELL
    assert "took longer than 0.2 s and was ended by SIGTERM (attempt 1)" in one_line(result.stderr)
    assert unhandled(log) == [0]


def test_who_exits_with_0_because_its_time_was_over_has_handled_nothing(cli: Cli, log: Path, tmp_path: Path) -> None:
    command = script(tmp_path, "test \"$SEGLOG_OFFSET\" != 0 || { trap 'exit 0' TERM; while :; do sleep 0.05; done; }")
    result = cli("consume", log, "--consumer", "c", "--exec", command, "--lease", "0.2")
    assert result.returncode == exit_codes.NOT_WELL
    assert "took longer than 0.2 s and exited with 0 (attempt 1)" in one_line(result.stderr)
    assert unhandled(log) == [0]


@pytest.mark.parametrize(
    "options",
    [
        ["--exec", ""],
        ["--exec", " "],
        ["--exec", "sh -c 'unclosed"],
        ["--exec", "true", "--max-attempts", "0"],
        ["--exec", "true", "--lease", "-1"],
        ["--exec", "true", "--lease", "soon"],
        ["--lease", "1"],
        ["--max-attempts", "1"],
        ["--backoff", "1"],
    ],
    ids=" ".join,
)
def test_bad_usage_runs_nothing(cli: Cli, log: Path, options: list[str]) -> None:
    result = cli("consume", log, "--consumer", "c", *options)
    assert result.returncode == exit_codes.USAGE
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr
    assert json.loads(cli("stat", log, "--json").stdout)["consumers"] == {}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
