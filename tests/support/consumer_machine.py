"""The steps of the state machine that belong to consumers: opening, receiving, answering, stepping back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

import seglog
from tests.support.machine_life import LifeMachine, Outcome, tally
from tests.support.model_consumer import Opening, Position, Tracked
from tests.support.model_log import Letter, chosen
from tools.crashtest.history import demand

NAMES = ["a", "b", "c"]

which = st.integers(0, 2)
picks = st.lists(st.integers(0, 15), min_size=1, max_size=4)
starts = st.sampled_from(["earliest", "earliest", "earliest", "earliest", "latest", "offset", "offset", "beyond"])
options_of_consumer = st.fixed_dictionaries(
    {
        "max_in_flight": st.sampled_from([10_000, 10_000, 3, 1]),
        "lease": st.sampled_from([20.0, None]),
        "max_attempts": st.sampled_from([None, None, 2]),
        "backoff": st.sampled_from([None, None, 4.0]),
    }
)


class ConsumerMachine(LifeMachine):
    """What consumers of one directory do."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[seglog.Gap] = []
        self.messages: dict[tuple[str, int], seglog.Message[bytes]] = {}  # as they were given out last

    # -- consumers: opening and closing

    def _on_gap(self, gap: seglog.Gap) -> None:
        self.gaps.append(gap)

    def _start(self, kind: str, pick: int) -> tuple[Any, int | None]:
        """What to ask for, and the offset that it means; None: refused."""
        end, first = self.model.visible, self.model.first
        if kind == "earliest":
            return kind, min(first, end)
        if kind == "latest":
            return kind, end
        if kind == "beyond":
            return end + 1 + pick, None
        offset = pick * (end + 1) // 16
        return offset, max(offset, min(first, end))

    @rule(name=st.sampled_from(NAMES), start=starts, pick=st.integers(0, 15), options=options_of_consumer)
    def consumer(self, name: str, start: str, pick: int, options: dict[str, Any]) -> None:
        tracked = self.model.consumers.get(name)
        meant: list[int | None] = []  # by each try: "latest" moves if the log had to be opened again in between

        def work() -> seglog.Consumer[bytes]:
            where, offset = self._start(start, pick)
            meant.append(offset)
            return self.log.consumer(name, where, on_gap=self._on_gap, **options)

        if name in self.open and pick % 4 == 0:
            outcome = self.attempt(work)
            if self._opening_of(name).options == options:
                demand(outcome.answer is self.open[name], "opened twice")
            else:
                outcome.refused(seglog.InvalidOption)
            self.after()
            return
        if name in self.open:
            self._close_consumer(self.open[name])
            if self.dead:
                self.after()
                return
        if tracked is None and start == "beyond":
            self.attempt(work).refused(seglog.OffsetOutOfRange)
        else:
            outcome = self.certain(lambda _: work())
            if outcome.answer is not None and not outcome.died:
                self._opened(outcome.answer, meant, options)
            elif tracked is None:
                self.model.maybe_consumers[name] = Position(meant[0] or 0)
        self.after()

    def _opened(self, consumer: seglog.Consumer[bytes], starts: Sequence[int | None], options: dict[str, Any]) -> None:
        """`starts`: where a new consumer was asked to begin, the last time and before that."""
        name = consumer.name
        tracked = self.model.consumers.get(name)
        if tracked is None:
            *before, start = (offset for offset in starts if offset is not None)
            tracked = self.model.register(name, start)
            tracked.others += map(Position, before)
        self.open[name] = consumer
        self.progress()
        self.model.check_unacked(tracked, list(consumer.unacked()), self.now, opened=True)
        tracked.opens(options, self.now)

    def _opening_of(self, name: str) -> Opening:
        opening = self.model.consumers[name].opening
        assert opening is not None
        return opening

    def _some(self, index: int) -> tuple[seglog.Consumer[bytes], Tracked, Opening]:
        names = sorted(self.open)
        name = names[index % len(names)]
        return self.open[name], self.model.consumers[name], self._opening_of(name)

    any_open = precondition(lambda self: self.open)

    def _close_consumer(self, consumer: seglog.Consumer[bytes]) -> None:
        outcome = self.attempt(consumer.close)  # whatever it says, it is closed
        del self.open[consumer.name]
        self.model.consumers[consumer.name].closed(surely=outcome.done and not self.struck)

    def _stuck(self, consumer: seglog.Consumer[bytes], outcome: Outcome[Any]) -> None:
        """A call failed, for a reason; LogFailed asks for a new opening."""
        demand(outcome.excused or outcome.died, "refused:", repr(outcome.error))
        if isinstance(outcome.error, seglog.LogFailed):
            self._close_consumer(consumer)

    def _remove_consumer(self, name: str) -> None:
        outcome = self.attempt(lambda: self.log.remove_consumer(name))
        if name not in self.model.consumers:
            outcome.refused(seglog.UnknownConsumer)
        else:
            if self.open.pop(name, None) is not None:
                self.model.consumers[name].closed(surely=False)
            if outcome.done:
                del self.model.consumers[name]
            else:
                self.model.maybe_removed.add(name)
                demand(outcome.excused, "remove_consumer:", repr(outcome.error))
                if not outcome.died:  # what became of it shows when the log is opened again
                    self.close_and_open(self.options)

    # -- receiving

    @any_open
    @rule(index=which, limit=st.integers(1, 5), max_bytes=st.sampled_from([None, None, None, 1, 1000, 2000]))
    def receive(self, index: int, limit: int, max_bytes: int | None) -> None:
        self._receive(index, limit, max_bytes)
        self.after()

    @any_open
    @rule(index=which, keep=st.integers(0, 3), seconds=st.sampled_from([0.0, 0.0, 25.0]))
    def work(self, index: int, keep: int, seconds: float) -> None:
        """What a consumer mostly does: take some, work on them for a while, ack all but a few of them."""
        taken = self._receive(index, 8, None)
        self.clock.advance(seconds)
        if len(taken) > keep and not self.dead:
            self._ack(*self._some(index), taken[keep:])
        self.after()

    @any_open
    @rule(index=which)
    def drain(self, index: int) -> None:
        """Until there is nothing more: then there must be nothing more."""
        for _ in range(200):
            if not self._receive(index, 100, None):
                break
        self.after()

    def _receive(self, index: int, limit: int, max_bytes: int | None) -> list[int]:
        consumer, tracked, opening = self._some(index)
        tracked.expire(self.now)
        opening.overtaken(min(self.model.first, self.model.durable))
        surely, maybe = self.model.given_up(tracked, self.now)
        counts = len(opening.flying) < opening.options["max_in_flight"] and not opening.alone
        waiting = {o: opening.front[o] for o in surely if o in opening.front and not self.model.records[o].due_ns}
        self.gaps.clear()
        outcome = self.attempt(lambda: consumer.receive_many(limit, max_bytes=max_bytes))
        self.model.check_gaps(self.gaps, self.now, reasons=("expired", "skipped", "purged", "dropped"))
        self._learn_letters(tracked, [*surely, *maybe], surely=not outcome.struck)
        found = outcome.answer
        if found is None or outcome.died:
            opening.shuffled.update(self.model.left(tracked))
            if outcome.died:
                tracked.unsure_failures += opening.uncounted
            else:
                self._stuck(consumer, outcome)
            return []
        if outcome.struck:  # what could not be kept as a dead letter comes again later
            opening.front.update(dict.fromkeys((*surely, *maybe), (0.0, self.now.monotonic + 5.0)))
        elif not found and counts:
            left = set(self.model.letters_missing(tracked, waiting, self.now))
            demand(not left, "failed too often or unreadable, and not in the dead letters:", left)
            opening.front.update(dict.fromkeys(surely, (0.0, 0.0)))
        if counts:
            opening.uncounted.clear()
        self.model.deliver(tracked, found, limit, max_bytes, self.now)
        tally["messages given out"] += len(found)
        tally["of these again"] += sum(message.attempts > 1 for message in found)
        if found:
            tracked.noted()
        self.messages.update({(tracked.name, message.offset): message for message in found})
        return [message.offset for message in found]

    def _learn_letters(self, tracked: Tracked, offsets: Sequence[int], *, surely: bool) -> None:
        """Which of these went to the dead letters meanwhile."""
        if not offsets or self.dead:
            for offset in offsets:
                self._divert(tracked, offset, ("exhausted", "undecodable"), surely=False)
            return
        known = {letter.identity for letter in self.model.letters}
        for letter in self.log.dead_letters:
            identity = letter.consumer, letter.offset
            if letter.consumer == tracked.name and letter.offset in offsets and identity not in known:
                self._divert(tracked, letter.offset, ("exhausted", "undecodable"), surely=surely)

    def _divert(self, tracked: Tracked, offset: int, reasons: tuple[str, ...], *, surely: bool) -> None:
        tally["dead letters"] += surely
        self.model.diverted(Letter(tracked.name, offset, reasons, self.model.records[offset]), surely=surely)

    # -- answering

    def _ack(
        self, consumer: seglog.Consumer[bytes], tracked: Tracked, opening: Opening, offsets: Sequence[int]
    ) -> None:
        outcome = self.attempt(lambda: consumer.ack(*offsets))
        after = tracked.position.with_acked(offsets)
        if any(offset >= self.model.visible for offset in offsets):
            outcome.refused(seglog.OffsetOutOfRange)
        elif outcome.done:
            tally["acks"] += 1
            if any(not tracked.handled(offset) for offset in offsets if offset in self.model.records):
                tracked.stored(after)
            opening.answered(offsets)
            tracked.noted()
        else:
            tracked.others.append(after)
            self._stuck(consumer, outcome)

    @any_open
    @rule(index=which, some=picks)
    def ack(self, index: int, some: list[int]) -> None:
        consumer, tracked, opening = self._some(index)
        self._ack(consumer, tracked, opening, chosen(opening.flying, some))
        self.after()

    @any_open
    @rule(index=which, some=picks)
    def ack_anything(self, index: int, some: list[int]) -> None:
        """Received or not, handled or not, there or not, even beyond the end."""
        consumer, tracked, opening = self._some(index)
        end = self.model.visible
        beyond = some[0] == 15
        self._ack(consumer, tracked, opening, chosen(range(max(0, end - 15), end + beyond), some))
        self.after()

    @any_open
    @rule(index=which, some=picks, delay=st.sampled_from([None, None, 0, 5.0, 30.0]), by_message=st.booleans())
    def nack(self, index: int, some: list[int], delay: float | None, by_message: bool) -> None:
        consumer, tracked, opening = self._some(index)
        offsets = chosen(opening.flying, some)
        tracked.expire(self.now)
        flying = [offset for offset in offsets if offset in opening.flying]
        args = [self.messages[consumer.name, offset] if by_message else offset for offset in offsets]
        outcome = self.attempt(lambda: consumer.nack(*args, delay=delay))
        last = [o for o in flying if opening.exhausted(tracked.failures.get(o, (0, 0))[0] + 1)]
        there = set(self.model.present())
        for offset in sorted(last):
            if offset in there:
                self._divert(tracked, offset, ("exhausted",), surely=outcome.done)
        if outcome.done:
            for offset in flying:
                tracked.give_back(offset, self.now, delay)
            if flying:
                opening.answered(last)
                tracked.stored(tracked.position.with_acked(last))
                tracked.noted()
        else:
            tracked.unsure_failures += flying
            tracked.others.append(tracked.position.with_acked(last))
            self._stuck(consumer, outcome)
        self.after()

    @any_open
    @rule(index=which, some=picks)
    def reject(self, index: int, some: list[int]) -> None:
        consumer, tracked, opening = self._some(index)
        offsets = chosen(self.model.left(tracked), some)
        outcome = self.attempt(lambda: consumer.reject(*offsets, reason="why"))
        for offset in offsets:
            surely = outcome.done and offset not in self.model.let_go
            self._divert(tracked, offset, ("rejected",), surely=surely)
        after = tracked.position.with_acked(offsets)
        if outcome.done:
            if offsets:
                tracked.stored(after)
                opening.answered(offsets)
                tracked.noted()
        else:
            tracked.others.append(after)
            self._stuck(consumer, outcome)
        self.after()

    @any_open
    @rule(index=which, some=picks, seconds=st.sampled_from([0, 10.0, 60.0]))
    def extend(self, index: int, some: list[int], seconds: float) -> None:
        consumer, tracked, opening = self._some(index)
        offsets = chosen(opening.flying, some)
        tracked.expire(self.now)
        outcome = self.attempt(lambda: consumer.extend(*offsets, seconds=seconds))
        demand(outcome.done, "extend:", repr(outcome.error))
        if opening.options["lease"] is not None:
            end = self.now.monotonic + seconds
            opening.flying.update({offset: end for offset in offsets if offset in opening.flying})
        self.after()

    @any_open
    @rule(index=which, start=starts, pick=st.integers(0, 15))
    def seek(self, index: int, start: str, pick: int) -> None:
        consumer, tracked, opening = self._some(index)
        where, meant = self._start(start, pick)
        outcome = self.attempt(lambda: consumer.seek(where))
        if meant is None:
            outcome.refused(seglog.OffsetOutOfRange)
        elif outcome.done:
            tally["seeks"] += 1
            tracked.stored(Position(meant))
            tracked.failures.clear()
            tracked.settled = dict.fromkeys(self.model.records, tracked.blames)
            tracked.opening = Opening(opening.options)
            tracked.noted()
        else:
            tracked.others.append(Position(meant))
            tracked.failures = {offset: (0, high) for offset, (_, high) in tracked.failures.items()}
            self._stuck(consumer, outcome)
        self.after()
