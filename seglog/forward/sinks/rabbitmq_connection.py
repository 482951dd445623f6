"""One connection that speaks RabbitMQ's stream protocol: log in, ask, publish, read. All in one event loop.

The frames are rstream's. Its clients are not used: they write passwords to the debug log, go on for ten seconds when
a connection is gone, and connect again by themselves, when nobody knows yet what has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from seglog.forward.sinks.base import SinkError, Verdict

if TYPE_CHECKING:
    from rstream import schema

F = TypeVar("F", bound="schema.Frame")
Entry = tuple[int, bytes]  # publishing id, and the message

OK = 1
NO_LEADER = 65535
_FRAME_BYTES = 13  # of a frame that publishes nothing
_ENTRY_BYTES = 12  # of an entry, beside the message
_WITHOUT_LIMIT = 128 << 20  # for a server that says it has none
_GOODBYE_SECONDS = 1.0
_OTHER_PROTOCOL = b"AMQP"  # what RabbitMQ's usual port answers with, instead of the length of a frame

# What the server answers, where somebody has to look. The rest of the codes pass: it starts, or elects a leader.
_MENDED_BY_SOMEBODY = {
    2: "there is no such stream",
    7: "the server takes no passwords (SASL PLAIN)",
    8: "the user or the password is wrong",
    9: "the login is refused",
    11: "this user may only come from the server's own machine",
    12: "this user may not use the virtual host, or there is none of that name",
    16: "this user lacks a permission: it needs to write to the stream, and to read it",
}
_PASSING = {6: "the stream is not available now", 14: "the frame is too large", 18: "the publisher is gone"}


def refusal(code: int) -> SinkError:
    """What an answer that is not OK means."""
    if code in _MENDED_BY_SOMEBODY:
        return SinkError(_MENDED_BY_SOMEBODY[code], verdict=Verdict.CONFIGURATION)
    return SinkError(_PASSING.get(code, f"the server answers with error {code}"))


class StreamConnection:
    """What was opened, until it breaks or is closed. Whatever breaks it is raised by whoever waits on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._trouble: Exception | None = None
        self._last_id = 0
        self._answers: dict[tuple[type[Any], int | None], asyncio.Future[Any]] = {}
        self._unconfirmed: set[tuple[int, int]] = set()  # publisher and publishing id
        self._confirmed: asyncio.Future[None] | None = None
        self._chunks: asyncio.Queue[schema.Deliver] = asyncio.Queue()
        self._heard = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._listen())]
        self._frame_max = 0
        self.advertised = ("", "")  # the host and port that the server says it has

    @classmethod
    async def open(
        cls, host: str, port: int, tls: ssl.SSLContext | None, credentials: tuple[str, str], vhost: str
    ) -> StreamConnection:
        """Connect and log in. Raises SinkError or OSError."""
        made = cls(*await asyncio.open_connection(host, port, ssl=tls))
        try:
            await made._log_in(credentials, vhost)
        except BaseException:
            made.abort()
            raise
        return made

    async def _log_in(self, credentials: tuple[str, str], vhost: str) -> None:
        from rstream import schema

        about = [schema.Property("product", "seglog"), schema.Property("connection_name", "seglog")]
        await self.ask(schema.PeerProperties(self.number(), about), schema.PeerPropertiesResponse)
        await self.ask(schema.SaslHandshake(self.number()), schema.SaslHandshakeResponse)
        tuning = self._answer(schema.Tune, None)
        secret = "\0".join(("", *credentials)).encode()
        await self.ask(schema.SaslAuthenticate(self.number(), "PLAIN", secret), schema.SaslAuthenticateResponse)
        tune = await tuning
        self._frame_max = tune.frame_max
        await self._write(schema.Tune(tune.frame_max, tune.heartbeat))
        opened = await self.ask(schema.Open(self.number(), vhost), schema.OpenResponse)
        said = {one.key: one.value for one in opened.properties}
        self.advertised = said.get("advertised_host", ""), said.get("advertised_port", "")
        if tune.heartbeat:
            self._tasks.append(asyncio.create_task(self._beat(tune.heartbeat)))

    @property
    def usable(self) -> bool:
        return self._trouble is None

    def number(self) -> int:
        """For the next request."""
        self._last_id += 1
        return self._last_id

    async def ask(self, request: schema.Frame, answer: type[F]) -> F:
        """Raises SinkError if the answer is a refusal."""
        waiting = self._answer(answer, request.corr_id)
        await self._write(request)
        found: F = await waiting
        if (code := getattr(found, "response_code", OK)) != OK:
            raise refusal(code)
        return found

    async def leader(self, stream: str) -> tuple[str, str]:
        """Host and port of the node that takes what is published to the stream."""
        from rstream import schema

        answer = await self.ask(schema.Metadata(self.number(), [stream]), schema.MetadataResponse)
        if not answer.metadata:
            raise SinkError("the server says nothing of the stream")
        about = answer.metadata[0]
        if about.response_code != OK:
            raise refusal(about.response_code)
        for broker in answer.brokers:
            if broker.reference == about.leader_ref:
                return broker.host, str(broker.port)
        raise SinkError("the stream has no leader now")

    def largest(self) -> int:
        """Bytes of the largest message that the server takes."""
        return (self._frame_max or _WITHOUT_LIMIT) - _FRAME_BYTES - _ENTRY_BYTES

    async def publish(self, publisher: int, entries: Sequence[Entry]) -> None:
        """Return when the server has it all. Raises SinkError if it does not take some of it.

        A frame waits until the one before is confirmed: were that refused, this one's numbers would hide it.
        """
        frame, size = list[Entry](), 0
        for entry in entries:
            if frame and size + len(entry[1]) > self.largest():
                await self._publish_frame(publisher, frame)
                frame, size = [], 0
            frame.append(entry)
            size += len(entry[1]) + _ENTRY_BYTES
        await self._publish_frame(publisher, frame)

    async def read(self, stream: str, first: int | None, take: Callable[[schema.Deliver], object]) -> None:
        """Hand on the chunks from the one with that entry on to the newest; None: the newest alone."""
        from rstream import schema
        from rstream.constants import OffsetType

        kind = OffsetType.LAST if first is None else OffsetType.OFFSET
        where = schema.OffsetSpec.from_params(kind, first)
        await self.ask(schema.Subscribe(self.number(), 0, stream, where, 1, []), schema.SubscribeResponse)
        while True:
            # The server delivers before it answers what it is asked afterwards: nothing by then is nothing at all.
            await self.sequence(stream, "-")
            if self._chunks.empty():
                break
            take(self._chunks.get_nowait())
            if first is None:
                break
            await self._write(schema.Credit(0, 1))
        await self.ask(schema.Unsubscribe(self.number(), 0), schema.UnsubscribeResponse)

    async def sequence(self, stream: str, publisher: str) -> int:
        """The highest publishing id that the stream has of it; 0 if none."""
        from rstream import schema

        question = schema.QueryPublisherSequence(self.number(), publisher, stream)
        answer = await self.ask(question, schema.QueryPublisherSequenceResponse)
        return answer.sequence

    async def declare(self, stream: str, publisher: str, number: int) -> None:
        """Say who it is that will `publish` by that number."""
        from rstream import schema

        question = schema.DeclarePublisher(self.number(), number, publisher, stream)
        await self.ask(question, schema.DeclarePublisherResponse)

    async def close(self) -> None:
        """With a goodbye, if there is anybody to hear it."""
        from rstream import schema

        try:
            if self.usable:
                with contextlib.suppress(Exception):  # politeness only: all that matters was confirmed
                    goodbye = self.ask(schema.Close(self.number(), OK, "done"), schema.CloseResponse)
                    await asyncio.wait_for(goodbye, _GOODBYE_SECONDS)
        finally:
            self.abort()

    def abort(self) -> None:
        self._break(SinkError("the connection was given up"))
        self._writer.transport.abort()

    # Below: what runs meanwhile

    async def _listen(self) -> None:
        from rstream.encoding import decode_frame

        try:
            while True:
                size = await self._reader.readexactly(4)
                if size == _OTHER_PROTOCOL:
                    what = "this is the port of AMQP; streams have another one: 5552, or 5551 with TLS"
                    raise SinkError(what, verdict=Verdict.CONFIGURATION)
                frame = decode_frame(await self._reader.readexactly(int.from_bytes(size, "big")))
                self._heard = asyncio.get_running_loop().time()
                self._take(frame)
        except asyncio.IncompleteReadError:
            self._break(ConnectionError("the server hung up"))
        except Exception as error:  # also what the decoder raises: nothing can be understood after that
            self._break(error)

    def _take(self, frame: schema.Frame) -> None:
        from rstream import schema

        if isinstance(frame, schema.PublishConfirm):
            self._unconfirmed.difference_update((frame.publisher_id, id) for id in frame.publishing_ids)
            if not self._unconfirmed and self._confirmed is not None and not self._confirmed.done():
                self._confirmed.set_result(None)
        elif isinstance(frame, schema.PublishError):
            self._break(refusal(frame.errors[0].response_code))
        elif isinstance(frame, schema.Deliver):
            self._chunks.put_nowait(frame)
        elif isinstance(frame, schema.MetadataUpdate):
            self._break(SinkError("the stream moved, or was deleted"))
        elif isinstance(frame, schema.Close):
            self._break(SinkError(f"the server closed the connection: {frame.reason}"))
        elif (waiting := self._answers.pop((type(frame), frame.corr_id), None)) is not None and not waiting.done():
            waiting.set_result(frame)

    async def _beat(self, seconds: int) -> None:
        from rstream import schema

        while self.usable:
            await asyncio.sleep(seconds / 2)
            if asyncio.get_running_loop().time() - self._heard > 2 * seconds:
                self._break(ConnectionError("nothing was heard from the server"))
                return
            try:
                await self._write(schema.Heartbeat())
            except (SinkError, OSError) as error:
                self._break(error)

    def _break(self, trouble: Exception) -> None:
        """The first trouble counts; those who wait are told, and those who come."""
        if self._trouble is not None:
            return
        self._trouble = trouble
        for waiting in (*self._answers.values(), self._confirmed):
            if waiting is not None and not waiting.done():
                waiting.set_exception(trouble)
                waiting.exception()  # nobody may be waiting any more; that is no reason to complain
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _answer(self, kind: type[F], number: int | None) -> asyncio.Future[F]:
        waiting: asyncio.Future[F] = asyncio.get_running_loop().create_future()
        self._answers[kind, number] = waiting
        return waiting

    async def _write(self, frame: schema.Frame) -> None:
        from rstream.encoding import encode_frame

        await self._put(encode_frame(frame))

    async def _publish_frame(self, publisher: int, entries: Sequence[Entry]) -> None:
        from rstream import schema
        from rstream.encoding import encode_publish

        self._unconfirmed = {(publisher, id) for id, _ in entries}
        self._confirmed = asyncio.get_running_loop().create_future()
        messages = [schema.Message(id, None, data) for id, data in entries]
        await self._put(encode_publish(schema.Publish(publisher, messages)))
        await self._confirmed

    async def _put(self, data: bytes) -> None:
        if self._trouble is not None:
            raise self._trouble
        self._writer.write(data)
        await self._writer.drain()
