"""Give disk space back: unlink whole segments that every registered consumer has passed (FORMAT.md §10.9).

Order: `meta` durable, then unlink, then directory sync. So after any crash a missing segment is one that `meta`
calls reclaimed, and one that is still there is unlinked the next time.
"""

from __future__ import annotations

import itertools
import logging

from seglog.catalog import Catalog
from seglog.errors import storage_error
from seglog.format import layout as L
from seglog.format.cursor_state import CursorState
from seglog.format.meta_state import MetaState, RemovedRange
from seglog.format.names import SegmentName
from seglog.intervals import Intervals
from seglog.model import CompactReport, PinnedSegment
from seglog.opening import read_cursors
from seglog.registry import LOCK_WAIT_SECONDS, Registry

logger = logging.getLogger("seglog")


def compact(catalog: Catalog, registry: Registry, *, wait: float = LOCK_WAIT_SECONDS) -> CompactReport:
    """Reclaim what all registered consumers have passed; durable on return.

    Without consumers nothing is reclaimed. The last segment is never touched. Raises StorageError.
    """
    try:
        with registry.locked(wait):
            return _Compaction(catalog, registry).run()
    except OSError as error:
        raise storage_error(error, "compaction") from error


class _Compaction:
    """One compaction, under the lock."""

    def __init__(self, catalog: Catalog, registry: Registry) -> None:
        self.catalog = catalog
        self.registry = registry
        self.meta = registry.meta.state
        self.consumers = registry.names()
        self.states = read_cursors(registry.cursors, registry.meta.log_id)

    def run(self) -> CompactReport:
        names = self.catalog.refresh()
        following = dict(itertools.pairwise(names))
        pinned: list[PinnedSegment] = []
        removable: list[tuple[SegmentName, int]] = []  # with its end offset
        for name in names:
            stop = following[name].base_offset if name in following else None
            gone = stop is not None and self.catalog.reclaimed(name, self.meta)
            reasons = () if gone else self._pins(name, stop)
            if reasons or stop is None:
                pinned.append(PinnedSegment(name.file_name, reasons))
            else:
                removable.append((name, stop))
        removed, size = self._remove(removable, names) if removable else (0, 0)
        return CompactReport(removed, size, self.registry.meta.state.start_offset, tuple(pinned))

    def _pins(self, name: SegmentName, stop: int | None) -> tuple[str, ...]:
        """What keeps the segment; `stop` is the base offset of the next one, None for the last."""
        if stop is None:
            return ("active",)
        if not self.consumers:
            return ("no consumers",)
        return tuple(
            consumer for consumer in sorted(self.consumers) if not self._passed(self.states.get(consumer), name, stop)
        )

    def _passed(self, state: CursorState | None, name: SegmentName, stop: int) -> bool:
        """An unreadable cursor has passed nothing: its consumer begins again at the start."""
        if state is None:
            return False
        if state.watermark >= stop:
            return True
        if state.watermark >= name.base_offset:
            # Only here is the segment's header asked: offsets between its end and the next base hold no record.
            end = self.catalog.end_of(name)
            stop = stop if end is None else min(stop, end.offset)
            if state.watermark >= stop:
                return True
        held = Intervals(state.acked).range_at(max(name.base_offset, state.watermark))
        return held is not None and held[1] >= stop

    def _remove(self, removable: list[tuple[SegmentName, int]], names: tuple[SegmentName, ...]) -> tuple[int, int]:
        self._confirm_listing()
        meta, allowed = self._after(removable, names)
        if meta != self.meta:
            self.registry.meta.store(meta)
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
        self.catalog.refresh()
        logger.info("compaction removed %d segments, %d bytes", len(allowed), size)
        return len(allowed), size

    def _confirm_listing(self) -> None:
        """A successor that was listed may have been renamed a moment ago, by the writer: were its name lost in a power
        cut after the unlinking of what it seals, the log would have no end."""
        self.catalog.segments.sync()

    def _after(
        self, removable: list[tuple[SegmentName, int]], names: tuple[SegmentName, ...]
    ) -> tuple[MetaState, list[SegmentName]]:
        """What `meta` says afterwards, and which segments go: a prefix moves the start, middles are listed."""
        gone = {name.segment_id: end for name, end in removable}
        start = self.meta.start_offset
        ranges = list(self.meta.removed)
        allowed = []
        prefix = True
        stays: SegmentName | None = None
        for name in names:
            if name.segment_id not in gone:
                if prefix:
                    start = max(start, name.base_offset)
                prefix = False
                stays = name
                continue
            known = any(r.first_id <= name.segment_id <= r.last_id for r in ranges)
            if not prefix and not known:
                if stays is not None and stays.segment_id + 1 == name.segment_id and not self._ends_by_itself(stays):
                    stays = name
                    continue
                merged = _merged(
                    ranges, RemovedRange(name.segment_id, name.segment_id, name.base_offset, gone[name.segment_id])
                )
                if len(merged) > L.META_RANGES_MAX:
                    stays = name
                    continue
                ranges = merged
            allowed.append(name)
        # What lies before the first segment is told by the start offset alone; the last one always stays.
        first = next(name for name in names if name.segment_id not in gone)
        ranges = [r for r in ranges if r.last_id > first.segment_id]
        return self.meta._replace(start_offset=start, removed=tuple(ranges)), allowed

    def _ends_by_itself(self, name: SegmentName) -> bool:
        """Whether a segment needs no successor to say where it ends.

        One that was sealed by a rotation holds no batch behind its end, so it does not even matter whether the footer
        survives. One that was recovered may: its successor has a copy of them.
        """
        return self.catalog.facts(name).footer is not None


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
