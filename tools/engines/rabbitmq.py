"""rabbitmq-server with its stream plugin; 5 to 7 s to start, so tests share one where they can.

A server that is asked to start before anybody asked where it is (`url`) is the shared one: it speaks both TLS and not,
it knows `user` alone, and every engine has streams of its own there. It may be killed; the next test starts it again.
What asks for the url first wants a server that is down at first: it gets one of its own, with the user that RabbitMQ
makes by itself.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from tools.engines.server import Arrived, Engine, free_port

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on the PATH wants to be root
KEY = b"x-opt-seglog-key"
T = TypeVar("T")

# epmd goes into the background of its own accord, and would stay for ever, unless it runs before anybody wants it. And
# should this process be killed, the server, which has no other master, goes too.
SCRIPT = """
(while kill -0 "$PPID"; do sleep 1; done; kill -KILL 0) 2>/dev/null &
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
until epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.02; done
exec "$0"
"""


class Server(Engine):
    """The server itself."""

    name = "rabbitmq-server"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tls_port = free_port()
        self._ports = {"ERL_EPMD_PORT": str(free_port()), "RABBITMQ_DIST_PORT": str(free_port())}

    def command(self) -> list[str]:
        settings = {
            "listeners.tcp": "none",
            "stream.listeners.tcp.1": f"127.0.0.1:{self.port}",
            "stream.advertised_host": "127.0.0.1",
            "stream.advertised_port": self.port,
        }
        if self.protected:
            settings |= {"default_user": self.user, "default_pass": self.password}
        if self.certificate:
            settings |= {
                "stream.listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "stream.advertised_tls_port": self.tls_port,
                "ssl_options.cacertfile": self.certificate[0],
                "ssl_options.certfile": self.certificate[0],
                "ssl_options.keyfile": self.certificate[1],
                "ssl_options.verify": "verify_none",
            }
        (self.folder / "rabbitmq.conf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        (self.folder / "plugins").write_text("[rabbitmq_stream].\n")
        return ["sh", "-c", SCRIPT, PROGRAM]

    def environment(self) -> dict[str, str]:
        return {
            **self._ports,
            "HOME": str(self.folder),  # where the cookie is
            "RABBITMQ_NODENAME": f"seglog{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "db"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def answers(self) -> None:
        self.ask(lambda client: asyncio.sleep(0))

    def ask(self, question: Callable[[Any], Awaitable[T]]) -> T:
        """What one connection of rstream's own client answers."""
        from rstream import client as rstream_client

        async def asked() -> T:
            client = rstream_client.Client("127.0.0.1", self.port, frame_max=1 << 20, heartbeat=60)
            try:
                await client.start()
                credentials = (self.user, self.password) if self.protected else ("guest", "guest")
                await client.authenticate("/", *credentials)
                return await question(client)
            finally:
                await client.close()

        with _quiet(rstream_client.logger):
            return asyncio.run(asyncio.wait_for(asked(), 20))

    @property
    def is_down(self) -> bool:
        return self._process is None


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """It would put the password into the log, where tests look whether a sink did."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


_shared: list[Server] = []
_number = itertools.count(1)


def shared() -> Server:
    """The one for all; it ends with this process."""
    if not _shared:
        folder = Path(tempfile.mkdtemp(prefix="seglog-rabbitmq-"))
        server = Server(folder / "server")
        server.protect()
        server.encrypt()
        _shared.append(server)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(server.stop)  # runs before the line above
    return _shared[0]


class RabbitMQ(Engine):
    name = "RabbitMQ streams"
    programs = (PROGRAM, "epmd", "openssl")
    modules = ("rstream",)
    slow = "a server of its own takes ten seconds to start"
    too_large = 1 << 20  # that and what goes with it is more than one frame may have

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._own = Server(folder)
        self._server: Server | None = None
        self._prefix = f"{next(_number)}."

    @property
    def broker(self) -> Server:
        if self._server is None:  # it has to be down until it is started
            self._server = self._own
        return self._server

    def start(self) -> None:
        if self._server is None:
            self._server = shared()
        if self._server.is_down:
            self._server.start()

    def kill(self) -> None:
        self.broker.kill()

    def stop(self) -> None:
        self._own.stop()

    def encrypt(self) -> None:
        self.certificate = shared().certificate

    def stream(self, target: str) -> str:
        return self._prefix + target

    def url(self, target: str) -> str:
        server = self.broker
        tls, port = ("+tls", server.tls_port) if self.certificate else ("", server.port)
        who = f"{server.user}:{quote(server.password, safe='')}@" if server.protected and not self.protected else ""
        return f"amqp-stream{tls}://{who}127.0.0.1:{port}/{self.stream(target)}"

    def prepare(self, target: str) -> None:
        self.broker.ask(lambda client: client.create_stream(self.stream(target)))

    def arrived(self, target: str) -> list[Arrived]:
        return [_arrived(entry) for entry in self.entries(target)]

    def entries(self, target: str) -> list[bytes]:
        """As they lie in the stream, by rstream's own client."""
        return self.broker.ask(lambda client: _entries(client, self.stream(target)))


async def _entries(client: Any, stream: str) -> list[bytes]:
    from rstream import schema
    from rstream.constants import OffsetType

    chunks: asyncio.Queue[Any] = asyncio.Queue()

    async def look(number: int, offset: OffsetType) -> None:
        client.add_handler(schema.Deliver, chunks.put, name=str(number))
        await client.run_queue_listener_task(subscriber_id=number, handler=chunks.put)
        await client.subscribe(stream, number, schema.OffsetSpec(offset), initial_credit=1)

    await look(1, OffsetType.LAST)
    try:
        last = await asyncio.wait_for(chunks.get(), 0.5)
    except TimeoutError:
        return []  # it is empty
    await client.unsubscribe(1)
    client.remove_handler(schema.Deliver, "1")
    found = list[bytes]()
    await look(2, OffsetType.FIRST)
    while True:
        chunk = await asyncio.wait_for(chunks.get(), 10)
        found += chunk.get_messages()
        if chunk.chunk_first_offset >= last.chunk_first_offset:
            return found
        await client.credit(2, 1)


def _arrived(entry: bytes) -> Arrived:
    from rstream import amqp_decoder

    message: Any = amqp_decoder(entry)
    headers = {name.decode(): value for name, value in (message.application_properties or {}).items()}
    key = (message.message_annotations or {}).get(KEY)
    return Arrived(message.properties.message_id.decode(), bytes(message.body), key, headers)
