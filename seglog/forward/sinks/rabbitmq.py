"""`amqp-stream://` and `amqp-stream+tls://`: a stream of RabbitMQ. Needs the extra `rabbitmq` (rstream).

A record is published by the publisher `seglog-<log id>` under the number `<offset + 1>`. The server keeps the highest
number of each publisher together with the records, drops what is not above it, and says where it is: that is where
to go on, also when the stream is trimmed. One stream takes one log; the sink makes none.

A message that was delayed may come when others have passed it, and its number would be dropped. So those go out by a
second publisher, `seglog-<log id>-late`, whose numbers only rise. In each process they begin at the time in ns, or at
least 2**24 above what the server has, should the clock be behind that: no two processes use the same ones. What a
process that died had on its way may still arrive in between; then what is below is dropped, and confirmed like the
rest. So late messages count only when the server says that the last one's number is the highest. Against duplicates,
they keep their numbers when the same are sent again; and before the first of them after each failure, the newest 10,000
entries of the stream (fewer if they are large) are searched for those that did arrive. What a dead process had on its
way and arrives after that search may be there twice.

What is published goes to the stream's leader, at the address that RabbitMQ advertises for it, unless that is the node
of the URL: then what arrives is always what was sent first. The server refuses a frame as a whole, and none is sent
before the one before is confirmed: so there are no holes below the highest number.

RabbitMQ confirms a record when most replicas have it; it does not wait for their disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import InvalidOption
from seglog.forward.sinks import address, amqp
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.forward.sinks.event_loop import EventLoop
from seglog.forward.sinks.rabbitmq_connection import Entry, StreamConnection
from seglog.model import Message

T = TypeVar("T")

_MAIN, _LATE = 0, 1  # the publishers, as a connection knows them
_LIFE = 1 << 24  # numbers of late messages between those of two processes, where the clock says nothing
_SEARCHED_ENTRIES = 10_000
_SEARCHED_BYTES = 32 << 20


class RabbitStreamSink:
    """Publishes batches to one stream. See `seglog.forward.open_sink`.

    Options of the URL: `vhost`, by default `/`; those of every engine are in address.py. Without user and password
    it is guest.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, clock: Clock | None = None) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        tls = url.lower().startswith("amqp-stream+tls:")
        self._at = address.parse(url, port=5551 if tls else 5552, target="a stream", known=("vhost",))
        self._vhost = self._at.options.get("vhost", "/")
        if not (self._at.target + self._vhost).isascii():
            raise InvalidOption(f"{self._at.name}: rstream cannot say names of streams and hosts that are not ASCII")
        if (self._at.user is None) != (self._at.password is None):
            raise InvalidOption(f"{self._at.name}: a user needs a password, and a password a user")
        try:
            import rstream  # noqa: F401
        except ImportError as error:
            raise missing("rabbitmq", "rstream") from error
        self._tls = self._at.tls() if tls else None
        self._timeout = timeout
        self._loop = EventLoop("seglog-rabbitmq", timeout)
        self._clock = SystemClock() if clock is None else clock
        self._connection: StreamConnection | None = None
        self._leader = ""  # where it is, while it is connected to at an address that is not the URL's
        self._publisher = self._late_publisher = ""
        self._log_id = ""
        self._newest = 0  # the highest number of the main publisher
        self._there: set[str] | None = None  # what the newest entries are; None: to be looked up
        self._search = _SEARCHED_ENTRIES
        # Late messages of which nobody knows whether they arrived, in the order they were sent in: the first has the
        # number base + 1. As long as they come again in this order, no number arrives before a lower one.
        self._late: list[str] = []
        self._late_base = 0

    def attach(self, log_id: str) -> None:
        self._log_id = log_id
        self._publisher, self._late_publisher = f"seglog-{log_id}", f"seglog-{log_id}-late"

    def resume_point(self) -> int | None:
        """By the highest number that the server has of this log."""
        return self._run(self._resume())

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """Publish it all, and wait until it is all confirmed. What the server has already, it confirms as well."""
        self._run(self._send(batch))

    def close(self) -> None:
        """Give the connection back, and the thread. A later `send` starts anew."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                with contextlib.suppress(TimeoutError):  # nobody heard the goodbye; all that matters was confirmed
                    self._loop.run(connection.close())
        finally:
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._leader = ""
        try:
            return self._loop.run(work)
        except SinkError as error:
            if error.verdict is Verdict.REFUSED:
                raise
            raise SinkError(self._words(str(error)), verdict=error.verdict) from error
        except TimeoutError as error:
            raise SinkError(self._words(f"no answer within {self._timeout:g} s")) from error
        except Exception as error:  # of the network, or what rstream's decoder raises
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            # A connection that was cut is the network's affair, also where TLS noticed it first.
            cut = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
            fault = isinstance(error, ssl.SSLError) and not cut
            verdict = Verdict.CONFIGURATION if fault else Verdict.RETRY
            raise SinkError(self._words(reason), verdict=verdict) from error

    def _words(self, reason: str) -> str:
        if not self._leader:
            return f"{self._at.name}: {reason}"
        where = f"the stream's leader, which RabbitMQ says is at {self._leader}"
        return f"{self._at.name}: {where}: {reason}; see stream.advertised_host"

    # In the loop

    async def _resume(self) -> int | None:
        connection = await self._connected()
        try:
            newest = await connection.sequence(self._at.target, self._publisher)
        except BaseException:  # a connection that went silent would be asked for ever
            await self._give_up()
            raise
        self._newest = max(self._newest, newest)
        self._there = None
        return self._newest or None

    async def _send(self, batch: Sequence[Message[Any]]) -> None:
        connection = await self._connected()
        entries = [amqp.encode(message) for message in batch]
        for message, entry in zip(batch, entries, strict=True):
            if len(entry) > connection.largest():
                what = f"{message.id} takes {len(entry)} bytes as a message, and the server {connection.largest()}"
                raise SinkError(what, verdict=Verdict.REFUSED)
        try:
            newest = await self._publish(connection, batch, entries)
        except BaseException:
            await self._give_up()
            raise
        self._newest = newest
        self._late_base, self._late = self._late_base + len(self._late), []

    async def _publish(self, connection: StreamConnection, batch: Sequence[Message[Any]], entries: list[bytes]) -> int:
        """In the order of the batch, by whichever publisher. Returns the highest number of the main one."""
        newest, late = self._newest, list[str]()
        numbers = list[int]()  # of the main publisher; 0: by the other one
        for message in batch:
            in_turn = message.offset + 1 > newest and not _was_delayed(message)
            numbers.append(message.offset + 1 if in_turn else 0)
            newest = max(newest, numbers[-1])
            late += [] if in_turn else [message.id]
        there = await self._look_back(connection, late) if late else frozenset()
        late_numbers = {id: number for number, id in enumerate(self._late, self._late_base + 1)}
        by, run = _MAIN, list[Entry]()
        for message, entry, number in zip(batch, entries, numbers, strict=True):
            if not number and message.id in there:
                continue
            publisher = _MAIN if number else _LATE
            if publisher != by and run:
                await self._hand_over(connection, by, run)
                run = []
            by = publisher
            run.append((number or late_numbers[message.id], entry))
        if run:
            await self._hand_over(connection, by, run)
        return newest

    async def _hand_over(self, connection: StreamConnection, by: int, run: list[Entry]) -> None:
        """Return when the server has it. Raises SinkError."""
        await connection.publish(by, run)
        if by == _LATE and await connection.sequence(self._at.target, self._late_publisher) != run[-1][0]:
            # Perhaps these were dropped for what came in between: the next look back will tell.
            raise SinkError("late messages that another process had on their way came in between")

    async def _look_back(self, connection: StreamConnection, late: list[str]) -> Collection[str]:
        """Which of the newest entries are there, looked up once after each resume_point; and numbers for these."""
        if self._there is None:
            known = await connection.sequence(self._at.target, self._late_publisher)
            if not self._late_base or known > self._late_base + len(self._late):  # somebody else's
                now = self._clock.time_ns()  # also where it is behind, its last digits tell two processes apart
                self._late_base, self._late = max(now, known + _LIFE + now % _LIFE), []
            self._there = await self._newest_ids(connection)
        both = min(len(late), len(self._late))
        if late[:both] != self._late[:both]:
            self._late_base, self._late = self._late_base + len(self._late), late
        elif len(late) > both:
            self._late = late
        return self._there

    async def _connected(self) -> StreamConnection:
        """To the leader, logged in, and with the newest number known."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        await self._give_up()
        connection = await self._open(self._at.host, self._at.port)
        try:
            leader = await connection.leader(self._at.target)
            if leader != connection.advertised:
                await connection.close()
                self._leader = ":".join(leader)
                connection = await self._open(leader[0], int(leader[1]))
                self._leader = ""
            await connection.declare(self._at.target, self._publisher, _MAIN)
            await connection.declare(self._at.target, self._late_publisher, _LATE)
            newest = await connection.sequence(self._at.target, self._publisher)
            if not newest and not await connection.sequence(self._at.target, self._late_publisher):
                newest = await self._newest_by_entries(connection)
        except BaseException:
            connection.abort()
            raise
        self._connection, self._newest, self._there = connection, newest, None
        return connection

    async def _open(self, host: str, port: int) -> StreamConnection:
        credentials = self._at.user or "guest", self._at.password or "guest"
        return await StreamConnection.open(host, port, self._tls, credentials, self._vhost)

    async def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await asyncio.sleep(0)

    async def _newest_by_entries(self, connection: StreamConnection) -> int:
        """Where the server knows no number of this log: then nothing is there, or it forgot it (it keeps 255)."""
        last = list[str]()
        await connection.read(
            self._at.target, None, lambda chunk: last.extend(map(amqp.identity, chunk.get_messages()))
        )
        if not last:
            return 0
        if last[-1].rpartition(":")[0] != self._log_id:
            raise SinkError(
                "the stream has records that are not of this log, and one stream takes one log",
                verdict=Verdict.CONFIGURATION,
            )
        return 1 + max(int(number) for id, _, number in (one.rpartition(":") for one in last) if id == self._log_id)

    async def _newest_ids(self, connection: StreamConnection) -> set[str]:
        first, ids = list[int](), set[str]()

        def look_at_last(chunk: Any) -> None:
            each = max(1, chunk.data_length // chunk.num_records)
            back = min(self._search, _SEARCHED_BYTES // each)
            first.append(max(0, chunk.chunk_first_offset + chunk.num_records - back))

        await connection.read(self._at.target, None, look_at_last)
        if first:
            self._search = max(1, self._search // 4)  # should it not come to an end in time, next time
            await connection.read(
                self._at.target, first[0], lambda chunk: ids.update(map(amqp.identity, chunk.get_messages()))
            )
        self._search = _SEARCHED_ENTRIES
        return ids


def _was_delayed(message: Message[Any]) -> bool:
    return message.extras is not None and message.extras.due_ns != 0
