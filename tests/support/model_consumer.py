"""One consumer as the model sees it: what it has handled, what it was given, and what it may be given next.

Exact as long as nothing fails; after a fault or a crash each number becomes a range until the next look settles it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

NEVER = math.inf


@dataclass(frozen=True)
class Now:
    """The time, by both clocks."""

    wall_ns: int
    monotonic: float


@dataclass
class Position:
    """What is handled: all below `start`, and what was acked."""

    start: int
    acked: set[int] = field(default_factory=set)

    def handled(self, offset: int) -> bool:
        return offset < self.start or offset in self.acked

    def with_acked(self, offsets: Iterable[int]) -> Position:
        return Position(self.start, self.acked.union(offsets))


@dataclass(frozen=True)
class Note:
    """What the file says is in flight. `attempt`: of the only one."""

    flying: frozenset[int] = frozenset()
    attempt: int = 0


@dataclass
class Opening:
    """A consumer while it is open: what it was asked for, and what it was given."""

    options: dict[str, Any]
    flying: dict[int, float] = field(default_factory=dict)  # until when each is hidden, on the monotonic clock
    front: dict[int, tuple[float, float]] = field(default_factory=dict)  # put back: due again between these times
    shuffled: set[int] = field(default_factory=set)  # a receive that failed may have put these back, too
    doubtful: set[int] = field(default_factory=set)  # in flight when the process before died: these go alone
    all_doubtful: bool = False  # or nobody knows which, and one of all was perhaps blamed for the death
    blame_until: float = 0.0  # that one comes again by then
    blamed: bool = False  # it is known by now
    given: set[int] = field(default_factory=set)
    uncounted: list[int] = field(default_factory=list)  # failures that are not on disk yet
    note: Note = field(default_factory=Note)
    touched: bool = False  # that note is of this opening

    def answered(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            self.flying.pop(offset, None)
            self.front.pop(offset, None)
            self.doubtful.discard(offset)

    def overtaken(self, first: int) -> None:
        """What was dropped or purged is in flight no more."""
        self.answered([offset for offset in {*self.flying, *self.front, *self.doubtful} if offset < first])

    @property
    def alone(self) -> bool:
        """Whether a doubtful message is in flight, and nothing else may be given out."""
        return bool(self.flying) and (self.all_doubtful or not self.doubtful.isdisjoint(self.flying))

    def may_be_blamed(self, offset: int) -> bool:
        return self.all_doubtful and not self.blamed and offset not in self.given

    def blame(self, offset: int) -> None:
        """It does not come in its turn, so it was this one."""
        self.blamed = True
        self.front[offset] = 0.0, self.blame_until

    def exhausted(self, failures: int) -> bool:
        most = self.options["max_attempts"]
        return most is not None and failures >= most

    def delay(self, failures: int) -> float:
        """Seconds before a message that failed so often comes again, unless somebody says otherwise."""
        backoff = self.options["backoff"]
        return 0.0 if backoff is None or self.exhausted(failures) else float(backoff * 2 ** (failures - 1))


@dataclass
class Tracked:
    """One registered consumer."""

    name: str
    position: Position
    others: list[Position] = field(default_factory=list)  # what its file may hold instead, after a failed write
    failures: dict[int, tuple[int, int]] = field(default_factory=dict)  # at least and at most so many
    unsure_failures: list[int] = field(default_factory=list)  # of deliveries that the file may have counted
    blames: int = 0  # deaths that some message was blamed for, nobody knows which
    settled: dict[int, int] = field(default_factory=dict)  # how many of those a message's failures tell of
    passed: set[int] = field(default_factory=set)  # passed over; the file may not have it yet
    opening: Opening | None = None
    note: Note = field(default_factory=Note)  # as the last opening left it
    exact: bool = True  # the end of the last opening is known to the byte

    def handled(self, offset: int) -> bool:
        return self.position.handled(offset)

    def maybe_handled(self, offset: int) -> bool:
        return self.handled(offset) or any(other.handled(offset) for other in self.others)

    def stored(self, position: Position) -> None:
        """This is durable, with all that was counted and passed over."""
        self.position = position
        self.others.clear()
        self.passed.clear()
        self.unsure_failures.clear()
        self.failures = {offset: count for offset, count in self.failures.items() if not position.handled(offset)}
        if self.opening is not None:
            self.opening.uncounted.clear()

    def pass_over(self, offsets: Iterable[int]) -> None:
        self.passed.update(offsets)
        self.position.acked.update(offsets)

    def noted(self) -> None:
        """What is in flight was written down."""
        opening = self.opening
        assert opening is not None
        flying, opening.touched = frozenset(opening.flying), True
        opening.note = Note(flying, 1 + self.failures.get(min(flying), (0, 0))[0] if len(flying) == 1 else 0)

    # -- failures

    def most_failures(self, offset: int) -> int:
        """At most so many, if it was this one that was blamed."""
        return self.failures.get(offset, (0, 0))[1] + self.blames - self.settled.get(offset, 0)

    def learn(self, offset: int, failures: int) -> None:
        """Its delivery tells."""
        self.failures[offset] = failures, failures
        self.settled[offset] = self.blames

    def failed(self, offset: int) -> None:
        low, high = self.failures.get(offset, (0, 0))
        self.failures[offset] = (low + 1, high + 1)

    def give_back(self, offset: int, now: Now, delay: float | None = None) -> None:
        """A delivery failed: the message comes again after `delay`, or what the backoff says."""
        opening = self.opening
        assert opening is not None
        self.failed(offset)
        low, high = self.failures[offset]
        waits = [delay, delay] if delay is not None else [opening.delay(low), opening.delay(high)]
        opening.answered([offset])
        first, last = (now.monotonic + wait if wait else 0.0 for wait in waits)
        opening.front[offset] = first, last

    def expire(self, now: Now) -> None:
        """Whose lease is over has failed; that shows when somebody looks."""
        opening = self.opening
        assert opening is not None
        for offset in [offset for offset, end in opening.flying.items() if end <= now.monotonic]:
            self.give_back(offset, now)
            opening.uncounted.append(offset)

    # -- beginning and end

    def opens(self, options: dict[str, Any], now: Now) -> None:
        """What the opening before left in flight is doubtful; if it was one alone, it has failed."""
        opening = self.opening = Opening(options, note=self.note)
        for offset in self.unsure_failures:
            low, high = self.failures.get(offset, (0, 0))
            self.failures[offset] = (low, high + 1)
        self.unsure_failures.clear()
        if not self.exact:
            opening.all_doubtful = True
            self.blames += 1
            most = max((high for _, high in self.failures.values()), default=0)
            # Of one that has failed too often there is no delay, so it is not the most failures that hide it longest.
            hidden = max(opening.delay(failures) for failures in range(1, most + self.blames + 1))
            opening.blame_until = now.monotonic + hidden
            return
        opening.doubtful = {offset for offset in self.note.flying if not self.handled(offset)}
        for offset in opening.doubtful if len(self.note.flying) == 1 else ():
            low, high = self.failures.get(offset, (0, 0))
            if low == high == self.note.attempt - 1:
                self.give_back(offset, now)
                opening.doubtful.add(offset)
                opening.uncounted.append(offset)

    def closed(self, *, surely: bool) -> None:
        """The opening ended in order (if `surely`)."""
        if surely:
            self.stored(self.position)
        self.opening = None
        self.note, self.exact = Note(), surely

    def died(self, *, exact: bool) -> None:
        """The process died, in a call or (if `exact`) between two of them, or the power was cut."""
        opening = self.opening
        if opening is not None:
            for offset in opening.uncounted:
                low, high = self.failures.get(offset, (0, 0))
                self.failures[offset] = (low - 1, high - exact)
            self.note = opening.note
        self.exact = exact and (self.exact or (opening is not None and opening.touched))
        self.opening = None
        self.position.acked -= self.passed
