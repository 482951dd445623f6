"""A real server of an engine on loopback: started, killed, started again on the same data, and read back.

What comes back is read by another client, or in another way, than the sink writes it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 60.0  # a bound; most take a tenth of one second


class Arrived(NamedTuple):
    """A record at the far end."""

    id: str
    payload: bytes
    key: bytes | None
    headers: dict[str, bytes]


class Engine:
    """One server with a data folder of its own. Subclasses say how it is started and read.

    Attributes:
        name: in the table.
        user, password: who may use it, once `protect` was called.
        certificate: PEM files of the certificate and its key, once `encrypt` was called.
        too_large: bytes of a payload that the server never takes, as it is started here.
        mock: what stands for the server, and how that is away for a while; "" for a real one. A mock forgets all when
            it dies, knows no users and no TLS.
        server: whether there is one, which can die, and knows users and TLS.
        restarted: what a restart of it is, in the table.
        insecure: why it knows neither users nor TLS; "" if it does.
        dedupes: whether each record can be there exactly once. Where neither the far end drops repeats nor the sink can
            ask what is there, it is at least once, and `seglog.id` or the like tells repeats.
        programs, modules: what must be installed to run it; `without` says what is not.
    """

    name = ""
    programs: Sequence[str] = ()
    modules: Sequence[str] = ()
    user = "alice"
    password = "open:sesame/1@2"
    too_large = 0
    mock = ""
    slow = ""  # why it takes so long that the default run does not ask for everything
    restarted = "killed, and started again"
    insecure = ""
    dedupes = True
    server = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.protected = False
        self.certificate: tuple[Path, Path] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def without(cls) -> str:
        """What is missing to run it here; "" if nothing is."""
        lacks = [name for name in cls.programs if shutil.which(name) is None]
        lacks += [name for name in cls.modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(lacks)}" if lacks else ""

    # What an engine says

    def command(self) -> list[str]:
        """Runs the server in the foreground, on loopback."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def answers(self) -> None:
        """Raises anything while the server is not ready."""
        raise NotImplementedError

    def prepare(self, target: str) -> None:
        """Make what takes the records, where the sink does not."""

    def url(self, target: str) -> str:
        raise NotImplementedError

    def arrived(self, target: str) -> list[Arrived]:
        """All that is there, in the far end's order."""
        raise NotImplementedError

    # Before it is started

    def protect(self) -> None:
        """Only `user` with `password` may use it; clients of this class are him."""
        self.protected = True

    def encrypt(self) -> None:
        """It speaks TLS alone, with a certificate that nobody signed; `url` says so, and not whom to trust."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = self.folder / "cert.pem", self.folder / "key.pem"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        where = ["-keyout", str(files[1]), "-out", str(files[0])]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *where]
        subprocess.run(command, check=True, capture_output=True)
        self.certificate = files

    # Life

    def start(self) -> None:
        """Returns when it answers. Raises AssertionError with what it said if it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.answers()
                return
            except Exception as error:
                trouble = error
            said = (self.folder / "server.log").read_text("utf-8", "replace")[-2000:]
            assert self._running().poll() is None, f"{self.name} ended by itself: {said}"
            assert time.monotonic() < deadline, f"{self.name} does not answer: {trouble}\n{said}"
            time.sleep(0.02)

    def kill(self) -> None:
        """As the power does it: no goodbye. Its children die with it."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group that start() made for it
            process.wait(START_SECONDS)

    stop = kill

    def pause(self) -> None:
        """It holds its connections, takes more, and answers nothing."""
        process = self._running()
        os.killpg(process.pid, signal.SIGSTOP)
        # The signal alone is late: some thread of it may still answer.
        wait_until(
            lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is not None, what=lambda: "it goes on"
        )

    def go_on(self) -> None:
        os.killpg(self._running().pid, signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def restart(self, pause: float) -> None:
        """Kill it, and start it again after so many seconds."""
        self.kill()
        time.sleep(pause)
        self.start()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def wait_until(
    condition: Callable[[], bool], seconds: float = 60.0, what: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Bounded; `what` is asked when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)
