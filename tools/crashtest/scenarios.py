"""What several threads of one program do to a log at the same time, and what must be true after it in every order.

Each scenario begins on a log of its own, made anew for every schedule. `World` is what they share: a disk whose every
call lets others go on, and a note of each record that was acknowledged.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import seglog
from seglog.model import Gap
from seglog.testing import CrashDisk, Fault, FaultDisk, Image, ManualClock
from tools.crashtest.history import Broken, demand
from tools.crashtest.scheduler import Abandoned, Scheduler

BIG = 1900  # bytes; two of them fill a segment
Work = Callable[[], Any]


def payload(number: int, size: int = 40) -> bytes:
    return (b"<%d>" % number * (size // 3 + 1))[:size]


class SwitchingDisk(FaultDisk):
    """Before every call, somebody else may go on."""

    def __init__(self, inner: CrashDisk, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        super().__init__(inner)

    def due(self, operation: str, name: str) -> Fault | None:
        self._scheduler.switch()
        return None


class World:
    """One run of a scenario."""

    def __init__(self, scheduler: Scheduler, start: Image) -> None:
        with scheduler.mode("quiet"):  # they are held for one call only
            self.crash = start.disk()
            self.disk = SwitchingDisk(self.crash, scheduler)
        self.clock = scheduler.clock
        self._scheduler = scheduler
        self.acknowledged: dict[int, bytes] = {}
        self.refused: set[bytes] = set()
        self._logs: list[seglog.Log[bytes]] = []

    def open(self, mode: str = "rw", **options: Any) -> seglog.Log[bytes]:
        log = seglog.open("log", mode, disk=self.disk, clock=self.clock, segment_bytes=4096, **options)
        self._logs.append(log)
        return log

    def leave(self) -> None:
        """After a run that did not come to its end, nobody closes them."""
        for log in self._logs:
            log._after_fork()

    def run(self, *works: Work) -> None:
        """All of them at the same time, to their end."""
        errors: list[BaseException] = []

        def wrapped(work: Work) -> Work:
            def run() -> None:
                try:
                    work()
                except Abandoned:
                    raise
                except BaseException as error:
                    errors.append(error)

            return run

        threads = [threading.Thread(target=wrapped(work), name=f"thread {n}") for n, work in enumerate(works, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            raise error if isinstance(error, Broken) else Broken(f"{type(error).__name__}: {error}")

    def append(self, log: seglog.Log[bytes], *payloads: bytes, submit: bool = False) -> None:
        """Append, and look whether it is durable now."""
        try:
            if submit:
                first = log.submit(payloads[0]).result()
            else:
                first = log.append(payloads[0]) if len(payloads) == 1 else log.append_many(payloads).start
        except seglog.LogClosed:
            self.refused.update(payloads)
            return
        for offset, data in enumerate(payloads, first):
            demand(offset not in self.acknowledged, f"offset {offset} was given to two records")
            self.acknowledged[offset] = data
            demand(self._durable(data), f"offset {offset} is acknowledged and not synced")

    def append_each(self, log: seglog.Log[bytes], *payloads: bytes) -> None:
        for each in payloads:
            self.append(log, each)

    def _durable(self, data: bytes) -> bool:
        synced = []
        for operation in reversed(self.crash.journal):
            if operation.kind in ("sync", "datasync"):
                synced.append(operation.item)
            elif operation.kind == "write" and data in operation.data:
                return any(item is operation.item for item in synced)
        return False

    def check(self, *, first: int = 0) -> None:
        """Opened again: all that was acknowledged, at its offset, and nothing that was refused."""
        self._scheduler.wait_for_all()  # the log's own threads, too
        report = seglog.verify("log", disk=self.disk)
        demand(report.ok, "verify:", report)
        with self.open() as log:
            there = {message.offset: message.payload for message in log.read(on_gap=lambda gap: None)}
        for offset, data in self.acknowledged.items():
            demand(offset < first or there.get(offset) == data, f"offset {offset} is lost, or another record")
        demand(not self.refused & set(there.values()), "refused, and it is there")

    def read(self, log: seglog.Log[bytes], *reasons: str) -> None:
        """What a reader gets: what was acknowledged before, in order; gaps for these reasons only."""
        before = dict(self.acknowledged)
        gaps: list[Gap] = []
        found = [(message.offset, message.payload) for message in log.read(on_gap=gaps.append)]
        demand(all(gap.reason in reasons for gap in gaps), "gaps:", gaps)
        offsets = [offset for offset, _ in found]
        demand(offsets == sorted(set(offsets)), "out of order:", offsets)
        passed = {offset for gap in gaps for offset in range(gap.first_offset, gap.last_offset + 1)}
        missed = set(before) - set(offsets) - passed - set(range(log.first_offset))
        demand(not missed, "acknowledged before, and not read:", missed)
        for offset, data in found:
            demand(before.get(offset, data) == data, "read another record at", offset)


@dataclass(frozen=True)
class Scenario:
    """`start` makes what is on the disk. `patient`: nobody ever needs a timeout to go on."""

    run: Callable[[World], None]
    start: Callable[[], Image]
    patient: bool = True


@cache
def made(count: int = 0, size: int = 40, acked: int = 0, **options: Any) -> Image:
    """A log with so many records, of which the consumer "c" has acked the first ones."""
    disk = CrashDisk()
    with seglog.open("log", disk=disk, clock=ManualClock(seed=1), segment_bytes=4096, **options) as log:
        for number in range(count):
            log.append(payload(number, size))
        if acked:
            log.consumer("c").ack(*range(acked))
    return next(disk.images(len(disk.journal), rng=random.Random(0), subsets=0))


def known(world: World, count: int, size: int = 40) -> None:
    """These were acknowledged by the life before."""
    world.acknowledged.update({number: payload(number, size) for number in range(count)})


def leader_and_followers(world: World) -> None:
    log = world.open()
    world.run(
        lambda: world.append(log, b"one"),
        lambda: world.append(log, b"two"),
        lambda: world.append(log, b"three", b"four"),
    )
    log.close()
    world.check()


def leader_and_helper(world: World) -> None:
    log = world.open()
    world.run(
        lambda: world.append(log, b"one", submit=True),
        lambda: world.append(log, b"two"),
        lambda: world.append(log, b"three", submit=True),
    )
    log.close()
    world.check()


def reader_and_rotation(world: World) -> None:
    known(world, 1, BIG)
    with world.open() as log:
        world.run(
            lambda: world.append_each(log, *(payload(number, BIG) for number in range(1, 4))),
            lambda: world.read(log),
        )
    world.check()


def view_and_rotation(world: World) -> None:
    """The reader is another process, as far as it can be one in here."""
    known(world, 1, BIG)
    with world.open() as log, world.open("r") as view:
        world.run(
            lambda: world.append_each(log, *(payload(number, BIG) for number in range(1, 4))),
            lambda: list(view.read()),
        )
        world.read(view)
    world.check()


def reader_and_compactor(world: World) -> None:
    with world.open() as log:
        world.run(log.compact, lambda: world.read(log, "purged"), lambda: world.append(log, b"more"))
        first = log.first_offset
    world.check(first=first)


def view_and_compactor(world: World) -> None:
    with world.open() as log, world.open("r") as view:
        world.run(view.compact, lambda: world.read(log, "purged"), lambda: world.read(view, "purged"))
        first = log.first_offset
    world.check(first=first)


def close_and_append(world: World) -> None:
    log = world.open()
    world.run(lambda: world.append(log, b"one"), lambda: world.append(log, b"two", b"three"), log.close)
    world.check()


def close_and_submit(world: World) -> None:
    log = world.open()
    world.run(lambda: world.append(log, b"one", submit=True), lambda: world.append(log, b"two"), log.close)
    world.check()


def close_and_receive(world: World) -> None:
    log = world.open()
    consumer = log.consumer("c")

    def receive() -> None:
        with suppress(seglog.LogClosed):
            message = consumer.receive(timeout=None)
            demand(message is None, "received", message)

    world.run(receive, log.close)


def registration_and_compaction(world: World) -> None:
    known(world, 6, BIG)
    with world.open() as log:
        world.run(log.compact, lambda: _registers(world, log))
    world.check(first=6)


def registration_elsewhere_and_compaction(world: World) -> None:
    known(world, 6, BIG)
    with world.open() as log, world.open("r") as view:
        world.run(log.compact, lambda: _registers(world, view))
    world.check(first=6)


def _registers(world: World, log: seglog.Log[bytes]) -> None:
    """All from where it begins is delivered."""
    gaps: list[Gap] = []
    consumer = log.consumer("late", on_gap=gaps.append)
    start = consumer.watermark
    got = [message.offset for message in consumer.drain()]
    demand(got == list(range(start, 6)) and not gaps, f"begins at {start}, and got", got, gaps)


def two_receivers(world: World) -> None:
    log = world.open()
    consumer = log.consumer("c")
    got: list[int] = []

    def receive() -> None:
        while (message := consumer.receive()) is not None:
            got.append(message.offset)
            consumer.ack(message)

    world.run(receive, receive)
    demand(sorted(got) == [0, 1, 2], "given out:", got)
    demand(consumer.watermark == 3, "acked, and not handled:", consumer.watermark)
    log.close()


def waiting_receiver(world: World) -> None:
    log = world.open()
    consumer = log.consumer("c")

    def receive() -> None:
        message = consumer.receive(timeout=None)
        demand(message is not None and message.payload == b"one", "received", message)
        consumer.ack(0)

    world.run(receive, lambda: world.append(log, b"one"))
    log.close()
    world.check()


def nack_and_waiting_receiver(world: World) -> None:
    log = world.open()
    consumer = log.consumer("c")
    first = consumer.receive()
    assert first is not None

    def receive() -> None:
        message = consumer.receive(timeout=None)
        demand(message is not None and message.offset == 0, "received", message)

    world.run(receive, lambda: consumer.nack(first))
    log.close()


def dropping_and_reader(world: World) -> None:
    known(world, 4)
    with world.open(max_records=4, when_full="drop_oldest") as log:
        world.run(
            lambda: world.append_each(log, *map(payload, range(4, 7))),
            lambda: world.read(log, "dropped"),
        )
        demand([message.offset for message in log.read(on_gap=lambda gap: None)] == [3, 4, 5, 6], "not the last four")
    world.check(first=3)


def dropping_and_consumer(world: World) -> None:
    known(world, 4)
    with world.open(max_records=4, when_full="drop_oldest") as log:
        gaps: list[Gap] = []
        consumer = log.consumer("c", on_gap=gaps.append)
        got: list[int] = []

        def receive() -> None:
            for message in consumer.drain():
                got.append(message.offset)
                consumer.ack(message)

        world.run(lambda: world.append_each(log, *map(payload, range(4, 7))), receive)
        receive()
        passed = [offset for gap in gaps for offset in range(gap.first_offset, gap.last_offset + 1)]
        demand(got == sorted(set(got)), "given out:", got)
        demand(set(got) | set(passed) == set(range(7)), "neither given out nor told of:", got, gaps)
    world.check(first=3)


def purge_and_consumer(world: World) -> None:
    known(world, 4, BIG)
    with world.open() as log:
        consumer = log.consumer("c", on_gap=lambda gap: demand(gap.reason == "purged", "told of", gap))

        def receive() -> None:
            for message in consumer.drain():
                consumer.ack(message)

        world.run(log.purge, receive, lambda: world.append(log, b"more"))
        receive()
        demand(len(consumer) == 0, "left:", len(consumer))
        first = log.first_offset
    world.check(first=first)


def full_and_ack(world: World) -> None:
    """An append waits for room, and an ack makes it."""
    known(world, 2)
    with world.open(max_records=2) as log:
        consumer = log.consumer("c")
        world.run(lambda: world.append(log, b"more"), lambda: consumer.ack(0))
    world.check(first=1)


def syncer_and_waiter(world: World) -> None:
    log = world.open(durability="interval", sync_interval=0.01)

    def append() -> None:
        offset = log.append(b"one")
        log.wait_durable(offset)
        demand(log.durable_offset > offset, "waited for, and not durable")

    world.run(append, lambda: log.append(b"two"))
    log.close()


SCENARIOS: dict[str, Scenario] = {
    each.run.__name__: each
    for each in (
        Scenario(leader_and_followers, made),
        Scenario(leader_and_helper, made),
        Scenario(close_and_append, made),
        Scenario(close_and_submit, made),
        Scenario(close_and_receive, made),
        Scenario(reader_and_rotation, lambda: made(1, BIG)),
        Scenario(view_and_rotation, lambda: made(1, BIG)),
        Scenario(reader_and_compactor, lambda: made(6, BIG, 6)),
        Scenario(view_and_compactor, lambda: made(6, BIG, 6)),
        Scenario(registration_and_compaction, lambda: made(6, BIG, 6)),
        Scenario(registration_elsewhere_and_compaction, lambda: made(6, BIG, 6)),
        Scenario(two_receivers, lambda: made(3)),
        Scenario(waiting_receiver, made),
        Scenario(nack_and_waiting_receiver, lambda: made(1)),
        Scenario(dropping_and_reader, lambda: made(4)),
        Scenario(dropping_and_consumer, lambda: made(4)),
        Scenario(purge_and_consumer, lambda: made(4, BIG)),
        Scenario(full_and_ack, lambda: made(2)),
        Scenario(syncer_and_waiter, made, patient=False),
    )
}
