"""The two processes of the siege: a writer that also consumes, and a reader that consumes and compacts beside it.

Eight threads in all. Each process says what happened, right after the call returned, and what it is about to do right
before, as in `kill_worker`; and besides:

    r THREAD FIRST COUNT       these were refused: they are not in the log
    g CONSUMER OFFSET,OFFSET,…      these were given out
    x CONSUMER OFFSET,OFFSET,…      these were rejected, and are acked
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial

import seglog
from tools.crashtest.kill_worker import payload
from tools.crashtest.zygote import Hear, Say

SEGMENT_BYTES = 16 * 1024
MAX_RECORDS = 400
MAX_BYTES = 192 * 1024
IN_WRITER, IN_READER = "fast", "beside"
CONSUMERS = (IN_WRITER, IN_READER)


def write(say: Say, hear: Hear, directory: str, generation: int) -> None:
    """Five threads, until it is killed."""
    with seglog.open(directory, segment_bytes=SEGMENT_BYTES, max_records=MAX_RECORDS, max_bytes=MAX_BYTES) as log:
        consumer = log.consumer(IN_WRITER)
        say("open")
        in_threads(
            partial(append, log, say, generation, random.Random(f"single {generation}")),
            partial(append_many, log, say, generation, random.Random(f"many {generation}")),
            partial(submit, log, say, generation, random.Random(f"later {generation}")),
            *(partial(consume, consumer, say, random.Random(f"{n} {generation}")) for n in range(2)),
        )


def read(say: Say, hear: Hear, directory: str, generation: int) -> None:
    """Three threads, until it is killed."""
    with seglog.open(directory, "r") as log:
        consumer = log.consumer(IN_READER)
        say("open")
        in_threads(
            *(partial(consume, consumer, say, random.Random(f"{n} beside {generation}")) for n in range(2)),
            partial(compact, log),
        )


def in_threads(*jobs: Callable[[], None]) -> None:
    """Run until one of them raises; that is raised here."""
    failures: list[BaseException] = []
    ended = threading.Event()

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)
            ended.set()

    for job in jobs:
        threading.Thread(target=run, args=(job,), daemon=True).start()
    ended.wait()
    raise failures[0]


def append(log: seglog.Log[bytes], say: Say, generation: int, dice: random.Random) -> None:
    number = 0
    while True:
        say(f"s single {number} 1")
        try:
            offset = log.append(payload(generation, "single", number), timeout=dice.choice((None, 0, 0.01)))
        except seglog.LogFull:
            say(f"r single {number} 1")
        else:
            say(f"a single {number} 1 {offset}")
        number += 1


def append_many(log: seglog.Log[bytes], say: Say, generation: int, dice: random.Random) -> None:
    number = 0
    while True:
        count = dice.randint(1, 20)
        say(f"s many {number} {count}")
        try:
            values = [payload(generation, "many", n) for n in range(number, number + count)]
            offsets = log.append_many(values, timeout=dice.choice((None, 0, 0.05)))
        except seglog.LogFull:
            say(f"r many {number} {count}")
        else:
            assert len(offsets) == count
            say(f"a many {number} {count} {offsets[0]}")
        number += count


def submit(log: seglog.Log[bytes], say: Say, generation: int, dice: random.Random) -> None:
    number = 0
    while True:
        futures = []
        for n in range(number, number + dice.randint(1, 8)):
            say(f"s later {n} 1")
            futures.append((n, log.submit(payload(generation, "later", n), key=b"%d" % n)))
        for n, future in futures:
            say(f"a later {n} 1 {future.result()}")
        number += len(futures)


def consume(consumer: seglog.Consumer[bytes], say: Say, dice: random.Random) -> None:
    """Acks what it gets, in any order; gives some back, rejects some."""
    while True:
        messages = consumer.receive_many(dice.randint(1, 60), timeout=0.5)
        if not messages:
            continue
        say(f"g {consumer.name} {listed(messages)}")
        dice.shuffle(messages)
        back = [m for m in messages if dice.random() < 0.03]
        bad = [m for m in messages if m not in back and dice.random() < 0.002]
        done = [m for m in messages if m not in back and m not in bad]
        if back:
            consumer.nack(*back)
        for call, some in ((consumer.reject, bad), (consumer.ack, done)):
            if some:
                say(f"i {consumer.name} {listed(some)}")
                call(*some)
                say(f"d {consumer.name} {listed(some)}")
        if bad:
            say(f"x {consumer.name} {listed(bad)}")


def listed(messages: list[seglog.Message[bytes]]) -> str:
    return ",".join(str(m.offset) for m in messages)


def compact(log: seglog.Log[bytes]) -> None:
    while True:
        time.sleep(0.02)  # else it would hold the lock of the consumers all the time
        log.compact()
