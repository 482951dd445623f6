"""What a log holds at this moment, in numbers; reads listings and headers, never records. Changes nothing."""

from __future__ import annotations

import logging
from typing import TypeVar

from seglog.errors import SeglogError
from seglog.format.names import SegmentName
from seglog.limits import NOTHING, Limits
from seglog.model import ConsumerStats, LogStats
from seglog.source import Source

T = TypeVar("T")
logger = logging.getLogger("seglog")


def survey(source: Source[T], consumers: dict[str, ConsumerStats], limits: Limits[T] | None) -> LogStats:
    """The statistics of one log. Raises OSError."""
    catalog, appender = source.catalog, source.appender
    names = catalog.refresh()
    end, state = source.seen().end_offset, source.state()
    first = state.start_offset
    used = NOTHING if limits is None else limits.used()
    second = names[1].base_offset if len(names) > 1 else None
    return LogStats(
        first_offset=first,
        next_offset=end if appender is None else appender.next_offset,
        durable_offset=source.durable().end_offset,
        records=catalog.records_between(first, end, state.removed),
        bytes=sum(_size(source, name) for name in names),
        segments=len(names),
        consumers=consumers,
        dead_letters=_dead_letters(source),
        pinned_by=tuple(n for n, s in sorted(consumers.items()) if second is not None and s.watermark < second),
        dropped=state.dropped_records,
        used_bytes=used.bytes if limits is not None and limits.max_bytes is not None else None,
        used_records=used.records if limits is not None and limits.max_records is not None else None,
        max_bytes=None if limits is None else limits.max_bytes,
        max_records=None if limits is None else limits.max_records,
    )


def _dead_letters(source: Source[T]) -> int:
    try:
        return len(source.dead_letters)
    except SeglogError as error:  # they are no part of the log, and stop nobody from looking at it
        logger.warning("the dead letters cannot be counted: %s", error)
        return 0


def _size(source: Source[T], name: SegmentName) -> int:
    try:
        file = source.catalog.segments.open(name.file_name)
    except FileNotFoundError:  # reclaimed since it was listed
        return 0
    try:
        return file.size()
    finally:
        file.close()
