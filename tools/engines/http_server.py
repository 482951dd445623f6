"""A collector of our own: keeps each batch once, by its `Idempotency-Key`, durably before it answers.

    python -m tools.engines.http_server PORT FILE

FILE has a line of JSON for each request that was new: its key, and the lines of its body. A repeat that has other lines
than the first time is answered with 500.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Store:
    """What was kept."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]  # a line that is cut was never answered for
        for line in whole.splitlines():
            self._known.update([json.loads(line)])
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.ftruncate(self._fd, len(whole))
        os.lseek(self._fd, 0, os.SEEK_END)

    def keep(self, key: str, lines: list[str]) -> int:
        """The status of the answer."""
        with self._lock:
            if key in self._known:
                return 200 if self._known[key] == lines else 500
            os.write(self._fd, json.dumps([key, lines]).encode() + b"\n")
            os.fsync(self._fd)
            self._known[key] = lines
            return 200


def handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # whoever sent it was killed meanwhile: it must not be kept under its key
                self.close_connection = True
                return
            self.send_response(store.keep(self.headers["Idempotency-Key"], body.decode("latin-1").splitlines()))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            return

    return Handler


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler(Store(Path(sys.argv[2])))).serve_forever()
