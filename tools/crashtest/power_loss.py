"""Crash a workload at every operation of its disk, in every way the disk allows, and let the next life judge.

Depth 1: every image of every step. Depth 2: that next life is crashed again, at seeded places, or at all of them.
Depth 3: now and then once more. A failure says where it was as `workload/step/image[/step/image…]`; set SEGLOG_REPLAY
to that to run it alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any
from zlib import crc32

from seglog.testing import CrashDisk, Image, ManualClock, Operation
from tools.crashtest.history import Broken, Expected, Mark, demand
from tools.crashtest.life import PATH, Life, looked_at, mended, verified

DEPTH_MAX = 3
_FAR = 0.2  # how often a second crash is looked for among spoilt images
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
        run: drives a Life. Where it sets `first_step`, crashes begin there.
        options: of seglog.open, here and in the lives after the crash.
        start: makes what is on the disk that it begins on, and the history of that.
        again: how many seeded second crashes follow each first one.
        every_again: try every second crash there is.
        third: how likely one more crash follows a second one.
        subsets: seeded subsets of unsynced sectors and names, at each step.
        spoil: what unsynced sectors come back as besides, see `CrashDisk.images`.
        steps: crash at so many seeded steps only; None: at each.
        fails: the number of the sync that fails; crashes begin behind it.
    """

    name: str
    run: Callable[[Life], None]
    options: dict[str, Any] = field(default_factory=dict)
    start: Callable[[], Start] = empty
    path: str = PATH
    again: int = 3
    every_again: bool = False
    third: float = 0.0
    subsets: int = 4
    spoil: tuple[str, ...] = ()
    steps: int | None = None
    fails: int | None = None
    at_least: int = 0  # distinct crash states, or the workload does not do what it is for


Found = tuple[int, int, Image, Expected]  # step, number of the image, and what was promised by then


class Crashes:
    """The crash states of one workload; counts the distinct ones.

    Two states are the same if the same is on the disk, and the same was promised.
    """

    def __init__(self, workload: Workload, *, ignore: Callable[..., bool] | None = None) -> None:
        self.workload = workload
        self.ignore = ignore
        self.seen: set[tuple[bytes, int]] = set()
        self.counts: Counter[str] = Counter()

    def run(self, replay: str = REPLAY, *, last: int | None = None) -> int:
        """Crash everywhere, or in the last few steps; how many states there were.

        Raises Broken at the first promise that was not kept.
        """
        name = self.workload.name
        numbers = [int(each) for each in replay.removeprefix(f"{name}/").split("/")] if _is_in(replay, name) else []
        try:
            disk, before, all_steps = self.first_life()
        except Exception as error:
            raise self._broken(error, name, "in its first life") from error
        steps: Sequence[int] = all_steps if last is None else range(len(disk.journal) - last, len(disk.journal) + 1)
        if self.workload.steps is not None and len(steps) > self.workload.steps:
            steps = sorted(random.Random(name).sample(steps, self.workload.steps))
        for found in self._images(disk, steps, self.workload.subsets, before, numbers[:2]):
            self._crash(found, name, 1, numbers[2:], alone=bool(numbers))
        return len(self.seen)

    def first_life(self) -> tuple[CrashDisk, Expected, range]:
        """The disk that the workload ran on, ready to be crashed, what was promised before, and at which steps."""
        workload = self.workload
        image, marks = workload.start()
        before = Expected().fold(marks)
        disk = image.disk(ignore=self.ignore, fail=None if workload.fails is None else _nth(workload.fails))
        fails = workload.fails is not None
        life = Life(disk, 0, workload.path, before=before, fails=fails, **workload.options)
        try:
            workload.run(life)
        finally:
            life.die()
        first, end = life.first_step, len(disk.journal) + 1
        if fails:
            failed = [step for step, operation in enumerate(disk.journal, 1) if operation.failed]
            first = max(first, failed[0]) if failed else end
        return disk, before, range(first, end)

    def _images(
        self, disk: CrashDisk, steps: Iterable[int], subsets: int, before: Expected, only: list[int]
    ) -> Iterator[Found]:
        """Every image at these steps (or the one that is asked for), with what was promised by then."""
        expected, folded = deepcopy(before), 0
        for step in only[:1] or steps:
            marks = disk.marks(step)
            expected.fold(marks[folded:])
            folded = len(marks)
            for number, image in enumerate(self._left(disk, step, subsets)):
                if not only or number == only[1]:
                    yield step, number, image, expected

    def _left(self, disk: CrashDisk, step: int, subsets: int) -> Iterator[Image]:
        return disk.images(step, rng=random.Random(step), subsets=subsets, spoil=self.workload.spoil)

    def _crash(self, found: Found, above: str, depth: int, numbers: list[int], *, alone: bool) -> None:
        """Judge one crash, and crash the life after it: as `numbers` say, and not at all if they end where one is alone
        asked for. After a kill more is lost: the page cache is not the disk."""
        step, number, image, expected = found
        place = f"{above}/{step}/{number}"
        disk = self._judge(image, expected, place, depth)
        if disk is None or (alone and not numbers):
            return
        if numbers or (self.workload.every_again and depth == 1):
            again = self._images(disk, range(len(disk.journal) + 1), 1, expected, numbers[:2])
        else:
            again = self._some(disk, expected, place, depth, killed=image.killed)
        for later in again:
            self._crash(later, place, depth + 1, numbers[2:], alone=alone)

    def _some(self, disk: CrashDisk, before: Expected, place: str, depth: int, *, killed: bool) -> Iterator[Found]:
        rng = random.Random(place)
        if depth == 1:
            often = self.workload.again * (4 if killed else 1) * DEEP
        else:
            often = int(depth < DEPTH_MAX and rng.random() < self.workload.third)
        steps = sorted(rng.choices(range(len(disk.journal) + 1), k=often))
        for step in steps:
            # Numbered as in `_images`, so that one of them can be replayed. A kill comes last, spoilt ones before it.
            most = 64 if self.workload.spoil and rng.random() < _FAR else 16
            images = list(islice(self._left(disk, step, 1), rng.randrange(1, most)))
            yield step, len(images) - 1, images[-1], deepcopy(before).fold(disk.marks(step))

    def _judge(self, image: Image, expected: Expected, place: str, depth: int) -> CrashDisk | None:
        """The life after the crash, on a disk that can crash again; None if this state was seen."""
        state = (image.digest, hash(repr(expected)))
        if state in self.seen:
            return None
        self.seen.add(state)
        self._count(image, depth)
        disk = image.disk(ignore=self.ignore)
        if image.spoilt == "stale":
            expected = deepcopy(expected)
            expected.fold([("spoilt",)])
            disk.mark(("spoilt",))
        try:
            self._live_on(disk, expected, crc32(place.encode()), depth)
        except Exception as error:
            raise self._broken(error, place, f"after {image.label}") from error
        return disk

    def _live_on(self, disk: CrashDisk, expected: Expected, chance: int, depth: int) -> None:
        """What the program and the people find after a crash; not everybody looks every time."""
        path, thorough = self.workload.path, chance % 4 == 0
        if depth == 1 or chance % 2 == 0:
            verified(disk, path, expected)
        seen = looked_at(disk, path) if thorough else []
        if chance % 8 == 1:
            mended(disk, path, expected, ManualClock(seed=100 + depth))
        life = Life(disk, depth, path, **self.workload.options)
        try:
            records = life.next_life(expected)
            demand(set(seen) <= set(records), "shown to a reader and gone:", seen, records)
            life.work_on(expected)
        finally:
            life.die()
        if thorough:
            verified(disk, path, expected)

    def _count(self, image: Image, depth: int) -> None:
        self.counts["states"] += 1
        self.counts[f"depth {depth}"] += 1
        kinds = {"kills": image.killed, "torn writes": image.torn, "zeros": image.spoilt == "zeros"}
        self.counts.update(kind for kind, is_so in {**kinds, "stale": image.spoilt == "stale"}.items() if is_so)

    @staticmethod
    def _broken(error: Exception, place: str, when: str) -> Broken:
        broken = Broken(f"{type(error).__name__}: {error}\n  {when}\n  replay: SEGLOG_REPLAY={place}")
        broken.place = place
        return broken


def _is_in(place: str, name: str) -> bool:
    """Whether it is a place of that workload: its name, and nothing but numbers behind it."""
    return place.startswith(f"{name}/") and place.removeprefix(f"{name}/").replace("/", "").isdigit()


def _nth(number: int) -> Callable[[Operation], bool]:
    """For CrashDisk(fail=…): only this one of the syncs it is asked for fails, counted from 0."""
    asked = count()
    return lambda operation: next(asked) == number
