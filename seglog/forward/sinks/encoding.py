"""A batch of records as bytes on the wire: plain lines, or one JSON envelope per line. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from seglog import options
from seglog.forward.sinks.base import SinkError, Verdict
from seglog.json_bytes import encoded, put, put_headers
from seglog.model import Message

Encoder = Callable[[Sequence[Message[Any]]], bytes]
Made = TypeVar("Made")


def joined(batch: Sequence[Message[Any]]) -> bytes:
    """Each payload as it is, and a newline."""
    return b"".join([part for message in batch for part in (message.payload, b"\n")])


def lines(batch: Sequence[Message[Any]]) -> bytes:
    """One line per record, exactly.

    A payload with a newline in it would arrive as two records, so it is not sent at all. In a larger batch it is
    "refused" only so that the records before it go out; alone, it is a fault of the configuration.
    """
    body = joined(batch)
    if body.count(b"\n") != len(batch):
        culprit = next(message for message in batch if b"\n" in message.payload)
        raise SinkError(
            f"record {culprit.id} holds a newline, so it cannot be sent as a line; use the format 'envelope'",
            verdict=Verdict.REFUSED if len(batch) > 1 else Verdict.CONFIGURATION,
        )
    return body


def envelope(batch: Sequence[Message[Any]]) -> bytes:
    """One JSON object per record and line, whatever the payload is.

    Fields: id, offset, timestamp (Unix seconds); payload, key, headers as text where they are UTF-8, else as
    payload_base64, key_base64, headers_base64. A record without key or headers has no such field.
    """
    return b"".join([encode_one(_envelope, message) for message in batch])


def encode_one(encode: Callable[[Message[Any]], Made], message: Message[Any]) -> Made:
    """What `encode` makes of a record. Raises SinkError: what cannot be encoded now never can, so it is refused."""
    try:
        return encode(message)
    except MemoryError:
        raise  # no fault of the record
    except Exception as error:
        what = f"{message.id} cannot be encoded: {type(error).__name__}"
        raise SinkError(what, verdict=Verdict.REFUSED, detail=f"{what}: {error}") from error


def _envelope(message: Message[Any]) -> bytes:
    fields: dict[str, Any] = {"id": message.id, "offset": message.offset, "timestamp": message.timestamp}
    if message.key is not None:
        put(fields, "key", message.key)
    put_headers(fields, message.headers)
    put(fields, "payload", message.payload)
    return encoded(json.dumps(fields, ensure_ascii=False, separators=(",", ":"))) + b"\n"


ENCODERS: dict[str, Encoder] = {"lines": lines, "envelope": envelope}


def encoder(format: str) -> Encoder:
    """By name, or InvalidOption."""
    options.one_of("format", format, tuple(ENCODERS))
    return ENCODERS[format]
