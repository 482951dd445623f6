"""`seglog stat --prometheus` and `seglog forward --listen`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import seglog
from tests.cli.conftest import TIMEOUT, Cli, one_line, wait_until

WITHOUT = "import sys; sys.modules['prometheus_client'] = None; from seglog.cli.main import entry; entry()"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with seglog.open(tmp_path / "log") as log:
        log.append_many([b"one", b"two"])
    return tmp_path / "log"


def test_the_text_for_a_textfile_collector(cli: Cli, log: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    result = cli("stat", log, "--prometheus")
    assert (result.returncode, result.stderr) == (0, b"")
    assert f'seglog_next_offset{{log="{log}"}} 2.0' in result.stdout.decode().splitlines()
    assert result.stdout.endswith(b"\n")


def test_a_directory_whose_name_is_not_utf8_has_figures_too(cli: Cli, log: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    log.rename(place := tmp_path / os.fsdecode(b"l\xff"))
    result = cli("stat", place, "--prometheus")
    assert (result.returncode, result.stderr) == (0, b"")
    assert rf'seglog_next_offset{{log="{tmp_path}/l\\udcff"}} 2.0' in result.stdout.decode().splitlines()


def test_without_the_extra_it_is_named(cli: Cli, log: Path) -> None:
    cli.command = [cli.command[0], "-c", WITHOUT]
    result = cli("stat", log, "--prometheus")
    assert (result.returncode, result.stdout) == (2, b"")
    assert "pip install 'seglog[metrics]'" in one_line(result.stderr)
    assert cli("stat", log).returncode == 0


def listening(process: subprocess.Popen[bytes]) -> str:
    """Where it listens, as it says on stderr."""
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    found = re.fullmatch(r"seglog: listening on (http://127\.0\.0\.1:\d+)\n", line)
    assert found is not None, line
    return found[1]


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_for(url: str, status: int, word: str) -> None:
    wait_until(lambda: (answer := ask(url))[0] == status and word in answer[1])


def test_one_route_waits_for_its_log_and_is_well(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    place = tmp_path / "log"
    process = cli.start("forward", place, "--to", "stdout:", "--listen", "0")
    url = listening(process)
    assert ask(f"{url}/healthz") == (200, "ok, 1 routes\n")
    with seglog.open(place) as log:
        log.append_many([b"one", b"two"])
        wait_for(
            f"{url}/metrics",
            200,
            f'seglog_forward_sent_records_total{{consumer="forward",log="{place}",sink="stdout:"}} 2.0',
        )
    assert ask(f"{url}/readyz")[0] == 200
    process.send_signal(signal.SIGTERM)
    code, out, err = cli.end(process)
    assert (code, out) == (0, b"one\ntwo\n")
    assert "Traceback" not in err
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/healthz")


def test_one_route_whose_far_end_is_away_is_alive_and_not_ready(cli: Cli, log: Path) -> None:
    pytest.importorskip("urllib3", reason="the extra 'http' is not installed")
    process = cli.start("forward", log, "--to", "http://127.0.0.1:9/events?token=t0k3n", "--listen", "127.0.0.1:0")
    url = listening(process)
    wait_for(f"{url}/readyz", 503, f"{log}: ")
    assert ask(f"{url}/healthz")[0] == 200
    pages = ask(f"{url}/readyz")[1] + ask(f"{url}/metrics")[1]
    assert "t0k3n" not in pages
    process.send_signal(signal.SIGTERM)
    assert cli.end(process)[0] == 0


def test_one_route_that_hangs_is_not_well(cli: Cli, log: Path) -> None:
    script = (
        "import time, seglog.forward as forward, seglog.forward.service as service\n"
        "service._BUSY_SECONDS = 0.0\n"
        "forward.open_sink = lambda *a, **k: type('Hangs', (), {'send': lambda self, batch: time.sleep(1000)})()\n"
        "from seglog.cli.main import entry; entry()"
    )
    cli.command = [cli.command[0], "-c", script]
    process = cli.start("forward", log, "--to", "stdout:", "--listen", "0", "--timeout", "0.1")
    url = listening(process)
    wait_for(f"{url}/healthz", 503, f"{log}: hangs, longer than a send may take")
    process.kill()
    cli.end(process)


def test_every_route_of_a_service(cli: Cli, log: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    pytest.importorskip("urllib3", reason="the extra 'http' is not installed")
    config = tmp_path / "routes.toml"
    routes = [("good", "stdout:"), ("bad", "http://127.0.0.1:9/x")]
    config.write_text(
        "".join(f'[[route]]\nname = "{n}"\nconsumer = "{n}"\ndirectory = "{log}"\nto = "{to}"\n' for n, to in routes)
    )
    process = cli.start("forward", "--config", config, "--listen", "0")
    url = listening(process)
    wait_for(f"{url}/readyz", 503, "bad: ")
    assert "good: " not in ask(f"{url}/readyz")[1]
    assert ask(f"{url}/healthz") == (200, "ok, 2 routes\n")
    wait_for(
        f"{url}/metrics", 200, f'seglog_forward_sent_records_total{{consumer="good",log="{log}",sink="stdout:"}} 2.0'
    )
    process.send_signal(signal.SIGTERM)
    assert cli.end(process)[0] == 0


def test_it_says_that_metrics_are_missing(cli: Cli, log: Path) -> None:
    cli.command = [cli.command[0], "-c", WITHOUT]
    result = cli("forward", log, "--to", "stdout:", "--once", "--listen", "0")
    assert result.returncode == 0
    assert b"seglog: without /metrics: " in result.stderr
    assert b"pip install 'seglog[metrics]'" in result.stderr


@pytest.mark.parametrize(("where", "code"), [("nowhere", 2), ("ä..b:80", 2), ("192.0.2.1:9464", 3)])
def test_where_it_cannot_listen_it_does_not_forward(cli: Cli, log: Path, where: str, code: int) -> None:
    result = cli("forward", log, "--to", "stdout:", "--once", "--listen", where)
    assert (result.returncode, result.stdout) == (code, b"")
    assert where in one_line(result.stderr)
    with seglog.open(log, mode="r") as opened:
        assert opened.consumers() == {}
