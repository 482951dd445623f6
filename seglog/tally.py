"""The dead letters in numbers: how many for each reason, and which offsets are damaged. Changes nothing."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, NamedTuple

from seglog.clock import Clock, SystemClock
from seglog.errors import SeglogError
from seglog.log import Log
from seglog.model import Gap, OffsetRange

logger = logging.getLogger("seglog")

UNREADABLE = "unreadable"  # the reason of a letter that does not read back itself
_FRESH_SECONDS = 60.0
_RESTS = 20  # times as long as the last count took: at most a twentieth of the time goes into counting


class Letters(NamedTuple):
    """`damaged`: offsets of the log whose bytes went to the dead letters."""

    by_reason: dict[str, int]
    damaged: tuple[OffsetRange, ...]


class Tally:
    """Counts them, and keeps the outcome: to count reads every one of them, and somebody asks every second.

    They are read again when there are more or fewer, and after a minute: as many may have come as went. Where they
    keep coming, what is known may be as old as twenty counts take.

    Attributes:
        trouble: why they could not be read when that was tried last; None: they could.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.trouble: str | None = None
        self._clock = SystemClock() if clock is None else clock
        self._log_id = ""
        self._count = -1
        self._known: Letters | None = None
        self._rests_until = 0.0
        self._fresh_until = 0.0

    def of(self, log: Log[Any], count: int) -> Letters | None:
        """Those of `log`, of which there are `count`; None if they cannot be read, with a warning the first time."""
        now = self._clock.monotonic()
        same = log.id == self._log_id
        if same and (now < self._rests_until or (count == self._count and now < self._fresh_until)):
            return self._known
        trouble = None
        try:
            self._known = _count(log)
        except SeglogError as error:  # they are no part of the log, and stop nobody from looking at it
            self._known, trouble = None, f"the dead letters cannot be read: {error}"
            if not same or trouble != self.trouble:
                logger.warning("%s", trouble)
        ended = self._clock.monotonic()
        self._log_id, self._count, self.trouble = log.id, count, trouble
        self._rests_until = ended + _RESTS * (ended - now)
        self._fresh_until = ended + (_FRESH_SECONDS if trouble is None else 0.0)
        return self._known


def _count(log: Log[Any]) -> Letters:
    by_reason: Counter[str] = Counter()
    damaged = []

    def lost(gap: Gap) -> None:
        by_reason[UNREADABLE] += gap.last_offset + 1 - gap.first_offset

    for letter in log.dead_letters.read(on_gap=lost):
        by_reason[letter.reason] += 1
        if letter.reason == "damaged":
            damaged.append(OffsetRange(letter.offset, letter.last_offset))
    return Letters(dict(sorted(by_reason.items())), tuple(damaged))
