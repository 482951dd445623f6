"""The optional block before a payload: due time, expiry, key and headers (FORMAT.md §6.3)."""

from __future__ import annotations

from seglog.format import layout as L
from seglog.model import Extras


def encode_extended(payload: bytes, extras: Extras | None) -> bytes:
    """A stored record of a batch with FLAG_EXTENDED."""
    extras = extras or Extras()
    headers = extras.headers or {}
    key = b"" if extras.key is None else extras.key
    parts = [
        L.EXTENDED.pack(extras.due_ns, extras.expiry_ns, L.NO_KEY if extras.key is None else len(key), len(headers), 0),
        key,
        encode_headers(headers),
        payload,
    ]
    return b"".join(parts)


def decode_extended(record: bytes) -> tuple[bytes, Extras]:
    """Payload and extras. Raises ValueError if the block does not fit the record."""
    if len(record) < L.EXTENDED.size:
        raise ValueError("extended record shorter than its block")
    due_ns, expiry_ns, key_length, count, _ = L.EXTENDED.unpack_from(record)
    at = L.EXTENDED.size
    key = None
    if key_length != L.NO_KEY:
        key = record[at : at + key_length]
        if len(key) != key_length:
            raise ValueError("key passes the end of the record")
        at += key_length
    headers, at = decode_headers(record, at, count)
    return record[at:], Extras(key, headers or None, due_ns, expiry_ns)


def check_extended(record: bytes) -> None:
    """Raises ValueError where `decode_extended` does; cheaper, as whoever looks for one record reads whole batches."""
    if len(record) < L.EXTENDED.size:
        raise ValueError("extended record shorter than its block")
    _, _, key_length, count, _ = L.EXTENDED.unpack_from(record)
    at = L.EXTENDED.size + (0 if key_length == L.NO_KEY else key_length)
    if at > len(record):
        raise ValueError("key passes the end of the record")
    if count:
        decode_headers(record, at, count)


def due_and_expiry(record: bytes) -> tuple[int, int]:
    """The two times of a stored record, without the rest; 0 is none. Raises ValueError if there is no block."""
    if len(record) < L.EXTENDED.size:
        raise ValueError("extended record shorter than its block")
    due_ns, expiry_ns, *_ = L.EXTENDED.unpack_from(record)
    return due_ns, expiry_ns


def encode_headers(headers: dict[str, bytes]) -> bytes:
    """Name and value of each, with their lengths."""
    parts = []
    for name, value in headers.items():
        raw = name.encode("utf-8", "surrogatepass")
        parts += [L.HEADER_ENTRY.pack(len(raw), len(value)), raw, value]
    return b"".join(parts)


def decode_headers(data: bytes, at: int, count: int) -> tuple[dict[str, bytes], int]:
    """`count` headers from `data[at:]`, and where they end. Raises ValueError if they do not fit."""
    headers = {}
    for _ in range(count):
        if len(data) - at < L.HEADER_ENTRY.size:
            raise ValueError("headers pass the end of the record")
        name_length, value_length = L.HEADER_ENTRY.unpack_from(data, at)
        at += L.HEADER_ENTRY.size
        end = at + name_length + value_length
        if end > len(data):
            raise ValueError("headers pass the end of the record")
        headers[data[at : at + name_length].decode("utf-8", "surrogatepass")] = data[at + name_length : end]
        at = end
    return headers, at
