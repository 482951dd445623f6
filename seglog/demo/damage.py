"""Flips one byte of one record in a sealed segment, as a failing disk would. Only ever used on the demo's copy."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from seglog.errors import SeglogError
from seglog.format import names


@dataclass(frozen=True)
class Flip:
    """Which byte, and whose it was."""

    segment: str
    position: int
    offset: int


def flip_one_byte(log: Path, records: dict[int, bytes]) -> Flip:
    """Flip a byte in the middle of a record in the middle of the first sealed segment."""
    segments = sorted((found, path) for path in (log / names.SEGMENTS).iterdir() if (found := _identity(path)))
    for (name, path), (successor, _) in itertools.pairwise(segments):
        data = bytearray(path.read_bytes())
        for offset in range((name.base_offset + successor.base_offset) // 2, successor.base_offset):
            record = records.get(offset, b"")
            if record and data.count(record) == 1:
                position = data.index(record) + len(record) // 2
                data[position] ^= 0xFF
                path.write_bytes(data)
                return Flip(path.name, position, offset)
    raise SeglogError(f"{log}: no sealed segment with a record that could be damaged")


def _identity(path: Path) -> names.SegmentName | None:
    return names.parse_segment_name(path.name)
