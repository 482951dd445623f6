"""The Kafka sink without a broker: what its URL comes to, what errors mean, TLS, and a producer that is in our hand."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import SinkError, Verdict, open_sink
from seglog.forward.sinks import address, kafka_errors, kafka_settings
from seglog.testing import ManualClock

KNOWN = ("brokers", "max_bytes", "partition", "sasl")


def connection(url: str, timeout: float = 30) -> dict[str, Any]:
    return kafka_settings.connection(address.parse(url, port=9092, target="a topic", known=KNOWN), timeout)


def test_a_plain_url_is_a_plain_connection() -> None:
    said = connection("kafka://broker/events")
    assert said["bootstrap.servers"] == "broker:9092"
    assert said["client.id"] == "seglog"
    assert said["security.protocol"] == "PLAINTEXT"
    assert not [name for name in said if name.startswith(("sasl", "ssl"))]


def test_more_brokers_are_begun_with() -> None:
    said = connection("kafka://[::1]:1/events?brokers=two:9094,,three")
    assert said["bootstrap.servers"] == "[::1]:1,two:9094,three"


@pytest.mark.parametrize(
    ("url", "protocol", "mechanism"),
    [
        ("kafka://alice:open%3Asesame@broker/events", "SASL_PLAINTEXT", "PLAIN"),
        ("kafka+tls://alice:open%3Asesame@broker/events", "SASL_SSL", "PLAIN"),
        ("kafka+tls://alice:open%3Asesame@broker/events?sasl=SCRAM-SHA-512", "SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_a_user_is_told_by_sasl(url: str, protocol: str, mechanism: str) -> None:
    said = connection(url)
    assert (said["security.protocol"], said["sasl.mechanism"]) == (protocol, mechanism)
    assert (said["sasl.username"], said["sasl.password"]) == ("alice", "open:sesame")


@pytest.mark.parametrize("both_in_one", [False, True])
def test_tls_is_verified_and_by_the_urls_authority_if_it_names_one(certificate: Certificate, both_in_one: bool) -> None:
    assert connection("kafka+tls://broker/events")["security.protocol"] == "SSL"
    cert, key = map(str, certificate)
    if both_in_one:
        Path(cert).write_text(Path(cert).read_text() + Path(key).read_text())
    said = connection(f"kafka+tls://broker/events?ca={cert}&cert={cert}{'' if both_in_one else f'&key={key}'}")
    assert said["ssl.ca.location"] == said["ssl.certificate.location"] == cert
    assert said["ssl.key.location"] == (cert if both_in_one else key)
    assert not [name for name in said if "verif" in name or "identification" in name], "the defaults verify"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kafka://broker", "needs a host and a topic"),
        ("kafka://broker/a/b", "'a/b' is no name of a topic"),
        ("kafka://broker/events?partition=-1", "partition is a number"),
        ("kafka://broker/events?max_bytes=0", "max_bytes is a number"),
        ("kafka://broker/events?sasl=GSSAPI", "sasl is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, not 'GSSAPI'"),
        ("kafka://broker/events?sasl=PLAIN", "sasl needs a user and a password"),
        ("kafka://alice@broker/events", "a user needs a password, and a password a user"),
        ("kafka://:sesame@broker/events", "a user needs a password, and a password a user"),
        ("kafka+tls://broker/events?ca=/does/not/exist", "option ca: /does/not/exist cannot be used"),
        ("kafka://broker/events?ca=/does/not/exist", "kafka:// is without TLS"),
        ("kafka+tls://broker/events?key=/does/not/exist", "option key needs cert"),
        ("kafka://alice:12/sesame@broker/events", "a / in a password is written %2F"),
        ("kafka://broker/events?acks=1", "has no option 'acks'"),
    ],
)
def test_what_a_url_cannot_mean_is_said_at_once(url: str, why: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        open_sink(url)
    assert why in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, 3601])
def test_the_timeout_has_limits(timeout: float) -> None:
    with pytest.raises(InvalidOption):
        open_sink("kafka://broker/events", timeout=timeout)


@pytest.mark.parametrize("timeout", [0.001, 30, 3600])
@pytest.mark.parametrize("max_bytes", [1, 999_000_000])
def test_the_library_takes_what_it_is_told_for_all_timeouts_and_sizes(timeout: float, max_bytes: int) -> None:
    library = pytest.importorskip("confluent_kafka")
    both = connection("kafka://alice:sesame@127.0.0.1:1/events?sasl=SCRAM-SHA-256", timeout)
    logger = logging.getLogger("seglog")
    library.Producer({**both, **kafka_settings.writing(timeout, max_bytes)}, logger=logger)
    library.Consumer({**both, **kafka_settings.reading(max_bytes)}, logger=logger).close()


def test_the_producer_neither_repeats_by_chance_nor_gives_up_by_itself() -> None:
    said = kafka_settings.writing(30, 1000)
    assert said["enable.idempotence"] is True
    assert said["enable.gapless.guarantee"] is True
    assert said["delivery.report.only.error"] is True, "what is stored is counted"
    assert (said["acks"], said["max.in.flight"], said["message.timeout.ms"]) == ("all", 1, 0)
    assert connection("kafka://broker/events", 7)["socket.timeout.ms"] == 14_000


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("MSG_SIZE_TOO_LARGE", "", Verdict.REFUSED),
        ("INVALID_RECORD", "", Verdict.REFUSED),
        ("INVALID_TIMESTAMP", "", Verdict.REFUSED),
        ("_AUTHENTICATION", "", Verdict.CONFIGURATION),
        ("TOPIC_AUTHORIZATION_FAILED", "", Verdict.CONFIGURATION),
        ("CLUSTER_AUTHORIZATION_FAILED", "", Verdict.CONFIGURATION),
        ("UNKNOWN_TOPIC_OR_PART", "", Verdict.CONFIGURATION),
        ("_SSL", "certificate verify failed", Verdict.CONFIGURATION),
        ("_SSL", "SSL handshake failed: Disconnected", Verdict.RETRY),
        ("_MSG_TIMED_OUT", "", Verdict.RETRY),
        ("_TRANSPORT", "", Verdict.RETRY),
        ("_RESOLVE", "", Verdict.RETRY),
        ("_PURGE_QUEUE", "", Verdict.RETRY),
        ("NOT_ENOUGH_REPLICAS", "", Verdict.RETRY),
        ("REQUEST_TIMED_OUT", "", Verdict.RETRY),
    ],
)
def test_an_error_says_what_it_means(name: str, text: str, verdict: Verdict) -> None:
    error = pytest.importorskip("confluent_kafka").KafkaError
    assert error(getattr(error, name)).name() == name, "the library calls it otherwise"
    assert kafka_errors.verdict_of(error(getattr(error, name), text)) is verdict


Certificate = tuple[Path, Path]


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(files[1]), "-out", str(files[0])]
    subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.fixture
def port(certificate: Certificate, request: pytest.FixtureRequest) -> Iterator[int]:
    """Where somebody listens who speaks TLS; or hangs up at once, if the parameter says so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    hangs_up = getattr(request, "param", False)

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return  # closed: the test is over
            with client:
                client.settimeout(5)
                try:
                    if not hangs_up:
                        with context.wrap_socket(client, server_side=True) as secure:
                            secure.recv(1000)
                except OSError:
                    continue  # the client does not trust this

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def failure(url: str) -> SinkError:
    pytest.importorskip("confluent_kafka")
    sink: Any = open_sink(url, timeout=3)
    with closing(sink), pytest.raises(SinkError) as caught:
        sink.resume_point()
    return caught.value


def test_a_certificate_that_nobody_signed_is_a_fault_of_the_configuration(port: int, certificate: Certificate) -> None:
    error = failure(f"kafka+tls://alice:sesame@127.0.0.1:{port}/events")
    assert error.verdict is Verdict.CONFIGURATION
    assert "certificate verify failed" in str(error)
    assert "sesame" not in str(error)
    trusted = failure(f"kafka+tls://127.0.0.1:{port}/events?ca={certificate[0]}")
    assert trusted.verdict is Verdict.RETRY, "that was not the trouble"


@pytest.mark.parametrize("port", [True], indirect=True)
@pytest.mark.parametrize("scheme", ["kafka", "kafka+tls"])
def test_a_broker_that_hangs_up_is_an_outage(port: int, scheme: str) -> None:
    assert failure(f"{scheme}://127.0.0.1:{port}/events").verdict is Verdict.RETRY


class FakeError:
    def __init__(self, name: str) -> None:
        self.name = lambda: name
        self.str = lambda: f"it says {name}"


class FakeKafka(types.ModuleType):
    """A producer that reports when the test wants it, and a consumer that finds an empty partition."""

    class KafkaException(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("confluent_kafka")
        self.written: list[bytes] = []
        self.reports: list[Any] = []
        self.outcome: FakeError | None = None
        self.silent = True
        self.calls: list[str] = []
        self.room = self.at_once = 1000
        self.partition: list[Any] = []  # headers
        self.headers: list[Any] = []  # of the message that was given last
        self.greets = True  # as a broker that stores the first message, whatever comes then

    def Producer(self, settings: dict[str, Any], logger: Any) -> FakeKafka:
        self.calls.append("producer")
        self.first = True
        return self

    def Consumer(self, settings: dict[str, Any], logger: Any) -> Any:
        self.calls.append("read")
        partitions = types.SimpleNamespace(error=None, partitions={0: None})
        end = types.SimpleNamespace(error=lambda: FakeError("_PARTITION_EOF"))
        found: list[Any] = []

        def assign(places: list[Any]) -> None:
            at = places[0][2]
            records = [
                types.SimpleNamespace(
                    error=lambda: None,
                    offset=lambda: 0,
                    headers=lambda record=record: [(name, text.encode()) for name, text in record],
                )
                for record in self.partition
            ]
            found[:] = [*records[at:], end]

        return types.SimpleNamespace(
            list_topics=lambda *_, timeout: types.SimpleNamespace(topics={"events": partitions}),
            get_watermark_offsets=lambda *_, timeout: (0, len(self.partition)),
            assign=assign,
            poll=lambda *_: found.pop(0),
            close=lambda: None,
        )

    def TopicPartition(self, *place: object) -> object:
        return place

    def produce(self, topic: str, payload: bytes, key: Any, partition: int, on_delivery: Any, **given: Any) -> None:
        if len(self.reports) >= self.room:
            raise BufferError
        self.written.append(payload)
        self.headers = list(given["headers"])
        self.reports.append(on_delivery)

    def __len__(self) -> int:
        return len(self.reports)

    def poll(self, seconds: float) -> None:
        if not self.silent:
            self.report(self.at_once)
        elif self.greets and self.first:
            self.report(1)

    flush = poll

    def report(self, count: int) -> None:
        reports, self.reports, self.first = self.reports[:count], self.reports[count:], False
        for report in reports if self.outcome is not None else ():  # as it is told to
            report(self.outcome, None)

    def purge(self, in_queue: bool = True, in_flight: bool = True) -> None:
        self.calls.append(f"purge {in_queue:d}{in_flight:d}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    made = FakeKafka()
    monkeypatch.setitem(sys.modules, "confluent_kafka", made)
    return made


@pytest.fixture
def batch() -> list[Any]:
    with seglog.open(":memory:") as log:
        log.append_many([b"1", b"2", b"3"])
        return list(log.read())


def test_p5_nothing_is_read_back_while_a_send_is_under_way(fake: FakeKafka, batch: list[Any]) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=0.01)
    for ask in (lambda: sink.send(batch), sink.resume_point, sink.resume_point):
        with pytest.raises(SinkError, match=r"no answer within 0\.01 s") as caught:
            ask()
        assert caught.value.verdict is Verdict.RETRY
    assert fake.calls == ["producer"]
    fake.silent = False
    assert sink.resume_point() is None
    sink.send(batch)
    assert fake.calls == ["producer", "read"], "it never failed, so it stays"
    sink.close()
    assert fake.calls == ["producer", "read", "purge 11"]


def test_batches_are_begun_one_after_the_other_and_finished_in_order(fake: FakeKafka, batch: list[Any]) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=0.01)
    for message in batch:
        sink.begin([message])
    assert fake.written == [b"1", b"2", b"3"]
    assert len(fake.reports) == 2, "only the first of all was waited for"
    assert sink.finish() == 1
    fake.report(9)
    assert sink.finish() == 2, "both are there"
    fake.outcome = FakeError("_MSG_TIMED_OUT")
    sink.begin([batch[2]._replace(offset=3)])
    sink.begin([batch[2]._replace(offset=4)])
    fake.report(9)
    with pytest.raises(SinkError, match="_MSG_TIMED_OUT"):
        sink.finish()


def test_p5_the_first_message_of_a_producer_goes_alone_also_after_a_pause(
    fake: FakeKafka, batch: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that does not know the producer would take what comes behind a message that it refused."""
    clock = ManualClock()
    given_at_poll: list[int] = []
    poll = fake.poll

    def polled(seconds: float) -> None:
        given_at_poll.append(len(fake.written))
        poll(seconds)

    for name in ("poll", "flush"):
        monkeypatch.setattr(fake, name, polled)
    fake.silent = False
    sink: Any = open_sink("kafka://broker/events", timeout=1, clock=clock)
    for pause, given in ((0, [1, 3]), (59, [6]), (61, [7, 9])):
        clock.advance(pause)
        sink.send(batch)
        assert given_at_poll == given
        given_at_poll.clear()


def test_p5_behind_a_first_message_that_failed_nothing_is_given(fake: FakeKafka, batch: list[Any]) -> None:
    fake.silent, fake.outcome = False, FakeError("INVALID_RECORD")
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    with pytest.raises(SinkError, match="INVALID_RECORD"):
        sink.send(batch)
    assert fake.written == [b"1"]


def test_p5_a_hole_below_what_is_there_is_found_and_filled(fake: FakeKafka, batch: list[Any]) -> None:
    """librdkafka may have made one more request when it hears that one failed; not every broker refuses that, too."""
    log_id = batch[0].origin.log_id
    sink: Any = open_sink("kafka://broker/events", timeout=0.1)
    sink.attach(log_id)
    assert sink.resume_point() is None
    for message in batch:
        sink.begin([message])
    assert sink.finish() == 1
    fake.outcome = FakeError("INVALID_RECORD")
    fake.report(9)
    with pytest.raises(SinkError, match="INVALID_RECORD"):
        sink.finish()
    fake.partition = [[("seglog-id", f"{log_id}:{offset}")] for offset in (0, 2)]
    fake.outcome, fake.silent, fake.written = None, False, []
    for _ in range(2):  # however often it is asked
        assert sink.resume_point() == 1
    sink.begin([batch[1]])
    assert fake.headers == [("seglog-id", f"{log_id}:1"), ("seglog-newest", "2")]
    sink.begin([batch[2]])
    assert sink.finish() == 2
    assert fake.written == [b"2"]
    fake.partition.append(fake.headers)
    assert sink.resume_point() == 3, "no doubt is left"


def test_a_delayed_message_that_failed_casts_no_doubt_on_all_that_passed_it(fake: FakeKafka, batch: list[Any]) -> None:
    """Only the last records of a partition are looked through: what is far below them would come again."""
    log_id = batch[0].origin.log_id
    fake.partition = [[("seglog-id", f"{log_id}:{offset}")] for offset in range(100)]
    sink: Any = open_sink("kafka://broker/events", timeout=0.1)
    sink.attach(log_id)
    assert sink.resume_point() == 100
    fake.silent, fake.outcome = False, FakeError("INVALID_RECORD")
    with pytest.raises(SinkError, match="INVALID_RECORD"):
        sink.send([batch[1], batch[0]._replace(offset=100)])
    assert fake.written == [b"1"], "the delayed one is there"
    assert sink.resume_point() == 100


def test_p5_after_a_failure_it_is_read_what_was_stored_before(fake: FakeKafka, batch: list[Any]) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=0.01)
    for message in batch:
        sink.begin([message])
    assert sink.finish() == 1
    fake.report(1)
    fake.outcome = FakeError("_MSG_TIMED_OUT")
    fake.report(9)
    for _ in range(2):
        with pytest.raises(SinkError, match="_MSG_TIMED_OUT"):
            sink.finish()
    assert sink.resume_point() is None
    assert fake.calls == ["producer", "purge 11", "read"]


def test_after_a_failure_the_rest_is_taken_back_and_a_new_producer_made(fake: FakeKafka, batch: list[Any]) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    fake.silent, fake.at_once = False, 1
    sink.send(batch)
    fake.outcome = FakeError("_MSG_TIMED_OUT")
    with pytest.raises(SinkError, match=r"kafka://broker:9092/events, partition 0: it says _MSG_TIMED_OUT") as caught:
        sink.send(batch)
    assert caught.value.verdict is Verdict.RETRY
    fake.outcome = None
    assert sink.resume_point() is None
    sink.send(batch)
    assert fake.calls == ["producer", "purge 10", "purge 11", "read", "producer"]


def test_a_full_queue_is_waited_for_within_the_timeout(fake: FakeKafka, batch: list[Any]) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=0.01)
    fake.room = 1
    with pytest.raises(SinkError, match="no answer"):
        sink.send(batch)
    assert fake.written == [b"1", b"2"]
    fake.silent = False
    sink.resume_point()
    sink.send(batch)
    assert fake.written == [b"1", b"2", b"1", b"2", b"3"]


def test_a_record_that_is_too_large_is_refused_alone(fake: FakeKafka) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x" * 20, headers={"name": b""})
        log.append(b"x" * 20, headers={"name": b"12345"})
        log.append_many([b"y" * 41, b"y" * 40])
        batch = list(log.read())
    fake.silent = False
    sink: Any = open_sink("kafka://broker/events?max_bytes=40", timeout=1)
    sink.begin(batch[3:])
    for at in (1, 2):
        with pytest.raises(SinkError, match=f"{at} has more than the 40 bytes that are sent") as caught:
            sink.begin(batch[at - 1 :] if at == 1 else batch[at:])
        assert caught.value.verdict is Verdict.REFUSED
        assert caught.value.refused == [batch[at]]
        assert caught.value.confirmed == ([batch[0]] if at == 1 else [])
        assert fake.reports == [], "what came before it is there"
    assert fake.written == [b"y" * 40, b"x" * 20]
    assert sink.finish() == 1, "that is what was begun before"


def test_what_is_before_a_record_that_is_too_large_may_fail_as_well(fake: FakeKafka, batch: list[Any]) -> None:
    fake.silent, fake.outcome = False, FakeError("_MSG_TIMED_OUT")
    sink: Any = open_sink("kafka://broker/events?max_bytes=40", timeout=1)
    with pytest.raises(SinkError, match="_MSG_TIMED_OUT") as caught:
        sink.send([*batch, batch[0]._replace(offset=3, payload=b"y" * 41)])
    assert (caught.value.verdict, caught.value.confirmed, caught.value.refused) == (Verdict.RETRY, (), ())


@pytest.mark.parametrize("struck", [KeyboardInterrupt, MemoryError, SystemError])
def test_p5_where_a_report_may_have_got_lost_nothing_counts_as_stored(
    fake: FakeKafka, batch: list[Any], monkeypatch: pytest.MonkeyPatch, struck: type[BaseException]
) -> None:
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    sink.begin(batch)

    def interrupted(_: object) -> None:
        fake.reports.clear()
        raise struck

    with monkeypatch.context() as patched:
        patched.setattr(fake, "flush", interrupted)
        with pytest.raises(struck):
            sink.finish()
    with pytest.raises(SinkError, match="no answer"):
        sink.finish()
    fake.silent = False
    assert sink.resume_point() is None
    sink.send(batch)
    assert fake.calls == ["producer", "purge 11", "read", "producer"]


def test_an_error_without_a_hash_is_an_error(fake: FakeKafka, batch: list[Any]) -> None:
    """librdkafka's UNKNOWN is -1, and its Python client takes that for the hash."""

    class Unhashable(FakeError):
        __hash__ = None  # type: ignore[assignment]

    fake.silent, fake.outcome = False, Unhashable("UNKNOWN")
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    with pytest.raises(SinkError, match="it says UNKNOWN"):
        sink.send(batch)


def test_a_producer_that_has_ended_is_replaced(fake: FakeKafka, batch: list[Any], monkeypatch: Any) -> None:
    def ended(*_: Any, **__: Any) -> None:
        raise fake.KafkaException(FakeError("_FATAL"))

    fake.silent = False
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    with monkeypatch.context() as patched:
        patched.setattr(fake, "produce", ended)
        with pytest.raises(SinkError, match="_FATAL"):
            sink.send(batch)
    sink.resume_point()
    sink.send(batch)
    assert fake.calls.count("producer") == 2


def test_what_ended_a_producer_counts_and_not_that_it_ended(
    fake: FakeKafka, batch: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = fake.produce

    def ends(topic: str, payload: bytes, *rest: Any, **given: Any) -> None:
        if payload == b"2":
            raise fake.KafkaException(FakeError("_FATAL"))
        produce(topic, payload, *rest, **given)

    fake.silent, fake.outcome = False, FakeError("MSG_SIZE_TOO_LARGE")
    monkeypatch.setattr(fake, "produce", ends)
    sink: Any = open_sink("kafka://broker/events", timeout=1)
    with pytest.raises(SinkError, match="MSG_SIZE_TOO_LARGE") as caught:
        sink.send(batch)
    assert caught.value.verdict is Verdict.REFUSED
    assert fake.written == [b"1"]


def test_without_the_library_it_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(InvalidOption, match=r"pip install 'seglog\[kafka\]'"):
        open_sink("kafka://broker/events")
