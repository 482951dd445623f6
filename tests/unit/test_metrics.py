"""The figures for Prometheus: what the text says is what the log says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import Forwarder, ForwardStats, SinkError, Verdict

pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from seglog.metrics import REASONS, Collector, Forwarding, Reading, exposition, families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """(name, labels) -> value; every sample once."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_the_figures_of_a_log(tmp_path: Path) -> None:
    with (
        seglog.open(tmp_path, segment_bytes=4096, max_records=20) as log,
        log.consumer("quick") as quick,
        log.consumer("slow"),
    ):
        for _ in range(10):
            log.append(b"x" * 3000)
        messages = quick.receive_many(6)
        quick.ack(*messages[:4])
        quick.reject(messages[4], reason="no")
        stats, found = log.stats(), parsed(Collector(log, "spool").text())
    wanted: dict[str, int | None] = {
        "seglog_up": 1,
        "seglog_size_bytes": stats.bytes,
        "seglog_segments": stats.segments,
        "seglog_records": 10,
        "seglog_first_offset": stats.first_offset,
        "seglog_next_offset": 10,
        "seglog_durable_offset": 10,
        "seglog_max_records": 20,
        "seglog_used_records": stats.used_records,
        "seglog_dropped_records_total": 0,
    }
    for name, value in wanted.items():
        assert found.pop(key(name, log="spool")) == value, name
    for reason in REASONS:
        assert found.pop(key("seglog_dead_letters", log="spool", reason=reason)) == (reason == "rejected")
    for name, consumer in stats.consumers.items():
        seconds = found.pop(key("seglog_consumer_oldest_unacked_seconds", log="spool", consumer=name))
        assert consumer.oldest_age_seconds is not None
        assert consumer.oldest_age_seconds <= seconds < consumer.oldest_age_seconds + 60
        for figure, field in (("watermark_offset", "watermark"), ("lag_records",) * 2, ("lag_bytes",) * 2):
            told = found.pop(key(f"seglog_consumer_{figure}", log="spool", consumer=name))
            assert told == getattr(consumer, field), figure
        shown = found.pop(key("seglog_consumer_in_flight_records", log="spool", consumer=name))
        assert shown == consumer.in_flight == (1 if name == "quick" else 0)
    assert found == {}, "a figure that no test looks at"


def test_what_was_dropped(tmp_path: Path) -> None:
    with (
        seglog.open(tmp_path, segment_bytes=4096, max_records=2, when_full="drop_oldest") as log,
        log.consumer("slow", on_gap=lambda gap: None),
    ):
        for _ in range(5):
            log.append(b"x" * 3000)
        assert parsed(Collector(log).text())[key("seglog_dropped_records_total", log=log.id)] == 3


def test_a_consumer_with_nothing_to_do_has_age_0(tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log, log.consumer("idle"):
        found = parsed(Collector(log, "l").text())
    assert found[key("seglog_consumer_oldest_unacked_seconds", log="l", consumer="idle")] == 0


def test_what_a_forwarder_did(tmp_path: Path) -> None:
    def send(batch: Sequence[seglog.Message[Any]]) -> None:
        if any(message.payload == b"bad" for message in batch):
            raise SinkError("no", verdict=Verdict.REFUSED)

    with seglog.open(tmp_path) as log, log.consumer("c") as consumer:
        log.append_many([b"good", b"bad", b"good"])
        forwarder = Forwarder(consumer, send)
        forwarder.run(once=True)
        done = forwarder.stats()
        found = parsed(Collector(log, "l", {"there": forwarder}).text())
    for name in ("sent_records", "sent_batches", "refused_records", "failures"):
        value = found[key(f"seglog_forward_{name}_total", log="l", consumer="", sink="there")]
        assert value == getattr(done, name) > 0, name
    assert found[key("seglog_dead_letters", log="l", reason="refused")] == 1


def test_several_logs_share_each_figure(tmp_path: Path) -> None:
    readings = []
    for name in ("a", "b"):
        with seglog.open(tmp_path / name) as log:
            readings.append(
                Reading(
                    name, log.stats(), None, (Forwarding("c", "s", Forwarder(log.consumer("c"), print).stats(), True),)
                )
            )
    text = exposition(list(families([*readings, Reading("gone", None)])))
    found = parsed(text)
    assert [found[key("seglog_up", log=name)] for name in ("a", "b", "gone")] == [1, 1, 0]
    assert found[key("seglog_next_offset", log="b")] == 0
    assert key("seglog_next_offset", log="gone") not in found
    assert text.count("# TYPE seglog_next_offset ") == 1
    assert found[key("seglog_forward_healthy", log="a", consumer="c", sink="s")] == 1


def test_several_logs_of_a_program_share_one_collector(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with seglog.open(tmp_path / "a") as a, seglog.open(tmp_path / "b") as b, b.consumer("c") as consumer:
        b.append_many([b"one", b"two"])
        forwarder = Forwarder(consumer, lambda batch: None)
        forwarder.run(once=True)
        collector = Collector(a, "a")
        registry.register(collector)
        collector.add(b, "b", {"there": forwarder})
        with pytest.raises(InvalidOption, match="another log is called b already"):
            collector.add(a, "b")
        text = generate_latest(registry).decode()
        assert text == collector.text()
    found = parsed(text)
    assert [found[key("seglog_next_offset", log=name)] for name in ("a", "b")] == [0, 2]
    assert found[key("seglog_forward_sent_records_total", log="b", consumer="", sink="there")] == 2
    assert text.count("# TYPE seglog_up ") == 1


def test_a_registry_of_ones_own_and_no_other(tmp_path: Path) -> None:
    before = {metric.name for metric in REGISTRY.collect()}
    registry = CollectorRegistry()
    with seglog.open(tmp_path) as log:
        collector = Collector(log, "l")
        registry.register(collector)
        log.append(b"one")
        assert registry.get_sample_value("seglog_next_offset", {"log": "l"}) == 1
        assert "python_info" not in collector.text()
    assert registry.get_sample_value("seglog_up", {"log": "l"}) == 0  # closed since
    assert registry.get_sample_value("seglog_next_offset", {"log": "l"}) is None
    assert {metric.name for metric in REGISTRY.collect()} == before


def test_dead_letters_that_cannot_be_read_are_not_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with seglog.open(tmp_path) as log:
        (tmp_path / "dead").rename(tmp_path / "elsewhere")
        (tmp_path / "dead").write_text("no directory")
        found = parsed(Collector(log, "l").text())
        (tmp_path / "dead").unlink()
        (tmp_path / "elsewhere").rename(tmp_path / "dead")
    assert found[key("seglog_up", log="l")] == 1
    assert not any(name == "seglog_dead_letters" for name, _ in found)
    assert "the dead letters cannot be read" in caplog.text


def test_names_of_any_kind(tmp_path: Path) -> None:
    name = 'a "quoted"\\ name\nof two lines'
    with seglog.open(tmp_path) as log:
        assert parsed(Collector(log, name).text())[key("seglog_up", log=name)] == 1


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name, shown = os.fsdecode(b"l\xff"), r"l\udcff"
    counts = ForwardStats(1, 1, 0, 0)
    with seglog.open(tmp_path / name) as log, log.consumer("c"):
        assert parsed(Collector(log, name).text())[key("seglog_consumer_lag_records", log=shown, consumer="c")] == 0
        readings = [Reading(name, log.stats(), None, (Forwarding("c", f"file:{name}", counts, True),))]
    found = parsed(exposition(families(readings)))
    assert found[key("seglog_next_offset", log=shown)] == 0
    for figure in ("healthy", "sent_records_total"):
        assert found[key(f"seglog_forward_{figure}", log=shown, consumer="c", sink=rf"file:{shown}")] == 1


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with seglog.open(tmp_path) as log, pytest.raises(InvalidOption, match=r"pip install 'seglog\[metrics\]'"):
        Collector(log)
