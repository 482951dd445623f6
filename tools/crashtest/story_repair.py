"""A damaged log, whose repair fails somewhere: nothing more is lost, and the next repair ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import seglog
from seglog.repair import repair
from seglog.testing import CrashDisk, FaultDisk, Image, ManualClock, Operation
from seglog.verify import verify
from tools.crashtest.history import Broken, demand
from tools.crashtest.life import PATH, Life
from tools.crashtest.story import INTERRUPTS
from tools.crashtest.workloads import made, text

RECORDS = {number: text(number, 1700) for number in range(5)}
ROTTEN = 1  # this one's payload, and the second copy of its segment's header
IMAGES = 3


def damaged() -> Image:
    """A log with a rotten record and a rotten spare."""
    life = Life(made()[0].disk(), 7)
    for payload in RECORDS.values():
        life.append(payload)
    life.log.consumer("uploader").close()
    life.close()
    segments = life.disk.open(f"{PATH}/segments", create=False)
    file = segments.open(segments.list()[0], write=True)
    position = file.read(0, file.size()).index(RECORDS[ROTTEN])
    file.write(position + 100, b"rotten")
    file.write(4096, bytes(64))
    file.sync()
    file.close()
    return next(life.disk.images(len(life.disk.journal), rng=random.Random(0), subsets=0))


class RepairTale:
    """Repair, twice, as a careful operator would; see `story.Tale`."""

    name = "repairing"

    def __init__(self) -> None:
        self._start = damaged()

    def disk(self, *, fail: Callable[[Operation], bool] | None = None) -> CrashDisk:
        return self._start.disk(fail=fail)

    def tell(self, disk: CrashDisk, faults: FaultDisk) -> list[BaseException]:
        errors: list[BaseException] = []

        def attempt(work: Callable[[], Any]) -> Any:
            try:
                return work()
            except seglog.SeglogError as error:
                errors.append(error)
            except INTERRUPTS as error:
                errors.append(error)
            return None

        attempt(lambda: repair(PATH, disk=faults, dry_run=True, clock=ManualClock(seed=1)))
        for seed in (2, 3):
            report = attempt(lambda s=seed: repair(PATH, disk=faults, clock=ManualClock(seed=s)))  # type: ignore[misc]
            if report is not None and report.ok:
                found = attempt(lambda: verify(PATH, disk=faults))
                demand(found is None or not found.acknowledged_loss, "repaired, and verify says:", found)
        return errors

    def judge(self, disk: CrashDisk, unsynced: int | None) -> int:
        step = len(disk.journal)
        states = [("fails no more", disk)]
        if unsynced is not None:
            images = (image for image in disk.images(step, rng=random.Random(step), subsets=1) if not image.killed)
            states = [*((image.label, image.disk()) for image in islice(images, IMAGES)), *states]
        for label, after in states:
            try:
                self._judged(after)
            except Exception as error:
                raise Broken(f"{type(error).__name__}: {error}, on a disk that is as follows: {label}") from error
        return len(states)

    def _judged(self, disk: CrashDisk) -> None:
        repair(PATH, disk=disk, clock=ManualClock(seed=len(disk.journal) + 10))
        report = verify(PATH, disk=disk)
        demand(report.ok and not report.acknowledged_loss, "repaired, and verify says:", report)
        declared = [(found.first_offset, found.last_offset) for found in report.repaired]
        demand(declared == [(ROTTEN, ROTTEN)], "declared:", declared)
        log = seglog.open(PATH, disk=disk, clock=ManualClock(seed=len(disk.journal) + 11), segment_bytes=4096)
        try:
            with log.consumer("uploader", on_gap=lambda gap: None) as consumer:
                there = {message.offset: message.payload for message in consumer.drain()}
            demand(there == {o: p for o, p in RECORDS.items() if o != ROTTEN}, "not all that is intact:", list(there))
            letters = [(letter.offset, letter.reason) for letter in log.dead_letters]
            demand(letters == [(ROTTEN, "damaged")], "dead letters:", letters)
            demand(log.append(b"on") >= len(RECORDS), "an offset was given out again")
        finally:
            log.close()
