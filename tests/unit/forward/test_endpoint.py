"""The endpoint of a forwarder: what it answers, and that nobody who asks can hurt it."""

from __future__ import annotations

import contextlib
import errno
import http.client
import itertools
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import seglog
from seglog.errors import InvalidOption, StorageError
from seglog.forward import ForwardStats
from seglog.forward import endpoint as module
from seglog.forward.endpoint import Endpoint, address
from seglog.forward.service import RouteState

TIMEOUT = 30.0
WELL = RouteState(
    name="orders",
    directory="orders",
    consumer="forward",
    sink="redis://host/orders",
    stats=ForwardStats(7, 3, 2, 5),
    alive=True,
    healthy=True,
    error=None,
    standing=None,
)
AWAY = replace(WELL, name="clicks", directory="clicks", healthy=False, error="host: connection refused")
HANGS = replace(WELL, name="audit", directory="audit", alive=False, healthy=False, error="hangs,\nlonger than a send")


class Asked:
    """An endpoint, and what it is told when it asks."""

    def __init__(self) -> None:
        self.states: Callable[[], Sequence[RouteState]] = lambda: [WELL]
        self.endpoint = Endpoint("127.0.0.1", 0, self._told)

    def _told(self) -> Sequence[RouteState]:
        return self.states()

    def __call__(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = self.connection()
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.endpoint.url.removeprefix("http://"), timeout=TIMEOUT)

    def plug(self) -> socket.socket:
        host, _, port = self.endpoint.url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), timeout=TIMEOUT)


@pytest.fixture
def ask() -> Iterator[Asked]:
    asked = Asked()
    with asked.endpoint:
        yield asked


@pytest.mark.parametrize(
    ("states", "health", "readiness"),
    [
        ([WELL], (200, "ok, 1 routes\n"), (200, "ok, 1 routes\n")),
        ([WELL, AWAY], (200, "ok, 2 routes\n"), (503, "clicks: host: connection refused\n")),
        (
            [HANGS, WELL, AWAY],
            (503, "audit: hangs, longer than a send\n"),
            (503, "audit: hangs, longer than a send\nclicks: host: connection refused\n"),
        ),
        ([], (200, "ok, 0 routes\n"), (200, "ok, 0 routes\n")),
    ],
)
def test_health_and_readiness(
    ask: Asked, states: list[RouteState], health: tuple[int, str], readiness: tuple[int, str]
) -> None:
    ask.states = lambda: states
    assert (ask("/healthz"), ask("/readyz?verbose=1")) == (health, readiness)
    assert ask("/healthz", "HEAD") == (health[0], "")


def test_other_paths_and_methods(ask: Asked) -> None:
    assert ask("/") == (404, "/healthz\n/readyz\n/metrics\n")
    assert ask("/healthz/../metrics")[0] == 404
    assert ask("/healthz", "POST")[0] == 501


def test_metrics_of_logs_that_are_there_and_of_one_that_is_not(ask: Asked, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    there, missing = str(tmp_path / "orders"), str(tmp_path / "clicks")
    with seglog.open(there) as log, log.consumer("forward"):
        log.append_many([b"one", b"two"])
        ask.states = lambda: [replace(WELL, directory=there), replace(AWAY, directory=missing)]
        status, text = ask("/metrics")
    assert status == 200
    labels = f'{{consumer="forward",log="{there}",sink="redis://host/orders"}}'
    for line in (
        f'seglog_up{{log="{there}"}} 1.0',
        f'seglog_up{{log="{missing}"}} 0.0',
        f'seglog_next_offset{{log="{there}"}} 2.0',
        f'seglog_consumer_lag_records{{consumer="forward",log="{there}"}} 2.0',
        f"seglog_forward_sent_records_total{labels} 7.0",
        f"seglog_forward_refused_records_total{labels} 2.0",
        f"seglog_forward_failures_total{labels} 5.0",
        f"seglog_forward_healthy{labels} 1.0",
        f"seglog_forward_healthy{labels} 0.0".replace(there, missing),
    ):
        assert line in text.splitlines()


def test_a_directory_whose_name_is_not_utf8_takes_no_figures_from_the_others(ask: Asked, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    strange = str(tmp_path / os.fsdecode(b"l\xff"))
    with seglog.open(strange):
        ask.states = lambda: [WELL, replace(WELL, directory=strange)]
        status, text = ask("/metrics")
    assert status == 200
    assert rf'seglog_up{{log="{tmp_path}/l\\udcff"}} 1.0' in text.splitlines()


def test_without_the_extra_there_is_health_all_the_same(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, text = ask("/metrics")
    assert (status, "pip install 'seglog[metrics]'" in text) == (501, True)
    assert ask("/healthz")[0] == 200


def test_an_error_in_here_is_an_answer(ask: Asked, capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> Sequence[RouteState]:
        raise RuntimeError("no states")

    ask.states = fails
    assert ask("/healthz") == (500, "RuntimeError: no states\n")
    ask.states = lambda: [WELL]
    assert ask("/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_who_goes_away_or_talks_nonsense_leaves_no_trace(ask: Asked, capfd: pytest.CaptureFixture[str]) -> None:
    with ask.plug() as plug:
        plug.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert b"400" in plug.recv(1000)
    for data in (b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.0\r\n\r\n"):
        with ask.plug() as plug:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # closed by a reset
            plug.sendall(data)
    assert ask("/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_so_many_at_a_time_and_no_more(ask: Asked) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    def waits() -> Sequence[RouteState]:
        inside.release()
        assert go_on.wait(TIMEOUT)
        return [WELL]

    ask.states = waits
    connections = [ask.connection() for _ in range(module._AT_A_TIME)]
    try:
        for connection in connections:
            connection.request("GET", "/healthz")
            assert inside.acquire(timeout=TIMEOUT)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask("/healthz")
        go_on.set()
        assert [connection.getresponse().status for connection in connections] == [200] * module._AT_A_TIME
    finally:
        go_on.set()
        for connection in connections:
            connection.close()
    ask.states = lambda: [WELL]
    assert answered(ask), "the slots did not come back"


def answered(ask: Asked) -> bool:
    """Whether there is an answer, in bounded time: the slots come back when the threads of others end."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            return ask("/healthz")[0] == 200
    return False


def hung_up(plug: socket.socket) -> bool:
    """Whether the other side closed, or did so when we wrote."""
    plug.settimeout(0.01)
    try:
        return plug.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_who_asks_slowly_is_hung_up_on(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < module._REQUEST_SECONDS < 60
    monkeypatch.setattr(module, "_REQUEST_SECONDS", 0.1)
    with ask.plug() as plug:
        plug.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        deadline = time.monotonic() + TIMEOUT
        while not hung_up(plug):
            assert time.monotonic() < deadline
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next look sees it
                plug.sendall(b"x")  # never quiet for long


def test_who_has_asked_may_wait_for_the_answer(ask: Asked) -> None:
    def waiting() -> Sequence[RouteState]:
        assert ask.endpoint._server._asking == {}, "it would be hung up on"
        return [WELL]

    ask.states = waiting
    assert ask("/healthz")[0] == 200


def test_who_takes_no_answer_is_hung_up_on(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._Handler.timeout is not None
    monkeypatch.setattr(module._Handler, "timeout", 0.1)
    ask.states = lambda: [replace(HANGS, error="x" * (32 << 20))]
    plugs: list[socket.socket] = []
    try:
        for _ in range(module._AT_A_TIME):
            plugs.append(plug := ask.plug())
            plug.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert plug.recv(1) == b"H"
        ask.states = lambda: [WELL]
        assert answered(ask)
    finally:
        for plug in plugs:
            plug.close()


def test_without_a_descriptor_for_who_asks_it_is_no_busy_loop(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    def out_of_descriptors(server: object) -> None:
        tried.append(time.monotonic())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as out:
        out.setattr(socketserver.TCPServer, "get_request", out_of_descriptors)
        with ask.plug():
            deadline = time.monotonic() + TIMEOUT
            while len(tried) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert min(later - earlier for earlier, later in itertools.pairwise(tried)) > 0.15
    assert answered(ask)


def test_who_no_thread_can_be_started_for_is_hung_up_on_and_forgotten(
    ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", no_thread)
        for _ in range(module._AT_A_TIME + 1):
            with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
                ask("/healthz")
    assert answered(ask)
    assert ask.endpoint._server._asking == {}


def test_closing_is_not_held_up_by_a_request(ask: Asked) -> None:
    with ask.plug():
        ask.endpoint.close()
        with pytest.raises(ConnectionRefusedError):
            ask.plug()


def test_a_port_that_is_taken(ask: Asked) -> None:
    host, _, port = ask.endpoint.url.removeprefix("http://").partition(":")
    with pytest.raises(StorageError, match=f"listening on {host}:{port}: "):
        Endpoint(host, int(port), list)


def test_ipv6() -> None:
    try:
        made = Endpoint("::1", 0, lambda: [WELL])
    except StorageError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with made:
        assert made.url.startswith("http://[::1]:")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9464",
        "::1:9464",
        "host",
        "65536",
        "-1",
        "http://h:1",
        "a b:1",
        "[::1]",
        "٩",
        "a..b:1",
        "ä..b:1",
        "\udcff:1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidOption, match="is no address to listen on"):
        address(text)
