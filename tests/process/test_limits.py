"""Many segments, few descriptors, much to read, huge numbers: everything stays bounded."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog import segment_writer
from seglog.appender import first_header, new_salt
from seglog.catalog import Meta
from seglog.clock import SystemClock
from seglog.disk.local import LocalDisk
from seglog.disk.memory import MemoryDisk
from seglog.format import layout as L
from seglog.format.meta_state import MetaState
from seglog.format.names import SEGMENTS, SegmentName
from seglog.options import LogOptions
from seglog.segment_writer import SegmentWriter
from seglog.testing import FaultDisk
from tests.support.place import Place, offsets, payloads
from tests.support.process import open_descriptors
from tools.crashtest.images import ROOT, image_of
from tools.crashtest.zygote import Start

CHILDREN = "tests.support.children:"
MIB = 1 << 20


def with_segments(path: Path, count: int) -> None:
    """A log with so many tiny segments of one record each."""
    with seglog.open(path, segment_bytes=4096, durability="never") as log:
        for _ in range(count):
            log.append(bytes(4000))


def test_f50_p10_ten_thousand_segments_are_handled_with_few_descriptors(start: Start, tmp_path: Path) -> None:
    disk = MemoryDisk()  # made there, and written out: nobody waits for 10,000 rotations
    with seglog.open(ROOT, segment_bytes=4096, disk=disk) as log:
        for _ in range(10_000):
            log.append(bytes(4000))
    for name, content in image_of(disk).items():
        path = tmp_path / "log" / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.write_bytes(content)
    child = start(CHILDREN + "with_few_descriptors", str(tmp_path / "log"), 64)
    assert child.line(100) == "read 10000 removed 9999"


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_f50_p10_opening_lists_the_segments_and_opens_no_more_of_them_than_ever(mode: str, tmp_path: Path) -> None:
    opened = []
    for count in (3, 200):
        path = tmp_path / str(count)
        with_segments(path, count)
        disk = FaultDisk(LocalDisk())
        seglog.open(path, mode, disk=disk).close()
        opened.append(sum(operation == "open_file" for operation, _ in disk.calls))
    assert opened[0] == opened[1]


def test_p10_descriptors_stay_flat_over_everything(tmp_path: Path) -> None:
    def life() -> None:
        with seglog.open(tmp_path / "log", segment_bytes=4096) as log:
            consumer = log.consumer("c")
            for _ in range(10):
                log.append_many([bytes(1000)] * 3)
                consumer.ack(*consumer.receive_many(2))
            list(log.read())
            log.get(log.first_offset)
            consumer.reject(*consumer.receive_many(1))
            list(log.dead_letters)
            log.compact()
            log.stats()
            with seglog.open(tmp_path / "log", "r") as reader:
                list(reader.read())
        seglog.verify(tmp_path / "log")

    life()
    gc.collect()
    before = open_descriptors()
    for _ in range(5):
        life()
    gc.collect()
    assert open_descriptors() == before


def test_f49_p9_without_descriptors_calls_fail_typed_and_all_is_well_when_they_return(
    start: Start, tmp_path: Path
) -> None:
    child = start(CHILDREN + "limit_descriptors", str(tmp_path / "log"))
    kinds = (child.line(120) or "").split()
    assert "StorageError" in kinds
    assert set(kinds) <= {"StorageError", "DeadLetterWriteFailed"}


# -- memory


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python allocated at most while it ran."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


WAYS: dict[str, Callable[[seglog.Log[bytes], str], Any]] = {
    "read": lambda log, path: sum(1 for _ in log.read()),
    "drain": lambda log, path: drain(log),
    "unacked": lambda log, path: sum(1 for _ in log.consumer("u").unacked()),
    "verify": lambda log, path: seglog.verify(path),
}


def drain(log: seglog.Log[bytes]) -> None:
    consumer = log.consumer("c")
    while messages := consumer.receive_many(1000):
        consumer.ack(*messages)
    assert len(consumer) == 0


@pytest.fixture(scope="module")
def backlogs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two logs, of 10,000 and of 200,000 records of 100 bytes."""
    made = {}
    for count in (10_000, 200_000):
        made[count] = tmp_path_factory.mktemp("backlog") / str(count)
        with seglog.open(made[count], segment_bytes=2 * MIB) as log:
            for first in range(0, count, 1000):
                log.append_many([b"%099d" % n for n in range(first, first + 1000)])
    return made


@pytest.mark.parametrize("way", WAYS)
def test_p10_memory_does_not_grow_with_the_backlog(way: str, backlogs: dict[int, Path]) -> None:
    peaks = []
    for path in backlogs.values():
        with seglog.open(path) as log:
            peaks.append(peak(lambda log=log, path=path: WAYS[way](log, str(path))))  # type: ignore[misc]
    assert peaks[1] < peaks[0] + 3 * MIB


def test_p10_opening_takes_no_more_memory_for_a_larger_backlog(backlogs: dict[int, Path]) -> None:
    peaks = [peak(lambda path=path: seglog.open(path).close()) for path in backlogs.values()]  # type: ignore[misc]
    assert peaks[1] < peaks[0] + MIB // 4


# -- numbers

BOUNDARIES = [1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1 - L.SEGMENT_RECORDS_MAX]


def beginning_at(path: Path, offset: int, segment_id: int = 0) -> None:
    """A log whose first segment begins at this offset: what years of appends and compactions leave."""
    clock = SystemClock()
    seglog.open(path).close()
    root = LocalDisk().open(str(path), create=False)
    segments = root.directory(SEGMENTS)
    meta = Meta.open(root, write=True)
    assert meta is not None
    for old in segments.list():
        segments.unlink(old)
    name = SegmentName(offset, segment_id)
    header = first_header(clock, LogOptions(), meta.log_id, name)
    SegmentWriter.create(segments, header, (), segment_bytes=MIB).close()
    meta.store(MetaState(offset, clock.time_ns()))
    (path / "lock").unlink()
    for handle in (meta, segments, root):
        handle.close()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_f72_offsets_cross_every_boundary_of_integer_sizes(boundary: int, tmp_path: Path) -> None:
    first = boundary - 25
    path = tmp_path / "log"
    beginning_at(path, first)
    with seglog.open(path, segment_bytes=4096) as log:
        for n in range(50):
            assert log.append(b"%d" % n + bytes(500)) == first + n
        consumer = log.consumer("c")
        messages = consumer.receive_many(40)
        consumer.ack(*messages[::2])
        consumer.nack(*messages[1::2])
        assert len(consumer) == 30
    with seglog.open(path) as log:
        consumer = log.consumer("c")
        assert offsets(consumer.drain()) == [*range(first + 1, first + 40, 2), *range(first + 40, first + 50)]
        consumer.ack(*range(first, first + 45))
        log.compact()
        assert first < log.first_offset <= first + 45
        assert offsets(log.read(boundary)) == list(range(max(boundary, log.first_offset), first + 50))
        message = log.get(first + 49)
        assert message is not None
        assert message.id == f"{log.id}:{first + 49}"
    report = seglog.verify(path)
    assert report.ok, report
    assert report.next_offset == first + 50


def test_f72_at_the_last_offset_of_all_appends_are_refused_and_reading_goes_on(tmp_path: Path) -> None:
    first = L.OFFSET_MAX - 5
    beginning_at(tmp_path / "log", first)
    with seglog.open(tmp_path / "log") as log:
        assert log.append_many([b"x"] * 5) == range(first, first + 5)
        for values in ([b"y"], [b"y"] * 3):
            with pytest.raises(seglog.LogFull, match="start a new log"):
                log.append_many(values)
        assert payloads(log.read()) == [b"x"] * 5
    assert seglog.verify(tmp_path / "log").ok


def test_f72_segment_ids_sort_and_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    beginning_at(path, 7, segment_id=(1 << 31) - 3)
    with seglog.open(path, segment_bytes=4096) as log:
        for _ in range(6):
            log.append(bytes(4000))
    with seglog.open(path) as log:
        assert offsets(log.read()) == list(range(7, 13))
    assert seglog.verify(path).ok
    other = tmp_path / "other"
    beginning_at(other, 7, segment_id=L.SEGMENT_ID_MAX - 1)
    with seglog.open(other, segment_bytes=4096) as log:
        log.append(bytes(4000))
        log.append(bytes(4000))
        for _ in range(2):
            with pytest.raises(seglog.LogFull, match="start a new log"):
                log.append(bytes(4000))
        assert offsets(log.read()) == [7, 8]
    assert seglog.verify(other).ok


def test_salts_are_odd_and_differ() -> None:
    salts = {new_salt(SystemClock()) for _ in range(1000)}
    assert len(salts) == 1000
    assert all(salt % 2 for salt in salts)


@pytest.mark.parametrize(("work", "step", "least"), [("appends", 1, 50), ("openings", 3, 200)])
def test_f51_whichever_allocation_fails_the_log_is_whole(start: Start, work: str, step: int, least: int) -> None:
    """CPython's own test hook makes the n-th allocation fail, for every n; in a child, as it may not survive it."""
    pytest.importorskip("_testcapi")
    child = start(f"tests.support.no_memory:{work}", step)
    words = (child.line(100) or "died").split()
    assert words[0] == "met"
    assert int(words[1]) >= least, "the allocations were not met"


def test_f51_memory_that_runs_out_leaves_the_log_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError where the largest piece of memory is asked for."""
    place = Place("log", MemoryDisk())
    log = place.open()
    log.append(b"before")

    def fails(*_: object, **__: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(segment_writer, "encode_batch", fails)
        with pytest.raises(MemoryError):
            log.append(b"x")
    try:
        after = [log.append(b"after")]
    except seglog.LogFailed:
        after = []
    with contextlib.suppress(seglog.LogFailed):
        log.close()
    with place.open() as log:
        assert payloads(log.read()) == [b"before", *[b"after" for _ in after]]
        log.append(b"on")
    assert place.verify().ok
