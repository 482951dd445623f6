"""Every call to the disk fails, in every way, once and from then on: errors are typed, nothing is half accepted, lost
or called bad, and no power cut after it turns it into a broken promise (see `tools/crashtest/faults.py`).

The whole loop over a short tale; of the other tales, calls here and there. SEGLOG_DEEP makes the steps smaller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from seglog.appender import Appender
from seglog.errors import StorageError
from seglog.segment_writer import SegmentWriter
from tools.crashtest import faults
from tools.crashtest.campaign import Tally
from tools.crashtest.story import PlacedFaults

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
LAYER = faults.LAYER
STRIDE = 499  # of the calls of all tales together, for each way to fail; a prime


def worked(share: str, every: int = 1, first: int = 1) -> Counter[str]:
    tally = LAYER.work(share, every, first)
    assert not tally.findings, tally.findings[0]
    return tally.counts


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("error", [*faults.CODES, *faults.EXCEPTIONS])
def test_p9_f38_f40_f43_f49_every_call_fails_once(error: str, how: str) -> None:
    counts = worked(f"short/{error}/{how}/once")
    assert counts["calls that failed"] > 120
    assert counts["noticed"] > 60


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("error", [*faults.CODES, "MemoryError"])
def test_p9_f42_f43_f48_every_change_fails_from_some_call_on(error: str, how: str) -> None:
    """A disk that is full, broken or read-only from then on."""
    assert worked(f"short/{error}/{how}/onwards")["noticed"] > 60


@pytest.mark.parametrize("cut", list(faults.CUTS))
def test_p9_f41_f42_a_write_that_stops_half_way_is_taken_back(cut: str) -> None:
    for error in faults.CUT_CODES:
        for span in ("once", "onwards"):
            assert worked(f"short/{error}/{cut}/{span}")["calls that failed"] >= 15


@pytest.mark.parametrize("span", ["once", "onwards"])
def test_p9_a_failed_sync_that_takes_its_data_for_written(span: str) -> None:
    assert worked(f"short/EIO/forgotten/{span}")["calls that failed"] >= 15


@pytest.mark.parametrize("part", range(4))
def test_p9_f42_f43_f47_to_f49_after_a_fault_and_a_power_cut_all_promises_hold(part: int) -> None:
    """Over the whole public API. Each tale's calls in other places for each way to fail."""
    tried = Counter[str]()
    for number, name in enumerate(faults.NAMES):
        if number % 4 == part:
            for way, (error, how, span) in enumerate(faults.ways()):
                share = f"{name}/{error}/{how}/{span}"
                tried += worked(share, STRIDE // DEEP, 1 + (way * 31 + number * 7) % (STRIDE // DEEP))
    assert tried["calls that failed"] > 100


@pytest.mark.parametrize("name", faults.NAMES)
def test_a_tale_is_told_to_its_end_where_nothing_fails(name: str) -> None:
    tally = Tally()
    assert not faults.failed(f"{name}/EIO/before/once", faults.CALLS_MAX, tally)
    told = faults.tale(name)
    disk = told.disk()
    assert not told.tell(disk, PlacedFaults(disk))
    assert told.judge(disk, unsynced=0) > 1


# -- a layer that finds nothing must be able to find something


def ignores_a_short_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Appender, "_undo", lambda *_: None)
    write = SegmentWriter.write

    def swallowing(self: SegmentWriter, records: Any, *more: Any) -> int:
        base, position = self.next_offset, self.position
        with suppress(OSError):
            return write(self, records, *more)
        self.next_offset, self.position = base + len(records), position + 4096
        return base

    patch.setattr(SegmentWriter, "write", swallowing)


def ignores_a_failed_sync(patch: pytest.MonkeyPatch) -> None:
    sync = Appender._sync

    def trusting(self: Appender, writer: SegmentWriter) -> None:
        try:
            sync(self, writer)
        except StorageError:
            self._failure = None
            self.next_offset = writer.next_offset

    patch.setattr(Appender, "_sync", trusting)


def answers_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """The append counts, and whether its sync went well is only looked at by the next one."""
    commit = Appender.commit

    def hasty(self: Appender, tickets: Any) -> None:
        base = self.next_offset
        try:
            commit(self, tickets)
        except StorageError:
            for ticket in tickets:
                ticket.base_offset, base = base, base + len(ticket.payloads)

    patch.setattr(Appender, "commit", hasty)


def leaks_an_error(patch: pytest.MonkeyPatch) -> None:
    def raw(error: OSError, doing: str) -> OSError:
        return error

    patch.setattr("seglog.appender.storage_error", raw)


@pytest.mark.parametrize(
    ("breakage", "share", "words"),
    [
        (ignores_a_short_write, "short/ENOSPC/half/once", "verify"),
        (ignores_a_failed_sync, "short/EIO/before/once", "lost"),
        (answers_before_the_sync, "short/EIO/before/once", "lost"),
        (leaks_an_error, "short/EIO/before/once", "OSError"),
    ],
)
def test_a_broken_product_is_caught_and_its_place_replays(
    breakage: Callable[[pytest.MonkeyPatch], None], share: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.tale.cache_clear()
    breakage(monkeypatch)
    try:
        findings = LAYER.work(share).findings
        assert any(words in finding.what for finding in findings), findings
        assert LAYER.replay(findings[0].place).findings == findings[:1]
    finally:
        monkeypatch.undo()
        faults.tale.cache_clear()
    assert not LAYER.replay(findings[0].place).findings


def test_what_is_no_place_is_refused() -> None:
    for place in ("short/EIO/before/9999/once", "short/EIO/sideways/1/once", "nothing/EIO/before/1/once"):
        with pytest.raises(LookupError):
            LAYER.replay(place)
