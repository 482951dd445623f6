"""`otlp+http://` and `otlp+https://`: log records for an OpenTelemetry collector. Needs the extra `otlp`.

    otlp+http://host[:4318][/v1/logs][?option=value&…]

A record becomes a LogRecord: its time; the payload as body, a string where it is UTF-8, else bytes; and the attributes
`seglog.id`, `seglog.offset`, `seglog.key` and `seglog.header.NAME`, strings where they are UTF-8, else bytes. The
prefix keeps a header from passing for an attribute that means something to others. Several records are one request, a
protobuf with gzip. What is never done, what each answer means, and who we are, is in posting.py.

Payloads that are encoded ExportLogsServiceRequests already, as an exporter spooled them, are sent as they are, a
request each: all of them with `raw=1`, else those with the header `content-type: application/x-protobuf`. They are not
recognised by their bytes: a text can be a valid protobuf.

OTLP has no keys that a far end could drop repeats by, and it cannot be asked what it has: at least once. Whoever wants
each record once drops repeats by `seglog.id`.

**Partial success.** A collector may answer 200 and say how many records it rejected, not which, and such a request
must not be sent again. If it rejected all of them, the batch is halved like any refused one: there is nothing that
could arrive twice. If it rejected some, all of the request become dead letters, with the collector's words: among
them are those that it rejected, and nothing arrives twice unless somebody replays them. Where that matters, send one
record at a time (`batch_records=1`): then it is exact. "Rejected none" is a confirmation, whatever is said with it. An
answer of more than 64 KiB is not read, and taken for a partial success: what else has a collector to say so much about?
"""

from __future__ import annotations

import functools
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seglog.clock import Clock, SystemClock
from seglog.forward.sinks import address
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.forward.sinks.encoding import encode_one
from seglog.forward.sinks.posting import Answer, Poster, with_text
from seglog.model import Message

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"
_PATH = "/v1/logs"
_PORT = 4318


class OtlpSink:
    """Sends batches to one collector. See `seglog.forward.open_sink`.

    Options of the URL: `service`, the resource's service.name (default: seglog); `raw=1`; `password_file`; and `ca`,
    `cert`, `key`.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        encoding: str = "gzip",
        timeout: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        plain, at = _taken_apart(url)
        self._raw = address.whole(at.options, "raw", 0, 0, 1) == 1
        self._service = at.options.get("service", "seglog")
        try:
            from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
        except ImportError as error:
            raise missing("otlp", "opentelemetry-proto") from error
        self._clock = SystemClock() if clock is None else clock
        self._timeout = timeout
        self._decode_error = DecodeError
        self._messages = logs_service_pb2
        self._poster = Poster(
            plain,
            extra="otlp",
            content_type=_PROTOBUF,
            headers=headers,
            encoding=encoding,
            timeout=timeout,
            clock=clock,
            tls=at.tls() if at.scheme == "otlp+https" else None,
            credentials=(at.user, at.password),
        )

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """As few requests as there can be, in order. Raises SinkError, which names what is there of the batch.

        A batch may be as many requests as it has records. So that what was confirmed is acknowledged meanwhile, and
        the forwarder can be stopped, no further one is begun after `timeout`.
        """
        done, deadline = 0, self._clock.monotonic() + self._timeout
        while done < len(batch):
            if done and self._clock.monotonic() >= deadline:
                what = f"{self._poster.name}: a batch of several requests takes long; the rest of it follows"
                raise SinkError(what, confirmed=batch[:done], retry_after=0.0)
            request = self._next_request(batch, done)
            try:
                self._post(request)
            except SinkError as error:
                error.confirmed = batch[:done]
                raise
            done += len(request)

    def close(self) -> None:
        """Give the connection back. A later `send` opens a new one."""
        self._poster.close()

    def _is_raw(self, message: Message[Any]) -> bool:
        return self._raw or message.headers.get("content-type") == _PROTOBUF.encode()

    def _next_request(self, batch: Sequence[Message[Any]], first: int) -> Sequence[Message[Any]]:
        stop = first + 1
        if not self._is_raw(batch[first]):
            while stop < len(batch) and not self._is_raw(batch[stop]):
                stop += 1
        return batch[first:stop]

    def _post(self, request: Sequence[Message[Any]]) -> None:
        raw = self._is_raw(request[0])
        answer = self._poster.post(request[0].payload if raw else self._encoded(request), len(request))
        if answer.too_long and answer.content_type in (_PROTOBUF, _JSON):
            what = "partial success, or so it seems: the answer is too long to be read"
            raise SinkError(
                f"{self._poster.name}: {what}",
                verdict=Verdict.REFUSED,
                detail=with_text(what, answer.body.decode("utf-8", "replace")),
                refused=request,
            )
        rejected, words = self._rejected(answer)
        if rejected <= 0:
            return
        what = "some of its records" if raw else f"{min(rejected, len(request))} of {len(request)} records"
        summary = f"partial success, {what} rejected"
        raise SinkError(
            f"{self._poster.name}: {summary}",
            verdict=Verdict.REFUSED,
            detail=with_text(summary, words),
            refused=request if raw or rejected < len(request) else (),
        )

    def _encoded(self, request: Sequence[Message[Any]]) -> bytes:
        made = self._messages.ExportLogsServiceRequest()
        resource = made.resource_logs.add()
        resource.resource.attributes.add(key="service.name").value.string_value = self._service
        scope = resource.scope_logs.add()
        scope.scope.name = "seglog"
        for message in request:
            encode_one(functools.partial(_put_record, scope.log_records), message)
        encoded: bytes = made.SerializeToString(deterministic=True)
        return encoded

    def _rejected(self, answer: Answer) -> tuple[int, str]:
        """How many records a 2xx answer says were rejected, and why. Raises SinkError where it cannot be read."""
        name = self._poster.name
        if not answer.whole and not answer.too_long:
            raise SinkError(f"{name}: HTTP {answer.status}, and the rest of the answer did not come")
        if not answer.body:
            return 0, ""
        try:
            if answer.content_type == _JSON:
                said = json.loads(answer.body).get("partialSuccess") or {}
                return int(said.get("rejectedLogRecords") or 0), str(said.get("errorMessage") or "")
            if answer.content_type != _PROTOBUF:
                raise ValueError(f"content of type {answer.content_type!r}")
            partial = self._messages.ExportLogsServiceResponse.FromString(answer.body).partial_success
            return partial.rejected_log_records, partial.error_message
        except (ValueError, TypeError, AttributeError, self._decode_error) as error:
            what = f"{name}: HTTP {answer.status}, but not as a collector answers: is this its address?"
            raise SinkError(what, verdict=Verdict.CONFIGURATION) from error


def _put_record(records: Any, message: Message[Any]) -> None:
    record = records.add(time_unix_nano=message.time_ns, observed_time_unix_nano=message.time_ns)
    _put(record.body, message.payload)
    record.attributes.add(key="seglog.id").value.string_value = message.id
    record.attributes.add(key="seglog.offset").value.int_value = message.offset
    if message.key is not None:
        _put_attribute(record.attributes.add(), "seglog.key", message.key)
    for name, value in message.headers.items():
        _put_attribute(record.attributes.add(), f"seglog.header.{name}", value)


def _put(value: AnyValue, data: bytes) -> None:
    try:
        value.string_value = data.decode()
    except UnicodeDecodeError:
        value.bytes_value = data


def _put_attribute(attribute: KeyValue, name: str, data: bytes) -> None:
    attribute.key = name.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
    _put(attribute.value, data)


def _taken_apart(url: str) -> tuple[str, address.Address]:
    """The URL that is posted to, without the options; and the options. Raises InvalidOption."""
    at = address.parse(url, port=_PORT, target="a path", default=_PATH.removeprefix("/"), known=("service", "raw"))
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc if parts.port else f"{parts.netloc.removesuffix(':')}:{_PORT}"
    path = _PATH if parts.path in ("", "/") else parts.path
    return f"{at.scheme.removeprefix('otlp+')}://{netloc}{path}", at
