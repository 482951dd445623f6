"""What a log that was killed must hold: fed with what the killed processes said, asked what the log shows.

Offsets are judged for the life of the directory: a name that an offset once had, it keeps, or it is reclaimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import seglog
from tools.crashtest.kill_worker import CONSUMERS, name_of, payload

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
