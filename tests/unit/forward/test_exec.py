"""`exec:` runs a command for each batch: what it is given, what its end means, and that it ends."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks import exec as exec_sink
from tests.support.fake_consumer import LOG_ID, message
from tools.engines.server import wait_until


def shell(text: str, *words: object) -> str:
    return f"exec:sh -c {shlex.quote(text)} {shlex.join(map(str, ('sh', *words)))}"


def failure(url: str, *payloads: bytes, **options: Any) -> SinkError:
    with pytest.raises(SinkError) as caught:
        open_sink(url, **options).send([message(n, payload) for n, payload in enumerate(payloads or (b"x",))])
    return caught.value


def test_the_batch_is_stdin_and_the_environment_says_which(capfd: pytest.CaptureFixture[str]) -> None:
    sink = open_sink(shell('echo "$SEGLOG_LOG_ID $SEGLOG_FIRST_OFFSET $SEGLOG_LAST_OFFSET $1"; cat', "a b"))
    sink.send([message(7, b"one"), message(9, b"two")])
    assert capfd.readouterr().out == f"{LOG_ID} 7 9 a b\none\ntwo\n"


def test_the_envelope_takes_any_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    open_sink("exec:cat", format="envelope").send([message(3, b"two\nlines", key=b"\xff")])
    line = json.loads(capfd.readouterr().out)
    assert (line["id"], line["payload"], line["key_base64"]) == (f"{LOG_ID}:3", "two\nlines", "/w==")


def test_lines_take_no_newline() -> None:
    error = failure("exec:cat", b"two\nlines")
    assert error.verdict is Verdict.CONFIGURATION
    assert "envelope" in str(error)


def test_there_is_no_shell(capfd: pytest.CaptureFixture[str]) -> None:
    open_sink("exec:printf '%s|' a 'b c' $HOME ';' *").send([message(0)])
    assert capfd.readouterr().out == "a|b c|$HOME|;|*|"


def test_a_command_need_not_read_its_stdin_and_may_say_a_lot(capfd: pytest.CaptureFixture[str]) -> None:
    large = [message(n, b"x" * (1 << 20)) for n in range(4)]  # more than any pipe holds
    open_sink("exec:true").send(large)
    # It says much before it reads, and reads much before it says more: neither waits for the other.
    program = "import sys; e = sys.stderr; e.write('y' * 500000); sys.stdin.read(); e.write('z' * 500000)"
    open_sink(f"exec:{sys.executable} -c {shlex.quote(program)}", timeout=60).send(large)
    assert len(capfd.readouterr().err) == 1_000_000


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(65, Verdict.REFUSED), (78, Verdict.CONFIGURATION), (1, Verdict.RETRY), (75, Verdict.RETRY), (127, Verdict.RETRY)],
)
def test_the_exit_code_is_the_verdict(code: int, verdict: Verdict) -> None:
    error = failure(shell("cat >/dev/null; echo no such field >&2; exit $1", code), b"secret payload")
    assert error.verdict is verdict
    assert str(error) == f"sh exited with {code}"
    assert error.detail == f"exited with {code}: no such field"


def test_a_signal_is_retried() -> None:
    for number, name in ((9, "SIGKILL"), (37, "signal 37")):
        error = failure(shell("kill -$1 $$", number))
        assert (error.verdict, str(error)) == (Verdict.RETRY, f"sh was ended by {name}")


def test_what_it_says_is_told_in_the_dead_letter_and_not_in_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    url = shell('while read line; do if test "$line" = bad; then echo "I hate $line" >&2; exit 65; fi; done; true')
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append_many([b"good", b"bad", b"fine"])
        Forwarder(consumer, open_sink(url)).run(once=True)
        assert len(consumer) == 0
        (letter,) = log.dead_letters
        assert (letter.payload, letter.detail) == (b"bad", "exited with 65: I hate bad")
    assert "hate" not in caplog.text
    assert "I hate bad" in capfd.readouterr().err  # where the output of a command goes


def test_only_the_end_of_what_it_says_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; sys.stderr.write('x' * 3000000 + 'the reason'); sys.exit(1)"
    detail = failure(f"exec:{sys.executable} -c {shlex.quote(program)}").detail
    assert detail.endswith("the reason")
    assert len(detail) < 2000


@pytest.mark.parametrize("command", ["/no/such/command", "no-such-command-anywhere", "{directory}", "{garbage}"])
def test_a_command_that_cannot_be_started_is_configuration(tmp_path: Path, command: str) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF nonsense")
    garbage.chmod(0o755)
    error = failure("exec:" + command.format(directory=tmp_path, garbage=garbage) + " --token s3cret")
    assert error.verdict is Verdict.CONFIGURATION
    assert "cannot be started" in str(error)
    assert "s3cret" not in str(error)


def test_one_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    url = shell("sleep 1000 & echo $! >$1; echo $$ >>$1; wait", tmp_path / "pids")
    error = failure(url, timeout=0.3)
    assert (error.verdict, str(error)) == (Verdict.RETRY, "sh took longer than 0.3 s and was ended by SIGTERM")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(alive, pids)))


def test_what_it_leaves_behind_when_it_is_ended_is_killed(tmp_path: Path) -> None:
    error = failure(shell("sh -c 'trap \"\" TERM; exec sleep 1000' & echo $! >$1; wait", tmp_path / "pid"), timeout=0.5)
    assert "was ended by SIGTERM" in str(error)
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_stubborn_one_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_sink, "GRACE_SECONDS", 0.2)
    url = shell("trap '' TERM; sleep 1000 & echo $! >$1; echo $$ >>$1; while :; do sleep 0.05; done", tmp_path / "pids")
    error = failure(url, timeout=0.3)
    assert str(error) == "sh took longer than 0.3 s and was ended by SIGKILL"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(map(alive, pids)))


def test_who_exits_with_0_because_its_time_was_over_has_confirmed_nothing() -> None:
    error = failure(shell("trap 'exit 0' TERM; while :; do sleep 0.05; done"), timeout=0.3)
    assert error.verdict is Verdict.RETRY
    assert str(error) == "sh took longer than 0.3 s and exited with 0"


def test_a_standard_error_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    program = """
import sys
from seglog.forward import open_sink
from tests.support.fake_consumer import message
open_sink("exec:sh -c 'head -c 300000 /dev/zero >&2'", timeout=20).send([message(0)])
"""
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as full:
        subprocess.run([sys.executable, "-c", program], stderr=full, timeout=30, check=True)


def test_a_child_that_it_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    """It holds the pipe of the standard error, and stays alive: that is how a command starts a service."""
    open_sink(shell("sleep 1000 & echo $! >$1", tmp_path / "pid"), timeout=60).send([message(0)])
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_an_interrupt_leaves_no_command_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, seconds: float) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(exec_sink._Pipes, "exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_sink(shell("echo $$ >$1; sleep 1000", tmp_path / "pid"), timeout=60).send([message(0)])
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_batch_whose_run_was_cut_short_comes_again_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a command that names its files by the offsets writes each record once, whoever is killed."""
    url = shell('cat >"$1.$SEGLOG_FIRST_OFFSET-$SEGLOG_LAST_OFFSET"', tmp_path / "out")
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % n for n in range(5)])
        end = exec_sink._end

        def killed(child: object) -> None:
            end(child)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        for batch_records in (3, 100):
            sink = open_sink(url)
            with log.consumer("forward") as consumer:
                forwarder = Forwarder(consumer, sink, batch_records=batch_records, batch_file=tmp_path / "batch")
                with monkeypatch.context() as patch:
                    if batch_records == 3:
                        patch.setattr(exec_sink, "_end", killed)
                    try:
                        forwarder.run(once=True)
                    except KeyboardInterrupt:
                        log.append_many([b"5", b"6"])  # what would fill the batch now
    found = {path.name: path.read_text().split() for path in tmp_path.glob("out.*")}
    assert found == {"out.0-2": ["0", "1", "2"], "out.3-6": ["3", "4", "5", "6"]}


@pytest.mark.parametrize("url", ["exec:", "exec: ", "exec:sh -c 'unclosed", "exec:''", "exec:a\0b"])
def test_bad_commands(url: str) -> None:
    with pytest.raises(InvalidOption):
        open_sink(url)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"format": "xml"}, {"headers": {"A": "b"}}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        open_sink("exec:true", **options)


def alive(pid: int) -> bool:
    """And no zombie, which a child of somebody who does not wait for it is for a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
