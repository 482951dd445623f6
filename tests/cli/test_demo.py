"""The demo: it shows what is true, would show what is not, and leaves nothing behind however it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

from seglog.cli import main
from seglog.demo import story
from seglog.demo.account import Account, Balance
from seglog.demo.collector import Store, handler, key_offsets
from seglog.demo.damage import Flip, flip_one_byte
from seglog.demo.source import write_events
from seglog.demo.story import Findings, problems_of
from seglog.errors import SeglogError

GOOD = Findings(
    ok=True,
    source="somewhere",
    events=10,
    balance=Balance(10, 10, 3, 1, 0, 0, 0, 0),
    killed=("writer",),
    busy_answers=1,
    damaged=Flip("segment", 5, 7),
    copy_delivered=10,
    copy_dead_letters=("damaged: offsets 7-7",),
    verify_exit_code=0,
    verify_copy_exit_code=1,
    verify_copy_damage=({"first_offset": 7, "last_offset": 7},),
    seconds=1.0,
    problems=(),
)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo puts its directory."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", str(directory))  # in this process it was looked up long ago
    return directory


def start(cli: Any, *args: str) -> subprocess.Popen[bytes]:
    cli.environment["TMPDIR"] = os.environ["TMPDIR"]
    process: subprocess.Popen[bytes] = cli.start("demo", *args)
    return process


@pytest.mark.slow
def test_the_demo_shows_that_nothing_is_lost(cli: Any, scratch: Path) -> None:
    process = start(cli, "--events", "4000", "--json")
    out, err = process.communicate(timeout=110)
    talk = err.decode()
    assert process.returncode == 0, talk
    found = json.loads(out)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["balance"]["acknowledged"] == found["balance"]["delivered"] == found["events"] == 4000
    assert found["balance"]["unaccounted"] == 0
    assert found["balance"]["delivered_twice"] > 0  # it killed the forwarder between delivery and acknowledgement
    assert found["copy_delivered"] == 4000 + found["balance"]["written_twice"] - 1
    assert found["copy_dead_letters"] == [f"damaged: offsets {found['damaged']['offset']}-{found['damaged']['offset']}"]
    assert (found["verify_exit_code"], found["verify_copy_exit_code"]) == (0, 1)
    for what in ("collector killed", "writer killed", "forwarder killed", "flipped byte"):
        assert what in talk
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for its processes in /proc")
@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGINT, 130, "collector killed"),
        (signal.SIGTERM, 143, "writer killed"),
        (signal.SIGTERM, 143, "events,"),
    ],
)
def test_a_signal_ends_all_of_it(cli: Any, scratch: Path, number: int, code: int, moment: str) -> None:
    process = start(cli, "--events", "2000")
    assert process.stderr is not None
    talk = ""
    while moment not in talk:
        line = process.stderr.readline().decode()
        assert line, f"the demo ended before the signal: {talk}"
        talk += line
    if moment != "events,":
        assert len(_processes(scratch)) >= 2
    asked = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert time.monotonic() - asked < 5
    assert process.returncode == code
    assert _processes(scratch) == []
    assert list(scratch.iterdir()) == []


def _processes(directory: Path) -> list[str]:
    """Command lines of the processes that work in this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(directory) in command:
            found.append(command)
    return found


def test_a_process_that_dies_unasked_is_named_and_nothing_is_left(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seglog.demo.story.COLLECTOR", "seglog.demo.no_such_module")
    assert main.main(["demo", "--events", "1000"]) == 3
    assert "the collector ended with exit code 1" in capsys.readouterr().err
    assert list(scratch.iterdir()) == []


def test_without_urllib3_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    assert main.main(["demo"]) == 3
    assert "pip install 'seglog[http]'" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--events", "0"], ["--events", "999"], ["--events", "many"], ["extra"]])
def test_wrong_usage(cli: Any, args: list[str]) -> None:
    assert cli("demo", *args).returncode == 2


@pytest.mark.parametrize(("json_wanted", "expected"), [(False, "unaccounted"), (True, '"unaccounted": 2')])
def test_what_is_not_as_promised_is_said_and_exits_1(
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json_wanted: bool,
    expected: str,
) -> None:
    bad = dataclasses.replace(
        GOOD,
        ok=False,
        balance=dataclasses.replace(GOOD.balance, delivered=8, unaccounted=2),
        problems=("2 acknowledged events did not arrive",),
    )
    monkeypatch.setattr(story.Story, "run", lambda self, count: bad)
    assert main.main(["demo", *(["--json"] if json_wanted else [])]) == 1
    captured = capsys.readouterr()
    assert expected in captured.out
    assert "NOT AS PROMISED: 2 acknowledged events did not arrive" in captured.err


# -- the account must be able to find fault


def test_all_well_is_no_problem() -> None:
    assert problems_of(GOOD, copy_is_as_expected=True) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"balance": {"acknowledged": 9}}, "1 events were never acknowledged"),
        ({"balance": {"unaccounted": 1}}, "1 acknowledged events did not arrive"),
        ({"balance": {"altered": 1}}, "altered"),
        ({"balance": {"out_of_order": 1}}, "out of order"),
        ({"balance": {"offsets_reused": 1}}, "given twice"),
        ({"verify_exit_code": 1}, "verify of the log exits 1"),
        ({"verify_copy_exit_code": 0}, "verify of the damaged copy exits 0"),
        ({"verify_copy_damage": ()}, "does not name exactly"),
        ({"verify_copy_damage": ({"first_offset": 6, "last_offset": 7},)}, "does not name exactly"),
        ({"copy_dead_letters": ()}, "dead letters"),
        ({"copy_dead_letters": ("damaged: offsets 7-7",) * 2}, "dead letters"),
    ],
)
def test_every_fault_is_a_problem(change: dict[str, Any], words: str) -> None:
    changed = dict(change)
    if "balance" in changed:
        changed["balance"] = dataclasses.replace(GOOD.balance, **changed["balance"])
    (problem,) = problems_of(dataclasses.replace(GOOD, **changed), copy_is_as_expected=True)
    assert words in problem


def test_a_copy_that_delivers_something_else_is_a_problem() -> None:
    assert len(problems_of(GOOD, copy_is_as_expected=False)) == 1


EVENTS = [b"a", b"b", b"c", b"d"]


def settle(tmp_path: Path, acknowledged: list[str], deliveries: str) -> Balance:
    received = tmp_path / "received"
    received.write_text(deliveries)
    account = Account(EVENTS, received)
    for line in acknowledged:
        account.acknowledge(line)
    account.read_deliveries()
    return account.balance()


@pytest.mark.parametrize(
    ("acknowledged", "deliveries", "expected"),
    [
        (["0 2 0", "2 2 2"], "0\ta\n1\tb\n2\tc\n3\td\n", Balance(4, 4, 0, 0, 0, 0, 0, 0)),
        (["0 2 0", "2 2 2"], "0\ta\n1\tb\n2\tc\n", Balance(4, 3, 0, 0, 1, 0, 0, 0)),
        (["0 2 0", "2 2 2"], "0\ta\n1\tb\n2\tc\n3\td", Balance(4, 3, 0, 0, 1, 0, 0, 0)),  # half a line
        (["0 2 0"], "0\ta\n1\tb\n0\ta\n1\tb\n", Balance(2, 2, 2, 0, 0, 0, 0, 0)),  # delivered twice
        (["0 2 0", "2 1 3"], "0\ta\n1\tb\n2\tc\n3\tc\n", Balance(3, 3, 0, 1, 0, 0, 0, 0)),  # written twice
        (["0 2 0"], "0\ta\n1\tx\n", Balance(2, 1, 0, 0, 1, 1, 0, 0)),  # altered
        (["0 2 0"], "0\ta\n1\tb\n1\tx\n", Balance(2, 2, 1, 0, 0, 1, 0, 0)),  # altered the second time
        (["0 2 0"], "1\tb\n0\ta\n", Balance(2, 2, 0, 0, 0, 0, 1, 0)),  # out of order
        (["0 2 0", "2 1 1"], "0\ta\n1\tb\n", Balance(3, 2, 0, 0, 1, 0, 0, 1)),  # an offset given twice
    ],
)
def test_the_account(tmp_path: Path, acknowledged: list[str], deliveries: str, expected: Balance) -> None:
    assert settle(tmp_path, acknowledged, deliveries) == expected


def test_the_account_reads_on_where_it_was(tmp_path: Path) -> None:
    received = tmp_path / "received"
    account = Account(EVENTS, received)
    account.acknowledge("0 3 0")
    for piece in ("", "0\ta\n1", "\tb\n", "2\tc\n"):
        with received.open("a") as file:
            file.write(piece)
        account.read_deliveries()
    assert account.everything_arrived()
    assert account.balance() == Balance(3, 3, 0, 0, 0, 0, 0, 0)


def test_a_writer_that_skips_an_event_is_caught(tmp_path: Path) -> None:
    account = Account(EVENTS, tmp_path / "received")
    with pytest.raises(ValueError, match="from event 0 to 1"):
        account.acknowledge("1 1 0")


def test_the_key_gives_each_record_its_offset() -> None:
    assert key_offsets("6f1f-aa:0-2,8-9") == [0, 1, 2, 8, 9]


def test_a_killed_collector_forgets_half_a_line_only(tmp_path: Path) -> None:
    path = tmp_path / "received"
    path.write_bytes(b"0\ta\n1\tb")
    Store(path).add([1, 2], [b"b", b"c"])
    assert path.read_bytes() == b"0\ta\n1\tb\n2\tc\n"


@pytest.mark.parametrize("sent", [b"", b"b\n", b"b\nc"])
def test_the_collector_lets_go_of_a_request_that_broke_off(
    tmp_path: Path, sent: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The forwarder was killed while it sent this, and sends all of it again."""
    head = "POST / HTTP/1.1\r\nIdempotency-Key: 5eed:1-2\r\nContent-Length: 4\r\n\r\n"
    with (
        HTTPServer(("127.0.0.1", 0), handler(Store(tmp_path / "received"))) as server,
        socket.create_connection(("127.0.0.1", server.server_port), 10) as broken,
    ):
        broken.sendall(head.encode() + sent)
        broken.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert broken.recv(1) == b"", "it was answered"
    assert (tmp_path / "received").read_bytes() == b""
    assert capsys.readouterr().err == "", "nor is it an error that people should see"


def test_events_are_real_text_and_no_two_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "events"
    name, events = write_events(path, 1000)
    assert path.read_bytes().splitlines() == events
    assert len(set(events)) == 1000
    assert "/" in name
    assert all(json.loads(event)["text"].strip() for event in events)


def test_without_a_sealed_segment_there_is_nothing_to_flip(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "00000000000000000000-00000000.seg").write_bytes(b"abc")
    with pytest.raises(SeglogError, match="no sealed segment"):
        flip_one_byte(tmp_path, {0: b"abc"})


def test_only_one_byte_is_flipped(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    sealed = tmp_path / "segments" / "00000000000000000000-00000000.seg"
    sealed.write_bytes(b"..first..second..")
    (tmp_path / "segments" / "00000000000000000002-00000001.seg").write_bytes(b"")
    flip = flip_one_byte(tmp_path, {0: b"first", 1: b"second"})
    assert flip == Flip(sealed.name, 12, 1)
    assert [
        at for at, pair in enumerate(zip(sealed.read_bytes(), b"..first..second..", strict=True)) if pair[0] != pair[1]
    ] == [12]


@pytest.mark.parametrize("keep", [False, True])
def test_keep_leaves_the_directory_and_says_where(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keep: bool
) -> None:
    monkeypatch.setattr(story.Story, "run", lambda self, count: GOOD)
    assert main.main(["demo", *(["--keep"] if keep else [])]) == 0
    left = list(scratch.iterdir())
    assert len(left) == keep
    assert all(f"kept {path}" in capsys.readouterr().err for path in left)
