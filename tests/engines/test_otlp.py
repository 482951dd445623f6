"""OTLP on a real collector: what it refuses, what is sent raw, and how the far end drops repeats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog
from seglog import Record
from seglog.forward import Forwarder, SinkError, open_sink
from tools.engines.otlp import Otlp

pytestmark = pytest.mark.skipif(bool(Otlp.without()), reason=Otlp.without())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Otlp]:
    made = Otlp(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def forward(log: seglog.Log[bytes], url: str, encoding: str | None = None) -> Forwarder:
    sink = open_sink(url, timeout=10, encoding=encoding)
    try:
        with log.consumer("forward") as consumer:
            made = Forwarder(consumer, sink, linger=0, patience=5)
            made.run(once=True)
            return made
    finally:
        sink.close()  # type: ignore[attr-defined]  # this one has it


def exported(text: str) -> bytes:
    """A request as an exporter spools it: with a record that no seglog made."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = text
    record.attributes.add(key="seglog.id").value.string_value = f"from the exporter: {text}"
    encoded: bytes = request.SerializeToString()
    return encoded


def test_raw_requests_arrive_as_they_are_and_what_the_collector_cannot_read_is_a_dead_letter(engine: Otlp) -> None:
    with seglog.open(":memory:") as log:
        log.append_many([exported("one"), b"\x07no protobuf", exported("two")])
        done = forward(log, engine.url("x") + "&raw=1")
        assert [(letter.reason, letter.payload) for letter in log.dead_letters] == [("refused", b"\x07no protobuf")]
    assert [one.id for one in engine.arrived("x")] == ["from the exporter: one", "from the exporter: two"]
    assert (done.stats().sent_records, done.stats().refused_records) == (2, 1)


def test_a_record_says_by_its_header_that_it_is_raw(engine: Otlp) -> None:
    raw = {"content-type": b"application/x-protobuf"}
    with seglog.open(":memory:") as log:
        log.append_many([b"plain", Record(exported("raw"), headers=raw), exported("looks raw"), b"plain again"])
        forward(log, engine.url("x"))
        plain = [message.payload for message in log.read() if not message.headers]
    assert [one.payload for one in engine.arrived("x")] == [plain[0], b"raw", *plain[1:]]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_collector_reads_every_encoding_it_knows(engine: Otlp, encoding: str) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x" * 1000)
        forward(log, engine.url("x"), encoding)
    assert [one.payload for one in engine.arrived("x")] == [b"x" * 1000]


def test_another_path_is_configuration(engine: Otlp, caplog: pytest.LogCaptureFixture) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x")
        with pytest.raises(SinkError):
            forward(log, engine.url("x").replace("?", "/v1/nothing?"))
        assert len(log.dead_letters) == 0
    assert "everything is kept until this is put right" in caplog.text
