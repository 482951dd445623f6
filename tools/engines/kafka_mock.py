"""librdkafka's mock of one Kafka broker as a program. It lives in memory.

    python -m tools.engines.kafka_mock PORT [ERROR…]

The first requests to produce are answered with these error codes of Kafka, and not obeyed; 0 is none. The mock listens
where it likes, so a client that begins at PORT is handed on to it, and learns its address there.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import sys
import threading
from importlib import metadata

PRODUCER = 0  # rd_kafka_type_t
PRODUCE = 0  # the number of this request


def library() -> ctypes.CDLL:
    """librdkafka as confluent-kafka brings it: in Python the mock cannot be told to fail."""
    files = metadata.files("confluent-kafka") or []
    return ctypes.CDLL(str(next(file.locate() for file in files if file.name.startswith("librdkafka"))))


def mock(errors: list[int]) -> tuple[str, int]:
    """Starts it, for as long as this process lives. Returns where it listens."""
    rdkafka = library()
    for name in ("rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(rdkafka, name).restype = ctypes.c_void_p
    rdkafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    said = ctypes.create_string_buffer(512)
    client = rdkafka.rd_kafka_new(PRODUCER, None, said, ctypes.c_size_t(len(said)))
    assert client, said.value
    cluster = ctypes.c_void_p(rdkafka.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), 1))
    codes = (ctypes.c_int * len(errors))(*errors)
    rdkafka.rd_kafka_mock_push_request_errors_array(
        cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(errors)), codes
    )
    host, _, port = rdkafka.rd_kafka_mock_cluster_bootstraps(cluster).decode().partition(":")
    return host, int(port)


def pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either side may be gone at any time
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def hand_on(client: socket.socket, broker: tuple[str, int]) -> None:
    with client, socket.create_connection(broker) as there:
        back = threading.Thread(target=pipe, args=(there, client))
        back.start()
        pipe(client, there)
        back.join()


def main(port: int, errors: list[int]) -> None:
    broker = mock(errors)
    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            client, _ = listening.accept()
            threading.Thread(target=hand_on, args=(client, broker), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(code) for code in sys.argv[2:]])
