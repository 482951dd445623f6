"""Reading, consuming, verifying and compacting beside a writer that is another process."""

from __future__ import annotations

import time
from pathlib import Path

import seglog
from tests.support.place import offsets
from tools.crashtest.zygote import WAIT_SECONDS, Start

CHILDREN = "tests.support.children:"
COUNT = 3000


def test_p11_f68_f69_a_reader_that_polls_the_tail_sees_a_prefix_and_never_damage(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = start(CHILDREN + "append_fast", path, COUNT)
    assert writer.line() == "open"
    gaps: list[seglog.Gap] = []
    seen = looks = 0
    deadline = time.monotonic() + WAIT_SECONDS
    with seglog.open(path, "r") as log:
        while seen < COUNT and time.monotonic() < deadline:
            for message in log.read(seen, on_gap=gaps.append):
                assert message.offset == seen
                assert message.payload == b"%d." % seen + bytes(seen % 700)
                seen += 1
            looks += 1
            assert log.next_offset >= seen
        assert (seen, gaps) == (COUNT, [])
        assert len(log.dead_letters) == 0
    assert looks > 10, "the reader was never beside the writer"
    assert writer.line() == f"done {COUNT}"


def test_p11_f68_verify_beside_a_writer_never_calls_its_tail_damage(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = start(CHILDREN + "append_fast", path, COUNT)
    assert writer.line() == "open"
    records: list[int] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while (not records or records[-1] < COUNT) and time.monotonic() < deadline:
        report = seglog.verify(path)
        assert report.ok, report
        assert report.torn_tail_bytes == 0
        records.append(report.records)
    assert records == sorted(records)
    assert records[-1] == COUNT
    assert len(set(records)) > 2, "verify was never beside the writer"


def test_p11_f67_consumer_and_compaction_in_other_processes_than_the_writer(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = start(CHILDREN + "append_fast", path, COUNT)
    assert writer.line() == "open"
    consumer = start(CHILDREN + "consume_all", path, COUNT)
    assert consumer.line() == "open"
    removed = 0
    deadline = time.monotonic() + 2 * WAIT_SECONDS
    with seglog.open(path, "r") as log:
        while log.consumers()["beside"].watermark < COUNT and time.monotonic() < deadline:
            removed += log.compact().removed_segments
            found = offsets(log.read(on_gap=lambda gap: None))
            assert found == list(range(found[0], found[-1] + 1)) if found else True
            assert seglog.verify(path).ok
    assert consumer.line() == "in order True"
    assert writer.line() == f"done {COUNT}"
    writer.tell()
    assert writer.line() is None
    with seglog.open(path) as log:
        removed += log.compact().removed_segments
        assert log.append(b"x") == COUNT
        assert log.stats().segments <= 2


def test_p11_iterating_wakes_on_an_append_of_another_process(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = start(CHILDREN + "append_slowly", path, 5)
    assert writer.line() == "open"
    with seglog.open(path, "r") as log, log.consumer("c") as consumer:
        assert consumer.receive() is None
        for n in range(5):
            writer.tell()
            message = consumer.receive(timeout=WAIT_SECONDS)
            assert message is not None
            assert (message.offset, message.payload) == (n, b"%d" % n)
            assert writer.line() == f"appended {n}"


def test_p11_a_reader_goes_on_when_the_writer_dies_and_another_comes(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    count = 0
    reader: seglog.Log[bytes] | None = None
    for _ in range(4):
        writer = start(CHILDREN + "append_slowly", path, 3)
        assert writer.line() == "open"
        reader = reader or seglog.open(path, "r")
        for _ in range(3):
            writer.tell()
            assert writer.line() == f"appended {count}"
            count += 1
            assert offsets(reader.read()) == list(range(count))
        writer.kill()
        writer.wait()
        assert offsets(reader.read()) == list(range(count))
    assert reader is not None
    reader.close()
