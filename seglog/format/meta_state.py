"""The payload of `meta`: what makes "reclaimed" and "lost" different (FORMAT.md §7.2)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from seglog.format import layout as L


class RemovedRange(NamedTuple):
    """Segments, both ids included, that were reclaimed behind the first one; end offset excluded."""

    first_id: int
    last_id: int
    first_offset: int
    end_offset: int


class Retention(NamedTuple):
    """How much is kept of what all consumers have passed, or of everything where there are none. None: no limit set."""

    bytes: int | None = None
    nanoseconds: int | None = None


class MetaState(NamedTuple):
    """Start offset, reclaimed middles, repaired ranges, registered consumers (name -> start offset), and so on."""

    start_offset: int = 0
    created_ns: int = 0
    consumers: tuple[tuple[str, int], ...] = ()
    removed: tuple[RemovedRange, ...] = ()
    repaired: tuple[tuple[int, int], ...] = ()
    dropped: tuple[int, int] = (0, 0)  # of what lies below the start: given up to stay within a limit; end excluded
    dropped_records: int = 0  # ever
    retention: Retention = Retention()


NO_TAIL = L.META_TAIL.pack(0, 0, 0, L.NO_RETENTION, L.NO_RETENTION)  # what it means that there is none


def encode_meta(meta: MetaState) -> bytes:
    parts = [
        L.META_HEAD.pack(meta.start_offset, meta.created_ns, len(meta.consumers), len(meta.removed), len(meta.repaired))
    ]
    for name, start in meta.consumers:
        raw = name.encode()
        parts += [L.META_CONSUMER.pack(len(raw), start), raw]
    parts += [L.META_REMOVED.pack(*removed) for removed in meta.removed]
    parts += [L.META_REPAIRED.pack(*repaired) for repaired in meta.repaired]
    tail = L.META_TAIL.pack(
        *meta.dropped, meta.dropped_records, *(L.NO_RETENTION if limit is None else limit for limit in meta.retention)
    )
    if tail != NO_TAIL:
        parts.append(tail)
    return b"".join(parts)


def decode_meta(payload: bytes) -> MetaState:
    """Raises ValueError if the payload is not one of ours."""
    try:
        start, created, consumer_count, removed_count, repaired_count = L.META_HEAD.unpack_from(payload)
        at = L.META_HEAD.size
        consumers = []
        for _ in range(consumer_count):
            length, consumer_start = L.META_CONSUMER.unpack_from(payload, at)
            at += L.META_CONSUMER.size
            consumers.append((payload[at : at + length].decode(), consumer_start))
            at += length
        removed = []
        for _ in range(removed_count):
            removed.append(RemovedRange(*L.META_REMOVED.unpack_from(payload, at)))
            at += L.META_REMOVED.size
        repaired = []
        for _ in range(repaired_count):
            first, end = L.META_REPAIRED.unpack_from(payload, at)
            repaired.append((first, end))
            at += L.META_REPAIRED.size
        tail = payload if len(payload) > at else payload + NO_TAIL
        first, end, count, *kept = L.META_TAIL.unpack_from(tail, at)
    except struct.error as error:
        raise ValueError(str(error)) from error
    retention = Retention(*(None if limit == L.NO_RETENTION else limit for limit in kept))
    return MetaState(start, created, tuple(consumers), tuple(removed), tuple(repaired), (first, end), count, retention)
