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


class Letters(NamedTuple):
    """`damaged`: offsets of the log whose bytes went to the dead letters."""

    by_reason: dict[str, int]
    damaged: tuple[OffsetRange, ...]


class Tally:
    """Counts them, and keeps the outcome: to count reads every one of them, and somebody asks every second.

    They are read again when there are more or fewer, and after a minute: as many may have come as went.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._key: tuple[str, int] | None = None
        self._until = 0.0
        self._known = Letters({}, ())

    def of(self, log: Log[Any], count: int) -> Letters | None:
        """Those of `log`, of which there are `count`; None, with a warning, if they cannot be read."""
        key = log.id, count
        now = self._clock.monotonic()
        if key != self._key or now >= self._until:
            try:
                self._known = _count(log)
            except SeglogError as error:  # they are no part of the log, and stop nobody from looking at it
                logger.warning("the dead letters cannot be read: %s", error)
                return None
            self._key, self._until = key, now + _FRESH_SECONDS
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
