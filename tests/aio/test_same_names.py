"""What the log can do, seglog.aio can: every name, with the same parameters, awaited where it may wait."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable
from typing import Any

import pytest

import seglog
import seglog.aio
from seglog.aio.opening import Opening

PAIRS = [
    (seglog.Log, seglog.aio.Log),
    (seglog.Consumer, seglog.aio.Consumer),
    (seglog.DeadLetters, seglog.aio.DeadLetters),
]
INTERNAL = {  # between the parts of seglog
    "Consumer": {"after_fork", "abandon", "flush", "pause", "put_back"},
    "DeadLetters": {"attach", "divert", "prepare", "verify"},
}
WAITS_LATER = {"submit", "consumer", "read", "drain", "unacked"}  # give what is awaited, entered or iterated
SPECIAL = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__iter__": "__aiter__"} | {
    name: name for name in ("__len__", "__bool__", "__repr__", "__reduce__")
}
FUNCTIONS = [name for name in seglog.__all__ if inspect.isfunction(getattr(seglog, name))]


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


def parameters(call: Any) -> list[tuple[str, object, object]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(call).parameters.values()]


@pytest.mark.parametrize(("plain", "awaited"), PAIRS, ids=lambda cls: cls.__name__)
def test_every_name_is_there_with_the_same_parameters(plain: type, awaited: type) -> None:
    wanted, found = public(plain), public(awaited)
    assert set(found) == set(wanted) - INTERNAL.get(plain.__name__, set())
    for name, member in found.items():
        if isinstance(member, property):
            assert isinstance(wanted[name], property), name
            continue
        assert parameters(member) == parameters(wanted[name]), name
        assert inspect.getdoc(member), name
        assert inspect.iscoroutinefunction(member) == (name not in WAITS_LATER), name
    for name, counterpart in SPECIAL.items():
        assert (counterpart in vars(awaited)) == (name in vars(plain)), counterpart


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_there_with_the_same_parameters(name: str) -> None:
    assert name in seglog.aio.__all__
    assert parameters(getattr(seglog.aio, name)) == parameters(getattr(seglog, name))


def test_there_are_functions_to_compare() -> None:
    assert {"open", "verify"} <= set(FUNCTIONS)


def test_what_waits_later_is_awaitable_or_iterable() -> None:
    assert issubclass(Opening, Awaitable)
    assert issubclass(seglog.aio.Ticket, Awaitable)
    assert issubclass(seglog.aio.Consumer, AsyncIterable)
    assert issubclass(seglog.aio.DeadLetters, AsyncIterable)
