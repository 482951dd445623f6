"""The layer `sim` of the harness, a few of its shares: power fails at every operation of all short sequences of
operations, on a disk that may also give back zeros and garbage, or whose syncs fail (P1 to P5, P7, P8, P9; A7).

Long runs of the same: `tools/crashtest/run sim --budget 1h`.
"""

from __future__ import annotations

import itertools

import pytest

from seglog import segment_reader
from seglog.opening import _Opening
from seglog.segment_reader import SegmentReader
from seglog.testing import Operation
from tests.support.sync_sites import asked_by, sites
from tools.crashtest import sim
from tools.crashtest.sim import LAYER, Simulation
from tools.crashtest.workloads import WORKLOADS

STATES = 40_000  # distinct crash states in the default run, with those of test_power_loss

# How many of them each share has at least.
SHARES: dict[str, int] = {
    "ops/always/open": 27,
    "ops/always/append": 100,
    "ops/always/ack": 199,
    "ops/always/rotate": 690,
    "ops/always/compact": 31,
    "ops/always/many": 178,
    "ops/always/submit": 104,
    "ops/always/sync": 27,
    "ops/always/nack": 232,
    "ops/always/reject": 788,
    "ops/always/repair": 82,
    "ops/always/purge": 505,
    "ops/always/reopen": 73,
    "ops/always/kill": 67,
    "ops/always/read": 26,
    "ops/always/register": 415,
    "ops/always/remove": 247,
    "ops/never/append+read": 20,
    "ops/never/rotate": 690,
    "ops/never/append+kill": 52,
    "ops/never/submit+sync": 20,
    "ops/zstd/many": 169,
    "ops/zstd/many+repair": 118,
    "ops/always/ack+compact": 236,
    "ops/always/rotate+compact": 41,
    "ops/always/append+ack+compact": 158,
    "ops/always/purge+rotate": 156,
    "ops/always/remove+compact+register": 176,
    "ops/always/nack+reject": 599,
    "fails/always/append": 87,
    "fails/always/ack": 105,
    "fails/always/rotate": 420,
    "fails/always/register": 176,
    "fails/always/purge": 352,
    "fails/always/compact": 26,
    "fails/always/kill": 57,
    "fails/always/ack+ack": 146,
    "fails/always/reject+ack": 452,
    "random/0/0": 713,
    "random/0/1": 324,
}


@pytest.mark.parametrize("share", SHARES)
def test_p1_to_p5_hold_after_every_crash_of_a_share(share: str) -> None:
    tally = LAYER.work(share)
    assert not tally.findings, tally.findings[0].what
    assert tally.counts["states"] >= SHARES[share]


def test_the_default_run_sees_enough_states() -> None:
    assert sum(SHARES.values()) + sum(each.at_least for each in WORKLOADS) >= STATES


def test_a_share_counts_what_it_saw() -> None:
    counts = LAYER.work("ops/always/ack").counts
    kinds = ["depth 1", "depth 2", "depth 3", "kills", "torn writes", "zeros", "stale"]
    assert all(counts[kind] for kind in kinds)
    assert counts["states"] == sum(counts[f"depth {depth}"] for depth in (1, 2, 3))
    assert all(kind in LAYER.table(counts) for kind in kinds)
    assert LAYER.work("ops/always/ack").counts == counts, "the same each time"


def test_shares_are_named_once_and_never_end() -> None:
    shares = list(itertools.islice(LAYER.shares(0), 5000))
    assert len(set(shares)) == len(shares)
    assert {share.split("/")[0] for share in shares} == {"ops", "fails", "named", "random"}
    assert all(sim.workloads(share) for share in shares[:60])
    other = set(itertools.islice(LAYER.shares(1), 5000))
    assert {share for share in other if share not in shares} == {s for s in other if s.startswith("random/1/")}


@pytest.mark.parametrize(
    "place", ["no/such", "ops/always/fly", "ops/often/ack", "named/nobody", "random/0/x", "fails/always/ack/x/1/1"]
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises((LookupError, ValueError)):
        LAYER.replay(place)


# What must be noticed.


LIES = [
    ("segment_writer.SegmentWriter.sync self.file.datasync", "ops/always/append"),
    ("segment_writer.SegmentWriter.sync self.file.datasync", "ops/always/submit"),
    ("segment_writer.SegmentWriter.create file.sync", "ops/always/rotate"),
    ("segment_writer.SegmentWriter.create directory.sync", "ops/always/rotate"),
    ("appender.Appender._sync writer.sync", "ops/never/sync"),
    ("slot_file.SlotFile.write self.file.datasync", "ops/always/ack"),
    ("slot_file.SlotFile.write self.file.datasync", "ops/always/purge"),
    ("slot_file.SlotFile.create file.sync", "ops/always/register"),
    ("consumers.registry.Registry.register self.cursors.sync", "ops/always/register"),
]


@pytest.mark.parametrize(("site", "share"), LIES)
def test_a_sync_that_lies_is_noticed_and_the_place_replays_it(site: str, share: str) -> None:
    lying = Simulation(ignore=asked_by(sites()[site]))
    (found,) = lying.work(share).findings
    assert [again.what for again in lying.replay(found.place).findings] == [found.what]
    well = LAYER.replay(found.place)
    assert not well.findings
    assert well.counts["states"] <= len(found.place.split("/")) // 2 - 1, "this one, and what led there"


def test_garbage_that_is_accepted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_reader, "body_holds", lambda *_, **__: True)
    assert LAYER.work("ops/always/many").findings


def test_a_recovery_that_trusts_what_a_failed_sync_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(opening: _Opening, segment: SegmentReader, tail: object, target: object, appender: object) -> object:
        opening.segments.open(segment.name.file_name, write=True).datasync()  # succeeds, and writes nothing
        return opening._continue(segment, tail, appender)  # type: ignore[arg-type]

    monkeypatch.setattr(_Opening, "_succeed", trusting)
    assert LAYER.work("fails/always/append").findings


def test_an_operation_that_breaks_by_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(life: object) -> None:
        raise RuntimeError("no crash was needed")

    monkeypatch.setitem(sim.OPERATIONS, "ack", broken)
    (found,) = LAYER.work("ops/always/append+ack").findings
    assert "no crash was needed" in found.what
    assert LAYER.replay(found.place).findings == [found]


def honest(_: Operation) -> bool:
    return False


def test_an_honest_disk_is_not_blamed() -> None:
    assert not Simulation(ignore=honest).work("ops/always/sync").findings
