"""The HTTP sink against a real server on the loopback. Waiting is done on a clock that nobody waits for."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from seglog.errors import InvalidOption
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks.http import HttpSink, idempotency_key
from seglog.model import Message, Origin
from tests.support.fake_consumer import LOG_ID, FakeClock, FakeConsumer, message
from tests.unit.forward.conftest import Answer, Collector, Request

LINES = [f'{{"n":{n}}}'.encode() for n in range(50)]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_sink(clock: FakeClock) -> Iterator[Any]:
    made: list[HttpSink] = []

    def make(url: str, **options: Any) -> HttpSink:
        made.append(HttpSink(url, clock=clock, **options))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def forward(consumer: FakeConsumer, sink: HttpSink, **options: Any) -> Forwarder:
    forwarder = Forwarder(consumer, sink, clock=consumer.clock, **options)
    forwarder.run(once=True)
    return forwarder


def failure(sink: HttpSink, records: int = 1) -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.send([message(offset) for offset in range(records)])
    return caught.value


def test_lines_arrive_as_they_are_each_batch_with_its_key(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    consumer = FakeConsumer(LINES, clock)
    forward(consumer, make_sink(collector.url + "?tenant=7"), batch_records=20)
    assert [request.body for request in collector.requests] == [
        b"".join(line + b"\n" for line in LINES[first : first + 20]) for first in (0, 20, 40)
    ]
    keys = [request.headers["idempotency-key"] for request in collector.requests]
    assert keys == [f"{LOG_ID}:0-19", f"{LOG_ID}:20-39", f"{LOG_ID}:40-49"]
    assert {(request.method, request.path) for request in collector.requests} == {("POST", "/ingest?tenant=7")}
    assert {request.headers["content-type"] for request in collector.requests} == {"application/x-ndjson"}
    assert consumer.acked() == list(range(50))
    assert collector.connections == 1


def test_any_bytes_but_newlines_pass_through_lines(collector: Collector, make_sink: Any) -> None:
    payloads = [b"", b"\r", b"\0\xff\xfe", "\u2028ü".encode(), bytes(set(range(256)) - {10})]
    make_sink(collector.url).send([message(n, payload) for n, payload in enumerate(payloads)])
    assert collector.requests[0].body == b"\n".join(payloads) + b"\n"


def test_the_envelope_carries_any_record(collector: Collector, make_sink: Any) -> None:
    batch = [
        message(7, "two\nlines ü".encode(), key=b"k", headers={"trace": b"abc", "raw": b"\xff"}),
        message(8, b"\xff\x00", key=b"\xfe"),
    ]
    make_sink(collector.url, format="envelope").send(batch)
    objects = [json.loads(line) for line in collector.requests[0].lines]
    assert objects == [
        {
            "id": f"{LOG_ID}:7",
            "offset": 7,
            "timestamp": 1_700_000_000.0,
            "key": "k",
            "headers": {"trace": "abc"},
            "headers_base64": {"raw": "/w=="},
            "payload": "two\nlines ü",
        },
        {
            "id": f"{LOG_ID}:8",
            "offset": 8,
            "timestamp": 1_700_000_000.0,
            "key_base64": "/g==",
            "payload_base64": "/wA=",
        },
    ]


OTHERS = '{"headers":{"Trace":"abc","ce-id":"mine"},"headers_base64":{"raw":"/w=="}}'


def test_cloudevents_carry_any_record(collector: Collector, make_sink: Any) -> None:
    sent = [
        message(7, b'{"n": 1.10,  "n":2}', key=b"k", headers={"ce-type": b"com.example.n", "ce-subject": "ü".encode()}),
        message(8, "two\nlines ü".encode(), headers={"Trace": b"abc", "raw": b"\xff", "ce-id": b"mine"}),
        message(9, b"\xff\x00", key=b"\xfe", headers={"content-type": b"image/png"}),
        message(10, b"[1]", headers={"content-type": b"text/csv"}),
        message(11, b"no json", headers={"content-type": b"application/geo+json; charset=utf-8"}),
        message(12, b"NaN"),
        message(13, b""),
    ]
    make_sink(collector.url, format="cloudevents").send(sent)
    (request,) = collector.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert request.headers["idempotency-key"] == f"{LOG_ID}:7-13"
    common = {"specversion": "1.0", "source": f"urn:uuid:{LOG_ID}", "time": "2023-11-14T22:13:20.000000000Z"}
    expected = [
        {"type": "com.example.n", "subject": "ü", "partitionkey": "k", "datacontenttype": "application/json"},
        {
            "headers": '{"headers":{"Trace":"abc","ce-id":"mine"},"headers_base64":{"raw":"/w=="}}',
            "data": "two\nlines ü",
        },
        {"partitionkeybase64": "/g==", "datacontenttype": "image/png", "data_base64": "/wA="},
        {"datacontenttype": "text/csv", "data": "[1]"},
        {"datacontenttype": "application/geo+json; charset=utf-8", "data_base64": "bm8ganNvbg=="},
        {"data": "NaN"},
        {"data": ""},
    ]
    expected[0]["data"] = {"n": 2}  # type: ignore[assignment]  # the only one that is no text
    others = {"type": "seglog.record", "datacontenttype": "text/plain"}
    events = json.loads(request.body)
    assert events == [
        {**common, **others, "id": str(one.offset), **event} for one, event in zip(sent, expected, strict=True)
    ]
    assert b'"data":{"n": 1.10,  "n":2}}' in request.body  # byte for byte as it was appended


@pytest.mark.parametrize("format", ["envelope", "cloudevents"])
def test_a_header_name_with_half_a_surrogate_pair_holds_nothing_up(
    collector: Collector, make_sink: Any, format: str
) -> None:
    make_sink(collector.url, format=format).send([message(0, headers={"a\ud800": b"1"}), message(1)])
    assert b'"a?' in collector.requests[0].body.replace(b"\\", b"")
    collector.requests[0].body.decode()


@pytest.mark.parametrize("format", ["envelope", "cloudevents"])
def test_a_record_that_cannot_be_encoded_is_a_dead_letter_and_the_rest_goes_on(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture, format: str
) -> None:
    strange: Message[bytes] = Message(1, b"hunter2", 10**400, Origin(LOG_ID, None), None, 1)
    consumer = FakeConsumer([message(0), strange, message(2)], clock)
    forward(consumer, make_sink(collector.url, format=format))
    assert list(consumer.dead) == [1]
    assert consumer.dead[1].startswith(f"{LOG_ID}:1 cannot be encoded: ")
    assert consumer.acked() == [0, 2]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_a_compressed_request_is_the_same_bytes_when_it_is_sent_again(
    collector: Collector, clock: FakeClock, make_sink: Any, encoding: str
) -> None:
    collector.answer = lambda request: Answer(503 if len(collector.requests) == 1 else 200)
    forward(FakeConsumer(LINES, clock), make_sink(collector.url, encoding=encoding))
    first, second = collector.requests
    assert first.body == second.body
    assert first.headers.get("content-encoding", "identity") == encoding
    read: dict[str, Any] = {"gzip": gzip.decompress, "zstd": zstandard.ZstdDecompressor().decompress}
    assert read.get(encoding, bytes)(first.body) == b"".join(line + b"\n" for line in LINES)


def test_a_payload_with_a_newline_is_kept_and_what_is_before_it_arrives(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = FakeConsumer([b"a", b"b", b"two\nlines", b"d"], clock)
    with pytest.raises(SinkError, match="envelope"):
        forward(consumer, make_sink(collector.url), patience=60)
    assert collector.accepted == [b"a", b"b"]
    assert consumer.dead == {}
    assert consumer.journal[-1] == ("nack", [2, 3])
    assert f"record {LOG_ID}:2 holds a newline" in caplog.text


def test_a_key_names_exactly_the_records_of_its_batch() -> None:
    assert idempotency_key([message(5)]) == f"{LOG_ID}:5-5"
    assert idempotency_key([message(n) for n in (1, 2, 3)]) == f"{LOG_ID}:1-3"
    # The same ends with other records between them: a far end that drops repeated keys must not drop these.
    assert idempotency_key([message(n) for n in (1, 3)]) == f"{LOG_ID}:1-1,3-3"
    assert idempotency_key([message(n) for n in (1, 2, 4, 5, 9)]) == f"{LOG_ID}:1-2,4-5,9-9"


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *[(status, Verdict.REFUSED) for status in (400, 413, 422)],
        *[(status, Verdict.CONFIGURATION) for status in (301, 302, 303, 304, 307, 308)],
        *[(status, Verdict.CONFIGURATION) for status in (401, 402, 403, 404, 405, 406, 407, 410, 415, 418, 431, 451)],
        *[(status, Verdict.RETRY) for status in (408, 409, 425, 429, 500, 501, 502, 503, 504, 599)],
        (600, Verdict.CONFIGURATION),
    ],
)
def test_what_each_status_means(collector: Collector, make_sink: Any, status: int, verdict: Verdict) -> None:
    elsewhere = {"Location": collector.url + "/elsewhere"} if 300 <= status < 400 else {}
    collector.answer = lambda request: Answer(status, elsewhere, b"" if status == 304 else b"because")
    error = failure(make_sink(collector.url))
    assert error.verdict is verdict
    assert f"HTTP {status}" in str(error)
    assert [request.path for request in collector.requests] == ["/ingest"]  # no redirect is followed


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_2xx_confirms(collector: Collector, make_sink: Any, status: int) -> None:
    collector.answer = lambda request: Answer(status)
    make_sink(collector.url).send([message(0)])


def test_503_with_retry_after_in_seconds_and_as_a_date(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    consumer, start = FakeConsumer(LINES, clock), clock.monotonic()

    def answer(request: Request) -> Answer:
        if len(collector.requests) == 1:
            return Answer(503, {"Retry-After": "7"})
        if len(collector.requests) == 2:
            date = email.utils.formatdate(clock.time_ns() / 1e9 + 20, usegmt=True)
            return Answer(429, {"Retry-After": date})
        return Answer()

    collector.answer = answer
    forward(consumer, make_sink(collector.url))
    assert collector.accepted == LINES
    assert 7 + 19 <= clock.monotonic() - start < 7 + 20 + 1


@pytest.mark.parametrize("nonsense", ["", "soon", "-5", "1e3", "Mon, 99 Foo 2025 00:00:00 GMT", "9" * 40])
def test_nonsense_in_retry_after_is_ignored(collector: Collector, make_sink: Any, nonsense: str) -> None:
    collector.answer = lambda request: Answer(503, {"Retry-After": nonsense})
    assert failure(make_sink(collector.url)).retry_after is None


def test_a_retry_after_in_the_past_is_now(collector: Collector, make_sink: Any) -> None:
    collector.answer = lambda request: Answer(503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})
    assert failure(make_sink(collector.url)).retry_after == 0.0


def test_400_is_halved_down_to_the_poison_record(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    poison = {LINES[13], LINES[49]}
    collector.answer = lambda request: (
        Answer(400, body=b"line is not to my taste") if poison & set(request.lines) else Answer()
    )
    consumer = FakeConsumer(LINES, clock)
    forward(consumer, make_sink(collector.url))
    assert collector.accepted == [line for line in LINES if line not in poison]
    assert consumer.dead == {
        13: "HTTP 400 Bad Request: line is not to my taste",
        49: "HTTP 400 Bad Request: line is not to my taste",
    }
    assert consumer.acked() == [offset for offset in range(50) if offset not in (13, 49)]


def test_413_is_halved_until_it_fits_and_loses_nothing(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    collector.answer = lambda request: Answer(413) if len(request.body) > 60 else Answer()
    consumer = FakeConsumer(LINES, clock)
    forward(consumer, make_sink(collector.url))
    assert collector.accepted == LINES
    assert consumer.dead == {}


def test_431_for_a_long_key_is_halved(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    collector.answer = lambda request: Answer(431) if len(request.headers["idempotency-key"]) > 100 else Answer()
    consumer = FakeConsumer([message(offset) for offset in range(0, 100, 2)], clock)
    forward(consumer, make_sink(collector.url))
    assert len(collector.accepted) == 50
    assert consumer.dead == {}


def test_401_keeps_everything_until_it_is_put_right(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    collector.answer = lambda request: Answer(401) if len(collector.requests) <= 5 else Answer()
    consumer = FakeConsumer(LINES, clock)
    forward(consumer, make_sink(collector.url))
    assert collector.accepted == LINES
    assert len(collector.requests) == 6
    assert consumer.journal == [("ack", list(range(50)))]


def test_everything_refused_is_a_fault_of_the_configuration_after_ten(
    collector: Collector, clock: FakeClock, make_sink: Any
) -> None:
    collector.answer = lambda request: Answer(422)
    consumer = FakeConsumer(LINES, clock)
    with pytest.raises(SinkError, match="422"):
        forward(consumer, make_sink(collector.url), patience=120)
    assert list(consumer.dead) == list(range(10))
    assert consumer.acked() == []
    assert len(consumer) == 40


def test_a_collector_that_goes_away_and_comes_back(collector: Collector, clock: FakeClock, make_sink: Any) -> None:
    consumer = FakeConsumer(LINES, clock)
    forwarder = Forwarder(consumer, make_sink(collector.url), batch_records=10, clock=clock)
    naps = 0

    def answer(request: Request) -> Answer:
        if len(collector.requests) == 2:
            threading.Thread(target=stop).start()
            stopped.wait(10)
        return Answer(headers={"Connection": "close"} if len(collector.requests) == 2 else {})

    def stop() -> None:
        assert collector._server is not None
        collector._server.socket.close()  # nobody listens any more; the answer under way still goes out
        stopped.set()

    def sleep(seconds: float) -> None:
        nonlocal naps
        naps += 1
        clock.advance(seconds)
        if naps == 5:
            collector.stop()
            collector.start()

    stopped = threading.Event()
    collector.answer = answer
    clock.sleep = sleep  # type: ignore[method-assign]
    forwarder.run(once=True)
    assert naps >= 5
    assert collector.accepted == LINES
    assert consumer.acked() == list(range(50))


def test_connection_refused_says_who_and_why(clock: FakeClock, make_sink: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        error = failure(make_sink(f"http://127.0.0.1:{taken.getsockname()[1]}/in?token=secret"))
    assert error.verdict is Verdict.RETRY
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/in: Connection refused", str(error))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n"], ids=range(4)
)
def test_anything_but_a_status_line_confirms_nothing(make_sink: Any, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        error = failure(make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/"))
        thread.join(10)
    assert error.verdict is Verdict.RETRY


def test_a_body_cut_short_does_not_undo_a_confirmation(make_sink: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort"
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/").send([message(0)])
        thread.join(10)


def test_a_collector_that_never_answers_is_given_up_after_the_timeout(make_sink: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = failure(make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.1))
    assert error.verdict is Verdict.RETRY
    assert "timed out" in str(error)


@pytest.mark.parametrize("begins", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b"HT"])
def test_an_answer_that_comes_drop_by_drop_is_given_up_in_time(make_sink: Any, begins: bytes) -> None:
    with _dripping(begins) as port:
        error = failure(make_sink(f"http://127.0.0.1:{port}/", timeout=0.2))
    assert error.verdict is Verdict.RETRY
    assert "timed out" in str(error)


def test_a_body_that_comes_drop_by_drop_does_not_undo_a_confirmation_nor_take_long(make_sink: Any) -> None:
    for length in (b"Content-Length: 60000", b"Transfer-Encoding: chunked"):
        with _dripping(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n") as port:
            make_sink(f"http://127.0.0.1:{port}/", timeout=0.2).send([message(0)])


@contextlib.contextmanager
def _dripping(begins: bytes) -> Iterator[int]:
    """Where somebody answers with these bytes, and then one each 20 ms; the client must hang up long before 10 s."""
    drops = 0

    def talk(server: socket.socket) -> None:
        nonlocal drops
        server.settimeout(10)
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(10)
            connection.recv(1 << 16)
            connection.sendall(begins)
            while drops < 500 and not gone.wait(0.02):
                connection.sendall(b"1")
                drops += 1

    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        gone.set()
        thread.join(10)
    assert drops < 100


def test_an_answer_without_end_is_cut_off(make_sink: Any) -> None:
    sent = 0

    def talk(server: socket.socket) -> None:
        nonlocal sent
        server.settimeout(10)
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(10)
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while sent < 100_000_000:
                sent += connection.send(b"x" * (1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk, args=(server,))
        thread.start()
        make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/").send([message(0)])
        thread.join(10)
    assert sent < 100_000_000


def test_an_early_answer_to_a_large_body_is_heard(make_sink: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        with pytest.raises(SinkError) as caught:
            make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/").send([message(0, b"x" * 8_000_000)] * 2)
        thread.join(10)
    assert caught.value.verdict is Verdict.REFUSED


def _answer_once(server: socket.socket, answer: bytes) -> None:
    """Answer what came first, as a server does that does not care for the rest, and read the rest before closing."""
    server.settimeout(10)
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        connection.recv(1 << 16)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def test_a_tls_error_is_configuration(collector: Collector, make_sink: Any) -> None:
    error = failure(make_sink(collector.url.replace("http:", "https:")))
    assert error.verdict is Verdict.CONFIGURATION
    assert collector.requests == []


def test_a_connection_cut_during_the_tls_handshake_is_the_networks_affair(make_sink: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_once, args=(server, b""))
        thread.start()
        error = failure(make_sink(f"https://127.0.0.1:{server.getsockname()[1]}/"))
        thread.join(10)
    assert error.verdict is Verdict.RETRY


def test_proxies_of_the_environment_are_not_used(
    collector: Collector, make_sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    make_sink(collector.url).send([message(0)])
    assert len(collector.requests) == 1


def test_request_headers(collector: Collector, make_sink: Any) -> None:
    headers = {"Authorization": "Bearer a b", "content-type": "application/jsonl", "X-Ü".replace("Ü", "U"): "ü"}
    make_sink(collector.url, headers=headers).send([message(0)])
    sent = collector.requests[0].headers
    assert sent["authorization"] == "Bearer a b"
    assert sent["content-type"] == "application/jsonl"
    assert sent["x-u"] == "ü"


ALICE = "Basic YWxpY2U6b3DDqW46L0A="  # alice:opén:/@


@pytest.mark.parametrize(
    ("who", "environment", "headers", "sent"),
    [
        ("", {}, {}, None),
        ("alice:op%C3%A9n:%2F%40@", {}, {}, ALICE),
        ("alice@", {"PASSWORD": "opén:/@"}, {}, ALICE),
        ("", {"USER": "alice", "PASSWORD": "opén:/@"}, {}, None),
        ("bob@", {}, {}, "Basic Ym9iOg=="),
        (":T0ken@", {}, {}, "Bearer T0ken"),
        (":T0ken@", {"USER": "bob"}, {}, "Bearer T0ken"),
        ("", {"PASSWORD": "T0ken"}, {}, None),
        ("", {"PASSWORD": "not a token"}, {}, None),
        ("alice:x@", {"PASSWORD": "T0ken"}, {"authorization": "Digest y"}, "Digest y"),
        ("al%3Aice:x@", {}, {"authorization": "Digest y"}, "Digest y"),
    ],
)
def test_who_we_are(
    collector: Collector,
    make_sink: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    who: str,
    environment: dict[str, str],
    headers: dict[str, str],
    sent: str | None,
) -> None:
    caplog.set_level(logging.DEBUG)  # of urllib3 as well
    for name, value in environment.items():
        monkeypatch.setenv(f"SEGLOG_SINK_{name}", value)
    collector.answer = lambda request: Answer(401)
    error = failure(make_sink(collector.url.replace("://", f"://{who}"), headers=headers))
    assert collector.requests[0].headers.get("authorization") == sent
    said = f"{error} {caplog.text}"
    assert "POST" in said
    assert not [secret for secret in (sent, "opén", "op%C3", "T0ken", "alice") if secret and secret in said]


@pytest.mark.parametrize(
    "headers",
    [
        {"X\r\nInjected": "1"},
        {"X": "1\r\nInjected: 1"},
        {"X": "\0"},
        {"X": "€"},
        {"": "1"},
        {"X Y": "1"},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
        {"Idempotency-Key": "mine"},
        {"Content-Encoding": "br"},
    ],
)
def test_request_headers_that_cannot_be_meant(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidOption):
        open_sink("http://127.0.0.1/", headers=headers)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://host/",
        "http:",
        "http://",
        "http:///path",
        "http://:80/",
        "http://host:0/",
        "http://host:99999/",
        "http://host:port/",
        "http://[::1/",
        "http://a b/",
        "http://host/a b",
        "http://host/\r\nX: y",
        "http://us%3Aer:hunter2@host/",
        "http://:hunter2%20and%20more@host/",
        "http://user:hunter2%ff@host/",
        "http://user:12?hunter2@host/",
        "http://user:?hunter2@host/",
        "http://user:hunter2/@host/",
        "http://user:hun/hunter2@host/",
        "http://user:12/hunter2@host/x",
        "http://user:hunter2\u2100@host/",
        "http://user:\udcffhunter2@host/",
        "http://host/x\udcff",
        "http://host/#top",
        "http://" + "a" * 300 + ".example/",
        "stdout:file",
        "stdout",
        "//host/",
    ],
)
def test_malformed_urls(url: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        open_sink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", [{"format": "xml"}, {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        open_sink("http://127.0.0.1/", **options)


def test_without_urllib3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(InvalidOption, match=r"pip install 'seglog\[http\]'"):
        open_sink("http://127.0.0.1/")


def test_neither_the_query_nor_a_payload_nor_an_answer_is_logged(
    collector: Collector, clock: FakeClock, make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of urllib3 as well
    collector.answer = lambda request: Answer(400 if b"hunter2" in request.body else 200, body=b"cannot parse hunter2")
    consumer = FakeConsumer([b"hunter2", b"other"], clock)
    forward(consumer, make_sink(collector.url + "?token=secret"))
    assert list(consumer.dead) == [0]
    assert "400" in caplog.text
    assert "hunter2" not in caplog.text
    assert "secret" not in caplog.text
    assert "urllib3" in {record.name.partition(".")[0] for record in caplog.records}


def test_an_answer_with_strange_headers_does_not_bring_the_query_into_the_log(
    make_sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n"
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        make_sink(f"http://127.0.0.1:{server.getsockname()[1]}/in?token=secret").send([message(0)])
        thread.join(10)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("written", "asked"), [("?token=a%20b&x", "?token=a%20b&x"), ("?", "?"), ("", ""), ("?é", "?%C3%A9")]
)
def test_the_query_arrives_as_it_is_written(collector: Collector, make_sink: Any, written: str, asked: str) -> None:
    make_sink(collector.url + written).send([message(0)])
    assert collector.requests[0].path == "/ingest" + asked
