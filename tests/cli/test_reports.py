"""`seglog stat`, `verify` and `compact`: the reports, and what the exit code says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import TIMEOUT, Cli

RECORD = b"x" * 1000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten records in several sealed segments, a consumer that passed seven of them."""
    with seglog.open(tmp_path / "log", segment_bytes=4096) as log:
        for number in range(10):
            log.append(b"%d" % number + RECORD)
        with log.consumer("c") as consumer:
            messages = consumer.receive_many(7)
            assert len(messages) == 7
            consumer.ack(*messages)
    return tmp_path / "log"


def segments(log: Path) -> list[Path]:
    return sorted((log / "segments").iterdir())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_stat_json_is_the_statistics(cli: Cli, log: Path) -> None:
    result = cli("stat", log, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    shown = json.loads(result.stdout)
    assert list(shown) == [field.name for field in dataclasses.fields(seglog.LogStats)]
    assert (shown["first_offset"], shown["next_offset"], shown["records"]) == (0, 10, 10)
    assert shown["segments"] == len(segments(log))
    assert (shown["consumers"]["c"]["watermark"], shown["consumers"]["c"]["lag_records"]) == (7, 3)
    assert shown["pinned_by"] == []  # it has passed the oldest segment


def test_stat_for_people(cli: Cli, log: Path) -> None:
    text = cli("stat", log).stdout.decode()
    assert "10 (offsets 0 to 10, excluded)" in text
    assert any(line.split()[:3] == ["c", "7", "3"] for line in text.splitlines())
    assert "xxx" not in text


def test_stat_names_what_keeps_the_oldest_segment_and_what_was_dropped(cli: Cli, tmp_path: Path) -> None:
    with (
        seglog.open(tmp_path, segment_bytes=4096, max_records=5, when_full="drop_oldest") as log,
        log.consumer("slow", on_gap=lambda gap: None),
    ):
        log.append(b"0" + RECORD)
        assert "pinned by     nobody" in cli("stat", tmp_path).stdout.decode()  # one segment, and that is active
        for number in range(1, 7):
            log.append(b"%d" % number + RECORD)
        shown = json.loads(cli("stat", tmp_path, "--json").stdout)
        assert (shown["pinned_by"], shown["dropped"], shown["consumers"]["slow"]["lag_records"]) == (["slow"], 2, 5)
        text = cli("stat", tmp_path).stdout.decode()
        assert "pinned by     slow\n" in text
        assert "dropped       2 " in text


def test_stat_shows_what_another_process_has_in_flight(cli: Cli, log: Path) -> None:
    with seglog.open(log, mode="r") as other, other.consumer("c") as consumer:
        assert len(consumer.receive_many(2)) == 2
        shown = json.loads(cli("stat", log, "--json").stdout)["consumers"]["c"]
        assert (shown["in_flight"], shown["lag_records"]) == (2, 3)
        assert any(
            line.split()[0] == "c" and line.endswith(" 2")
            for line in cli("stat", log).stdout.decode().split("\n")
            if line
        )


def test_verify_of_a_whole_log(cli: Cli, log: Path) -> None:
    result = cli("verify", log)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines()[0] == "nothing acknowledged is lost"
    shown = json.loads(cli("verify", log, "--json").stdout)
    assert list(shown) == [field.name for field in dataclasses.fields(seglog.VerifyReport)]
    assert (shown["ok"], shown["acknowledged_loss"], shown["records"]) == (True, False, 10)
    assert (shown["cursors"]["c"]["watermark"], shown["cursors"]["c"]["ok"]) == (7, True)


def test_verify_names_what_is_damaged(cli: Cli, log: Path) -> None:
    victim = segments(log)[1]
    flip(victim, victim.read_bytes().index(RECORD) + 500)
    result = cli("verify", log)
    assert result.returncode == exit_codes.NOT_WELL
    first, second, *_ = result.stdout.decode().splitlines()
    assert first == "ACKNOWLEDGED RECORDS ARE LOST: 1 damaged or missing"
    assert second.startswith(f"damage: {victim.name} position ")
    assert b"xxx" not in result.stdout
    shown = json.loads(cli("verify", log, "--json").stdout)
    assert (shown["ok"], shown["acknowledged_loss"], len(shown["damage"])) == (False, True, 1)
    assert shown["damage"][0]["segment"] == victim.name


def test_verify_of_a_hit_spare_loses_nothing(cli: Cli, log: Path) -> None:
    flip(segments(log)[1], 4096 + 20)  # the second copy of the segment header
    result = cli("verify", log)
    assert result.returncode == exit_codes.NOT_WELL
    assert result.stdout.decode().splitlines()[0] == "nothing acknowledged is lost, but the log is damaged"
    assert cli("read", log).stdout.count(b"\n") == 10


def test_verify_of_a_missing_segment(cli: Cli, log: Path) -> None:
    segments(log)[1].unlink()
    result = cli("verify", log)
    assert result.returncode == exit_codes.NOT_WELL
    text = result.stdout.decode()
    assert text.startswith("ACKNOWLEDGED RECORDS ARE LOST")
    assert "\nmissing: offsets " in text


def test_the_verdict_stands_when_nobody_reads_it(cli: Cli, log: Path) -> None:
    victim = segments(log)[1]
    flip(victim, victim.read_bytes().index(RECORD) + 500)
    process = cli.start("verify", log)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(TIMEOUT) == exit_codes.NOT_WELL
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_compact_gives_space_back_and_names_what_pins_the_rest(cli: Cli, log: Path) -> None:
    before = segments(log)
    shown = json.loads(cli("compact", log, "--json").stdout)
    assert list(shown) == [field.name for field in dataclasses.fields(seglog.CompactReport)]
    after = segments(log)
    assert shown["removed_segments"] == len(before) - len(after) > 0
    assert shown["removed_bytes"] > 0
    assert [left["segment"] for left in shown["remaining"]] == [path.name for path in after]
    text = cli("compact", log).stdout.decode()
    assert text.splitlines()[0].startswith("removed 0 segments")
    assert f"kept {after[0].name} pinned by c" in text
    assert cli("consume", log, "--consumer", "c").stdout.count(b"\n") == 3
    assert cli("compact", log).returncode == 0
    assert len(segments(log)) <= 2
    assert cli("verify", log).returncode == 0


def test_compact_keeps_what_the_writer_keeps_unless_it_is_told_otherwise(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with seglog.open(path, segment_bytes=4096, retention_bytes=1 << 30) as log:
        consumer = log.consumer("c")
        for _ in range(6):
            log.append_many([bytes(400)] * 10)
        consumer.ack(*range(60))

    def first(*options: str) -> int:
        return int(json.loads(cli("compact", path, "--json", *options).stdout)["first_offset"])

    assert first() == 0
    assert "retention" in cli("compact", path).stdout.decode()
    assert first("--retention-age", "1h") == 0
    assert first("--retention-bytes", "10K") == 30
    assert first("--retention-age", "1h", "--retention-bytes", "5000") == 40
    assert first("--retention-age", "0") == 50
    assert cli("compact", path, "--retention-bytes", "-1").returncode == 2


def test_compact_works_beside_a_live_writer(cli: Cli, log: Path) -> None:
    with seglog.open(log, segment_bytes=4096) as writer:
        before = len(segments(log))
        assert cli("compact", log).returncode == 0
        assert len(segments(log)) < before
        writer.append(b"later")
    assert cli("read", log).stdout.endswith(b"later\n")
    assert cli("verify", log).returncode == 0
