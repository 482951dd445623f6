"""File names of a log directory and what they identify (FORMAT.md §3)."""

from __future__ import annotations

import re
from typing import NamedTuple

LOCK = "lock"
META = "meta"
SEGMENTS = "segments"
CURSORS = "cursors"
CURSORS_LOCK = ".lock"
DEAD = "dead"
QUARANTINE = "quarantine"
TEMPORARY = ".tmp"
CURSOR_SUFFIX = ".cursor"
BATCH_SUFFIX = ".batch"
DELETED = "deleted"  # the one consumer of `dead/`: what it has handled was deleted

OURS = frozenset((LOCK, META, SEGMENTS, CURSORS, DEAD, QUARANTINE))
IGNORED = frozenset(("lost+found",))

_SEGMENT = re.compile(r"([0-9]{20})-([0-9a-f]{8})\.seg")  # \d would take the digits of every script


class SegmentName(NamedTuple):
    """A segment's identity as its file name gives it; sorts by base offset, then id."""

    base_offset: int
    segment_id: int

    @property
    def file_name(self) -> str:
        return f"{self.base_offset:020d}-{self.segment_id:08x}.seg"


def parse_segment_name(name: str) -> SegmentName | None:
    """None if this is no segment's name."""
    match = _SEGMENT.fullmatch(name)
    return SegmentName(int(match[1]), int(match[2], 16)) if match else None


def cursor_file_name(consumer: str) -> str:
    return consumer + CURSOR_SUFFIX


def batch_file_name(consumer: str) -> str:
    """Of what a forwarder notes for itself."""
    return consumer + BATCH_SUFFIX


def is_temporary(name: str) -> bool:
    return name.endswith(TEMPORARY)
