"""One connection to a NATS server, whose client is asynchronous, for a sink that is not.

An event loop in a thread of its own lives from the first use until `close`. What goes wrong comes out as SinkError,
which says what it means; no message of it has a secret in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from seglog.forward.sinks import nats_credentials
from seglog.forward.sinks.address import Address
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.forward.sinks.event_loop import EventLoop

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

T = TypeVar("T")

CREDENTIALS = {
    "creds": "user_credentials",
    "nkey": "nkeys_seed",
}  # files, by the URL's option: what the client calls them

_GOODBYE_SECONDS = 0.5  # the client waits for a sign that TLS was ended, which may never come; the socket is closed

NO_STREAM = (10059, 10060)  # not found, or it is not the one that takes the subject
OUT_OF_TURN = (10070, 10071, 10164)  # the last message, or the last of the subject, is not the one that was said
_REFUSED = (10054, 10097)  # the message is too large for the stream, or its headers are
_MENDED_BY_SOMEBODY = (*NO_STREAM, 10035, 10039, 10052, 10076, 10109)  # no JetStream, not for this account, sealed
_WORDS_OF_SOMEBODY = ("authorization", "permissions violation", "authentication expired", "authentication revoked")


class NatsLink:
    """Runs coroutines, one at a time. The connection is made when it is needed, and never mended: a new one is."""

    def __init__(self, at: Address, timeout: float) -> None:
        try:
            import nats.errors
            import nats.js.errors
        except ImportError as error:
            raise missing("nats", "nats-py") from error
        self._credentials = nats_credentials.files(at)
        self._errors = nats.errors
        self._js_errors = nats.js.errors
        self._at = at
        self._tls = at.tls() if at.scheme == "nats+tls" else None
        self.timeout = timeout
        self._loop = EventLoop("seglog-nats", None)
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._lost: asyncio.Future[Exception] | None = None
        self._inbox = ""
        self._numbers = itertools.count()
        self._answers: dict[str, asyncio.Future[int]] = {}

    # For the sink's thread

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What it returns; every wait in it is to be by `wait`, so that it ends. Raises SinkError."""
        try:
            return self._loop.run(work())
        except (self._errors.Error, OSError, TimeoutError) as error:
            raise self.failure(error) from error

    def close(self) -> None:
        """Ends connection and thread; `run` starts them anew."""
        try:
            if self._loop.runs:
                with contextlib.suppress(TimeoutError):  # the loop ends what is left of it
                    self._loop.run(self.drop(), self.timeout)
        finally:
            self._loop.close()

    # For coroutines

    async def jetstream(self) -> JetStreamContext:
        """Of a connection that is alive, as far as anybody knows."""
        if self._jetstream is None or self._lost is None or self._lost.done():
            await self.drop()
            self._client, self._lost = await self._connect()
            self._jetstream = self._client.jetstream(timeout=2 * self.timeout)  # `wait` ends it before
            self._answers, self._inbox = {}, self._client.new_inbox()
            await self.wait(self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer))
        return self._jetstream

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> asyncio.Future[int]:
        """Behind what was published before it. The future is for the sequence in the stream, or the server's error.

        The client's own publish_async never tells of an error that the server answers with.
        """
        assert self._client is not None
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_take)
        reply = f"{self._inbox}.{next(self._numbers)}"
        self._answers[reply] = answer
        await self._client.publish(subject, payload, reply=reply, headers=headers)
        return answer

    async def _on_answer(self, message: Msg) -> None:
        answer = self._answers.pop(message.subject, None)
        if answer is None or answer.done():
            return
        try:
            if (message.headers or {}).get("Status") == "503":
                raise self._js_errors.NoStreamResponseError
            said = json.loads(message.data)
            if "error" in said:
                self._js_errors.APIError.from_error(said["error"])
            answer.set_result(int(said["seq"]))
        except Exception as error:
            answer.set_exception(error)

    @property
    def largest(self) -> int:
        """Bytes of a message with its headers that the server takes, as it said when it was connected to."""
        return 0 if self._client is None else self._client.max_payload

    async def wait(self, work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
        """For `timeout` seconds, and no longer than the connection lives: the client itself would never notice."""
        task, lost = asyncio.ensure_future(work), self._lost
        assert lost is not None
        try:
            await asyncio.wait((task, lost), timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            task.cancel()
        trouble = lost.result() if lost.done() else self._errors.TimeoutError()
        await self.drop()  # what is under way on it may still arrive; its answer is of no use any more
        raise trouble

    async def drop(self) -> None:
        client, self._client, self._jetstream = self._client, None, None
        if client is not None:
            await self._end(client)

    async def _end(self, client: Client) -> None:
        with contextlib.suppress(TimeoutError, OSError, self._errors.Error):  # there is nothing left to save in it
            await asyncio.wait_for(client.close(), _GOODBYE_SECONDS)

    async def _connect(self) -> tuple[Client, asyncio.Future[Exception]]:
        from nats.aio.client import Client

        client, troubles = Client(), list[Exception]()
        lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            troubles.append(error)
            if "permissions violation" in str(error).lower() and not lost.done():
                lost.set_result(error)  # the server answers nothing else to what it does not allow

        async def on_end() -> None:
            if not lost.done():
                lost.set_result(troubles[-1] if troubles else self._errors.ConnectionClosedError())

        try:
            connecting = client.connect(**self._options(client), error_cb=on_error, closed_cb=on_end)
            await asyncio.wait_for(connecting, self.timeout)
            self._insist_on_tls(client)
        except self._errors.NoServersError as error:
            await self._end(client)
            raise troubles[-1] if troubles else error from None
        except BaseException:
            await self._end(client)
            raise
        return client, lost

    def _options(self, client: Client) -> dict[str, Any]:
        def secret() -> str:
            self._insist_on_tls(client)
            return self._at.password or self._at.user or ""

        host = f"[{self._at.host}]" if ":" in self._at.host else self._at.host
        options: dict[str, Any] = {
            "servers": f"nats://{host}:{self._at.port}",
            "name": "seglog",
            "allow_reconnect": False,  # the forwarder tries again, and asks first what is there
            "max_reconnect_attempts": 1,  # 0 would be: for ever
            "reconnect_time_wait": 0,
            "connect_timeout": self.timeout,
        }
        if self._tls is not None:
            options |= {"tls": self._tls, "tls_hostname": self._at.host}
        if self._credentials:
            options |= self._credentials
        elif self._at.password is not None:
            options |= {"user": self._at.user or "", "password": secret}
        elif self._at.user is not None:
            options["token"] = secret  # as everywhere with NATS: nats://token@host
        return options

    def _insist_on_tls(self, client: Client) -> None:
        """The client speaks TLS only if the server asks for it, and whoever is in between can leave that out."""
        if self._tls is not None and not client._server_info.get("tls_required"):
            what = f"{self._at.name}: the server does not ask for TLS; nats:// is without it"
            raise SinkError(what, verdict=Verdict.CONFIGURATION)

    def failure(self, error: Exception) -> SinkError:
        """What it means."""
        code = getattr(error, "err_code", None)
        reason = getattr(error, "description", None) or getattr(error, "strerror", None) or str(error)
        reason = str(reason or "no answer in time").removeprefix("nats: ").strip("'")
        verdict = Verdict.RETRY
        if isinstance(error, self._js_errors.ServiceUnavailableError) and code is None:
            reason, verdict = "no JetStream there for this user", Verdict.CONFIGURATION
        elif isinstance(error, self._js_errors.NoStreamResponseError):
            reason, verdict = "no stream takes the subject any more", Verdict.CONFIGURATION
        elif code in OUT_OF_TURN:
            reason = f"somebody else publishes to the subject, or an earlier message was late: {reason}"
        elif code in _REFUSED or isinstance(error, self._errors.MaxPayloadError):
            verdict = Verdict.REFUSED
        elif code in _MENDED_BY_SOMEBODY or any(words in reason.lower() for words in _WORDS_OF_SOMEBODY):
            verdict = Verdict.CONFIGURATION
        elif isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            verdict = Verdict.CONFIGURATION  # a connection that was cut is the network's affair
        return SinkError(f"{self._at.name}: {reason}", verdict=verdict)


def _take(answer: asyncio.Future[int]) -> None:
    """An answer that nobody waits for any more is no news."""
    if not answer.cancelled():
        answer.exception()
