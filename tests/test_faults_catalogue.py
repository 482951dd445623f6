"""Holds tests/FAULTS.md to the tests, and the tests to it; and each promise to tests that carry its number."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parent
CATALOGUE = TESTS / "FAULTS.md"
PROMISES = range(1, 13)  # of README.md

_ROW = re.compile(r"\| (\d+) \| (.+) \| (.+) \| (.+) \|")
_NAME = re.compile(r"`(test_\w+)`")
_FAULT = re.compile(r"(?<=_)f(\d+)(?=_|$)")
_PROMISE = re.compile(r"(?<=_)p(\d+)(?=_|$)")


class Row(NamedTuple):
    """One fault."""

    number: int
    happened: str
    promise: str
    tests: str

    @property
    def named(self) -> set[str]:
        return set(_NAME.findall(self.tests))


def rows() -> list[Row]:
    found = []
    for line in CATALOGUE.read_text("utf-8").splitlines():
        match = _ROW.fullmatch(line)
        if match:
            found.append(Row(int(match[1]), *match.groups()[1:]))
    return found


def names_of_tests() -> set[str]:
    """Every test function there is."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


ROWS = rows()
NAMES = names_of_tests()


def test_every_line_of_a_table_is_a_row_and_numbers_ascend() -> None:
    lines = [line for line in CATALOGUE.read_text("utf-8").splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == len(ROWS) > 70
    numbers = [row.number for row in ROWS]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"f{row.number}")
def test_a_fault_names_tests_that_exist_or_says_why_there_is_none(row: Row) -> None:
    assert row.named or row.tests.startswith("none: ")
    assert row.named <= NAMES, f"named, and not there: {sorted(row.named - NAMES)}"


def test_every_test_that_carries_the_number_of_a_fault_is_named_there() -> None:
    known = {row.number: row.named for row in ROWS}
    for name in NAMES:
        for number in map(int, _FAULT.findall(name)):
            assert number in known, f"{name}: no such fault"
            assert name in known[number], f"FAULTS.md, row {number}: add `{name}`"


@pytest.mark.parametrize("number", PROMISES)
def test_every_promise_has_tests_that_carry_its_number(number: int) -> None:
    carrying = {name for name in NAMES if number in set(map(int, _PROMISE.findall(name)))}
    assert len(carrying) >= 2, f"P{number}: {sorted(carrying)}"


def test_no_test_carries_a_promise_that_was_not_given() -> None:
    readme = (TESTS.parent / "README.md").read_text("utf-8")
    given = {int(number) for number in re.findall(r"\*\*P(\d+) ", readme)}
    assert given == set(PROMISES)
    carried = {int(number) for name in NAMES for number in _PROMISE.findall(name)}
    assert carried <= given
