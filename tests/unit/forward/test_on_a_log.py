"""The forwarder on a real log (in memory, or on disk): what the fake consumer could get wrong."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seglog
from seglog.forward import Forwarder, SinkError, Verdict
from seglog.model import Message

Batch = Sequence[Message[Any]]


def test_everything_is_forwarded_and_acknowledged() -> None:
    arrived: list[bytes] = []
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append_many([b"%d" % n for n in range(1200)])
        forwarder = Forwarder(consumer, lambda batch: arrived.extend(one.payload for one in batch))
        forwarder.run(once=True)
        assert arrived == [b"%d" % n for n in range(1200)]
        assert len(consumer) == 0
        assert forwarder.stats().sent_batches == 3


def test_a_refused_record_is_a_dead_letter_with_its_reason() -> None:
    def send(batch: Batch) -> None:
        if any(one.payload == b"poison" for one in batch):
            raise SinkError("HTTP 400", verdict=Verdict.REFUSED, detail="no such field")

    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append_many([b"good", b"poison", b"good"])
        log.append(b"poison", key=b"k", headers={"h": b"v"})
        Forwarder(consumer, send).run(once=True)
        assert len(consumer) == 0
        letters = list(log.dead_letters)
        assert [(one.reason, one.detail, one.consumer, one.offset) for one in letters] == [
            ("refused", "no such field", "forward", 1),
            ("refused", "no such field", "forward", 3),
        ]
        assert (letters[1].payload, letters[1].key, letters[1].headers) == (b"poison", b"k", {"h": b"v"})


def test_p5_what_was_not_confirmed_is_there_for_the_next_one(tmp_path: Path) -> None:
    seen: list[int] = []

    def send(batch: Batch) -> None:
        seen.extend(one.offset for one in batch)
        if len(seen) >= 20:
            forwarder.stop()
            raise OSError("gone")

    with seglog.open(tmp_path / "log") as log, log.consumer("forward") as consumer:
        log.append_many([b"x"] * 30)
        forwarder = Forwarder(consumer, send, batch_records=10)
        forwarder.run()
        assert seen == list(range(20))
        again: list[int] = []
        Forwarder(consumer, lambda batch: again.extend(one.offset for one in batch)).run(once=True)
        assert again == list(range(10, 30))


def test_stop_from_another_thread_ends_an_idle_forwarder() -> None:
    arrived: list[bytes] = []
    came = threading.Event()

    def send(batch: Batch) -> None:
        arrived.extend(one.payload for one in batch)
        came.set()

    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        forwarder = Forwarder(consumer, send, linger=0)
        thread = threading.Thread(target=forwarder.run)
        thread.start()
        log.append(b"one")
        assert came.wait(10)
        forwarder.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert arrived == [b"one"]


def test_closing_the_log_under_a_forwarder_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    log = seglog.open(tmp_path / "log")
    consumer = log.consumer("forward")
    log.append(b"one")
    errors: list[Exception] = []

    def send(batch: Batch) -> None:
        log.close()

    try:
        Forwarder(consumer, send).run()
    except seglog.LogClosed as error:
        errors.append(error)
    assert len(errors) == 1
    with seglog.open(tmp_path / "log") as log, log.consumer("forward") as consumer:
        assert len(consumer) == 1
