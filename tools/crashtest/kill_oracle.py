"""What a log that was killed must hold: fed with what the killed processes said, asked what the log shows.

`Oracle` is for processes that work until they are killed. Offsets are judged for the life of the directory: a name that
an offset once had, it keeps, or it is reclaimed. `judge` is for a scene, whose every word is known to `history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import seglog
from seglog.disk.local import LocalDisk
from seglog.format import layout as L
from seglog.repair import repair
from seglog.testing import CrashDisk, ManualClock
from seglog.verify import verify
from tools.crashtest.history import Expected, Mark, demand
from tools.crashtest.kill_disk import KillDisk
from tools.crashtest.kill_worker import CONSUMERS, name_of, payload
from tools.crashtest.life import SMALL, Life, looked_at, verified
from tools.crashtest.workloads import text

Name = tuple[int, str, int]  # generation, thread, number


class Oracle:
    """Memory of one log directory over many processes that were killed."""

    def __init__(self, consumers: Sequence[str] = CONSUMERS) -> None:
        self.names: dict[int, Name] = {}  # of every offset that was acknowledged or seen, and is not reclaimed
        self.end = 0  # behind the highest of them, ever
        self.acknowledged = 0
        self.about_to_ack: dict[str, set[int]] = {name: set() for name in consumers}
        self.acked: dict[str, set[int]] = {name: set() for name in consumers}
        self.generation = 0
        # Of the generations whose fate is not fixed yet, by generation and thread:
        self.submitted: dict[tuple[int, str], int] = {}
        self.answered: dict[tuple[int, str], int] = {}
        self.batches: dict[int, tuple[int, int]] = {}  # the last append_many: first, count
        self.first_new: dict[int, int] = {}  # no offset of this generation is below
        self.refused: set[Name] = set()

    def next_generation(self) -> int:
        """Another process begins."""
        self.generation += 1
        self.first_new[self.generation] = self.end
        return self.generation

    def settle(self) -> None:
        """The log was opened for writing: what was in flight is in or out now, and stays so."""
        for known in (self.submitted, self.answered, self.batches, self.first_new):
            known.clear()

    def heard(self, line: str) -> bool:
        """Take in what the process said; True for an acknowledgement."""
        kind, who, *rest = line.split()
        match kind:
            case "s":
                first, count = map(int, rest)
                assert first == self.submitted.get((self.generation, who), 0)
                self.submitted[self.generation, who] = first + count
                if who == "many":
                    self.batches[self.generation] = first, count
            case "a":
                first, count, offset = map(int, rest)
                assert first == self.answered.get((self.generation, who), 0)
                self.answered[self.generation, who] = first + count
                self.acknowledged += count
                for n in range(count):
                    self._learn(offset + n, (self.generation, who, first + n))
            case "r":
                first, count = map(int, rest)
                assert first == self.answered.get((self.generation, who), 0)
                self.answered[self.generation, who] = first + count
                self.refused.update((self.generation, who, first + n) for n in range(count))
            case "g":
                again = self.acked[who].intersection(map(int, rest[0].split(",")))
                assert not again, f"{who} acked these, and they are given out again: {sorted(again)[:5]}"
            case "i":
                self.about_to_ack[who].update(map(int, rest[0].split(",")))
            case "d":
                self.acked[who].update(map(int, rest[0].split(",")))
            case _:
                raise AssertionError(f"not understood: {line}")
        return kind in "ad"

    def _learn(self, offset: int, name: Name) -> None:
        assert self.names.setdefault(offset, name) == name, f"offset {offset} was {self.names[offset]}, now {name}"
        assert offset >= self.first_new.get(name[0], 0), f"offset {offset} was given out before"
        self.end = max(self.end, offset + 1)

    def check_log(self, log: seglog.Log[bytes]) -> None:
        """Its records, its gaps, and how far its cursors are."""
        gaps: list[seglog.Gap] = []
        seen = self._check_records(log.read(on_gap=gaps.append))
        assert {gap.reason for gap in gaps} <= {"skipped", "purged"}, gaps
        gone = {offset for offset in self.names if offset < log.first_offset}
        for gap in gaps:
            if gap.reason == "purged":
                gone.update(self.names.keys() & set(range(gap.first_offset, gap.last_offset + 1)))
        lost = self.names.keys() - seen - gone
        assert not lost, f"lost: {sorted((o, self.names[o]) for o in lost)[:5]}"
        self._reclaim(gone)
        for name, consumer in log.consumers().items():
            ahead = {offset for offset in self.names if offset < consumer.watermark} - self.about_to_ack[name]
            assert not ahead, f"the cursor of {name} is ahead: {sorted(ahead)[:5]}"

    def _check_records(self, messages: Iterable[seglog.Message[bytes]]) -> set[int]:
        """Acknowledged ⊆ recovered ⊆ submitted, in order, batches whole, offsets never reused."""
        offsets = set()
        seen: dict[tuple[int, str], int] = {}
        before = -1
        for message in messages:
            assert message.offset > before
            before = message.offset
            name = generation, thread, number = name_of(message.payload)
            assert message.payload == payload(*name), f"{name} is not what was appended"
            assert seen.get((generation, thread), -1) < number, f"{name} is out of order"
            seen[generation, thread] = number
            assert name not in self.refused, f"{name} was refused, and is there"
            if message.offset not in self.names:
                assert number < self.submitted.get((generation, thread), 0), (
                    f"{name}: not submitted, or its fate changed"
                )
                assert number >= self.answered.get((generation, thread), 0), f"{name} is there twice"
            self._learn(message.offset, name)
            offsets.add(message.offset)
        for generation, (first, count) in self.batches.items():
            there = sum(g == generation and t == "many" and n >= first for g, t, n in self.names.values())
            assert self.answered.get((generation, "many"), 0) > first or there in (0, count), (
                f"{there} of a batch of {count}"
            )
        return offsets

    def _reclaim(self, gone: set[int]) -> None:
        """Whatever is gone was acked by all, or was being acked."""
        for name, offsets in self.about_to_ack.items():
            assert gone <= offsets, f"reclaimed, and {name} had not acked it: {sorted(gone - offsets)[:5]}"
            offsets.difference_update(gone)
            self.acked[name] -= gone
        for offset in gone:
            del self.names[offset]

    def check_consumer(self, name: str, unacked: set[int]) -> None:
        """A durable ack does not come back; what nobody acked does."""
        back = self.acked[name] & unacked
        assert not back, f"{name} acked these, and they come again: {sorted(back)[:5]}"
        ahead = set(self.names) - unacked - self.about_to_ack[name]
        assert not ahead, f"{name} never acked these, and they do not come: {sorted(ahead)[:5]}"


# -- scenes

NEXT_LIFE = 900  # its number, above those of a scene


def judge(path: str, options: dict[str, Any], marks: Iterable[Mark]) -> None:
    """Everything that a process finds that opens the log after the kill, and goes on with it. Raises Broken."""
    expected = Expected().fold(marks)
    expected.fold([("synced",)])  # a kill takes nothing that was written, in any durability class
    disk = cast(CrashDisk, KillDisk(LocalDisk(), path))  # no more is asked of it
    verified(disk, path, expected)
    seen = looked_at(disk, path)
    life = Life(disk, NEXT_LIFE, path, **options)
    try:
        records = life.next_life(expected)
        demand(set(seen) <= set(records), "shown to a reader and gone:", seen, records)
        life.work_on(expected)
    finally:
        life.die()
    verified(disk, path, expected)


# -- repair

ROTTEN, CUT_OUT = 1, (2, 3)  # a record's bytes; a segment's records
LOST = {ROTTEN, *CUT_OUT}
RECORDS = {number: text(number, 1700) for number in range(7)}


def damaged(path: str) -> None:
    """A log with a rotten record, a lost segment, a bad spare, and a consumer whose cursor does not read back."""
    with seglog.open(path, **cast(Any, SMALL)) as log:
        for payload_ in RECORDS.values():
            log.append(payload_)
        log.consumer("uploader").close()
    first, second, *_ = sorted(Path(path, "segments").iterdir())
    content = bytearray(first.read_bytes())
    at = content.index(RECORDS[ROTTEN]) + 100
    content[at : at + 6] = b"rotten"
    content[L.HEADER_COPY_AT : L.HEADER_COPY_AT + 64] = bytes(64)
    first.write_bytes(content)
    second.unlink()
    cursor = Path(path, "cursors", "uploader.cursor")
    cursor.write_bytes(bytes(cursor.stat().st_size))


def judge_repair(path: str, *, used_first: bool) -> None:
    """What was declared lost has its letter; whoever uses the log first loses nothing more; the next repair ends it."""
    report = verify(path)
    declared = {offset for gone in report.repaired for offset in range(gone.first_offset, gone.last_offset + 1)}
    demand(declared in (set(), LOST), "half declared:", report)
    demand(report.acknowledged_loss is (not declared), "neither lost nor declared:", report)
    if declared:
        _check_letters(path)
    if used_first:
        _check_intact(path)
    repair(path)
    report = verify(path)
    demand(report.ok and not report.acknowledged_loss, "repaired, and verify says:", report)
    _check_letters(path)
    _check_intact(path)
    demand(verify(path).ok, "appended to after the repair, and not well:", verify(path))


def _check_letters(path: str) -> None:
    with seglog.open(path, "r") as view:
        letters = [(letter.offset, letter.last_offset, letter.reason) for letter in view.dead_letters]
    demand(letters == [(ROTTEN, ROTTEN, "damaged")], "not exactly one dead letter:", letters)


def _check_intact(path: str) -> None:
    """All that was not damaged is given out, and the log takes more."""
    with seglog.open(path, clock=ManualClock(seed=NEXT_LIFE), **cast(Any, SMALL)) as log:
        with log.consumer("uploader", on_gap=lambda gap: None) as consumer:
            there = {message.offset: message.payload for message in consumer.drain() if message.offset in RECORDS}
        demand(there == {o: p for o, p in RECORDS.items() if o not in LOST}, "not all that is intact:", list(there))
        offset = log.append(b"more")
        demand(offset >= len(RECORDS), "an offset is used again:", offset)
