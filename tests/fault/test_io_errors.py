"""Every call to the disk fails once: errors are typed, nothing is half accepted, nothing is called bad."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, offsets, payloads

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
CALLS_MAX = 5000
CHANGES = "write truncate allocate sync datasync create make_directory rename unlink sync_directory sync_parents"


class Story:
    """One workload, and what it was promised."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.submitted: list[bytes] = []
        self.acknowledged: dict[int, bytes] = {}
        self.refused: set[bytes] = set()
        self.acked: set[int] = set()
        self.about_to_ack: set[int] = set()
        self.errors: list[BaseException] = []

    def attempt(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except seglog.SeglogError as error:  # anything else is a bug, and ends the test
            self.errors.append(error)
            return None

    def append(self, log: seglog.Log[bytes], *values: bytes) -> None:
        self.submitted += values
        try:
            for offset, value in zip(log.append_many(values), values, strict=True):
                self.acknowledged[offset] = value
        except seglog.LogFailed as error:
            self.errors.append(error)  # in or out
        except seglog.SeglogError as error:
            self.errors.append(error)
            self.refused.update(values)

    def ack(self, consumer: seglog.Consumer[bytes], *numbers: int) -> None:
        self.about_to_ack.update(numbers)
        before = len(self.errors)
        self.attempt(lambda: consumer.ack(*numbers))
        if len(self.errors) == before:
            self.acked.update(numbers)

    def run(self) -> None:
        """Two lives of a log: appends, rotations, acks, a reject, a compaction."""
        for life in range(2):
            log = self.attempt(lambda: self.place.open(segment_bytes=4096))
            if log is not None:
                self.live(life, log)

    def live(self, life: int, log: seglog.Log[bytes]) -> None:
        consumer = self.attempt(lambda: log.consumer("c"))
        for n in range(4):
            self.append(log, *(b"%d.%d.%d" % (life, n, k) + bytes(700) for k in range(3)))
        if consumer is not None:
            self.attempt(lambda: consumer.receive_many(5))
            known = sorted(offset for offset in self.acknowledged if offset >= 12 * life)
            self.ack(consumer, *known[:4])
            if len(known) > 5:
                self.about_to_ack.add(known[5])
                self.attempt(lambda: consumer.reject(known[5]))
        self.attempt(log.compact)
        self.attempt(lambda: list(log.read(on_gap=lambda gap: None)))
        self.attempt(log.stats)
        self.attempt(log.close)

    def check(self) -> None:
        """On a disk that fails no more."""
        report = self.place.verify()
        assert report.ok, report
        log = self.place.open()
        assert not log.report.damage
        assert not log.report.missing
        there = {message.offset: message.payload for message in log.read(on_gap=lambda gap: None)}
        assert list(there.values()) == [value for value in self.submitted if value in there.values()]
        assert not self.refused & set(there.values()), "refused, and it is there"
        for offset, value in self.acknowledged.items():
            assert offset in self.about_to_ack or there[offset] == value, f"offset {offset} is lost"
        unacked = set(offsets(log.consumer("c").unacked()))
        assert not unacked & self.acked
        assert set(there) - unacked <= self.about_to_ack
        assert len(log.dead_letters) <= 2
        assert log.append(b"on") >= len(self.acknowledged)
        log.close()
        assert self.place.verify().ok


def count_calls(match: Callable[[str, str], bool] | None = None) -> int:
    disk = FaultDisk(MemoryDisk())
    disk.arm(None, match=match)
    Story(Place("log", disk)).run()
    return disk.matched


def fail_each(fault: Callable[[int], Fault], match: Callable[[str, str], bool] | None = None, step: int = 1) -> int:
    """Tell the story once for each call that may fail; how many did anybody notice?"""
    noticed = 0
    count = count_calls(match)
    assert 0 < count < CALLS_MAX
    for nth in range(1, count + 1, step):
        disk = FaultDisk(MemoryDisk())
        story = Story(Place("log", disk))
        disk.arm(fault(nth), match=match)
        story.run()
        disk.arm(None)
        story.check()
        noticed += bool(story.errors)
    return noticed


def not_closing(operation: str, _: str) -> bool:
    """What was synced stays synced, whatever close says, and nothing else was promised."""
    return not operation.startswith("close")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EMFILE], ids=lambda e: errno.errorcode[e])
def test_p9_f38_f40_f43_f49_every_call_fails_once(error: int, after: bool) -> None:
    step = 3 if error == errno.EIO else 7
    assert fail_each(lambda nth: Fault(nth, error, after=after), not_closing, max(1, step // DEEP)) > 10


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], ids=lambda e: errno.errorcode[e]
)
def test_p9_f42_f43_f48_every_change_fails_from_some_call_on(error: int) -> None:
    """A disk that is full, broken or read-only from the n-th change to the end of both lives."""
    changes = set(CHANGES.split())
    assert fail_each(lambda nth: Fault(nth, error, onwards=True), lambda operation, _: operation in changes, 2) > 10


@pytest.mark.parametrize("part", [1, 2, -1], ids=["one byte", "half", "all but one"])
def test_p9_f41_f42_a_write_that_stops_half_way_is_taken_back(part: int) -> None:
    cuts: dict[int, Callable[[int], int]] = {1: lambda n: 1, 2: lambda n: n // 2, -1: lambda n: n - 1}
    for error in (errno.ENOSPC, errno.EIO):
        fail_each(lambda nth, e=error: Fault(nth, e, written=cuts[part]), lambda operation, _: operation == "write")  # type: ignore[misc]


# -- one by one


def opened(match: Callable[[str, str], bool], fault: Fault | None = None) -> tuple[FaultDisk, Place, seglog.Log[bytes]]:
    """A log with one record, and a disk that will fail."""
    disk = FaultDisk(MemoryDisk())
    place = Place("log", disk)
    log = place.open()
    log.append(b"before")
    disk.arm(fault, match=match)
    return disk, place, log


def sync_of_segment(operation: str, name: str) -> bool:
    return operation == "datasync" and name.endswith(".seg")


def write_of_segment(operation: str, name: str) -> bool:
    return operation in ("write", "allocate") and name.endswith(".seg")


def test_p9_f38_a_failed_sync_answers_every_waiter_and_is_never_tried_again() -> None:
    disk, place, log = opened(sync_of_segment)
    gate = threading.Event()
    commits = log._commits
    assert commits is not None
    outcomes: list[BaseException] = []

    def wait(n: int) -> None:
        with pytest.raises(seglog.LogFailed) as caught:
            log.append(b"%d" % n)
        outcomes.append(caught.value)

    def hold() -> None:
        gate.wait(30)

    holder = threading.Thread(target=lambda: commits.exclusively(hold))
    holder.start()
    waiters = [threading.Thread(target=wait, args=(n,)) for n in range(8)]
    for waiter in waiters:
        waiter.start()
    for _ in range(10_000):
        if len(commits._queue) == 8:
            break
        threading.Event().wait(0.001)
    disk.arm(Fault(1, errno.EIO), match=sync_of_segment)  # once, then success: which would mean nothing
    gate.set()
    for thread in (holder, *waiters):
        thread.join(30)
        assert not thread.is_alive()
    assert len(outcomes) == 8
    assert disk.matched == 1
    for call in (lambda: log.append(b"x"), log.sync):
        with pytest.raises(seglog.LogFailed):
            call()
    assert disk.matched == 1, "synced again after a failure"
    assert payloads(log.read()) == [b"before"]
    log.close()
    log = place.open()
    assert payloads(log.read())[0] == b"before"
    assert log.append(b"x") in (1, 9)
    log.close()


def test_f39_the_error_of_a_sync_says_that_the_outcome_is_not_known() -> None:
    disk, _, log = opened(sync_of_segment, Fault(1, errno.EIO))
    with pytest.raises(seglog.LogFailed, match="in or out") as caught:
        log.append(b"x")
    assert caught.value.errno == errno.EIO
    assert ".seg" in str(caught.value.filename)
    disk.arm(None)
    log.close()


def test_f44_space_that_turns_out_to_lack_at_the_sync_is_a_failed_sync() -> None:
    _, place, log = opened(sync_of_segment, Fault(1, errno.ENOSPC))
    with pytest.raises(seglog.LogFailed):
        log.append(b"x")
    with pytest.raises(seglog.LogFailed):
        log.append(b"y")
    log.close()
    with place.open() as log:
        assert payloads(log.read())[0] == b"before"


def test_p9_f42_a_full_disk_is_not_sticky() -> None:
    disk, place, log = opened(write_of_segment, Fault(1, errno.ENOSPC, onwards=True, written=lambda n: n // 2))
    for _ in range(3):
        with pytest.raises(seglog.DiskFull) as caught:
            log.append(bytes(100_000))
        assert caught.value.errno == errno.ENOSPC
        assert "100008 bytes" in str(caught.value)
    disk.arm(None)
    assert log.append(b"after") == 1
    log.close()
    report = place.verify()
    assert (report.ok, report.records, report.torn_tail_bytes) == (True, 2, 0)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.ENOSPC], ids=lambda e: errno.errorcode[e])
def test_p9_a_disk_that_refuses_every_change_for_a_while_costs_only_what_it_refused(error: int) -> None:
    """Nothing of the batch was written, so there is nothing to take back, and nothing that the disk must do for it."""
    disk, place, log = opened(lambda operation, _: operation in CHANGES.split(), Fault(1, error, onwards=True))
    for size in (1, 100_000, 200):
        with pytest.raises(seglog.StorageError) as caught:
            log.append(bytes(size))
        assert not isinstance(caught.value, seglog.LogFailed)
        assert caught.value.errno == error
    disk.arm(None)
    assert log.append(b"after") == 1
    assert payloads(log.read()) == [b"before", b"after"]
    log.close()
    report = place.verify()
    assert (report.ok, report.records, report.torn_tail_bytes) == (True, 2, 0)


def test_f41_a_write_that_stops_half_way_and_cannot_be_taken_back_is_not_known() -> None:
    disk, place, log = opened(
        lambda operation, _: operation in CHANGES.split(), Fault(1, errno.EIO, onwards=True, written=lambda n: n // 2)
    )
    for _ in range(2):
        with pytest.raises(seglog.LogFailed):
            log.append(b"x" * 1000)
    disk.arm(None)
    with pytest.raises(seglog.LogFailed):
        log.append(b"y")
    log.close()
    with place.open() as log:
        assert payloads(log.read()) == [b"before"]


def test_p9_f40_a_failed_sync_of_a_cursor_is_that_consumers_alone() -> None:
    disk, place, log = opened(lambda *_: False)
    one, two = log.consumer("one"), log.consumer("two")
    disk.arm(Fault(1, errno.EIO), match=lambda operation, name: operation == "datasync" and name == "one.cursor")
    for _ in range(2):
        with pytest.raises(seglog.StorageError, match="one"):
            one.ack(0)
    assert disk.matched == 1
    two.ack(0)
    assert log.append(b"on") == 1
    one.close()
    log.consumer("one").ack(0)
    log.close()
    with place.open() as log:
        assert offsets(log.consumer("one").unacked()) == [1]


def test_p9_f46_a_read_error_is_not_damage_and_goes_away_with_its_cause() -> None:
    disk, place, log = opened(lambda operation, name: operation == "read" and name.endswith(".seg"))
    consumer = log.consumer("c")
    disk.arm(Fault(1, errno.EIO, onwards=True), match=lambda operation, name: operation == "read" and ".seg" in name)
    for call in (lambda: list(log.read()), consumer.receive, lambda: log.get(0), place.verify):
        with pytest.raises(seglog.StorageError) as caught:
            call()
        assert caught.value.errno == errno.EIO
    disk.arm(None)
    assert len(consumer) == 1
    assert len(log.dead_letters) == 0
    assert payloads(consumer.drain()) == [b"before"]
    log.close()
    assert place.verify().ok


def test_p9_f43_acks_and_compaction_work_with_no_byte_free() -> None:
    disk = MemoryDisk()
    place = Place("log", disk)
    with place.open(segment_bytes=4096) as log:
        for _ in range(5):
            log.append_many([bytes(1000)] * 3)
        consumer = log.consumer("c")
        disk.capacity = 0
        with pytest.raises(seglog.DiskFull):
            log.append_many([bytes(1000)] * 3)
        consumer.ack(*range(14))
        consumer.reject(14, reason="kept in the space that was set aside")
        assert log.compact().removed_segments == 4
        assert len(log.dead_letters) == 1
        with pytest.raises(seglog.DiskFull):
            log.append_many([bytes(1000)] * 3)
        disk.capacity = None
        assert log.append_many([bytes(1000)] * 3) == range(15, 18)
    assert place.verify().ok


def test_p8_p9_f43_a_log_opens_for_reading_on_a_full_or_read_only_disk() -> None:
    changes = {"write", "allocate", "create", "make_directory", "rename"}  # giving space back works on a full disk
    for error in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        inner = MemoryDisk()
        with seglog.open("log", disk=inner) as log:
            log.append_many([b"a", b"b"])
            log.consumer("c").ack(0)
        disk = FaultDisk(inner, Fault(1, error, onwards=True), match=lambda operation, _: operation in changes)
        with seglog.open("log", disk=disk) as log:
            assert payloads(log.read()) == [b"a", b"b"]
            with pytest.raises(seglog.StorageError):
                log.append(b"x")
            disk.arm(None)
            assert log.append(b"x") == 2
        with seglog.open("log", disk=inner) as log:
            assert payloads(log.read()) == [b"a", b"b", b"x"]


def test_f60_a_file_system_without_locks_is_a_typed_error() -> None:
    disk = FaultDisk(MemoryDisk(), Fault(1, errno.ENOLCK, onwards=True), match=lambda operation, _: operation == "lock")
    with pytest.raises(seglog.StorageError) as caught:
        seglog.open("log", disk=disk)
    assert caught.value.errno == errno.ENOLCK


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC], ids=lambda e: errno.errorcode[e])
def test_p9_f48_where_the_register_could_only_be_opened_for_reading_its_change_says_what_to_do(error: int) -> None:
    disk = FaultDisk(MemoryDisk())
    seglog.open("log", disk=disk).close()
    disk.arm(Fault(error=error), match=lambda operation, name: (operation, name) == ("datasync", "meta"))
    with seglog.open("log", disk=disk) as log:
        assert log.append(b"a") == 0
        with pytest.raises(seglog.StorageError, match="open the log again"):
            log.consumer("c")
    with seglog.open("log", disk=disk) as log:
        assert offsets(log.consumer("c").drain()) == [0]


def test_p9_a_file_that_cannot_be_closed_costs_neither_the_lock_nor_a_record() -> None:
    disk = FaultDisk(MemoryDisk())
    for nth in range(1, CALLS_MAX):
        disk.arm(Fault(nth, errno.EIO, onwards=True), match=lambda operation, _: operation.startswith("close"))
        acknowledged = 0
        with contextlib.suppress(seglog.StorageError), seglog.open("log", disk=disk) as log:
            acknowledged = log.append(b"x") + 1
        struck = disk.matched >= nth
        disk.arm(None)
        with seglog.open("log", disk=disk) as log:
            assert log.next_offset >= acknowledged
        if not struck:
            return
