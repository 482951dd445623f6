"""The clock that stands still."""

from __future__ import annotations

import pytest

from seglog.clock import Clock
from seglog.testing import ManualClock


def test_it_goes_on_only_when_told() -> None:
    clock: Clock = ManualClock(start_ns=5_000)
    assert (clock.time_ns(), clock.monotonic()) == (5_000, 0.0)
    clock.sleep(1.5)
    assert (clock.time_ns(), clock.monotonic()) == (1_500_005_000, 1.5)


def test_the_wall_clock_may_jump_and_the_other_may_not() -> None:
    clock = ManualClock(start_ns=10**18)
    clock.advance(2)
    clock.jump(-3600)
    assert clock.time_ns() == 10**18 - 3598 * 10**9
    assert clock.monotonic() == 2.0
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_random_bytes_replay() -> None:
    one, same, other = ManualClock(seed=1), ManualClock(seed=1), ManualClock(seed=2)
    drawn = [one.random_bytes(16) for _ in range(4)]
    assert drawn == [same.random_bytes(16) for _ in range(4)]
    assert other.random_bytes(16) not in drawn
    assert len(set(drawn)) == 4
    assert one.random_bytes(0) == b""
