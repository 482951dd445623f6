"""json, msgpack, typed: what goes in comes out; what would not is refused; what does not read is a dead letter."""

from __future__ import annotations

import builtins
import datetime
import enum
import math
import pickle
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, assert_type

import msgspec
import pytest

import seglog
from seglog import serializers
from tests.support.place import Place, offsets

DEEP = 100_000  # brackets
STRANGE = object()
NOW = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Event:
    name: str
    amount: int = 0
    tags: list[str] = field(default_factory=list)
    body: bytes = b""
    at: datetime.datetime | None = None


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


make_event: Any = Event  # dataclasses and Structs do not check what they are made with
make_point: Any = Point


class Row(TypedDict):
    id: int


class Pair(NamedTuple):
    first: int
    second: str


VALUES = [None, True, 0, -(1 << 63), 1.5, "", "grün \N{SNOWMAN}", [], [1, [2]], {}, {"a": {"b": [None]}}]
ROUND_TRIPS: list[tuple[Any, Any]] = [
    *((serializers.json, value) for value in [*VALUES, 1 << 100]),
    *((serializers.msgpack, value) for value in [*VALUES, b"\0\xff", NOW, {1: 2}]),
    (serializers.typed(Event), Event("sale", 7, ["a"], b"\0\xff", NOW)),
    (serializers.typed(Point), Point(1, 2.5)),
    (serializers.typed(Row), {"id": 1}),
    (serializers.typed(Pair), Pair(1, "x")),
    (serializers.typed(dict[str, list[Event]]), {"a": [Event("x")]}),
    (serializers.typed(Event | None), None),
    (serializers.typed(Colour), Colour.RED),
    (serializers.typed(float), 1.5),
    (serializers.typed(bytes), b"\0\xff"),
]
REFUSED: list[tuple[Any, Any]] = [
    *((serializers.json, value) for value in (math.nan, math.inf, [-math.inf], b"bytes", {1, 2}, STRANGE, "\ud800")),
    *((serializers.msgpack, value) for value in (STRANGE, 1 << 64, "\ud800")),
    *((serializers.typed(Event), make_event(*fields)) for fields in ((1,), ("x", "7"), ("x", 7, [1]))),
    (serializers.typed(Event), make_event("x", body="abcd")),  # would come back as bytes
    (serializers.typed(Event), {"name": "x"}),  # would come back as an Event
    (serializers.typed(Event), None),
    (serializers.typed(Point), make_point("1")),
    (serializers.typed(Point), Point(1, math.nan)),
    (serializers.typed(Row), {"id": "1"}),
    (serializers.typed(Row), {"id": 1, "more": 2}),  # the second would be dropped
    (serializers.typed(int), True),
    (serializers.typed(int), "1"),
    (serializers.typed(list[int]), (1, 2)),
]
UNREADABLE: list[tuple[Any, bytes]] = [
    *((serializers.json, payload) for payload in (b"", b"{", b"1 2", b"\xff", b"NaN", b"[Infinity]", b"[" * DEEP)),
    (serializers.json, '"x"'.encode("utf-16")),
    *((serializers.msgpack, payload) for payload in (b"", b"\xc1", b"\x01\x02", b"\xa1\xff", b"\x91" * DEEP)),
    *((serializers.typed(Event), payload) for payload in (b"", b"{}", b'{"name":1}', b"null", b'{"name":"\xff"}')),
    (serializers.typed(Any), b"[" * DEEP),
    (serializers.typed(Colour), b'"blue"'),
]


@pytest.mark.parametrize(("serializer", "value"), ROUND_TRIPS, ids=range(len(ROUND_TRIPS)))
def test_what_goes_in_comes_out_equal_and_of_the_same_type(serializer: Any, value: Any) -> None:
    read = serializer.loads(serializer.dumps(value))
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(("serializer", "value"), REFUSED, ids=range(len(REFUSED)))
def test_a_value_that_would_not_come_back_as_it_is_is_refused_and_nothing_is_written(
    serializer: Any, value: Any
) -> None:
    with seglog.open(":memory:", serializer=serializer) as log:
        for attempt in (log.append, log.submit, lambda refused: log.append_many([refused])):
            with pytest.raises(seglog.SerializeError):
                attempt(value)
        assert log.next_offset == 0


@pytest.mark.parametrize("serializer", [serializers.json, serializers.msgpack, serializers.typed(Any)], ids=str)
def test_a_value_that_holds_itself_is_refused(serializer: Any) -> None:
    value: list[Any] = []
    value.append(value)
    with seglog.open(":memory:", serializer=serializer) as log, pytest.raises(seglog.SerializeError):
        log.append(value)


@pytest.mark.parametrize(("serializer", "payload"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_p6_a_payload_that_does_not_read_is_a_dead_letter_and_never_stops_a_consumer(
    serializer: Any, payload: bytes, place: Place
) -> None:
    with place.open() as log:
        log.append_many([payload, payload])
    with place.open(serializer=serializer) as log, log.consumer("c") as consumer:
        assert list(consumer.drain()) == []
        assert [(letter.reason, letter.payload) for letter in log.dead_letters] == [("undecodable", payload)] * 2


def test_json_is_compact_utf8() -> None:
    assert serializers.json.dumps({"a": [1, "ü"], "b": None}) == '{"a":[1,"ü"],"b":null}'.encode()


def test_a_field_that_is_wrong_is_named_and_the_value_is_not_shown() -> None:
    with (
        seglog.open(":memory:", serializer=serializers.typed(Event)) as log,
        pytest.raises(seglog.SerializeError, match=r"Expected `int`, got `str` - at `\$\.amount`") as caught,
    ):
        log.append(make_event("secret", "secret"))
    assert "secret" not in str(caught.value)


def test_a_message_knows_its_serializer_after_pickling() -> None:
    pairs: list[tuple[Any, Any]] = [
        (serializers.json, [1]),
        (serializers.msgpack, b"x"),
        (serializers.typed(Point), Point(1)),
    ]
    for serializer, value in pairs:
        with seglog.open(":memory:", serializer=serializer) as log:
            log.append(value)
            message = pickle.loads(pickle.dumps(log.get(0)))
        assert message.value == value
        assert repr(message.origin.serializer) == repr(serializer)


def test_any_object_with_dumps_and_loads_will_do(place: Place) -> None:
    log = place.open(serializer=pickle)  # whoever may append to the log may then run code here: their choice
    log.append({1, 2})
    message = log.consumer("c").receive()
    assert message is not None
    assert message.value == {1, 2}


def test_a_type_that_cannot_be_stored_is_said_at_once() -> None:
    with pytest.raises(seglog.InvalidOption, match="not supported"):
        serializers.typed(Event | Point)
    with pytest.raises(AttributeError, match="yaml"):
        _ = serializers.yaml


def test_without_msgspec_the_error_names_the_extra_and_json_works(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "msgspec":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.delitem(vars(serializers), "msgpack", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: serializers.msgpack, lambda: serializers.typed(int)):
        with pytest.raises(ImportError, match=r"pip install 'seglog\[msgspec\]'"):
            use()
    assert serializers.json.loads(serializers.json.dumps([1])) == [1]


def test_they_are_there_after_import_seglog() -> None:
    assert seglog.serializers is serializers is sys.modules["seglog.serializers"]


def test_the_type_of_a_log_follows_from_its_serializer() -> None:
    """Held by the type checkers; run, it shows that values come as they were given."""
    with (
        seglog.open(":memory:") as plain,
        seglog.open(":memory:", serializer=serializers.typed(Event)) as typed,
        seglog.open(":memory:", serializer=serializers.json) as anything,
    ):
        if TYPE_CHECKING:
            assert_type(plain, seglog.Log[bytes])
            assert_type(typed, seglog.Log[Event])
            assert_type(anything, seglog.Log[Any])
        typed.append(Event("x"))
        message = typed.consumer("c").receive()
        assert message is not None
        assert_type(message.value, Event)
        assert offsets([message]) == [0]
