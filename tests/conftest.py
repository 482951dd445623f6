"""Settings for all tests: Hypothesis runs the same examples every time unless HYPOTHESIS_PROFILE says otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from seglog.disk.memory import MemoryDisk
from tests.support.place import Place
from tools.crashtest.zygote import Child, Start, Zygote

# Two busy cores make single examples slow by chance; pytest-timeout bounds the whole test instead.
settings.register_profile("default-run", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("notice", settings.get_profile("default-run"), phases=[Phase.generate])  # no shrinking
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default-run"))


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The helper that forks child processes."""
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def start(zygote: Zygote) -> Iterator[Start]:
    """Start a child process: `start("tests.support.children:name", *arguments)`. None outlives the test."""
    children: list[Child] = []

    def begin(function: str, *arguments: object) -> Child:
        children.append(zygote.start(function, *arguments))
        return children[-1]

    yield begin
    for child in children:
        child.close()


@pytest.fixture(params=["memory", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place for one log, once in memory and once on the real disk."""
    made = Place("log", MemoryDisk()) if request.param == "memory" else Place(str(tmp_path / "log"), None)
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
