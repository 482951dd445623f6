"""Single records in any order: few readings, little memory."""

from __future__ import annotations

import random
from typing import Any

import pytest

from seglog.consumers import lookup
from seglog.consumers.lookup import Lookup
from seglog.reader import Hole, Run

BATCH = 100


class CountingScan:
    """Batches of a hundred records up to 2000; 500 to 599 are damaged."""

    def __init__(self) -> None:
        self.offset = 0
        self.readings = 0

    def seek(self, offset: int) -> None:
        self.offset = offset

    def next(self) -> Run | Hole | None:
        self.readings += 1
        first, stop = self.offset, self.offset - self.offset % BATCH + BATCH
        if first >= 2000:
            return None
        self.offset = stop
        if 500 <= first < 600:
            return Hole(first, stop, "damaged")
        return Run(first, [b"%d" % n for n in range(first, stop)], False, 0)

    def close(self) -> None:
        pass


def found(at: Lookup, offset: int) -> Any:
    run = at.at(offset)
    return run.records[offset - run.first] if isinstance(run, Run) else run


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_every_record_is_found_with_few_readings(order: str) -> None:
    offsets = [n for n in range(2000) if not 500 <= n < 600]
    if order == "backward":
        offsets = [n for first in range(0, 2000, BATCH) for n in reversed(range(first, first + BATCH)) if n in offsets]
    elif order == "shuffled":
        random.Random(1).shuffle(offsets)
        offsets = [n for n in offsets if n < 500 or n >= 1000]
    scan: Any = CountingScan()
    at = Lookup(scan)
    for offset in offsets:
        assert found(at, offset) == b"%d" % offset
    assert scan.readings <= {"forward": 19, "backward": 1900, "shuffled": 200}[order]


def test_holes_and_the_end_are_told_each_time() -> None:
    scan: Any = CountingScan()
    at = Lookup(scan)
    assert isinstance(at.at(550), Hole)
    assert at.at(2000) is None
    assert isinstance(at.at(550), Hole)


def test_p10_what_is_kept_is_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    scan: Any = CountingScan()
    at = Lookup(scan)
    for offset in range(99, -1, -1):
        at.at(offset)
    assert len(at._runs) == 1, "a longer run of a batch takes the place of the shorter ones"
    for offset in range(0, 2000, 7):
        at.at(offset)
        assert len(at._runs) <= lookup.KEPT_RUNS
    monkeypatch.setattr(lookup, "KEPT_BYTES", 0)
    for offset in range(0, 2000, 7):
        at.at(offset)
    assert len(at._runs) == 1
    at.close()
    assert at._runs == []
