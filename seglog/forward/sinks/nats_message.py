"""A record as the headers of a NATS message. Headers are lines of text there, so what is no plain text is in base64.

    Nats-Msg-Id             log_id:offset
    Seglog-Next             the far end has every record of the log below this offset, once it has this message
    Seglog-Time             Unix milliseconds
    Seglog-Key              the key, or Seglog-Key-Base64
    NAME                    a header of the record, where name and value are plain
    Seglog-Base64-NAME      any other header of the record: the value in base64, the name percent-encoded

Plain are printable ASCII without space around it, and a name that means nothing to NATS or to this sink: a record with
a header `Nats-Rollup` must not empty the stream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from seglog.model import Message

ID = "Nats-Msg-Id"
NEXT = "Seglog-Next"
AFTER_ID = "Nats-Expected-Last-Msg-Id"  # of the whole stream
AFTER_OWN_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
AFTER_SEQUENCE = "Nats-Expected-Last-Sequence"  # of the whole stream
STREAM = "Nats-Expected-Stream"

_PLAIN = re.compile(rb"(?:[!-~](?:[ -~]*[!-~])?)?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TAKEN = ("nats-", "seglog-")
_OF_CLIENTS = ("status", "description")  # how clients show an answer of the server


def headers(message: Message[Any], next_offset: int) -> dict[str, str]:
    """All but what chains it to others."""
    fields = {ID: message.id, NEXT: str(next_offset), "Seglog-Time": str(message.time_ns // 1_000_000)}
    if message.key is not None:
        plain = _PLAIN.fullmatch(message.key) is not None
        fields["Seglog-Key" if plain else "Seglog-Key-Base64"] = _text(message.key, plain)
    for name, value in message.headers.items():
        plain = _is_free(name) and _PLAIN.fullmatch(value) is not None
        fields[name if plain else f"Seglog-Base64-{quote(name, safe='', errors='replace')}"] = _text(value, plain)
    return fields


def size(fields: Mapping[str, str]) -> int:
    """Bytes of the headers on the wire, which count as the payload does."""
    return len("NATS/1.0\r\n\r\n") + sum(len(name) + len(": \r\n") + len(value) for name, value in fields.items())


def identity(fields: Mapping[str, str] | None) -> tuple[str, int, int] | None:
    """Log id, offset and next offset of a message in a stream; None if it is not of a log."""
    fields = fields or {}
    log_id, _, offset = fields.get(ID, "").rpartition(":")
    following = fields.get(NEXT, "")
    if not (log_id and re.fullmatch(r"[0-9]{1,19}", offset) and re.fullmatch(r"[0-9]{1,19}", following)):
        return None
    return log_id, int(offset), int(following)


def _is_free(name: str) -> bool:
    lower = name.lower()
    return bool(_NAME.fullmatch(name)) and not lower.startswith(_TAKEN) and lower not in _OF_CLIENTS


def _text(value: bytes, plain: bool) -> str:
    return value.decode("ascii") if plain else base64.b64encode(value).decode("ascii")
