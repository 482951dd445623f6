"""`kafka://` and `kafka+tls://`: one partition of a topic. Needs the extra `kafka` (confluent-kafka).

A record keeps its payload, key, headers and time (ms), and gets the header `seglog-id`: `log_id:offset`. One partition
takes one log, so the newest record there says how far it got. A message that was delayed comes when others have passed
it: it also gets `seglog-newest`, the highest offset before it, so that the newest record still says it.

Nothing arrives twice or out of order, nor is anything left out:

- The producer is idempotent: it repeats a request that was not answered, and the broker knows it again. That holds for
  this one producer, so a send without an answer is waited for, with the producer that sent it, before anything else is
  done. Only then the partition is read. A new producer could write again what an old connection still carries.
- What stood behind a hole would hide it from the read-back. So messages never time out inside the producer, one request
  is under way at a time, and the first that is refused for good ends the producer (`enable.gapless.guarantee`). It may
  have made one more by then, which the broker does not take, as its numbers do not follow: if it knows the producer. So
  the first message of a producer goes alone, also after a pause. And what was begun with a producer that ended so is
  looked for message by message.

What no producer can know: a process that dies with a request under way leaves it to the network. If the broker answers
the next process's question first and takes that request afterwards, its records are there twice, with the same id.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import InvalidOption
from seglog.forward.sinks import address, kafka_settings
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.forward.sinks.kafka_errors import AFTERMATH, Heard, verdict_of, words
from seglog.forward.sinks.kafka_reader import ID, NEWEST, Reader, TooSlow
from seglog.model import Extras, Message

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

_BYTES_MAX = 100_000_000  # a broker hangs up without a word on requests above its socket.request.max.bytes, 100 MiB
_HEADER_BYTES = 16  # what the lengths of one header take, at most
_SLICE_SECONDS = 0.1
_KNOWN_SECONDS = 60.0  # of silence; brokers forget a producer after a day, unless they are told otherwise


class KafkaSink:
    """Adds batches to one partition. See `seglog.forward.open_sink`.

    Options of the URL: `partition` (0); `brokers`, more of them to begin with, `host[:port]` with commas; `sasl`, the
    mechanism, PLAIN unless SCRAM-SHA-256 or SCRAM-SHA-512 is said; `max_bytes`, the largest record that is sent. Those
    of every engine are in address.py. The topic must be there.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, clock: Clock | None = None) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        self._timeout = timeout
        self._at = address.parse(url, port=9092, target="a topic", known=("brokers", "max_bytes", "partition", "sasl"))
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", self._at.target):
            raise InvalidOption(f"{self._at.target!r} is no name of a topic")
        self._partition = address.whole(self._at.options, "partition", 0, 0, (1 << 31) - 1)
        self._max_bytes = address.whole(self._at.options, "max_bytes", _BYTES_MAX, 1, 999_000_000)
        connecting = kafka_settings.connection(self._at, self._timeout)
        self._writing = {**connecting, **kafka_settings.writing(self._timeout, self._max_bytes)}
        self._reading = {**connecting, **kafka_settings.reading(self._max_bytes)}
        try:
            import confluent_kafka
        except ImportError as error:
            raise missing("kafka", "confluent-kafka") from error
        self._library: Any = confluent_kafka
        self._clock = SystemClock() if clock is None else clock
        self._writer: _Writer | None = None
        self._log_id = ""
        self._newest = -1  # the highest offset there, or begun
        self._begun: deque[_Begun] = deque()
        self._unsure: range | None = None  # offsets among which some may be missing there
        self._end: int | None = None  # where the partition ended when it was read; None: what is late there is known
        self._late: set[int] = set()  # offsets of this log among the records before that

    def attach(self, log_id: str) -> None:
        self._log_id = log_id

    def resume_point(self) -> int | None:
        """By the newest record of the partition, once nothing is under way to it."""
        deadline = self._deadline()
        writer = self._writer
        if writer is not None:
            if not writer.settle(deadline):
                raise self._no_answer(writer.heard)
            if writer.ended:
                for begun in self._begun:
                    self._doubt(begun.first, begun.last)
                self.close()
        self._begun.clear()
        with self._reader(deadline) as reader:
            newest, self._end = reader.newest()
        self._newest, self._late = -1, set()
        if newest is None:
            return None
        if newest.log_id != self._log_id:
            raise SinkError(
                f"{self._name}: the newest record is not of this log, and one partition takes one log",
                verdict=Verdict.CONFIGURATION,
            )
        self._newest = newest.highest
        return self._newest + 1 if self._unsure is None else min(self._newest + 1, self._unsure.start)

    def _doubt(self, first: int, last: int) -> None:
        """A batch that is not confirmed is to be looked for, also below what is the newest there."""
        before = range(first, first) if self._unsure is None else self._unsure
        self._unsure = range(min(first, before.start), max(last + 1, before.stop))

    def _sure(self, last: int) -> None:
        """A batch is confirmed, with what was before it."""
        if self._unsure is not None:
            self._unsure = range(max(last + 1, self._unsure.start), self._unsure.stop) or None

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """All of it is given to the producer, and waited for. Not while something is begun."""
        self.begin(batch)
        self.finish()

    def begin(self, batch: Sequence[Message[Any]]) -> None:
        """All of it is given to the producer. Raises SinkError if a record is too large, or the time is over."""
        deadline = self._deadline()
        if self._writer is None:
            place = self._at.target, self._partition
            self._writer = _Writer(self._library, self._writing, place, self._max_bytes, self._clock)
        # What was below the newest already was told apart before, and stays as doubtful as it was.
        first, last = self._newest + 1, self._newest
        if batch:
            first, last = max(first, batch[0].offset), batch[-1].offset
        try:
            self._write(self._writer, batch, deadline)
        except BaseException:
            self._doubt(first, last)
            raise
        self._begun.append(_Begun(first, last, self._writer.given))

    def _write(self, writer: _Writer, batch: Sequence[Message[Any]], deadline: float) -> None:
        at = 0
        try:
            while at < len(batch) and not writer.is_known():
                self._give(writer, batch[at : at + 1], deadline)
                at += 1
                if not writer.store(writer.given, deadline):
                    raise self._trouble(writer, deadline)
            self._give(writer, batch[at:] if at else batch, deadline)
        except _TooLarge as error:
            if not writer.store(writer.given, deadline):  # those before it
                raise self._trouble(writer, deadline) from None
            self._refuse(batch, error.offset)

    def _give(self, writer: _Writer, batch: Sequence[Message[Any]], deadline: float) -> None:
        self._newest, whole = writer.write(batch, self._newest, partial(self._is_there, deadline), deadline)
        if not whole:
            raise self._trouble(writer, deadline)

    def finish(self) -> int:
        """Wait until the broker has the oldest batch that was begun. Returns how many of them it has by then."""
        writer, deadline = self._writer, self._deadline()
        assert writer is not None, "nothing was begun"
        if not writer.store(self._begun[0].given, deadline):
            raise self._trouble(writer, deadline)
        writer.heard.forget()
        before = len(self._begun)
        while self._begun and self._begun[0].given <= writer.stored:
            self._sure(self._begun.popleft().last)
        return before - len(self._begun)

    def _trouble(self, writer: _Writer, deadline: float) -> SinkError:
        """What ended it, once that is known of all that was given."""
        if writer.settle(deadline) and writer.failed is not None:
            return self._failure(writer.heard.cause(writer.failed))
        return self._no_answer(writer.heard)

    def close(self) -> None:
        """Give the connections back, and up what was not answered. A later `send` opens new ones."""
        writer, self._writer = self._writer, None
        self._begun.clear()
        if writer is not None:
            writer.abandon()

    def _refuse(self, batch: Sequence[Message[Any]], offset: int) -> NoReturn:
        at = [message.offset for message in batch].index(offset)
        what = f"{batch[at].id} has more than the {self._max_bytes} bytes that are sent"
        raise SinkError(what, verdict=Verdict.REFUSED, confirmed=batch[:at], refused=batch[at : at + 1])

    def _is_there(self, deadline: float, offset: int) -> bool:
        """A message that was delayed is sent although the far end has later ones; only looking tells if it has it."""
        if self._end is not None:
            with self._reader(deadline) as reader:
                self._late = reader.offsets(self._end, self._log_id)
            self._end = None
        return offset in self._late

    @contextmanager
    def _reader(self, deadline: float) -> Iterator[Reader]:
        """With a connection of its own, so that it sees what the broker gives to everybody."""
        heard = Heard()
        consumer = self._library.Consumer({**self._reading, "error_cb": heard}, logger=heard)
        try:
            yield Reader(self._library, consumer, heard, (self._at.target, self._partition), (deadline, self._clock))
        except TooSlow as error:
            raise self._no_answer(heard) from error
        except self._library.KafkaException as error:
            raise self._failure(heard.cause(error.args[0])) from error
        finally:
            consumer.close()

    @property
    def _name(self) -> str:
        return f"{self._at.name}, partition {self._partition}"

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._timeout

    def _failure(self, error: KafkaError) -> SinkError:
        return SinkError(f"{self._name}: {words(error)}", verdict=verdict_of(error))

    def _no_answer(self, heard: Heard) -> SinkError:
        if heard.error is not None:
            return self._failure(heard.error)
        return SinkError(f"{self._name}: no answer within {self._timeout:g} s")


class _Begun(NamedTuple):
    """A batch: its first and last offset, and how many messages the producer was given with it and before."""

    first: int
    last: int
    given: int


class _TooLarge(Exception):
    def __init__(self, offset: int) -> None:
        self.offset = offset


class _Writer:
    """One producer. Its messages are written in the order of the calls, and none behind one that failed."""

    def __init__(
        self, library: Any, settings: dict[str, Any], place: tuple[str, int], max_bytes: int, clock: Clock
    ) -> None:
        self.heard = Heard()
        self.failed: KafkaError | None = None
        self._producer = library.Producer({**settings, "error_cb": self.heard}, logger=self.heard)
        self._error: type[Exception] = library.KafkaException
        self._topic, self._partition = place
        self._max_bytes = max_bytes
        self._clock = clock
        self._stored_at = 0.0
        self.given = self.stored = 0  # messages, from the first on; behind one that failed there may be a hole
        # Where errors are reported: without a step of Python, as an interrupt that struck in there would lose one; and
        # no dict, as one of these errors has no hash.
        self._errors: SimpleQueue[KafkaError] = SimpleQueue()
        self.doubtful = False  # a report may have got lost

    @property
    def ended(self) -> bool:
        """Nothing more can be written with it."""
        return self.failed is not None or self.doubtful

    def write(
        self, batch: Sequence[Message[Any]], newest: int, is_there: Callable[[int], bool], deadline: float
    ) -> tuple[int, bool]:
        """Gives them to the producer. Returns the highest offset that it has with these, and whether it has them all.

        Not all, if there was no room for too long, or there is no point in it any more. Raises _TooLarge, with those
        before that one given. `newest`: the highest that was given before; `is_there` is asked for what is below it.
        """
        give, topic, partition, done = self._producer.produce, self._topic, self._partition, self._errors.put
        log_id = batch[0].origin.log_id if batch else ""
        identity = [(ID, "")]  # one list for all: the library copies what is in it
        before, given, most, last_ns, time_ms = newest, 0, self._max_bytes, -1, 0
        try:
            for offset, payload, time_ns, _, extras, _, _ in batch:  # this loop is what forwarding costs
                identity[0] = (ID, f"{log_id}:{offset}")
                headers: list[tuple[str, Any]] = identity
                if offset > newest:
                    newest = offset
                elif offset <= before and is_there(offset):
                    continue
                else:
                    headers = [*headers, (NEWEST, str(newest))]
                size, key = len(payload), None
                if extras is not None:
                    key = extras.key
                    further = _headers(extras)
                    headers = [*headers, *further]
                    size += len(key or b"") + _size(further)
                if size > most:
                    raise _TooLarge(offset)
                if time_ns != last_ns:
                    last_ns, time_ms = time_ns, time_ns // 1_000_000
                while self.failed is None:
                    try:
                        give(topic, payload, key, partition, done, timestamp=time_ms, headers=headers)
                        break
                    except BufferError:
                        if not self._serve(deadline):
                            return newest, False
                    except self._error as error:  # it ended because of an earlier one, or takes none like this
                        self._fail(error.args[0])
                else:
                    return newest, False
                given += 1
        finally:
            self.given += given
        return newest, True

    def store(self, count: int, deadline: float) -> bool:
        """Wait until the broker has so many of the messages. False if that is not to be, or takes too long."""
        self._look()
        while self.stored < count and not self.ended:
            if not self._serve(deadline, flush=count == self.given):
                break
        return self.stored >= count

    def settle(self, deadline: float) -> bool:
        """Wait until it is known of every message what became of it. False if that takes too long."""
        self._look()
        purged = False
        while len(self._producer) and self._serve(deadline, flush=True):
            if self.failed is not None and not purged:
                self._producer.purge(in_queue=True, in_flight=False)
                purged = True
        return not len(self._producer)

    def abandon(self) -> None:
        """Without a last attempt: nothing is written from now on but what is on its way."""
        self._producer.purge()
        with suppress(self._error):
            self._producer.poll(0)
        del self._producer

    def _serve(self, deadline: float, flush: bool = False) -> bool:
        """Wait a little for reports; with `flush`, for all of them, and nothing lingers any more. False: it is late."""
        seconds = min(deadline - self._clock.monotonic(), _SLICE_SECONDS)
        if seconds <= 0:
            return False
        try:
            (self._producer.flush if flush else self._producer.poll)(seconds)
        except self._error as error:  # the producer has ended; what became of its messages is still reported
            self.heard(error.args[0])
        except BaseException:
            self.doubtful = True
            raise
        self._look()
        return True

    def _look(self) -> None:
        """What has been reported, and is no error, is stored: successes are not told, but the library counts them."""
        left = len(self._producer)  # to be reported
        while not self._errors.empty():
            self._fail(self._errors.get())
        if not self.ended and self.given - left > self.stored:
            self.stored = self.given - left
            self._stored_at = self._clock.monotonic()

    def is_known(self) -> bool:
        """Whether the broker has heard of this producer, and not so long ago that it may have forgotten."""
        return self.stored > 0 and self._clock.monotonic() < self._stored_at + _KNOWN_SECONDS

    def _fail(self, error: KafkaError) -> None:
        if self.failed is None or self.failed.name() in AFTERMATH:
            self.failed = error


def _headers(extras: Extras) -> list[tuple[str, bytes]]:
    """A name of a header may have half a surrogate pair, which is no UTF-8."""
    return [(name.encode("utf-8", "replace").decode(), value) for name, value in (extras.headers or {}).items()]


def _size(headers: list[tuple[str, bytes]]) -> int:
    return sum(len(name.encode()) + len(value) + _HEADER_BYTES for name, value in headers)
