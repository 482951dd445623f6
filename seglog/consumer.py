"""A named consumer: receive, ack in any order, nack, reject, seek, with a durable position (FORMAT.md §7.3, §10.10).

A message counts as handled when it is acked, not when it is received; what was not acked comes again. Acks are
durable on return. Damage is kept in the dead-letter queue before the position moves past it.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from seglog.catalog import Catalog
from seglog.clock import Clock
from seglog.cursor import Cursor
from seglog.dead_letters import DeadLetters
from seglog.errors import LogClosed, OffsetOutOfRange
from seglog.format.cursor_state import Seen
from seglog.format.dead_letter import Envelope
from seglog.format.extended import decode_extended
from seglog.format.layout import CURSOR_RANGES_MAX, LETTER_PAYLOAD_MAX, NO_SEGMENT
from seglog.intervals import Intervals
from seglog.model import ConsumerStats, Extras, Gap, Message, Origin, Start
from seglog.options import seconds, whole
from seglog.reader import Hole, Run, Scan

T = TypeVar("T")
logger = logging.getLogger("seglog")

MAX_IN_FLIGHT = 10_000  # below the cursor's number of ranges, so that acks in any order can be stored


class Source(Protocol[T]):
    """What a consumer needs of its log."""

    @property
    def origin(self) -> Origin[T]: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def dead_letters(self) -> DeadLetters: ...

    def scan(self, offset: int) -> Scan: ...
    def seen(self) -> Seen: ...
    def durable(self) -> Seen: ...
    def wait_beyond(self, offset: int, timeout: float) -> None: ...
    def resolve(self, where: Start) -> int: ...
    def bytes_before(self, offset: int) -> int: ...


class Consumer(Generic[T]):
    """A named reader with a durable cursor. Thread-safe. Made by `Log.consumer`."""

    def __init__(
        self,
        source: Source[T],
        cursor: Cursor,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_gap: Callable[[Gap], None] | None = None,
        on_close: Callable[[str], None] = lambda _: None,
    ) -> None:
        whole("max_in_flight", max_in_flight, 1, MAX_IN_FLIGHT)
        self.name = cursor.name
        self._source = source
        self._cursor = cursor
        self._max_in_flight = max_in_flight
        self._on_gap = on_gap
        self._on_close = on_close
        self._lock = threading.RLock()
        self._watermark = cursor.watermark
        self._acked = cursor.acked.copy()
        self._attempts = dict(cursor.attempts)
        self._scan = source.scan(self._watermark)
        self._run: Run | None = None  # what the scan gave last
        self._run_at = 0  # how many of its records were given out
        self._held: Hole | None = None  # met, and not yet dealt with
        self._flying = Intervals()
        self._flying_count = 0
        self._returned: list[tuple[float, int]] = []  # heap: when due, offset
        self._due_ns: set[int] = set()  # offsets whose due time was waited for
        self._unsaved = False  # gaps moved the position; saved with the next ack, or at close
        self._closed = False

    # -- receiving

    def receive(self, timeout: float | None = 0) -> Message[T] | None:
        """The next message, or None if there is none within `timeout` seconds (0: do not wait, None: no limit).

        It stays hidden until it is acked or nacked, or the consumer is closed. Raises LogClosed, StorageError.
        """
        messages = self.receive_many(1, timeout)
        return messages[0] if messages else None

    def receive_many(self, limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[T]]:
        """Up to `limit` messages as soon as one is there; waits up to `timeout` seconds for that, never to fill.

        Args:
            limit: messages at most.
            timeout: seconds; 0 does not wait, None waits without limit.
            max_bytes: payload bytes at most, though never fewer than one message.

        Raises LogClosed, StorageError, and DeadLetterWriteFailed where damage cannot be kept; then nothing moves.
        """
        whole("limit", limit, 1, 1 << 31)
        if max_bytes is not None:
            whole("max_bytes", max_bytes, 1, 1 << 62)
        clock = self._source.clock
        deadline = None if timeout is None else clock.monotonic() + seconds("timeout", timeout)
        while True:
            with self._lock:
                self._check_open()
                messages = self._take(limit, max_bytes)
                if messages:
                    return messages
                pause = self._pause()
                offset = self._scan.offset
            if deadline is not None:
                left = deadline - clock.monotonic()
                if left <= 0:
                    return []
                pause = min(pause, left)
            self._source.wait_beyond(offset, pause)

    def _pause(self) -> float:
        """How long to wait at most before looking again."""
        if not self._returned:
            return 1.0
        return min(1.0, max(0.001, self._returned[0][0] - self._source.clock.monotonic()))

    def _take(self, limit: int, max_bytes: int | None) -> list[Message[T]]:
        found: list[Message[T]] = []
        limit = min(limit, self._max_in_flight - self._flying_count)
        try:
            if max_bytes is None and not self._returned:
                self._take_new(found, limit)
            else:
                self._take_singly(found, limit, max_bytes)
        except BaseException:
            for message in found:  # nobody will see them: they must not stay in flight
                self._put_back(message)
            raise
        return found

    def _take_singly(self, found: list[Message[T]], limit: int, max_bytes: int | None) -> None:
        """What was put back first, and no more bytes than asked for."""
        size = 0
        while len(found) < limit:
            one: list[Message[T]] = []
            if not self._take_returned(one):
                self._take_new(one, 1, behind=bool(found))
            if not one:
                return
            size += len(one[0].payload)
            if found and max_bytes is not None and size > max_bytes:
                self._put_back(one[0])
                return
            found += one

    def _take_returned(self, found: list[Message[T]]) -> bool:
        """The first message that was put back and is due again."""
        now = self._source.clock.monotonic()
        while self._returned and self._returned[0][0] <= now:
            _, offset = heapq.heappop(self._returned)
            if offset < self._watermark or offset in self._acked:
                continue
            self._due_ns.add(offset)
            message = self._fetch(offset)
            if message is not None:
                self._fly(offset, offset + 1)
                found.append(message)
                return True
        return False

    def _put_back(self, message: Message[T]) -> None:
        self._land(message.offset, message.offset + 1)
        heapq.heappush(self._returned, (0.0, message.offset))

    def _fetch(self, offset: int) -> Message[T] | None:
        scan = self._source.scan(offset)
        try:
            found = scan.next()
        finally:
            scan.close()
        if found is None:
            return None
        if isinstance(found, Hole):
            self._meet_hole(found)
            return None
        made = self._messages(found, 0, 1)
        return made[0] if made else None

    def _take_new(self, found: list[Message[T]], limit: int, *, behind: bool = False) -> None:
        """Messages from the scan, gaps handled on the way, until there are `limit` or the end is reached.

        `behind`: others were taken already, so what may fail is left for the next call.
        """
        while len(found) < limit:
            run = self._run
            if run is None:
                item = self._next_item(bool(found) or behind)
                if item is None:
                    return
                if isinstance(item, Hole):
                    self._meet_hole(item)
                    self._held = None
                    continue
                run, self._run_at = item, 0
                self._run = run
            first = run.first + self._run_at
            stop = min(first + limit - len(found), run.first + len(run.records))
            held = self._acked.range_at(first)
            if held is not None:
                stop = min(held[1], run.first + len(run.records))
            else:
                stop = next(self._acked.holes(first, stop))[1]
                made = self._messages(run, first - run.first, stop - run.first)
                if made:
                    self._fly_all(made)
                    found += made
            self._run_at = stop - run.first
            if self._run_at == len(run.records):
                self._run = None

    def _next_item(self, have_some: bool) -> Run | Hole | None:
        """What the scan gives next; a hole, or an error of the disk, only when nothing waits to be given out."""
        if self._held is not None:
            return None if have_some else self._held
        if len(self._acked) + self._flying_count >= CURSOR_RANGES_MAX:
            return None  # what is given out must be storable in whichever order it is acked
        held = self._acked.range_at(self._scan.offset)
        if held is not None:
            self._scan.seek(held[1])
        try:
            item = self._scan.next()
        except OSError:
            if have_some:
                return None
            raise
        if isinstance(item, Hole):
            self._held = item
            return None if have_some else item
        return item

    def _messages(self, run: Run, start: int, stop: int) -> list[Message[T]]:
        """Messages of a run's records; those expired, not yet due or undecodable are dealt with here."""
        origin, time_ns, first = self._source.origin, run.time_ns, run.first + start
        records = run.records[start:stop]
        if not run.extended and origin.serializer is None and not self._attempts:
            return [Message(offset, payload, time_ns, origin, None, 1) for offset, payload in enumerate(records, first)]
        made = []
        for offset, stored in enumerate(records, first):
            payload, extras = stored, None
            if run.extended:
                payload, extras = decode_extended(stored)
                if not self._is_current(offset, extras):
                    continue
            message = Message(offset, payload, time_ns, origin, extras, 1 + self._attempts.get(offset, 0))
            if self._is_decodable(message):
                made.append(message)
        return made

    def _is_current(self, offset: int, extras: Extras) -> bool:
        """Whether a record is neither expired (then it becomes a gap) nor still to wait (then it is remembered)."""
        if extras.expiry_ns and extras.expiry_ns <= self._source.clock.time_ns():
            self._pass_over(Gap(offset, offset, "expired"))
            return False
        if extras.due_ns and offset not in self._due_ns:
            wait = (extras.due_ns - self._source.clock.time_ns()) / 1e9
            if wait > 0:
                heapq.heappush(self._returned, (self._source.clock.monotonic() + wait, offset))
                return False
        return True

    def _is_decodable(self, message: Message[T]) -> bool:
        """Whether the serializer reads the payload; if not, it goes to the dead letters and counts as handled."""
        if message._origin.serializer is None:
            return True
        try:
            message.value  # noqa: B018  # decoded once here, kept in the message
        except ValueError as error:
            self._divert([message], "undecodable", str(error))
            return False
        return True

    def _fly_all(self, messages: Sequence[Message[T]]) -> None:
        first, last = messages[0].offset, messages[-1].offset
        if last - first + 1 == len(messages):
            self._fly(first, last + 1)
        else:
            for message in messages:
                self._fly(message.offset, message.offset + 1)

    def _fly(self, first: int, stop: int) -> None:
        self._flying.add(first, stop)
        self._flying_count += stop - first

    def _land(self, first: int, stop: int) -> None:
        for start, end in _overlap(self._flying, first, stop):
            self._flying.remove(start, end)
            self._flying_count -= end - start

    def __iter__(self) -> Iterator[Message[T]]:
        """Messages for ever, waiting for more; acks none. Raises LogClosed when the log is closed."""
        while True:
            message = self.receive(timeout=None)
            assert message is not None
            yield message

    def drain(self) -> Iterator[Message[T]]:
        """Messages up to the end of the log; acks none."""
        while (message := self.receive()) is not None:
            yield message

    # -- gaps

    def _meet_hole(self, hole: Hole) -> None:
        """Keep damaged bytes, then move past them, then say so."""
        if hole.reason in ("damaged", "suspect") and hole.segment is not None:
            length = min(hole.length, LETTER_PAYLOAD_MAX)
            file = self._source.catalog.segments.open(hole.segment.file_name)
            try:
                data = file.read(hole.position, length)
            finally:
                file.close()
            letter = Envelope(
                reason="damaged",
                detail=f"{hole.detail}: {hole.segment.file_name}, {hole.length} bytes at {hole.position}",
                consumer="",
                offset=hole.whole[0],
                last_offset=hole.whole[1] - 1,
                attempts=0,
                time_ns=self._source.clock.time_ns(),
                segment_id=hole.segment.segment_id,
                position=hole.position,
                length=hole.length,
                payload=data,
            )
            self._source.dead_letters.divert([letter])
        self._pass_over(Gap(hole.first, hole.stop - 1, hole.reason))

    def _pass_over(self, gap: Gap) -> None:
        self._acked.add(gap.first_offset, gap.last_offset + 1)
        self._watermark, self._acked = _advanced(self._watermark, self._acked)
        self._unsaved = True
        if self._on_gap is not None:
            self._on_gap(gap)
        else:
            logger.warning(
                "consumer %s: offsets %d to %d: %s", self.name, gap.first_offset, gap.last_offset, gap.reason
            )

    # -- answering

    def ack(self, *messages: Message[T] | int) -> None:
        """Handled: never given out again. Exactly these messages or offsets, in any order; durable on return.

        Twice is fine. Raises OffsetOutOfRange for an offset beyond the visible end, StorageError, LogClosed.
        """
        with self._lock:
            self._check_open()
            ranges = self._ranges(messages)
            acked = self._acked.copy()
            for first, stop in ranges:
                acked.add(max(first, self._watermark), stop)
            attempts = self._attempts
            if attempts:
                attempts = {offset: n for offset, n in attempts.items() if offset not in acked}
            self._save(*_advanced(self._watermark, acked), attempts)
            for first, stop in ranges:
                self._land(first, stop)

    def nack(self, *messages: Message[T] | int, delay: float | None = None) -> None:
        """Give these to me again, first of all, after `delay` seconds (None: at once). Durable on return."""
        wait = 0.0 if delay is None else seconds("delay", delay)
        with self._lock:
            self._check_open()
            offsets = [
                offset
                for first, stop in self._ranges(messages)
                for start, end in _overlap(self._flying, first, stop)
                for offset in range(start, end)
            ]
            if not offsets:
                return
            attempts = dict(self._attempts)
            for offset in offsets:
                attempts[offset] = attempts.get(offset, 0) + 1
            self._save(self._watermark, self._acked, attempts)
            due = self._source.clock.monotonic() + wait
            for offset in offsets:
                self._land(offset, offset + 1)
                heapq.heappush(self._returned, (due if wait else 0.0, offset))

    def reject(self, *messages: Message[T] | int, reason: str = "") -> None:
        """Put these in the dead-letter queue; then they count as handled. Durable on return.

        Raises DeadLetterWriteFailed if they cannot be kept: then they stay.
        """
        self._dead_letter(messages, "rejected", reason)

    def refuse(self, *messages: Message[T] | int, detail: str = "") -> None:
        """Like `reject`, for what the far end of a forwarder will not take."""
        self._dead_letter(messages, "refused", detail)

    def _dead_letter(self, messages: Sequence[Message[T] | int], reason: str, detail: str) -> None:
        with self._lock:
            self._check_open()
            self._ranges(messages)
            whole_messages = []
            for message in messages:
                offset = message if isinstance(message, int) else message.offset
                if offset >= self._watermark and offset not in self._acked:
                    found = self._fetch(offset) if isinstance(message, int) else message
                    if found is not None:
                        whole_messages.append(found)
            self._divert(whole_messages, reason, detail)

    def _divert(self, messages: Sequence[Message[T]], reason: str, detail: str) -> None:
        if not messages:
            return
        now = self._source.clock.time_ns()
        letters = [
            Envelope(
                reason=reason,
                detail=detail,
                consumer=self.name,
                offset=message.offset,
                last_offset=message.offset,
                attempts=message.attempts,
                time_ns=now,
                segment_id=NO_SEGMENT,
                position=0,
                length=0,
                payload=message.payload,
                key=message.key,
                headers=message.headers or None,
            )
            for message in messages
        ]
        # First kept, then acked: a crash between gives the message again, and its letter is there once.
        self._source.dead_letters.divert(letters)
        self.ack(*messages)

    def _ranges(self, messages: Sequence[Message[T] | int]) -> list[tuple[int, int]]:
        """The offsets as ranges, checked."""
        offsets = [m if isinstance(m, int) else m.offset for m in messages]
        if not offsets:
            return []
        count = len(offsets)
        first = offsets[0]
        consecutive = offsets[-1] - first + 1 == count and offsets == list(range(first, first + count))
        ranges = [(first, first + count)] if consecutive else list(Intervals((o, o + 1) for o in offsets))
        end = self._source.seen().end_offset
        if ranges[0][0] < 0 or ranges[-1][1] > end:
            wrong = ranges[0][0] if ranges[0][0] < 0 else ranges[-1][1] - 1
            raise OffsetOutOfRange(f"consumer {self.name!r}: offset {wrong} is not below the visible end {end}")
        return ranges

    def _save(self, watermark: int, acked: Intervals, attempts: dict[int, int]) -> None:
        """Durable first, then taken over."""
        if (watermark, list(acked), attempts) == (
            self._cursor.watermark,
            list(self._cursor.acked),
            self._cursor.attempts,
        ):
            self._unsaved = False
        else:
            self._cursor.store(watermark, acked, attempts, self._source.durable())
        self._watermark, self._acked, self._attempts = watermark, acked.copy(), dict(attempts)
        self._unsaved = False

    # -- position

    def seek(self, where: Start) -> None:
        """Go on from `where`: "earliest", "latest", an offset, or an aware datetime. Durable on return.

        What lies before counts as handled, what lies behind as not. Raises OffsetOutOfRange, InvalidOption.
        """
        with self._lock:
            self._check_open()
            offset = self._source.resolve(where)
            self._cursor.store(offset, Intervals(), {}, self._source.durable(), start=offset)
            self._watermark, self._acked, self._attempts = offset, Intervals(), {}
            self._scan.seek(offset)
            self._run = self._held = None
            self._flying, self._flying_count, self._returned = Intervals(), 0, []
            self._unsaved = False

    def unacked(self) -> Iterator[Message[T]]:
        """All that is not yet handled, in order, without receiving it."""
        with self._lock:
            self._check_open()
            scan = self._source.scan(self._watermark)
        try:
            while (found := scan.next()) is not None:
                if isinstance(found, Hole):
                    continue
                for offset, stored in enumerate(found.records, found.first):
                    if offset >= self._watermark and offset not in self._acked:
                        payload, extras = decode_extended(stored) if found.extended else (stored, None)
                        yield Message(offset, payload, found.time_ns, self._source.origin, extras)
        finally:
            scan.close()

    def __len__(self) -> int:
        """How many messages are not yet handled, in flight included; does not read them."""
        with self._lock:
            count = self._source.catalog.records_before
            end = self._source.seen().end_offset
            total = count(max(end, self._watermark)) - count(self._watermark)
            return total - sum(count(stop) - count(first) for first, stop in self._acked)

    def __bool__(self) -> bool:
        return True

    def stats(self) -> ConsumerStats:
        """Where this consumer stands now."""
        with self._lock:
            end = self._source.seen().end_offset
            scan = self._source.scan(self._watermark)
            try:
                oldest = scan.next()
            finally:
                scan.close()
            age = None
            if isinstance(oldest, Run):
                age = max(0.0, (self._source.clock.time_ns() - oldest.time_ns) / 1e9)
            lag_bytes = self._source.bytes_before(end) - self._source.bytes_before(self._watermark)
            return ConsumerStats(self._watermark, len(self), max(0, lag_bytes), age, self._flying_count)

    # -- end

    def flush(self) -> None:
        """Make the position durable where gaps moved it."""
        with self._lock:
            if self._unsaved and not self._closed:
                self._save(self._watermark, self._acked, self._attempts)

    def close(self) -> None:
        """Let go of the consumer; what is in flight will be given out again. Twice is fine."""
        with self._lock:
            if self._closed:
                return
            try:
                self.flush()
            finally:
                self.abandon()
        self._on_close(self.name)

    def abandon(self) -> None:
        """Close the files and nothing else: for a child after fork()."""
        self._closed = True
        self._scan.close()
        self._cursor.close()

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"consumer {self.name!r} is closed")

    def __enter__(self) -> Consumer[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} at {self._watermark}>"


def _advanced(watermark: int, acked: Intervals) -> tuple[int, Intervals]:
    """The watermark moves over what is acked right at it; ranges below it are not needed any more."""
    held = acked.range_at(watermark)
    if held is not None:
        watermark = held[1]
    acked.remove(0, watermark)
    return watermark, acked


def _overlap(ranges: Intervals, first: int, stop: int) -> list[tuple[int, int]]:
    """The parts of first .. stop-1 that are in the set."""
    found = []
    at = first
    for start, end in [*ranges.holes(first, stop), (stop, stop)]:
        if start > at:
            found.append((at, start))
        at = end
    return found
