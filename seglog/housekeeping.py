"""What one opening gives up and gives back: compaction with its retention, dropping and purging noted in `meta`
(FORMAT.md §10.9). It knows the register and the source, not the log: a log that nobody closes can still be collected.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from seglog.appender import Appender
from seglog.compact import Terms, compact, reclaim
from seglog.consumers.registry import Registry
from seglog.errors import DiskFull, SeglogError
from seglog.format.meta_state import MetaState, Retention
from seglog.group_commit import GroupCommit
from seglog.model import CompactReport
from seglog.options import LogOptions
from seglog.source import Source

T = TypeVar("T")
logger = logging.getLogger("seglog")


class Housekeeping(Generic[T]):
    """Thread-safe. `registry` opens the register for writing."""

    def __init__(self, source: Source[T], options: LogOptions, registry: Callable[[], Registry]) -> None:
        self._source = source
        self._registry = registry
        self._options = options

    def set_retention(self) -> None:
        """What the writer was opened with holds for every process that compacts. A disk that takes no writes keeps
        nobody from opening."""
        try:
            wanted = self._retention(self._source.state().retention)
            if self._source.state().retention != wanted:
                registry = self._registry()
                with registry.locked():
                    registry.meta.store(registry.meta.state._replace(retention=wanted))
        except (SeglogError, OSError) as error:
            logger.warning("retention stays as it was: %s", error)

    def _retention(self, before: Retention) -> Retention:
        """What this opening asks for, where it does not keep what was there before."""
        size, seconds = self._options.retention_bytes, self._options.retention_seconds
        return Retention(
            before.bytes if isinstance(size, str) else size,
            before.nanoseconds if isinstance(seconds, str) else None if seconds is None else int(seconds * 1e9),
        )

    def compact(self, purged: int = 0) -> CompactReport:
        """See `Log.compact`. All below `purged` goes, whoever wants it."""
        if not self._source.catalog.refresh():
            return CompactReport()
        report = compact(self._source.catalog, self._registry(), self._terms(purged))
        self._source.state()
        return report

    def reclaim(self, wait: float = 0.0) -> bool:
        """As the writer goes: another process or thread at it (for longer than `wait` seconds), or an error, never
        fails an append. Whether there is more room now."""
        removed = 0
        try:
            state = self._source.state()
            if state.consumers or state.retention != Retention() or self._source.undone():
                removed = reclaim(self._source.catalog, self._registry(), self._terms(), wait=wait)
                self._source.state()
        except (SeglogError, OSError) as error:
            if getattr(error, "errno", 0) != errno.EAGAIN:  # then somebody else is at it
                logger.warning("giving back space: %s", error)
        return removed > 0

    def _terms(self, purged: int = 0) -> Terms:
        """For a compaction. All below `purged` is to be gone."""
        source = self._source

        def given_up(state: MetaState) -> MetaState:
            # Never more than is durable: a start behind the end that a power cut leaves would make offsets jump.
            new = source.overlaid(state, source.durable().end_offset)
            return new._replace(start_offset=max(new.start_offset, purged))

        # The writer's own retention is in `meta`; a reader that was opened with one means it for its own compaction.
        asked = self._retention(Retention())
        own = asked if source.appender is None and asked != Retention() else None
        return Terms(source.seen(), source.clock.time_ns(), given_up, own)

    def purge(self, commits: GroupCommit | None, appender: Appender | None) -> int:
        """See `Log.purge`."""
        source = self._source
        catalog = source.catalog
        catalog.refresh()
        state = source.state()
        end = max(source.durable().end_offset, state.start_offset)  # what was not durable may have been dropped already
        records = catalog.records_between(state.start_offset, end, state.removed) - catalog.records_before(end)
        if commits is not None and appender is not None:
            commits.exclusively(lambda: _let_go_of_the_active_segment(appender))
        stop = source.durable().end_offset
        records += catalog.records_before(stop)
        self.compact(stop)
        source.wake()
        return records


def _let_go_of_the_active_segment(appender: Appender) -> None:
    """All that was appended becomes durable, and its segment can go; on a full disk that one stays."""
    try:
        appender.sync_written()
        if not appender.ready().is_empty:
            appender.rotate()
    except DiskFull as error:
        logger.warning("purge: the active segment stays: %s", error)
