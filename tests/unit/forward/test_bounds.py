"""The bounds of a batch that was under way: what was sent under a key is sent again as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import StorageError
from seglog.forward import Forwarder, SinkError, Verdict
from seglog.forward.bounds import FILE_BYTES, Bounds, ranges
from seglog.forward.routes import Route
from seglog.model import Message
from seglog.testing import CrashDisk, ManualClock, Operation
from tests.support.fake_consumer import LOG_ID, FakeClock, FakeConsumer, message

Batch = Sequence[Message[Any]]
FILE = "forward.batch"


class Away(Exception):
    """Kills the forwarder: nobody learns what became of the batch."""


class FarEnd:
    """Drops repeats by key; `dies_at` names the sends that are stored and never answered."""

    same_batches = True

    def __init__(self, *dies_at: int) -> None:
        self.dies_at = dies_at
        self.sent: list[str] = []
        self.stored: dict[str, list[bytes]] = {}
        self.poison = b""

    def send(self, batch: Batch) -> None:
        key = ranges(batch)
        self.sent.append(key)
        payloads = [one.payload for one in batch]
        if self.poison and self.poison in payloads:
            raise SinkError("HTTP 400", verdict=Verdict.REFUSED)
        assert self.stored.setdefault(key, payloads) == payloads, "the same key with other records"
        if len(self.sent) in self.dies_at:
            raise Away

    def classify(self, error: Exception) -> Verdict:
        if isinstance(error, Away):
            raise error
        return error.verdict if isinstance(error, SinkError) else Verdict.RETRY

    def payloads(self) -> list[bytes]:
        return [payload for batch in self.stored.values() for payload in batch]


def forward(log: seglog.Log[bytes], far_end: FarEnd, folder: Path, **options: Any) -> None:
    """A forwarder's life; Away ends it."""
    with log.consumer("forward") as consumer:
        try:
            Forwarder(consumer, far_end, batch_file=folder / FILE, linger=0, **options).run(once=True)
        except Away:
            return


def numbers(first: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, stop)]


def test_the_file_goes_with_the_consumer(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log:
        log.append(b"x")
        cursors = tmp_path / "log" / "cursors"
        forward(log, FarEnd(), cursors)
        log.consumer("other").close()
        (cursors / "other.batch").write_bytes(b"")
        assert sorted(path.name for path in cursors.glob("forward.*")) == [FILE, "forward.cursor"]
        log.remove_consumer("forward")
        assert sorted(path.name for path in cursors.glob("*.*")) == [".lock", "other.batch", "other.cursor"]


def test_the_batch_under_way_comes_again_as_it_was_though_there_is_more_now(tmp_path: Path) -> None:
    far_end = FarEnd(2)
    with seglog.open(":memory:") as log:
        log.append_many(numbers(0, 15))
        forward(log, far_end, tmp_path, batch_records=10)
        log.append_many(numbers(15, 30))
        forward(log, far_end, tmp_path, batch_records=10)
    assert far_end.sent == ["0-9", "10-14", "10-14", "15-24", "25-29"]
    assert far_end.payloads() == numbers(0, 30)


def test_without_the_file_the_next_one_cuts_elsewhere(tmp_path: Path) -> None:
    far_end = FarEnd(1)
    with seglog.open(":memory:") as log:
        log.append_many(numbers(0, 5))
        forward(log, far_end, tmp_path, batch_records=10)
        (tmp_path / FILE).unlink()
        log.append_many(numbers(5, 8))
        forward(log, far_end, tmp_path, batch_records=10)
    assert far_end.sent == ["0-4", "0-7"]


def test_a_sink_that_does_not_ask_for_it_gets_no_file(tmp_path: Path) -> None:
    arrived: list[Batch] = []
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append(b"x")
        Forwarder(consumer, arrived.append, batch_file=tmp_path / FILE).run(once=True)
    assert len(arrived) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_route_has_its_file_beside_the_cursor(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log, log.consumer("forward") as consumer:
        log.append(b"x")
        Route("r", tmp_path / "log", "http://127.0.0.1:1/").forwarder(consumer, FarEnd()).run(once=True)
    assert sorted(path.name for path in (tmp_path / "log" / "cursors").glob("forward.*")) == [FILE, "forward.cursor"]


def test_halves_have_bounds_of_their_own(tmp_path: Path) -> None:
    far_end = FarEnd(2)
    far_end.poison = b"9"
    with seglog.open(":memory:") as log:
        log.append_many(numbers(0, 10))
        forward(log, far_end, tmp_path)
        assert far_end.sent == ["0-9", "0-4"]
        far_end.poison = b""
        forward(log, far_end, tmp_path)
    assert far_end.sent[2:] == ["0-4", "5-9"]
    assert far_end.payloads() == numbers(0, 10)


def test_a_batch_with_holes_and_out_of_order_comes_again_as_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    far_end = FarEnd(2)
    with seglog.open(":memory:", clock=clock) as log:
        log.append(b"late", delay=60)
        log.append_many(numbers(1, 4))
        log.append(b"later", delay=600)
        log.append_many(numbers(5, 7))
        forward(log, far_end, tmp_path)
        clock.advance(61)
        log.append_many(numbers(7, 9))
        forward(log, far_end, tmp_path)
        log.append_many(numbers(9, 12))
        clock.advance(600)
        forward(log, far_end, tmp_path)
    assert far_end.sent[:3] == ["1-3,5-6", "0-0,7-8", "0-0,7-8"]
    assert sorted(far_end.payloads()) == sorted([b"late", b"later", *numbers(1, 4), *numbers(5, 12)])


def test_what_was_delayed_below_the_batch_does_not_stand_in_its_way(tmp_path: Path) -> None:
    far_end = FarEnd(1)
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        log.append(b"late", delay=60)
        log.append_many(numbers(1, 4))
        forward(log, far_end, tmp_path)
        clock.advance(61)
        log.append_many(numbers(4, 6))
        forward(log, far_end, tmp_path)
    assert far_end.sent[:2] == ["1-3", "1-3"]
    assert sorted(far_end.payloads()) == sorted([b"late", *numbers(1, 6)])


def test_a_consumer_that_was_set_back_begins_anew_and_in_order(tmp_path: Path) -> None:
    far_end = FarEnd(3)
    with seglog.open(":memory:") as log:
        log.append_many(numbers(0, 30))
        forward(log, far_end, tmp_path, batch_records=10)
        with log.consumer("forward") as consumer:
            consumer.seek("earliest")
        forward(log, far_end, tmp_path, batch_records=10)
    assert far_end.sent[3:] == ["0-9", "10-19", "20-29"]


@pytest.mark.parametrize("handled", [10, 15])
def test_a_batch_that_was_handled_meanwhile_is_not_sent_again(tmp_path: Path, handled: int) -> None:
    far_end = FarEnd(2)
    with seglog.open(":memory:") as log:
        log.append_many(numbers(0, 20))
        forward(log, far_end, tmp_path, batch_records=10)
        with log.consumer("forward") as consumer:
            consumer.ack(*range(10, handled + 1))
        forward(log, far_end, tmp_path)
    assert far_end.sent[2:] == [f"{handled + 1}-19"]


def test_a_file_of_another_log_says_nothing(tmp_path: Path) -> None:
    for payloads in (numbers(0, 5), numbers(0, 9)):
        far_end = FarEnd(1)
        with seglog.open(":memory:") as log:
            log.append_many(payloads)
            forward(log, far_end, tmp_path)
        assert far_end.sent == [f"0-{len(payloads) - 1}"]


def test_it_is_refused_again_if_it_is(tmp_path: Path) -> None:
    far_end = FarEnd(1)
    with seglog.open(":memory:") as log:
        log.append_many([b"a", b"bad", b"c"])
        forward(log, far_end, tmp_path)
        far_end.stored.clear()
        far_end.poison = b"bad"
        forward(log, far_end, tmp_path)
        assert [letter.payload for letter in log.dead_letters] == [b"bad"]
    assert far_end.payloads() == [b"a", b"c"]


def bounds(tmp_path: Path) -> Bounds:
    return Bounds.at(tmp_path / FILE)


def found(tmp_path: Path, messages: Sequence[Message[bytes]]) -> list[int]:
    made = bounds(tmp_path)
    batch = made.unsettled(FakeConsumer(messages, FakeClock()))
    made.close()
    return [one.offset for one in batch]


MESSAGES = [message(offset) for offset in range(10)]


def test_a_shorter_line_over_a_longer_one(tmp_path: Path) -> None:
    made = bounds(tmp_path)
    made.note([MESSAGES[1], MESSAGES[3], MESSAGES[5]])
    made.note(MESSAGES[:2])
    made.close()
    assert found(tmp_path, MESSAGES) == [0, 1]


def test_every_byte_of_the_line_counts(tmp_path: Path) -> None:
    made = bounds(tmp_path)
    made.note(MESSAGES[:4])
    made.close()
    assert found(tmp_path, MESSAGES) == [0, 1, 2, 3]
    path = tmp_path / FILE
    whole = path.read_bytes()
    line = whole.index(b"\n") + 1
    assert LOG_ID.encode() in whole[:line]
    assert path.stat().st_mode & 0o777 == 0o600
    for at in range(line):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert found(tmp_path, MESSAGES) == []
        path.write_bytes(whole[:at])
        assert found(tmp_path, MESSAGES) == []


def test_offsets_too_scattered_to_be_noted_are_halved(tmp_path: Path) -> None:
    far_end = FarEnd()
    scattered = [message(10**15 + 2 * number) for number in range(3000)]
    consumer = FakeConsumer(scattered, FakeClock())
    Forwarder(consumer, far_end, batch_records=3000, batch_file=tmp_path / FILE, clock=consumer.clock).run(once=True)
    assert [len(payloads) for payloads in far_end.stored.values()] == [1500, 1500]
    assert (tmp_path / FILE).stat().st_size <= FILE_BYTES


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with seglog.open(":memory:") as log, pytest.raises(StorageError, match="nowhere"):
        forward(log, FarEnd(), tmp_path / "nowhere")


def test_a_disk_that_fails_keeps_everything_and_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    far_end = FarEnd()
    with seglog.open(":memory:") as log:
        log.append(b"x")
        with pytest.raises(StorageError):
            forward(log, far_end, tmp_path)
    assert far_end.sent == []


def after_power_loss(disk: CrashDisk, step: int) -> list[list[int]]:
    """What is found in each state that the disk may be in."""
    seen = []
    for image in disk.images(step, rng=random.Random(step)):
        made = Bounds(image.disk().open("/spool", create=False), FILE)
        seen.append([one.offset for one in made.unsettled(FakeConsumer(MESSAGES, FakeClock()))])
    return seen


def noted_twice(ignore: Callable[[Operation], bool]) -> tuple[CrashDisk, int]:
    """A disk, and the step at which the first note was durable; the second is at the end."""
    disk = CrashDisk(ignore=ignore)
    disk.open("/spool", create=True).sync_parents()
    made = Bounds(disk.open("/spool", create=False), FILE)
    made.note(MESSAGES[:7])
    first = len(disk.journal)
    made.note(MESSAGES[:2])
    return disk, first


def test_what_was_noted_survives_the_power_and_a_torn_line_names_nothing() -> None:
    disk, first = noted_twice(lambda _: False)
    before, after = list(range(7)), [0, 1]
    assert set(map(tuple, after_power_loss(disk, first))) == {tuple(before)}
    for step in range(first, len(disk.journal)):
        assert all(offsets in (before, after, []) for offsets in after_power_loss(disk, step))
    assert set(map(tuple, after_power_loss(disk, len(disk.journal)))) == {tuple(after)}


@pytest.mark.parametrize("kind", ["datasync", "sync_directory"])
def test_a_sync_that_is_missing_is_noticed(kind: str) -> None:
    disk, _ = noted_twice(lambda operation: operation.kind == kind and operation.path.startswith("/spool"))
    assert any(offsets != [0, 1] for offsets in after_power_loss(disk, len(disk.journal)))
