"""A batch of records as CloudEvents 1.0, in their JSON batch format. No I/O.

    id               the offset; with `source`, urn:uuid:<log id>, the identity of the record
    type             its header `ce-type`, else seglog.record
    time             when it was appended
    datacontenttype  its header `content-type`, else application/json where the payload is JSON, text/plain where it is
                     UTF-8, application/octet-stream where it is neither
    data             JSON as it stands in the payload, byte for byte, or the text; data_base64 for other bytes
    partitionkey     its key (the extension Partitioning); partitionkeybase64 where that is no UTF-8

A header `ce-NAME` becomes the attribute NAME, where that is lawful and not one of ours. All other headers are in the
extension `headers`, as the text of a JSON object: extensions have no bytes and few letters in their names.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from seglog.forward.sinks.encoding import encode_one
from seglog.json_bytes import encoded, put_headers
from seglog.model import Message

CONTENT_TYPE = "application/cloudevents-batch+json"

_TYPE = "seglog.record"
_ATTRIBUTE = re.compile(r"ce-([a-z0-9]{1,64})")
_OURS = (
    *("specversion", "id", "source", "time", "datacontenttype", "data"),
    *("partitionkey", "partitionkeybase64", "headers"),
)
_JSON_TYPE = re.compile(r"[^/;]+/(?:[^/;]+\+)?json(?:\s*;.*)?", re.IGNORECASE)


def cloudevents(batch: Sequence[Message[Any]]) -> bytes:
    """One JSON array, an event per record."""
    return b"[" + b",".join([encode_one(_event, message) for message in batch]) + b"]"


def _event(message: Message[Any]) -> bytes:
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(message.offset),
        "source": uuid.UUID(message.origin.log_id).urn,
        "type": _TYPE,
        "time": _rfc3339(message.time_ns),
    }
    declared: str | None = None
    others: dict[str, bytes] = {}
    for name, value in message.headers.items():
        text, attribute = _text(value), _ATTRIBUTE.fullmatch(name)
        if name.lower() == "content-type" and text:
            declared = text
        elif attribute is not None and attribute[1] not in _OURS and text:
            fields[attribute[1]] = text
        else:
            others[name] = value
    if others:
        found: dict[str, Any] = {}
        put_headers(found, others)
        fields["headers"] = _json(found)
    if message.key is not None:
        key = _text(message.key)
        fields["partitionkey" if key is not None else "partitionkeybase64"] = (
            key if key is not None else base64.b64encode(message.key).decode("ascii")
        )
    fields["datacontenttype"], data = _data(message.payload, declared)
    return encoded(_json(fields))[:-1] + b"," + data + b"}"


def _data(payload: bytes, declared: str | None) -> tuple[str, bytes]:
    """What it is, and the last member of the event."""
    text = _text(payload)
    if (declared is None or _JSON_TYPE.fullmatch(declared)) and text is not None and _is_json(text):
        return declared or "application/json", b'"data":' + payload
    if text is not None and (declared is None or not _JSON_TYPE.fullmatch(declared)):
        return declared or "text/plain", b'"data":' + _json(text).encode()
    return declared or "application/octet-stream", b'"data_base64":"' + base64.b64encode(payload) + b'"'


def _is_json(text: str) -> bool:
    def never(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        json.loads(text, parse_constant=never)
    except (ValueError, RecursionError):
        return False
    return True


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _rfc3339(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
