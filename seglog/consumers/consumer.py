"""A named consumer: receive, ack in any order, nack, extend, reject, seek, with a durable position (FORMAT.md §7.3,
§7.4, §10.10).

A message counts as handled when it is acked, not when it is received; what was not acked comes again. Acks are durable
on return. Damage, and what failed too often, is kept in the dead-letter queue before the position moves past it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Generic, TypeVar

from seglog.consumers.cursor import Cursor, advanced, without
from seglog.consumers.delivery import Delivery
from seglog.consumers.references import referred
from seglog.consumers.retry import RetryPolicy
from seglog.consumers.standing import backlog, standing
from seglog.errors import LogClosed, LogForked, storage_errors
from seglog.format.extended import decode_extended
from seglog.intervals import Intervals
from seglog.model import ConsumerStats, Gap, Message, Start
from seglog.options import number, seconds, whole
from seglog.reader import Hole
from seglog.source import Source

T = TypeVar("T")
logger = logging.getLogger("seglog")

MAX_IN_FLIGHT = 10_000  # below the cursor's number of ranges, so that acks in any order can be stored


class Consumer(Generic[T]):
    """A named reader with a durable cursor. Thread-safe. Made by `Log.consumer`."""

    def __init__(
        self,
        source: Source[T],
        cursor: Cursor,
        *,
        policy: RetryPolicy,
        max_in_flight: int,
        on_gap: Callable[[Gap], None] | None,
        on_close: Callable[[Consumer[T]], None],
        register_lock: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.name = cursor.name
        self._source = source
        self._cursor = cursor
        self._policy = policy
        self._delivery = Delivery(source, cursor, policy, max_in_flight)
        self._on_gap = on_gap
        self._on_close = on_close
        self._register_lock = register_lock
        self._lock = threading.RLock()
        self._closed = False
        self._changes = 0  # counts what may give a waiting receiver something to do

    # -- receiving

    def receive(self, timeout: float | None = 0) -> Message[T] | None:
        """The next message, or None if there is none within `timeout` seconds (0: do not wait, None: no limit).

        It stays hidden until it is acked or nacked, its lease ends, or the consumer is closed. Raises what
        `receive_many` raises.
        """
        messages = self.receive_many(1, timeout)
        return messages[0] if messages else None

    def receive_many(self, limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[T]]:
        """Up to `limit` messages as soon as one is there; waits up to `timeout` seconds for that, never to fill.

        Args:
            limit: messages at most.
            timeout: seconds; 0 does not wait, None waits without limit.
            max_bytes: payload bytes at most, though never fewer than one message.

        After the process before has died, what it had in flight comes one at a time: nothing else is given out while
        one of these is in flight.

        Raises LogClosed, and once there is nothing else to give: StorageError, what the serializer raises except for
        ValueError, and DeadLetterWriteFailed if damage, or a message that failed too often, cannot be kept. It stays.
        """
        whole("limit", limit, 1, 1 << 31)
        if max_bytes is not None:
            whole("max_bytes", max_bytes, 1, 1 << 62)
        clock = self._source.clock
        deadline = None if timeout is None else clock.monotonic() + seconds("timeout", timeout)
        while True:
            changes = self._changes
            with self._lock:
                self._check_open()
                messages = self._delivery.take(limit, max_bytes)  # if it raises, the gaps are told the next time
                gaps = self._delivery.diversion.take_gaps()
                pause = 0.0 if messages else self._delivery.pause()
                awaited = self._delivery.awaited
            self._tell(gaps, messages)
            if messages:
                return messages
            if deadline is not None:
                left = deadline - clock.monotonic()
                if left <= 0:
                    return []
                pause = min(pause, left)
            self._source.wait_beyond(awaited, pause, unless=lambda: self._changes != changes)  # noqa: B023

    def _tell(self, gaps: list[Gap], messages: Sequence[Message[T]] = ()) -> None:
        """Call `on_gap`, without the lock: it may call anything. If it raises, nobody will see the messages."""
        left = gaps.copy()
        try:
            while left:
                gap = left.pop(0)
                if self._on_gap is not None:
                    self._on_gap(gap)
                else:
                    first, last = gap.first_offset, gap.last_offset
                    logger.warning("consumer %s: offsets %d to %d: %s", self.name, first, last, gap.reason)
        except BaseException:
            with self._lock:
                self._delivery.diversion.tell_later(left)
                if not self._closed:
                    self._delivery.put_back(messages)
            raise

    def __iter__(self) -> Iterator[Message[T]]:
        """Messages for ever, waiting for more; acks none. Raises LogClosed when the log is closed."""
        while True:
            yield from self.receive_many(1, timeout=None)

    def drain(self) -> Iterator[Message[T]]:
        """Messages until there is none to receive now; acks none."""
        while (message := self.receive()) is not None:
            yield message

    # -- answering

    def ack(self, *messages: Message[T] | int) -> None:
        """Handled: never given out again. Exactly these messages or offsets, in any order; durable on return.

        Twice is fine, and so is an ack after the lease has ended. Raises OffsetOutOfRange for an offset beyond the
        visible end, StorageError, LogClosed, and LogFull if the acks are too scattered to be kept: then none counts.
        """
        with self._lock:
            self._check_open()
            cursor = self._cursor
            ranges = self._ranges(messages)
            acked, attempts = cursor.acked.copy(), cursor.attempts
            for first, stop in ranges:
                acked.add(max(first, cursor.watermark), stop)
                attempts = without(attempts, first, stop)
            if acked.count() != cursor.acked.count():
                cursor.store(*advanced(cursor.watermark, acked), attempts, self._source.durable())
            for first, stop in ranges:
                self._delivery.land(first, stop)
            self._delivery.note()
        self._moved()  # a receiver may wait for room among the messages in flight

    def nack(self, *messages: Message[T] | int, delay: float | None = None) -> None:
        """These failed: give them to me again, first of all, after `delay` seconds. Durable on return.

        Args:
            messages: messages or offsets.
            delay: seconds; None for what the consumer's `backoff` says, at once without one.

        The failure of delivery number `max_attempts` puts a message into the dead letters instead. What is not in
        flight any more stays as it is. Raises OffsetOutOfRange, StorageError, LogClosed, and DeadLetterWriteFailed
        if the dead letters cannot be kept: then nothing has changed.
        """
        wait = None if delay is None else seconds("delay", delay)
        with self._lock:
            self._check_open()
            offsets = self._in_flight(messages)
            if not offsets:
                return
            cursor, delivery = self._cursor, self._delivery
            dues = delivery.dues(offsets, wait)
            attempts = cursor.counted(offsets)
            ended = [offset for offset in offsets if self._policy.exhausted(attempts[offset])]
            # First kept, then handled: a crash between counts as one more failure, and the letter is there once.
            found = [delivery.stored(offset) for offset in ended]
            delivery.diversion.keep_exhausted([message for message in found if message is not None])
            acked = cursor.acked.copy()  # not before: damage may have been found, and passed over
            for offset in ended:
                del dues[offset], attempts[offset]
                acked.add(offset, offset + 1)
            cursor.store(*advanced(cursor.watermark, acked), attempts, self._source.durable())
            delivery.give_back(dues)
            for offset in ended:
                delivery.land(offset, offset + 1)
            delivery.note()
            gaps = delivery.diversion.take_gaps()
        self._moved()
        self._tell(gaps)

    def extend(self, *messages: Message[T] | int, seconds: float = 30) -> None:
        """The leases of these `messages` (or offsets), if still in flight, end `seconds` from now. Nothing is written.

        Without the option `lease` there is no end, and this changes nothing. Raises OffsetOutOfRange, LogClosed.
        """
        number("seconds", seconds, "seconds", 0.0, 1e10)
        with self._lock:
            self._check_open()
            end = self._source.clock.monotonic() + seconds
            for offset in self._in_flight(messages):
                self._delivery.flight.extend(offset, end)
        self._moved()

    def _in_flight(self, messages: Sequence[Message[T] | int]) -> list[int]:
        """Which of these are in flight by the delivery that is meant: a lease that has ended is nobody's any more."""
        delivery, attempts = self._delivery, self._cursor.attempts
        ranges = self._ranges(messages)
        delivery.expire()
        stale = {
            message.offset
            for message in messages
            if isinstance(message, Message) and message.attempts not in (0, 1 + attempts.get(message.offset, 0))
        }
        found = [offset for first, stop in ranges for offset in delivery.flight.within(first, stop)]
        return [offset for offset in found if offset not in stale] if stale else found

    def _moved(self) -> None:
        self._changes += 1
        self._source.progressed()

    def reject(self, *messages: Message[T] | int, reason: str = "") -> None:
        """Put these in the dead-letter queue; then they count as handled. Durable on return.

        Args:
            messages: messages or offsets.
            reason: for people: the `detail` of the dead letter, whose `reason` is "rejected".

        Raises DeadLetterWriteFailed if they cannot be kept: then they stay. Raises OffsetOutOfRange, StorageError,
        LogClosed.
        """
        self._dead_letter(messages, "rejected", reason)

    def refuse(self, *messages: Message[T] | int, detail: str = "") -> None:
        """Like `reject`, for what the far end of a forwarder will not take."""
        self._dead_letter(messages, "refused", detail)

    def _dead_letter(self, messages: Sequence[Message[T] | int], reason: str, detail: str) -> None:
        with self._lock:
            self._check_open()
            self._ranges(messages)
            found = []
            for message in messages:
                offset = message if isinstance(message, int) else message.offset
                if self._cursor.handled(offset):
                    continue
                fetched = self._delivery.stored(offset) if isinstance(message, int) else message
                if fetched is not None:
                    found.append(fetched)
            if found:
                # First kept, then acked: a crash between gives the message again, and its letter is there once.
                self._delivery.diversion.keep(found, reason, detail)
                self.ack(*found)
            gaps = self._delivery.diversion.take_gaps()
        self._tell(gaps)

    def _ranges(self, messages: Sequence[Message[T] | int]) -> list[tuple[int, int]]:
        return referred(messages, self._source.seen().end_offset)

    # -- position

    def seek(self, where: Start) -> None:
        """Go on from `where`: "earliest", "latest", an offset, or an aware datetime. Durable on return.

        What lies before counts as handled, what lies behind as not; nothing is in flight or counted as failed any
        more. Raises OffsetOutOfRange, InvalidOption, StorageError, LogClosed.
        """
        # Under the register's lock: a compaction must not reclaim what a step back is about to need.
        with self._lock:
            self._check_open()
            with self._register_lock():
                offset = self._source.resolve(where)
                self._cursor.store(offset, Intervals(), {}, self._source.durable(), start=offset)
                self._source.setbacks += 1
                self._delivery.seek(offset)
                self._delivery.note()
        self._moved()

    def unacked(self) -> Iterator[Message[T]]:
        """All that is not yet handled, in order, without receiving it. Raises StorageError, LogClosed."""
        with self._lock:
            self._check_open()
            scan = self._source.scan(self._cursor.watermark)
        try:
            while (found := scan.next()) is not None:
                if isinstance(found, Hole):
                    continue
                with self._lock:
                    self._check_open()
                    left = list(self._cursor.unhandled(found.first, found.first + len(found.records)))
                for offset in (offset for first, stop in left for offset in range(first, stop)):
                    stored = found.records[offset - found.first]
                    payload, extras = decode_extended(stored) if found.extended else (stored, None)
                    yield Message(offset, payload, found.time_ns, self._source.origin, extras)
        finally:
            scan.close()

    @property
    def watermark(self) -> int:
        """Every offset below it is handled."""
        return self._cursor.watermark

    def __len__(self) -> int:
        """How many messages are not yet handled, in flight included; does not read them. Raises LogClosed."""
        with self._lock, storage_errors("counting records"):
            self._check_open()
            return backlog(self._source, self._cursor.watermark, self._cursor.acked)

    def __bool__(self) -> bool:
        return True

    def stats(self) -> ConsumerStats:
        """Where this consumer stands now. Raises StorageError, LogClosed."""
        with self._lock, storage_errors("looking at the log"):
            self._check_open()
            delivery, cursor = self._delivery, self._cursor
            delivery.expire()
            in_flight, delayed = delivery.flight.count, delivery.delayed()
            found = standing(self._source, cursor.watermark, cursor.acked, in_flight)
            ready = max(0, found.lag_records - in_flight - delayed)
            return replace(found, ready=ready, delayed=delayed, expired=delivery.diversion.expired)

    # -- for seglog.aio, which waits without a thread

    def pause(self) -> float:
        """Seconds after which a look is worth while even if nothing was heard."""
        with self._lock:
            return self._delivery.pause()

    def put_back(self, messages: Sequence[Message[T]]) -> None:
        """These were received and nobody got them: they come first again, and nothing has failed."""
        with self._lock:
            if not self._closed:
                self._delivery.put_back([m for m in messages if m.offset in self._delivery.flight])
        self._moved()

    # -- end

    def flush(self) -> None:
        """Make the position durable where gaps moved it."""
        with self._lock:
            if not self._closed:
                self._cursor.flush(self._source.durable())

    def close(self) -> None:
        """Let go of the consumer; what is in flight will be given out again. Twice is fine.

        Raises StorageError if this end cannot be noted: it is closed all the same, and the next opening takes it for
        a crash.
        """
        try:
            with self._lock:
                if not self._closed:
                    try:
                        self._cursor.end(self._source.durable)
                    finally:
                        with storage_errors(f"closing consumer {self.name!r}"):
                            self.abandon()
            self._changes += 1
            self._source.wake()
        finally:
            self._on_close(self)  # not under the lock: the roster takes its own before ours

    def after_fork(self) -> None:
        """In the child: whoever held the lock does not exist here."""
        self._lock = threading.RLock()
        self.abandon()

    def abandon(self) -> None:
        """Close the files and nothing else: for a child after fork()."""
        self._closed = True
        with ExitStack() as files:  # both, whatever the other says: above all the cursor, which holds the lock
            files.callback(self._cursor.close)
            files.callback(self._delivery.close)

    def _check_open(self) -> None:
        if self._source.forked:
            raise LogForked("this consumer was opened before fork(); open the log again in the child")
        if self._closed:
            raise LogClosed(f"consumer {self.name!r} is closed")

    def __enter__(self) -> Consumer[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} at {self._cursor.watermark}>"
