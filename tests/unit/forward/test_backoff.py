"""Waits after failures: growing, jittered, bounded."""

from __future__ import annotations

import pytest

from seglog.clock import SystemClock
from seglog.forward.backoff import FIRST_SECONDS, MOST_SECONDS, RETRY_AFTER_MAX_SECONDS, Backoff
from tests.support.fake_consumer import FakeClock


def test_the_step_doubles_up_to_the_limit() -> None:
    backoff = Backoff(FakeClock(share=1.0))
    waits = [backoff.next() for _ in range(12)]
    assert waits[:4] == pytest.approx([FIRST_SECONDS * 2**n for n in range(4)])
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(MOST_SECONDS)


def test_full_jitter_covers_everything_from_nothing_to_the_step() -> None:
    assert Backoff(FakeClock(share=0.0)).next() == 0
    waits = []
    for _ in range(500):
        waits.append(Backoff(SystemClock()).next())
    assert all(0 <= wait <= FIRST_SECONDS for wait in waits)
    assert min(waits) < FIRST_SECONDS / 4
    assert max(waits) > FIRST_SECONDS * 3 / 4


def test_success_begins_anew() -> None:
    backoff = Backoff(FakeClock(share=1.0))
    first = backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == first


def test_retry_after_is_waited_at_least_and_capped() -> None:
    backoff = Backoff(FakeClock(share=0.5))
    assert 7.0 < backoff.next(7.0) < 7.0 + FIRST_SECONDS
    assert backoff.next(1e9) <= RETRY_AFTER_MAX_SECONDS + MOST_SECONDS
    assert backoff.next(-5.0) >= 0
