"""Event loops to run the tests in: asyncio's own, and uvloop's where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from seglog.disk.local import LocalDisk
from tests.support.gate_disk import GateDisk
from tests.support.place import Place
from tests.support.tasks import Run, bounded

R = TypeVar("R")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """`run(main())`: in a new loop, with a time limit."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop

    def in_a_new_loop(main: Coroutine[Any, Any, R]) -> R:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(bounded(main))

    return in_a_new_loop


@pytest.fixture
def gate(place: Place) -> GateDisk:
    """The place's disk behind a gate."""
    return GateDisk(place.disk or LocalDisk())
