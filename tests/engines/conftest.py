"""Real servers on loopback, one of each kind for all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.engines.effectively_once import HEAD
from tools.engines.registry import ENGINES
from tools.engines.server import Engine


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what each trial came to, whichever process ran it."""
    rows = {
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "outcome"
    }
    if rows:
        terminalreporter.write_line("\n".join(["", HEAD, *sorted(rows)]))


def by_name(engine: type[Engine]) -> str:
    return engine.__name__.lower()


@pytest.fixture(params=ENGINES, ids=by_name)
def kind(request: pytest.FixtureRequest) -> type[Engine]:
    """Each engine that is installed."""
    chosen: type[Engine] = request.param
    if lacks := chosen.without():
        pytest.skip(lacks)
    return chosen


@pytest.fixture
def engine(kind: type[Engine], tmp_path: Path) -> Iterator[Engine]:
    """A server of its own, not started yet."""
    made = kind(tmp_path / "server")
    yield made
    made.stop()
