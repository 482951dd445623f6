"""Every record is at the far end exactly once, in order, whatever dies (the table of the README)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.engines.effectively_once import trial
from tools.engines.server import Engine

FULL = os.environ.get("SEGLOG_ENGINES") == "full"
KILLS, RESTARTS = (20, 3) if FULL else (3, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_p5_kills_restarts_and_a_lost_cursor_neither_double_nor_lose_a_record(
    engine: Engine, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    engine.start()
    outcome = trial(engine, tmp_path, kills=KILLS, restarts=RESTARTS)
    record_property("outcome", outcome.row())
    assert outcome.ok if engine.dedupes else outcome.at_least_once, outcome
