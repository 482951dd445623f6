"""open: options, modes, what is and is not a log, and what a reopening finds."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.format.hint import Hint, encode_hint
from seglog.format.segment_header import decode_segment_header, encode_segment_header
from seglog.testing import ManualClock
from tests.support.place import Place, offsets, payloads

BAD_OPTIONS: list[dict[str, Any]] = [
    {"mode": "w"},
    {"mode": None},
    {"durability": "sometimes"},
    {"durability": True},
    {"sync_interval": 0},
    {"sync_interval": "0.1"},
    {"sync_interval": float("nan")},
    {"segment_bytes": 4095},
    {"segment_bytes": 1e6},
    {"segment_bytes": (1 << 40) + 1},
    {"max_record_bytes": 0},
    {"max_record_bytes": True},
    {"max_record_bytes": (1 << 30) + 1},
    {"compression": "gzip"},
    {"compression": False},
    {"file_mode": 0o400},
    {"file_mode": 0o755},
    {"file_mode": "0600"},
    {"dead_letter_bytes": 0},
    {"strict": 1},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_an_option_that_cannot_be_meant_is_named_and_nothing_is_made(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(seglog.InvalidOption, match=next(iter(options))) as caught:
        seglog.open(tmp_path / "log", **options)
    assert isinstance(caught.value, ValueError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes"])
def test_a_path_that_cannot_be_meant_is_refused(path: Any) -> None:
    with pytest.raises(seglog.InvalidOption, match="directory name"):
        seglog.open(path)


def test_a_path_may_be_any_path_like_and_its_parents_are_made(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "a" / "b" / "log") as log:
        log.append(b"x")
    with seglog.open(str(tmp_path / "a" / "b" / "log") + "/") as log:
        assert payloads(log.read()) == [b"x"]


def test_only_the_string_memory_is_special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with seglog.open(":memory:") as log:
        log.append(b"x")
    assert os.listdir(tmp_path) == []
    with seglog.open(Path(":memory:")) as log:
        log.append(b"x")
    assert os.listdir(tmp_path) == [":memory:"]


def test_two_logs_in_memory_are_two(tmp_path: Path) -> None:
    with seglog.open(":memory:") as one, seglog.open(":memory:") as two:
        one.append(b"x")
        assert list(two.read()) == []
        assert one.id != two.id


def test_p8_other_peoples_files_are_no_log_and_stay_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for mode in ("rw", "r"):
        with pytest.raises(seglog.NotALog, match="notes"):
            seglog.open(tmp_path, mode)
    with pytest.raises(seglog.NotALog):
        seglog.verify(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_p8_a_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for mode in ("rw", "r"):
        with pytest.raises(seglog.NotALog, match="this is a file"):
            seglog.open(tmp_path / "file", mode)
    with pytest.raises(seglog.NotALog):
        seglog.verify(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_p8_mode_r_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(seglog.LogNotFound):
            seglog.open(path, "r")
    assert os.listdir(tmp_path) == ["empty"]
    assert os.listdir(tmp_path / "empty") == []
    with pytest.raises(seglog.LogNotFound):
        seglog.verify(tmp_path / "absent")


@pytest.mark.parametrize(
    "left", [(), ("lost+found/",), ("lock", "meta.tmp", "segments/", "cursors/", "dead/"), ("lock",)]
)
def test_p8_what_an_interrupted_creation_leaves_is_an_empty_log(left: tuple[str, ...], tmp_path: Path) -> None:
    for name in left:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(b"")
    assert seglog.verify(tmp_path).ok
    with seglog.open(tmp_path) as log:
        assert log.report.created
        assert log.append(b"x") == 0
    assert seglog.verify(tmp_path).records == 1


def test_p8_f82_an_existing_root_keeps_its_mode_and_an_unsafe_one_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "log"
    root.mkdir()
    root.chmod(0o777)
    with caplog.at_level(logging.WARNING, "seglog"), seglog.open(root) as log:
        assert any("writable by everybody" in warning for warning in log.report.warnings)
    assert "writable by everybody" in caplog.text
    assert stat.S_IMODE(root.stat().st_mode) == 0o777


def test_p8_strict_raises_for_damage_and_is_silent_without(place: Place) -> None:
    with place.open(strict=True) as log:
        log.append(b"x")
    with place.open(strict=True) as log:
        assert log.report.clean


def test_strict_lets_go_of_the_log_that_it_refuses(tmp_path: Path) -> None:
    with seglog.open(tmp_path, segment_bytes=4096) as log:
        log.append_many([bytes(3000)] * 3)
        log.append_many([bytes(3000)] * 3)
    segments = sorted((tmp_path / "segments").iterdir())
    segments[-1].unlink()
    for _ in range(2):
        with pytest.raises(seglog.DamageFound) as caught:
            seglog.open(tmp_path, strict=True)
        assert caught.value.reason == "missing"
    with seglog.open(tmp_path) as log:
        assert log.report.missing


def test_a_report_of_a_new_and_of_a_closed_log(place: Place) -> None:
    with place.open() as log:
        assert (log.report.created, log.report.clean) == (True, True)
        log.append(b"x")
    with place.open() as log:
        assert (log.report.created, log.report.clean, log.report.recovered_records) == (False, True, 0)
        name = log.id
    with place.open() as log:
        assert log.id == name


def test_every_option_may_change_at_every_reopening(place: Place) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"compression": "zstd"},
        {"segment_bytes": 4096},
        {"durability": "interval"},
        {"durability": "never"},
        {"max_record_bytes": 10_000},
        {"max_record_bytes": 32 << 20},
        {"segment_bytes": 1 << 20, "compression": "zstd", "durability": "never"},
        {},
    ]
    for number, options in enumerate(kinds):
        with place.open(**options) as log:
            assert log.append(b"%d" % number) == number
    log = place.open()
    assert payloads(log.read()) == [b"%d" % number for number in range(len(kinds))]
    assert place.verify().ok


def test_opening_and_closing_many_times_leaves_one_segment(place: Place) -> None:
    for _ in range(30):
        with place.open() as log:
            log.append(b"x")
    assert place.open().stats().segments == 1


# -- mode "r"


def test_f92_mode_r_reads_and_never_appends(place: Place) -> None:
    with place.open() as log:
        log.append_many([b"a", b"b"])
    log = place.open("r")
    assert payloads(log.read()) == [b"a", b"b"]
    assert (log.next_offset, log.durable_offset, log.first_offset) == (2, 2, 0)
    for call in (
        lambda: log.append(b"x"),
        lambda: log.append_many([b"x"]),
        lambda: log.submit(b"x"),
        log.sync,
        lambda: log.wait_durable(0),
    ):
        with pytest.raises(seglog.ReadOnly):
            call()
    assert log.stats().records == 2


def test_f92_mode_r_writes_nothing_until_a_consumer_is_asked_for(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"a", b"b"])

    def state() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted((tmp_path / "log").rglob("*"))
            if path.is_file()
        }

    before = state()
    with seglog.open(tmp_path / "log", "r") as log:
        list(log.read())
        log.get(0)
        log.stats()
        log.consumers()
        assert len(log.dead_letters) == 0
        assert list(log.dead_letters) == []
        assert seglog.verify(tmp_path / "log").ok
        assert state() == before
        consumer = log.consumer("c")
        consumer.ack(0)
        assert len(consumer) == 1
    assert state() != before


def test_f92_a_log_on_read_only_media_is_read_and_verified(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with seglog.open(tmp_path / "log") as log:
        log.append(b"x")
    for path in [*(tmp_path / "log").rglob("*"), tmp_path / "log"]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    with seglog.open(tmp_path / "log", "r") as log:
        assert payloads(log.read()) == [b"x"]
    assert seglog.verify(tmp_path / "log").ok


def test_p11_a_reader_in_mode_r_follows_the_writer(place: Place) -> None:
    writer = place.open(segment_bytes=4096)
    writer.append(b"0")
    reader = place.open("r")
    consumer = reader.consumer("c")
    for n in range(1, 60):
        writer.append(b"%d" % n + bytes(200))
        assert reader.next_offset == n + 1
        assert offsets(reader.read()) == list(range(n + 1))
    assert offsets(consumer.drain()) == list(range(60))
    consumer.ack(*range(60))
    assert reader.compact().removed_segments > 0
    assert writer.stats().first_offset == reader.first_offset > 0
    writer.append(b"on")
    assert offsets(consumer.drain()) == [60]


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_f68_a_reader_never_sees_more_than_what_is_durable_except_under_never(durability: str, place: Place) -> None:
    writer = place.open(durability=durability, sync_interval=3600)
    writer.append(b"a")
    writer.sync()
    writer.append(b"b")
    reader = place.open("r", durability=durability)
    assert offsets(reader.read()) == ([0] if durability == "interval" else [0, 1])


# -- wall clock


@pytest.mark.parametrize("years", [-30, -1, 10, 200])
def test_f62_order_and_offsets_do_not_depend_on_the_wall_clock(place: Place, years: int) -> None:
    clock = ManualClock()
    with place.open(clock=clock, segment_bytes=4096) as log:
        log.append_many([bytes(100)] * 20)
        clock.jump(years * 365 * 86400)
        log.append_many([bytes(100)] * 20)
        consumer = log.consumer("c")
        assert offsets(consumer.drain()) == list(range(40))
        consumer.ack(*range(20))
    with place.open(clock=clock) as log:
        clock.jump(-years * 730 * 86400)
        assert log.append(b"x") == 40
        assert offsets(log.consumer("c").drain()) == list(range(20, 41))
        assert log.stats().consumers["c"].oldest_age_seconds is not None
    assert place.verify().ok


@pytest.mark.parametrize("number", [2**63 - 1, 2**64 - 1])
def test_f25_nonsense_in_a_header_whose_checksum_holds_never_overflows(tmp_path: Path, number: int) -> None:
    path = tmp_path / "log"
    with seglog.open(path, segment_bytes=4096) as log:
        log.append(b"x")
    (segment,) = (path / "segments").iterdir()
    data = segment.read_bytes()
    header = decode_segment_header(data)
    assert header is not None
    blocks = encode_segment_header(header._replace(bytes_before=number, records_before=number))
    segment.write_bytes(blocks + data[len(blocks) :])
    for _ in range(3):
        with seglog.open(path, segment_bytes=4096) as log:
            log.append(bytes(3000))  # in a segment of its own, whose header adds up what was before
            assert next(message.payload for message in log.read()) == b"x"


def test_p6_a_reopening_reports_no_more_as_missing_than_the_one_that_declared_it(tmp_path: Path) -> None:
    """The segment before the hole has no successor, so its end is told by the segment that was made behind the hole."""
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"a", b"b", b"c"])
    with open(tmp_path / "log" / "lock", "r+b") as file:  # all that is left of two segments behind it
        file.write(encode_hint(Hint(99, 2, 8192, 9, 5, bytes(16))))
    with seglog.open(tmp_path / "log") as log:
        (lost,) = log.report.missing
        assert lost.first_offset == 3
        assert lost.last_offset >= 8
    with seglog.open(tmp_path / "log") as log:
        assert log.report.missing == (lost,)
        assert payloads(log.read(on_gap=lambda gap: None)) == [b"a", b"b", b"c"]
    assert seglog.verify(tmp_path / "log").missing == (lost,)
