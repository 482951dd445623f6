"""The decision table: exactly one row for every situation, and the same as FORMAT.md §10.7 prints."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from seglog.recovery import RULES, Action, Ending, Situation, decide

EVERY = [Situation(*values) for values in product(Ending, (False, True), (False, True))]


def test_every_situation_has_exactly_one_row() -> None:
    assert sorted(RULES, key=str) == sorted(EVERY, key=str)


@pytest.mark.parametrize("situation", EVERY, ids=str)
def test_p7_only_a_proven_end_in_zeros_is_continued(situation: Situation) -> None:
    verdict = decide(situation)
    in_place = situation.ending in (Ending.ZERO, Ending.CLOSED) and not situation.unproven and not situation.jump
    assert (verdict.action is Action.CONTINUE) is in_place
    assert verdict.finding == {Ending.TORN: "torn", Ending.SUSPECT: "suspect"}.get(situation.ending, "")
    assert verdict.clean is (situation == Situation(Ending.CLOSED, False, False))


def test_the_table_is_the_printed_one() -> None:
    text = (Path(__file__).parents[2] / "FORMAT.md").read_text("utf-8")
    section = text[text.index("### 10.7") : text.index("### 10.8")]
    rows = re.findall(
        r"^\| (ZERO|CLOSED|TORN|SUSPECT) \| (.*?) \|(.*?)\| (CONTINUE|SUCCEED) \| (.*?) \|$", section, re.M
    )
    assert len(rows) == 6
    printed: dict[Situation, tuple[str, str]] = {}
    for ending, unproven, jump, action, says in rows:
        for situation in EVERY:
            if situation.ending.name != ending or situation in printed:
                continue
            if unproven == jump.strip() == "no" and (situation.unproven or situation.jump):
                continue
            printed[situation] = action, says
    assert len(printed) == len(EVERY)
    for situation, (action, says) in printed.items():
        verdict = decide(situation)
        assert verdict.action.name == action, situation
        if situation.ending in (Ending.TORN, Ending.SUSPECT):
            assert verdict.finding == says
        assert verdict.clean is (says == "closed cleanly")
