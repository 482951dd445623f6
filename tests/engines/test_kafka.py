"""What is Kafka's own: read-back, what becomes of a send without an answer, refusals. On librdkafka's mock."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.testing import ManualClock
from tools.engines.kafka import Kafka
from tools.engines.server import wait_until

TARGET = "events"
SECONDS = 2  # the sink's patience, where the broker tries it; a new producer alone may take one
UNKNOWN = -1
MSG_SIZE_TOO_LARGE = 10
NOT_ENOUGH_REPLICAS = 19
OTHERS = "the newest record is not of this log, and one partition takes one log"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Kafka]:
    if lacks := Kafka.without():
        pytest.skip(lacks)
    made = Kafka(tmp_path / "broker")
    yield made
    made.stop()


def started(broker: Kafka, errors: Sequence[int] = ()) -> str:
    broker.errors = list(errors)
    broker.start()
    broker.prepare(TARGET)
    return broker.url(TARGET)


@contextmanager
def sink(url: str, log: seglog.Log[bytes], timeout: float = 10) -> Iterator[Any]:
    made: Any = open_sink(url, timeout=timeout)
    with closing(made):
        made.attach(log.id)
        yield made


def forward(log: seglog.Log[bytes], url: str, **options: Any) -> Forwarder:
    with log.consumer("forward") as consumer, sink(url, log) as to:
        made = Forwarder(consumer, to, **options)
        made.run(once=True)
    return made


def above(forwarder: Forwarder, what: str, value: int) -> bool:
    return bool(getattr(forwarder.stats(), what) > value)


def payloads(broker: Kafka) -> list[bytes]:
    return [one.payload for one in broker.arrived(TARGET)]


def test_p5_a_broker_that_falls_silent_in_a_batch_has_all_of_it_once(broker: Kafka) -> None:
    url = started(broker)
    sent = [b"%d" % n + b"x" * 500 for n in range(6000)]
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer, sink(url, log, timeout=SECONDS) as to:
        log.append_many(sent)
        made = Forwarder(consumer, to, batch_records=100)
        thread = threading.Thread(target=made.run, kwargs={"once": True})
        thread.start()
        try:
            for _ in range(3):
                at, before = made.stats().sent_records, made.stats().failures
                wait_until(partial(above, made, "sent_records", at))
                broker.pause()
                wait_until(partial(above, made, "failures", before))
                broker.go_on()
            thread.join(60)
        finally:
            broker.go_on()
            made.stop()
            thread.join(60)
        assert not thread.is_alive()
    assert payloads(broker) == sent


def test_p5_a_send_without_an_answer_is_waited_for_and_not_repeated(broker: Kafka) -> None:
    url = started(broker)
    with seglog.open(":memory:") as log, sink(url, log, timeout=SECONDS) as to:
        log.append_many([b"1", b"2", b"3"])
        one, two, three = log.read()
        assert to.resume_point() is None
        to.send([one])
        broker.pause()
        for ask in (lambda: to.send([two, three]), to.resume_point):
            began = time.monotonic()
            with pytest.raises(SinkError) as caught:
                ask()
            assert caught.value.verdict is Verdict.RETRY
            assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + 4
        broker.go_on()
        assert to.resume_point() == 3
    assert payloads(broker) == [b"1", b"2", b"3"]


def test_p5_what_an_abandoned_producer_left_on_the_way_is_not_repeated(broker: Kafka) -> None:
    url = started(broker)
    with seglog.open(":memory:") as log:
        log.append_many([b"1", b"2"])
        with sink(url, log, timeout=SECONDS) as to:
            to.send(list(log.read())[:1])
            broker.pause()
            with pytest.raises(SinkError):
                to.send(list(log.read())[1:])
            began = time.monotonic()
        assert time.monotonic() - began < 5, "closing waits for nobody"
        broker.go_on()
        forward(log, url)
    assert payloads(broker) == [b"1", b"2"]


def test_p5_nothing_is_written_behind_what_the_broker_refused(broker: Kafka) -> None:
    """It would hide the hole: the newest record is what tells how far the partition got."""
    url = started(broker, errors=[MSG_SIZE_TOO_LARGE])
    sent = [b"%d" % n + b"x" * 1000 for n in range(3000)]  # three requests
    with seglog.open(":memory:") as log, sink(url, log) as to:
        log.append_many(sent)
        with pytest.raises(SinkError) as caught:
            to.send(list(log.read()))
        assert caught.value.verdict is Verdict.REFUSED
        assert payloads(broker) == []
        assert to.resume_point() is None
        to.send(list(log.read()))
    assert payloads(broker) == sent


def test_a_refusal_by_the_broker_ends_as_a_dead_letter(broker: Kafka) -> None:
    url = started(broker, errors=[0, MSG_SIZE_TOO_LARGE, MSG_SIZE_TOO_LARGE])
    with seglog.open(":memory:") as log:
        log.append(b"1")
        forward(log, url)
        log.append_many([b"2", b"3"])
        done = forward(log, url)
        assert done.stats().refused_records == 1
        assert [letter.offset for letter in log.dead_letters] == [1]
    assert payloads(broker) == [b"1", b"3"]


@pytest.mark.parametrize("batch_records", [1, 3])
def test_p5_an_error_that_says_nothing_loses_nothing(broker: Kafka, batch_records: int) -> None:
    """Not even where the batch that it befalls is waited for by one behind it that has a record too large."""
    url = started(broker, errors=[0, UNKNOWN]).replace("max_bytes=1048576", "max_bytes=2000")
    with seglog.open(":memory:") as log:
        log.append_many([b"0", b"", b"x" * 3000, b"3", b"4", b"5"])
        forward(log, url, batch_records=batch_records)
        assert [letter.offset for letter in log.dead_letters] == [2]
    assert payloads(broker) == [b"0", b"", b"3", b"4", b"5"]


def test_what_the_broker_cannot_do_just_now_is_repeated_by_the_producer(broker: Kafka) -> None:
    url = started(broker, errors=[NOT_ENOUGH_REPLICAS] * 2)
    with seglog.open(":memory:") as log:
        log.append_many([b"1", b"2"])
        assert forward(log, url).stats().failures == 0
    assert payloads(broker) == [b"1", b"2"]


def test_a_partition_with_records_of_others_is_left_alone(broker: Kafka) -> None:
    url = started(broker)
    with seglog.open(":memory:") as other, seglog.open(":memory:") as log:
        other.append(b"other")
        forward(other, url)
        log.append(b"x")
        with pytest.raises(SinkError, match=OTHERS) as caught, sink(url, log) as to:
            to.resume_point()
        assert caught.value.verdict is Verdict.CONFIGURATION
        write(broker, [])
        with pytest.raises(SinkError, match=OTHERS), sink(url, other) as to:
            to.resume_point()
        forward(log, f"{url}&partition=2")
    assert [message.value() for message in broker.messages(TARGET, 2)] == [b"x"]
    assert len(broker.messages(TARGET)) == 2


@pytest.mark.parametrize("option", ["&partition=9", ""])
def test_what_is_not_there_has_to_be_made_by_somebody(broker: Kafka, option: str) -> None:
    broker.start()
    if option:
        broker.prepare(TARGET)
    with seglog.open(":memory:") as log, sink(broker.url(TARGET) + option, log) as to:
        with pytest.raises(SinkError, match=r"UNKNOWN_(TOPIC|PARTITION)") as caught:
            to.resume_point()
        assert caught.value.verdict is Verdict.CONFIGURATION


def test_the_newest_record_is_found_behind_the_ends_of_transactions(broker: Kafka) -> None:
    url = started(broker)
    with seglog.open(":memory:") as log, sink(url, log) as to:
        write(broker, [("seglog-id", f"{log.id}:41".encode())], transactions=1)
        assert end_of(broker) == 2
        assert to.resume_point() == 42


def test_delayed_messages_at_the_end_do_not_hide_how_far_it_got(broker: Kafka) -> None:
    url = started(broker)
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        log.append_many([seglog.Record(b"late", delay=60)] * 3)
        log.append_many([b"1", b"2"])
        forward(log, url)
        clock.advance(61)
        forward(log, url)
        with sink(url, log) as to:
            assert to.resume_point() == 5
    assert payloads(broker) == [b"1", b"2", b"late", b"late", b"late"]
    assert [dict(one.headers()).get("seglog-newest") for one in broker.messages(TARGET)] == [None, None, *[b"4"] * 3]


def test_p5_a_delayed_message_that_is_there_is_not_sent_again(broker: Kafka) -> None:
    url = started(broker)
    with seglog.open(":memory:") as log:
        log.append_many([b"late", b"later", b"1", b"2"])
        late, later, *rest = log.read()
        with sink(url, log) as to:
            to.send(rest)
            to.send([late])
        with sink(url, log) as to:
            assert to.resume_point() == 4
            to.send([late, later])
    assert payloads(broker) == [b"1", b"2", b"late", b"later"]


def test_another_reader_sees_the_fields_where_kafka_has_them(broker: Kafka) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("not installed: kcat")
    url = started(broker)
    with seglog.open(":memory:", clock=ManualClock()) as log:
        log.append(b"bin\x00\xff\n", key=b"k\xfe", headers={"type": b"a", "seglog-id": b"mine"})
        forward(log, url)
        (message,) = log.read()
        shape = r"%o %T %K %k %S %s %h"
        command = ["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{broker.port}", "-t", TARGET, "-p", "0", "-f", shape]
        said = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
        expected = b"0 %d 2 k\xfe 6 bin\x00\xff\n " % (message.time_ns // 1_000_000)
        assert said == expected + f"seglog-id={message.id},type=a,seglog-id=mine".encode()
        with sink(url, log) as to:
            assert to.resume_point() == 1


def test_what_the_library_says_about_an_outage_is_not_on_stderr(broker: Kafka, capfd: Any) -> None:
    with seglog.open(":memory:") as log, sink(broker.url(TARGET), log, timeout=2) as to:
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(SinkError, match=r"Connection refused \(TRANSPORT\)$") as caught:
                to.resume_point()
            assert caught.value.verdict is Verdict.RETRY
        assert time.monotonic() - began < 4, "it waits for what does not come"
        log.append(b"x")
        with pytest.raises(SinkError, match="Connection refused"):
            to.send(list(log.read()))
    assert capfd.readouterr().err == ""


def write(broker: Kafka, headers: list[tuple[str, bytes]], transactions: int = 0) -> None:
    """As somebody else does it."""
    from confluent_kafka import Producer

    settings: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{broker.port}", "log_level": 0}
    producer = Producer({**settings, **({"transactional.id": "t"} if transactions else {})})
    if transactions:
        producer.init_transactions(10)
        producer.begin_transaction()
    headers_given: Any = headers
    producer.produce(TARGET, b"theirs", partition=0, headers=headers_given)
    if transactions:
        producer.commit_transaction(10)
    assert producer.flush(10) == 0


def end_of(broker: Kafka) -> int:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{broker.port}", "group.id": "test", "log_level": 0})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(TARGET, 0), timeout=10)[1])
    finally:
        consumer.close()
