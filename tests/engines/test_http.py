"""HTTP, with a collector that drops repeats by `Idempotency-Key`: every record once, whoever is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.engines.effectively_once import trial
from tools.engines.http import Http

pytestmark = pytest.mark.skipif(bool(Http.without()), reason=Http.without())

KILLS, RESTARTS = (20, 3) if os.environ.get("SEGLOG_ENGINES") == "full" else (4, 1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Http]:
    made = Http(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_p5_what_is_under_one_key_is_always_the_same(
    engine: Http, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Not so when the cursor is lost: the far end cannot be asked what it has, and other keys are no repeats."""
    outcome = trial(engine, tmp_path, kills=KILLS, restarts=RESTARTS, lose_cursor=False)
    record_property("outcome", outcome.row())
    assert outcome.ok, outcome
