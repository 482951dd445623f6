"""`max_bytes` and `max_records`: never more is there than the limit, and appends wait or fail; for dropping see
`test_drop_oldest`."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog import group_commit, limits
from seglog.disk.local import LocalDisk
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk, ManualClock
from tests.support.backlog import Worker, blocked, stored_bytes, until
from tests.support.interrupts import Interrupt
from tests.support.place import Place, offsets
from tools.crashtest.zygote import WAIT_SECONDS, Start

CHILDREN = "tests.support.children:"


def used(log: seglog.Log[Any]) -> int | None:
    return log.stats().used_records


def test_what_fits_is_accepted_and_the_next_one_is_not(place: Place) -> None:
    log = place.open(max_records=3, when_full="error")
    for n in range(3):
        assert log.append(b"x") == n
    with pytest.raises(seglog.LogFull, match=r"3 of max_records=3 records.*no consumer is registered"):
        log.append(b"x")
    assert offsets(log.read()) == [0, 1, 2]
    assert used(log) == 3


def test_what_is_acked_makes_room_and_the_slowest_consumer_counts(place: Place) -> None:
    log = place.open(max_records=3, when_full="error")
    fast, slow = log.consumer("fast"), log.consumer("slow")
    log.append_many([b"x"] * 3)
    fast.ack(0, 1, 2)
    with pytest.raises(seglog.LogFull, match="slowest consumer is 'slow'"):
        log.append(b"x")
    slow.ack(0)
    assert log.append(b"x") == 3
    slow.ack(2)  # not the oldest: it still holds the others back
    with pytest.raises(seglog.LogFull):
        log.append(b"x")
    slow.ack(1)
    assert log.append_many([b"x"] * 2) == range(4, 6)


def test_without_consumers_everything_counts_and_a_new_one_counts_from_where_it_begins(place: Place) -> None:
    log = place.open(max_records=3, when_full="error")
    log.append_many([b"x"] * 3)
    log.consumer("late", start="latest")
    assert log.append_many([b"x"] * 3) == range(3, 6)
    log.consumer("early", start=2)
    with pytest.raises(seglog.LogFull, match="'early'"):
        log.append(b"x")
    log.remove_consumer("early")
    log.consumer("late").ack(3)
    assert log.append(b"x") == 6


def test_a_step_back_counts_again(place: Place) -> None:
    log = place.open(max_records=4, when_full="error")
    consumer = log.consumer("c")
    log.append_many([b"x"] * 3)
    consumer.ack(0, 1, 2)
    log.append(b"x")
    assert used(log) == 1
    consumer.seek("earliest")
    assert used(log) == 4
    with pytest.raises(seglog.LogFull, match="4 of max_records=4 records"):
        log.append(b"x")


def test_p10_what_is_wanted_again_takes_the_room_that_was_there(place: Place) -> None:
    log = place.open(max_records=10, when_full="error")
    consumer = log.consumer("c")
    log.append_many([b"x"] * 10)
    consumer.ack(*range(10))
    log.append_many([b"x"] * 5)  # now it is counted: five may follow
    consumer.seek("earliest")
    with pytest.raises(seglog.LogFull, match="15 of max_records=10 records"):
        log.append(b"x")
    consumer.seek(10)
    log.append(b"x")
    log.consumer("new")
    with pytest.raises(seglog.LogFull, match="16 of max_records=10 records"):
        log.append(b"x")
    log.remove_consumer("new")
    log.append(b"x")
    log.remove_consumer("c")  # nobody has consumed anything any more
    with pytest.raises(seglog.LogFull, match="17 of max_records=10 records"):
        log.append(b"x")


@pytest.mark.parametrize("options", [{"when_full": "error"}, {"when_full": "block"}])
def test_nobody_is_refused_because_others_are_about_to_get_in(
    options: dict[str, Any], place: Place, hasty: None
) -> None:
    log = place.open(max_records=100, **options)
    consumer = log.consumer("c")
    room = threading.Semaphore(40)  # so many are not consumed, at most
    done = threading.Event()

    def produce() -> None:
        for _ in range(100):
            assert room.acquire(timeout=WAIT_SECONDS)
            log.append(b"x", timeout=0)

    def consume() -> None:
        while not done.is_set():
            messages = consumer.receive_many(100, timeout=0.01)
            consumer.ack(*messages)
            room.release(len(messages)) if messages else None

    eater = Worker(consume)
    try:
        for worker in [Worker(produce) for _ in range(8)]:
            worker.ends()
    finally:
        done.set()
        eater.ends()


@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
def test_who_waits_for_what_others_were_promised_is_woken_when_that_is_settled(
    when_full: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 3600.0)  # nobody looks again by himself
    log = place.open(max_records=1, when_full=when_full)
    consumer = log.consumer("c")
    source, appender = log._source, log._opened.appender  # type: ignore[union-attr]
    written, settle = threading.Event(), threading.Event()

    def progress() -> None:
        """Everybody is told, and what was written is not settled yet."""
        source.progressed()
        written.set()
        settle.wait(WAIT_SECONDS)

    appender.on_progress = progress
    first = Worker(lambda: log.append(b"x"))
    assert written.wait(WAIT_SECONDS)
    second = Worker(lambda: log.append(b"x"))
    until(blocked(log))
    consumer.ack(0)
    until(lambda: source._waiting == 1)
    settle.set()
    assert first.ends() == 0
    assert second.ends() == 1


def test_one_batch_above_the_limit_is_refused_at_once_in_every_mode(place: Place) -> None:
    for mode in ("block", "error", "drop_oldest"):
        with place.open(max_records=3, max_bytes=10_000, when_full=mode) as log:
            with pytest.raises(seglog.LogFull, match="can never fit into max_records=3"):
                log.append_many([b"x"] * 4)
            with pytest.raises(seglog.LogFull, match="can never fit into max_bytes=10000"):
                log.append(bytes(10_000))
            assert log.append_many([]) == range(0)
            assert log.next_offset == 0


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"durability": "interval"}, {"durability": "never"}])
def test_max_bytes_counts_all_that_is_written_framing_too(place: Place, options: dict[str, Any]) -> None:
    log = place.open(max_bytes=20_000, when_full="error", segment_bytes=4096, **options)

    def fill() -> None:
        for n in range(1000):
            log.append(b"%d" % n * (n % 90), headers={"n": b"%d" % n} if n % 3 else None)
            log.sync()

    with pytest.raises(seglog.LogFull, match=r"of max_bytes=20000 bytes are not consumed"):
        fill()
    log.sync()
    assert 18_000 < stored_bytes(log) <= 20_000
    assert log.stats().used_bytes == stored_bytes(log)
    log.close()
    with place.open(max_bytes=20_000, when_full="error", **options) as log:
        assert 18_000 < stored_bytes(log) <= 20_000, "the close marker counts, too"
        with pytest.raises(seglog.LogFull):
            log.append(bytes(1000))


def test_what_is_removed_behind_a_straggler_does_not_count(place: Place) -> None:
    log = place.open(max_records=60, max_bytes=40_000, when_full="error", segment_bytes=4096)
    consumer = log.consumer("c")
    for _ in range(6):
        log.append_many([bytes(400)] * 10)
    with pytest.raises(seglog.LogFull):
        log.append(b"x")
    consumer.ack(*range(10, 40))
    log.append_many([bytes(400)] * 9)  # space is given back when it is needed
    assert used(log) == 39
    assert log.stats().records == 39
    size = log.stats().used_bytes
    assert size is not None
    assert stored_bytes(log) > 29_000
    assert size < 20_000
    consumer.ack(*range(10))
    assert used(log) == 29


def test_max_bytes_has_room_for_what_a_sync_and_a_close_add() -> None:
    for limit in range(1500, 1900, 8):
        disk = MemoryDisk()
        with seglog.open("log", disk=disk, max_bytes=limit, when_full="error", durability="never") as log:
            for _ in range(20):
                with contextlib.suppress(seglog.LogFull):
                    log.append(b"x" * 50)
                log.sync()
                assert stored_bytes(log) <= limit
        with seglog.open("log", disk=disk) as log:
            assert limit - 400 < stored_bytes(log) <= limit


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_block_waits_so_long_and_no_longer(place: Place, timeout: float) -> None:
    log = place.open(max_records=2, when_full="block")
    log.append_many([b"x"] * 2)
    with pytest.raises(seglog.LogFull, match="2 of max_records=2"):
        log.append(b"x", timeout=timeout)
    with pytest.raises(seglog.LogFull):
        log.append_many([b"x"], timeout=timeout)
    with pytest.raises(seglog.LogFull):
        log.submit(b"x", timeout=timeout)
    with pytest.raises(seglog.InvalidOption, match="timeout"):
        log.append(b"x", timeout=-1)
    assert log.next_offset == 2
    log.purge()
    assert log.append(b"x", timeout=timeout) == 2


@pytest.mark.parametrize("change", ["ack", "remove_consumer", "seek", "purge", "close"])
def test_block_ends_at_once_when_something_in_this_process_makes_room(
    place: Place, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 3600.0)  # nobody looks again by himself
    log = place.open(max_records=2, when_full="block")
    consumer = log.consumer("c")
    log.append_many([b"x"] * 2)
    worker = Worker(lambda: log.append(b"late"))
    until(blocked(log))
    if change == "ack":
        consumer.ack(0)
    elif change == "remove_consumer":
        log.consumer("other", start="latest")
        log.remove_consumer("c")
    elif change == "seek":
        consumer.seek("latest")
    elif change == "purge":
        log.purge()
    else:
        log.close()
        with pytest.raises(seglog.LogClosed):
            worker.ends()
        return
    assert worker.ends() == 2


def test_block_ends_when_another_process_acks(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with seglog.open(path, max_records=3, when_full="block") as log:
        log.append_many([b"x"] * 3)
        child = start(CHILDREN + "ack_when_told", path, "c")
        assert child.line() == "open"
        worker = Worker(lambda: log.append(b"late"))
        until(blocked(log))
        child.tell("0")
        assert child.line() == "acked"
        assert worker.ends() == 3
        child.tell("1")
        assert child.line() == "acked"
        assert log.append(b"and", timeout=30) == 4


def test_who_waits_for_five_seconds_is_told_of_with_the_slowest_consumer(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    log = place.open(max_records=1, when_full="block", clock=clock)
    consumer = log.consumer("sluggard")
    log.append(b"x")
    with caplog.at_level(logging.WARNING, "seglog"):
        worker = Worker(lambda: log.append(b"y"))
        until(blocked(log))
        clock.advance(4.9)
        log._source.wake()
        assert not caplog.records
        clock.advance(0.2)
        until(lambda: bool(caplog.records))
        clock.advance(60.0)
        consumer.ack(0)
        worker.ends()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'sluggard'" in caplog.text


def test_a_big_batch_is_not_overtaken_for_ever_by_small_ones(place: Place) -> None:
    log = place.open(max_records=10, when_full="block", durability="never")
    consumer = log.consumer("c")
    log.append_many([b"x"] * 10)
    big = Worker(lambda: log.append_many([b"big"] * 8))
    until(blocked(log))
    small = [Worker(lambda: log.append(b"small")) for _ in range(3)]
    until(blocked(log, 4))
    consumer.ack(*range(7))  # room for any of the small ones
    with pytest.raises(seglog.LogFull):
        log.append(b"small", timeout=0)
    assert all(worker.running for worker in small)
    consumer.ack(7)
    assert big.ends() == range(10, 18)
    consumer.ack(8, 9, 10)
    assert sorted(int(str(worker.ends())) for worker in small) == [18, 19, 20]


@pytest.mark.parametrize("limit", [{"max_records": 20}, {"max_bytes": 6000}])
def test_p10_never_more_than_the_limit_with_eight_threads_at_once(place: Place, limit: dict[str, Any]) -> None:
    log = place.open(**limit, when_full="block", segment_bytes=4096)
    consumer = log.consumer("c")
    over: list[str] = []
    done = threading.Event()

    def observe() -> None:
        while not done.is_set():
            # What is written is counted after what was acked before: a true excess only.
            mark = consumer.watermark
            records, size = log._source.appender.written.end_offset - mark, 0  # type: ignore[union-attr]
            if "max_bytes" in limit:
                try:
                    size = stored_bytes(log) - log._source.bytes_before(mark)
                except FileNotFoundError:  # the segment was given back between two looks of ours
                    continue
            if consumer.watermark == mark and (records > limit.get("max_records", records) or size > 6000):
                over.append(f"{records} records, {size} bytes")

    def produce(seed: int) -> None:
        for n in range(12):
            values = [b"%d." % seed * (n * 3 % 40)] * (1 + (n + seed) % 4)
            if len(values) == 1:
                log.append(values[0])
            else:
                log.append_many(values)

    def consume() -> None:
        while not done.is_set():
            consumer.ack(*consumer.receive_many(5, timeout=0.01))

    observer, eater = Worker(observe), Worker(consume)
    for worker in [Worker(partial(produce, seed)) for seed in range(8)]:
        worker.ends()
    done.set()
    observer.ends()
    eater.ends()
    assert over == []
    assert log.next_offset == 8 * 3 * (1 + 2 + 3 + 4)


def test_p10_a_refused_append_gives_its_room_back(tmp_path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    with seglog.open(tmp_path / "log", disk=disk, max_records=2, when_full="error") as log:
        log.append(b"x")
        disk.arm(Fault(error=errno.ENOSPC, onwards=True), match=lambda operation, _: operation == "write")
        for _ in range(5):
            with pytest.raises(seglog.DiskFull):
                log.append(b"y")
        disk.arm(None)
        assert log.append(b"y") == 1
        with pytest.raises(seglog.LogFull):
            log.append(b"z")


def test_p9_f39_a_ctrl_c_anywhere_in_an_append_gives_the_room_back_if_it_is_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "_WATCH_SECONDS", 0.01)  # how soon somebody notices that its leader is gone
    disk, struck, kept = MemoryDisk(), list[str](), list[KeyboardInterrupt]()
    log = seglog.open("log", disk=disk, max_records=1, durability="never")
    for number in range(400):
        interrupt = Interrupt(number)
        try:
            with interrupt:
                log.append(b"x", timeout=0)
        except KeyboardInterrupt as error:
            if interrupt.struck.startswith("appender.py"):
                kept.append(error)  # with all frames, and the ticket: it is decided all the same
        struck.append(interrupt.struck.partition(":")[0])
        if log._opened is not None and log._opened.appender._failure is not None:
            with contextlib.suppress(seglog.LogFailed):  # whoever was interrupted knows
                log.close()
            log = seglog.open("log", disk=disk, max_records=1, durability="never")
        log.sync()  # if it is in, it is to be seen
        consumer = log.consumer("c")
        for _ in range(2):
            consumer.ack(*range(consumer.watermark, log.next_offset))
            log.append(b"there is room", timeout=0)
        consumer.ack(log.next_offset - 1)
        if struck.count("segment_writer.py") > 3 or not interrupt.struck:
            break
    else:
        pytest.fail("an append never ends")
    log.close()
    assert {"limits.py", "group_commit.py", "segment_writer.py"} <= set(struck)


def test_p9_a_ctrl_c_anywhere_in_the_wait_leaves_nobody_in_the_line() -> None:
    with seglog.open(":memory:", max_records=1) as log:
        log.append(b"x")
        for number in range(1000):
            interrupt = Interrupt(number)
            with pytest.raises((KeyboardInterrupt, seglog.LogFull)), interrupt:
                log.append(b"y", timeout=0)
            if not interrupt.struck:
                break
        else:
            pytest.fail("the wait never ends")
        assert number > 50
        log.purge()
        assert log.append(b"z", timeout=0) == 1


def test_submit_promises_room_until_it_is_settled(place: Place) -> None:
    log = place.open(max_records=5, when_full="error")
    futures = [log.submit(b"x") for _ in range(5)]
    with pytest.raises(seglog.LogFull):
        log.submit(b"x")
    assert sorted(future.result(30) for future in futures) == [0, 1, 2, 3, 4]


def test_a_limit_holds_after_reopening_with_a_smaller_one(place: Place) -> None:
    with place.open() as log:
        log.append_many([b"x"] * 10)
    log = place.open(max_records=5, when_full="error")
    with pytest.raises(seglog.LogFull, match="10 of max_records=5"):
        log.append(b"x")
    log.consumer("c").ack(*range(6))
    assert log.append(b"x") == 10


def test_an_unreadable_cursor_has_passed_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with seglog.open(path) as log:
        log.append_many([b"x"] * 5)
        log.consumer("c").ack(0, 1, 2)
    cursor = path / "cursors" / "c.cursor"
    cursor.write_bytes(bytes(cursor.stat().st_size))
    with seglog.open(path, max_records=5, when_full="error") as log, pytest.raises(seglog.LogFull):
        log.append(b"x")


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 0},
        {"max_records": -1},
        {"max_records": 1.5},
        {"max_bytes": True},
        {"when_full": "panic"},
        {"retention_bytes": -1},
        {"retention_seconds": -1},
        {"retention_seconds": "1"},
    ],
)
def test_options_are_checked_before_anything_is_touched(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(seglog.InvalidOption, match=next(iter(options))):
        seglog.open(tmp_path / "log", **options)
    assert not (tmp_path / "log").exists()


def test_a_log_that_failed_says_so_though_it_is_full() -> None:
    disk = FaultDisk(MemoryDisk())
    with seglog.open("log", disk=disk, max_records=2) as log:
        log.append(b"1")
        disk.arm(Fault(), match=lambda operation, name: operation == "datasync" and name.endswith(".seg"))
        with pytest.raises(seglog.LogFailed):
            log.append(b"2")
        with pytest.raises(seglog.LogFailed):
            log.append(b"3", timeout=0)


def test_a_handler_that_hears_of_a_compaction_may_append(tmp_path: Path) -> None:
    """Space is given back by whoever waits for room; nothing is held meanwhile."""
    logger = logging.getLogger("seglog")
    with seglog.open(tmp_path, segment_bytes=4096, max_bytes=30_000) as log:
        consumer = log.consumer("c")
        for _ in range(24):
            log.append(bytes(1000))
        consumer.ack(*range(1, 24))  # the first one pins what counts; the others go with their segments

        class Teller(logging.Handler):
            told = 0

            def emit(self, record: logging.LogRecord) -> None:
                if "compaction removed" in record.getMessage() and not self.told:
                    self.told += 1
                    log.append(b"told", timeout=0.2)

        teller = Teller()
        logger.addHandler(teller)
        before = logger.level
        logger.setLevel(logging.INFO)
        try:
            for _ in range(12):
                log.append(bytes(1000), timeout=20)
        finally:
            logger.removeHandler(teller)
            logger.setLevel(before)
        assert teller.told
