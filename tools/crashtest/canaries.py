"""Deliberate bugs, each a patch in `canaries/`, and the layers that must notice it: a net with a hole is told of here.

A patch begins with what its bug costs, and a line `Caught-by: LAYER [WHAT]` for each layer, at least two: one of this
harness (WHAT: its shares; `disk calls/*` is the check of the system calls), `machine` (the state machine) or `unit`
(WHAT: tests). Where one alone can see it, a line `Only: reason` says why. Each is run on a copy of the whole project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.crashtest.campaign import CannotRun, Finding, Tally

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).with_suffix("")
TESTS = {
    "machine": ("tests/property/test_state_machine.py", "-k", "whatever_order"),
    "unit": (),  # the tests are always named
}
COPIED = ("seglog", "tests", "tools", "pyproject.toml", "README.md", "FORMAT.md", "CONTRIBUTING.md")
SECONDS_MAX = 200.0  # for one layer to notice one bug
CANNOT = 3  # of the harness: not here
FAILED = 1  # exit code of the harness and of pytest where something was not as it should be


@dataclass(frozen=True)
class Catcher:
    """A layer that must notice a bug, and which of its shares or tests do."""

    layer: str
    what: str = ""


@dataclass(frozen=True)
class Canary:
    """One deliberate bug."""

    name: str
    cost: str
    catchers: tuple[Catcher, ...]
    only: str  # why a single layer must do
    patch: Path


def canaries() -> list[Canary]:
    """All there are, by name."""
    return [_read(path) for path in sorted(PATCHES.glob("*.patch"))]


def _read(path: Path) -> Canary:
    head = path.read_text("utf-8").partition("\n--- ")[0]
    words = [line.partition(": ") for line in head.splitlines()]
    catchers = [Catcher(*value.split(" ", maxsplit=1)) for key, _, value in words if key == "Caught-by"]
    only = [value for key, _, value in words if key == "Only"]
    return Canary(path.stem, head.partition("\n")[0], tuple(catchers), "".join(only), path)


@contextmanager
def broken_copy(patch: Path) -> Iterator[Path]:
    """A copy of the project with the bug in it."""
    with tempfile.TemporaryDirectory(prefix="canary-") as place:
        copy = Path(place)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy / name)
        apply(patch, copy)
        yield copy


def apply(patch: Path, directory: Path) -> None:
    """Raises ValueError if the source has moved on since the patch was made."""
    if git := shutil.which("git"):
        command = [git, "apply", "-p1", str(patch)]
    elif program := shutil.which("patch"):
        command = [program, "-p1", "-s", "-i", str(patch)]
    else:
        raise CannotRun("patches are applied by git or patch; neither is installed")
    # Not the repository around it, if the copy lies in one: there git would look for the paths from its top.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{patch.name} does not apply any more: {done.stderr.strip()}")


def noticed(catcher: Catcher, copy: Path) -> tuple[bool, str]:
    """Whether the layer notices that this copy of the project is broken, and what it said."""
    if catcher.layer in TESTS:
        own = catcher.what.split() or TESTS[catcher.layer]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *own]
    else:
        only = ["--only", catcher.what or "*"]
        bounds = ["--jobs", "1", "--budget", f"{SECONDS_MAX / 2:.0f}s", "--stop-at", "1", "--json"]
        command = [sys.executable, "-m", "tools.crashtest", catcher.layer, *only, *bounds]
    environment = {**os.environ, "PYTHONPATH": str(copy), "HYPOTHESIS_PROFILE": "notice"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"it took more than {SECONDS_MAX:.0f} s"
    said = (done.stdout + done.stderr).strip()[-1500:]
    if catcher.layer in TESTS:
        return done.returncode == FAILED, said
    if done.returncode == CANNOT:
        raise CannotRun(said)
    try:
        return done.returncode == FAILED and bool(json.loads(done.stdout)["findings"]), said
    except ValueError:
        return False, said


class Canaries:
    """Shares are `bug/layer`."""

    unit = "bugs noticed"

    def shares(self, seed: int) -> Iterator[str]:
        found = canaries()
        turn = seed % len(found)
        for canary in found[turn:] + found[:turn]:
            for catcher in canary.catchers:
                yield f"{canary.name}/{catcher.layer}"

    def work(self, share: str) -> Tally:
        name, _, layer = share.partition("/")
        (canary,) = (canary for canary in canaries() if canary.name == name)
        (catcher,) = (catcher for catcher in canary.catchers if catcher.layer == layer)
        with broken_copy(canary.patch) as copy:
            caught, said = noticed(catcher, copy)
        if caught:
            return Tally(Counter({self.unit: 1, f"{name} by {layer}": 1}))
        return Tally(Counter({f"{name} not by {layer}": 1}), [Finding(share, f"{canary.cost} Not noticed:\n{said}")])

    def replay(self, place: str) -> Tally:
        return self.work(place)

    def table(self, counts: Counter[str]) -> str:
        """Which layer caught what."""
        rows = ["| bug | noticed by | not by |", "|---|---|---|"]
        for canary in canaries():
            by = [catcher.layer for catcher in canary.catchers if counts[f"{canary.name} by {catcher.layer}"]]
            not_by = [catcher.layer for catcher in canary.catchers if counts[f"{canary.name} not by {catcher.layer}"]]
            if by or not_by:
                rows.append(f"| {canary.name} | {', '.join(by)} | {', '.join(not_by)} |")
        return "\n".join(rows)


LAYER = Canaries()
