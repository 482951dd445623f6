"""How a forwarder is doing, over HTTP, for Prometheus and whoever restarts what hangs. It shows; it changes nothing.

    /healthz   200 while no route hangs: a route that waits for its far end is well, since a restart would not help
    /readyz    200 while nothing keeps any route from forwarding
    /metrics   what Prometheus reads; needs the extra `metrics`

Where not, the answer is 503, with a line for each route that is not well. It listens on the loopback interface unless
an address is given. Who asks slowly, or too often at a time, is hung up on; forwarding takes no notice.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from seglog.clock import SystemClock
from seglog.errors import InvalidOption, SeglogError, storage_error
from seglog.forward.service import RouteState
from seglog.metrics import Forwarding, Reading, check_installed, exposition, families, reading
from seglog.open_log import open_log
from seglog.tally import Tally

_logger = logging.getLogger("seglog")

LOOPBACK = "127.0.0.1"
_AT_A_TIME = 8  # requests; one more is hung up on
_REQUEST_SECONDS = 5.0  # how long a client may take for its request, and for taking the answer
_PAUSE_SECONDS = 0.2  # after a connection that could not be taken, as when descriptors ran out: it is still there
_TEXT = "text/plain; charset=utf-8"

States = Callable[[], Sequence[RouteState]]
Answer = tuple[int, str, str]  # status, content type, body


def address(text: str) -> tuple[str, int]:
    """Host and port: `9464` is the loopback interface, others are named: `0.0.0.0:9464`, `[::]:9464`.

    Raises InvalidOption.
    """
    match = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/@]+)):)?(\d{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535 or not _is_host(match[2] or LOOPBACK):
        raise InvalidOption(f"{text!r} is no address to listen on; write it like 9464, 127.0.0.1:9464 or [::1]:9464")
    return match[1] or match[2] or LOOPBACK, int(match[3])


def _is_host(name: str) -> bool:
    """Whether it can be asked for: its labels are neither empty nor too long."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


class Endpoint:
    """Listens from the moment it is made until it is closed. Its threads are daemons: a process may end without it.

    Args:
        host, port: where; port 0 takes one that is free, see `url`.
        states: asked at each request, in a thread of its own.

    Raises StorageError if it cannot listen there.
    """

    def __init__(self, host: str, port: int, states: States) -> None:
        self._pages = {"/healthz": self._health, "/readyz": self._readiness, "/metrics": self._metrics}
        self._states = states
        self._tallies: dict[str, Tally] = {}
        try:
            self._server = _Server(host, port, self.answer)
        except OSError as error:
            raise storage_error(error, f"listening on {host}:{port}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="endpoint", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host, port = self._server.server_name, self._server.server_port
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Listen no more; requests under way are not waited for."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, path: str) -> Answer:
        """What a request for this path gets; nothing that goes wrong in here is raised."""
        page = self._pages.get(path.partition("?")[0])
        if page is None:
            return 404, _TEXT, "".join(f"{name}\n" for name in self._pages)
        try:
            return page()
        except Exception as error:  # the one who asks is told, and asks again; the forwarder has other things to do
            _logger.debug("no answer to %s", path, exc_info=True)
            return 500, _TEXT, f"{type(error).__name__}: {error}\n"

    def _health(self) -> Answer:
        return _verdict([(state, state.alive) for state in self._states()])

    def _readiness(self) -> Answer:
        return _verdict([(state, state.healthy) for state in self._states()])

    def _metrics(self) -> Answer:
        try:
            check_installed()
        except InvalidOption as error:
            return 501, _TEXT, f"{error}\n"
        from prometheus_client import CONTENT_TYPE_LATEST

        by_directory: dict[str, list[Forwarding]] = {}
        for state in self._states():
            one = Forwarding(state.consumer, state.sink, state.stats, state.healthy)
            by_directory.setdefault(state.directory, []).append(one)
        found = [self._reading(directory, tuple(routes)) for directory, routes in by_directory.items()]
        return 200, CONTENT_TYPE_LATEST, exposition(list(families(found)))

    def _reading(self, directory: str, forwarding: tuple[Forwarding, ...]) -> Reading:
        """By an opening of its own: that of the route is the route's, and may come and go at any time."""
        try:
            with open_log(directory, mode="r") as log:
                return reading(log, directory, self._tallies.setdefault(directory, Tally()), forwarding)
        except (SeglogError, OSError) as error:  # no log yet, mostly; the others' figures are there all the same
            _logger.debug("no metrics of %s: %s", directory, error)
            return Reading(directory, None, None, forwarding)


def _verdict(states: Sequence[tuple[RouteState, bool]]) -> Answer:
    ill = [f"{state.name}: {state.error or 'not well'}" for state, well in states if not well]
    if ill:
        return 503, _TEXT, "".join(f"{' '.join(line.split())}\n" for line in ill)
    return 200, _TEXT, f"ok, {len(states)} routes\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _AT_A_TIME

    def __init__(self, host: str, port: int, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._slots = threading.BoundedSemaphore(_AT_A_TIME)
        self._asking: dict[Any, float] = {}  # connections whose request is not there yet, and until when it may come
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without asking DNS for a name of the host, as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            SystemClock.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._asking[request] = SystemClock.monotonic() + _REQUEST_SECONDS
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.heard(request)
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.heard(request)
            self._slots.release()

    def heard(self, request: Any) -> None:
        """All of what is asked is there."""
        self._asking.pop(request, None)

    def service_actions(self) -> None:
        """A timeout of the socket begins anew with each byte, and a few bytes would hold all the slots."""
        for request, until in list(self._asking.items()):
            if SystemClock.monotonic() > until:
                with contextlib.suppress(OSError):  # its thread closed it a moment ago
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, mostly. It is no affair of whoever reads the forwarder's output."""
        _logger.debug("a request of %s was not answered", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS

    def version_string(self) -> str:
        return "seglog"

    def do_GET(self) -> None:
        server = cast(_Server, self.server)
        server.heard(self.request)
        status, kind, body = server.answer(self.path)
        data = body.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: somebody asks every few seconds, for ever."""
