"""The processes that are killed: on one log, they append from threads, rotate, consume, ack and compact; or they live a
scene of `points`, up to one of the points.

Those that work say each thing when it has happened, right after the call returned, and what they are about to do right
before:

    s THREAD FIRST COUNT            about to append records FIRST .. FIRST+COUNT-1 of this thread
    a THREAD FIRST COUNT OFFSET     they are acknowledged, from this offset on
    i CONSUMER OFFSET,OFFSET,…      about to ack these
    d CONSUMER OFFSET,OFFSET,…      they are acked
    c                               the log was compacted

Those that live a scene say these:

    mark MARK                       of a `Life`, for `history`
    dying POINT                     the last word
    lived SITE …                    it was not killed, and came to all these
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import seglog
from seglog.disk.local import LocalDisk
from seglog.repair import repair
from seglog.testing import CrashDisk
from tools.crashtest import points
from tools.crashtest.kill_disk import KillDisk, Target
from tools.crashtest.life import Life
from tools.crashtest.zygote import Hear, Say

SEGMENT_BYTES = 16 * 1024
CONSUMERS = ("fast", "late")


def payload(generation: int, thread: str, number: int) -> bytes:
    """What this record holds: its name, and as many bytes as its name's dice say."""
    dice = random.Random(f"{generation}.{thread}.{number}")
    length = dice.choice((0, 30, 200, 200, 300, 600, 5000)) if number % 97 else 20_000  # larger than a segment
    return f"{generation}.{thread}.{number}.".encode() + dice.randbytes(length // 2) + bytes(length - length // 2)


def name_of(data: bytes) -> tuple[int, str, int]:
    """Generation, thread and number of a record's payload."""
    generation, thread, number, _ = data.split(b".", 3)
    return int(generation), thread.decode(), int(number)


def work(say: Say, hear: Hear, directory: str, generation: int, options: dict[str, Any]) -> None:
    """All of it in one process. Runs until it is killed; any exception ends it, and is said."""
    with seglog.open(directory, segment_bytes=SEGMENT_BYTES, **options) as log:
        consumers = [log.consumer(name) for name in CONSUMERS]
        in_threads(
            *appending(log, say, generation),
            partial(compact, log),
            *(partial(consume, each, say, random.Random(f"{each.name} {generation}")) for each in consumers),
        )


def write(say: Say, hear: Hear, directory: str, generation: int, options: dict[str, Any]) -> None:
    """The writer alone."""
    with seglog.open(directory, segment_bytes=SEGMENT_BYTES, **options) as log:
        in_threads(*appending(log, say, generation))


def consume_beside(say: Say, hear: Hear, directory: str, life: int, name: str) -> None:
    """A consumer in a process of its own."""
    with seglog.open(directory, "r") as log, log.consumer(name) as consumer:
        consume(consumer, say, random.Random(f"{name} {life}"))


def compact_beside(say: Say, hear: Hear, directory: str) -> None:
    """Somebody who gives space back."""
    with seglog.open(directory, "r") as log:
        compact(log, lambda: say("c"))


def appending(log: seglog.Log[bytes], say: Say, generation: int) -> list[Callable[[], None]]:
    return [
        partial(append, log, say, generation, "single"),
        partial(append_many, log, say, generation, random.Random(f"many {generation}")),
        partial(submit, log, say, generation, random.Random(f"later {generation}")),
    ]


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


def append(log: seglog.Log[bytes], say: Say, generation: int, thread: str) -> None:
    number = 0
    while True:
        say(f"s {thread} {number} 1")
        offset = log.append(payload(generation, thread, number))
        say(f"a {thread} {number} 1 {offset}")
        number += 1


def append_many(log: seglog.Log[bytes], say: Say, generation: int, dice: random.Random) -> None:
    number = 0
    while True:
        count = dice.randint(1, 20)
        say(f"s many {number} {count}")
        offsets = log.append_many([payload(generation, "many", n) for n in range(number, number + count)])
        say(f"a many {number} {count} {offsets[0]}")
        assert len(offsets) == count
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
    """Acks most of what it gets, in any order; gives some back; what it keeps comes again in the next life."""
    while True:
        messages = consumer.receive_many(dice.randint(1, 100), timeout=1.0)
        dice.shuffle(messages)
        back = [m for m in messages if dice.random() < 0.03]
        done = [m for m in messages if m not in back and (consumer.name == "fast" or dice.random() < 0.99)]
        if back:
            consumer.nack(*back)
        if done:
            offsets = ",".join(str(m.offset) for m in done)
            say(f"i {consumer.name} {offsets}")
            consumer.ack(*done)
            say(f"d {consumer.name} {offsets}")


def compact(log: seglog.Log[bytes], done: Callable[[], None] = lambda: None) -> None:
    while True:
        time.sleep(0.01)  # else it would hold the lock of the consumers all the time
        log.compact()
        done()


# -- the scenes


def live(say: Say, hear: Hear, path: str, name: str, number: int, target: Sequence[Any] | None) -> None:
    """Process `number` of a scene, up to the target."""
    scene = points.scene(name)
    own = scene.lives()[number]
    disk = _disk(say, path, target)
    # A Life asks its disk for nothing but marks.
    life = Life(cast(CrashDisk, disk), number, path, **{**scene.options, **own.options})
    own.run(life)
    say("lived " + " ".join(disk.journal))


def recover(say: Say, hear: Hear, path: str, name: str, number: int, target: Sequence[Any] | None) -> None:
    """Another process opens the log that a scene left, and is killed as well, if it lives that long."""
    disk = _disk(say, path, target)
    Life(cast(CrashDisk, disk), number, path, **points.scene(name).options).die()
    say("lived " + " ".join(disk.journal))


def repairing(say: Say, hear: Hear, path: str, target: Sequence[Any] | None) -> None:
    disk = _disk(say, path, target)
    repair(path, disk=disk)
    say("lived " + " ".join(disk.journal))


def _disk(say: Say, path: str, target: Sequence[Any] | None) -> KillDisk:
    def heard(mark: Any) -> None:
        say(f"mark {mark!r}")

    def dying(point: str) -> None:
        say(f"dying {point}")

    return KillDisk(LocalDisk(), path, None if target is None else Target(*target), heard, dying)
