"""`file:` appends batches to a file: nothing lost, doubled or overwritten, whatever dies, fails or was there before."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk.base import Disk
from seglog.disk.memory import MemoryDisk
from seglog.errors import DiskFull, InvalidOption, StorageError
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks.file import FileSink
from seglog.forward.sinks.file_state import State
from seglog.model import Message
from seglog.testing import CrashDisk, Fault, FaultDisk, Operation, every_fault
from tests.support.fake_consumer import LOG_ID, message
from tests.support.sync_sites import SOURCE, asked_by, sites_in

URL = "file:out.ndjson"


@contextmanager
def sink_on(disk: Disk | None, url: str = URL, log_id: str = LOG_ID) -> Iterator[FileSink]:
    sink = FileSink(url, disk=disk)
    sink.attach(log_id)
    try:
        yield sink
    finally:
        sink.close()


def content(disk: Disk, name: str = "out.ndjson") -> bytes:
    file = disk.open(".", create=False).open(name)
    try:
        return file.read(0, file.size())
    finally:
        file.close()


def put(disk: Disk, data: bytes, name: str = "out.ndjson") -> None:
    """As somebody else does: behind what is there."""
    directory = disk.open(".", create=False)
    there = name in directory.list()
    file = directory.open(name, write=True, create=not there)
    file.write(file.size(), data)
    file.sync()
    file.close()


def of(*offsets: int) -> list[Message[bytes]]:
    return [message(offset, b"%d" % offset) for offset in offsets]


def refused_to_go_on(disk: Disk | None, url: str = URL, log_id: str = LOG_ID) -> str:
    """What it says, twice the same, as configuration."""
    said = []
    for _ in range(2):
        sink = FileSink(url, disk=disk)
        sink.attach(log_id)
        with pytest.raises((SinkError, StorageError)) as caught:
            sink.resume_point()
        assert sink.classify(caught.value) is Verdict.CONFIGURATION
        said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


# What is written


def test_lines(tmp_path: Path) -> None:
    target = tmp_path / "events of today.ndjson"
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append_many([b"a", b"", b"\xff"])
        sink: Any = open_sink(f"file:{tmp_path}/events%20of%20today.ndjson")
        Forwarder(consumer, sink).run(once=True)
        sink.close()
        assert target.read_bytes() == b"a\n\n\xff\n"
        assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["{path}?format=envelope", "//{path}?format=envelope", "//localhost{path}"])
def test_the_envelope(tmp_path: Path, how: str) -> None:
    url = "file:" + how.format(path=tmp_path / "x")
    sink: Any = open_sink(url, format=None if "?" in how else "envelope")
    sink.attach(LOG_ID)
    sink.send([message(3, b"two\nlines", key=b"k")])
    sink.close()
    line = json.loads((tmp_path / "x").read_bytes())
    assert (line["id"], line["payload"], line["key"]) == (f"{LOG_ID}:3", "two\nlines", "k")


def test_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path) -> None:
    with sink_on(None, f"file:{tmp_path}/x?mode=640&rotate=1") as sink:
        sink.send(of(0))
        sink.send(of(1))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_an_empty_file_that_somebody_prepared_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").touch(0o644)
    with sink_on(None, f"file:{tmp_path}/x") as sink:
        sink.send(of(0))
    assert (tmp_path / "x").read_bytes() == b"0\n"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_newline_is_no_line() -> None:
    with sink_on(MemoryDisk()) as sink, pytest.raises(SinkError) as caught:
        sink.send([message(0, b"two\nlines")])
    assert caught.value.verdict is Verdict.CONFIGURATION


# Once


def test_the_next_one_goes_on_where_this_one_ended() -> None:
    disk = MemoryDisk()
    for start in (0, 2, 4):
        with sink_on(disk) as sink:
            assert sink.resume_point() == (start or None)
            sink.send(of(start, start + 1))
    assert content(disk) == b"0\n1\n2\n3\n4\n5\n"


def test_what_is_there_is_not_written_again_and_what_was_late_is() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(1, 2, 4))
    with sink_on(disk) as sink:
        assert sink.resume_point() == 0, "what was before 1 never came"
        sink.send(of(0, 1, 2, 3))
        sink.send(of(0, 3, 4))
    assert content(disk) == b"1\n2\n4\n0\n3\n"


def test_no_number_of_holes_is_too_many() -> None:
    disk = MemoryDisk()
    offsets = range(10**18, 10**18 + 6000, 2)
    with sink_on(disk) as sink:
        sink.send(of(*offsets))
    with sink_on(disk) as sink:
        assert sink.resume_point() == offsets[-1000], "what is known of less is not enough to send it again"
        sink.send(of(*offsets[-900:], offsets[0] + 1))
    lines = content(disk).split()
    assert lines == [b"%d" % offset for offset in (*offsets, offsets[0] + 1)]


def test_close_and_go_on() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(0))
        sink.close()
        sink.close()
        sink.send(of(1))
    assert content(disk) == b"0\n1\n"


def test_two_at_a_time_are_one_too_many() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(0))
        assert "another forwarder is writing it" in refused_to_go_on(disk)
        sink.send(of(1))
    with sink_on(disk) as sink:
        assert sink.resume_point() == 2


def test_a_consumer_that_began_later_and_is_set_back_sends_what_was_before(tmp_path: Path) -> None:
    url = f"file:{tmp_path}/out"
    with seglog.open(":memory:") as log:
        log.append_many([b"%d" % number for number in range(6)])
        log.consumer("late", start=4)
        for start in (4, 0, 0):
            with log.consumer("late") as consumer, sink_on(None, url, log.id) as sink:
                consumer.seek(start)
                Forwarder(consumer, sink).run(once=True)
        with log.consumer("late") as consumer:
            assert len(consumer) == 0
    assert (tmp_path / "out").read_bytes().split() == [b"4", b"5", b"0", b"1", b"2", b"3"]


# What is not ours


def test_a_file_without_a_state_is_left_alone() -> None:
    disk = MemoryDisk()
    put(disk, b"precious")
    assert "it is there already" in refused_to_go_on(disk)
    assert content(disk) == b"precious"
    assert disk.open(".", create=False).list() == ["out.ndjson"]


def test_a_file_of_another_log_is_left_alone() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(0))
    assert "another log" in refused_to_go_on(disk, log_id="b" * 32)
    assert content(disk) == b"0\n"


def test_a_state_that_does_not_read_back_is_no_reason_to_begin_anew() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(0))
    directory = disk.open(".", create=False)
    directory.open("out.ndjson.seglog", write=True).truncate(0)
    assert "its state does not read back" in refused_to_go_on(disk)
    assert content(disk) == b"0\n"


def test_bytes_of_somebody_else_are_never_cut_off() -> None:
    disk = MemoryDisk()
    with sink_on(disk) as sink:
        sink.send(of(0))
    put(disk, b"not from here\n")
    assert "only 2 of them are from here" in refused_to_go_on(disk)
    assert content(disk) == b"0\nnot from here\n"


def test_nor_while_it_is_written_even_if_we_are_killed_then() -> None:
    disk = MemoryDisk()
    sink = FileSink(URL, disk=disk)
    sink.attach(LOG_ID)
    sink.send(of(0))
    put(disk, b"not from here\n")
    with pytest.raises(SinkError) as caught:
        sink.send(of(1))
    assert caught.value.verdict is Verdict.CONFIGURATION
    assert "only 2 of them are from here" in refused_to_go_on(disk)  # it did not close
    assert content(disk) == b"0\nnot from here\n"


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_file_that_is_gone_or_shorter_is_told(meanwhile: bool) -> None:
    disk = MemoryDisk()
    directory = disk.open(".", create=True)
    with sink_on(disk) as sink:
        sink.send(of(0))
        if not meanwhile:
            sink.close()
        directory.open("out.ndjson", write=True).truncate(1)
        with pytest.raises(SinkError, match="it has 1 bytes"):
            sink.send(of(1))
        directory.unlink("out.ndjson")
        with pytest.raises(SinkError, match="it is gone, and 2 bytes were confirmed"):
            sink.send(of(1))
    assert directory.list() == ["out.ndjson.seglog"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "missing directory", "file as directory"])
def test_what_is_no_file_is_configuration(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x"
    if kind == "symlink":
        target.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "missing directory":
        target = tmp_path / "no" / "x"
    else:
        target.touch()
        target = target / "x"
    assert str(target) in refused_to_go_on(None, f"file:{target}")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_to_the_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with sink_on(None, f"file:{tmp_path}/link/x") as sink:
        sink.send(of(0))
    assert (tmp_path / "real" / "x").read_bytes() == b"0\n"


# Rotation


def test_rotation_keeps_to_its_size_and_numbers_what_is_full() -> None:
    disk = MemoryDisk()
    for start in range(0, 10, 2):
        with sink_on(disk, f"{URL}?rotate=8B") as sink:
            sink.send(of(start))
            sink.send(of(start + 1))
    assert {name: content(disk, name) for name in files(disk)} == {
        "out.000001.ndjson": b"0\n1\n2\n3\n",
        "out.000002.ndjson": b"4\n5\n6\n7\n",
        "out.ndjson": b"8\n9\n",
    }


def test_a_batch_that_is_larger_has_a_file_for_itself() -> None:
    disk = MemoryDisk()
    with sink_on(disk, f"{URL}?rotate=5") as sink:
        for batch in (of(0), of(1, 2, 3, 4), of(5)):
            sink.send(batch)
    assert [content(disk, name) for name in files(disk)] == [b"0\n", b"1\n2\n3\n4\n", b"5\n"]


def test_of_the_full_ones_only_some_are_kept_and_nothing_else_is_deleted() -> None:
    disk = MemoryDisk()
    for name in ("out.000000x.ndjson", "other.000001.ndjson", "out.1.ndjson"):
        put(disk, b"somebody's", name)
    with sink_on(disk, f"{URL}?rotate=1&keep=2") as sink:
        for offset in range(5):
            sink.send(of(offset))
    kept = ["out.000003.ndjson", "out.000004.ndjson", "out.ndjson"]
    assert files(disk) == ["other.000001.ndjson", "out.000000x.ndjson", *kept[:2], "out.1.ndjson", "out.ndjson"]
    assert [content(disk, name) for name in kept] == [b"2\n", b"3\n", b"4\n"]


def test_a_new_state_counts_on_from_the_numbers_that_are_there() -> None:
    disk = MemoryDisk()
    put(disk, b"old", "out.000007.ndjson")
    with sink_on(disk, f"{URL}?rotate=1&keep=1") as sink:
        for offset in range(4):
            sink.send(of(offset))
    assert files(disk) == ["out.000007.ndjson", "out.000010.ndjson", "out.ndjson"], "7 is not ours to delete"


def test_a_file_in_the_way_of_a_number_is_left_alone() -> None:
    disk = MemoryDisk()
    with sink_on(disk, f"{URL}?rotate=1") as sink:
        sink.send(of(0))
        put(disk, b"precious", "out.000001.ndjson")
        with pytest.raises(SinkError, match=r"out.000001.ndjson is in its way") as caught:
            sink.send(of(1))
        assert caught.value.verdict is Verdict.CONFIGURATION
        assert (content(disk), content(disk, "out.000001.ndjson")) == (b"0\n", b"precious")


# Crashes and failures

BATCHES = [of(0, 1, 2), of(4, 5), of(3), of(6), of(7, 8, 9)]  # 3 was late
EVERYTHING = [one.offset for batch in BATCHES for one in batch]
ALL = [b"%d" % offset for offset in EVERYTHING]


def forward(disk: Disk, url: str, batches: Sequence[list[Message[bytes]]], note: Callable[[int], None]) -> None:
    """As the forwarder does: what the sink says it has is not sent again, but for what was late."""
    with sink_on(disk, url) as sink:
        point = sink.resume_point() or 0
        for batch in batches:
            due = [one for one in batch if one.offset >= point or one.offset == 3]
            if due:
                sink.send(due)
            for one in batch:
                note(one.offset)


def check(disk: Disk, confirmed: list[int], url: str) -> None:
    """What was confirmed is there; and when the next one has sent the rest, all is there once, in order."""
    rest = [kept for batch in BATCHES if (kept := [one for one in batch if one.offset not in confirmed])]
    with sink_on(disk, url) as sink:
        sink.resume_point()
        there = arrived(disk)
        assert there[: len(confirmed)] == [b"%d" % offset for offset in confirmed]
        sink.send(of(*confirmed))
        assert arrived(disk) == there, "written again"
    forward(disk, url, rest, lambda offset: None)
    assert arrived(disk) == ALL


def files(disk: Disk) -> list[str]:
    return [name for name in disk.open(".", create=False).list() if not name.endswith(".seglog")]


def arrived(disk: Disk) -> list[bytes]:
    """The numbered ones sort before the one without a number."""
    return b"".join(content(disk, name) for name in files(disk)).split()


def power_cuts(
    disk: CrashDisk, step: int, confirmed: list[int], url: str, ignore: Callable[[Operation], bool] | None
) -> int:
    images = list(disk.images(step, rng=random.Random(step), subsets=2))
    for image in images:
        check(image.disk(ignore=ignore), confirmed, url)
    return len(images)


def taken_up(disk: Disk, confirmed: list[int], url: str) -> list[int]:
    """What the forwarder acknowledges when the next one only says where it is, and then dies as well."""
    sink = FileSink(url, disk=disk)
    sink.attach(LOG_ID)
    point = sink.resume_point() or 0
    there = list(takewhile(lambda offset: offset < point, EVERYTHING))
    if there[-1:] == [3] and 3 not in confirmed:
        there.pop()  # late: it is sent in any case
    return there


def crashes(url: str, ignore: Callable[[Operation], bool] | None = None) -> int:
    """Every state that a kill or a power cut leaves, and a power cut after each kill; raises if one is wrong."""
    disk = CrashDisk(ignore=ignore)
    forward(disk, url, BATCHES, disk.mark)
    checked = 0
    for step in range(len(disk.journal) + 1):
        confirmed = disk.marks(step)
        for image in disk.images(step, rng=random.Random(step), subsets=2):
            again = image.disk(ignore=ignore)
            check(again, confirmed, url)
            checked += 1
            if image.killed:  # what the next one builds on may have been in memory only
                checked += power_cuts(again, len(again.journal), EVERYTHING, url, ignore)
                begun = image.disk(ignore=ignore)
                acked = taken_up(begun, confirmed, url)
                checked += power_cuts(begun, len(begun.journal), acked, url, ignore)
    return checked


@pytest.mark.parametrize("url", [URL, f"{URL}?rotate=5"])
def test_p5_a_crash_anywhere_neither_loses_nor_doubles_a_record(url: str) -> None:
    assert crashes(url) > 150


SYNCS = sites_in(SOURCE / "forward" / "sinks" / "file.py")


def test_every_sync_is_known() -> None:
    assert len(SYNCS) == 5


@pytest.mark.parametrize("name", SYNCS)
def test_p5_a_missing_sync_is_noticed(name: str) -> None:
    with pytest.raises((AssertionError, SinkError)):
        crashes(f"{URL}?rotate=5", asked_by(SYNCS[name]))


def test_p5_a_state_that_is_written_first_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the two syncs: what is confirmed is there."""
    save = FileSink._save
    monkeypatch.setattr(FileSink, "_save", lambda self, state: late.append((self, state)))
    late: list[tuple[FileSink, State]] = []
    append = FileSink._append

    def other_order(self: FileSink, data: bytes, fresh: Sequence[Message[Any]]) -> None:
        there = self._state.there.copy()
        for one in fresh:
            there.add(one.offset, one.offset + 1)
        save(self, replace(self._state, writing=True, size=self._state.size + len(data), there=there))
        self._state = replace(self._state, size=self._state.size - len(data))
        append(self, data, fresh)
        self._state = late[-1][1]

    monkeypatch.setattr(FileSink, "_append", other_order)
    with pytest.raises((AssertionError, SinkError)):
        crashes(URL)


@pytest.mark.parametrize("url", [URL, f"{URL}?rotate=5"])
@pytest.mark.parametrize("onwards", [False, True])
def test_p5_a_failure_anywhere_neither_loses_nor_doubles_a_record(url: str, onwards: bool) -> None:
    tried = every_fault(
        lambda disk, note: forward(disk, url, BATCHES, note),
        lambda disk, noted: check(disk, noted, url),
        onwards=onwards,
    )
    assert tried > 100


def test_p5_a_failed_sync_is_made_good_by_writing_again() -> None:
    """What Linux does: the second sync succeeds, and writes nothing."""
    for nth in range(1, 100):
        seen = 0

        def fail(operation: Operation, nth: int = nth) -> bool:
            nonlocal seen
            seen += 1
            return seen == nth

        disk = CrashDisk(fail=fail)
        for _ in range(2):
            try:
                forward(disk, f"{URL}?rotate=5", BATCHES, lambda offset: None)
                break
            except OSError:
                continue
        for image in disk.images(len(disk.journal), rng=random.Random(nth), subsets=2):
            check(image.disk(), EVERYTHING, f"{URL}?rotate=5")
        if seen < nth:
            return
    raise AssertionError("it never came to an end")


def test_p9_a_full_disk_is_waited_for_and_leaves_no_half_batch() -> None:
    inner = MemoryDisk()
    disk = FaultDisk(inner)
    with sink_on(disk) as sink:
        sink.send(of(0, 1))
        full = Fault(1, errno.ENOSPC, onwards=True, written=lambda length: length // 2)
        disk.arm(full, match=lambda operation, name: operation == "write" and name == "out.ndjson")
        with pytest.raises(DiskFull) as caught:
            sink.send(of(2, 3))
        assert sink.classify(caught.value) is Verdict.RETRY
        assert content(inner) == b"0\n1\n"
        assert sink.resume_point() == 2
        with pytest.raises(DiskFull):
            sink.send(of(2, 3))
        disk.arm(None)
        assert sink.resume_point() == 2
        sink.send(of(2, 3))
    assert content(inner) == b"0\n1\n2\n3\n"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:",
            "file:/",
            "file:/tmp/",
            "file:..",
            "file:/a/.",
            "file://host/x",
            "file:x#y",
            "file:x%00",
        ),
        *("file:x\n", "file:x?rotate", "file:x?rotate=", "file:x?rotate=0", "file:x?rotate=much", "file:x?keep=3"),
        *("file:x?rotate=1M&keep=0", "file:x?rotate=1M&keep=-1", "file:x?rotate=1&rotate=2", "file:x?size=1"),
        *("file:x?mode=755", "file:x?mode=400", "file:x?mode=x", "file:x?format=xml"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidOption):
        open_sink(url)


def test_the_format_is_given_once() -> None:
    with pytest.raises(InvalidOption):
        open_sink("file:x?format=lines", format="lines")
    with pytest.raises(InvalidOption):
        open_sink("file:x", headers={"A": "b"})
