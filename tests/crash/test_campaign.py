"""The frame of the harness: budget, cores, ledger, replay, verdict, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.crashtest import __main__ as program
from tools.crashtest import campaign
from tools.crashtest.campaign import CannotRun, Finding, Report, Tally, Terms

ROOT = Path(__file__).resolve().parents[2]


class Fake:
    """A layer of numbers: odd ones are bad if it is told so."""

    unit = "numbers"

    def __init__(self, count: int | None = 10, *, bad: bool = False, error: BaseException | None = None) -> None:
        self.count = count
        self.bad = bad
        self.error = error
        self.worked: list[str] = []

    def shares(self, seed: int) -> Iterable[str]:
        if isinstance(self.error, CannotRun):
            raise self.error
        return self._shares(seed)

    def _shares(self, seed: int) -> Iterator[str]:
        number = seed
        while self.count is None or number < seed + self.count:
            yield str(number)
            number += 1

    def work(self, share: str) -> Tally:
        self.worked.append(share)
        if isinstance(self.error, KeyboardInterrupt) and len(self.worked) == 3:
            raise self.error
        bad = self.bad and int(share) % 2
        return Tally(Counter(numbers=1), [Finding(f"{share}/0", f"{share} is odd")] if bad else [])

    def replay(self, place: str) -> Tally:
        return self.work(str(int(place.split("/", maxsplit=1)[0])))

    def table(self, counts: Counter[str]) -> str:
        return f"| numbers | {counts['numbers']} |"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(layer: Fake) -> Fake:
        monkeypatch.setattr(campaign, "layer_named", lambda name: layer)
        monkeypatch.setattr(program, "layer_named", lambda name: layer)
        return layer

    return use


def test_all_is_done_without_a_budget_and_counted(use: Any) -> None:
    use(Fake(10))
    report = campaign.run("sim", Terms(budget=None))
    assert (report.shares, report.counts["numbers"], report.finished, report.ok) == (10, 10, True, True)


def test_what_never_ends_ends_with_the_budget(use: Any) -> None:
    use(Fake(None))
    report = campaign.run("sim", Terms(budget=0.05))
    assert report.shares > 1
    assert not report.finished


def test_a_long_run_goes_on_where_it_was(use: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    first = use(Fake(10, error=KeyboardInterrupt()))
    report = campaign.run("sim", Terms(ledger=ledger))
    assert (report.interrupted, report.shares) == (True, 2)
    with ledger.open("a") as file:
        file.write('{"layer": "sim", "sha')  # killed while it wrote
        file.write("\n")
    second = use(Fake(10, bad=True))
    report = campaign.run("sim", Terms(ledger=ledger))
    assert first.worked[:2] == ["0", "1"]
    assert second.worked == [str(number) for number in range(2, 10)]
    assert (report.shares, report.counts["numbers"]) == (10, 10)
    assert [finding.place for finding in report.findings] == ["3/0", "5/0", "7/0", "9/0"]
    again = campaign.run("sim", Terms(ledger=ledger))
    assert (again.shares, again.counts, again.findings) == (10, report.counts, report.findings)
    assert len(second.worked) == 8, "nothing is done twice"


def test_only_what_matches(use: Any) -> None:
    layer = use(Fake(20))
    campaign.run("sim", Terms(only="1?"))
    assert layer.worked == [str(number) for number in range(10, 20)]


def test_where_nothing_more_matches_the_budget_ends_it_all_the_same(use: Any) -> None:
    layer = use(Fake(None))
    assert not campaign.run("sim", Terms(only="x*", budget=0.05)).finished
    report = campaign.run("sim", Terms(only="7", budget=None))
    assert layer.worked == ["7"]
    assert report.finished


def test_whoever_breaks_everything_is_stopped(use: Any) -> None:
    use(Fake(None, bad=True))
    report = campaign.run("sim", Terms(budget=None))
    assert len(report.findings) == campaign.FINDINGS_MAX


@pytest.mark.parametrize(
    ("layer", "arguments", "expected"),
    [
        (Fake(3), [], 0),
        (Fake(3, bad=True), [], 1),
        (Fake(3, bad=True), ["--replay", "1/0"], 1),
        (Fake(3, bad=True), ["--replay", "2/0"], 0),
        (Fake(3), ["--replay", "no such"], 2),
        (Fake(3, error=CannotRun("needs root")), [], 3),
        (Fake(9, error=KeyboardInterrupt()), [], 130),
    ],
)
def test_exit_codes(
    use: Any, layer: Fake, arguments: list[str], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    use(layer)
    assert program.main(["sim", "--jobs", "1", *arguments]) == expected
    out, err = capsys.readouterr()
    assert ("NOT kept" in out) == (expected == 1)
    assert ("tools/crashtest/run sim --replay '1/0'" in err) == (expected == 1)
    assert ("needs root" in err) == (expected == 3)


def test_json_is_exactly_the_report(use: Any, capsys: pytest.CaptureFixture[str]) -> None:
    use(Fake(3, bad=True))
    assert program.main(["sim", "--jobs", "1", "--seed", "4", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {*Report.__dataclass_fields__, "ok"}
    assert (found["seed"], found["counts"], found["ok"]) == (4, {"numbers": 3}, False)
    assert found["findings"] == [{"place": "5/0", "what": "5 is odd"}]


def test_wrong_usage_is_told_and_the_help_names_every_layer() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, expected in [(["no-such-layer"], 2), (["sim", "--jobs", "0"], 2), (["--help"], 0)]:
        command = [sys.executable, "-m", "tools.crashtest", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == expected
        assert "Traceback" not in done.stderr
    assert all(layer in done.stdout for layer in campaign.LAYERS)
