"""HTTP, with a collector that drops repeats by `Idempotency-Key`: every record once, whoever is killed."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.engines.effectively_once import trial
from tools.engines.http import Http

pytestmark = pytest.mark.skipif(bool(Http.without()), reason=Http.without())

KILLS, RESTARTS = (20, 3) if os.environ.get("SEGLOG_ENGINES") == "full" else (4, 1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Http]:
    made = Http(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_p5_what_is_under_one_key_is_always_the_same(
    engine: Http, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Not so when the cursor is lost: the far end cannot be asked what it has, and other keys are no repeats."""
    outcome = trial(engine, tmp_path, kills=KILLS, restarts=RESTARTS, lose_cursor=False)
    record_property("outcome", outcome.row())
    assert outcome.ok, outcome


def test_a_request_that_broke_off_is_not_kept(engine: Http) -> None:
    """Else the key would stand for a part of its records for ever. Whoever is killed may break off anywhere."""
    key, body = "5eed:0-1", b"one\ntwo\n"
    head = f"POST /trial HTTP/1.1\r\nHost: here\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    for sent in (b"", body[:4], body[:-1]):
        with socket.create_connection(("127.0.0.1", engine.port), 10) as broken:
            broken.sendall(head.encode() + sent)
            broken.shutdown(socket.SHUT_WR)
            assert broken.recv(1) == b"", "it was answered"
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
    for _ in range(2):
        connection.request("POST", "/trial", body, {"Idempotency-Key": key})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    assert [one.payload for one in engine.arrived("trial")] == [b"one", b"two"]
