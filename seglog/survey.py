"""What a log holds at this moment, in numbers; reads listings and headers, never records. Changes nothing."""

from __future__ import annotations

from typing import TypeVar

from seglog.format.names import SegmentName
from seglog.model import ConsumerStats, LogStats
from seglog.source import Source

T = TypeVar("T")


def survey(source: Source[T], consumers: dict[str, ConsumerStats]) -> LogStats:
    """The statistics of one log. Raises OSError."""
    catalog, appender = source.catalog, source.appender
    names = catalog.refresh()
    end, first = source.seen().end_offset, source.first_offset()
    second = names[1].base_offset if len(names) > 1 else None
    return LogStats(
        first_offset=first,
        next_offset=end if appender is None else appender.next_offset,
        durable_offset=source.durable().end_offset,
        records=max(0, catalog.records_before(end) - catalog.records_before(first)),
        bytes=sum(_size(source, name) for name in names),
        segments=len(names),
        consumers=consumers,
        dead_letters=len(source.dead_letters),
        pinned_by=tuple(n for n, s in sorted(consumers.items()) if second is not None and s.watermark < second),
    )


def _size(source: Source[T], name: SegmentName) -> int:
    try:
        file = source.catalog.segments.open(name.file_name)
    except FileNotFoundError:  # reclaimed since it was listed
        return 0
    try:
        return file.size()
    finally:
        file.close()
