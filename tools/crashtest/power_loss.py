"""Crash a workload at every operation of its disk, in every way the disk allows, and let the next life judge.

Depth 1: every image of every step. Depth 2: that next life is crashed again, at seeded places, or at all of them.
A failure says where it was as `workload/step/image[/step/image]`; set SEGLOG_REPLAY to that to run it alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from seglog.testing import CrashDisk, Image
from tools.crashtest.history import Broken, Expected, Mark, demand
from tools.crashtest.life import PATH, Life, looked_at, verified

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
REPLAY = os.environ.get("SEGLOG_REPLAY", "")


Start = tuple[Image, list[Mark]]


def empty() -> Start:
    """A disk with nothing on it."""
    return next(CrashDisk().images(0, rng=random.Random(0))), []


@dataclass(frozen=True)
class Workload:
    """A program's life, and how hard it is crashed.

    Attributes:
        name: of the workload, for replaying.
        run: drives a Life.
        options: of seglog.open, here and in the lives after the crash.
        start: makes what is on the disk that it begins on, and the history of that.
        again: how many seeded second crashes follow each first one.
        every_again: try every second crash there is.
        subsets: seeded subsets of unsynced sectors and names, at each step.
    """

    name: str
    run: Callable[[Life], None]
    options: dict[str, Any] = field(default_factory=dict)
    start: Callable[[], Start] = empty
    path: str = PATH
    again: int = 3
    every_again: bool = False
    subsets: int = 4
    at_least: int = 0  # distinct crash states, or the workload does not do what it is for


class Crashes:
    """The crash states of one workload; counts the distinct ones."""

    def __init__(self, workload: Workload, *, ignore: Callable[..., bool] | None = None) -> None:
        self.workload = workload
        self.ignore = ignore
        self.seen: set[tuple[bytes, int]] = set()

    def run(self, replay: str = REPLAY, *, last: int | None = None) -> int:
        """Crash everywhere, or in the last few steps; how many states there were.

        Raises Broken at the first promise that was not kept.
        """
        only = replay.split("/") if replay.startswith(f"{self.workload.name}/") else []
        numbers = [int(number) for number in only[1:]]
        disk, before = self.first_life()
        for step, number, image, expected in self._images(disk, self.workload.subsets, before, numbers[:2]):
            if last is not None and step < len(disk.journal) - last:
                continue
            place = f"{self.workload.name}/{step}/{number}"
            second = self._judge(image, expected, place, seed=1)
            if second is not None:
                self._again(second, expected, place, numbers[2:], killed=image.killed)
        return len(self.seen)

    def first_life(self) -> tuple[CrashDisk, Expected]:
        """The disk that the workload ran on, its journal ready to be crashed, and what was promised before."""
        workload = self.workload
        image, marks = workload.start()
        disk = image.disk(ignore=self.ignore)
        life = Life(disk, 0, workload.path, **workload.options)
        try:
            workload.run(life)
        finally:
            life.die()
        return disk, Expected().fold(marks)

    def _images(
        self, disk: CrashDisk, subsets: int, before: Expected, only: list[int]
    ) -> Iterator[tuple[int, int, Image, Expected]]:
        """Every image at every step (or the one that is asked for), with what was promised by then."""
        expected, folded = deepcopy(before), 0
        for step in range(len(disk.journal) + 1):
            marks = disk.marks(step)
            expected.fold(marks[folded:])
            folded = len(marks)
            if only and step != only[0]:
                continue
            for number, image in enumerate(disk.images(step, rng=random.Random(step), subsets=subsets)):
                if only and number != only[1]:
                    continue
                yield step, number, image, expected

    def _again(self, disk: CrashDisk, before: Expected, place: str, only: list[int], *, killed: bool) -> None:
        """Crash the next life too. After a kill more can be lost: the page cache is not the disk."""
        if self.workload.every_again or only:
            found = self._images(disk, 1, before, only)
        else:
            found = self._some(disk, before, random.Random(place), self.workload.again * (4 if killed else 1) * DEEP)
        for step, number, image, expected in found:
            self._judge(image, expected, f"{place}/{step}/{number}", seed=2)

    def _some(
        self, disk: CrashDisk, before: Expected, rng: random.Random, count: int
    ) -> Iterator[tuple[int, int, Image, Expected]]:
        steps = sorted(rng.choices(range(len(disk.journal) + 1), k=count))
        for step in steps:
            # Numbered as in `_images`, so that one of them can be replayed. A kill comes last.
            images = list(islice(disk.images(step, rng=random.Random(step), subsets=1), rng.randrange(1, 16)))
            yield step, len(images) - 1, images[-1], deepcopy(before).fold(disk.marks(step))

    def _judge(self, image: Image, expected: Expected, place: str, *, seed: int) -> CrashDisk | None:
        """The life after the crash, on a disk that can crash again; None if this state was seen."""
        state = (image.digest, hash(repr(expected)))
        if state in self.seen:
            return None
        self.seen.add(state)
        disk = image.disk(ignore=self.ignore)
        thorough = len(self.seen) % 4 == 0
        try:
            verified(disk, self.workload.path, expected)
            seen = looked_at(disk, self.workload.path) if thorough else []
            life = Life(disk, seed, self.workload.path, **self.workload.options)
            try:
                records = life.next_life(expected)
                demand(set(seen) <= set(records), "shown to a reader and gone:", seen, records)
                life.work_on(expected)
            finally:
                life.die()
            if thorough:
                verified(disk, self.workload.path, expected)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise Broken(f"{what}\n  after {image.label}\n  replay: SEGLOG_REPLAY={place}") from error
        return disk
