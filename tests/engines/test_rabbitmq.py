"""RabbitMQ streams: whose stream it is, what comes late, and how large a record may be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.forward import SinkError, Verdict
from seglog.forward.sinks import amqp
from seglog.forward.sinks.rabbitmq import RabbitStreamSink
from seglog.model import Message
from seglog.testing import ManualClock
from tests.engines.test_sinks import PATIENCE_SECONDS, TARGET, forward, with_option
from tools.engines.rabbitmq import RabbitMQ

pytestmark = pytest.mark.skipif(bool(RabbitMQ.without()), reason=RabbitMQ.without() or "it is all there")


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitMQ]:
    """With an empty stream."""
    made = RabbitMQ(tmp_path / "server")
    made.start()
    made.prepare(TARGET)
    yield made
    made.stop()


@contextmanager
def attached(rabbit: RabbitMQ, log_id: str, **options: Any) -> Iterator[RabbitStreamSink]:
    """A sink as the forwarder has it when it sends for the first time: what one process knows."""
    with closing(RabbitStreamSink(rabbit.url(TARGET), timeout=10, **options)) as sink:
        sink.attach(log_id)
        sink.resume_point()
        yield sink


def messages(count: int) -> list[Message[bytes]]:
    with seglog.open(":memory:") as log:
        log.append_many([b"%d" % n for n in range(count)])
        return list(log.read())


def log_id(some: list[Message[bytes]]) -> str:
    return some[0].id.partition(":")[0]


def payloads(rabbit: RabbitMQ) -> list[bytes]:
    return [one.payload for one in rabbit.arrived(TARGET)]


def late_number(rabbit: RabbitMQ, log_id: str) -> int:
    stream = rabbit.stream(TARGET)
    return int(rabbit.broker.ask(lambda client: client.query_publisher_sequence(stream, f"seglog-{log_id}-late")))


def test_the_server_says_where_it_is(rabbit: RabbitMQ) -> None:
    some = messages(5)
    with attached(rabbit, log_id(some)) as sink:
        assert sink.resume_point() is None
        sink.send(some[:3])
        assert sink.resume_point() == 3
    with attached(rabbit, log_id(some)) as sink:
        assert sink.resume_point() == 3
        sink.send(some[2:])  # of which it has one
        assert payloads(rabbit) == [b"0", b"1", b"2", b"3", b"4"]


def test_the_stream_of_another_log_is_left_alone(rabbit: RabbitMQ) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"theirs")
        forward(log, rabbit.url(TARGET))
    with seglog.open(":memory:") as log:
        log.append(b"ours")
        with pytest.raises(SinkError, match="one stream takes one log") as caught:
            forward(log, rabbit.url(TARGET), patience=PATIENCE_SECONDS)
        assert isinstance(caught.value.__cause__, SinkError)
        assert caught.value.__cause__.verdict is Verdict.CONFIGURATION
    assert payloads(rabbit) == [b"theirs"]


def test_a_stream_with_something_else_in_it_is_left_alone(rabbit: RabbitMQ) -> None:
    from rstream import schema

    async def publish(client: Any) -> None:
        await client.declare_publisher(rabbit.stream(TARGET), None, 7)
        confirmed = client.wait_frame(schema.PublishConfirm)
        await client.publish([schema.Message(1, None, b"no AMQP at all")], 7)
        await confirmed

    rabbit.broker.ask(publish)
    with seglog.open(":memory:") as log:
        log.append(b"ours")
        with pytest.raises(SinkError, match="one stream takes one log"):
            forward(log, rabbit.url(TARGET), patience=PATIENCE_SECONDS)
    assert rabbit.entries(TARGET) == [b"no AMQP at all"]


def test_what_nobody_made_is_waited_for(rabbit: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x")
        for url, reason in (
            (rabbit.url("other"), "there is no such stream"),
            (with_option(rabbit.url(TARGET), "vhost=nowhere"), "virtual host"),
        ):
            with pytest.raises(SinkError, match=reason):
                forward(log, url, patience=PATIENCE_SECONDS)
            assert "everything is kept until this is put right" in caplog.text
            caplog.clear()
        rabbit.prepare("other")
        forward(log, with_option(rabbit.url("other"), "vhost=/"))
        assert [one.payload for one in rabbit.arrived("other")] == [b"x"]


def test_a_late_message_is_there_once_however_often_it_is_sent(rabbit: RabbitMQ) -> None:
    some = messages(6)
    with attached(rabbit, log_id(some)) as sink:
        sink.send(some[4:])
        sink.send(some[2:4])
        sink.close()  # what became of that send?
        assert sink.resume_point() == 6
        sink.send(some[1:4])
    with attached(rabbit, log_id(some)) as sink:  # what became of all that?
        sink.send([some[0], some[3], some[5]])
        sink.resume_point()
        sink.send([some[0]])
    assert payloads(rabbit) == [b"4", b"5", b"2", b"3", b"1", b"0"]


def test_a_late_message_is_not_dropped_for_what_a_dead_process_had_on_its_way(rabbit: RabbitMQ) -> None:
    some = messages(4)
    with attached(rabbit, log_id(some)) as dead, attached(rabbit, log_id(some)) as heir:
        dead.send([some[3]])
        heir.resume_point()
        dead.send([some[2]])
        before = late_number(rabbit, log_id(some))
        heir.send([some[1]])
        assert late_number(rabbit, log_id(some)) >= before + 1_000_000  # the most that one batch may have
        with pytest.raises(SinkError, match="came in between") as caught:  # too late: the server drops it
            dead.send([some[0]])
        assert caught.value.verdict is Verdict.RETRY
        heir.send([some[0]])
    assert payloads(rabbit) == [b"3", b"2", b"1", b"0"]


def test_a_late_message_that_the_server_dropped_is_not_confirmed(
    rabbit: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = messages(4)
    with attached(rabbit, log_id(some)) as other, attached(rabbit, log_id(some)) as sink:
        other.send([some[3]])
        sink.resume_point()
        look = sink._newest_ids

        async def slow(connection: Any) -> set[str]:
            found = await look(connection)
            await asyncio.to_thread(other.send, [some[2]])
            return found

        monkeypatch.setattr(sink, "_newest_ids", slow)
        with pytest.raises(SinkError, match="came in between"):
            sink.send([some[1]])
        assert payloads(rabbit) == [b"3", b"2"]
        monkeypatch.setattr(sink, "_newest_ids", look)
        assert sink.resume_point() == 4
        sink.send([some[1], some[2]])
    assert payloads(rabbit) == [b"3", b"2", b"1"]


def test_late_messages_keep_their_place_in_the_batch(rabbit: RabbitMQ) -> None:
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        log.append(b"late 0", delay=60)
        log.append(b"late 1", delay=60)
        log.append(b"2")
        log.append(b"late 3", delay=60)
        log.append(b"4")
        forward(log, rabbit.url(TARGET))
        clock.advance(61)
        log.append(b"5")
        forward(log, rabbit.url(TARGET))
    assert payloads(rabbit) == [b"2", b"4", b"late 0", b"late 1", b"late 3", b"5"]


def test_the_largest_record_goes_and_one_byte_more_is_refused(rabbit: RabbitMQ) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x" * 1000)
        beside = len(amqp.encode(next(log.read()))) - 1000
        log.append(b"y" * ((1 << 20) - 25 - beside))
        refused = log.append(b"z" * ((1 << 20) - 24 - beside))
        log.append(b"after")
        forward(log, rabbit.url(TARGET), patience=10)
        assert [(letter.offset, letter.reason) for letter in log.dead_letters] == [(refused, "refused")]
    assert [(one[:1], len(one)) for one in payloads(rabbit)] == [
        (b"x", 1000),
        (b"y", (1 << 20) - 25 - beside),
        (b"a", 5),
    ]


def test_a_batch_may_be_larger_than_a_frame(rabbit: RabbitMQ) -> None:
    some = [b"%d " % n + b"x" * 1000 for n in range(3000)]
    with seglog.open(":memory:") as log:
        log.append_many(some)
        done = forward(log, rabbit.url(TARGET), batch_records=3000, batch_bytes=8 << 20)
    assert done.stats().sent_batches == 1
    assert payloads(rabbit) == some


def test_what_was_all_delayed_says_nothing_about_the_rest(rabbit: RabbitMQ) -> None:
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        for n in range(3):
            log.append(b"%d" % n, delay=60)
        clock.advance(61)
        late = list(log.read())
    with attached(rabbit, log_id(late)) as sink:
        sink.send(late[1:])
    with attached(rabbit, log_id(late)) as sink:
        assert sink.resume_point() is None
        sink.send(late)
    assert payloads(rabbit) == [b"1", b"2", b"0"]


def test_closing_ends_its_thread_and_a_later_send_starts_anew(rabbit: RabbitMQ) -> None:
    some = messages(2)
    with attached(rabbit, log_id(some)) as sink:
        for message in some:
            sink.send([message])
            assert "seglog-rabbitmq" in {thread.name for thread in threading.enumerate()}
            sink.close()
            assert "seglog-rabbitmq" not in {thread.name for thread in threading.enumerate()}
    assert payloads(rabbit) == [b"0", b"1"]
