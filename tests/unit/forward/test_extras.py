"""A sink whose client library is not installed says which extra brings it; no other sink is imported for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from seglog.forward.sinks import SINKS

NEEDED = {
    "http://h/p": ("urllib3", "http"),
    "https://h/p": ("urllib3", "http"),
    "otlp+http://h": ("opentelemetry", "otlp"),
    "otlp+https://h": ("opentelemetry", "otlp"),
    "redis://h/s": ("redis", "redis"),
    "rediss://h/s": ("redis", "redis"),
    "nats://h/s": ("nats", "nats"),
    "nats+tls://h/s": ("nats", "nats"),
    "kafka://h/s": ("confluent_kafka", "kafka"),
    "kafka+tls://h/s": ("confluent_kafka", "kafka"),
    "amqp-stream://h/s": ("rstream", "rabbitmq"),
    "amqp-stream+tls://h/s": ("rstream", "rabbitmq"),
}
NOTHING = ("file:x.ndjson", "exec:true", "stdout:")

PROGRAM = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None
from seglog.forward import open_sink
try:
    open_sink(sys.argv[1])
except ValueError as error:
    print(error)
"""


def test_every_scheme_is_here() -> None:
    assert {url.partition(":")[0] for url in (*NEEDED, *NOTHING)} == set(SINKS)


@pytest.mark.parametrize("url", [*NEEDED, *NOTHING])
def test_without_the_client_library_the_error_names_the_extra(url: str) -> None:
    missing = " ".join({library for library, _ in NEEDED.values()})
    run = subprocess.run([sys.executable, "-c", PROGRAM, url, missing], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert (f"pip install 'seglog[{NEEDED[url][1]}]'" in run.stdout) if url in NEEDED else run.stdout == ""
