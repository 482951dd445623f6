"""What every sink does with its real server: fields, refusals, outages, wrong credentials, TLS."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import seglog
from seglog.forward import Forwarder, SinkError, open_sink
from seglog.testing import ManualClock, check_sink
from tools.engines.server import Arrived, Engine, wait_until

TARGET = "events"
PATIENCE_SECONDS = 0.3  # for what is not going to work


@contextmanager
def forwarder(log: seglog.Log[bytes], url: str, **options: Any) -> Iterator[Forwarder]:
    with log.consumer("forward") as consumer, ExitStack() as ended:
        sink = open_sink(url, timeout=10)
        ended.callback(getattr(sink, "close", lambda: None))
        yield Forwarder(consumer, sink, linger=0, **options)


def forward(log: seglog.Log[bytes], url: str, **options: Any) -> Forwarder:
    """All there is."""
    with forwarder(log, url, **options) as made:
        made.run(once=True)
    return made


def in_url(url: str, user: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def needs_a_real_server(engine: Engine) -> None:
    if not engine.server:
        pytest.skip("it has no server")
    if engine.mock:
        pytest.skip(f"{engine.mock}: it keeps nothing when it dies, and knows neither users nor TLS")


def takes_its_time(engine: Engine) -> None:
    if engine.slow and os.environ.get("SEGLOG_ENGINES") != "full":
        pytest.skip(f"{engine.slow}: asked by ./tools/test --engines")


def needs_users_and_tls(engine: Engine) -> None:
    needs_a_real_server(engine)
    if engine.insecure:
        pytest.skip(engine.insecure)


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def test_a_record_arrives_with_its_identity_key_and_headers(engine: Engine) -> None:
    engine.start()
    engine.prepare(TARGET)
    with seglog.open(":memory:") as log:
        log.append(b"plain")
        log.append(b"bin\x00\xff\n", key=b"k\xfe", headers={"type": b"a", "empty": b"", "bin": b"\xff\x00"})
        log.append(b"")
        log.append(b"key only", key=b"")
        done = forward(log, engine.url(TARGET))
        assert engine.arrived(TARGET) == [Arrived(m.id, m.payload, m.key, m.headers) for m in log.read()]
        assert done.stats().sent_records == 4
        assert len(log.consumer("forward")) == 0
        log.append(b"later")
        forward(log, engine.url(TARGET))
        assert [one.payload for one in engine.arrived(TARGET)][4:] == [b"later"]


def test_a_header_name_that_is_no_utf_8_holds_nothing_up(engine: Engine) -> None:
    """Half a surrogate pair, which a log takes."""
    engine.start()
    engine.prepare(TARGET)
    with seglog.open(":memory:") as log:
        log.append(b"strange", headers={"a\ud800": b"x"})
        log.append(b"plain")
        forward(log, engine.url(TARGET))
        assert [one.payload for one in engine.arrived(TARGET)] == [b"strange", b"plain"]


def test_what_was_delayed_arrives_behind_what_passed_it_and_once(engine: Engine) -> None:
    engine.start()
    engine.prepare(TARGET)
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        log.append(b"late", delay=60)
        log.append_many([b"1", b"2"])
        forward(log, engine.url(TARGET))
        clock.advance(61)
        log.append(b"3")
        forward(log, engine.url(TARGET))
        assert [one.payload for one in engine.arrived(TARGET)] == [b"1", b"2", b"late", b"3"]


def test_what_the_server_refuses_is_a_dead_letter_and_the_rest_is_delivered(engine: Engine) -> None:
    if not engine.too_large:
        pytest.skip("it refuses nothing")
    engine.start()
    engine.prepare(TARGET)
    with seglog.open(":memory:", max_record_bytes=engine.too_large) as log:
        log.append_many([b"a", b"b"])
        refused = log.append(b"x" * engine.too_large)
        log.append_many([b"c", b"d"])
        done = forward(log, engine.url(TARGET), patience=10)
        assert [one.payload for one in engine.arrived(TARGET)] == [b"a", b"b", b"c", b"d"]
        assert [(letter.offset, letter.reason) for letter in log.dead_letters] == [(refused, "refused")]
        assert done.stats().refused_records == 1


def test_a_server_that_is_down_at_first_is_waited_for(engine: Engine) -> None:
    takes_its_time(engine)
    with seglog.open(":memory:") as log:
        log.append_many([b"%d" % n for n in range(100)])
        with forwarder(log, engine.url(TARGET)) as made:
            thread = threading.Thread(target=made.run, kwargs={"once": True})
            thread.start()
            try:
                wait_until(lambda: made.stats().failures > 0)
                engine.start()
                engine.prepare(TARGET)
                thread.join(60)
            finally:
                made.stop()
                thread.join(60)
        assert not thread.is_alive()
        assert [one.payload for one in engine.arrived(TARGET)] == [b"%d" % n for n in range(100)]


def test_p5_a_server_that_dies_in_a_batch_gets_the_rest_of_it_once(engine: Engine) -> None:
    needs_a_real_server(engine)
    takes_its_time(engine)
    engine.start()
    engine.prepare(TARGET)
    payloads = [b"%d" % n + b"x" * 500 for n in range(6000)]
    with seglog.open(":memory:") as log:
        log.append_many(payloads)
        with forwarder(log, engine.url(TARGET), batch_records=1000) as made:
            thread = threading.Thread(target=made.run, kwargs={"once": True})
            thread.start()
            try:
                wait_until(lambda: made.stats().sent_records > 0)
                engine.kill()
                wait_until(lambda: made.stats().failures > 0)
                engine.start()
                thread.join(60)
            finally:
                made.stop()
                thread.join(60)
        assert not thread.is_alive()
        arrived = [one.payload for one in engine.arrived(TARGET)]
        assert (arrived if engine.dedupes else list(dict.fromkeys(arrived))) == payloads


def test_wrong_credentials_keep_everything_and_are_not_told(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    needs_users_and_tls(engine)
    caplog.set_level(logging.DEBUG)
    engine.protect()
    engine.start()
    engine.prepare(TARGET)
    url = engine.url(TARGET)
    with seglog.open(":memory:") as log:
        log.append(b"x")
        for wrong in (url, in_url(url, engine.user, "wr0ng"), in_url(url, "nobody", engine.password)):
            with pytest.raises(SinkError) as caught:
                forward(log, wrong, patience=PATIENCE_SECONDS)
            said = f"{caught.value} {caplog.text}"
            assert "everything is kept until this is put right" in caplog.text
            assert "wr0ng" not in said
            assert engine.password not in said
        assert len(log.dead_letters) == 0
        forward(log, in_url(url, engine.user, engine.password))
        assert [one.payload for one in engine.arrived(TARGET)] == [b"x"]
        assert engine.password not in caplog.text


def test_credentials_come_from_a_file_or_the_environment(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_users_and_tls(engine)
    engine.protect()
    engine.start()
    engine.prepare(TARGET)
    secret = tmp_path / "secret"
    secret.write_text(engine.password + "\n")
    with seglog.open(":memory:") as log:
        log.append(b"by file")
        url = engine.url(TARGET).replace("://", f"://{engine.user}@")
        forward(log, with_option(url, f"password_file={secret}"), patience=10)
        monkeypatch.setenv("SEGLOG_SINK_USER", engine.user)
        monkeypatch.setenv("SEGLOG_SINK_PASSWORD", engine.password)
        log.append(b"by environment")
        forward(log, engine.url(TARGET), patience=10)
        assert [one.payload for one in engine.arrived(TARGET)] == [b"by file", b"by environment"]


def test_a_certificate_that_nobody_signed_keeps_everything_until_it_is_trusted(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    needs_users_and_tls(engine)
    engine.encrypt()
    engine.start()
    engine.prepare(TARGET)
    assert engine.certificate is not None
    with seglog.open(":memory:") as log:
        log.append(b"x")
        with pytest.raises(SinkError):
            forward(log, engine.url(TARGET), patience=PATIENCE_SECONDS)
        assert "everything is kept until this is put right" in caplog.text
        forward(log, with_option(engine.url(TARGET), f"ca={engine.certificate[0]}"), patience=10)
        assert [one.payload for one in engine.arrived(TARGET)] == [b"x"]


def test_it_keeps_the_promises_of_every_sink(engine: Engine) -> None:
    takes_its_time(engine)
    engine.start()
    engine.prepare(TARGET)
    check_sink(
        lambda: open_sink(engine.url(TARGET), timeout=10),
        lambda: engine.arrived(TARGET),
        duplicates=not engine.dedupes,
    )
