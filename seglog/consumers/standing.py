"""Where a consumer stands: how much it has not yet handled, in records, bytes and age.

It reads headers and one batch, however long the backlog is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from seglog.format.meta_state import RemovedRange
from seglog.intervals import Intervals
from seglog.model import ConsumerStats
from seglog.reader import Run
from seglog.source import Source

T = TypeVar("T")


def backlog(source: Source[T], watermark: int, acked: Intervals) -> int:
    """How many records are not yet handled. What was dropped is nobody's backlog."""
    count: Callable[[int], int] = source.catalog.records_before
    state = source.recent()
    mark = max(watermark, source.floor())
    end = max(source.seen().end_offset, mark)
    if count(end) - count(mark) == end - mark:
        count = int  # no offset was skipped: each is a record, and no segment need be asked about any of the ranges
    return unhandled(count, mark, end, acked, state.removed)


def unhandled(
    count: Callable[[int], int], mark: int, end: int, acked: Intervals, removed: Iterable[RemovedRange]
) -> int:
    """How many records from `mark` to before `end` are neither acked nor reclaimed.

    `count`: how many were ever given an offset below this one; `removed`: as `meta` has it.
    """
    total = count(end) - count(mark)
    total -= sum(count(stop) - count(max(first, mark)) for first, stop in acked if stop > mark)
    for gone in removed:  # most of it is acked; all of it, unless somebody stepped back
        for first, stop in acked.holes(max(gone.first_offset, mark), min(gone.end_offset, end)):
            total -= count(stop) - count(first)
    return max(0, total)


def standing(source: Source[T], watermark: int, acked: Intervals, in_flight: int) -> ConsumerStats:
    """What can be said of any consumer, whoever holds it."""
    mark = max(watermark, source.floor())
    return ConsumerStats(
        watermark=mark,
        lag_records=backlog(source, watermark, acked),
        lag_bytes=max(0, source.bytes_before(source.seen().end_offset) - source.bytes_before(mark)),
        oldest_age_seconds=_age(source, mark),
        in_flight=in_flight,
        acked_ranges=len(acked),
    )


def _age(source: Source[T], offset: int) -> float | None:
    """Seconds since the record at `offset` was appended; None if there is none."""
    scan = source.scan(offset)
    try:
        found = scan.next()
    finally:
        scan.close()
    return max(0.0, (source.clock.time_ns() - found.time_ns) / 1e9) if isinstance(found, Run) else None
