"""What a program was promised before a crash, and whether the log kept it.

Acknowledged ⊆ recovered ⊆ submitted, in order; offsets never name two records; acks neither come back nor run ahead.

A history is the list of marks that a `Life` left on its `CrashDisk`: before each call what was asked, right after it
what was answered. Folding the marks gives `Expected`, which judges what a later life finds. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seglog.model import OffsetRange

Mark = tuple[Any, ...]
Records = Sequence[tuple[int, bytes]]


class Broken(AssertionError):
    """A promise was not kept. `place`: of the crash, for replaying; "" where it is not known."""

    place = ""


def demand(kept: bool, words: str, *details: object) -> None:
    """Raise Broken unless the promise was kept."""
    if not kept:
        raise Broken(" ".join([words, *map(str, details)]))


@dataclass
class Batch:
    """The records of one call. `base` is None until it returned."""

    payloads: tuple[bytes, ...]
    base: int | None = None
    durable: bool = False

    @property
    def records(self) -> list[tuple[int, bytes]]:
        assert self.base is not None
        return list(enumerate(self.payloads, self.base))


@dataclass
class Tracked:
    """One consumer: what it was asked to ack, and what it answered. `start` is None until its registration returned."""

    start: int | None = None
    asked: set[int] = field(default_factory=set)
    acked: set[int] = field(default_factory=set)
    failed: dict[int, int] = field(default_factory=dict)  # how often, by offset


@dataclass
class Expected:
    """The sum of a history."""

    batches: list[Batch] = field(default_factory=list)
    shown: int = 0  # offsets below it were given out or shown
    may_go: int = 0  # offsets below it may be dropped, purged, or let go by retention
    gone: int = 0  # offsets below it were purged, and that call returned
    passed: set[int] = field(default_factory=set)  # by all consumers, when one of them was removed
    consumers: dict[str, Tracked] = field(default_factory=dict)
    rejected: dict[int, bool | None] = field(default_factory=dict)  # offset to whether reject() returned
    rejecters: dict[int, str] = field(default_factory=dict)  # who is to reject it, by offset
    deleted: dict[int, bool] = field(default_factory=dict)  # of dead letters, by offset: whether the deletion returned
    replayed: dict[int, bytes] = field(default_factory=dict)  # the payload that is appended anew before that
    spoilt: bool = False  # the disk gave back what nobody wrote, which FORMAT.md §2 (A4, A6) does not expect

    def fold(self, marks: Iterable[Mark]) -> Expected:
        """Go on by these marks."""
        for kind, *values in marks:
            getattr(self, f"_{kind}")(*values)
        return self

    # What each mark means

    def _submit(self, payloads: tuple[bytes, ...]) -> None:
        self.batches.append(Batch(payloads))

    def _returned(self, base: int, durable: bool) -> None:
        batch = self.batches[-1]
        batch.base, batch.durable = base, durable
        self._shown(base + len(batch.payloads))

    def _refused(self) -> None:
        """The call raised: not accepted, now and for ever."""
        self.batches.pop()

    def _synced(self) -> None:
        for batch in self.batches:
            batch.durable = batch.base is not None

    def _shown(self, next_offset: int) -> None:
        self.shown = max(self.shown, next_offset)

    def _may_go(self, stop: int) -> None:
        self.may_go = max(self.may_go, stop)

    def _gone(self, stop: int) -> None:
        self.gone = max(self.gone, stop)

    def _settled(self, records: Records, durable_offset: int) -> None:
        """An opening has decided what is in; from now on exactly that is the log."""
        gone = self._reclaimed() - set(records)
        self.replayed = {
            at: payload
            for at, payload in self.replayed.items()
            if not any(found == payload and offset != at for offset, found in gone)
        }
        self.batches = [Batch((payload,), offset, offset < durable_offset) for offset, payload in records]
        left = {offset for offset, _ in records}
        for tracked in self.consumers.values():  # what is gone comes never again
            tracked.failed = {offset: count for offset, count in tracked.failed.items() if offset in left}

    def _register(self, name: str) -> None:
        self.consumers.setdefault(name, Tracked())

    def _registered(self, name: str, start: int) -> None:
        tracked = self.consumers[name]
        tracked.start = start if tracked.start is None else tracked.start

    def _remove(self, name: str) -> None:
        self.passed |= {offset for offset, _ in self._reclaimed()}  # gone perhaps, and not asked for ever again
        self.consumers[name].start = None

    def _removed(self, name: str) -> None:
        del self.consumers[name]

    def _ack(self, name: str, offsets: Sequence[int]) -> None:
        self.consumers[name].asked.update(offsets)
        for offset in offsets:
            if self.rejected.get(offset) is False:
                self.rejected[offset] = None  # whether the rejection before it left a letter is not known

    def _acked(self, name: str, offsets: Sequence[int]) -> None:
        self.consumers[name].acked.update(offsets)

    def _failed(self, name: str, offset: int) -> None:
        failed = self.consumers[name].failed
        failed[offset] = failed.get(offset, 0) + 1

    def _may_be_exhausted(self, name: str, offsets: Sequence[int]) -> None:
        self.consumers[name].asked.update(offsets)
        for offset in offsets:
            self.rejected.setdefault(offset, None)

    def _reject(self, name: str, offset: int) -> None:
        self.consumers[name].asked.add(offset)
        self.rejected.setdefault(offset, False)
        self.rejecters[offset] = name

    def _rejected(self, name: str, offset: int) -> None:
        self.consumers[name].acked.add(offset)
        self.rejected[offset] = True

    def _delete(self, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.deleted.setdefault(offset, False)
            self.replayed.pop(offset, None)  # a replay that failed; what follows is asked for by itself

    def _deleted(self, offsets: Sequence[int]) -> None:
        self.deleted.update((offset, True) for offset in offsets)

    def _replay(self, offset: int, payload: bytes) -> None:
        self.replayed[offset] = payload

    def _spoilt(self) -> None:
        self.spoilt = True

    # What must hold

    def may_be_reclaimed(self, offset: int) -> bool:
        """Whether every registered consumer was asked to ack it, or began behind it; or nobody is asked."""
        if offset < self.may_go or offset in self.passed:
            return True
        bound = [tracked for tracked in self.consumers.values() if tracked.start is not None]
        return bool(bound) and all(offset in t.asked or offset < (t.start or 0) for t in bound)

    def check_records(self, found: Records) -> None:
        """P1 acknowledged is there, P2 batches are whole, P3 in order and nothing else, P4 at its offset."""
        offsets = [offset for offset, _ in found]
        demand(offsets == sorted(set(offsets)), "offsets do not ascend:", offsets)
        demand(not offsets or offsets[0] >= self.gone, "purged, and there again:", offsets)
        held = dict(found)
        lost_before = False  # of what was not durable: from the first that is lost on, all must be
        for batch in self.batches:
            if batch.base is None:
                in_flight = [(offset, held.pop(offset)) for offset in sorted(held) if offset >= self.shown]
                self._check_in_flight(batch, in_flight)
                demand(not lost_before or not in_flight, "in, though an earlier one is lost:", in_flight)
                continue
            there = [held.pop(offset, None) for offset, _ in batch.records]
            gone = [offset for (offset, _), payload in zip(batch.records, there, strict=True) if payload is None]
            wrong = [
                (offset, payload, stored)
                for (offset, payload), stored in zip(batch.records, there, strict=True)
                if stored is not None and stored != payload
            ]
            demand(not wrong, "another payload than was submitted:", wrong)
            kept = [offset for offset in gone if not self.may_be_reclaimed(offset)]
            demand(not (batch.durable and kept), "acknowledged and lost:", kept)
            if self.spoilt or batch.durable:
                continue  # §10.7: the good records among suspect bytes are in, whatever became of those beside them
            if kept:
                demand(len(gone) == len(there), "half a batch is lost:", gone)
                lost_before = True
            else:
                demand(not lost_before or bool(gone), "in, though an earlier one is lost:", batch.records)
        demand(not held, "never submitted, or lost at an earlier opening:", held)

    def _check_in_flight(self, batch: Batch, found: Records) -> None:
        payloads = tuple(payload for _, payload in found)
        if self.spoilt:
            demand(set(payloads) <= set(batch.payloads), "in, and not of the batch in flight:", found)
            return
        demand(payloads in ((), batch.payloads), "the batch in flight is neither in nor out:", found)
        dense = not found or found[-1][0] - found[0][0] + 1 == len(found)
        demand(dense, "the batch in flight is torn apart:", found)

    def check_lost(self, missing: Iterable[OffsetRange], suspect: Iterable[OffsetRange]) -> None:
        """P7: nothing is called lost after a crash. Of spoilt bytes it may be said that they are suspect; and those of
        another hint may name a segment that never was, behind all there is."""
        told = [*missing, *suspect]
        demand(self.spoilt or not told, "called lost:", told)
        durable = {offset for batch in self.batches if batch.durable for offset, _ in batch.records}
        wrong = [
            found for found in told if any(found.first_offset <= offset <= found.last_offset for offset in durable)
        ]
        demand(not wrong, "called lost, and acknowledged:", wrong)

    def check_next_offset(self, offset: int) -> None:
        demand(offset >= self.shown, f"offset {offset} goes to a new record, but all below {self.shown} were shown")

    def check_consumers(self, names: Iterable[str]) -> None:
        known = set(names)
        lost = [n for n, tracked in self.consumers.items() if tracked.start is not None and n not in known]
        demand(not lost, "registered and forgotten:", lost)
        demand(known <= set(self.consumers), "never registered:", known)

    def check_unacked(self, name: str, start: int, unacked: Iterable[int], records: Records) -> None:
        """P5: not handled is exactly what was not acked, but for the one ack that was under way."""
        tracked = self.consumers[name]
        left = set(unacked)
        again = left & tracked.acked
        demand(not again, f"acked by {name!r} and given out again:", sorted(again))
        # What was dropped may be back, but not for a consumer that was told and has stored its position since.
        first = max(start if tracked.start is None else tracked.start, self.may_go)
        passed = {offset for offset, _ in records if offset >= first} - left - tracked.asked
        demand(not passed, f"never acked by {name!r} and taken for handled:", sorted(passed))

    def check_failures(self, name: str, found: Mapping[int, int]) -> None:
        """A failure that was answered for is never forgotten, while the message is to come again."""
        tracked = self.consumers[name]
        forgotten = {
            offset: (count, found.get(offset, 0))
            for offset, count in tracked.failed.items()
            if offset not in tracked.asked and offset >= self.may_go and found.get(offset, 0) < count
        }
        demand(not forgotten, f"failed with {name!r}, and not counted:", forgotten)

    def _reclaimed(self) -> set[tuple[int, bytes]]:
        """What was appended and may be gone."""
        appended = [pair for batch in self.batches if batch.base is not None for pair in batch.records]
        return {(offset, payload) for offset, payload in appended if self.may_be_reclaimed(offset)}

    def check_letters(self, offsets: Sequence[int], handled: Iterable[int], records: Records) -> None:
        """Each diverted record is kept exactly once, and before it counts as handled; until it is deleted, for good."""
        demand(len(offsets) == len(set(offsets)), "kept twice in the dead letters:", offsets)
        demand(set(offsets) <= set(self.rejected), "dead letters that nobody wrote:", offsets)
        passed = set(handled)
        done = {o for o, returned in self.rejected.items() if returned or (returned is False and o in passed)}
        lost = done - set(offsets) - set(self.deleted)
        demand(not lost, "rejected, handled, and not in the dead letters:", sorted(lost))
        back = {offset for offset, returned in self.deleted.items() if returned} & set(offsets)
        demand(not back, "deleted, and in the dead letters again:", sorted(back))
        again = [*records, *self._reclaimed()]  # appended anew, and perhaps purged since, or acked by all
        for at, payload in self.replayed.items():
            there = at in offsets or any(found == payload and offset != at for offset, found in again)
            demand(there, "replayed, gone from the dead letters, and not in the log:", at)
