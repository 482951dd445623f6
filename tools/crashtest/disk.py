"""Real file systems lose power: a log lives on one, each write to its device is known, and what may be left is mounted.

Then the next life judges, as in the simulation, and may lose power itself, also while the file system recovers. Beside
it, since these file systems forgive some missing syncs, the system calls are crashed as `block_calls` does. The journal
of a real disk is its device's, so nothing here sees which call wrote what; the simulation does.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from seglog.testing import CrashDisk, Operation
from tools.crashtest.block_calls import CallCrashes, MarkedDisk, Meddler, few, put
from tools.crashtest.block_device import FILE_SYSTEMS, Device, Refused, available, on_device
from tools.crashtest.block_images import BLOCK, Blocks, CrashImage, Entry, crashed, pending
from tools.crashtest.campaign import CannotRun, Finding, Tally
from tools.crashtest.history import Broken, Expected, Mark, demand
from tools.crashtest.life import Life, looked_at, verified
from tools.crashtest.power_loss import Workload
from tools.crashtest.workloads import WORKLOADS

BY_NAME = {each.name: each for each in WORKLOADS}
IMAGES = 16  # a share; about two seconds on ext4
CALLS = "calls"
SEEDS = 100  # shares of each workload on each file system, for one --seed
OTHER = "other"  # the file of another program
AGAIN = 0.3  # how likely the next life loses power too


class Marks:
    """The history of a life, with the time of each mark in the log of the device."""

    def __init__(self, time: Callable[[], int]) -> None:
        self.timed: list[tuple[int, Mark]] = []
        self.journal: list[Operation] = []  # stays empty: the device keeps it
        self._time = time

    def mark(self, value: Mark) -> None:
        self.timed.append((self._time(), value))

    def marks(self, _: int) -> list[Mark]:
        return [mark for _, mark in self.timed]


@dataclass
class Recorded:
    """A life on a device: what it began on, what was promised before and when, what the kernel wrote."""

    blocks: Blocks
    before: Expected
    marks: Marks
    entries: list[Entry] = field(default_factory=list)
    first: int = 0  # how many entries there were when the log was opened

    def expected(self, time: int) -> Expected:
        """What holds when power fails then."""
        return deepcopy(self.before).fold(mark for at, mark in self.marks.timed if at <= time)


class Share:
    """The crashes of one workload on one device; `work` is for the device's thread."""

    def __init__(self, name: str, workload: Workload, device: Device, *, only: int | None = None) -> None:
        self.name = name
        self.workload = workload
        self.device = device
        self.only = only
        self.tally = Tally()
        self.seen: set[tuple[bytes, int]] = set()

    def work(self) -> Tally:
        place = f"{self.name}/{self.only or 0}"
        try:
            life = self._first_life(random.Random(self.name))
        except Broken as error:
            self.tally.findings.append(Finding(place, f"{place}: {error}"))
            return self.tally
        for number in range(IMAGES) if self.only is None else [self.only]:
            place = f"{self.name}/{number}"
            try:
                self._crash(life, random.Random(place), depth=1)
            except Broken as error:
                self.tally.findings.append(Finding(place, f"{place}: {error}"))
        return self.tally

    def _first_life(self, dice: random.Random) -> Recorded:
        image, marks = self.workload.start()
        self.device.load(self.device.made())
        with self.device.mounted() as directory:
            put(image, directory)
            (directory / OTHER).touch()
        recorded = self._recorded(self.device.blocks(), Expected().fold(marks))
        with self.device.mounted() as directory, Meddler(directory / OTHER, dice, dice.choice((0.0, 0.3, 0.8))):
            recorded.first = len(self.device.entries())
            try:
                self._run(recorded, image.disk().boot_id(), directory)
            except Exception as error:
                raise Broken(f"{type(error).__name__}: {error}\n  before power failed") from error
            recorded.entries = self.device.entries()
        return recorded

    def _recorded(self, blocks: Blocks, before: Expected) -> Recorded:
        """A life can begin, on a device that holds these."""
        self.device.load(blocks)
        return Recorded(blocks, before, Marks(self.device.time))

    def _run(self, recorded: Recorded, boot_id: bytes, directory: Path) -> None:
        life = self._life(recorded, self._disk(recorded, boot_id), 0, directory)
        try:
            self.workload.run(life)
        finally:
            life.die()

    def _disk(self, recorded: Recorded, boot_id: bytes) -> CrashDisk:
        return cast(CrashDisk, MarkedDisk(recorded.marks, boot_id))  # no more is asked of it

    def _life(self, recorded: Recorded, disk: CrashDisk, seed: int, directory: Path) -> Life:
        path = str(directory / self.workload.path)
        return Life(disk, seed, path, before=recorded.before, **self.workload.options)

    def _crash(self, life: Recorded, dice: random.Random, *, depth: int) -> None:
        """Power fails somewhere in this life, and perhaps in the next one."""
        steps = range(life.first, len(life.entries) + 1)
        (step,) = dice.choices(steps, [1 + waiting for waiting in pending(life.entries)[life.first :]])
        image = crashed(life.blocks, life.entries, step, dice, unit=self.device.file_system.unit)
        expected = life.expected(image.time)
        state = (image.digest, hash(repr(expected)))
        if state in self.seen:
            return
        self.seen.add(state)
        name = self.device.file_system.name
        try:
            following = self._judged(image, expected, depth)
        except Refused:
            self.tally.counts[f"refused {name}"] += 1
            return
        self.tally.counts.update(["images", f"images {name}", f"depth {min(depth, 3)}"])
        self.tally.counts[f"in flight {name}"] += image.pending > 0
        if dice.random() < AGAIN:
            self._crash(following, dice, depth=depth + 1)

    def _judged(self, image: CrashImage, expected: Expected, depth: int) -> Recorded:
        """The life after, on what the file system makes of it."""
        following = self._recorded(image.blocks, expected)
        dice = random.Random(image.digest)
        with self.device.mounted() as directory, Meddler(directory / OTHER, dice, 0.1):
            try:
                self._next_life(following, image.digest, directory, depth)
            except Exception as error:
                what = f"{type(error).__name__}: {error}\n  after {image.label}\n  kept: {self._kept(image)}"
                raise Broken(what) from error
            following.entries = self.device.entries()
        return following

    def _next_life(self, following: Recorded, boot_id: bytes, directory: Path, depth: int) -> None:
        expected = following.before
        disk = self._disk(following, boot_id)
        path = str(directory / self.workload.path)
        verified(disk, path, expected)
        seen = looked_at(disk, path)
        life = self._life(following, disk, depth, directory)
        try:
            records = life.next_life(expected)
            demand(set(seen) <= set(records), "shown to a reader and gone:", seen, records)
            life.work_on(expected)
        finally:
            life.die()
        verified(disk, path, expected)

    def _kept(self, image: CrashImage) -> Path:
        """The disk as it was left, for `mount -o loop`: another run may write in another order."""
        name = re.sub(r"\W+", "-", f"seglog-{self.name}-{image.digest.hex()[:8]}")
        path = Path(tempfile.gettempdir()) / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(self.device.file_system.megabytes << 20)
            for number, block in image.blocks.items():
                file.seek(number * BLOCK)
                file.write(block)
        return path


class DiskLayer:
    """Shares are FILE_SYSTEM/WORKLOAD/SEED, places one image more: FILE_SYSTEM/WORKLOAD/SEED/IMAGE."""

    unit = "images"

    def shares(self, seed: int) -> Iterator[str]:
        found = available()
        return self._shares([each.name for each in found], range(seed * SEEDS, (seed + 1) * SEEDS))

    def _shares(self, names: Sequence[str], seeds: range) -> Iterator[str]:
        for seed in seeds:
            for each in WORKLOADS:
                for name in names if seed else [CALLS, *names]:
                    yield f"{name}/{each.name}/{seed}"

    def work(self, share: str) -> Tally:
        return self._work(share, None)

    def replay(self, place: str) -> Tally:
        """The image again; of the system calls, all of that workload."""
        if place.startswith(f"{CALLS}/"):
            return self._work(place, None)
        share, _, number = place.rpartition("/")
        return self._work(share, int(number))

    def _work(self, share: str, only: int | None) -> Tally:
        name, of, _ = share.split("/")
        workload = BY_NAME[of]
        if name == CALLS:
            return _called(share, workload)
        file_system = FILE_SYSTEMS[name]
        if file_system not in available():
            raise CannotRun(f"needs the kernel's {file_system.kind} and {file_system.make[0]}")
        return on_device(file_system, lambda device: Share(share, workload, device, only=only).work())

    def table(self, counts: Counter[str]) -> str:
        lines = ["| file system | crash images | with writes in flight | not mountable |", "|---|---:|---:|---:|"]
        for name in FILE_SYSTEMS:
            figures = [counts[f"{column} {name}"] for column in ("images", "in flight", "refused")]
            if any(figures):
                lines.append(" | ".join([f"| {name}", *(f"{figure:,}" for figure in figures)]) + " |")
        deep = sum(count for name, count in counts.items() if name.startswith("depth ") and name != "depth 1")
        lines.append(f"\n{deep:,} of them in a life after a crash; {counts[CALLS]:,} states of the system calls alone")
        return "\n".join(lines)


def _called(share: str, of: Workload) -> Tally:
    tally, crashes = Tally(), CallCrashes(few(of))
    try:
        crashes.run("")
    except Broken as error:
        tally.findings.append(Finding(share, f"{share}: {error}"))
    tally.counts[CALLS] = len(crashes.seen)
    return tally


LAYER = DiskLayer()
