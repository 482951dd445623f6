"""The state machine: everything a program may do to a log, in any order, each answer held against `model_log`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import shake_256
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

import seglog
from seglog.testing import Fault
from tests.support.consumer_machine import NAMES, ConsumerMachine, options_of_consumer, picks, which
from tests.support.machine_life import PATH, Died, Fussy, Outcome, tally
from tests.support.model_log import chosen
from tests.support.model_records import Kept
from tools.crashtest.history import demand

sizes = st.sampled_from([0, 1, 40, 700, 1200, 1500, 5000])
kinds = st.sampled_from(["plain", "plain", "plain", "key", "headers", "delay", "ttl", "both", "unreadable"])
seeds = st.integers(0, 1 << 16)
options_of_open = st.fixed_dictionaries(
    {
        "durability": st.sampled_from(["always", "always", "never", "interval"]),
        "segment_bytes": st.sampled_from([4096, 4096, 16384]),
        "compression": st.sampled_from([None, "zstd"]),
        "serializer": st.sampled_from([None, None, Fussy()]),
        "when_full": st.sampled_from(["error", "drop_oldest", "block"]),
        "max_records": st.sampled_from([None, None, None, 8, 20]),
        "max_bytes": st.sampled_from([None, None, None, 15_000]),
        "retention_seconds": st.sampled_from([None, None, 50.0]),
        "retention_bytes": st.sampled_from([None, None, None, 6000]),
    }
)


@dataclass(frozen=True)
class Room:
    """What the limits say of an append before it is made: it must fit, may fit, and what may go for it."""

    must_fit: bool
    may_fit: bool
    droppable: list[int]
    most: int


class LogMachine(ConsumerMachine):
    """One directory, and all that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0  # so that every payload is another

    # -- appends

    def _record(self, size: int, kind: str) -> tuple[seglog.Record[bytes], Kept]:
        self.written += 1
        payload = b"" if size == 0 else b"%d:" % self.written + shake_256(b"%d" % self.written).digest(size)
        if kind == "unreadable":
            payload = b"!" + payload
        key = b"key %d" % self.written if kind in ("key", "both") else None
        headers = {"n": b"%d" % self.written} if kind in ("headers", "both") else {}
        delay = 10.0 if kind in ("delay", "both") else None
        ttl = 100.0 if kind in ("ttl", "both") else None
        now = self.now.wall_ns
        due_ns, expiry_ns = now + 10 * 10**9 if delay else 0, now + 100 * 10**9 if ttl else 0
        record = seglog.Record(payload, key=key, headers=headers or None, delay=delay, ttl=ttl)
        return record, Kept(payload, key, headers, due_ns, expiry_ns, now)

    def _append(self, kept: Sequence[Kept], outcome: Outcome[int], before: Room) -> None:
        model = self.model
        if outcome.done:
            demand(not (model.failed and kept), "accepted, though LogFailed was raised before")
            assert outcome.answer is not None
            demand(before.may_fit or bool(before.droppable) or not kept, "accepted beyond the limit")
            model.accepted(outcome.answer, kept)
            tally["records accepted"] += len(kept)
        elif outcome.died or isinstance(outcome.error, seglog.LogFailed):
            if not model.failed:
                model.unsure.append(list(kept))
            model.failed = True
        elif isinstance(outcome.error, seglog.LogFull):
            tally["appends refused as the log was full"] += 1
            demand(not before.must_fit or outcome.struck, "refused, though there is room:", outcome.error)
            drops = self.options["when_full"] == "drop_oldest" and self.options["max_bytes"] is None
            demand(len(kept) > before.most or not drops, "full, though the oldest can be dropped:", outcome.error)
        else:
            demand(outcome.excused and not model.failed, "not accepted:", repr(outcome.error))
        if outcome.died:
            model.let_go.update(before.droppable)
        else:
            dropped = {offset for offset in before.droppable if offset < self.log.first_offset}
            tally["records dropped"] += len(dropped)
            model.let_go.update(dropped)
            self.progress()
            if outcome.done and kept:
                self._check_limits()

    def _check_limits(self) -> None:
        """Never more than what was allowed, and the count is right."""
        stats, (surely, maybe) = self._stats(), self.model.used()
        if stats.max_records is not None:
            demand(stats.used_records is not None and stats.used_records <= stats.max_records, "too many:", stats)
            demand(len(surely) <= (stats.used_records or 0) <= len(maybe), "used:", surely, stats.used_records, maybe)
        if stats.max_bytes is not None:
            demand(stats.used_bytes is not None and stats.used_bytes <= stats.max_bytes, "too many bytes:", stats)

    def _stats(self) -> seglog.LogStats:
        """Whoever counts what is in flight notices leases that have ended."""
        for name in self.open:
            self.model.consumers[name].expire(self.now)
        return self.log.stats()

    def _room(self, count: int) -> Room:
        must, may = self.model.admits(count)
        return Room(must, may, self.model.droppable(count), self.options["max_records"] or 1 << 62)

    @rule(size=sizes, kind=kinds, later=st.booleans())
    def append(self, size: int, kind: str, later: bool) -> None:
        record, kept = self._record(size, kind)
        extras: dict[str, Any] = {
            "key": record.key,
            "headers": record.headers,
            "delay": record.delay,
            "ttl": record.ttl,
        }

        def work() -> int:
            if later:
                return self.log.submit(record.value, timeout=0, **extras).result(60)
            return self.log.append(record.value, timeout=0, **extras)

        room = self._room(1)
        self._append([kept], self.attempt(work), room)
        self.after()

    @rule(wanted=st.lists(st.tuples(sizes, kinds), max_size=6))
    def append_many(self, wanted: list[tuple[int, str]]) -> None:
        made = [self._record(size, kind) for size, kind in wanted]
        room = self._room(len(made))
        outcome = self.attempt(lambda: self.log.append_many([record for record, _ in made], timeout=0).start)
        self._append([kept for _, kept in made], outcome, room)
        self.after()

    def _sync(self) -> None:
        outcome = self.attempt(self.log.sync)
        if outcome.done:
            demand(not self.model.failed, "sync says nothing after LogFailed")
            demand(self.log.durable_offset == self.log.next_offset, "synced, and not durable")
        else:
            demand(outcome.excused, "sync:", repr(outcome.error))
            self.model.failed = self.model.failed or isinstance(outcome.error, seglog.LogFailed)

    # -- dead letters

    @precondition(lambda self: self.model.letters)
    @rule(what=st.sampled_from(["get", "delete", "delete", "purge", "replay", "replay"]), some=picks)
    def letters(self, what: str, some: list[int]) -> None:
        """One of the calls that name dead letters by their ids."""
        found = list(self.log.dead_letters)
        self.model.check_letters(found)
        ids = chosen([letter.id for letter in found], some)
        if what == "get":
            for id in (*ids, max(letter.id for letter in found) + 1):
                there = [letter for letter in found if letter.id == id]
                demand(self.log.dead_letters.get(id) == (there[0] if there else None), "get:", id)
        elif what == "delete":
            self._delete_letters(ids, lambda: self.log.dead_letters.delete(ids))
        elif what == "purge":
            older = some[0] * 10.0
            limit = self.now.wall_ns - older * 1e9
            old = [letter.id for letter in found if round(letter.timestamp * 1e9) < limit]
            self._delete_letters(old, lambda: self.log.dead_letters.purge(older_than=older))
        else:
            self._replay(ids)
        self.after()

    def _delete_letters(self, ids: Sequence[int], work: Callable[[], int]) -> None:
        outcome = self.attempt(work)
        if outcome.done:
            demand(outcome.answer == len(ids), f"deleted {outcome.answer} of", ids)
        else:
            demand(outcome.excused or outcome.died, "delete:", repr(outcome.error))
        self.model.undiverted(ids, surely=outcome.done)

    def _replay(self, ids: Sequence[int]) -> None:
        """The records come again, at the end, and the entries go; under limits one by one."""
        model, now = self.model, self.now.wall_ns
        known = {letter.id: letter.record for letter in (*model.maybe_letters, *model.letters)}
        kept = [replace(known[id], due_ns=0, expiry_ns=0, time_ns=now) for id in ids]
        limited = self.options["max_records"] is not None or self.options["max_bytes"] is not None
        batches = [[record] for record in kept] if limited else [kept]
        room, before = self._room(len(kept)), model.shown
        outcome = self.attempt(lambda: self.log.dead_letters.replay(ids, timeout=0))
        if outcome.died:
            model.undiverted(ids, surely=False)
            model.unsure += batches
            model.let_go.update(room.droppable)
            return
        done = self.log.next_offset - before
        demand(not outcome.done or outcome.answer == [*range(before, before + len(ids))], "replayed:", outcome.answer)
        full = isinstance(outcome.error, seglog.LogFull) and not room.must_fit
        demand(outcome.done or full or outcome.excused or model.failed, "replay:", repr(outcome.error))
        model.undiverted(ids[:done], surely=not outcome.struck)
        while done:
            model.accepted(model.shown, batches[0])
            done -= len(batches.pop(0))
        if isinstance(outcome.error, seglog.LogFailed) and not model.failed:
            model.unsure += batches
            model.failed = True
        model.let_go.update(offset for offset in room.droppable if offset < self.log.first_offset)
        self.progress()

    # -- housekeeping, time, faults

    @rule(
        what=st.sampled_from(["compact", "compact", "purge", "sync", "remove", "close", "look", "beside"]), index=which
    )
    def keep_house(self, what: str, index: int) -> None:
        if what == "compact":
            self._compact()
        elif what == "purge":
            self._purge()
        elif what == "sync":
            self._sync()
        elif what == "remove":
            self._remove_consumer(NAMES[index])
        elif what == "close" and self.open:
            self._close_consumer(self._some(index)[0])
        elif what == "beside":
            self._look_from_beside(NAMES[index])
        else:
            self._look(index)
        self.after()

    def _compact(self) -> None:
        outcome = self.certain(lambda log: log.compact())
        if outcome.answer is not None and not outcome.died:
            tally["segments reclaimed by compact()"] += outcome.answer.removed_segments
            demand(outcome.answer.first_offset <= self.log.first_offset, "compact says", outcome.answer)
            for name in self.open:
                tracked = self.model.consumers[name]
                tracked.stored(tracked.position)

    def _purge(self) -> None:
        count = len([o for o in self.model.records if o >= self.model.first and o not in self.model.gone])
        self.model.let_go.update(self.model.records)
        outcome = self.certain(lambda log: log.purge())
        self.model.let_go.update(self.model.records)
        if outcome.answer is not None and not outcome.died:
            demand(outcome.answer == count or outcome.struck, f"purged {outcome.answer} of {count} records")
            demand(self.log.first_offset == self.log.next_offset, "purged, and not empty")
            self.model.durably_first = self.log.first_offset

    def _look(self, index: int) -> None:
        """All that tells and changes nothing."""
        log, model = self.log, self.model
        found = list(log.read(on_gap=self._on_gap))
        model.check_read(found)
        by_offset = {message.offset: message for message in found}
        for offset in range(model.shown - 8, model.shown + 2):
            demand(log.get(offset) == by_offset.get(offset), "get:", offset)
        first = model.shown * index // 3
        demand(list(log.read(first, first + 5)) == [m for m in found if first <= m.offset < first + 5], "read:", first)
        log.wait_durable(model.durable - 1, timeout=0)
        with suppress(TimeoutError):
            log.wait_durable(model.durable, timeout=0)
            demand(False, "durable, and not said so:", model.durable)
        model.check_letters(list(log.dead_letters))
        stats = self._stats()
        model.check_names(stats.consumers)
        model.check_stats(stats, self.options["durability"])
        self.verify()

    def _look_from_beside(self, name: str) -> None:
        """Another process reads the same, and takes and acks a little for a consumer that nobody else holds."""
        model = self.model
        if self.struck:  # a hint that could not be written may keep things from it for a while
            return
        with seglog.open(PATH, "r", disk=self.faults, clock=self.clock) as beside:
            model.check_read(self._not_given_up(beside.read(on_gap=self._on_gap)))
            tracked = model.consumers.get(name)
            if tracked is None:
                return
            if name in self.open:
                try:
                    beside.consumer(name)
                except seglog.ConsumerBusy:
                    return
                demand(False, f"{name!r} is held twice")
            with beside.consumer(name, on_gap=self._on_gap) as consumer:
                left = self._not_given_up(consumer.unacked())
                model.check_unacked(tracked, left, self.now, opened=True)
                tracked.opens({"max_attempts": None, "backoff": None}, self.now)
                taken = [message.offset for message in self._not_given_up(consumer.receive_many(2))]
                demand(set(taken) <= {message.offset for message in left}, "handled, and given out:", taken)
                consumer.ack(*taken)
            tracked.stored(tracked.position.with_acked(taken))
            tracked.closed(surely=True)

    def _not_given_up(self, messages: Iterable[seglog.Message[bytes]]) -> list[seglog.Message[bytes]]:
        """What was dropped a moment ago, other processes may still see."""
        return [message for message in messages if message.offset >= self.model.first]

    @rule(seconds=st.sampled_from([0.5, 6.0, 31.0, 101.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.armed is None)
    @rule(
        nth=st.integers(1, 24),
        error=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES, Died]),
        power=seeds,
        after=st.booleans(),
    )
    def fault(self, nth: int, error: Any, power: int, after: bool) -> None:
        """One call to the disk will fail, or be the last."""
        dies = error is Died
        part = 0 if dies else power % 5  # what a kill leaves of a write is cut at a page; a device cuts at a sector
        self.armed = Fault(
            nth, Died() if dies else error, onwards=dies, after=after, written=lambda length: length * part // 4
        )
        self.power = power if power % 2 else 0

    @initialize(options=options_of_open, consumers=st.lists(options_of_consumer, min_size=1, max_size=2))
    def begin(self, options: dict[str, Any], consumers: list[dict[str, Any]]) -> None:
        tally["examples"] += 1
        self.open_log(options)
        for name, wanted in zip(NAMES, consumers, strict=False):
            self._opened(self.log.consumer(name, on_gap=self._on_gap, **wanted), [0], wanted)

    @rule(
        how=st.sampled_from(["close", "kill", "power"]), options=options_of_open, power=seeds, resume=st.integers(0, 3)
    )
    def end(self, how: str, options: dict[str, Any], power: int, resume: int) -> None:
        """This program ends, another begins, and perhaps goes on with the same consumers."""
        were_open = {name: self._opening_of(name).options for name in self.open}
        if how == "close":
            self.close_and_open(options)
        else:
            self.options = options
            self.crash_and_open(1 + power if how == "power" else 0)
        for name, wanted in were_open.items() if resume else ():
            if name in self.model.consumers:
                self._opened(self.log.consumer(name, on_gap=self._on_gap, **wanted), [], wanted)

    # -- what must hold after every step

    @invariant()
    def holds(self) -> None:
        tally["steps"] += 1
        self.progress()
        self.model.note_let_go(self.now)
        if not self.model.let_go <= self.model.gone:
            self.model.check_read(list(self.log.read(on_gap=self._on_gap)))
        for name, consumer in self.open.items():
            tracked = self.model.consumers[name]
            self.model.check_unacked(tracked, list(consumer.unacked()), self.now)
            count = len(self.model.left(tracked))
            demand(len(consumer) == count, f"len is {len(consumer)}, not {count}")
