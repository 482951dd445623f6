"""Appends payloads as new records of the log: what the dead letters need to be replayed.

It does not know the log, so that the dead letters do not keep alive a log that nobody closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from seglog.appender import Appender
from seglog.group_commit import GroupCommit
from seglog.intake import Intake
from seglog.limits import Limits
from seglog.model import Record


class Replay:
    """A `Replayer`, by the writer's intake, limits and group commit."""

    def __init__(
        self, intake: Intake[Any], limits: Limits[Any] | None, commits: GroupCommit, appender: Appender
    ) -> None:
        self._intake = intake
        self._limits = limits
        self._commits = commits
        self._appender = appender

    def __call__(self, records: Sequence[Record[bytes]], timeout: float | None) -> Iterator[range]:
        """See `Replayer`. Under limits one by one, as a batch may be more than they ever let in at once."""
        for ticket in self._intake.encoded(records, alone=self._limits is not None):
            if self._limits is not None:
                self._limits.admit(ticket, timeout)
            self._commits.commit(ticket)
            offsets = range(ticket.base_offset, ticket.base_offset + len(ticket.payloads))
            if self._appender.durable_offset < offsets.stop:  # in the other durability classes
                self._commits.exclusively(self._appender.sync_written)
            yield offsets
