"""What a file sink confirmed: the payload of its two-slot file, as JSON. No I/O."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from seglog.disk.base import File
from seglog.intervals import Intervals
from seglog.slot_file import SlotFile

SLOT_BYTES = 64 * 1024
_KIND = 0x66  # of a slot; not among those that a log's own files have
_RANGES_MAX = 1000  # of at most 44 bytes each, so that they fit a slot


@dataclass(frozen=True)
class State:
    """Of which log which offsets are confirmed, and where they end.

    Attributes:
        part: the number that the file gets when it is moved away.
        first_part: the lowest number that this sink gave.
        size: bytes of the file that are confirmed.
        writing: what is behind them, this sink wrote.
        moving: the file is about to get its number, or has got it.
        there: the offsets. Holes are messages that are not due yet, or will not come. Below the lowest nothing is
            known once there are very many holes.
        lowest: of all that was ever there; -1: nothing was.
    """

    log_id: str
    part: int = 1
    first_part: int = 1
    size: int = 0
    writing: bool = False
    moving: bool = False
    there: Intervals = field(default_factory=Intervals)
    lowest: int = -1

    @property
    def resume_point(self) -> int | None:
        """Below it all is there that was due. Before the lowest nothing ever was: a consumer may be set back there."""
        for first, stop in self.there:
            return (stop if first == 0 else 0) if first == self.lowest else first
        return None

    def with_these(self, offsets: Collection[int], size: int) -> State:
        """As it is when they are in the file, which then has that size."""
        there = self.there.copy()
        for offset in offsets:
            there.add(offset, offset + 1)
        lowest = min(offsets) if self.lowest < 0 else min(*offsets, self.lowest)
        return replace(self, there=there, size=size, lowest=lowest)

    def moved(self) -> State:
        """As it is when the file has its number, and a new one is to begin."""
        return replace(self, part=self.part + 1, size=0, moving=False)


def slot_file(file: File) -> SlotFile:
    return SlotFile(file, kind=_KIND, log_id=bytes(16), slot_bytes=SLOT_BYTES)


def encode(state: State) -> bytes:
    fields = {**vars(state), "there": list(state.there)[-_RANGES_MAX:]}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(payload: bytes) -> State:
    """Raises ValueError if this is none of ours."""
    try:
        fields = json.loads(payload)
        return State(**{**fields, "there": Intervals(map(tuple, fields["there"]))})
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from error
