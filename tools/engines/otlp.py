"""rotel, a collector for OpenTelemetry in one process. What it takes it prints, and that is read back.

It answers first, then prints, and keeps nothing. So that what it answered for is not lost with it, which would not be
the sink's doing, it is asked to end where others are killed. Where TLS or users are wanted, nginx stands before it.
"""

from __future__ import annotations

import http.client
import importlib.util
import itertools
import json
import re
import signal
import subprocess
from pathlib import Path

from tools.engines.front import Front
from tools.engines.server import START_SECONDS, Arrived, Engine, free_port, wait_until

_RECORD = re.compile(
    r"^LogRecord #\d+\n.*?^Body: (.*?)\nAttributes:\n(.*?)^    Trace ID {7}: ", re.DOTALL | re.MULTILINE
)
_ATTRIBUTE = re.compile(r"^     -> (\S+): (.*?)\n(?=     -> |\Z)", re.DOTALL | re.MULTILINE)
_HEADER = "seglog.header."


class Otlp(Engine):
    name = "OTLP (rotel)"
    modules = ("rotel", "opentelemetry.proto")
    restarted = "asked to end, and started again"
    dedupes = False  # the protocol has no keys, and a collector cannot be asked what it has
    too_large = 24 << 20  # it takes requests of 20 MiB
    insecure = (
        f"rotel has no TLS for what it receives, and no users; before it: {Front.without()}" if Front.without() else ""
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._front = Front(folder / "front", self.port)
        self._marks = itertools.count()

    def command(self) -> list[str]:
        spec = importlib.util.find_spec("rotel")
        assert spec is not None
        assert spec.origin is not None
        agent = Path(spec.origin).with_name("rotel-agent")
        where = ["--otlp-http-endpoint", f"127.0.0.1:{self.port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
        files = ["--pid-file", str(self.folder / "pid"), "--log-file", str(self.folder / "agent.log")]
        shown = ["--exporter", "blackhole", "--debug-log", "logs", "--debug-log-verbosity", "detailed"]
        return [str(agent), "start", *where, *files, *shown]

    def answers(self) -> None:
        self._ask("GET", "/")

    def _ask(self, method: str, path: str, body: str = "") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def protect(self) -> None:
        super().protect()
        self._front.protect()

    def encrypt(self) -> None:
        self._front.encrypt()
        self.certificate = self._front.certificate

    @property
    def _fronted(self) -> bool:
        return self.protected or self.certificate is not None

    def start(self) -> None:
        super().start()
        if self._fronted:
            self._front.start()

    def kill(self) -> None:
        self._front.kill()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                super().kill()
                raise
        super().kill()

    stop = kill

    def url(self, target: str) -> str:
        port = self._front.port if self._fronted else self.port
        return f"otlp+http{'s' if self.certificate else ''}://127.0.0.1:{port}?service={target}"

    def arrived(self, target: str) -> list[Arrived]:
        """Waits for a record of our own, sent behind all others, to be printed."""
        mark = f"mark {next(self._marks)}"
        text = {"stringValue": mark}
        logs = [{"attributes": [{"key": "mark", "value": text}], "body": text}]
        record = {"resourceLogs": [{"scopeLogs": [{"logRecords": logs}]}]}
        assert self._ask("POST", "/v1/logs", json.dumps(record)) == http.HTTPStatus.OK
        shown = self.folder / "server.log"
        wait_until(lambda: f"Body: Str({mark})".encode() in shown.read_bytes(), what=lambda: f"{mark} is not printed")
        return [one for match in _RECORD.finditer(shown.read_bytes().decode()) if (one := _arrived(*match.groups()))]


def _arrived(body: str, attributes: str) -> Arrived | None:
    """None for a mark."""
    found = {name: _value(shown) for name, shown in _ATTRIBUTE.findall(attributes)}
    if "seglog.id" not in found:
        return None
    headers = {name.removeprefix(_HEADER): value for name, value in found.items() if name.startswith(_HEADER)}
    return Arrived(found["seglog.id"].decode(), _value(body), found.get("seglog.key"), headers)


def _value(shown: str) -> bytes:
    """What `Str(text)`, `Bytes([1, 2])` and `Int(1)` stand for."""
    kind, _, rest = shown.removesuffix(")").partition("(")
    return bytes(map(int, re.findall(r"\d+", rest))) if kind == "Bytes" else rest.encode()
