"""The benchmarks run and give figures; what the figures are is no test's business."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tools.bench.comparisons import COMPARISONS, Sizes
from tools.bench.run import machine, row
from tools.engines.redis import Redis

TINY = Sizes(
    rounds=2,
    singles=2,
    batches=2,
    batch=5,
    verify_batches=2,
    few=20,
    many=40,
    few_segments=2,
    many_segments=4,
    kills=2,
    drains=1,
    forward_records=500,
    forward_rounds=2,
    forward_to=("Redis",),
)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_gives_ratios(tmp_path: Path, name: str) -> None:
    if name == "forward" and Redis.without():
        pytest.skip(Redis.without())
    results = list(COMPARISONS[name](tmp_path, TINY))
    assert results
    for result in results:
        assert 0 < result.ratio < math.inf
        assert 0 < result.low <= result.high
        assert result.best > 0
        assert result.name in row(result)


def test_the_machine_is_named(tmp_path: Path) -> None:
    about = machine(tmp_path)
    assert about["cpus"]
    assert about["fdatasync_us"]
