"""The demo's far end: a plain HTTP server on the loopback that keeps every record it is sent in a file.

A batch is confirmed after its records were written to the file, each with the offset that its Idempotency-Key gives
it. Killed in between, it has records that it never confirmed: these come again, as they would anywhere. Now and then
it is busy and answers 503 with Retry-After, or slow to confirm what it already has; it says so on stdout. It ends
when its stdin does.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUSY_AT_REQUESTS = (4, 31)
RETRY_AFTER_SECONDS = 1
SLOW_EVERY_REQUESTS, SLOW_SECONDS = 5, 0.15
BODY_BYTES_MAX = 64 << 20


def key_offsets(key: str) -> list[int]:
    """The offsets that an Idempotency-Key names: "<log id>:0-6,8-499"."""
    ranges = [part.split("-") for part in key.rpartition(":")[2].split(",")]
    return [offset for first, last in ranges for offset in range(int(first), int(last) + 1)]


class Store:
    """The file: one line for each record received, its offset, a tab, the record."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        received = path.read_bytes()
        os.ftruncate(self._file, received.rfind(b"\n") + 1)  # the last line may be a half one: we were killed

    def add(self, offsets: list[int], records: list[bytes]) -> None:
        rest = memoryview(b"".join(b"%d\t%s\n" % pair for pair in zip(offsets, records, strict=True)))
        while rest:
            rest = rest[os.write(self._file, rest) :]


def handler(store: Store) -> type[BaseHTTPRequestHandler]:
    guard, requests = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            nonlocal requests
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(min(length, BODY_BYTES_MAX))
            if len(body) < length:  # whoever sent it was killed meanwhile: it comes again, whole
                self.close_connection = True
                return
            with guard:
                requests += 1
                busy = requests in BUSY_AT_REQUESTS
                if not busy:
                    store.add(key_offsets(self.headers["Idempotency-Key"]), body.split(b"\n")[:-1])
                slow = requests % SLOW_EVERY_REQUESTS == 0 and not busy
            if slow:
                os.write(1, b"slow\n")
                time.sleep(SLOW_SECONDS)
            if busy:
                os.write(1, b"busy\n")
                self.send_response(503)
                self.send_header("Retry-After", str(RETRY_AFTER_SECONDS))
            else:
                self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: the file tells what came."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(prog="seglog.demo.collector", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    with ThreadingHTTPServer(("127.0.0.1", args.port), handler(Store(args.file))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.write(1, b"port %d\n" % server.server_address[1])
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
