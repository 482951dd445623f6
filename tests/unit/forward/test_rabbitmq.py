"""The RabbitMQ sink against a server that does as it is told: leaders elsewhere, refusals, silence, nonsense."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import Forwarder, SinkError, Verdict, open_sink
from seglog.forward.sinks import amqp
from seglog.forward.sinks.rabbitmq import RabbitStreamSink
from seglog.model import Message
from seglog.testing import ManualClock
from tools.engines.server import free_port, wait_until

rstream = pytest.importorskip("rstream")
from rstream import encoding, schema  # noqa: E402

Answer = Callable[[Any], list[Any]]
NONSENSE = b"\x00\x00\x00\x04\x77\x77\x00\x01"  # a frame of a kind that there is not


class Silence(Exception):
    """Answer nothing, and keep the connection."""


class HangUp(Exception):
    """Close the connection."""


class Broker:
    """`answers`, by the type of the request, come before what it would say by itself. `got`: all requests."""

    def __init__(self) -> None:
        self.answers: dict[type[Any], Answer] = {}
        self.got: list[Any] = []
        self.published: dict[int, bytes] = {}
        self.late: dict[int, bytes] = {}  # by the second publisher
        self.sockets: list[socket.socket] = []
        self.heartbeat = 60
        self.frame_max = 1 << 20
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.leader = self.port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, request: Any) -> list[Any]:
        self.got.append(request)
        if type(request) in self.answers:
            return self.answers[type(request)](request)
        n = getattr(request, "correlation_id", 0)
        match request:
            case schema.PeerProperties():
                return [schema.PeerPropertiesResponse(n, 1, [])]
            case schema.SaslHandshake():
                return [schema.SaslHandshakeResponse(n, 1, ["PLAIN"])]
            case schema.SaslAuthenticate():
                return [schema.SaslAuthenticateResponse(n, 1), schema.Tune(self.frame_max, self.heartbeat)]
            case schema.Open():
                where = {"advertised_host": "127.0.0.1", "advertised_port": str(self.port)}
                return [schema.OpenResponse(n, 1, [schema.Property(*one) for one in where.items()])]
            case schema.Metadata():
                return [self.metadata(request, 0)]
            case schema.DeclarePublisher():
                return [schema.DeclarePublisherResponse(n, 1)]
            case schema.QueryPublisherSequence():
                known = self.late if request.publisher_ref.endswith("-late") else self.published
                return [schema.QueryPublisherSequenceResponse(n, 1, max(known, default=0))]
            case schema.Subscribe():
                return [schema.SubscribeResponse(n, 1)]
            case schema.Unsubscribe():
                return [schema.UnsubscribeResponse(n, 1)]
            case schema.Publish():
                self.store(request)
                return [schema.PublishConfirm(request.publisher_id, [one.publishing_id for one in request.messages])]
            case schema.Close():
                return [schema.CloseResponse(n, 1)]
        return []

    def store(self, request: Any) -> None:
        """What is not above the publisher's highest number is dropped, and confirmed all the same."""
        known = self.late if request.publisher_id else self.published
        highest = max(known, default=0)
        known |= {one.publishing_id: one.data for one in request.messages if one.publishing_id > highest}

    @property
    def connections(self) -> int:
        return len(self.sockets)

    def hang_up(self) -> None:
        for one in self.sockets:
            one.shutdown(socket.SHUT_RDWR)

    def metadata(self, request: Any, leader: int) -> Any:
        about = schema.StreamMetadata(request.streams[0], 1, leader, [])
        return schema.MetadataResponse(request.correlation_id, [schema.Broker(0, "127.0.0.1", self.leader)], [about])


def _handler(broker: Broker) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            broker.sockets.append(self.request)
            try:
                while size := self.rfile.read(4):
                    request = encoding.decode_frame(self.rfile.read(int.from_bytes(size, "big")))
                    try:
                        for frame in broker.answer(request):
                            self.wfile.write(frame if isinstance(frame, bytes) else _encoded(frame))
                    except Silence:
                        continue
            except (HangUp, OSError):
                return

    return Handler


def _encoded(frame: Any) -> bytes:
    data = bytearray(encoding.encode_frame(frame))
    if schema.registry.get((True, frame.key)) is type(frame):
        data[4] |= 0x80  # the library only writes requests
    return bytes(data)


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.stop()


@pytest.fixture
def other() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.stop()


@pytest.fixture
def some() -> list[Message[bytes]]:
    with seglog.open(":memory:") as log:
        log.append_many([b"0", b"1", b"2"])
        return list(log.read())


@pytest.fixture
def sink(broker: Broker, some: list[Message[bytes]]) -> Iterator[RabbitStreamSink]:
    with opened(broker, some, timeout=5) as made:
        yield made


@contextmanager
def opened(broker: Broker, some: list[Message[bytes]], **options: Any) -> Iterator[RabbitStreamSink]:
    url = f"amqp-stream://alice:s3cret@127.0.0.1:{broker.port}/events"
    with closing(RabbitStreamSink(url, **options)) as made:
        made.attach(some[0].id.partition(":")[0])
        yield made


def failure(act: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        act()
    assert "s3cret" not in str(caught.value)
    return caught.value


def raising(error: Exception) -> Answer:
    def answer(request: Any) -> list[Any]:
        raise error

    return answer


def test_what_is_sent_goes_to_the_leader(
    broker: Broker, other: Broker, sink: RabbitStreamSink, some: list[Message[bytes]]
) -> None:
    broker.leader = other.port
    sink.resume_point()
    sink.send(some)
    assert list(other.published) == [1, 2, 3]
    assert not broker.published
    assert [one.reference for one in other.got if isinstance(one, schema.DeclarePublisher)] == [
        f"seglog-{some[0].id.partition(':')[0]}",
        f"seglog-{some[0].id.partition(':')[0]}-late",
    ]


def test_a_leader_that_cannot_be_reached_is_named(broker: Broker, sink: RabbitStreamSink) -> None:
    broker.leader = free_port()
    error = failure(sink.resume_point)
    assert f"which RabbitMQ says is at 127.0.0.1:{broker.leader}" in str(error)
    assert "advertised_host" in str(error)
    assert error.verdict is Verdict.RETRY
    broker.leader = broker.port
    assert sink.resume_point() is None


def test_a_leader_that_says_nothing_is_named(broker: Broker, other: Broker, some: list[Message[bytes]]) -> None:
    broker.leader = other.port
    other.answers[schema.PeerProperties] = raising(Silence())
    with opened(broker, some, timeout=0.3) as sink:
        error = failure(sink.resume_point)
        assert f"which RabbitMQ says is at 127.0.0.1:{other.port}: no answer within 0.3 s" in str(error)
        broker.answers[schema.PeerProperties] = raising(HangUp())
        assert "leader" not in str(failure(sink.resume_point))


def test_a_port_that_is_not_for_streams_is_put_right_by_somebody(broker: Broker, sink: RabbitStreamSink) -> None:
    broker.answers[schema.PeerProperties] = lambda request: [b"AMQP\x00\x00\x09\x01"]
    error = failure(sink.resume_point)
    assert "this is the port of AMQP" in str(error)
    assert error.verdict is Verdict.CONFIGURATION


def test_a_stream_without_a_leader_is_waited_for(broker: Broker, sink: RabbitStreamSink) -> None:
    broker.answers[schema.Metadata] = lambda request: [broker.metadata(request, 65535)]
    error = failure(sink.resume_point)
    assert "no leader" in str(error)
    assert error.verdict is Verdict.RETRY


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(16, Verdict.CONFIGURATION), (2, Verdict.CONFIGURATION), (18, Verdict.RETRY), (99, Verdict.RETRY)],
)
def test_an_error_for_one_record_is_a_failure_of_the_send(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]], code: int, verdict: Verdict
) -> None:
    broker.answers[schema.Publish] = lambda request: [
        schema.PublishConfirm(request.publisher_id, [1, 3]),
        schema.PublishError(request.publisher_id, [schema.PublishingError(2, code)]),
    ]
    assert failure(lambda: sink.send(some)).verdict is verdict


def test_a_send_waits_for_every_number(broker: Broker, some: list[Message[bytes]]) -> None:
    broker.answers[schema.Publish] = lambda request: [
        schema.PublishConfirm(request.publisher_id, [1, 3]),
        schema.PublishConfirm(1, [2]),  # of the other publisher
    ]
    with closing(RabbitStreamSink(f"amqp-stream://127.0.0.1:{broker.port}/events", timeout=0.3)) as sink:
        sink.attach(some[0].id.partition(":")[0])
        assert "no answer within 0.3 s" in str(failure(lambda: sink.send(some)))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (schema.MetadataUpdate(schema.MetadataInfo(6, "events")), "the stream moved"),
        (schema.Close(7, 1, "maintenance"), "maintenance"),
        (NONSENSE, "is not a valid"),
    ],
    ids=["another leader", "close", "nonsense"],
)
def test_what_ends_a_connection_ends_the_wait_at_once(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]], said: Any, words: str
) -> None:
    broker.answers[schema.Publish] = lambda request: [said]
    began = time.monotonic()
    error = failure(lambda: sink.send(some))
    assert time.monotonic() - began < 4
    assert error.verdict is Verdict.RETRY
    assert words in str(error)
    del broker.answers[schema.Publish]
    assert sink.resume_point() is None
    sink.send(some)
    assert list(broker.published) == [1, 2, 3]


STEPS = pytest.mark.parametrize("step", [schema.PeerProperties, schema.Metadata, schema.Publish])


@STEPS
def test_a_server_that_hangs_up_is_tried_again(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]], step: type[Any]
) -> None:
    broker.answers[step] = raising(HangUp())
    error = failure(lambda: sink.send(some))
    assert "hung up" in str(error)
    assert error.verdict is Verdict.RETRY
    del broker.answers[step]
    sink.send(some)
    assert list(broker.published) == [1, 2, 3]


@STEPS
def test_a_server_that_says_nothing_is_not_waited_for_longer_than_asked(
    broker: Broker, some: list[Message[bytes]], step: type[Any]
) -> None:
    broker.answers[step] = raising(Silence())
    with closing(RabbitStreamSink(f"amqp-stream://127.0.0.1:{broker.port}/events", timeout=0.3)) as sink:
        sink.attach(some[0].id.partition(":")[0])
        error = failure(lambda: sink.send(some))
        assert "no answer within 0.3 s" in str(error)
        assert error.verdict is Verdict.RETRY


def test_a_connection_that_went_silent_is_not_asked_again(broker: Broker, some: list[Message[bytes]]) -> None:
    with opened(broker, some, timeout=0.3) as sink:
        sink.resume_point()
        broker.answers[schema.QueryPublisherSequence] = raising(Silence())
        assert "no answer within 0.3 s" in str(failure(sink.resume_point))
        del broker.answers[schema.QueryPublisherSequence]
        assert sink.resume_point() is None
        assert broker.connections == 2


def test_a_connection_that_was_lost_while_idle_is_no_failure(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]]
) -> None:
    sink.send(some[:1])
    before = sink._connection
    assert before is not None
    broker.hang_up()
    wait_until(lambda: not before.usable)
    sink.send(some[1:])
    assert list(broker.published) == [1, 2, 3]
    assert broker.connections == 2


def test_a_late_message_keeps_its_number_while_nobody_knows_whether_it_arrived(
    broker: Broker, some: list[Message[bytes]]
) -> None:
    broker.published[3] = b""
    clock = ManualClock()
    tried = list[tuple[int, list[int]]]()

    def hang_up(request: Any) -> list[Any]:
        tried.append((request.publisher_id, [one.publishing_id for one in request.messages]))
        raise HangUp

    broker.answers[schema.Publish] = hang_up
    with opened(broker, some, timeout=5, clock=clock) as sink:
        for batch in (some[:2], some[:1], some, some[1:2], some[1:]):
            clock.advance(1)
            failure(lambda batch=batch: sink.send(batch))  # type: ignore[misc]
        del broker.answers[schema.Publish]
        sink.send(some[1:2])
        sink.send(some[2:])
    n = ManualClock().time_ns() + 1_000_000_001
    assert tried == [
        (1, [n, n + 1]),
        (1, [n]),
        (1, [n, n + 1, n + 2]),
        (1, [n + 3]),  # another one first: what is on its way must not arrive before it
        (1, [n + 3, n + 4]),
    ]
    assert list(broker.late) == [n + 3, n + 5]


@contextmanager
def a_dead_process_has_on_its_way(broker: Broker, some: list[Message[bytes]], clock: ManualClock) -> Iterator[None]:
    """A late message, which arrives when its heir is looking back."""
    broker.published[3] = b""
    held = list[Any]()

    def die(request: Any) -> list[Any]:
        held.append(request)
        raise HangUp

    def arrive(request: Any) -> list[Any]:
        while held:
            broker.store(held.pop())
        return [schema.SubscribeResponse(request.correlation_id, 1)]

    broker.answers[schema.Publish] = die
    with opened(broker, some, timeout=5, clock=clock) as dead:
        failure(lambda: dead.send(some))
    del broker.answers[schema.Publish]
    broker.answers[schema.Subscribe] = arrive
    yield
    assert not held


def late_ids(broker: Broker) -> set[str]:
    return {amqp.identity(data) for data in broker.late.values()}


def test_what_a_dead_process_had_on_its_way_does_not_take_the_place_of_a_late_message(
    broker: Broker, some: list[Message[bytes]]
) -> None:
    clock = ManualClock()
    with a_dead_process_has_on_its_way(broker, some[1:], clock):
        clock.advance(0.01)
        with opened(broker, some, timeout=5, clock=clock) as heir:
            heir.send(some[:1])
    assert late_ids(broker) == {message.id for message in some}


def test_a_late_message_that_was_dropped_for_another_is_not_confirmed(
    broker: Broker, some: list[Message[bytes]]
) -> None:
    clock = ManualClock()
    with a_dead_process_has_on_its_way(broker, some[1:], clock):
        clock.jump(-3600)
        with opened(broker, some, timeout=5, clock=clock) as heir:
            error = failure(lambda: heir.send(some[:1]))
            assert "came in between" in str(error)
            assert error.verdict is Verdict.RETRY
            assert some[0].id not in late_ids(broker)
            assert heir.resume_point() == 3
            heir.send(some[:1])
    assert late_ids(broker) == {message.id for message in some}


def test_late_numbers_rise_and_differ_though_the_clock_was_put_back_for_years(
    broker: Broker, some: list[Message[bytes]]
) -> None:
    known = ManualClock().time_ns()
    broker.late[known] = b""
    clock = ManualClock(start_ns=0)
    with a_dead_process_has_on_its_way(broker, some[1:], clock):
        clock.advance(0.01)
        with opened(broker, some, timeout=5, clock=clock) as heir:
            heir.send(some[:1])
    assert len(broker.late) == 4
    assert min(broker.late) == known
    assert max(broker.late) < known + (1 << 26)


def test_it_gives_signs_of_life_as_often_as_the_server_wants_them(broker: Broker, sink: RabbitStreamSink) -> None:
    broker.heartbeat = 1
    sink.resume_point()
    wait_until(lambda: any(isinstance(one, schema.Heartbeat) for one in broker.got), 10)


def test_a_server_that_gives_none_is_taken_for_gone(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]]
) -> None:
    broker.heartbeat = 1
    sink.send(some[:1])
    before = sink._connection
    assert before is not None
    wait_until(lambda: not before.usable, 10)
    sink.send(some[1:])
    assert broker.connections == 2
    assert list(broker.published) == [1, 2, 3]


def test_no_frame_is_larger_than_the_server_wants_them(broker: Broker, sink: RabbitStreamSink) -> None:
    with seglog.open(":memory:") as log:
        log.append_many([b"x" * 1000] * 2500)
        sink.send(list(log.read()))
    frames = [len(encoding.encode_publish(one)) for one in broker.got if isinstance(one, schema.Publish)]
    assert len(frames) == 3
    assert max(frames) <= 1 << 20
    assert len(broker.published) == 2500


def test_nothing_is_left_out_where_a_part_of_a_batch_was_refused(broker: Broker, sink: RabbitStreamSink) -> None:
    """What the server took behind it would be the highest number, and pass for all."""
    broker.frame_max = 5000

    def refuse_once(request: Any) -> list[Any]:
        del broker.answers[schema.Publish]
        numbers = [one.publishing_id for one in request.messages]
        return [schema.PublishError(request.publisher_id, [schema.PublishingError(number, 16) for number in numbers])]

    broker.answers[schema.Publish] = refuse_once
    with seglog.open(":memory:") as log:
        log.append_many([b"x" * 2000] * 7)
        with log.consumer("forward") as consumer:
            Forwarder(consumer, sink, linger=0, patience=10, clock=ManualClock()).run(once=True)
            assert len(consumer) == 0
    assert list(broker.published) == [1, 2, 3, 4, 5, 6, 7]


def test_a_refused_login_says_why(broker: Broker, sink: RabbitStreamSink) -> None:
    broker.answers[schema.SaslAuthenticate] = lambda request: [
        schema.SaslAuthenticateResponse(request.correlation_id, 8)
    ]
    error = failure(sink.resume_point)
    assert "the user or the password is wrong" in str(error)
    assert error.verdict is Verdict.CONFIGURATION


def test_a_number_that_the_server_forgot_is_read_from_the_newest_records(
    broker: Broker, sink: RabbitStreamSink, some: list[Message[bytes]]
) -> None:
    def deliver(request: Any) -> list[Any]:
        data = b"".join(len(one).to_bytes(4, "big") + one for one in map(amqp.encode, (some[2], some[0])))
        crc = zlib.crc32(data)
        return [
            schema.SubscribeResponse(request.correlation_id, 1),
            schema.Deliver(0, 80, 0, 2, 2, 0, 1, 0, crc, len(data), 0, 0, data),
        ]

    broker.answers[schema.Subscribe] = deliver
    assert sink.resume_point() == 3


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp-stream://h/b\u00fcro", "not ASCII"),
        ("amqp-stream://h/s?vhost=\u00fc", "not ASCII"),
        ("amqp-stream://h/", "a stream"),
        ("amqp-stream://alice@h/s", "a user needs a password, and a password a user"),
        ("amqp-stream://:s3cret@h/s", "a user needs a password, and a password a user"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(url: str, why: str) -> None:
    with pytest.raises(InvalidOption, match=why) as caught:
        open_sink(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("who", "secret"), [("", b"\0guest\0guest"), ("alice:s3cret@", b"\0alice\0s3cret")])
def test_who_is_nobody_in_particular_is_guest(broker: Broker, who: str, secret: bytes) -> None:
    with closing(RabbitStreamSink(f"amqp-stream://{who}127.0.0.1:{broker.port}/events", timeout=5)) as sink:
        sink.attach("x")
        sink.resume_point()
    assert [one.data for one in broker.got if isinstance(one, schema.SaslAuthenticate)] == [secret]


@pytest.mark.parametrize(
    "answer",
    [raising(Silence()), raising(HangUp()), lambda request: [NONSENSE]],
    ids=["silence", "hung up", "nonsense"],
)
def test_closing_ends_the_thread_whatever_becomes_of_the_goodbye(
    broker: Broker, some: list[Message[bytes]], answer: Answer
) -> None:
    broker.answers[schema.Close] = answer
    with opened(broker, some, timeout=0.3) as sink:
        sink.send(some)
    assert any(isinstance(one, schema.Close) for one in broker.got)
    assert "seglog-rabbitmq" not in {thread.name for thread in threading.enumerate()}


def test_a_record_is_a_message_that_others_can_read() -> None:
    headers = {"type": b"a", "empty": b"", "n\u00fc": b"\xff\x00", "long": b"v" * 300, "l" * 300: b"long name"}
    with seglog.open(":memory:") as log:
        log.append(b"", key=b"", headers=headers)
        log.append(b"p" * 70_000, key=b"k" * 300)
        empty, large = (rstream.amqp_decoder(amqp.encode(message)) for message in log.read())
        ids, moment = [message.id for message in log.read()], next(log.read()).time_ns // 1_000_000
    assert [one.properties.message_id.decode() for one in (empty, large)] == ids
    assert empty.properties.creation_time == moment
    assert (empty.body, empty.message_annotations) == (b"", {amqp.KEY.encode(): b""})
    assert {name.decode(): value for name, value in empty.application_properties.items()} == headers
    assert (large.body, large.message_annotations) == (b"p" * 70_000, {amqp.KEY.encode(): b"k" * 300})
    assert large.application_properties is None


@pytest.mark.parametrize("entry", [b"", b"no message", b"\x00\x53\x75\xa0\x01x", b"\x00\x53\x73\xd0\x00"])
def test_what_is_no_record_has_no_identity(entry: bytes) -> None:
    assert amqp.identity(entry) == ""
