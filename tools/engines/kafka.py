"""librdkafka's mock of a Kafka broker: no real one can be had as a package.

It shows that what is written can be read, not what a cluster does with it. Of a partition it keeps the newest 5 MiB.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tools.engines.server import Arrived, Engine

ROOT = Path(__file__).resolve().parents[2]


class Kafka(Engine):
    name = "Kafka"
    modules = ("confluent_kafka",)
    too_large = 2 << 20  # by the sink's own limit, in `url`: the mock takes all there is
    slow = "each new producer and consumer takes half a second"
    mock = "librdkafka's mock: paused, not restarted"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.errors: list[int] = []  # with which it answers the first requests to produce

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tools.engines.kafka_mock", str(self.port), *map(str, self.errors)]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    def answers(self) -> None:
        self._admin().list_topics(timeout=2)

    def prepare(self, target: str) -> None:
        self._admin().list_topics(target, timeout=10)  # asking makes it

    def url(self, target: str) -> str:
        return f"kafka://127.0.0.1:{self.port}/{target}?max_bytes=1048576"

    def restart(self, pause: float) -> None:
        """Its data would be gone; so it falls silent for some time, which tells a client no more than a death."""
        self.pause()
        time.sleep(10 * pause)
        self.go_on()

    def arrived(self, target: str) -> list[Arrived]:
        found = []
        for message in self.messages(target):
            headers = dict(message.headers())
            headers.pop("seglog-newest", None)
            found.append(Arrived(headers.pop("seglog-id").decode(), message.value(), message.key(), headers))
        return found

    def messages(self, target: str, partition: int = 0) -> list[Any]:
        """As a consumer has them."""
        from confluent_kafka import Consumer, TopicPartition

        settings = {"group.id": "test", "auto.offset.reset": "earliest", "enable.partition.eof": True}
        consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0, **settings})
        found: list[Any] = []
        try:
            consumer.assign([TopicPartition(target, partition, 0)])
            while True:
                message = consumer.poll(10)
                assert message is not None, "the mock does not answer"
                error: Any = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.name() == "_PARTITION_EOF", error
                    return found
        finally:
            consumer.close()

    def _admin(self) -> Any:
        from confluent_kafka import Producer

        return Producer({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
