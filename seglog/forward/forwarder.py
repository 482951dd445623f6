"""The pump between a consumer and a sink. Acknowledges a record only after the sink confirmed it, in order.

It never drops a record: what the far end refuses for good goes to the dead-letter queue, everything else stays
with the consumer until it is confirmed. One batch is under way at a time, which is what keeps the order; a sink that
keeps it by itself has several (`begin` and `finish`, see `seglog.forward.Sink`), which are confirmed in order.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import DeadLetterWriteFailed, DiskFull, InvalidOption, LogClosed
from seglog.forward.bounds import Bounds
from seglog.forward.sinks.base import Sink, SinkError, Verdict
from seglog.forward.trouble import Trouble
from seglog.model import Message

_logger = logging.getLogger("seglog")

_UNDER_WAY = 3  # batches, at most: one that the far end works on, one on its way, one being read
_ALONE = 100  # batches that go one at a time after one was refused while others were under way
_SLICE_SECONDS = 0.1  # no wait is longer than this at a time, so that stop() is noticed without any wake-up call

Batch = list[Message[Any]]


class Source(Protocol):
    """The part of `seglog.Consumer` that forwarding needs."""

    def receive_many(self, limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> Batch: ...

    def ack(self, *messages: Message[Any]) -> None: ...

    def nack(self, *messages: Message[Any], delay: float | None = None) -> None: ...

    def refuse(self, *messages: Message[Any], detail: str = "") -> None: ...

    def unacked(self) -> Iterator[Message[Any]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class ForwardStats:
    """What a forwarder did so far. `failures`: sends that were not confirmed, refusals included."""

    sent_records: int
    sent_batches: int
    refused_records: int
    failures: int


class Forwarder:
    """Sends what a consumer receives to a sink: at least once, in order, whatever happens to either side.

    Open the consumer without `lease` and `max_attempts`: what is tried again, and how often, is decided here.

    Args:
        consumer: a `seglog.Consumer`, used by nobody else meanwhile.
        sink: an object with `send(batch)`, or a function of a batch; see `seglog.forward.Sink`.
        batch_records: records in one send, at most.
        batch_bytes: payload bytes in one send, at most; a record larger than that goes alone.
        linger: seconds to wait for a batch to fill, once all there is has been received.
        max_refused: refusals of single records in a row that end in the dead-letter queue. After that many it is
            taken for a fault of the configuration, and everything is kept.
        patience: seconds without any progress after which `run` raises `SinkError`; None: never.
        batch_file: a file for this consumer alone, for sinks with `same_batches`: what a batch holds is made durable in
            it before the batch is sent (one sync), and the next forwarder sends that batch as it was. None, or
            while the disk has no room for the file: after a kill, the records may come in other batches. Its directory
            must be there.
        clock: where time and jitter come from.

    Raises:
        InvalidOption: a value cannot be meant like this.
    """

    def __init__(
        self,
        consumer: Source,
        sink: Sink | Callable[[Sequence[Message[Any]]], object],
        *,
        batch_records: int = 500,
        batch_bytes: int = 1 << 20,
        linger: float = 0.2,
        max_refused: int = 10,
        patience: float | None = None,
        batch_file: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        options.whole("batch_records", batch_records, 1, 1_000_000)
        options.whole("batch_bytes", batch_bytes, 1, 1 << 30)
        options.whole("max_refused", max_refused, 0, 1 << 62)
        send: Any = getattr(sink, "send", sink)
        if not callable(send):
            raise InvalidOption(f"sink {sink!r} has no method send(batch) and is no function")
        self._consumer = consumer
        self._send: Callable[[Batch], object] = getattr(sink, "begin", send)
        self._finish: Callable[[], Any] = getattr(sink, "finish", lambda: 1)
        several = [name for name in ("begin", "finish") if hasattr(sink, name)]
        if several and not all(hasattr(sink, name) for name in ("begin", "finish", "resume_point")):
            raise InvalidOption(f"sink {sink!r} has {several[0]}: then it needs begin, finish and resume_point")
        # What is noted before a send says what to send again: it has room for one batch.
        self._most_under_way = _UNDER_WAY if several and not getattr(sink, "same_batches", False) else 1
        self._alone = 0  # so many more batches are to go one at a time
        self._classify: Callable[[Exception], Verdict] = getattr(sink, "classify", _verdict_of)
        self._attach: Callable[[str], object] = getattr(sink, "attach", lambda log_id: None)
        self._ask_resume_point: Callable[[], int | None] = getattr(sink, "resume_point", lambda: None)
        self._batch_records = batch_records
        self._batch_bytes = batch_bytes
        self._linger = options.seconds("linger", linger)
        self._max_refused = max_refused
        self._clock = SystemClock() if clock is None else clock
        self._trouble = Trouble(self._clock, None if patience is None else options.seconds("patience", patience))
        self._batch_file = batch_file if getattr(sink, "same_batches", False) else None
        self._bounds: Bounds | None = None
        self._parts: deque[Batch] = deque()  # in hand: received, neither confirmed nor refused, in order
        self._waiting = 0  # at least, if nobody else takes them: records to be received
        self._under_way: deque[int] = deque()  # of so many of these, from the first on: how many records were sent
        self._arrived: list[Batch] = []  # the far end has these; not acknowledged yet
        self._stopped = False
        self._attached = False
        self._asked = False  # since the last send that failed
        self._resume_point: int | None = None
        self._told_point: int | None = None
        self._told_full = False
        self._refused_in_a_row = 0
        self._alive_at = self._clock.monotonic()
        self._sent_records = self._sent_batches = self._refused_records = self._failures = 0

    def stop(self) -> None:
        """Make `run` return after the sends that are under way. For signal handlers and other threads; final.

        A batch that was received while nothing was under way is still tried once; waiting ends within 0.1 s.
        """
        self._stopped = True

    def stats(self) -> ForwardStats:
        return ForwardStats(self._sent_records, self._sent_batches, self._refused_records, self._failures)

    def pulse(self) -> tuple[float, str | None]:
        """The last sign of life, in monotonic seconds (none comes while a send hangs), and the trouble, if any."""
        return self._alive_at, self._trouble.words

    def run(self, once: bool = False) -> None:
        """Forward until `stop()`; with `once`, until nothing is left to receive.

        What is in hand and unconfirmed when it ends, for whatever reason, is given back to the consumer.

        Raises:
            SinkError: `patience` is at an end; nothing is lost.
            SeglogError: the consumer's own errors (closed, storage); nothing is lost.
        """
        try:
            self._take_up()
            while not self._stopped or self._under_way:
                if not self._parts:
                    self._collect(wait=not once)
                if self._parts:
                    self._deliver()
                elif once:
                    return
        finally:
            try:
                self._give_back()
            finally:
                self._close_bounds()

    def _take_up(self) -> None:
        """The batch that was under way when the forwarder before ended goes first, as it was."""
        if self._batch_file is None or self._stopped:
            return
        self._bounds = Bounds.at(self._batch_file)
        batch = self._bounds.unsettled(self._consumer)
        if batch:
            self._parts.append(batch)

    def _close_bounds(self) -> None:
        bounds, self._bounds = self._bounds, None
        if bounds is not None:
            bounds.close()

    def _collect(self, *, wait: bool) -> None:
        """Receive the next batch into hand, if there is anything; with `wait`, let it fill for a while."""
        batch = self._receive(self._batch_records, self._batch_bytes, _SLICE_SECONDS if wait else 0.0)
        if not batch:
            return
        self._parts.append(batch)
        room = self._batch_bytes - _size(batch)
        deadline = self._clock.monotonic() + (self._linger if wait else 0.0)
        # Only with nothing more in the log is waiting of use: what is there and was not given out just now (a
        # message that is not due, what a crashed consumer had in flight) does not come before this is handled.
        while len(batch) < self._batch_records and room > 0 and len(self._consumer) <= len(batch):
            left = deadline - self._clock.monotonic()
            if left < 0.001 or self._stopped:  # not worth another look
                return
            more = self._receive(self._batch_records - len(batch), room, min(left, _SLICE_SECONDS))
            room -= _size(more)
            if room < 0:
                self._parts.append(more)
            else:
                batch += more

    def _receive(self, limit: int, max_bytes: int, timeout: float) -> Batch:
        self._alive_at = self._clock.monotonic()
        batch = self._consumer.receive_many(limit, timeout=timeout, max_bytes=max_bytes)
        self._waiting -= len(batch)
        return batch

    def _deliver(self) -> None:
        """Send the first part in hand, once, and do what follows from the outcome."""
        self._receive_more()
        part = self._parts[0]
        try:
            if not self._under_way:
                self._begin(part)
            self._begin_more()
            batches = self._finish_one() if self._under_way[0] else 0
        except Exception as error:
            self._acknowledge()
            self._failures += 1
            others = sum(map(bool, self._under_way)) > 1
            self._under_way.clear()
            self._asked = False  # perhaps some of it is there
            if others and self._is_refusal(error):
                self._alone = _ALONE  # any of them may be the one that the far end does not take
            else:
                self._on_failure(part, error)
            return
        self._on_finished(batches)

    def _receive_more(self) -> None:
        """What can be sent before the first part is confirmed: whole batches that wait."""
        if not self._asked or self._stopped or self._alone:
            return
        while len(self._parts) < self._most_under_way:
            if self._waiting < self._batch_records:  # so many there were when we asked: asking takes its time
                self._waiting = len(self._consumer) - sum(map(len, itertools.chain(self._arrived, self._parts)))
            if self._waiting < self._batch_records:
                return
            more = self._receive(self._batch_records, self._batch_bytes, 0.0)
            if not more:
                return
            self._parts.append(more)

    def _begin(self, part: Batch) -> None:
        self._alive_at = self._clock.monotonic()
        fresh = self._not_yet_there(part)
        if fresh:
            self._note(fresh)
            self._send(fresh)
        self._under_way.append(len(fresh))

    def _note(self, batch: Batch) -> None:
        """What is sent next. On a full disk it goes without: only what is sent makes room on it again."""
        if self._bounds is None:
            return
        try:
            self._bounds.note(batch)
        except DiskFull as error:
            if not self._told_full:
                _logger.warning("%s; after a kill, the records under way may come again in other batches", error)
            self._told_full = True

    def _begin_more(self) -> None:
        while self._asked and not self._stopped and not self._alone:
            if len(self._under_way) == min(len(self._parts), self._most_under_way):
                return
            try:
                self._begin(self._parts[len(self._under_way)])
            except Exception:
                # What was before it is finished first. Then it is the first, and fails again, or does not.
                self._asked = False

    def _finish_one(self) -> int:
        """How many batches the far end has, from the first on."""
        self._alive_at = self._clock.monotonic()
        batches, begun = self._finish(), sum(map(bool, self._under_way))
        if not isinstance(batches, int) or not 1 <= batches <= begun:
            what = f"the sink's finish() returned {batches!r}, with {begun} batches begun"
            raise SinkError(what, verdict=Verdict.CONFIGURATION)
        return batches

    def _on_finished(self, batches: int) -> None:
        """The far end has so many of those under way, from the first on; a part without anything new was none."""
        parts, sent = 0, 0
        for records in self._under_way:
            if records and batches == 0:
                break
            batches -= bool(records)
            parts, sent = parts + 1, sent + records
            self._sent_batches += bool(records)
        for _ in range(parts):
            self._arrived.append(self._parts[0])  # before it is taken away, so that an interrupt finds it
            self._parts.popleft()
            self._under_way.popleft()
            self._alone = max(0, self._alone - 1)
        self._sent_records += sent
        self._refused_in_a_row = 0
        self._trouble.is_over()
        # Each acknowledgement costs a sync. While more is under way it may cover several batches: what of it a crash
        # forgets, the far end says that it has.
        if not self._under_way or len(self._arrived) >= _UNDER_WAY:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._arrived:
            self._consumer.ack(*itertools.chain(*self._arrived))
            self._arrived.clear()

    def _not_yet_there(self, part: Batch) -> Batch:
        """Without what the far end says it has. Asked here, because the far end may be away, like for any send."""
        if not self._attached:
            self._attach(part[0].id.rpartition(":")[0])
            self._attached = True
        if not self._asked:
            self._resume_point = self._ask_resume_point()
            self._asked = True
        point = self._resume_point
        if point is None:
            return part
        # A message with a delay may be new below the point: it was not due when the others passed it.
        fresh = [message for message in part if message.offset >= point or _was_delayed(message)]
        if len(fresh) < len(part) and point != self._told_point:
            self._told_point = point
            _logger.info("not sent again: the far end says that it has all of this log below offset %d", point)
        return fresh

    def _is_refusal(self, error: Exception) -> bool:
        """Without a word about which records."""
        named = isinstance(error, SinkError) and (error.refused or error.confirmed)
        return self._classify(error) is Verdict.REFUSED and not named

    def _on_failure(self, part: Batch, error: Exception) -> None:
        verdict = self._classify(error)
        named: Sequence[Message[Any]] = ()  # as refused by the sink, which will not be asked again
        if isinstance(error, SinkError):
            named = error.refused
            if error.confirmed:
                self._on_confirmed(error.confirmed)
                if error.retry_after == 0 and verdict is Verdict.RETRY and not named:
                    self._failures -= 1  # none: the sink has done a part of it, and gives us a turn
                    return
        if not part:
            return
        if verdict is Verdict.REFUSED and not named and len(part) > 1:
            middle = len(part) // 2
            self._alone = _ALONE  # else the halves would go together again
            self._parts.popleft()
            self._parts.extendleft((part[middle:], part[:middle]))
            return
        problem = error
        if verdict is Verdict.REFUSED or named:
            if (0 if named else self._refused_in_a_row) < self._max_refused:
                try:
                    self._set_aside(tuple(named or part), error)
                    self._refused_in_a_row += not named
                    return
                except DeadLetterWriteFailed as full:
                    problem = full
            verdict = Verdict.CONFIGURATION
        self._trouble.tell(verdict, problem, self._refused_in_a_row)
        self._wait(error)

    def _on_confirmed(self, messages: Sequence[Message[Any]]) -> None:
        """The far end has these, though not the whole batch."""
        self._consumer.ack(*messages)
        self._out_of_hand(messages)
        self._sent_records += len(messages)
        self._refused_in_a_row = 0

    def _set_aside(self, messages: Sequence[Message[Any]], error: Exception) -> None:
        """The far end will never take these: they go to the dead-letter queue, and the others go on."""
        self._consumer.refuse(*messages, detail=error.detail if isinstance(error, SinkError) else str(error))
        self._out_of_hand(messages)
        self._refused_records += len(messages)
        which = messages[0].id if len(messages) == 1 else f"{messages[0].id} and {len(messages) - 1} more"
        _logger.warning("refused, and kept as a dead letter: %s: %s", which, error)

    def _out_of_hand(self, messages: Sequence[Message[Any]]) -> None:
        """These, of the first part, are settled."""
        settled = {message.offset for message in messages}
        part = self._parts[0]
        part[:] = [message for message in part if message.offset not in settled]
        if not part:
            self._parts.popleft()
        self._trouble.progress()

    def _wait(self, error: Exception) -> None:
        """Back off, in slices, so that stop() is noticed; or raise if the patience is at an end."""
        delay = self._trouble.pause(error)
        while delay > 0 and not self._stopped:
            self._alive_at = self._clock.monotonic()
            nap = min(delay, _SLICE_SECONDS)
            self._clock.sleep(nap)
            delay -= nap

    def _give_back(self) -> None:
        in_hand = list(dict.fromkeys(itertools.chain(*self._arrived, *self._parts)))
        self._arrived.clear()
        self._parts.clear()
        self._under_way.clear()
        if in_hand:
            self._asked = False  # some of it may have been sent, as where an interrupt struck: the next run asks
            with contextlib.suppress(LogClosed):  # closing has given them back already
                self._consumer.nack(*in_hand, delay=0)


def _size(messages: Iterable[Message[Any]]) -> int:
    return sum(len(message.payload) for message in messages)


def _verdict_of(error: Exception) -> Verdict:
    """Where a sink does not say: trying again is the one answer that loses nothing."""
    return error.verdict if isinstance(error, SinkError) else Verdict.RETRY


def _was_delayed(message: Message[Any]) -> bool:
    extras = message.extras
    return extras is not None and extras.due_ns != 0
