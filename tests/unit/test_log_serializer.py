"""A serializer between values and payloads: what it refuses, what it cannot read, and who sees which error."""

from __future__ import annotations

import json
from typing import Any

import pytest

import seglog
from tests.support.place import Place, offsets


class Json:
    """Values as JSON."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, payload: bytes) -> Any:
        return json.loads(payload)


def test_values_go_in_and_come_out(place: Place) -> None:
    log = place.open(serializer=Json())
    log.append({"a": 1})
    log.append_many([[1, 2], seglog.Record(None, key=b"k")])
    log.submit("text").result(30)
    assert [message.value for message in log.read()] == [{"a": 1}, [1, 2], None, "text"]
    consumer = log.consumer("c")
    assert [message.value for message in consumer.drain()] == [{"a": 1}, [1, 2], None, "text"]
    message = log.get(0)
    assert message is not None
    assert (message.payload, message.value) == (b'{"a": 1}', {"a": 1})


def test_a_value_that_the_serializer_refuses_is_not_accepted(place: Place) -> None:
    class Text:
        def dumps(self, value: Any) -> Any:
            return value.upper()

        def loads(self, payload: bytes) -> Any:
            return payload

    log = place.open(serializer=Json())
    with pytest.raises(seglog.SerializeError) as caught:
        log.append(object())
    assert isinstance(caught.value, ValueError)
    with pytest.raises(seglog.SerializeError):
        log.append_many([1, object(), 3])
    assert log.next_offset == 0
    log.close()
    log = place.open(serializer=Text())
    with pytest.raises(seglog.SerializeError, match="not bytes"):
        log.append("text")
    with pytest.raises(AttributeError):  # a fault in the serializer, and no matter of the value's
        log.append(1)
    assert log.next_offset == 0


def test_an_undecodable_message_becomes_a_dead_letter_and_the_next_one_comes(place: Place) -> None:
    with place.open() as log:
        log.append_many([b"1", b"{broken", b"\xff", b"4"])
    with place.open(serializer=Json()) as log:
        consumer = log.consumer("c")
        assert [message.value for message in consumer.drain()] == [1, 4]
        letters = list(log.dead_letters)
        assert [(letter.reason, letter.payload, letter.offset) for letter in letters] == [
            ("undecodable", b"{broken", 1),
            ("undecodable", b"\xff", 2),
        ]
        assert len(consumer) == 2
    with place.open(serializer=Json()) as log:
        assert [message.value for message in log.consumer("c").drain()] == [1, 4]
        assert len(log.dead_letters) == 2


def test_undecodable_payloads_are_still_read_as_payloads(place: Place) -> None:
    with place.open() as log:
        log.append(b"{broken")
    log = place.open(serializer=Json())
    (message,) = log.read()
    assert message.payload == b"{broken"
    with pytest.raises(ValueError, match="Expecting"):
        _ = message.value


def test_any_other_error_of_the_serializer_goes_through_and_the_message_stays(place: Place) -> None:
    class Flaky(Json):
        works = False

        def loads(self, payload: bytes) -> Any:
            if not self.works:
                raise RuntimeError("the schema registry is away")
            return super().loads(payload)

    serializer = Flaky()
    log = place.open(serializer=serializer)
    log.append_many([1, 2])
    consumer = log.consumer("c")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="registry"):
            consumer.receive_many(10)
    assert len(log.dead_letters) == 0
    assert len(consumer) == 2
    serializer.works = True
    assert offsets(consumer.drain()) == [0, 1]


@pytest.mark.parametrize("wrong", ["json", object(), json.dumps, seglog.serializers])
def test_what_is_no_serializer_is_refused_before_anything_is_made(place: Place, wrong: Any) -> None:
    with pytest.raises(seglog.InvalidOption, match="serializer="):
        place.open(serializer=wrong)
    with pytest.raises(seglog.LogNotFound):
        place.verify()
