"""`seglog forward --config`: real processes, real far ends on this machine, and a stand-in for systemd."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import seglog
from seglog.cli import exit_codes
from seglog.cli.stopping import Stop
from tests.cli.conftest import TIMEOUT, Cli, one_line, wait_until
from tests.cli.test_forward import Collector


class Gate(Collector):
    """Answers when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.asked = 0

    def verify_request(self, request: object, client_address: object) -> bool:
        self.asked += 1
        return self.open.wait(TIMEOUT)


@pytest.fixture
def serve() -> Iterator[Callable[[Collector], Collector]]:
    """Starts far ends."""
    pytest.importorskip("urllib3", reason="the extra 'http' is not installed")
    with contextlib.ExitStack() as stack:

        def start(server: Collector) -> Collector:
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown)
            if isinstance(server, Gate):
                stack.callback(server.open.set)
            return server

        yield start


@pytest.fixture
def far(serve: Callable[[Collector], Collector]) -> Collector:
    return serve(Collector())


@pytest.fixture
def other(serve: Callable[[Collector], Collector]) -> Collector:
    return serve(Collector())


@pytest.fixture
def gate(serve: Callable[[Collector], Collector]) -> Gate:
    found = serve(Gate())
    assert isinstance(found, Gate)
    return found


class Running:
    """The service as a process. What it says is kept in a file."""

    def __init__(self, cli: Cli, folder: Path, *args: str) -> None:
        self._said = folder / "said"
        with self._said.open("wb") as said:
            command = ("forward", "--config", folder / "spool.toml", *args)
            self.process = cli.start(*command, stderr=said, stdout=subprocess.DEVNULL, cwd=folder)

    @property
    def said(self) -> str:
        return self._said.read_text("utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two logs, of three records each."""
    for name in ("a", "b"):
        append(tmp_path / name, *(f"{name}{number}" for number in range(3)))
    return tmp_path


def append(log: Path, *texts: str) -> None:
    with seglog.open(log) as writer:
        writer.append_many([text.encode() for text in texts])


def route(directory: str, to: str, *more: str) -> str:
    return "\n".join(["[[route]]", f'directory = "{directory}"', f'to = "{to}"', "linger = 0", *more, ""])


def configure(folder: Path, *routes: str) -> None:
    (folder / "spool.toml").write_text("\n".join(routes), "utf-8")


def left(cli: Cli, log: Path, consumer: str = "forward") -> list[bytes]:
    return cli("consume", log, "--consumer", consumer).stdout.splitlines()


# -- routes


def test_two_logs_go_to_two_far_ends(cli: Cli, folder: Path, far: Collector, other: Collector) -> None:
    configure(
        folder,
        '[defaults]\nconsumer = "up"\nbatch_records = 2\n',
        route("a", far.url, 'headers = { Authorization = "Bearer A" }'),
        route("b", other.url, "batch_records = 1"),
    )
    service = Running(cli, folder)
    wait_until(lambda: len(far.lines()) == len(other.lines()) == 3)
    append(folder / "b", "b3")
    wait_until(lambda: len(other.lines()) == 4)
    assert service.end() == exit_codes.OK
    assert (far.lines(), other.lines()) == ([b"a0", b"a1", b"a2"], [b"b0", b"b1", b"b2", b"b3"])
    assert (len(far.bodies), len(other.bodies)) == (2, 4)
    assert (set(far.tokens), set(other.tokens)) == ({"Bearer A"}, {None})
    assert "a:up: forwarded 3 records in 2 batches; 0 refused, 0 failed attempts" in service.said
    assert left(cli, folder / "a", "up") == left(cli, folder / "b", "up") == []


def test_a_log_that_is_not_there_yet_is_waited_for(cli: Cli, tmp_path: Path, far: Collector) -> None:
    configure(tmp_path, route("later", far.url))
    service = Running(cli, tmp_path)
    service.wait_for("later: later: no log yet, waiting for one")
    append(tmp_path / "later", "event")
    wait_until(lambda: far.lines() == [b"event"])
    assert service.end() == exit_codes.OK


def test_a_route_that_fails_takes_no_other_with_it(cli: Cli, folder: Path, far: Collector) -> None:
    (folder / "c").mkdir()
    (folder / "c" / "letter.txt").touch()  # not a log
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
    configure(
        folder, route("a", away, "patience = 0.2"), route("b", far.url), route("c", far.url), route("d", "stdout:")
    )
    service = Running(cli, folder)
    wait_until(lambda: len(far.lines()) == 3)
    service.wait_for("a: nothing could be forwarded for 0.2 s")
    service.wait_for("c: ")
    append(folder / "b", "b3")
    wait_until(lambda: len(far.lines()) == 4)
    assert service.process.poll() is None
    assert service.end() == exit_codes.OK
    assert "Traceback" not in service.said
    assert len(left(cli, folder / "a")) == 3


def test_a_busy_consumer_is_told_once_and_tried_again(cli: Cli, folder: Path, far: Collector, other: Collector) -> None:
    configure(folder, route("a", far.url), route("b", other.url))
    with seglog.open(folder / "a", mode="r") as log, log.consumer("forward"):
        service = Running(cli, folder)
        wait_until(lambda: len(other.lines()) == 3)
        service.wait_for("; everything is kept, and tried again")
        time.sleep(0.5)  # a few tries: what is not said again cannot be waited for
        assert service.said.count("tried again") == 1
        assert far.lines() == []
    wait_until(lambda: len(far.lines()) == 3)
    service.wait_for("a: forwarding again")
    assert service.end() == exit_codes.OK


# -- once


def test_once_ends_when_all_is_forwarded(cli: Cli, folder: Path, far: Collector) -> None:
    configure(folder, route("a", far.url), route("b", far.url))
    result = cli("forward", "--config", folder / "spool.toml", "--once", cwd=folder)
    assert result.returncode == exit_codes.OK
    assert sorted(far.lines()) == [b"a0", b"a1", b"a2", b"b0", b"b1", b"b2"]


def test_once_exits_with_the_worst_of_them(cli: Cli, folder: Path, far: Collector) -> None:
    configure(folder, route("a", far.url), route("missing", far.url))
    result = cli("forward", "--config", folder / "spool.toml", "--once", cwd=folder)
    assert result.returncode == exit_codes.FAILED
    assert b"missing: missing: no such directory" in result.stderr
    assert far.lines() == [b"a0", b"a1", b"a2"]


# -- SIGHUP


def test_reloading_adds_removes_and_changes_routes(cli: Cli, folder: Path, far: Collector, other: Collector) -> None:
    configure(folder, route("a", far.url), route("b", far.url))
    service = Running(cli, folder)
    wait_until(lambda: len(far.lines()) == 6)
    configure(folder, route("a", other.url), route("c", other.url))
    service.send(signal.SIGHUP)
    service.wait_for("reloaded: started c; stopped b; restarted a\n")
    append(folder / "c", "c0")
    wait_until(lambda: b"c0" in other.lines())

    def goes_to_the_other() -> bool:  # what its old thread received before it ended went to the old far end
        append(folder / "a", "more")
        return b"more" in other.lines()

    wait_until(goes_to_the_other)
    with seglog.open(folder / "b", mode="r") as log:
        wait_until(lambda: free(log))
    before = len(far.lines())
    append(folder / "b", "b3")
    assert left(cli, folder / "b") == [b"b3"]
    configure(folder, route("b", other.url), route("c", other.url))
    service.send(signal.SIGHUP)
    service.wait_for("reloaded: started b; stopped a; unchanged c\n")
    append(folder / "b", "b4")
    wait_until(lambda: b"b4" in other.lines())
    assert service.end() == exit_codes.OK
    assert len(far.lines()) == before


def free(log: seglog.Log[bytes]) -> bool:
    """Whether nobody holds its consumer."""
    try:
        log.consumer("forward").close()
    except seglog.ConsumerBusy:
        return False
    return True


def test_an_unchanged_route_is_not_disturbed_in_its_send(cli: Cli, folder: Path, gate: Gate, far: Collector) -> None:
    configure(folder, route("a", gate.url))
    service = Running(cli, folder)
    wait_until(lambda: gate.asked == 1)
    configure(folder, "# only the text has changed\n", route("a", gate.url), route("b", far.url))
    service.send(signal.SIGHUP)
    service.wait_for("reloaded: started b; unchanged a\n")
    wait_until(lambda: len(far.lines()) == 3)
    gate.open.set()
    wait_until(lambda: len(gate.lines()) == 3)
    assert service.end() == exit_codes.OK
    assert gate.asked == 1
    assert "a: forwarded 3 records in 1 batches; 0 refused, 0 failed attempts" in service.said


def test_a_changed_route_ends_its_send_before_it_starts(cli: Cli, folder: Path, gate: Gate, far: Collector) -> None:
    configure(folder, route("a", gate.url))
    service = Running(cli, folder)
    wait_until(lambda: gate.asked == 1)
    configure(folder, route("a", far.url))
    service.send(signal.SIGHUP)
    service.wait_for("reloaded: restarted a\n")
    append(folder / "a", "a3")
    assert far.lines() == []
    gate.open.set()
    wait_until(lambda: far.lines() == [b"a3"])  # what the old one sent is not sent again
    assert service.end() == exit_codes.OK
    assert "tried again" not in service.said


@pytest.mark.parametrize("text", ["no toml", '[[route]]\ndirectory = "b"\nto = "gopher://x/"\n', None])
def test_an_invalid_new_file_changes_nothing(cli: Cli, folder: Path, far: Collector, text: str | None) -> None:
    configure(folder, route("a", far.url))
    service = Running(cli, folder)
    wait_until(lambda: len(far.lines()) == 3)
    if text is None:
        (folder / "spool.toml").unlink()
    else:
        configure(folder, text)
    service.send(signal.SIGHUP)
    service.wait_for(f"not reloaded, everything goes on as before: {folder / 'spool.toml'}: ")
    append(folder / "a", "a3")
    wait_until(lambda: len(far.lines()) == 4)
    assert service.end() == exit_codes.OK


def test_sighup_ends_one_wait_and_no_other() -> None:
    with Stop(reload=True) as stop:
        assert not stop.take_reload()
        os.kill(os.getpid(), signal.SIGHUP)
        stop.wait(TIMEOUT)
        assert not stop
        assert stop.take_reload()
        assert not stop.take_reload()
        assert select.select([stop], [], [], 0) == ([], [], [])


# -- the end


def test_sigterm_finishes_what_is_under_way(cli: Cli, folder: Path, gate: Gate) -> None:
    configure(folder, route("a", gate.url, "batch_records = 2"))
    service = Running(cli, folder)
    wait_until(lambda: gate.asked == 1)
    service.send(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        service.process.wait(0.5)
    gate.open.set()
    assert service.process.wait(TIMEOUT) == exit_codes.OK
    assert gate.lines() == [b"a0", b"a1"]
    assert left(cli, folder / "a") == [b"a2"]


def test_ctrl_c_does_the_same_and_a_second_one_leaves_at_once(cli: Cli, folder: Path, gate: Gate) -> None:
    configure(folder, route("later", "stdout:"))
    service = Running(cli, folder)
    service.wait_for("no log yet")
    assert service.end(signal.SIGINT) == exit_codes.INTERRUPTED
    configure(folder, route("a", gate.url))
    service = Running(cli, folder)
    wait_until(lambda: gate.asked == 1)
    service.send(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        service.process.wait(0.3)
    assert service.end(signal.SIGINT) == exit_codes.INTERRUPTED
    assert "Traceback" not in service.said


# -- what systemd hears


class Manager:
    """A stand-in for systemd: it hears what services notify."""

    def __init__(self, address: str, cli: Cli, watchdog_seconds: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.settimeout(0.01)
        self.heard: list[str] = []
        cli.environment["NOTIFY_SOCKET"] = address
        if watchdog_seconds is not None:
            cli.environment["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1e6))

    def listen(self) -> list[str]:
        """Everything heard so far, line by line."""
        with contextlib.suppress(TimeoutError):
            while True:
                self.heard += self._socket.recv(65536).decode().splitlines()
        return self.heard

    def hears(self, line: str) -> None:
        wait_until(lambda: any(heard.startswith(line) for heard in self.listen()))

    def count(self, line: str) -> int:
        return self.listen().count(line)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_every_state(cli: Cli, folder: Path, far: Collector, abstract: bool) -> None:
    address = f"@seglog-{os.getpid()}-{folder.name}" if abstract else str(folder / "notify")
    configure(folder, route("a", far.url), route("b", far.url))
    with contextlib.closing(Manager(address, cli)) as manager:
        service = Running(cli, folder)
        manager.hears("READY=1")
        manager.hears("STATUS=2 routes, 6 records sent, 0 waiting")
        configure(folder, route("a", far.url))
        service.send(signal.SIGHUP)
        manager.hears("STATUS=1 routes")
        assert service.end() == exit_codes.OK
        heard = [line for line in manager.listen() if not line.startswith("STATUS=")]
    since_boot = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    moment = int(heard[2].removeprefix("MONOTONIC_USEC="))
    assert heard == ["READY=1", "RELOADING=1", f"MONOTONIC_USEC={moment}", "READY=1", "STOPPING=1"]
    assert since_boot - 60e6 < moment < since_boot


def test_a_reload_that_fails_is_told_and_over(cli: Cli, folder: Path, far: Collector) -> None:
    configure(folder, route("a", far.url))
    with contextlib.closing(Manager(str(folder / "notify"), cli)) as manager:
        service = Running(cli, folder)
        manager.hears("READY=1")
        configure(folder, "nonsense")
        service.send(signal.SIGHUP)
        manager.hears("STATUS=not reloaded")
        assert manager.count("READY=1") == 2
        assert service.end() == exit_codes.OK


def test_the_watchdog_is_fed_while_far_ends_are_away(cli: Cli, folder: Path, far: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
    configure(folder, route("a", away, "timeout = 0.1"), route("b", far.url), route("missing", far.url))
    with contextlib.closing(Manager(str(folder / "notify"), cli, watchdog_seconds=0.4)) as manager:
        service = Running(cli, folder)
        manager.hears("STATUS=3 routes, 3 records sent, 3 waiting; a: http://127.0.0.1")
        fed = manager.count("WATCHDOG=1")
        wait_until(lambda: manager.count("WATCHDOG=1") > fed + 15)  # three seconds, more than a send may take
        assert service.end() == exit_codes.OK


def hanging_sink(site: Path) -> None:
    """Somebody's package with a sink for `hangs:`, which never returns; those of seglog always do."""
    metadata = site / "hanging_sink-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging-sink\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[seglog.sinks]\nhangs = hanging_sink:sink\n")
    (site / "hanging_sink.py").write_text(
        "import threading\n\n\ndef sink(url):\n    return lambda batch: threading.Event().wait()\n"
    )


def test_a_send_that_hangs_starves_the_watchdog(cli: Cli, folder: Path, far: Collector) -> None:
    hanging_sink(folder / "site")
    cli.environment["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), cli.environment.get("PYTHONPATH", "")])
    configure(folder, route("a", "hangs:", "timeout = 0.2"), route("b", far.url))
    with contextlib.closing(Manager(str(folder / "notify"), cli, watchdog_seconds=0.4)) as manager:
        service = Running(cli, folder)
        manager.hears("WATCHDOG=1")
        manager.hears("STATUS=2 routes, 3 records sent, 0 waiting; a: hangs, longer than a send may take")
        service.wait_for("a route hangs: the watchdog is not fed any more")
        fed = manager.count("WATCHDOG=1")
        append(folder / "b", "b3")
        wait_until(lambda: len(far.lines()) == 4)  # the other one goes on meanwhile
        time.sleep(1.0)
        assert manager.count("WATCHDOG=1") == fed
        service.process.kill()


# -- the file


def check(cli: Cli, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return cli("forward", "--config", folder / "spool.toml", "--check")


def test_check_prints_the_routes_without_secrets(cli: Cli, folder: Path) -> None:
    pytest.importorskip("redis")
    pytest.importorskip("urllib3")
    configure(
        folder,
        route("a", "redis://me:SECRET@127.0.0.1/stream?db=1"),
        route("b", "https://127.0.0.1/x?token=SECRET", 'headers = { Authorization = "SECRET" }', 'name = "bee"'),
    )
    result = check(cli, folder)
    assert (result.returncode, result.stderr) == (exit_codes.OK, b"")
    first, second = result.stdout.decode().splitlines()
    assert first.startswith("a: a as forward to redis://127.0.0.1/stream (")
    assert second.startswith("bee: b as forward to https://127.0.0.1/x (")
    assert "linger=0.0" in first
    assert "headers=Authorization" in second
    assert "SECRET" not in first + second


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[route]", "Expected ']]'"),
        (route("a", "stdout:") + route("b", "stdout:", 'batch_bytes = "1Q"'), "route 2 (b): batch_bytes: '1Q' is no"),
        (route("a", "stdout:") + route("b", "gopher://me:SECRET@x/y"), "route 2 (b): to: no sink for 'gopher:…'"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_touched(
    cli: Cli, folder: Path, text: str, complaint: str
) -> None:
    configure(folder, text)
    result = cli("forward", "--config", folder / "spool.toml", "--once", cwd=folder)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    said = one_line(result.stderr)
    assert said.startswith(f"seglog: {folder / 'spool.toml'}: ")
    assert complaint in said
    assert "SECRET" not in said
    with seglog.open(folder / "a", mode="r") as log:
        assert log.consumers() == {}


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["a"],
        ["--to", "stdout:"],
        ["a", "--to", "stdout:", "--check"],
        ["a", "--config", "spool.toml"],
        ["--config", "spool.toml", "--to", "stdout:"],
        ["--config", "spool.toml", "--batch-records", "1"],
        ["--config", "spool.toml", "--header", "a: b"],
        ["--config", "missing.toml"],
    ],
    ids=" ".join,
)
def test_a_file_or_a_directory_and_a_url(cli: Cli, folder: Path, args: list[str]) -> None:
    configure(folder, route("a", "stdout:"))
    result = cli("forward", *args, cwd=folder)
    assert (result.returncode, result.stdout) == (exit_codes.USAGE, b"")
    one_line(result.stderr)
