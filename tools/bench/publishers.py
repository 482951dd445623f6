"""The best that each engine's own client library can do: batches that return when the server has all of them.

They carry what the sinks' records carry, so that the same bytes go over the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tools.engines.kafka import Kafka
from tools.engines.nats import Nats
from tools.engines.rabbitmq import RabbitMQ
from tools.engines.redis import Redis
from tools.engines.server import Engine

PAYLOAD = b"x" * 300
LOG_ID = "00000000-0000-0000-0000-000000000000"
TIME_MS = 1_700_000_000_000

Publish = Callable[[int, int], object]  # records from this number on, so many


@contextmanager
def redis(engine: Any, target: str) -> Iterator[Publish]:
    with engine.client() as client:

        def publish(first: int, count: int) -> None:
            with client.pipeline(transaction=True) as pipeline:
                for number in range(first, first + count):
                    pipeline.xadd(target, {"id": f"{LOG_ID}:{number}", "time": TIME_MS, "payload": PAYLOAD})
                pipeline.execute()

        yield publish


@contextmanager
def kafka(engine: Any, target: str) -> Iterator[Publish]:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": f"127.0.0.1:{engine.port}", "enable.idempotence": True, "log_level": 0})

    def reported(error: object, _: object) -> None:
        assert error is None, error  # without reports a record that the broker refused would count as there

    def publish(first: int, count: int) -> None:
        for number in range(first, first + count):
            identity = [("seglog-id", f"{LOG_ID}:{number}".encode())]
            producer.produce(
                target, PAYLOAD, None, 0, reported, timestamp=TIME_MS, headers=identity
            )  # as the sink does
        assert producer.flush(30) == 0

    yield publish


@contextmanager
def nats(engine: Any, target: str) -> Iterator[Publish]:
    import nats as library

    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(library.connect(f"nats://127.0.0.1:{engine.port}"))
    stream = client.jetstream(timeout=30)

    async def published(first: int, count: int) -> None:
        await asyncio.gather(
            *[
                await stream.publish_async(target, PAYLOAD, headers={"Nats-Msg-Id": f"{LOG_ID}:{number}"})
                for number in range(first, first + count)
            ]
        )

    try:
        yield lambda first, count: loop.run_until_complete(published(first, count))
    finally:
        loop.run_until_complete(client.close())
        loop.close()


@contextmanager
def rabbitmq(engine: Any, target: str) -> Iterator[Publish]:
    from rstream import AMQPMessage, Producer, Properties

    user, password = (engine.user, engine.password) if engine.broker.protected else ("guest", "guest")
    producer: Any = Producer("127.0.0.1", engine.broker.port, username=user, password=password)

    async def publish(first: int, count: int) -> None:
        unconfirmed, done = count, asyncio.Event()

        def on_answer(answer: Any) -> None:
            nonlocal unconfirmed
            assert answer.is_confirmed, f"error {answer.response_code}"
            unconfirmed -= 1
            if not unconfirmed:
                done.set()

        batch = [
            AMQPMessage(properties=Properties(message_id=f"{LOG_ID}:{number}", creation_time=TIME_MS), body=PAYLOAD)
            for number in range(first, first + count)
        ]
        await producer.send_batch(engine.stream(target), batch, "bench", on_answer)
        await asyncio.wait_for(done.wait(), 30)

    with asyncio.Runner() as runner:
        runner.run(producer.start())
        yield lambda first, count: runner.run(publish(first, count))
        runner.run(producer.close())


PUBLISHERS: dict[type[Engine], Callable[[Any, str], AbstractContextManager[Publish]]] = {
    Redis: redis,
    Kafka: kafka,
    Nats: nats,
    RabbitMQ: rabbitmq,
}
