"""What is JetStream's own: the chain of messages, streams that others use as well, and what the server forgets."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks.nats import NatsSink
from seglog.testing import ManualClock
from tests.engines.test_sinks import forward, in_url, with_option
from tools.engines.effectively_once import trial
from tools.engines.nats import Nats
from tools.engines.server import running, wait_until

DEBIAN = "/usr/sbin/nats-server"
PATIENCE_SECONDS = 0.3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nats]:
    if lacks := Nats.without():
        pytest.skip(lacks)
    made = Nats(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@contextmanager
def sink_of(log: seglog.Log[bytes], url: str, timeout: float = 10) -> Iterator[NatsSink]:
    sink = open_sink(url, timeout=timeout)
    assert isinstance(sink, NatsSink)
    sink.attach(log.id)
    try:
        yield sink
    finally:
        sink.close()


def payloads(server: Nats, subject: str) -> list[bytes]:
    return [one.payload for one in server.arrived(subject)]


def filled(log: seglog.Log[bytes], records: int) -> list[Any]:
    log.append_many([b"%d" % n for n in range(records)])
    return list(log.read())


class Shortest(Nats):
    """With the shortest duplicate window that there is."""

    def make(self, name: str, **options: Any) -> None:
        super().make(name, duplicate_window=0.1, **options)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.environ.get("SEGLOG_ENGINES") != "full", reason="asked by ./tools/test --engines")
def test_p5_a_duplicate_window_of_no_use_is_not_needed(server: Nats, tmp_path: Path) -> None:
    server.stop()
    engine = Shortest(tmp_path / "short")
    engine.start()
    try:
        outcome = trial(engine, tmp_path, kills=3, restarts=2)
    finally:
        engine.stop()
    assert outcome.ok, outcome


def test_what_a_lost_connection_left_half_done_is_found_by_the_next_sink(server: Nats) -> None:
    server.make("s", subjects=["s"], duplicate_window=0.1)
    with seglog.open(":memory:") as log:
        messages = filled(log, 10)
        with sink_of(log, server.url("s")) as first:
            assert first.resume_point() is None
            first.send(messages[:4])
        server.kill()  # it forgets the newest id
        server.start()
        with sink_of(log, server.url("s")) as second:
            assert second.resume_point() == 4
            second.send(messages[4:])
            assert second.resume_point() == 10
        assert payloads(server, "s") == [message.payload for message in messages]


def test_one_that_was_overtaken_writes_nothing_and_asks_again(server: Nats) -> None:
    server.make("s", subjects=["s"], duplicate_window=0.1)
    with seglog.open(":memory:") as log:
        messages = filled(log, 20)
        with sink_of(log, server.url("s")) as slow, sink_of(log, server.url("s")) as fast:
            assert slow.resume_point() is None
            fast.send(messages[:15])
            threading.Event().wait(0.3)  # past the duplicate window
            with pytest.raises(SinkError) as caught:
                slow.send(messages[:10])
            assert caught.value.verdict is Verdict.RETRY
            assert slow.resume_point() == 15
            slow.send(messages[15:])
        assert payloads(server, "s") == [message.payload for message in messages]


def test_what_others_publish_in_between_on_a_shared_stream_makes_neither_hole_nor_double(server: Nats) -> None:
    server.make("all", subjects=["all.>"], duplicate_window=0.1)
    ended = threading.Event()

    def chatter() -> None:
        async def publish(js: Any) -> None:
            while not ended.is_set():
                await js.publish("all.other", b"noise")
                await asyncio.sleep(0.001)

        server.ask(publish)

    with seglog.open(":memory:") as log:
        messages = filled(log, 3000)
        other = threading.Thread(target=chatter)
        other.start()
        try:
            done = forward(log, server.url("all.ours"), patience=10)
        finally:
            ended.set()
            other.join(60)
        assert done.stats().failures == 0
        assert payloads(server, "all.ours") == [message.payload for message in messages]
        first = server.ask(lambda js: js.get_msg("all", 1, "all.ours", next=True)).seq
        last = server.ask(lambda js: js.get_last_msg("all", "all.ours")).seq
        assert last - first >= len(messages), "nobody came in between"


def test_what_is_behind_a_stranger_in_the_stream_is_sent_again_behind_it(
    server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.make("all", subjects=["all.>"], duplicate_window=0.1)
    with seglog.open(":memory:") as log, sink_of(log, server.url("all.ours")) as sink:
        link: Any = sink._link
        publish, numbers = link.publish, itertools.count(1)

        async def after_a_stranger(*message: Any) -> Any:
            if next(numbers) % 40 == 0:
                await link._client.publish("all.other", b"noise")
            return await publish(*message)

        monkeypatch.setattr(link, "publish", after_a_stranger)
        messages = filled(log, 1000)
        assert sink.resume_point() is None
        sink.send(messages[:500])
        sink.send(messages[500:])
        assert payloads(server, "all.ours") == [message.payload for message in messages]
        strangers = len(payloads(server, "all.other"))
        assert 10 < strangers < 200, "what was sent in vain is bounded"


def test_a_late_message_is_known_again_after_an_outcome_that_nobody_heard(server: Nats) -> None:
    server.make("s", subjects=["s"], duplicate_window=0.1)
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log, log.consumer("forward") as consumer:
        log.append(b"before")
        log.append(b"late", delay=60)
        log.append_many([b"1", b"2"])
        early = consumer.receive_many(10)
        clock.advance(61)
        log.append_many([b"3", b"4"])
        rest = consumer.receive_many(10)
        assert [message.payload for message in rest] == [b"late", b"3", b"4"]
        with sink_of(log, server.url("s")) as first:
            first.send(early)
            first.send(rest)  # and here the forwarder dies
        threading.Event().wait(0.3)
        with sink_of(log, server.url("s")) as second:
            assert second.resume_point() == 6
            second.send(rest[:1])
            log.append(b"5")
            second.send(consumer.receive_many(1))
        with sink_of(log, server.url("s")) as third:
            assert third.resume_point() == 7
        assert payloads(server, "s") == [b"before", b"1", b"2", b"late", b"3", b"4", b"5"]


def test_a_late_message_does_not_take_the_resume_point_back(server: Nats) -> None:
    server.prepare("s")
    clock = ManualClock()
    with seglog.open(":memory:", clock=clock) as log:
        log.append(b"late", delay=60)
        log.append_many([b"1", b"2"])
        forward(log, server.url("s"))
        clock.advance(61)
        forward(log, server.url("s"))
        with sink_of(log, server.url("s")) as sink:
            assert sink.resume_point() == 3


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_what_consumers_took_out_of_the_stream_is_not_sent_again(server: Nats, retention: str) -> None:
    server.make("q", subjects=["q"], retention=retention)

    async def take(js: Any) -> None:
        subscription = await js.pull_subscribe("q", durable="taker")
        for message in await subscription.fetch(10, timeout=1):
            await message.ack_sync()

    server.ask(lambda js: js.pull_subscribe("q", durable="taker"))
    with seglog.open(":memory:") as log:
        messages = filled(log, 10)
        with sink_of(log, server.url("q")) as sink:
            assert sink.resume_point() is None
            sink.send(messages[:5])
            server.ask(take)
            sink.send(messages[5:7])
            server.ask(take)
            assert sink.resume_point() == 7
            sink.send(messages[7:8])
        server.ask(take)
        with sink_of(log, server.url("q")) as sink:
            assert sink.resume_point() is None  # nothing is left to read it from
            sink.send(messages[6:])
        state = server.ask(lambda js: js.stream_info("q")).state
        assert (state.messages, state.last_seq) == (2, 10)


def test_a_subject_without_a_stream_is_a_matter_for_somebody(server: Nats, caplog: pytest.LogCaptureFixture) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x")
        with pytest.raises(SinkError, match=r"nats stream add a_b --subjects a\.b"):
            forward(log, server.url("a.b"), patience=PATIENCE_SECONDS)
        with pytest.raises(SinkError, match="there is no stream named"):
            forward(log, with_option(server.url("a.b"), "stream=named"), patience=PATIENCE_SECONDS)
        assert "everything is kept until this is put right" in caplog.text
        server.make("named", subjects=["a.*"])
        forward(log, with_option(server.url("a.b"), "stream=named"), patience=10)
        assert payloads(server, "a.b") == [b"x"]


def test_what_the_stream_keeps_for_somebody_else_is_left_alone(server: Nats) -> None:
    server.prepare("s")
    with seglog.open(":memory:") as log, seglog.open(":memory:") as another:
        log.append(b"x")
        another.append(b"y")
        for publish in (
            lambda: server.ask(lambda js: js.publish("s", b"z")),
            lambda: forward(another, server.url("s"), patience=10),
        ):
            publish()
            before = payloads(server, "s")
            with pytest.raises(SinkError, match="not of this log"):
                forward(log, server.url("s"), patience=PATIENCE_SECONDS)
            assert payloads(server, "s") == before != []
            server.ask(lambda js: js.purge_stream("s"))


def test_nothing_is_stored_behind_what_the_server_did_not_take(server: Nats) -> None:
    server.prepare("s")
    with seglog.open(":memory:") as log:
        log.append_many([b"a", b"b", b"x" * 2000, b"c", b"d"])
        with sink_of(log, server.url("s")) as sink:
            assert sink.resume_point() is None
            server.ask(lambda js: js.update_stream(name="s", subjects=["s"], max_msg_size=1000))  # meanwhile
            with pytest.raises(SinkError) as caught:
                sink.send(list(log.read()))
            assert caught.value.verdict is Verdict.REFUSED
            assert payloads(server, "s") == [b"a", b"b"]
            assert sink.resume_point() == 2


def test_headers_that_mean_something_to_the_server_are_only_carried(server: Nats) -> None:
    server.make("s", subjects=["s"], allow_rollup_hdrs=True)
    headers = {
        "Nats-Rollup": b"all",
        "nats-msg-id": b"forged",
        "Status": b"503",
        "Seglog-Next": b"99",
        "two words: \r\n": b" spaces around ",
        "\u00fcber": b"gr\xc3\xbc\xc3\x9fe",
        "line": b"1\r\nNats-Rollup: all",
        "Plain-One_2": b"a b: c",
    }
    with seglog.open(":memory:") as log:
        log.append(b"before")
        log.append(b"x", key=b" k", headers=headers)
        forward(log, server.url("s"), patience=10)
        found = server.arrived("s")
        assert [one.payload for one in found] == [b"before", b"x"]
        assert (found[1].key, found[1].headers) == (b" k", headers)
        with sink_of(log, server.url("s")) as sink:
            assert sink.resume_point() == 2
        raw = server.ask(lambda js: js.get_msg("s", 2))
        assert raw.headers["Plain-One_2"] == "a b: c"


def test_what_is_too_large_is_refused_before_the_server_hangs_up(server: Nats) -> None:
    server.make("s", subjects=["s"], max_msg_size=2000)
    server.prepare("as-large-as-may-be")
    with seglog.open(":memory:") as log:
        log.append(b"a")
        large = log.append(b"x" * 1990)  # with its headers
        headers = log.append(b"b", headers={"h": b"x" * 1990})
        log.append(b"c" * 1500)
        done = forward(log, server.url("s"), patience=10)
        assert [letter.offset for letter in log.dead_letters] == [large, headers]
        assert done.stats().refused_records == 2
        assert payloads(server, "s") == [b"a", b"c" * 1500]
    with seglog.open(":memory:") as log:
        log.append(b"x" * 65_500)
        log.append(b"y" * 65_000)
        done = forward(log, server.url("as-large-as-may-be"), patience=10)
        assert (done.stats().refused_records, done.stats().failures) == (1, 2)
        assert payloads(server, "as-large-as-may-be") == [b"y" * 65_000]


class Limited(Nats):
    """alice may do anything but publish to `forbidden`."""

    def command(self) -> list[str]:
        command = super().command()
        path = Path(command[-1])
        config = json.loads(path.read_text("utf-8"))
        user = {"user": self.user, "password": self.password, "permissions": {"publish": {"deny": ["forbidden"]}}}
        path.write_text(json.dumps({**config, "authorization": {"users": [user]}}), "utf-8")
        return command


def test_what_is_not_allowed_is_told_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if lacks := Limited.without():
        pytest.skip(lacks)
    limited = Limited(tmp_path / "limited")
    limited.protect()
    with running(limited), seglog.open(":memory:") as log:
        limited.prepare("forbidden")
        log.append(b"x")
        began = time.monotonic()
        url = in_url(limited.url("forbidden"), limited.user, limited.password)
        with pytest.raises(SinkError, match="permissions violation for publish"):
            forward(log, url, patience=PATIENCE_SECONDS)
        assert time.monotonic() - began < 5
        assert "everything is kept until this is put right" in caplog.text
        assert limited.password not in caplog.text


def test_tls_is_not_given_up_because_the_server_does_not_ask_for_it(server: Nats) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"x")
        for who in ("", "alice:secret@"):
            url = server.url("s").replace("nats://", f"nats+tls://{who}")
            with sink_of(log, url) as sink, pytest.raises(SinkError, match="does not ask for TLS") as caught:
                sink.resume_point()
            assert caught.value.verdict is Verdict.CONFIGURATION


def test_a_server_that_falls_silent_is_waited_for_as_long_as_was_said(server: Nats) -> None:
    server.prepare("s")
    with seglog.open(":memory:") as log:
        messages = filled(log, 3)
        with sink_of(log, server.url("s"), timeout=0.5) as sink:
            sink.send(messages[:1])
            server.pause()
            try:
                for ask in (lambda: sink.send(messages[1:]), sink.resume_point):
                    began = time.monotonic()
                    with pytest.raises(SinkError) as caught:
                        ask()
                    assert caught.value.verdict is Verdict.RETRY
                    assert time.monotonic() - began < 5
                sink.close()
            finally:
                server.go_on()
            wait_until(lambda: sink.resume_point() == 3)  # they were on their way
            assert threads() == 1
            sink.close()
            assert threads() == 0
        assert payloads(server, "s") == [b"0", b"1", b"2"]


def threads() -> int:
    return sum(thread.name == "seglog-nats" for thread in threading.enumerate())


class Old(Nats):
    """The one of Debian 12."""

    program = DEBIAN if Path(DEBIAN).exists() else None


def test_an_old_server_does_the_same(tmp_path: Path) -> None:
    if lacks := Old.without():
        pytest.skip(lacks)
    old = Old(tmp_path / "old")
    with running(old), seglog.open(":memory:") as log:
        old.prepare("s")
        messages = filled(log, 1200)
        forward(log, old.url("s"), patience=10)
        old.kill()
        old.start()
        with log.consumer("again", start="earliest") as consumer, sink_of(log, old.url("s")) as sink:
            log.append(b"after")
            Forwarder(consumer, sink, linger=0, patience=10).run(once=True)
        assert payloads(old, "s") == [*(message.payload for message in messages), b"after"]


@pytest.mark.parametrize("url", ["a.*", "a.>", "a..b", ".a", "a%20b", "a?stream=x.y", "a?create=1"])
def test_what_is_no_subject_is_told_at_once(url: str) -> None:
    with pytest.raises(InvalidOption):
        open_sink(f"nats://127.0.0.1/{url}")
