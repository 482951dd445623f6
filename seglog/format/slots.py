"""One slot of a two-slot file: kind, generation, log id, payload, checksum (FORMAT.md §7.1)."""

from __future__ import annotations

from typing import NamedTuple

from seglog.errors import UnsupportedVersion
from seglog.format import layout as L
from seglog.format.checksum import crc32c


class Slot(NamedTuple):
    """A slot whose checksum held."""

    kind: int
    generation: int
    log_id: bytes
    payload: bytes
    write_version: int = L.WRITE_VERSION


def encode_slot(slot: Slot, slot_bytes: int) -> bytes:
    """Header and payload; what follows in the slot is left as it is."""
    if L.SLOT_HEADER.size + len(slot.payload) > slot_bytes:
        raise ValueError(f"payload of {len(slot.payload)} bytes does not fit a slot of {slot_bytes}")
    head = L.SLOT_HEADER.pack(
        L.SLOT_MAGIC,
        L.READ_VERSION,
        slot.write_version,
        slot.kind,
        slot.generation,
        slot.log_id,
        len(slot.payload),
        0,
    )[:-4]
    return head + crc32c(slot.payload, crc32c(head)).to_bytes(4, "little") + slot.payload


def decode_slot(data: bytes) -> Slot | None:
    """The slot at the start of `data`; None if its checksum does not hold. Raises UnsupportedVersion if newer."""
    size = L.SLOT_HEADER.size
    if len(data) < size or data[:8] != L.SLOT_MAGIC:
        return None
    _, read_version, write_version, kind, generation, log_id, length, check = L.SLOT_HEADER.unpack_from(data)
    payload = data[size : size + length]
    if len(payload) != length or crc32c(payload, crc32c(data[: size - 4])) != check:
        return None
    if read_version > L.READ_VERSION:
        raise UnsupportedVersion(f"file of format version {read_version}; this seglog reads up to {L.READ_VERSION}")
    return Slot(kind, generation, log_id, payload, write_version)


def slot_length(data: bytes) -> int:
    """How long the slot says it is, unchecked: how much to read before its checksum can be."""
    if len(data) < L.SLOT_HEADER.size:
        return 0
    return L.SLOT_HEADER.size + int(L.SLOT_HEADER.unpack_from(data)[6])
