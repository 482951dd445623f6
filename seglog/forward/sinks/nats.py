"""`nats://` and `nats+tls://`: a subject that a JetStream stream takes. Needs the extra `nats` (nats-py).

The stream is found by the subject, or named by the option `stream`. It is not made here: how long it keeps what, and on
how many servers, is for somebody to decide (`nats stream add`). One subject takes one log; other subjects of the same
stream may be anybody's. How a message looks is in nats_message.py.

Messages of a batch are sent without waiting for one another, and each is taken only behind the one before it:
`Nats-Expected-Last-Msg-Id`. So neither a hole nor a doubled one can come of it, whatever becomes of the connection and
however short the stream's duplicate window is. The server forgets that id when it starts anew, and with copies of the
stream not all of them may; so the first message says by its sequence behind which one of the subject it comes. Where
a publisher of another subject comes in between, the rest is sent again behind that, fewer at a time.

A message that was delayed comes when others have passed it, so each message says how far the log is there
(`Seglog-Next`); after a send whose outcome is unknown the late one is looked for among the newest messages.

Where consumers take messages out of the stream (work queue, interest), or its limits have emptied it, what was there
cannot be asked for any more: then the duplicate window has to cover the time between a kill and the next attempt.

The server answers before its disk has it, unless it runs with `sync_interval: always` (2.10 or newer).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seglog import options
from seglog.errors import InvalidOption
from seglog.forward.sinks import address, nats_credentials, nats_message
from seglog.forward.sinks.base import SinkError, Verdict
from seglog.forward.sinks.nats_link import OUT_OF_TURN, NatsLink
from seglog.model import Message

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import RawStreamMsg, StreamInfo

_OUTSTANDING = 500  # messages that the server has not answered yet
_LATE_MAX = 10_000  # newest messages of the stream that are looked through for a message that was delayed
_LOOKED_AT_ONCE = 50
_HEADERS_MAX = 65_535  # bytes
_CHAIN_BYTES = 130  # of headers, at most: which messages this one comes behind
_SUBJECT = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_STREAM = re.compile(r"[^\s.*>/\\]+")


class _Stream(NamedTuple):
    name: str
    keeps: bool  # whatever consumers do
    largest: int  # bytes of a message with its headers


class _Newest:
    """What the stream was found to hold of the log, and what was added."""

    def __init__(self, sequence: int, next_offset: int, first: int = 0) -> None:
        self.sequence = sequence  # of the message that the next one comes behind
        self.next_offset = next_offset
        self.ids = set[str]()  # of messages that were looked at
        self.looked_down_to = sequence + 1
        self.down_to = max(1, first, self.looked_down_to - _LATE_MAX)
        self.in_order_from = next_offset  # what was sent after this offset had been passed was looked at


class NatsSink:
    """Publishes to one subject. See `seglog.forward.open_sink`.

    Options of the URL: `stream`, its name, where asking for it by subject is not allowed; `creds`, a file of
    credentials, or `nkey`, a file with a seed, instead of a user; those of every engine are in address.py. A user
    without a password is a token.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        self._at = address.parse(url, port=4222, target="a subject", known=("stream", *nats_credentials.OPTIONS))
        self._subject = self._at.target
        if not _SUBJECT.fullmatch(self._subject):
            raise InvalidOption(f"{self._subject!r} is no subject to publish to: words with dots between, no wildcards")
        if not _STREAM.fullmatch(self._at.options.get("stream", "x")):
            raise InvalidOption("the URL's option stream is no name of a stream")
        self._link = NatsLink(self._at, timeout)
        self._log_id = ""
        self._stream: _Stream | None = None
        self._newest = _Newest(0, 0)
        self._width = _OUTSTANDING

    def attach(self, log_id: str) -> None:
        self._log_id = log_id

    def resume_point(self) -> int | None:
        """By the newest message of the subject; where that is gone, by what was confirmed since this was made."""
        return self._link.run(self._look)

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """All of it, each message behind the one before. What the server says it has is confirmed as well."""

        async def publish() -> None:
            await self._publish(batch)

        self._link.run(publish)

    def classify(self, error: Exception) -> Verdict:
        return error.verdict if isinstance(error, SinkError) else Verdict.RETRY

    def close(self) -> None:
        """Give the connection and its thread back. A later `send` opens new ones."""
        self._link.close()

    # What is there

    async def _look(self) -> int | None:
        js = await self._link.jetstream()
        info = await self._found(js)
        config, state = info.config, info.state
        if config.no_ack or config.sealed:
            what = "never answers a publisher" if config.no_ack else "is sealed"
            raise self._to_be_mended(f"the stream {config.name} {what}")
        keeps = config.retention not in ("workqueue", "interest")
        largest = min(size for size in (self._link.largest, config.max_msg_size or 0) if size > 0)
        self._stream = _Stream(str(config.name), keeps, largest)
        last = await self._link.wait(self._message(js))
        next_offset, sequence = self._newest.next_offset, 0
        if last is not None:
            known = nats_message.identity(last.headers)
            if known is None or known[0] != self._log_id:
                what = "the subject has messages that are not of this log, and one subject takes one log"
                raise self._to_be_mended(what)
            next_offset, sequence = known[2], last.seq or 0
        self._newest = _Newest(sequence if keeps else state.last_seq, next_offset, state.first_seq)
        return next_offset or None

    async def _found(self, js: JetStreamContext) -> StreamInfo:
        from nats.js.errors import NotFoundError

        name = self._at.options.get("stream")
        try:
            if name is None:
                name = await self._link.wait(js.find_stream_name_by_subject(self._subject))
            return await self._link.wait(js.stream_info(name))
        except NotFoundError:
            what = f"there is no stream {name}" if name else "no stream takes the subject"
            wanted = name or re.sub(r"[./\\]", "_", self._subject)
            how = f"nats stream add {wanted} --subjects {self._subject}"
            raise self._to_be_mended(f"{what}; to make one: {how}") from None

    async def _message(self, js: JetStreamContext, sequence: int | None = None) -> RawStreamMsg | None:
        """One of the stream, or the last of the subject; None if it is gone."""
        from nats.js.errors import NotFoundError

        assert self._stream is not None
        try:
            return await js.get_msg(self._stream.name, sequence, None if sequence else self._subject)
        except NotFoundError:
            return None

    async def _without_what_is_there(self, js: JetStreamContext, batch: Sequence[Message[Any]]) -> list[Message[Any]]:
        """Messages that were delayed and have been sent already, by this forwarder or the one before.

        Whatever is behind a message in the stream and was not late itself has a higher offset. So the first one from
        the end that has not ends the search.
        """
        newest = self._newest
        lowest = min((message.offset for message in batch), default=0)
        while lowest < newest.in_order_from and newest.looked_down_to > newest.down_to:
            first = max(newest.down_to, newest.looked_down_to - _LOOKED_AT_ONCE)
            looks = [self._message(js, sequence) for sequence in range(first, newest.looked_down_to)]
            for found in await self._link.wait(asyncio.gather(*looks)):
                if found is None or found.subject != self._subject:
                    continue
                if known := nats_message.identity(found.headers):
                    log_id, offset, next_offset = known
                    newest.ids.add(f"{log_id}:{offset}")
                    if next_offset == offset + 1:
                        newest.in_order_from = min(newest.in_order_from, offset)
            newest.looked_down_to = first
        return [message for message in batch if message.id not in newest.ids]

    # Sending

    async def _publish(self, batch: Sequence[Message[Any]]) -> None:
        js = await self._link.jetstream()
        if self._stream is None:
            await self._look()
        for message in batch:
            self._refuse_if_too_large(message)
        left = await self._without_what_is_there(js, batch)
        while left:
            stored, error = await self._round(left[: self._width])
            del left[:stored]
            if error is None:
                self._width = min(_OUTSTANDING, 2 * self._width)
            elif stored and getattr(error, "err_code", None) in OUT_OF_TURN:
                self._width = stored  # somebody publishes to another subject of the stream
            else:
                raise error

    async def _round(self, batch: Sequence[Message[Any]]) -> tuple[int, BaseException | None]:
        """How many of them are there now, and what became of the one behind those."""
        newest = self._newest
        answers = await self._link.wait(self._hand_over(batch))
        for number, (message, answer) in enumerate(zip(batch, answers, strict=True)):
            if not answer.done():
                await self._link.wait(asyncio.wait((answer,)))  # one at a time: each answer is a sign of life
            if (error := answer.exception()) is not None:
                await self._link.wait(asyncio.wait(answers))  # the next attempt must not meet what is under way
                return number, error
            newest.sequence = max(newest.sequence, answer.result())
            newest.next_offset = max(newest.next_offset, message.offset + 1)
        return len(batch), None

    async def _hand_over(self, batch: Sequence[Message[Any]]) -> list[asyncio.Future[int]]:
        """Each message behind the one before, and the first behind the newest that is known."""
        assert self._stream is not None
        first = nats_message.AFTER_OWN_SEQUENCE if self._stream.keeps else nats_message.AFTER_SEQUENCE
        behind = {first: str(self._newest.sequence)}
        answers: list[asyncio.Future[int]] = []
        next_offset = self._newest.next_offset
        for message in batch:
            next_offset = max(next_offset, message.offset + 1)
            headers = nats_message.headers(message, next_offset) | {nats_message.STREAM: self._stream.name} | behind
            answers.append(await self._link.publish(self._subject, message.payload, headers))
            behind = {nats_message.AFTER_ID: message.id}
        return answers

    def _refuse_if_too_large(self, message: Message[Any]) -> None:
        """Before any of the batch is sent: the server hangs up on what is larger than it takes."""
        assert self._stream is not None
        headers = nats_message.size(nats_message.headers(message, message.offset)) + _CHAIN_BYTES
        headers += len(nats_message.STREAM) + len(self._stream.name) + len(": \r\n")
        if headers > _HEADERS_MAX:
            what = f"{message.id} has more than the {_HEADERS_MAX} bytes of headers that the server takes"
            raise SinkError(what, verdict=Verdict.REFUSED)
        if headers + len(message.payload) > self._stream.largest:
            what = f"{message.id} has more than the {self._stream.largest} bytes that the server takes"
            raise SinkError(what, verdict=Verdict.REFUSED)

    def _to_be_mended(self, what: str) -> SinkError:
        return SinkError(f"{self._at.name}: {what}", verdict=Verdict.CONFIGURATION)
