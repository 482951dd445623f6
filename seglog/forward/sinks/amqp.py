"""A record as an AMQP 1.0 message, which is what the entries of a RabbitMQ stream are. No I/O.

    message annotations      x-opt-seglog-key: the record's key, binary, if it has one
    properties               message-id: `log_id:offset`; creation-time: when it was appended
    application properties   the record's headers, each under its own name, binary
    data                     the payload

Written here and not by rstream's encoder, which leaves the body out of a message whose payload is empty.
"""

from __future__ import annotations

from typing import Any

from seglog.model import Message

KEY = "x-opt-seglog-key"  # an annotation: no header can have its name

_ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES, _DATA = (b"\x00\x53" + bytes([n]) for n in (0x72, 0x73, 0x74, 0x75))
_BINARY, _STRING, _SYMBOL = 0xA0, 0xA1, 0xA3
_WIDE = 0x10  # added to a type: its length takes four bytes, not one
_LIST, _MAP = b"\xd0", b"\xd1"
_BETWEEN = b"\x40" * 8  # properties from message-id to creation-time: null
_TIMESTAMP = b"\x83"


def encode(message: Message[Any]) -> bytes:
    """The whole message, for one entry of a stream."""
    parts = []
    if message.key is not None:
        parts += [_ANNOTATIONS, _compound(_MAP, [_item(_SYMBOL, KEY.encode()), _item(_BINARY, message.key)])]
    moment = _TIMESTAMP + (message.time_ns // 1_000_000).to_bytes(8, "big", signed=True)
    parts += [_PROPERTIES, _compound(_LIST, [_item(_STRING, message.id.encode()), _BETWEEN, moment], 10)]
    if message.headers:
        pairs = [
            item
            for name, value in message.headers.items()
            for item in (_item(_STRING, name.encode("utf-8", "replace")), _item(_BINARY, value))
        ]
        parts += [_APPLICATION_PROPERTIES, _compound(_MAP, pairs)]
    return b"".join([*parts, _DATA, _item(_BINARY, message.payload)])


def identity(entry: bytes) -> str:
    """The message-id of somebody's message; "" if it has none or is no such message."""
    from rstream import amqp_decoder

    try:
        properties = amqp_decoder(entry).properties
    except Exception:  # the decoder raises whatever it stumbles over
        return ""
    found = None if properties is None else properties.message_id
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found or "")


def _item(kind: int, value: bytes) -> bytes:
    if len(value) < 256:
        return bytes((kind, len(value))) + value
    return bytes((kind + _WIDE,)) + len(value).to_bytes(4, "big") + value


def _compound(kind: bytes, items: list[bytes], count: int | None = None) -> bytes:
    inner = b"".join(items)
    number = len(items) if count is None else count
    return kind + (len(inner) + 4).to_bytes(4, "big") + number.to_bytes(4, "big") + inner
