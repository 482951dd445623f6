"""`Forwarder.pulse`: signs of life wherever it waits, none while a send hangs, and the trouble that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from seglog.forward import Forwarder, SinkError, Verdict
from seglog.model import Message
from tests.support.fake_consumer import FakeClock, FakeConsumer

Pulse = tuple[float, str | None]  # how long ago the last sign of life was, and the trouble


class Watched:
    """A forwarder, and its pulse at each sleep and at the end of each send, which takes a minute."""

    def __init__(self, records: int, *script: Exception | None) -> None:
        self.clock = FakeClock()
        self.consumer = FakeConsumer([b"x"] * records, self.clock)
        self.script = list(script)
        self.sleeping: list[Pulse] = []
        self.sending: list[Pulse] = []
        self.forwarder = Forwarder(self.consumer, self.send, batch_records=1, clock=self.clock)

    def pulse(self) -> Pulse:
        last, trouble = self.forwarder.pulse()
        return self.clock.monotonic() - last, trouble

    def send(self, batch: Sequence[Message[Any]]) -> None:
        self.clock.advance(60)
        self.sending.append(self.pulse())
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sleep: Callable[[float], None] = self.clock.sleep

        def watched(seconds: float) -> None:
            self.sleeping.append(self.pulse())
            sleep(seconds)

        monkeypatch.setattr(self.clock, "sleep", watched)
        self.forwarder.run(once=True)


def test_waiting_is_a_sign_of_life_and_a_send_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    away = SinkError("HTTP 503", retry_after=5.0)
    watched = Watched(2, away, away)
    watched.run(monkeypatch)
    assert watched.sending == [(60.0, None), (60.0, "HTTP 503"), (60.0, "HTTP 503"), (60.0, None)]
    assert len(watched.sleeping) >= 100  # ten seconds, in slices of 0.1
    assert set(watched.sleeping) == {(0.0, "HTTP 503")}
    assert watched.forwarder.pulse()[1] is None


def test_looking_for_records_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(0)
    watched.clock.advance(1000)
    watched.run(monkeypatch)
    assert watched.pulse() == (0.0, None)


def test_a_refusal_is_progress_and_ends_the_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(1, OSError(), SinkError("HTTP 400", verdict=Verdict.REFUSED))
    watched.run(monkeypatch)
    assert watched.sending[1] == (60.0, "OSError")  # one that says nothing has a name
    assert watched.forwarder.pulse()[1] is None
