"""A call to the disk fails, and after it the power: a fault leaves nothing that a crash turns into a broken promise.

`test_io_errors` looks at what a fault does to the running program. Here the disk then loses what was not synced, and
the next life judges as in `tests/crash`: what was refused stays out, what was acknowledged stays, nothing is bad.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from itertools import islice

import pytest

import seglog
from seglog.testing import CrashDisk, Fault, FaultDisk
from tools.crashtest.history import Broken, Expected
from tools.crashtest.life import PATH, Life, verified
from tools.crashtest.workloads import text

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
STRIDE = max(1, 3 // DEEP)  # every third call for each error; SEGLOG_DEEP=3 tries them all
IMAGES = 4  # how many states after the power cut, of each fault
ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE]


class Story:
    """One program on a disk that fails. Any error but a SeglogError ends the test."""

    def __init__(self, disk: CrashDisk, faults: FaultDisk) -> None:
        self.disk = disk
        self.faults = faults
        self.errors: list[seglog.SeglogError] = []

    def tell(self) -> None:
        """Creation, appends, rotation, acks, compaction, a reject, close, a second life."""
        for seed in (1, 2):
            life = self._opened(seed)
            if life is None:
                continue
            try:
                self._live(life, 100 * seed)
            finally:
                fault, self.faults.fault = self.faults.fault, None
                life.die()  # a kernel that cleans up after a process does not fail
                self.faults.fault = fault

    def _opened(self, seed: int) -> Life | None:
        try:
            return Life(self.disk, seed, through=self.faults)
        except seglog.SeglogError as error:
            self.errors.append(error)
            return None

    def _live(self, life: Life, first: int) -> None:
        second = first > 100
        if second:
            self._try(life.settle)
        self._append(life, [text(first)])
        self._append(life, [text(first + 1), text(first + 2)])
        for number in range(3, 6):
            self._append(life, [text(first + number, 1700)])
        if not self._try(lambda: life.register("uploader")):
            return
        known = [offset for offset, _ in self._read(life)]
        for offset in known[:3]:
            self._try(lambda o=offset: life.ack("uploader", o))  # type: ignore[misc]
        if len(known) > 4 and not second:
            self._try(lambda: life.reject("uploader", known[4]))
        self._try(life.compact)
        self._append(life, [text(first + 6)])
        self._try(life.close)

    def _try(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except seglog.SeglogError as error:
            self.errors.append(error)
            return False
        return True

    def _append(self, life: Life, payloads: list[bytes]) -> None:
        """Not accepted, or (LogFailed) not known; then nothing more is tried, as every append would say the same."""
        if self.errors and isinstance(self.errors[-1], seglog.LogFailed):
            return
        if not self._try(lambda: life.append_many(payloads)) and not isinstance(self.errors[-1], seglog.LogFailed):
            life.disk.mark(("refused",))

    def _read(self, life: Life) -> list[tuple[int, bytes]]:
        try:
            return [(m.offset, m.payload) for m in life.log.read(on_gap=lambda _: None)]
        except seglog.SeglogError as error:
            self.errors.append(error)
            return []


def may_fail(operation: str, _: str) -> bool:
    """A close says nothing: what must be durable was synced before, and the descriptor is gone either way."""
    return not operation.startswith("close") and operation != "unlock"


def told(fault: Fault | None) -> tuple[Story, int]:
    """The story with this fault, and how many calls there were."""
    disk = CrashDisk()
    faults = FaultDisk(disk, fault, match=may_fail)
    story = Story(disk, faults)
    story.tell()
    return story, faults.matched


def lose_power(story: Story, seed: int) -> None:
    disk = story.disk
    step = len(disk.journal)
    expected = Expected().fold(disk.marks(step))
    for image in islice(disk.images(step, rng=random.Random(seed), subsets=1), IMAGES):
        after = image.disk()
        try:
            verified(after, PATH, expected)
            life = Life(after, 3)
            try:
                life.next_life(expected)
                life.work_on(expected)
            finally:
                life.die()
            verified(after, PATH, expected)
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}\n  after {image.label}, errors {story.errors}") from error


@pytest.mark.parametrize("onwards", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", ERRORS, ids=lambda code: errno.errorcode[code])
def test_p9_f42_f43_f47_to_f49_after_a_fault_and_a_power_cut_all_promises_hold(code: int, onwards: bool) -> None:
    _, calls = told(None)
    first = 1 + ERRORS.index(code) * 2 % STRIDE + onwards  # the errors begin at different calls
    noticed = 0
    for nth in range(first, calls + 1, STRIDE):
        story, _ = told(Fault(nth, code, onwards=onwards))
        noticed += bool(story.errors)
        try:
            lose_power(story, nth)
        except Broken as error:
            calls_before = [call for call in story.faults.calls if may_fail(*call)][:nth][-6:]
            raise Broken(f"{errno.errorcode[code]} at call {nth}, the last of {calls_before}: {error}") from error
    assert noticed > 5


def test_the_story_is_told_to_its_end_where_nothing_fails() -> None:
    story, calls = told(None)
    assert not story.errors
    assert calls > 300
    lose_power(story, 0)
