"""What a log promises, as plain dicts and sets: the model that `log_machine` holds the real log against.

Exact where something is promised, loose where nothing is: every "maybe" in here is a call that failed or died half-way,
and ends with the first look at what became of it. It knows nothing of files, and of seglog only the values it gives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from seglog import DeadLetter, LogStats, Message
from tests.support.model_consumer import NEVER, Now, Position, Tracked
from tests.support.model_records import Kept, ModelRecords
from tools.crashtest.history import demand


@dataclass
class Letter:
    """A dead letter, as it must read back. `id` is learned from the first look."""

    consumer: str
    offset: int
    reasons: tuple[str, ...]
    record: Kept
    in_order: bool = True  # False: it may have been written by an earlier call that failed
    id: int | None = None

    @property
    def identity(self) -> tuple[str, int]:
        return self.consumer, self.offset


class ModelLog(ModelRecords):
    """Who has handled what, who may be given what, and what became a dead letter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Letter] = []
        self.maybe_letters: list[Letter] = []

    def check_stats(self, stats: LogStats, durability: str) -> None:
        """The numbers are those of the lists."""
        ends = stats.first_offset, stats.next_offset, stats.durable_offset
        demand(ends == (self.first, self.shown, self.durable), "ends:", stats, ends)
        demand(stats.records == len(self.present()), f"{stats.records} records, not {len(self.present())}")
        demand(stats.dead_letters >= len(self.letters), f"{stats.dead_letters} dead letters, not {len(self.letters)}")
        for name, found in stats.consumers.items():
            tracked = self.consumers[name]
            if tracked.opening is not None:
                lag, flying = len(self.left(tracked)), tracked.opening.flying
                demand(found.lag_records == lag, f"{name}: lag {found.lag_records}, not {lag}")
                demand(found.in_flight == len(flying), f"{name}: {found.in_flight} in flight, not {flying}")
                ready = max(0, lag - len(flying) - (found.delayed or 0))
                demand(found.ready == ready, f"{name}: {found.ready} ready, not {ready}")

    # -- consumers

    def left(self, consumer: Tracked) -> list[int]:
        """What this consumer has not handled, in order."""
        return [offset for offset in self.present() if not consumer.handled(offset)]

    def check_unacked(
        self, consumer: Tracked, found: Sequence[Message[bytes]], now: Now, *, opened: bool = False
    ) -> None:
        """P5: not handled is exactly what was not acked.

        opened: the consumer was just opened, which settles what its file holds after a write that failed.
        """
        self._check_same(found)
        offsets = [message.offset for message in found]
        demand(offsets == sorted(set(offsets)), "unacked() is out of order:", offsets)
        wrong = []
        for position in [consumer.position, *consumer.others] if opened else [consumer.position]:
            wanted = {offset for offset in self.present() if not position.handled(offset)}
            missing, again = wanted.difference(offsets), set(offsets) - wanted
            lost = missing - self.let_go - self._passed_over(consumer, missing, now)
            if not again and not lost:
                consumer.position = position
                consumer.pass_over(missing)
                if opened:
                    consumer.others.clear()
                    consumer.passed = set()
                return
            wrong.append(f"handled and here again {sorted(again)}, not handled and gone {sorted(lost)}")
        demand(False, f"unacked() of {consumer.name!r}:", *wrong)

    def _passed_over(self, consumer: Tracked, offsets: Iterable[int], now: Now) -> set[int]:
        """Which of these the consumer may have passed over: expired, or in the dead letters."""
        kept = {letter.offset for letter in self.letters + self.maybe_letters if letter.consumer == consumer.name}
        return {o for o in offsets if self.records[o].expired(now) or o in kept or o in consumer.passed}

    def given_up(self, consumer: Tracked, now: Now) -> tuple[list[int], list[int]]:
        """What surely, and what maybe goes to the dead letters instead of being given out."""
        opening = consumer.opening
        assert opening is not None
        surely, maybe = [], []
        for offset in self.left(consumer):
            record = self.records[offset]
            if offset in opening.flying or self._hidden(consumer, offset, now):
                continue
            unreadable = self.fussy and record.payload.startswith(b"!")
            if unreadable or opening.exhausted(consumer.failures.get(offset, (0, 0))[0]):
                surely.append(offset)
            elif opening.exhausted(consumer.most_failures(offset)):
                maybe.append(offset)
        return surely, maybe

    def _hidden(self, consumer: Tracked, offset: int, now: Now) -> bool:
        """Surely not to be given out yet."""
        opening = consumer.opening
        assert opening is not None
        earliest, _ = opening.front.get(offset, (0.0, 0.0))
        return earliest > now.monotonic or self.records[offset].due_ns > now.wall_ns

    def deliver(
        self, consumer: Tracked, found: Sequence[Message[bytes]], limit: int, max_bytes: int | None, now: Now
    ) -> None:
        """What a receive gave: allowed, in order, and not nothing while there was something."""
        opening = consumer.opening
        assert opening is not None
        offsets = [message.offset for message in found]
        self._check_same(found)
        demand(len(found) <= limit, f"asked for {limit}, given", offsets)
        room = opening.options["max_in_flight"] - len(opening.flying)
        demand(len(found) <= room, f"{len(found)} given with room for {room} in flight")
        size = sum(len(message.payload) for message in found)
        demand(max_bytes is None or size <= max_bytes or len(found) == 1, f"{size} bytes given of at most {max_bytes}")
        self._check_alone(consumer, offsets)
        surely, maybe = self.given_up(consumer, now)
        expected, anyhow = self._available(consumer, now, {*surely, *maybe})
        allowed = {*expected, *anyhow, *maybe}
        demand(len(set(offsets)) == len(offsets), "given twice:", offsets)
        demand(allowed.issuperset(offsets), "handled, hidden, not due or given up:", sorted(set(offsets) - allowed))
        wanted = [offset for offset in expected if offset not in self.let_go or offset in offsets]
        given = [offset for offset in offsets if offset in wanted]
        if given != wanted[: len(given)]:
            blamed = [one for one in wanted if opening.may_be_blamed(one) and _in_order(given, wanted, one)]
            demand(bool(blamed), "out of order:", given, "instead of", wanted[: len(given)])
            opening.blame(blamed[0])
        if not found and room > 0 and not opening.alone and not (opening.flying and opening.doubtful):
            waiting = [o for o in (*expected, *anyhow) if o not in self.let_go and self._due(consumer, o, now)]
            if len(waiting) == 1 and opening.may_be_blamed(waiting[0]) and now.monotonic < opening.blame_until:
                opening.blame(waiting.pop())
            demand(not waiting, "given nothing, though there was:", waiting)
        for message in found:
            self._given(consumer, message, now)

    def _check_alone(self, consumer: Tracked, offsets: Sequence[int]) -> None:
        """After a death, what was in flight goes one at a time, and nothing else beside it."""
        opening = consumer.opening
        assert opening is not None
        if not opening.all_doubtful and offsets:
            demand(not opening.alone, "given while a doubtful message is in flight:", offsets)
            doubtful = opening.doubtful.intersection(offsets)
            demand(not doubtful or len(offsets) + len(opening.flying) == 1, "not given alone:", doubtful, offsets)

    def _available(self, consumer: Tracked, now: Now, without: set[int]) -> tuple[list[int], list[int]]:
        """What may be given now: put back and then fresh, in this order; and what may come anywhere between."""
        opening = consumer.opening
        assert opening is not None
        front: list[tuple[float, int]] = []
        fresh: list[int] = []
        anyhow: list[int] = []
        for offset in self.left(consumer):
            record = self.records[offset]
            if offset in opening.flying or offset in without or record.expired(now):
                continue
            if self._hidden(consumer, offset, now):
                continue
            earliest, latest = opening.front.get(offset, (NEVER, NEVER))
            if offset in opening.shuffled or (earliest != latest):
                anyhow.append(offset)
            elif earliest != NEVER:
                front.append((earliest, offset))
            elif record.due_ns:
                anyhow.append(offset)
            else:
                fresh.append(offset)
        return [*(offset for _, offset in sorted(front)), *fresh], anyhow

    def _due(self, consumer: Tracked, offset: int, now: Now) -> bool:
        opening = consumer.opening
        assert opening is not None
        return opening.front.get(offset, (0.0, 0.0))[1] <= now.monotonic

    def _given(self, consumer: Tracked, message: Message[bytes], now: Now) -> None:
        opening = consumer.opening
        assert opening is not None
        offset, failures = message.offset, message.attempts - 1
        low, high = consumer.failures.get(offset, (0, 0))[0], consumer.most_failures(offset)
        demand(low <= failures <= high, f"delivery {failures + 1} of {offset}, after {low} to {high} failures")
        demand(not opening.exhausted(failures), f"delivery {failures + 1} of {offset}, more than were asked for")
        consumer.learn(offset, failures)
        doubtful = offset in opening.doubtful
        opening.answered([offset])
        if doubtful:
            opening.doubtful.add(offset)
        opening.given.add(offset)
        opening.shuffled.discard(offset)
        lease = opening.options["lease"]
        opening.flying[offset] = NEVER if lease is None else now.monotonic + lease

    def register(self, name: str, start: int) -> Tracked:
        """A new consumer; unless it is an old one, whose removal failed."""
        tracked = self.consumers[name] = Tracked(name, Position(start))
        old = self.perhaps_removed.pop(name, None)
        if old is not None:
            tracked.others = [old.position, *old.others]
            tracked.failures = {offset: (0, high) for offset, (_, high) in old.failures.items()}
            tracked.exact = False
        return tracked

    def check_names(self, names: Collection[str]) -> None:
        """Who is registered; settles for whom a crash decided that."""
        for name, position in self.maybe_consumers.items():
            if name in names and name not in self.consumers:
                self.consumers[name] = Tracked(name, position)
        for name in self.maybe_removed:
            if name not in names:
                self.perhaps_removed[name] = self.consumers.pop(name)
        for name in self.perhaps_removed.keys() & set(names) - self.consumers.keys():
            self.consumers[name] = self.perhaps_removed.pop(name)
        self.maybe_consumers.clear()
        self.maybe_removed.clear()
        demand(set(names) == set(self.consumers), "registered:", sorted(names), "instead of", sorted(self.consumers))

    # -- dead letters

    def check_letters(self, found: Sequence[DeadLetter]) -> None:
        """Each diverted record is there exactly once, oldest first."""
        keys = [(letter.consumer, letter.offset) for letter in found]
        demand(len(set(keys)) == len(keys), "kept twice in the dead letters:", keys)
        surely = {letter.identity: letter for letter in self.letters}
        known = {letter.identity: letter for letter in self.maybe_letters} | surely
        demand(known.keys() >= set(keys), "dead letters that nobody wrote:", keys, "instead of", list(known))
        demand(surely.keys() <= set(keys), "dead letters lost:", keys, "instead of", list(surely))
        ordered = [letter.identity for letter in self.letters if letter.in_order]
        order = [key for key in keys if key in ordered]
        demand(order == ordered, "dead letters out of order:", order, "instead of", ordered)
        ids = [letter.id for letter in found]
        demand(ids == sorted(set(ids)), "ids do not ascend:", ids)
        for key, letter in zip(keys, found, strict=True):
            kept = known[key]
            demand(kept.record.agrees(letter) and letter.reason in kept.reasons, f"letter of {key}:", letter, kept)
            demand(kept.id in (None, letter.id), f"letter of {key} was {kept.id} and is", letter.id)
            kept.id = letter.id

    def diverted(self, letter: Letter, *, surely: bool) -> None:
        """A dead letter was written, or may have been; one that is there already stays as it is."""
        if any(letter.identity == other.identity for other in self.letters):
            return
        earlier = [other for other in self.maybe_letters if letter.identity == other.identity]
        if surely and earlier:
            reasons = tuple(reason for one in (letter, *earlier) for reason in one.reasons)
            letter = replace(letter, reasons=reasons, in_order=False)
            self.maybe_letters = [other for other in self.maybe_letters if other not in earlier]
        (self.letters if surely else self.maybe_letters).append(letter)

    def letters_missing(self, consumer: Tracked, offsets: Iterable[int], now: Now) -> list[int]:
        """Those of these that should be dead letters of the consumer and are not (nor expired meanwhile)."""
        kept = {letter.identity for letter in (*self.letters, *self.maybe_letters)}
        return [o for o in offsets if (consumer.name, o) not in kept and not self.records[o].expired(now)]

    def undiverted(self, ids: Collection[int], *, surely: bool) -> None:
        """Dead letters were deleted, or may have been."""
        gone = [letter for letter in self.letters if letter.id in ids]
        self.letters = [letter for letter in self.letters if letter not in gone]
        if surely:
            self.maybe_letters = [letter for letter in self.maybe_letters if letter.id not in ids]
        else:
            self.maybe_letters += [replace(letter, in_order=False) for letter in gone]


def _in_order(given: Sequence[int], wanted: Sequence[int], blamed: int) -> bool:
    rest = [offset for offset in wanted if offset != blamed]
    return [offset for offset in given if offset != blamed] == rest[: len([o for o in given if o != blamed])]


def chosen(items: Collection[int], picks: Sequence[int]) -> list[int]:
    """Some of these, each once, as the drawn numbers say."""
    ordered = sorted(items)
    return list(dict.fromkeys(ordered[pick % len(ordered)] for pick in picks)) if ordered else []
