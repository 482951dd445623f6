"""The records of a log as plain dicts and sets: what was accepted, what may be gone, what counts against a limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from seglog import DeadLetter, Gap, Message
from tests.support.model_consumer import Now, Position, Tracked
from tools.crashtest.history import demand


@dataclass(frozen=True)
class Kept:
    """A record, as it must read back."""

    payload: bytes
    key: bytes | None = None
    headers: dict[str, bytes] = field(default_factory=dict)
    due_ns: int = 0  # 0: at once
    expiry_ns: int = 0  # 0: never
    time_ns: int = 0  # when it was appended
    batch: int = -1  # the offset of the first record of its batch

    def expired(self, now: Now) -> bool:
        return 0 < self.expiry_ns <= now.wall_ns

    def agrees(self, found: Message[bytes] | DeadLetter) -> bool:
        return (self.payload, self.key, self.headers) == (found.payload, found.key, found.headers)


@dataclass
class Limits:
    """What the log was opened with, as far as it decides what may go."""

    max_records: int | None = None
    max_bytes: int | None = None
    when_full: str = "block"
    retention_bytes: int | None = None
    retention_seconds: float | None = None

    @property
    def retained(self) -> bool:
        return self.retention_bytes is not None or self.retention_seconds is not None

    def old_enough(self, record: Kept, now: Now) -> bool:
        """Whether retention lets a record go that all have passed."""
        if self.retention_bytes is not None or self.retention_seconds is None:
            return True
        return record.time_ns + self.retention_seconds * 1e9 <= now.wall_ns


class ModelRecords:
    """What must be in the log, and how much of it."""

    def __init__(self) -> None:
        self.records: dict[int, Kept] = {}  # accepted, by offset, ascending
        self.first = 0  # what lies below is given up
        self.durably_first = 0  # the same, for ever
        self.let_go: set[int] = set()  # at some time nobody wanted them any more: they may be gone
        self.gone: set[int] = set()  # of those, the ones that were seen to be gone
        self.shown = 0  # offsets below were given out or shown
        self.durable = 0  # all below survives power loss
        self.visible = 0
        self.failed = False  # LogFailed was raised: no append works until the log is opened again
        self.unsure: list[list[Kept]] = []  # batches that are in or out; the next opening decides
        self.limits = [Limits()]  # those in force; more than one if a fault struck when they were set
        self.fussy = False  # there is a serializer that does not read some payloads
        self.consumers: dict[str, Tracked] = {}
        self.maybe_consumers: dict[str, Position] = {}  # the process died while it registered them
        self.maybe_removed: set[str] = set()
        self.perhaps_removed: dict[str, Tracked] = {}  # not there, but while half of meta is torn they may come back

    # -- records

    def accepted(self, base: int, batch: Sequence[Kept]) -> None:
        """An append returned."""
        demand(base >= self.shown, f"offset {base} was given out, but all below {self.shown} had been used")
        for offset, record in enumerate(batch, base):
            self.records[offset] = replace(record, batch=base)
        self.shown = base + len(batch)

    def progressed(self, next_offset: int, durable: int, visible: int) -> None:
        """What the log says of its ends; it is held to it from now on."""
        demand(next_offset >= self.shown, f"next offset {next_offset}, but all below {self.shown} had been shown")
        demand(self.durable <= durable <= next_offset, f"durable {durable} after {self.durable}, of {next_offset}")
        self.shown, self.durable, self.visible = next_offset, durable, visible

    def present(self) -> list[int]:
        """The offsets that readers see."""
        return [offset for offset in self._kept() if offset < self.visible]

    def _kept(self) -> list[int]:
        """The offsets that are there, visible or not."""
        return [offset for offset in self.records if offset >= self.first and offset not in self.gone]

    def note_let_go(self, now: Now) -> None:
        """To be called before whatever may reclaim: what nobody wants any more may be gone after it."""
        for offset in self._kept():
            record = self.records[offset]
            if not any(limits.old_enough(record, now) for limits in self.limits):
                continue
            if self.consumers:
                unwanted = all(record.expired(now) or c.maybe_handled(offset) for c in self.consumers.values())
            else:
                unwanted = any(limits.retained for limits in self.limits)
            if unwanted:
                self.let_go.add(offset)

    def begins_at(self, first: int) -> None:
        """The log says where it begins: past nothing that anybody may still want."""
        demand(first >= self.first, f"begins at {first}, and before that at {self.first}")
        lost = [offset for offset in self.present() if offset < first and offset not in self.let_go]
        demand(not lost, f"begins at {first}, past what is still wanted:", lost)
        self.first = first

    def check_read(self, found: Sequence[Message[bytes]], *, end: int | None = None) -> None:
        """P3: exactly what was accepted and is visible, in order; only what all have passed may be missing."""
        offsets = [message.offset for message in found]
        demand(offsets == sorted(set(offsets)), "offsets do not ascend:", offsets)
        self._check_same(found)
        there = {offset for offset in self.present() if end is None or offset < end}
        missing = there.difference(offsets)
        demand(missing <= self.let_go, "accepted, and not read:", sorted(missing - self.let_go))
        strange = set(offsets) - there
        demand(not strange, "given up, gone or not yet visible, and read:", sorted(strange))
        self.gone |= missing

    def _check_same(self, found: Iterable[Message[bytes]]) -> None:
        for message in found:
            kept = self.records.get(message.offset)
            demand(kept is not None, f"offset {message.offset} was never accepted, or lost before:", message.payload)
            assert kept is not None
            demand(kept.agrees(message), f"offset {message.offset} holds something else:", kept, tuple(message))

    def check_gaps(self, gaps: Iterable[Gap], now: Now, *, reasons: Collection[str]) -> None:
        """Nobody is told of a gap where there is something to read."""
        for gap in gaps:
            inside = [o for o in self.present() if gap.first_offset <= o <= gap.last_offset]
            wrong = [o for o in inside if o not in self.let_go and not self.records[o].expired(now)]
            demand(gap.reason in reasons and not wrong, "told of a gap:", gap, wrong)

    def reopened(self, found: Sequence[Message[bytes]], first: int, *, lossless: bool) -> None:
        """P1 to P4, after a new opening: what it found is the log from now on.

        lossless: nobody cut the power, so that all that an append returned for is there, synced or not.
        """
        held = {message.offset: message for message in found}
        demand(first >= self.durably_first, f"begins at {first}, and once began at {self.durably_first}")
        # What was dropped shortly before a crash may be back: that was never promised to be durable.
        gone = {o for o in self.records if o not in held and (o < first or o in self.let_go)}
        wanted = [o for o in gone if o >= self.first and o not in self.let_go]
        demand(not wanted, f"begins at {first}, past what is still wanted:", wanted)
        missing = [offset for offset in self.records if offset not in held and offset not in gone]
        if missing:
            demand(not lossless, "accepted, and lost though only the process died:", missing)
            demand(missing[0] >= self.durable, "durable, and lost:", missing)
            batch = self.records[missing[0]].batch
            after = [offset for offset in held if offset >= batch]
            demand(not after, f"the batch at {batch} is lost, and these of it or later are there:", after)
        new = [message for offset, message in held.items() if offset not in self.records]
        self._check_unsure(new)
        for offset in missing:
            del self.records[offset]
        for message in new:
            self.records[message.offset] = self._unsure_record(message)
        self._check_same(found)
        back = [o for o in held if o in self.gone]
        demand(not back, "gone, and back again:", back)
        self.gone |= {offset for offset in gone if offset >= first}
        self.first = first
        self.unsure.clear()
        self.failed = False

    def _check_unsure(self, new: Sequence[Message[bytes]]) -> None:
        """P2, P3: of the batches that were in flight each is in or out, as a whole and in order."""
        left = list(new)
        demand(not left or left[0].offset >= self.shown, "a new record at a used offset:", left)
        for batch in self.unsure:
            if len(left) >= len(batch) and all(k.agrees(m) for k, m in zip(batch, left, strict=False)):
                offsets = [message.offset for message in left[: len(batch)]]
                demand(offsets == list(range(offsets[0], offsets[0] + len(batch))), "a batch torn apart:", offsets)
                del left[: len(batch)]
        demand(not left, "never submitted, or half a batch:", left)

    def _unsure_record(self, message: Message[bytes]) -> Kept:
        for batch in self.unsure:
            for number, record in enumerate(batch):
                if record.agrees(message):
                    return replace(record, batch=message.offset - number)
        raise AssertionError(message)

    # -- limits

    def used(self) -> tuple[list[int], list[int]]:
        """The records that surely, and those that may count against a limit."""
        marks = [self._watermarks(c) for c in self.consumers.values()] or [(self.first, self.first)]
        low, high = min(low for low, _ in marks), min(high for _, high in marks)
        kept = self._kept()
        return [o for o in kept if o >= high and o not in self.let_go], [o for o in kept if o >= low]

    def _watermarks(self, consumer: Tracked) -> tuple[int, int]:
        """The lowest and the highest offset at which the consumer may stand."""
        position = consumer.position
        possible = [position]
        if consumer.opening is None:  # else it is known
            possible += [*consumer.others, Position(position.start, position.acked - consumer.passed)]
        lowest = [next((o for o in self.records if not one.handled(o)), self.shown) for one in possible]
        # What was given up, it may have passed already, or come to it later.
        highest = [next((o for o in self._kept() if not one.handled(o)), self.shown) for one in possible]
        return min(self._before_a_gap(one, mark) for one, mark in zip(possible, lowest, strict=True)), max(highest)

    def _before_a_gap(self, position: Position, mark: int) -> int:
        """Offsets that a power cut took back lie before `mark` perhaps, and nobody has come to them yet."""
        following = position.start
        for offset in self.records:
            if offset >= mark:
                break
            if offset > following >= position.start:
                return following
            following = max(following, offset + 1)
        return min(mark, following)

    def admits(self, count: int) -> tuple[bool, bool]:
        """Whether so many records must, and may fit, dropping nothing."""
        (limits,) = self.limits[-1:]
        most = limits.max_records
        surely, maybe = self.used()
        must_fit = limits.max_bytes is None and (most is None or len(maybe) + count <= most)
        return must_fit, most is None or len(surely) + count <= most

    def droppable(self, count: int) -> list[int]:
        """What may be given up so that so many more fit, oldest first; what all have passed goes with it."""
        (limits,) = self.limits[-1:]
        _, counted = self.used()
        if limits.when_full != "drop_oldest" or (limits.max_bytes is None and limits.max_records is None):
            return []
        if limits.max_bytes is None and limits.max_records is not None:
            counted = counted[: max(0, len(counted) + count - limits.max_records)]
        return [offset for offset in self._kept() if counted and offset <= counted[-1]]
