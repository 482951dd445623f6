"""The whole public API against a plain model, in any order, with faults and crashes between and within the calls.

`tests/support/log_machine.py` has the steps, `model_log.py` and `model_consumer.py` what must hold after each of them.
The default run takes the same 500 examples of 50 steps each time; `SEGLOG_MACHINE_SECONDS=3600` goes on with new ones
for an hour, and prints what it has met.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from seglog.consumers.cursor import Cursor
from seglog.consumers.delivery import Delivery
from seglog.consumers.flight import Flight
from seglog.format.cursor_state import Seen
from seglog.intervals import Intervals
from seglog.segment_writer import SegmentWriter
from seglog.source import Source
from tests.support.log_machine import LogMachine
from tests.support.machine_life import tally
from tools.crashtest.history import Broken

SECONDS = float(os.environ.get("SEGLOG_MACHINE_SECONDS", "0"))
EXAMPLES = 500
STEPS = 50
QUICK_SEED = 6  # that meets all the canaries soon

# What the default run meets at least: a machine that does nothing finds nothing.
MET = {
    "examples": EXAMPLES,
    "steps": 10_000,
    "records accepted": 2000,
    "records dropped": 50,
    "appends refused as the log was full": 50,
    "messages given out": 700,
    "of these again": 30,
    "acks": 300,
    "dead letters": 200,
    "calls that met a fault": 150,
    "deaths": 200,
    "power cuts": 200,
    "of these within a call": 20,
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of warnings about faults that were asked for would only be kept in memory."""
    caplog.set_level("CRITICAL", logger="seglog")


@pytest.mark.slow
@pytest.mark.timeout(600 + 2 * SECONDS)
def test_p1_to_p9_whatever_is_called_in_whatever_order_the_log_does_what_the_model_does() -> None:
    begun = time.monotonic()
    tally.clear()
    run_state_machine_as_test(LogMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS))
    short = {what: (tally[what], least) for what, least in MET.items() if tally[what] < least}
    assert not short, f"the machine met too little: {short}"
    for number in count(1):
        if time.monotonic() - begun >= SECONDS:
            break
        fresh = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=False, database=None)
        run_state_machine_as_test(seed(number)(LogMachine), settings=fresh)
        print(f"{time.monotonic() - begun:.0f} s, seed {number}: {dict(tally)}", flush=True)


# -- canaries: the machine notices if something is broken


def ack_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def store(
        self: Cursor,
        watermark: int,
        acked: Intervals,
        attempts: dict[int, int],
        seen: Seen,
        *,
        start: int | None = None,
    ) -> None:
        self.start = self.start if start is None else start
        self.watermark, self.acked, self.attempts = watermark, acked, attempts

    monkeypatch.setattr(Cursor, "store", store)


def one_record_too_many_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Source.drop
    monkeypatch.setattr(Source, "drop", lambda self, first, stop, records: drop(self, first, stop + 1, records + 1))


def leases_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flight, "ended", lambda self, now: [])


def what_was_nacked_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back = Delivery.give_back

    def last(self: Delivery[bytes], dues: dict[int, float]) -> None:
        give_back(self, {offset: due or 1e-9 * (1000 - offset) for offset, due in dues.items()})

    monkeypatch.setattr(Delivery, "give_back", last)


def a_commit_is_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = SegmentWriter.sync

    def lie(self: SegmentWriter) -> None:
        file, self.file = self.file, _Lying(self.file)
        try:
            sync(self)
        finally:
            self.file = file

    monkeypatch.setattr(SegmentWriter, "sync", lie)


class _Lying:
    """A file whose syncs return and do nothing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def sync(self) -> None:
        pass

    datasync = sync

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


CANARIES: Sequence[Callable[[pytest.MonkeyPatch], None]] = [
    ack_is_not_stored,
    one_record_too_many_is_dropped,
    leases_never_end,
    what_was_nacked_comes_last,
    a_commit_is_not_synced,
]


@pytest.mark.parametrize("broken", CANARIES, ids=lambda broken: broken.__name__)
def test_the_machine_notices_when(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    found = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        database=None,
        derandomize=False,
    )
    with pytest.raises(Broken):
        run_state_machine_as_test(seed(QUICK_SEED)(LogMachine), settings=found)
