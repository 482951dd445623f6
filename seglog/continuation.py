"""Where offsets go on behind the last segment: never at one that was returned or shown (FORMAT.md §5.2, §10.6).

Pure questions about what was found; whoever opens for writing acts on the answer.
"""

from __future__ import annotations

import errno
import itertools
from dataclasses import dataclass

from seglog.catalog import Catalog, Meta
from seglog.errors import StorageError
from seglog.format import layout as L
from seglog.format.cursor_state import CursorState
from seglog.format.hint import Hint
from seglog.format.meta_state import MetaState
from seglog.format.names import SegmentName
from seglog.format.segment_header import SegmentHeader
from seglog.model import OffsetRange
from seglog.options import DURABILITIES
from seglog.recovery import Ending
from seglog.tail import Tail

_LOOKS = 10  # how often segments may vanish under a question before it is given up
JUMP = L.SEGMENT_RECORDS_MAX  # over an unknown number of records: no segment holds more


@dataclass
class Target:
    """Where offsets go on behind the last segment, and why."""

    base: int
    reason: str
    lost_segments: bool = False
    segment_id: int | None = None


@dataclass
class Continuation:
    """What is known about the end of the log, from everybody who has seen it."""

    catalog: Catalog
    header: SegmentHeader  # of the last segment
    tail: Tail
    hint: Hint | None
    states: dict[str, CursorState | None]
    meta: MetaState | None
    boot_id: bytes

    def target(self) -> Target:
        """The first offset that may be given out next (FORMAT.md §5.2: one that was shown is never used again)."""
        end = self.tail.run_end.offset
        if self.tail.ending is Ending.SUSPECT:
            # Behind all that the suspect bytes may have held; an unknown number takes the whole jump.
            end = self.tail.bad_end.offset if self.tail.count_known else end + JUMP
        target = Target(max(end, self.tail.highest), "torn" if self.tail.highest > end else "")
        if self.header.floor_offset > target.base:
            target = Target(self.header.floor_offset, "torn")
        if self._unclean_unsynced():
            target = Target(target.base + JUMP, "unclean")
        self._look_for_lost_segments(target)
        start = self.meta.start_offset if self.meta is not None else 0
        if start > target.base:
            target.base, target.reason = start, "missing"
        self._look_at_cursors(target)
        return target

    def _unclean_unsynced(self) -> bool:
        """Records may have been shown, never synced, and lost with the machine's memory."""
        if DURABILITIES[self.header.durability] == "always" or self.tail.ending is Ending.CLOSED:
            return False
        return self.hint is None or self.hint.boot_id != self.boot_id

    def _look_for_lost_segments(self, target: Target) -> None:
        name = self.catalog.names[-1]
        beyond = [state.seen.segment_id for state in self.states.values() if state is not None]
        if self.hint is not None and self.hint.segment_id > name.segment_id:
            beyond.append(self.hint.segment_id)
            target.base = max(target.base, self.hint.end_offset)
        last_known = max([name.segment_id, *(number for number in beyond if number != L.NO_SEGMENT)])
        if last_known == name.segment_id and self.catalog.facts(name).footer is not None:
            last_known += 1  # a footer is written only when the successor is durable
        if last_known > name.segment_id:
            target.base += JUMP
            target.reason, target.lost_segments, target.segment_id = "missing", True, last_known + 1

    def _look_at_cursors(self, target: Target) -> None:
        unreadable = False
        for state in self.states.values():
            if state is None:
                unreadable = True
                continue
            ahead = max([state.watermark, state.seen.end_offset, *(stop for _, stop in state.acked)])
            if ahead > target.base + JUMP:
                unreadable = True
            elif ahead > target.base:
                target.base, target.reason = ahead, target.reason or "cursor"
        registered = self.meta.consumers if self.meta is not None else ()
        unreadable = unreadable or any(name not in self.states for name, _ in registered)
        empty = self.tail.run_end.position == L.DATA_START
        jumped = empty and L.JUMP_REASONS[self.header.jump_reason] == "cursor"
        if unreadable and not jumped:
            target.base, target.reason = target.base + JUMP, "cursor"


def without_segments(meta: MetaState | None, hint: Hint | None, states: dict[str, CursorState | None]) -> Target:
    """No segment is listed: where a new log begins; or, where somebody remembers more, one that lost them all."""
    known, numbers = [0], [-1]
    lost = meta is not None  # it is made last
    if meta is not None:
        known.append(meta.start_offset)
        numbers += [removed.last_id for removed in meta.removed]
    for state in states.values():
        if state is not None:
            lost = True
            known += [state.watermark, state.seen.end_offset]
            if state.seen.segment_id != L.NO_SEGMENT:
                numbers.append(state.seen.segment_id)
    if hint is not None and (lost or hint.end_offset):
        lost = True
        known.append(hint.end_offset)
        numbers.append(hint.segment_id)
    if not lost:
        return Target(0, "", segment_id=0)
    return Target(max(known) + JUMP, "missing", True, max(numbers) + 2)


def missing_segments(catalog: Catalog, meta: Meta | None) -> list[OffsetRange]:
    """For the report: offsets of ids that lack in the listing and are not called removed. Opens only neighbours."""
    for _ in range(_LOOKS):
        names = catalog.names
        state = MetaState(names[0].base_offset) if meta is None else meta.reload()  # never older than the listing
        try:
            return _missing(catalog, names, state)
        except FileNotFoundError:
            catalog.refresh()  # another process gives space back while we look
    raise StorageError(errno.ENOENT, "segments vanish faster than they are looked at")


def _missing(catalog: Catalog, names: tuple[SegmentName, ...], state: MetaState) -> list[OffsetRange]:
    found = []
    for left, right in itertools.pairwise(names):
        lacking = right.segment_id - left.segment_id - 1
        known = sum(
            max(0, min(gone.last_id, right.segment_id) - max(gone.first_id, left.segment_id) + 1)
            for gone in state.removed
        )
        if lacking <= known:
            continue
        # Not what was given back: of several segments that a crash brought back, some may lack.
        first = max(state.start_offset, _end_offset(catalog, left, right))
        if right.base_offset > first:
            found.append(OffsetRange(first, right.base_offset - 1))
    if names[0].base_offset > state.start_offset:
        found.append(OffsetRange(state.start_offset, names[0].base_offset - 1))
    return found


def _end_offset(catalog: Catalog, name: SegmentName, following: SegmentName) -> int:
    """Where a segment without a successor ends, as far as that is known without a walk; at least its base offset.

    If its successors were lost, the segment that was made then names it as its predecessor, by its salt.
    """
    end = catalog.end_of(name)
    if end is not None:
        return end.offset
    mine, other = catalog.facts(name).header, catalog.facts(following).header
    before = None if other is None else other.predecessor
    named = before is not None and mine is not None and before.salt == mine.salt
    return before.end_offset if before is not None and named else name.base_offset


def _known_offsets(meta: MetaState | None, states: dict[str, CursorState | None]) -> list[int]:
    """Offsets below which everything was given out once, by what `meta` and cursors remember."""
    known = [0 if meta is None else meta.start_offset]
    for state in states.values():
        if state is not None:
            known += [state.watermark, state.seen.end_offset]
    return known


def behind_unreadable(
    name: SegmentName, meta: MetaState | None, states: dict[str, CursorState | None], hint: Hint | None
) -> int:
    """Where offsets go on behind a last segment of which no batch can be checked."""
    known = [name.base_offset, *_known_offsets(meta, states)]
    if hint is not None and hint.segment_id >= name.segment_id:
        known.append(hint.end_offset)
    return max(known) + JUMP
