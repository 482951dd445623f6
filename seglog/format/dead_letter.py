"""The envelope of a dead letter: the payload of a record in `dead/` (FORMAT.md §9)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.extended import decode_headers, encode_headers


class Envelope(NamedTuple):
    """What could not be handled, why, and where it was. For damage `payload` is the bytes as they were read."""

    reason: str
    detail: str
    consumer: str
    offset: int
    last_offset: int
    attempts: int
    time_ns: int
    segment_id: int
    position: int
    length: int
    payload: bytes
    key: bytes | None = None
    headers: dict[str, bytes] | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """Two diversions of the same thing have the same identity, whoever meets it."""
        if self.reason == "damaged":
            return ("damaged", self.segment_id, self.position, self.length, self.offset)
        return (self.consumer, self.offset)


def encode_letter(letter: Envelope) -> bytes:
    consumer, detail = letter.consumer.encode(), letter.detail.encode("utf-8", "replace")[:4096]
    headers = letter.headers or {}
    key = b"" if letter.key is None else letter.key
    raw_headers = encode_headers(headers)
    head = L.LETTER.pack(
        L.LETTER_MAGIC,
        L.REASONS.index(letter.reason),
        0,
        len(headers),
        letter.attempts,
        letter.offset,
        letter.last_offset,
        letter.time_ns,
        letter.segment_id,
        0,
        letter.position,
        letter.length,
        len(consumer),
        len(detail),
        L.NO_KEY if letter.key is None else len(key),
        0,
    )
    return b"".join((head, consumer, detail, key, raw_headers, letter.payload))


def decode_letter(data: bytes) -> Envelope:
    """Raises ValueError if the bytes are no envelope."""
    try:
        fields = L.LETTER.unpack_from(data)
        if fields[0] != L.LETTER_MAGIC:
            raise ValueError("not a dead letter")
        at = L.LETTER.size
        consumer = data[at : at + fields[12]].decode()
        at += fields[12]
        detail = data[at : at + fields[13]].decode("utf-8", "replace")
        at += fields[13]
        key = None
        if fields[14] != L.NO_KEY:
            key = data[at : at + fields[14]]
            at += fields[14]
        headers, at = decode_headers(data, at, fields[3])
        reason = L.REASONS[fields[1]]
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a dead letter: {error}") from error
    return Envelope(
        reason=reason,
        detail=detail,
        consumer=consumer,
        offset=fields[5],
        last_offset=fields[6],
        attempts=fields[4],
        time_ns=fields[7],
        segment_id=fields[8],
        position=fields[10],
        length=fields[11],
        payload=data[at:],
        key=key,
        headers=headers or None,
    )
