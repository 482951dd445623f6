"""OTLP against a scripted collector: what is sent, and what follows from each answer."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from seglog.errors import InvalidOption
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks.otlp import OtlpSink
from seglog.model import Message, Origin
from tests.support.fake_consumer import LOG_ID, FakeClock, FakeConsumer, message
from tests.unit.forward.conftest import Answer, Collector, Request
from tools.engines.server import Engine

pytest.importorskip("opentelemetry.proto", reason="the extra 'otlp' is not installed")

PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_sink(clock: FakeClock, collector: Collector) -> Iterator[Callable[..., OtlpSink]]:
    made: list[OtlpSink] = []

    def make(options: str = "", **others: Any) -> OtlpSink:
        made.append(OtlpSink(f"otlp+{collector.url}{options}", clock=clock, **others))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def forward(consumer: FakeConsumer, sink: OtlpSink, **options: Any) -> Forwarder:
    forwarder = Forwarder(consumer, sink, clock=consumer.clock, **options)
    forwarder.run(once=True)
    return forwarder


def decoded(request: Request) -> Any:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    encoded = request.headers.get("content-encoding") == "gzip"
    return ExportLogsServiceRequest.FromString(gzip.decompress(request.body) if encoded else request.body)


def records(request: Request) -> list[Any]:
    return [
        record
        for resource in decoded(request).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def attributes(record: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in record.attributes}


def offsets(request: Request) -> list[int]:
    return [attributes(record)["seglog.offset"] for record in records(request)]


def partial(rejected: int, words: str = "") -> Answer:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    said = ExportLogsServiceResponse()
    said.partial_success.rejected_log_records = rejected
    said.partial_success.error_message = words
    return Answer(200, PROTOBUF, said.SerializeToString())


def batch(count: int) -> list[Message[bytes]]:
    return [message(offset, b"event %d" % offset) for offset in range(count)]


def test_a_record_with_all_it_has(collector: Collector, make_sink: Any) -> None:
    make_sink("?service=shop").send(
        [
            message(7, "ümläut\n".encode(), key=b"k", headers={"trace": b"abc", "raw": b"\xff"}),
            message(8, b"\xff\x00", key=b"\xfe"),
            message(9, b""),
        ]
    )
    (request,) = collector.requests
    assert (request.method, request.path) == ("POST", "/ingest")
    assert (request.headers["content-type"], request.headers["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert "idempotency-key" not in request.headers
    resource = decoded(request).resource_logs[0]
    assert attributes(resource.resource) == {"service.name": "shop"}
    first, second, third = records(request)
    assert first.body.string_value == "ümläut\n"
    assert second.body.bytes_value == b"\xff\x00"
    assert third.body.WhichOneof("value") == "string_value"
    assert {first.time_unix_nano, first.observed_time_unix_nano} == {1_700_000_000 * 10**9}
    assert attributes(first) == {
        "seglog.id": f"{LOG_ID}:7",
        "seglog.offset": 7,
        "seglog.key": "k",
        "seglog.header.trace": "abc",
        "seglog.header.raw": b"\xff",
    }
    assert attributes(second) == {"seglog.id": f"{LOG_ID}:8", "seglog.offset": 8, "seglog.key": b"\xfe"}
    assert attributes(third) == {"seglog.id": f"{LOG_ID}:9", "seglog.offset": 9}


def test_a_header_name_with_half_a_surrogate_pair_holds_nothing_up(collector: Collector, make_sink: Any) -> None:
    make_sink().send([message(0, headers={"a\ud800": b"1"}), message(1)])
    assert attributes(records(collector.requests[0])[0])["seglog.header.a?"] == "1"


def test_a_record_that_cannot_be_encoded_is_a_dead_letter_and_the_rest_goes_on(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    strange: Message[bytes] = Message(1, b"hunter2", -1, Origin(LOG_ID, None), None, 1)
    consumer = FakeConsumer([message(0), strange, message(2)], clock)
    forward(consumer, make_sink())
    assert list(consumer.dead) == [1]
    assert consumer.dead[1].startswith(f"{LOG_ID}:1 cannot be encoded: ")
    assert consumer.acked() == [0, 2]
    assert "hunter2" not in caplog.text


def test_the_same_batch_is_the_same_bytes(collector: Collector, make_sink: Any) -> None:
    sent = [message(n, b"x" * n, headers={"b": b"1", "a": b"2"}) for n in range(100)]
    make_sink().send(sent)
    make_sink().send(sent)
    assert collector.requests[0].body == collector.requests[1].body


def test_request_headers(collector: Collector, make_sink: Any) -> None:
    make_sink(headers={"Authorization": "Bearer T"}).send(batch(1))
    assert collector.requests[0].headers["authorization"] == "Bearer T"


@pytest.mark.parametrize("answer", [Answer(), partial(0), partial(0, "careful"), Answer(202)])
def test_what_confirms(collector: Collector, make_sink: Any, answer: Answer) -> None:
    collector.answer = lambda request: answer
    make_sink().send(batch(3))
    assert len(collector.requests) == 1


def test_a_partial_success_is_not_sent_again_and_all_of_the_request_are_dead_letters(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answer = lambda request: partial(2, "too old: hunter2") if 4 in offsets(request) else Answer()
    consumer = FakeConsumer(batch(15), clock)
    done = forward(consumer, make_sink(), batch_records=5)
    assert [offsets(request) for request in collector.requests] == [[0, 1, 2, 3, 4], [*range(5, 10)], [*range(10, 15)]]
    assert consumer.dead == dict.fromkeys(range(5), "partial success, 2 of 5 records rejected: too old: hunter2")
    assert consumer.acked() == list(range(5, 15))
    assert (done.stats().refused_records, done.stats().sent_records) == (5, 10)
    assert "hunter2" not in caplog.text


def test_a_partial_success_of_one_record_is_exact(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    collector.answer = lambda request: partial(1, "too old") if offsets(request) == [4] else Answer()
    consumer = FakeConsumer(batch(8), clock)
    forward(consumer, make_sink(), batch_records=1)
    assert consumer.dead == {4: "partial success, 1 of 1 records rejected: too old"}
    assert consumer.acked() == [0, 1, 2, 3, 5, 6, 7]


def test_if_all_were_rejected_nothing_is_there_and_the_batch_is_halved(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    stored: list[int] = []

    def answer(request: Request) -> Answer:
        """A collector that takes a request as a whole or not at all, and says it in this way."""
        if 6 in offsets(request):
            return partial(len(offsets(request)), "no")
        stored.extend(offsets(request))
        return Answer()

    collector.answer = answer
    consumer = FakeConsumer(batch(10), clock)
    forward(consumer, make_sink())
    assert list(consumer.dead) == [6]
    assert stored == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_if_everything_is_rejected_all_the_time_it_is_kept(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    collector.answer = lambda request: partial(len(offsets(request)))
    consumer = FakeConsumer(batch(30), clock)
    with pytest.raises(SinkError):
        forward(consumer, make_sink(), patience=60)
    assert len(consumer.dead) == 10
    assert len(consumer) == 20


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200, {"Content-Type": "text/html"}, b"<html>It works!"), Verdict.CONFIGURATION),
        (Answer(200, PROTOBUF, b"\x07\xff"), Verdict.CONFIGURATION),
        (Answer(200, {"Content-Type": "application/json"}, b"[]"), Verdict.CONFIGURATION),
        (Answer(200, {"Content-Type": "text/html"}, b"x" * 100_000), Verdict.CONFIGURATION),
        (Answer(400), Verdict.REFUSED),
        (Answer(404), Verdict.CONFIGURATION),
        *[(Answer(status), Verdict.RETRY) for status in (429, 502, 503, 504)],
    ],
)
def test_what_each_other_answer_means(collector: Collector, make_sink: Any, answer: Answer, verdict: Verdict) -> None:
    collector.answer = lambda request: answer
    with pytest.raises(SinkError) as caught:
        make_sink().send(batch(2))
    assert caught.value.verdict is verdict
    assert not caught.value.confirmed
    assert not caught.value.refused


def test_a_partial_success_in_json(collector: Collector, make_sink: Any) -> None:
    body = json.dumps({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "no"}}).encode()
    collector.answer = lambda request: Answer(200, {"Content-Type": "application/json; charset=utf-8"}, body)
    sent = batch(2)
    with pytest.raises(SinkError) as caught:
        make_sink().send(sent)
    assert caught.value.refused == sent


@pytest.mark.parametrize(
    "answer",
    [
        partial(1, "hunter2" * 20_000),
        Answer(200, {"Content-Type": "application/json"}, b'{"partialSuccess": "' + b"hunter2" * 20_000),
    ],
    ids=["protobuf", "json"],
)
@pytest.mark.parametrize("options", ["", "?raw=1"])
def test_a_partial_success_with_too_many_words_is_not_sent_again(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: Any, answer: Answer, options: str
) -> None:
    collector.answer = lambda request: answer if len(collector.requests) == 1 else Answer()
    consumer = FakeConsumer(batch(4), clock)
    forward(consumer, make_sink(options), batch_records=2)
    dead = [0] if options else [0, 1]
    assert len(collector.requests) == (4 if options else 2)
    assert list(consumer.dead) == dead
    said = "partial success, or so it seems: the answer is too long to be read: "
    assert all(detail.startswith(said) and "hunter2" * 99 in detail for detail in consumer.dead.values())
    assert "hunter2" not in caplog.text
    assert consumer.acked() == [offset for offset in range(4) if offset not in dead]


def test_an_answer_that_was_cut_short_is_asked_for_again(make_sink: Any) -> None:
    def talk(server: socket.socket) -> None:
        server.settimeout(10)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 9\r\n\r\n1")
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk, args=(server,))
        thread.start()
        with (
            contextlib.closing(OtlpSink(f"otlp+http://127.0.0.1:{server.getsockname()[1]}")) as sink,
            pytest.raises(SinkError) as caught,
        ):
            sink.send(batch(1))
        thread.join(10)
    assert caught.value.verdict is Verdict.RETRY


def test_retry_after_is_honoured(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    collector.answer = lambda request: Answer(429, {"Retry-After": "7"}) if len(collector.requests) == 1 else Answer()
    start = clock.monotonic()
    forward(FakeConsumer(batch(3), clock), make_sink())
    assert 7 <= clock.monotonic() - start < 8


def test_a_collector_that_drops_repeats_by_identity_has_each_record_once(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    """Every third answer is lost, when the request is stored already."""
    received: list[str] = []

    def answer(request: Request) -> Answer:
        received.extend(attributes(record)["seglog.id"] for record in records(request))
        if len(collector.requests) % 3 == 0:
            raise ConnectionAbortedError
        return Answer()

    collector.answer = answer
    consumer = FakeConsumer(batch(100), clock)
    forward(consumer, make_sink(), batch_records=7)
    assert len(received) > 100
    assert list(dict.fromkeys(received)) == [one.id for one in batch(100)]
    assert consumer.acked() == list(range(100))


RAW = {"content-type": b"application/x-protobuf"}


def raw_or_not(kinds: str) -> Sequence[Message[bytes]]:
    return [
        message(offset, b"raw %d" % offset, headers=RAW) if kind == "r" else message(offset, b"plain %d" % offset)
        for offset, kind in enumerate(kinds)
    ]


def test_raw_records_go_alone_and_keep_their_place(collector: Collector, make_sink: Any) -> None:
    make_sink().send(raw_or_not("pprrpr"))
    bodies = [gzip.decompress(request.body) for request in collector.requests]
    assert [body if body.startswith(b"raw") else b"" for body in bodies] == [b"", b"raw 2", b"raw 3", b"", b"raw 5"]
    assert [offsets(collector.requests[at]) for at in (0, 3)] == [[0, 1], [4]]


def test_with_raw_1_every_payload_is_a_request(collector: Collector, make_sink: Any) -> None:
    make_sink("?raw=1", encoding="identity").send(batch(3))
    assert [request.body for request in collector.requests] == [one.payload for one in batch(3)]


def test_what_was_answered_for_before_a_failure_is_not_sent_again(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    script = [Answer(), Answer(), Answer(503), Answer(), Answer(400, body=b"bad"), Answer(400, body=b"bad")]
    collector.answer = lambda request: script.pop(0) if script else Answer()
    consumer = FakeConsumer(batch(6), clock)
    forward(consumer, make_sink("?raw=1", encoding="identity"))
    assert [int(request.body.split()[1]) for request in collector.requests] == [0, 1, 2, 2, 3, 3, 4, 5]
    assert list(consumer.dead) == [3]
    assert consumer.acked() == [0, 1, 2, 4, 5]


def test_many_raw_requests_give_the_forwarder_a_turn_after_the_timeout(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    """What was confirmed is acknowledged, and `stop` is noticed, long before the whole batch is through."""

    def answer(request: Request) -> Answer:
        clock.advance(0.4)
        if len(collector.requests) == 7:
            forwarder.stop()
        return Answer()

    collector.answer = answer
    consumer = FakeConsumer(batch(60), clock)
    forwarder = Forwarder(consumer, make_sink("?raw=1", timeout=1), clock=clock)
    forwarder.run(once=True)
    assert [len(offsets) for what, offsets in consumer.journal if what == "ack"] == [3, 3, 3]
    assert len(collector.requests) == 9
    assert sum(clock.slept) < 1, "no failures: the pauses do not grow"


def test_one_raw_request_that_takes_long_is_confirmed(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    def answer(request: Request) -> Answer:
        clock.advance(100)
        return Answer()

    collector.answer = answer
    make_sink("?raw=1").send(batch(1))
    consumer = FakeConsumer(batch(3), clock)
    forward(consumer, make_sink("?raw=1"))
    assert consumer.acked() == [0, 1, 2]
    assert len(collector.requests) == 4


def test_a_partial_success_of_a_raw_request_is_that_record(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    collector.answer = lambda request: partial(3, "no") if request.body == b"event 1" else Answer()
    consumer = FakeConsumer(batch(3), clock)
    forward(consumer, make_sink("?raw=1", encoding="identity"))
    assert consumer.dead == {1: "partial success, some of its records rejected: no"}
    assert consumer.acked() == [0, 2]
    assert len(collector.requests) == 3


def test_tls_with_a_certificate_that_nobody_signed(collector: Collector, make_sink: Any, tmp_path: Path) -> None:
    made = Engine(tmp_path)
    made.encrypt()
    collector.stop()
    collector.certificate = made.certificate
    collector.start()
    with pytest.raises(SinkError) as caught:
        make_sink().send(batch(1))
    assert caught.value.verdict is Verdict.CONFIGURATION
    assert collector.requests == []
    make_sink(f"?ca={tmp_path / 'cert.pem'}").send(batch(1))
    assert len(collector.requests) == 1


def test_wrong_credentials_keep_everything(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answer = lambda request: (
        Answer() if request.headers.get("authorization") == "Bearer sesame" else Answer(401)
    )
    for headers in (None, {"Authorization": "Bearer wr0ng"}):
        consumer = FakeConsumer(batch(3), clock)
        with pytest.raises(SinkError):
            forward(consumer, make_sink(headers=headers), patience=5)
        assert consumer.journal == [("nack", [0, 1, 2])]
    forward(consumer, make_sink(headers={"Authorization": "Bearer sesame"}))
    assert consumer.acked() == [0, 1, 2]
    assert "everything is kept until this is put right" in caplog.text
    assert "wr0ng" not in caplog.text


@pytest.mark.parametrize(("user", "sent"), [("", "Bearer sesame"), ("alice@", "Basic YWxpY2U6c2VzYW1l")])
def test_who_we_are_from_a_file(collector: Collector, tmp_path: Path, user: str, sent: str) -> None:
    (tmp_path / "secret").write_text("sesame\n")
    url = collector.url.replace("://", f"://{user}")
    sink = open_sink(f"otlp+{url}?password_file={tmp_path / 'secret'}")
    sink.send(batch(1))
    assert collector.requests[0].headers["authorization"] == sent
    assert "?" not in collector.requests[0].path
    sink.close()  # type: ignore[attr-defined]  # this one has it


@pytest.mark.parametrize(
    ("who", "user", "headers", "sent"),
    [
        ("", None, {}, "Bearer sesame"),
        ("", "alice", {}, "Basic YWxpY2U6c2VzYW1l"),
        (":T0ken@", "alice", {}, "Bearer T0ken"),
        ("", "alice", {"AUTHORIZATION": "Digest y"}, "Digest y"),
    ],
)
def test_who_we_are_from_the_environment(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    user: str | None,
    headers: dict[str, str],
    sent: str,
) -> None:
    monkeypatch.setenv("SEGLOG_SINK_PASSWORD", "sesame")
    if user is not None:
        monkeypatch.setenv("SEGLOG_SINK_USER", user)
    url = collector.url.replace("://", f"://{who}")
    with contextlib.closing(OtlpSink(f"otlp+{url}", headers=headers)) as sink:
        sink.send(batch(1))
    assert collector.requests[0].headers["authorization"] == sent


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("otlp+http://alice:sesame@collector", "http://collector:4318/v1/logs"),
        ("otlp+http://collector", "http://collector:4318/v1/logs"),
        ("otlp+https://collector/?raw=1", "https://collector:4318/v1/logs"),
        ("otlp+http://[::1]:80/x%20y/v1/logs?service=a", "http://[::1]:80/x%20y/v1/logs"),
        ("OTLP+HTTP://Collector:1", "http://Collector:1/v1/logs"),
    ],
)
def test_where_it_goes(url: str, where: str) -> None:
    sink: Any = open_sink(url)
    assert sink._poster.name == where
    sink.close()


@pytest.mark.parametrize(
    "url",
    [
        "otlp+http:",
        "otlp+http://",
        "otlp+http://host:0",
        "otlp+http://host:x",
        "otlp+http://al%3Aice:hunter2@host",
        "otlp+http://alice:12?hunter2=1@host",
        "otlp+http://alice:12/hunter2@host",
        "otlp+http://host?raw=2",
        "otlp+http://host?password_file=/nowhere",
        "otlp+http://host?token=hunter2",
        "otlp+http://host/#top",
        "otlp+https://host?ca=/nowhere",
        "otlp+http://host?ca=/nowhere",
    ],
)
def test_malformed_urls(url: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        open_sink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", [{"format": "lines"}, {"encoding": "br"}, {"headers": {"Content-Encoding": "x"}}])
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        open_sink("otlp+http://host", **options)


@pytest.mark.parametrize("module", ["opentelemetry.proto.collector.logs.v1", "urllib3"])
def test_without_its_libraries_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidOption, match=r"pip install 'seglog\[otlp\]'"):
        open_sink("otlp+http://host")
