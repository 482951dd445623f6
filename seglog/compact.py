"""Give disk space back: unlink whole segments that every registered consumer has passed (FORMAT.md §10.9).

Order: `meta` durable, then unlink, then directory sync. So after any crash a missing segment is one that `meta`
calls reclaimed, and one that is still there is unlinked the next time.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

from seglog.catalog import Catalog, by_id, by_offset
from seglog.consumers.registry import LOCK_WAIT_SECONDS, Registry
from seglog.cursor_files import read_cursors
from seglog.errors import storage_error
from seglog.format import layout as L
from seglog.format.cursor_state import CursorState, Seen
from seglog.format.meta_state import MetaState, RemovedRange, Retention
from seglog.format.names import SegmentName
from seglog.gauge import Gauge
from seglog.intervals import Intervals
from seglog.model import CompactReport, PinnedSegment

logger = logging.getLogger("seglog")


class Terms(NamedTuple):
    """What a compaction is to know of the log around it."""

    end: Seen  # how far the log reaches
    now_ns: int  # wall clock, for retention by age
    given_up: Callable[[MetaState], MetaState]  # adds what the caller has dropped or purged and `meta` does not say yet
    retention: Retention | None = None  # instead of what `meta` says


def compact(
    catalog: Catalog, registry: Registry, terms: Terms | None = None, *, wait: float = LOCK_WAIT_SECONDS
) -> CompactReport:
    """Reclaim what all registered consumers have passed and retention lets go; durable on return.

    Without consumers nothing is reclaimed but by retention. The last segment is never touched. Raises StorageError.
    """
    try:
        with registry.locked(wait):
            catalog.refresh()
            compaction = _Compaction(catalog, registry, terms)
            removed, size = compaction.run()
            return CompactReport(removed, size, registry.meta.state.start_offset, compaction.remaining())
    except OSError as error:
        raise storage_error(error, "compaction") from error


def reclaim(catalog: Catalog, registry: Registry, terms: Terms, *, wait: float = 0.0) -> int:
    """The same as the writer goes, by the listing that it has and without a word on what stays: how many segments went.

    So its cost does not grow with the number of segments that a straggler pins. Raises StorageError.
    """
    try:
        with registry.locked(wait):
            return _Compaction(catalog, registry, terms).run()[0]
    except OSError as error:
        raise storage_error(error, "compaction") from error


class _Compaction:
    """One compaction, under the lock."""

    def __init__(self, catalog: Catalog, registry: Registry, terms: Terms | None) -> None:
        self.catalog = catalog
        self.registry = registry
        self.names = catalog.names
        self.terms = terms
        self.meta = registry.meta.state if terms is None else terms.given_up(registry.meta.state)
        self.retention = self.meta.retention if terms is None or terms.retention is None else terms.retention
        states = read_cursors(registry.cursors, registry.meta.log_id)
        self.passed = {name: self._passed(states.get(name)) for name in sorted(registry.names())}

    def run(self) -> tuple[int, int]:
        """Segments and bytes that were given back."""
        removable = self._removable()
        if removable or self.meta != self.registry.meta.state:
            return self._remove(removable)
        return 0, 0

    def _passed(self, state: CursorState | None) -> Intervals:
        """What a consumer has handled. An unreadable cursor has passed nothing: it begins again at the start."""
        if state is None:
            return Intervals()
        mark, index = state.watermark, self._holder(state.watermark)
        if 0 <= index < len(self.names) - 1:
            # Only here is a segment's header asked: offsets between its end and the next base hold no record.
            try:
                end = self.catalog.end_of(self.names[index])
            except FileNotFoundError:  # another process gave it back since it was listed
                end = None
            if end is not None and mark >= end.offset:
                mark = self.names[index + 1].base_offset
        # Of up to a thousand ranges, those alone that hold a whole segment: from its base to the next one's.
        wide = [(first, stop) for first, stop in state.acked if self._holder(stop) - self._holder(first - 1) > 1]
        return Intervals([(0, mark), *wide])

    def _holder(self, offset: int) -> int:
        """Place of the segment that holds `offset`, or would; in our listing: the catalog's may change meanwhile."""
        return bisect_right(self.names, offset, key=by_offset) - 1

    def _removable(self) -> list[int]:
        """Which segments go, by their places in the listing, ascending; found by bisection, never the last one."""
        by_all = Intervals([(0, L.OFFSET_MAX)] if self.passed or self.retention != Retention() else ())
        for own in self.passed.values():
            by_all = Intervals(part for first, stop in own for part in by_all.overlap(first, stop))
        found = set(self._given_back_before())
        kept_from = self._kept_from(next((stop for first, stop in by_all if first == 0), 0))
        for first, stop in by_all:
            found.update(range(bisect_left(self.names, first, key=by_offset), min(self._holder(stop), kept_from)))
        return sorted(found)

    def _kept_from(self, passed: int) -> int:
        """Retention keeps what all have passed from this place of the listing on; all have passed what is below the
        offset `passed`. By bisection: its cost does not grow with what is kept."""
        if self.terms is None or self.retention == Retention():
            return len(self.names)
        kept_from = 0
        if self.retention.bytes is not None:
            gauge = Gauge(self.catalog)
            try:
                least = (
                    gauge.bytes_before(min(passed, self.terms.end.end_offset), self.terms.end) - self.retention.bytes
                )
            finally:
                gauge.close()
            # So many bytes may go that as many newer ones as are to be kept have been passed.
            kept_from = bisect_right(range(1, self._holder(passed) + 1), least, key=self._bytes_before)
        if self.retention.nanoseconds is not None:
            oldest = self.terms.now_ns - self.retention.nanoseconds
            kept_from = max(kept_from, bisect_left(range(len(self.names) - 1), oldest, key=self._last_append))
        return kept_from

    def _bytes_before(self, index: int) -> int:
        """Bytes of all that lies before a segment."""
        try:
            header = self.catalog.facts(self.names[index]).header
        except FileNotFoundError:  # another process gave it back since it was listed
            return 0
        return 1 << 63 if header is None else header.bytes_before

    def _last_append(self, index: int) -> int:
        """When a sealed segment was appended to for the last time, by the clock of that moment; else when it was
        succeeded."""
        try:
            footer = self.catalog.facts(self.names[index]).footer
            following = self.catalog.facts(self.names[index + 1]).header
        except FileNotFoundError:
            return 0
        if footer is not None and footer.last_time_ns:
            return footer.last_time_ns
        return 1 << 63 if following is None else following.created_ns

    def _given_back_before(self) -> list[int]:
        """Those that `meta` calls gone, and whose unlinking did not survive a crash; see `Catalog.reclaimed`."""
        names, start = self.names, self.meta.start_offset
        found = [*range(min(bisect_left(names, start, key=by_offset), self._holder(start)))]
        for gone in self.meta.removed:
            left = bisect_left(names, gone.first_id, key=by_id)
            found += range(left, min(bisect_right(names, gone.last_id, key=by_id), len(names) - 1))
        return found

    def remaining(self) -> tuple[PinnedSegment, ...]:
        """What was left, and what keeps each of them."""
        names = self.catalog.names
        pinned = []
        for index, name in enumerate(names):
            if index == len(names) - 1:
                reasons: tuple[str, ...] = ("active",)
            elif not self.passed and self.retention == Retention():
                reasons = ("no consumers",)
            else:
                stop = names[index + 1].base_offset
                reasons = tuple(who for who, own in self.passed.items() if not _covers(own, name.base_offset, stop))
                if not reasons and self.retention != Retention():
                    reasons = ("retention",)
            pinned.append(PinnedSegment(name.file_name, reasons))
        return tuple(pinned)

    def _remove(self, removable: list[int]) -> tuple[int, int]:
        if removable:
            self._confirm_listing()
        meta, allowed = self._after(removable)
        if meta != self.registry.meta.state:
            self.registry.meta.store(meta)
        if not allowed:
            return 0, 0
        size = 0
        for name in allowed:
            try:
                file = self.catalog.segments.open(name.file_name)
                size += file.size()
                file.close()
                self.catalog.segments.unlink(name.file_name)
            except FileNotFoundError:
                continue
        self.catalog.segments.sync()
        self.catalog.drop(allowed)
        logger.info("compaction removed %d segments, %d bytes", len(allowed), size)
        return len(allowed), size

    def _confirm_listing(self) -> None:
        """A successor that was listed may have been renamed a moment ago, by the writer: were its name lost in a power
        cut after the unlinking of what it seals, the log would have no end."""
        self.catalog.segments.sync()

    def _after(self, removable: list[int]) -> tuple[MetaState, list[SegmentName]]:
        """What `meta` says afterwards, and which segments go: a prefix moves the start, middles are listed."""
        names, start = self.names, self.meta.start_offset
        prefix = next((place for place, index in enumerate(removable) if place != index), len(removable))
        if prefix:
            start = max(start, names[prefix].base_offset)
        ranges = list(self.meta.removed)
        allowed = dict.fromkeys(removable[:prefix])
        for index in removable[prefix:]:
            name, before = names[index], names[index - 1]
            if not any(r.first_id <= name.segment_id <= r.last_id for r in ranges):
                stays = index - 1 not in allowed and before.segment_id + 1 == name.segment_id
                if stays and not self._ends_by_itself(before):
                    continue
                stop = names[index + 1].base_offset
                merged = _merged(ranges, RemovedRange(name.segment_id, name.segment_id, name.base_offset, stop))
                if len(merged) > L.META_RANGES_MAX:
                    continue
                ranges = merged
            allowed[index] = None
        # What lies before the first segment is told by the start offset alone; the last one always stays.
        ranges = [r for r in ranges if r.last_id > names[prefix].segment_id]
        return self.meta._replace(start_offset=start, removed=tuple(ranges)), [names[index] for index in allowed]

    def _ends_by_itself(self, name: SegmentName) -> bool:
        """Whether a segment needs no successor to say where it ends.

        One that was sealed by a rotation holds no batch behind its end, so it does not even matter whether the footer
        survives. One that was recovered may: its successor has a copy of them.
        """
        try:
            return self.catalog.facts(name).footer is not None
        except FileNotFoundError:  # another process gave it back since it was listed
            return False


def _covers(intervals: Intervals, first: int, stop: int) -> bool:
    held = intervals.range_at(first)
    return first >= stop or (held is not None and held[1] >= stop)


def _merged(ranges: list[RemovedRange], new: RemovedRange) -> list[RemovedRange]:
    """With `new` added; neighbours by id become one."""
    made: list[RemovedRange] = []
    for r in sorted([*ranges, new]):
        if made and r.first_id == made[-1].last_id + 1:
            last = made[-1]
            made[-1] = RemovedRange(last.first_id, r.last_id, last.first_offset, max(last.end_offset, r.end_offset))
        else:
            made.append(r)
    return made
