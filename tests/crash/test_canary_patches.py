"""The deliberate bugs of `tools/crashtest/canaries/`: each still applies, and some of them are tried each time."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import pytest

import seglog
from tools.crashtest.campaign import LAYERS
from tools.crashtest.canaries import LAYER, TESTS, Canary, Catcher, apply, broken_copy, canaries, noticed

EACH_TIME = 5  # others, whenever the code changes; all with SEGLOG_DEEP, or by `tools/crashtest/run canaries`


def due() -> list[Canary]:
    """A few of them: which ones, the source decides, so that the same code is tested the same way."""
    source = blake2b(digest_size=8)
    for path in sorted(Path(seglog.__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    found = canaries()
    if int(os.environ.get("SEGLOG_DEEP", "1")) > 1:
        return found
    start = int.from_bytes(source.digest(), "little") % len(found)
    return (found + found)[start : start + EACH_TIME]


def test_there_are_enough_and_each_has_two_layers_or_a_reason() -> None:
    found = canaries()
    assert len(found) >= 30
    for canary in found:
        layers = {catcher.layer for catcher in canary.catchers}
        assert len(layers) == len(canary.catchers)
        assert layers <= {*LAYERS, *TESTS}
        assert len(layers) >= 2 or canary.only, f"{canary.name} is noticed by one layer, and nobody says why"
        assert canary.cost.endswith(".")


@pytest.mark.parametrize("canary", canaries(), ids=lambda canary: canary.name)
def test_the_patch_applies_and_breaks_only_the_package(canary: Canary, tmp_path: Path) -> None:
    changed = [line[6:] for line in canary.patch.read_text("utf-8").splitlines() if line.startswith("+++ b/")]
    for name in changed:
        assert name.startswith("seglog/")
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((Path(seglog.__file__).parent.parent / name).read_bytes())
    apply(canary.patch, tmp_path)
    for name in changed:
        compile((tmp_path / name).read_text("utf-8"), name, "exec")


def test_a_patch_that_does_not_apply_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not apply"):
        apply(canaries()[0].patch, tmp_path)


@pytest.mark.parametrize("catcher", [Catcher("sim", "ops/always/ack"), Catcher("unit", "tests/unit/test_intervals.py")])
def test_what_is_not_broken_is_not_noticed(catcher: Catcher, tmp_path: Path) -> None:
    """Else any layer that always fails would notice everything."""
    patch = tmp_path / "nothing.patch"
    patch.write_text("Nothing.\n\n--- /dev/null\n+++ b/seglog/nothing.txt\n@@ -0,0 +1 @@\n+nothing\n")
    with broken_copy(patch) as copy:
        assert (copy / "seglog" / "nothing.txt").exists()
        caught, said = noticed(catcher, copy)
    assert not caught
    assert "every promise was kept" in said or "passed" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("canary", due(), ids=lambda canary: canary.name)
def test_a_layer_notices(canary: Canary) -> None:
    """The first of its layers; `tools/crashtest/run canaries` asks them all."""
    assert LAYER.work(f"{canary.name}/{canary.catchers[0].layer}").findings == []
