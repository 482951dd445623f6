"""What a consumer is given next: what failed first, then what has become due, then the scan; gaps are kept and passed
over (FORMAT.md §7.4, §10.3, §10.10).

Not thread-safe; the consumer serialises. Nothing here acks: the position moves only over gaps and dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from seglog.consumers.cursor import Cursor
from seglog.consumers.diversion import Diversion
from seglog.consumers.doubt import Doubt, blamed, note_of
from seglog.consumers.flight import Flight
from seglog.consumers.haul import NO_LIMIT, Haul
from seglog.consumers.lookup import Lookup
from seglog.consumers.retry import RetryPolicy
from seglog.consumers.waiting import Waiting, passed
from seglog.errors import DeadLetterWriteFailed
from seglog.format.extended import due_and_expiry
from seglog.format.layout import CURSOR_RANGES_MAX, OFFSET_MAX
from seglog.model import Gap, Message, plain_messages
from seglog.reader import Hole, Run, given_up
from seglog.source import Source

T = TypeVar("T")

_ASIDE_MAX = 64  # looked at in vain, in one go, where the position is too scattered
_PAUSE_MAX = 1.0  # seconds
_DEAD_LETTER_PAUSE = 5.0  # seconds until a dead letter that could not be kept is tried again


class Delivery(Generic[T]):
    """Gives out messages and remembers which are in flight."""

    def __init__(self, source: Source[T], cursor: Cursor, policy: RetryPolicy, max_in_flight: int) -> None:
        self._source = source
        self._cursor = cursor
        self._policy = policy
        self._max_in_flight = max_in_flight
        self._scan = source.scan(cursor.watermark)
        self._lookup = Lookup(source.scan(cursor.watermark))
        self._run: Run | None = None  # what the scan gave last
        self._at = cursor.watermark  # what comes next, in it or after it
        self._held: Hole | None = None  # met, and not yet dealt with
        self._doubt = Doubt()
        self._trouble: DeadLetterWriteFailed | None = None
        self.flight = Flight(policy.lease)
        self._waiting = Waiting(source, cursor, self.flight)
        self._floor = 0  # nothing below it comes any more
        self.diversion = Diversion(source, cursor)
        self.awaited = 0  # the offset that must become visible before there is more to give
        guilty = blamed(cursor.note, cursor)
        if guilty is not None:
            self._fail([guilty])
        self._doubt.learn(cursor.note, cursor)

    # -- what is in flight

    def expire(self) -> None:
        """Whose lease is over has failed. Counted durably before it is given out again."""
        ended = self.flight.ended(self._source.clock.monotonic())
        if ended:
            self._fail(ended)

    def _fail(self, offsets: Sequence[int]) -> None:
        dues = self.dues(offsets, None)
        self._cursor.count(offsets)
        self.give_back(dues)

    def dues(self, offsets: Sequence[int], delay: float | None) -> dict[int, float]:
        """When these come again if they fail now, after `delay` seconds or what the backoff says."""
        now = self._source.clock.monotonic()
        found = {}
        for offset in offsets:
            failures = self._cursor.attempts.get(offset, 0) + 1
            wait = 0.0 if self._policy.exhausted(failures) else self._policy.delay(failures) if delay is None else delay
            found[offset] = now + wait if wait else 0.0
        return found

    def give_back(self, dues: dict[int, float]) -> None:
        """These failed, and come again then."""
        for offset, due in dues.items():
            self._waiting.put(offset, due)  # first: an interrupt must not leave it nowhere
            self.flight.land(offset, offset + 1)
            self._doubt.answered(offset, offset + 1)

    def land(self, first: int, stop: int) -> None:
        """first .. stop-1 were answered: nothing in here waits for them or doubts them any more."""
        self.flight.land(first, stop)
        self._waiting.drop(first, stop)
        self._doubt.answered(first, stop)

    def put_back(self, messages: Sequence[Message[T]]) -> None:
        """These were not given out after all: they come first the next time."""
        for message in messages:
            self._waiting.put(message.offset, 0.0)  # first: an interrupt must not leave it nowhere
            self.flight.land(message.offset, message.offset + 1)
        if self._doubt.alone is not None and self._doubt.alone not in self.flight:
            self._doubt.alone = None
        self.note()

    def note(self) -> None:
        """Write down what is in flight, for the case that this process dies."""
        self._cursor.write_note(note_of(self.flight, self._cursor))

    def seek(self, offset: int) -> None:
        """Begin anew at `offset`."""
        self._begin_at(offset)
        self.flight, self._doubt = Flight(self._policy.lease), Doubt()
        self._waiting = Waiting(self._source, self._cursor, self.flight)

    def _begin_at(self, offset: int) -> None:
        self._at, self._run, self._held = offset, None, None
        self._scan.seek(offset)

    def close(self) -> None:
        self._scan.close()
        self._lookup.close()

    def delayed(self) -> int:
        """How many wait for their time, as far as they were met."""
        return self._waiting.delayed()

    def pause(self) -> float:
        """How long to wait at most, in seconds, before looking again."""
        pause, end = self._waiting.pause(), self.flight.next_end()
        if end is not None:
            pause = min(end - self._source.clock.monotonic(), _PAUSE_MAX if pause is None else pause)
        return _PAUSE_MAX if pause is None else min(max(0.001, pause), _PAUSE_MAX)

    # -- giving out

    def take(self, limit: int, max_bytes: int | None) -> list[Message[T]]:
        """What can be given out now, at most so many messages and payload bytes (but one, if there is one)."""
        self.expire()
        self.awaited = OFFSET_MAX
        self._trouble = None
        self._overtaken()
        limit = min(limit, self._max_in_flight - self.flight.count)
        haul: Haul[T] = Haul(limit, NO_LIMIT if max_bytes is None else max_bytes)
        if limit <= 0 or self._doubt.alone is not None:
            return haul.messages
        try:
            self._cursor.keep_counts(self._source.durable)
            self._fill(haul)
            if haul.messages:
                self.note()
        except BaseException:
            self.put_back(haul.messages)  # nobody will see them: they must not stay in flight
            self._begin_at(self._at)  # what the scan gave last may have got lost on its way
            raise
        if not haul.messages and self._trouble is not None:
            raise self._trouble
        return haul.messages

    def _fill(self, haul: Haul[T]) -> None:
        """An error waits until there is nothing else to give; then it comes again, and is raised."""
        try:
            if self._take_waiting(haul) and not self._waiting.full:
                self._take_new(haul)
            if not haul.messages and self._free() <= 0:
                self._take_oldest(haul)
        except Exception as error:
            if not haul.messages or isinstance(error, MemoryError):  # that may have come anywhere
                raise
            self._begin_at(self._at)

    def _free(self) -> int:
        """How many can be given out so that whatever is acked of them, in whichever order, can be stored."""
        return CURSOR_RANGES_MAX - len(self._cursor.acked) - self.flight.count

    def _storable(self, offset: int) -> bool:
        """Whether an ack of it can be stored: there is room, or it touches what is handled."""
        return self._free() > 0 or self._cursor.handled(offset - 1) or self._cursor.handled(offset + 1)

    def _must_wait(self, offset: int) -> bool:
        """A doubtful message goes alone. It waits for those in flight, and all others wait with it."""
        return self.flight.count > 0 and offset in self._doubt

    def _fly(self, first: int, stop: int) -> None:
        self.flight.start(first, stop, self._source.clock.monotonic())
        if first in self._doubt:
            self._doubt.alone = first

    # What waited

    def _take_waiting(self, haul: Haul[T]) -> bool:
        """Take what failed or was scheduled, and is due. False if nothing else may be taken after it now."""
        aside: list[int] = []
        try:
            while haul.left and self._doubt.alone is None and len(aside) < _ASIDE_MAX:
                offset = self._waiting.first(self._at)
                if offset is None:
                    if not aside:
                        self._lookup.close()
                    return True
                if not self._storable(offset):
                    aside.append(offset)
                    self._waiting.drop(offset, offset + 1)
                elif self._must_wait(offset) or not self._take_again(haul, offset):
                    return False
        finally:
            now = self._source.clock.monotonic()
            for offset in aside:
                self._waiting.put(offset, now)  # behind others that are due: the next look is at those
        return haul.left > 0 and self._doubt.alone is None

    def _take_again(self, haul: Haul[T], offset: int) -> bool:
        """Take one message out of its turn. False if it does not fit any more; then nothing has happened."""
        found = self._lookup.at(offset)
        try:
            if isinstance(found, Hole):
                self._pass(found)
                return True
            message = None if found is None else self.diversion.message(found, offset)
        except DeadLetterWriteFailed as error:
            self._put_off(offset, error)
            return True
        if message is not None and self._policy.exhausted(message.attempts - 1):
            self._bury(message)
            return True
        if message is not None:
            if not haul.holds(len(message.payload)):
                return False
            haul.add(message)
            self._fly(offset, offset + 1)
        self._waiting.drop(offset, offset + 1)
        return True

    def _take_oldest(self, haul: Haul[T]) -> None:
        """The position is too scattered to be stored with more: only the oldest may go, once its time has come."""
        offset = self._cursor.watermark
        if offset in self.flight or self._must_wait(offset):
            return
        if offset in self._waiting:
            if self._waiting.due(offset):
                self._take_again(haul, offset)
            return
        found = self._lookup.at(offset)
        if isinstance(found, Run):
            due_ns = passed(*due_and_expiry(found.records[offset - found.first])) if found.extended else 0
            if due_ns <= self._source.clock.time_ns():
                self._take_again(haul, offset)

    # What is new

    def _take_new(self, haul: Haul[T]) -> None:
        """Messages from the scan, gaps handled on the way, until the haul is full or the end is reached."""
        while haul.left and self._doubt.alone is None:
            run = self._run
            if run is None:
                item = self._next_item(bool(haul.messages))
                if item is None:
                    return
                if isinstance(item, Hole):
                    self._pass(item)
                    self._at, self._held = item.stop, None
                    continue
                run, self._at = item, item.first
                self._run = run
            end = run.first + len(run.records)
            handled = self._cursor.handled_until(self._at)
            if handled > self._at:
                self._at = min(handled, end)
            elif self._at in self.flight:  # what is blamed goes before its turn
                self._at += 1
            else:
                stop = self._admitted(haul, run, min(self._at + haul.left, end))
                if stop == self._at:
                    return
                self._take_records(haul, run, stop)
            if self._at >= end:
                self._run = None

    def _next_item(self, have_some: bool) -> Run | Hole | None:
        """What the scan gives next; a hole only when nothing waits to be given out."""
        if self._held is not None:
            return None if have_some else self._held
        handled = self._cursor.handled_until(self._scan.offset)
        if handled > self._scan.offset:
            self._begin_at(handled)
        item = self._scan.next()
        if item is None:
            self.awaited = self._scan.offset
        if isinstance(item, Hole):
            self._held = item
            return None if have_some else item
        return item

    def _admitted(self, haul: Haul[T], run: Run, stop: int) -> int:
        """How far the records from where we are up to `stop` may be given out now."""
        first = self._at
        stop = next(self._cursor.acked.holes(first, stop))[1]
        stop = self.flight.ground(first, stop)[1]
        free = self._free()
        stop = min(stop, first + free) if free > 0 else first + self._storable(first)
        if self._must_wait(first):
            return first
        return haul.fitting(run, first, self._doubt.first_part(first, stop))

    def _take_records(self, haul: Haul[T], run: Run, stop: int) -> None:
        """Those from where we are up to `stop`; what is expired, not yet due or undecodable is dealt with here."""
        origin, first = self._source.origin, self._at
        if not (run.extended or origin.serializer is not None or self._cursor.attempts or self._waiting.any_failed):
            payloads = run.records[first - run.first : stop - run.first]
            haul.add_all(plain_messages(first, payloads, run.time_ns, origin), payloads)
            self._fly(first, stop)
            self._at = stop
            return
        for offset in range(first, stop):
            if offset not in self._waiting:  # else it was met before
                message = self._new_message(run, offset)
                if message is not None:
                    haul.add(message)
                    self._fly(offset, offset + 1)
            self._at = offset + 1

    def _new_message(self, run: Run, offset: int) -> Message[T] | None:
        """None if the record is not to be given out now."""
        if run.extended:
            due_ns, expiry_ns = due_and_expiry(run.records[offset - run.first])
            now_ns = self._source.clock.time_ns()
            if due_ns > now_ns and not 0 < expiry_ns <= now_ns:
                self._waiting.schedule(due_ns, expiry_ns, offset)
                return None
        message = self.diversion.message(run, offset)
        if message is not None and self._policy.exhausted(message.attempts - 1):
            self._bury(message)
            return None
        return message

    def _bury(self, message: Message[T]) -> None:
        """There is no attempt left. If it cannot be kept it stays, and keeps no other from being given out."""
        if self._trouble is not None:  # each try may take seconds to fail, and there may be thousands
            self._put_off(message.offset, self._trouble)
            return
        try:
            self.diversion.give_up(message._replace(attempts=message.attempts - 1))
        except DeadLetterWriteFailed as error:
            self._put_off(message.offset, error)

    def _put_off(self, offset: int, error: DeadLetterWriteFailed) -> None:
        self._waiting.put(offset, self._source.clock.monotonic() + _DEAD_LETTER_PAUSE)
        self._trouble = error

    def stored(self, offset: int) -> Message[T] | None:
        """The message as it is stored, whether or not anybody could handle it; None if it is gone."""
        found = self._lookup.at(offset)
        if isinstance(found, Hole):
            self._pass(found)
        return self.diversion.stored(found, offset) if isinstance(found, Run) else None

    def _pass(self, hole: Hole) -> None:
        """Nobody waits for what is not there. Raises DeadLetterWriteFailed; then nothing has changed."""
        self.diversion.meet_hole(hole)
        self.land(hole.first, hole.stop)

    def _overtaken(self) -> None:
        """What was dropped or purged meanwhile is given out no more, wherever it waits. What is in flight of it may
        still be answered; that changes nothing."""
        if self._source.floor() <= self._floor:
            return
        # Never past what is durable: after a power cut the position would be ahead of the log.
        self._floor = floor = min(self._source.floor(), self._source.durable().end_offset)
        if self._held is not None and self._held.first < floor:
            self._scan.seek(self._held.first)
            self._held = None
        state = self._source.recent()
        for first, stop in list(self._cursor.unhandled(0, floor)):
            for hole in given_up(first, stop, state):
                self.diversion.pass_over(Gap(hole.first, hole.stop - 1, hole.reason))
        self.land(0, floor)
