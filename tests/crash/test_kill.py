"""Real SIGKILLs at named points and at random times. The oracle lives outside the process that is killed."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import seglog
from tools.crashtest import kill, killing, points
from tools.crashtest.kill import LAYER, Kill, visits
from tools.crashtest.kill_oracle import Oracle
from tools.crashtest.kill_random import SETTINGS
from tools.crashtest.kill_worker import payload

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
RANDOM = {"always": 2}  # shares; 1 of each other setting


@pytest.mark.slow
@pytest.mark.timeout(120 * DEEP)
@pytest.mark.parametrize("phase", points.POINTS)
def test_p1_p2_p3_p4_p5_nothing_acknowledged_is_lost_to_sigkill_at_any_named_site(phase: str) -> None:
    for number in range(DEEP):
        tally = LAYER.work(f"points/{phase}/{number}")
        assert not tally.findings
        for site in points.sites(phase):
            assert any(tally.counts[f"at {site}.{side}"] for side in points.sides(site)), f"{site} was not hit"


@pytest.mark.slow
@pytest.mark.timeout(120 * DEEP)
@pytest.mark.parametrize("setting", SETTINGS)
def test_p1_p2_p3_p4_p5_nothing_acknowledged_is_lost_to_sigkill_at_random_times(setting: str) -> None:
    total: Counter[str] = Counter()
    shares = RANDOM.get(setting, 1) * DEEP
    for number in range(shares):
        tally = LAYER.work(f"random/{setting}/{number}")
        assert not tally.findings
        total += tally.counts
    assert total["kills"] >= 8 * shares
    assert total["acknowledged"] > 5 * total["kills"], "no kill met a process that was at work"


def test_a_kill_in_what_follows_a_kill_and_the_same_place_is_the_same_kill() -> None:
    point = "rotation.write.segment-tmp.half"
    tallies = ((place, LAYER.replay(place)) for place in (f"points/{point}/{number}" for number in range(3, 50)))
    place, twice = next((place, tally) for place, tally in tallies if tally.counts["second"])
    assert twice.counts["kills"] == 2
    assert twice.counts[f"at {point}"] == 1
    assert LAYER.replay(place) == twice


def test_the_scenes_come_to_every_named_point_and_to_no_other() -> None:
    assert set(visits()) == set(points.sites()), "a new operation needs its line in points.POINTS, or a scene"
    assert len(points.points()) >= 40


@pytest.mark.parametrize(
    ("bug", "shares"),
    [
        ("answered_before_written", ["points/append/3", "points/append/4", "points/append/5"]),
        ("answered_before_written", ["random/always/0"]),
        ("unlinked_before_meta", ["points/compaction/0"]),
        ("handled_before_kept", ["points/diversion/0"]),
    ],
)
def test_a_bug_that_shows_after_a_kill_only_is_found(
    bug: str, shares: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killing, "MEMORY", str(tmp_path))  # a log in which something was found is kept
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layer = Kill(f"tests.support.sabotage:{bug}")
    assert any(layer.work(share).findings for share in shares)


def test_a_judge_that_leaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def leaking(*arguments: Any) -> None:
        kept.append(open(os.devnull))  # noqa: SIM115

    monkeypatch.setattr(kill, "judge", leaking)
    (found,) = LAYER.replay("points/ack.write.cursor.after/0").findings
    assert "descriptors" in found.what
    kept[0].close()


def test_shares_and_places_that_there_are_not() -> None:
    for place in ("points/rotation", "points/no-such/0", "points/append.write.segment.behind/0", "random/no-such/0"):
        with pytest.raises((LookupError, ValueError)):
            LAYER.replay(place)


def test_a_point_that_was_never_hit_is_named() -> None:
    every = Counter({f"at {point}": 2 for point in points.points()})
    assert "NEVER HIT" not in LAYER.table(every)
    del every["at ack.write.cursor.half"]
    table = LAYER.table(every)
    assert "NEVER HIT: ack.write.cursor.half" in table


def test_the_oracle_notices_what_is_lost_invented_reused_or_handled_twice() -> None:
    def oracle(*lines: str) -> Oracle:
        made = Oracle()
        made.next_generation()
        for line in lines:
            made.heard(line)
        return made

    submitted, acknowledged = "s single 0 2", "a single 0 2 0"
    with seglog.open(":memory:") as log, log.consumer("fast") as consumer:
        with pytest.raises(AssertionError, match="lost"):
            oracle(submitted, acknowledged).check_log(log)
        log.append_many([payload(1, "single", 0), payload(1, "single", 1)])
        oracle(submitted, acknowledged).check_log(log)
        oracle(submitted).check_log(log)
        with pytest.raises(AssertionError, match="not submitted"):
            oracle().check_log(log)
        with pytest.raises(AssertionError, match=r"given out before|was"):
            oracle("s many 0 1", "a many 0 1 1", submitted).check_log(log)
        with pytest.raises(AssertionError, match="come again"):
            oracle(submitted, acknowledged, "i fast 0", "d fast 0").check_consumer("fast", {0, 1})
        consumer.ack(0)
        with pytest.raises(AssertionError, match="ahead"):
            oracle(submitted, acknowledged).check_log(log)
        with pytest.raises(AssertionError, match="do not come"):
            oracle(submitted, acknowledged).check_consumer("fast", {1})
        oracle(submitted, acknowledged, "i fast 0").check_consumer("fast", {1})
