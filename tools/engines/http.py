"""An HTTP collector that drops repeats by their key: no product, the least that our documentation asks of one."""

from __future__ import annotations

import json
import socket
import sys

from tools.engines.effectively_once import ROOT
from tools.engines.server import Arrived, Engine


class Http(Engine):
    """Its records have no key and no headers: they are lines."""

    name = "HTTP, dropping repeated keys"
    modules = ("urllib3",)
    insecure = "it is ours"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tools.engines.http_server", str(self.port), str(self.folder / "kept")]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    def answers(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self.port}/{target}"

    def arrived(self, target: str) -> list[Arrived]:
        """The n-th line has the n-th offset of its key."""
        found = []
        for line in (self.folder / "kept").read_text("ascii").splitlines():
            key, lines = json.loads(line)
            log_id, _, ranges = key.rpartition(":")
            pairs = [[int(end) for end in one.split("-")] for one in ranges.split(",")]
            offsets = [offset for first, last in pairs for offset in range(first, last + 1)]
            found += [
                Arrived(f"{log_id}:{offset}", text.encode("latin-1"), None, {})
                for offset, text in zip(offsets, lines, strict=True)
            ]
        return found
