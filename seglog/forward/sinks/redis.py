"""`redis://` and `rediss://`: a stream of Redis or Valkey. Needs the extra `redis` (redis-py).

A record becomes the entry `<offset + 1>-0`, which the server takes once and only behind all that is there, and a batch
is one MULTI, so it is there as a whole or not at all. Fields: id, time (ms), payload, and key and `header:NAME` where
the record has them. In the same MULTI the key `{<stream>}:seglog` becomes `<log id>:<offset> <entry>`: the last record,
so that whose stream it is stays known when all its entries are trimmed, and where its batch begins. One stream takes
one log.

A message that was delayed comes when others have passed it. It gets the next id behind the newest entry; after a send
whose outcome is unknown it is looked for in the batch that came last.

Redis answers before its disk has it, unless it runs with `appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from seglog import options
from seglog.forward.sinks import address
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.model import Message

if TYPE_CHECKING:
    from redis import Redis

_VALUE_MAX = 512 << 20  # what a server takes that nobody told otherwise
_SMALLER = "equal or smaller"  # how the server says that it has this entry, or one behind it
_MENDED_BY_SOMEBODY = ("WRONGTYPE", "NOAUTH", "NOPERM", "WRONGPASS", "ERR invalid password", "ERR Client sent AUTH")


class RedisSink:
    """Adds batches to one stream. See `seglog.forward.open_sink`.

    Options of the URL: `db`, the number of the database; those of every engine are in address.py.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        self._at = address.parse(url, port=6379, target="a stream", known=("db",))
        database = address.whole(self._at.options, "db", 0, 0, 1_000_000)
        try:
            import redis
            import redis.exceptions
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise missing("redis", "redis") from error
        self._errors = redis.exceptions
        tls: dict[str, Any] = {}
        if self._at.scheme == "rediss":
            self._at.tls()  # what cannot be used is told now
            names = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
            tls = {"ssl": True, **{names[k]: v for k, v in self._at.options.items() if k in names}}
        self._client: Redis = redis.Redis(
            host=self._at.host,
            port=self._at.port,
            db=database,
            username=self._at.user,
            password=self._at.password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),  # the forwarder tries again, and asks first what is there
            client_name="seglog",
            **tls,
        )
        self._stream = self._at.target
        self._owner = f"{{{self._stream}}}:seglog"
        self._log_id = ""
        self._newest = (0, 0)
        self._value_max = _VALUE_MAX
        self._late: set[str] = set()  # what the batch that came last holds, since the far end was asked

    def attach(self, log_id: str) -> None:
        self._log_id = log_id

    def resume_point(self) -> int | None:
        """By the newest id that the stream ever had; trimming does not take that back."""
        self._value_max = self._largest_value()
        with self._pipeline() as pipeline:
            pipeline.exists(self._stream)
            pipeline.get(self._owner)
            there, owner = pipeline.execute()
        if not there:
            self._newest, self._late = (0, 0), set()
            return None
        last: Any = self._client.xinfo_stream(self._stream)["last-generated-id"]
        self._newest = _numbers(last)
        newest, _, first = _text(owner or b"").partition(" ")
        if self._newest > (0, 0) and newest.rpartition(":")[0] != self._log_id:
            raise SinkError(
                f"{self._at.name}: the stream has entries that are not of this log, and one stream takes one log",
                verdict=Verdict.CONFIGURATION,
            )
        entries: Any = self._client.xrange(self._stream, first) if first else []
        self._late = {_text(fields[b"id"]) for _, fields in entries if b"id" in fields}
        return self._newest[0]

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """One MULTI. What the server says it has is confirmed as well: another forwarder of this log was faster."""
        newest, ids = self._newest, list[tuple[int, int]]()
        with self._pipeline() as pipeline:
            for message in batch:
                fields = _fields(message)
                if max(map(len, fields.values())) > self._value_max:
                    what = f"{message.id} has more than the {self._value_max} bytes that the server takes"
                    raise SinkError(what, verdict=Verdict.REFUSED)
                if fields["id"] not in self._late:
                    offset = message.offset + 1
                    newest = (offset, 0) if offset > newest[0] else (newest[0], newest[1] + 1)
                    ids.append(newest)
                    pipeline.execute_command("XADD", self._stream, f"{newest[0]}-{newest[1]}", *chain(*fields.items()))
            if ids:
                pipeline.set(self._owner, f"{batch[-1].id} {ids[0][0]}-{ids[0][1]}")
            answers = pipeline.execute(raise_on_error=False) if ids else []
        for (_, late), answer in zip([*ids, (0, 0)], answers, strict=bool(ids)):
            if isinstance(answer, Exception) and (late or _SMALLER not in str(answer)):
                raise answer  # a late one that came too late for its id is not there
        self._newest = newest

    def _largest_value(self) -> int:
        """Where the server takes less, it hangs up on a larger one without a word that can be relied on."""
        try:
            found: Any = self._client.config_get("proto-max-bulk-len")
            return int(found["proto-max-bulk-len"])
        except (self._errors.ResponseError, KeyError):  # this user may not ask
            return _VALUE_MAX

    def classify(self, error: Exception) -> Verdict:
        if isinstance(error, SinkError):
            return error.verdict
        words = str(error)
        refused = (self._errors.AuthenticationError, self._errors.AuthorizationError)
        if isinstance(error, refused) or words.startswith(_MENDED_BY_SOMEBODY) or "CERTIFICATE" in words.upper():
            return Verdict.CONFIGURATION
        return Verdict.RETRY

    def close(self) -> None:
        """Give the connection back. A later `send` opens a new one."""
        self._client.close()

    def _pipeline(self) -> Any:
        return self._client.pipeline(transaction=True)


def _fields(message: Message[Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": message.id, "time": str(message.time_ns // 1_000_000)}
    if message.key is not None:
        fields["key"] = message.key
    for name, value in message.headers.items():
        # A name may have half a surrogate pair, which is no UTF-8.
        fields[f"header:{name.encode('utf-8', 'replace').decode()}"] = value
    fields["payload"] = message.payload
    return fields


def _numbers(id: bytes | str) -> tuple[int, int]:
    first, _, second = _text(id).partition("-")
    return int(first), int(second)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
