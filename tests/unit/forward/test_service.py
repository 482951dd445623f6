"""The service in this process: what its snapshot says of each route, and routes that come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.consumers.consumer import Consumer
from seglog.errors import LogNotFound
from seglog.forward import ForwardStats
from seglog.forward.routes import Route
from seglog.forward.service import THREAD_NAMES, RouteState, Service, describe
from tests.unit.forward.conftest import Answer, Collector

pytest.importorskip("urllib3", reason="the extra 'http' is not installed")

DEADLINE_SECONDS = 20.0


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.stop()
    assert made.wait(DEADLINE_SECONDS)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"one", b"two", b"three"])
    return tmp_path / "log"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def route(log: Path, url: str, **more: object) -> Route:
    return Route(**{"name": log.name, "directory": log, "to": url, "linger": 0.0, **more})  # type: ignore[arg-type]


def only(service: Service) -> RouteState:
    (state,) = service.snapshot()
    return state


def test_a_route_that_is_well(service: Service, log: Path, collector: Collector) -> None:
    service.apply([route(log, f"{collector.url}?token=SECRET", consumer="up", name="orders")])
    wait_until(lambda: (standing := only(service).standing) is not None and standing.watermark == 3)
    state = only(service)
    assert state.standing is not None
    assert state.standing.lag_records == 0
    assert state == RouteState(
        name="orders",
        directory=str(log),
        consumer="up",
        sink=collector.url,
        stats=ForwardStats(3, 1, 0, 0),
        alive=True,
        healthy=True,
        error=None,
        standing=state.standing,
    )


def test_asking_how_it_is_waits_for_no_consumer(
    service: Service, log: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may hold the consumer in a call to a disk that hangs."""
    service.apply([route(log, collector.url)])
    wait_until(lambda: only(service).standing is not None)
    asked: list[str] = []
    stats = Consumer.stats

    def noted(consumer: Consumer[Any]) -> Any:
        asked.append(threading.current_thread().name)
        return stats(consumer)

    monkeypatch.setattr(Consumer, "stats", noted)
    wait_until(lambda: bool(asked))
    for _ in range(5):
        only(service)
    assert all(name.startswith(THREAD_NAMES) for name in asked), asked


def test_a_route_that_waits_for_its_log(
    service: Service, tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "seglog")
    service.apply([route(tmp_path / "later", collector.url)])
    wait_until(lambda: "no log yet" in caplog.text)
    state = only(service)
    assert (state.alive, state.healthy, state.error, state.standing) == (True, True, None, None)


def test_a_far_end_that_is_away_and_comes_back(service: Service, log: Path, collector: Collector) -> None:
    collector.answer = lambda request: Answer(503)
    service.apply([route(log, collector.url)])
    wait_until(lambda: not only(service).healthy)
    state = only(service)
    assert state.alive
    assert state.error == f"{collector.url}: HTTP 503 Service Unavailable"
    assert state.standing is not None
    assert state.standing.lag_records == 3
    collector.answer = lambda request: Answer()
    wait_until(lambda: only(service).stats.sent_records == 3)
    assert (only(service).healthy, only(service).error) == (True, None)


def test_what_attempts_did_adds_up(service: Service, log: Path, collector: Collector) -> None:
    answers = iter([200, *[503] * 4])
    collector.answer = lambda request: Answer(next(answers, 200))
    service.apply([route(log, collector.url, batch_records=1, patience=0.0)])
    wait_until(lambda: only(service).stats.sent_records == 3)
    assert only(service).stats == ForwardStats(3, 3, 0, 4)
    assert collector.accepted == [b"one", b"two", b"three"]


def test_a_route_that_cannot_begin(service: Service, log: Path, collector: Collector) -> None:
    with seglog.open(log, mode="r") as holder, holder.consumer("forward"):
        service.apply([route(log, collector.url)])
        wait_until(lambda: only(service).error is not None)
        state = only(service)
        assert (state.alive, state.healthy, state.standing) == (True, False, None)
        assert "forward" in str(state.error)
    wait_until(lambda: only(service).stats.sent_records == 3)
    assert only(service).healthy


def test_a_send_that_hangs_is_not_alive(
    service: Service, log: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seglog.forward.service._BUSY_SECONDS", 0.0)
    go_on = threading.Event()

    class Stubborn:
        def send(self, batch: object) -> None:
            go_on.wait(DEADLINE_SECONDS)

    monkeypatch.setattr(Route, "open_sink", lambda self: Stubborn())
    service.apply([route(log, collector.url, timeout=0.1)])
    wait_until(lambda: not service.alive())
    state = only(service)
    assert (state.alive, state.healthy, state.standing) == (False, False, None)
    assert state.error == "hangs, longer than a send may take"
    service.apply([])
    assert service.snapshot() == []
    assert not service.alive(), "its thread is still there"
    go_on.set()
    assert service.wait(DEADLINE_SECONDS)
    assert service.alive()


def test_a_fault_of_the_program_takes_no_route_away(
    service: Service, log: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Route.open_sink
    faults = iter([RuntimeError("a bug")])

    def open_sink(self: Route) -> object:
        for fault in faults:
            raise fault
        return made(self)

    monkeypatch.setattr(Route, "open_sink", open_sink)
    service.apply([route(log, collector.url)])
    wait_until(lambda: only(service).stats.sent_records == 3)


def test_once_ends_and_says_what_failed(log: Path, tmp_path: Path, collector: Collector) -> None:
    service = Service(once=True)
    service.apply([route(log, collector.url), route(tmp_path / "missing", collector.url)])
    assert service.wait(DEADLINE_SECONDS)
    (failure,) = service.failures()
    assert isinstance(failure, LogNotFound)
    assert collector.accepted == [b"one", b"two", b"three"]
    assert [state.stats.sent_records for state in service.snapshot()] == [3, 0]


def test_changes_are_told(service: Service, tmp_path: Path, collector: Collector) -> None:
    a, b, c = (route(tmp_path / name, collector.url) for name in "abc")
    changes = service.apply([a, b])
    assert (changes.started, changes.stopped, changes.restarted, changes.unchanged) == (("a", "b"), (), (), ())
    changes = service.apply([c, route(tmp_path / "b", collector.url, batch_records=1)])
    assert (changes.started, changes.stopped, changes.restarted, changes.unchanged) == (("c",), ("a",), ("b",), ())
    assert [state.name for state in service.snapshot()] == ["c", "b"]


def test_changed_again_and_again_it_has_one_holder_at_a_time(
    service: Service, log: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 11):
        service.apply([route(log, collector.url, batch_records=number)])
    wait_until(lambda: service.snapshot()[0].standing is not None)
    with seglog.open(log) as writer:
        writer.append(b"four")
    wait_until(lambda: collector.accepted[-1:] == [b"four"])
    assert collector.accepted == [b"one", b"two", b"three", b"four"]
    assert [record.message for record in caplog.records if "tried again" in record.message] == []


def test_errors_in_one_line() -> None:
    assert describe(LogNotFound("no such directory")) == "no such directory"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(RuntimeError()) == "RuntimeError"
