"""Power fails at every operation of a repair: nothing is declared without its evidence, and the next one ends it
(P6, P8; row 78)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from seglog.quarantine import Quarantine
from seglog.repair import _Repair
from seglog.testing import Operation
from tests.support import repair_scenes as scenes
from tools.crashtest.history import Broken


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


def honest(_: Operation) -> bool:
    return False


def test_p6_f78_a_repair_may_lose_power_at_every_step() -> None:
    assert scenes.crash_everywhere(honest) > 120


def test_f17_a_killed_repair_and_a_power_cut_after_the_next_one() -> None:
    scenes.killed_and_then_the_power_fails(honest)


def test_f77_damage_among_the_dead_letters_is_declared_for_good() -> None:
    scenes.damage_among_the_dead_letters(honest)


def declares_before_it_keeps(patch: pytest.MonkeyPatch) -> None:
    waiting: list[Any] = []
    keep, look = Quarantine.keep, _Repair._look

    def late(self: Quarantine, actions: Any) -> None:
        waiting.append((self, actions))

    def flush(self: _Repair, **options: Any) -> Any:
        while waiting:
            keep(*waiting.pop(0))
        return look(self, **options)

    patch.setattr(Quarantine, "keep", late)
    patch.setattr(_Repair, "_look", flush)


def declares_before_it_diverts(patch: pytest.MonkeyPatch) -> None:
    divert, declare = _Repair._divert, _Repair._declare
    waiting: list[Any] = []

    def late(self: _Repair, *arguments: Any) -> None:
        waiting.append(arguments)

    def eager(self: _Repair, *arguments: Any) -> Any:
        declared = declare(self, *arguments)
        while waiting:
            divert(self, *waiting.pop())
        return declared

    patch.setattr(_Repair, "_divert", late)
    patch.setattr(_Repair, "_declare", eager)


@pytest.mark.parametrize("breakage", [declares_before_it_keeps, declares_before_it_diverts])
def test_a_wrong_order_is_noticed(breakage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    breakage(monkeypatch)
    with pytest.raises(Broken):
        scenes.crash_everywhere(honest)
