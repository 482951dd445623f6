"""`seglog forward`: through the real command to a real HTTP server on this machine."""

from __future__ import annotations

import gzip
import http.server
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

import seglog
from seglog.cli import exit_codes
from tests.cli.conftest import TIMEOUT, Cli, one_line, read_lines, wait_until


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.tokens: list[str | None] = []
        self.headers: list[dict[str, str | None]] = []
        self.silent_at = 0  # the number of the request that is kept and never answered
        self.gone = threading.Event()  # whoever waits for that answer in vain is no longer there
        self.status = 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/events"

    def lines(self) -> list[bytes]:
        return b"".join(self.bodies).splitlines()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.append(self.headers["Authorization"])
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.bodies.append(body)
        if len(self.server.bodies) == self.server.silent_at:
            self.server.gone.wait(TIMEOUT)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("urllib3", reason="the extra 'http' is not installed")
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(10)])
    return tmp_path / "log"


def test_once_to_stdout(cli: Cli, log: Path) -> None:
    result = cli("forward", log, "--to", "stdout:", "--once")
    assert result.returncode == 0
    assert result.stdout == b"".join(b"%d\n" % number for number in range(10))
    assert "forwarded 10 records in 1 batches" in one_line(result.stderr)
    assert cli("forward", log, "--to", "stdout:", "--once").stdout == b""
    assert cli("consume", log, "--consumer", "forward").stdout == b""


def test_once_to_a_collector(cli: Cli, log: Path, collector: Collector) -> None:
    result = cli(
        *("forward", log, "--to", collector.url, "--once", "--consumer", "up", "--batch-records", "3"),
        *("--format", "envelope", "--header", "Authorization: Bearer T"),
    )
    assert result.returncode == 0
    assert [json.loads(line)["payload"] for line in collector.lines()] == [str(number) for number in range(10)]
    assert len(collector.bodies) == 4
    assert set(collector.tokens) == {"Bearer T"}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_p5_after_a_kill_the_same_batch_comes_again_byte_for_byte(
    cli: Cli, tmp_path: Path, collector: Collector, encoding: str
) -> None:
    """The collector has the batch, its answer is lost with the forwarder, and there are more records by then."""
    options = ("--batch-records", "20", "--linger", "0", "--format", "envelope", "--content-encoding", encoding)
    collector.silent_at = 2
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"%d" % number for number in range(30)])
        process = cli.start("forward", tmp_path / "log", "--to", collector.url, *options)
        wait_until(lambda: len(collector.bodies) == 2)
        process.send_signal(signal.SIGKILL)
        assert cli.end(process)[0] == -signal.SIGKILL
        collector.gone.set()
        log.append_many([b"%d" % number for number in range(30, 60)])
        again = cli("forward", tmp_path / "log", "--to", collector.url, "--once", *options)
        assert again.returncode == exit_codes.OK
        log_id = log.id
        assert seglog.verify(tmp_path / "log").warnings == ()
    keys = [headers["idempotency-key"] for headers in collector.headers]
    expected = ("0-19", "20-29", "20-29", "30-49", "50-59")
    assert keys == [f"{log_id}:{offsets}" for offsets in expected]
    assert collector.bodies[2] == collector.bodies[1]
    once = dict(zip(keys, collector.bodies, strict=True)).values()  # as a far end does that drops repeats by key
    lines = [line for body in once for line in (gzip.decompress(body) if encoding == "gzip" else body).splitlines()]
    assert [json.loads(line)["payload"] for line in lines] == [str(number) for number in range(60)]


def test_cloudevents_and_content_encoding(cli: Cli, log: Path, collector: Collector) -> None:
    options = ("--format", "cloudevents", "--content-encoding", "zstd")
    assert cli("forward", log, "--to", collector.url, "--once", *options).returncode == exit_codes.OK
    assert collector.headers[0]["content-type"] == "application/cloudevents-batch+json"
    assert collector.headers[0]["content-encoding"] == "zstd"
    events = json.loads(zstandard.ZstdDecompressor().decompress(collector.bodies[0]))
    assert [event["data"] for event in events] == list(range(10))


def test_batch_bytes_counts_payloads(cli: Cli, log: Path, collector: Collector) -> None:
    assert cli("forward", log, "--to", collector.url, "--once", "--batch-bytes", "4B").returncode == 0
    assert [len(body.split()) for body in collector.bodies] == [4, 4, 2]


def test_after_max_refused_it_is_no_fault_of_the_records(cli: Cli, log: Path, collector: Collector) -> None:
    collector.status = 400
    result = cli("forward", log, "--to", collector.url, "--once", "--max-refused", "2", "--patience", "0.3")
    assert result.returncode == exit_codes.FAILED
    assert json.loads(cli("stat", log, "--json").stdout)["dead_letters"] == 2
    collector.status = 204
    collector.bodies.clear()
    assert cli("forward", log, "--to", collector.url, "--once").returncode == exit_codes.OK
    assert len(collector.lines()) == 8


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, exit_codes.OK), (signal.SIGINT, exit_codes.INTERRUPTED)]
)
def test_it_waits_for_the_log_and_goes_on_until_stopped(
    cli: Cli, tmp_path: Path, collector: Collector, number: int, expected: int
) -> None:
    process = cli.start("forward", tmp_path / "log", "--to", collector.url, "--linger", "0")
    assert process.stderr is not None
    assert b"waiting" in process.stderr.readline()
    with seglog.open(tmp_path / "log") as writer:
        for count in range(1, 4):
            writer.append(b"event")
            wait_until(lambda count=count: len(collector.lines()) == count)  # type: ignore[misc]
    process.send_signal(number)
    code, _, err = cli.end(process)
    assert code == expected
    assert "forwarded 3 records" in one_line(err)
    assert cli("consume", tmp_path / "log", "--consumer", "forward").stdout == b""


def test_a_signal_while_it_waits_for_the_log(cli: Cli, tmp_path: Path) -> None:
    process = cli.start("forward", tmp_path / "log", "--to", "stdout:")
    assert process.stderr is not None
    assert b"waiting" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert cli.end(process) == (exit_codes.OK, b"", "")
    assert not (tmp_path / "log").exists()


def test_the_timeout_ends_the_wait_for_a_collector_that_does_not_answer(cli: Cli, log: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        result = cli("forward", log, "--to", url, "--once", "--timeout", "0.2", "--patience", "0.1")
        assert time.monotonic() - began < 10
    assert result.returncode == exit_codes.FAILED
    assert b"nothing could be forwarded for 0.1 s" in result.stderr


def test_an_unreachable_collector_is_waited_for_with_patience(cli: Cli, log: Path, collector: Collector) -> None:
    url = collector.url
    collector.server_close()
    result = cli("forward", log, "--to", url, "--once", "--patience", "0.3")
    assert result.returncode == exit_codes.FAILED
    assert b"Traceback" not in result.stderr
    assert cli("consume", log, "--consumer", "forward").stdout.count(b"\n") == 10  # nothing was taken for handled


@pytest.mark.parametrize(
    "url", ["", "collector", "gopher://127.0.0.1/", "http://", "http://:80/", "http://127.0.0.1:x/", "stdout:x"]
)
def test_malformed_urls(cli: Cli, log: Path, url: str) -> None:
    result = cli("forward", log, "--to", url, "--once")
    assert result.returncode == exit_codes.USAGE
    one_line(result.stderr)
    assert json.loads(cli("stat", log, "--json").stdout)["consumers"] == {}


@pytest.mark.parametrize(
    "options",
    [
        ["--consumer", "../x"],
        ["--batch-records", "0"],
        ["--batch-bytes", "x"],
        ["--linger", "-1"],
        ["--format", "xml"],
        ["--format", "cloudevents"],
        ["--content-encoding", "br"],
        ["--content-encoding", "gzip"],
        ["--header", "no colon"],
    ],
    ids=" ".join,
)
def test_bad_options(cli: Cli, log: Path, options: list[str]) -> None:
    result = cli("forward", log, "--to", "stdout:", "--once", *options)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    assert b"Traceback" not in result.stderr


def test_a_reader_that_leaves_takes_nothing_with_it(cli: Cli, log: Path) -> None:
    process = cli.start("forward", log, "--to", "stdout:")
    assert process.stdout is not None
    assert len(read_lines(process, 10)) == 10
    process.stdout.close()
    with seglog.open(log) as writer:
        writer.append(b"unheard")
    assert process.wait(TIMEOUT) == exit_codes.OK
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert cli("consume", log, "--consumer", "forward").stdout == b"unheard\n"
