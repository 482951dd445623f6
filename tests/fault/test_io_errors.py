"""Calls to the disk that fail, one by one: who is told of it, with which error, and what goes on working.

`test_faults_io` lets every call fail.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, offsets, payloads
from tools.crashtest.life import PATH
from tools.crashtest.workloads import killed_in_a_write

CALLS_MAX = 5000
CHANGES = "write truncate allocate sync datasync create make_directory rename unlink sync_directory sync_parents"


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


def closing_a_segment(operation: str, name: str) -> bool:
    return operation == "close" and name.endswith(".seg")


def test_p9_a_file_that_cannot_be_closed_is_a_typed_error_for_readers_too() -> None:
    disk, place, log = opened(lambda *_: False)
    consumer = log.consumer("c")
    disk.arm(Fault(1, errno.ESTALE, onwards=True), match=closing_a_segment)
    for call in (lambda: list(log.read()), lambda: list(consumer.unacked()), lambda: log.get(0), log.close):
        with pytest.raises(seglog.StorageError) as caught:
            call()
        assert caught.value.errno == errno.ESTALE
    disk.arm(None)
    with place.open() as log:
        assert payloads(log.consumer("c").drain()) == [b"before"]


def test_p9_a_consumer_whose_files_cannot_be_closed_lets_go_of_its_lock() -> None:
    disk, place, log = opened(lambda *_: False)
    one, two = log.consumer("one"), log.consumer("two")
    one.receive()
    two.receive()
    disk.arm(Fault(1, errno.EIO, onwards=True))
    with pytest.raises(seglog.StorageError):
        one.close()
    with pytest.raises(seglog.StorageError):
        log.close()
    disk.arm(None)
    with place.open() as log:
        for name in ("one", "two"):
            assert payloads(log.consumer(name).drain()) == [b"before"]


def test_p9_closing_tells_that_what_was_appended_and_not_synced_is_not_known() -> None:
    """Its append returned, and the sync that failed may have been another thread's: nobody was told."""
    disk = FaultDisk(MemoryDisk())
    log = seglog.open("log", disk=disk, durability="never")
    log.append(b"a")
    log.append(b"b")
    disk.arm(Fault(1, errno.EIO), match=sync_of_segment)
    with pytest.raises(seglog.LogFailed):
        log.sync()
    with pytest.raises(seglog.LogFailed):
        log.close()
    log.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS], ids=lambda e: errno.errorcode[e])
def test_p9_a_recovery_that_fails_anywhere_is_ended_by_a_later_append(error: int) -> None:
    """Its segments are made once: those of an attempt that failed behind them are not in the way of the next one."""
    start, _ = killed_in_a_write()
    met = 0
    for nth in range(1, CALLS_MAX):
        disk = FaultDisk(start.disk(), Fault(nth, error))
        try:
            log = seglog.open(PATH, disk=disk, segment_bytes=8192)
        except seglog.StorageError:
            continue
        finally:
            disk.fault = None
        assert log.append(b"x") >= 3
        log.close()
        assert seglog.verify(PATH, disk=disk).ok
        if disk.failed:
            met += 1
        else:
            break
    assert met > 20


def test_p9_a_deletion_of_dead_letters_that_fails_at_its_end_keeps_no_lock() -> None:
    disk, _, log = opened(lambda *_: False)
    log.consumer("c").reject(0)
    (letter,) = log.dead_letters
    disk.arm(Fault(1, errno.EIO), match=lambda operation, name: (operation, name) == ("unlock", ".lock"))
    with pytest.raises(seglog.StorageError):
        log.dead_letters.delete([letter.id])
    assert disk.failed
    assert log.dead_letters.delete([letter.id]) == 1
    log.close()


def test_p9_a_lock_that_could_not_be_opened_for_writing_has_a_hint_as_soon_as_it_can() -> None:
    """Without one, nobody beside the writer sees what it appends."""
    disk, place, log = opened(lambda operation, name: False)
    log.close()
    disk.arm(Fault(1, errno.EROFS), match=lambda operation, name: (operation, name) == ("open_file", "lock"))
    with place.open() as log:
        assert disk.failed
        log.append(b"seen")
        with place.open("r") as beside:
            assert payloads(beside.read()) == [b"before", b"seen"]
        with pytest.raises(seglog.LogLocked):
            place.open()


def test_p9_f43_a_log_that_is_made_on_a_full_disk_is_not_half_made() -> None:
    """`meta` comes last: one without a segment would tell of records that are lost."""
    disk = FaultDisk(MemoryDisk())
    place = Place("log", disk)
    disk.arm(Fault(1, errno.ENOSPC), match=lambda operation, name: operation == "sync" and ".seg" in name)
    with pytest.raises(seglog.DiskFull):
        place.open()
    assert seglog.verify("log", disk=disk).missing == ()
    with place.open() as log:
        assert log.report.missing == ()
        assert log.append(b"the first") == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_p9_names_that_could_not_be_synced_when_opening_are_before_the_first_append(error: int) -> None:
    """A process that was killed in a rotation may have left the name of the segment in memory only."""
    disk, place, log = opened(lambda operation, name: False)
    log.close()
    disk.arm(Fault(1, error), match=lambda operation, name: (operation, name) == ("sync_directory", "segments"))
    disk.calls.clear()
    with place.open() as log:
        assert disk.failed == [("sync_directory", "segments")]
        log.append(b"acknowledged")
    tried = [number for number, call in enumerate(disk.calls) if call == ("sync_directory", "segments")]
    assert tried[1] < next(number for number, call in enumerate(disk.calls) if sync_of_segment(*call))
