"""redis-server, with every answer on the disk before it is given."""

from __future__ import annotations

from typing import Any

from tools.engines.server import Arrived, Engine


class Redis(Engine):
    name = "Redis Streams"
    programs = ("redis-server",)
    modules = ("redis",)
    too_large = 2 << 20  # the server takes a bit over one MiB

    def command(self) -> list[str]:
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        where = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--proto-max-bulk-len", "1048576"]
        port = ["--port", str(self.port)]
        if self.certificate:
            cert, key = map(str, self.certificate)
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", cert, "--tls-key-file", key]
            port += ["--tls-auth-clients", "no"]
        who = ["--user", self.user, "on", f">{self.password}", "~*", "&*", "+@all", "--user", "default", "off"]
        return ["redis-server", *port, *where, *durable, *(who if self.protected else [])]

    def answers(self) -> None:
        self.client().ping()

    def url(self, target: str) -> str:
        return f"redis{'s' if self.certificate else ''}://127.0.0.1:{self.port}/{target}"

    def client(self) -> Any:
        import redis

        options: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "socket_timeout": 10}
        if self.protected:
            options |= {"username": self.user, "password": self.password}
        if self.certificate:
            options |= {"ssl": True, "ssl_ca_certs": str(self.certificate[0])}
        return redis.Redis(**options)

    def arrived(self, target: str) -> list[Arrived]:
        with self.client() as client:
            return [
                Arrived(
                    fields[b"id"].decode(),
                    fields[b"payload"],
                    fields.get(b"key"),
                    {k.decode().removeprefix("header:"): v for k, v in fields.items() if k.startswith(b"header:")},
                )
                for _, fields in client.xrange(target)
            ]
