"""Below the state machine: one directory, the programs that use it one after the other, and how each of them ends.

The log stands on a FaultDisk on a CrashDisk. An armed fault strikes in whatever is called next: an error, or the death
of the process, perhaps with the power. What a death leaves is looked at when the log is opened again.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

import seglog
from seglog.testing import CrashDisk, Fault, FaultDisk, ManualClock
from tests.support.model_consumer import Now
from tests.support.model_log import ModelLog
from tests.support.model_records import Limits
from tools.crashtest.history import demand

R = TypeVar("R")
PATH = "srv/spool"
IMAGES = 24  # how many states after a power cut are looked through for the one that is taken


tally: Counter[str] = Counter()  # what all machines of this process have met


class Died(BaseException):
    """The process ends here."""


class Fussy:
    """A serializer that does not read every payload."""

    def __repr__(self) -> str:
        return "Fussy()"

    @staticmethod
    def dumps(value: bytes) -> bytes:
        return value

    @staticmethod
    def loads(payload: bytes) -> bytes:
        if payload.startswith(b"!"):
            raise ValueError("unreadable")
        return payload


def may_fail(operation: str, _: str) -> bool:
    """A kernel closes what is open and drops its locks, whatever happens to the process."""
    return not operation.startswith("close") and operation != "unlock"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """How a call ended. `excused`: a fault explains the error, whatever it is."""

    answer: R | None
    error: seglog.SeglogError | None
    died: bool
    struck: bool
    excused: bool

    @property
    def done(self) -> bool:
        return self.error is None and not self.died

    def refused(self, kind: type[seglog.SeglogError]) -> bool:
        """Whether it was refused for this reason. If not, then because of a fault, and nothing is known."""
        demand(isinstance(self.error, kind) or self.excused, f"not refused with {kind.__name__}:", repr(self.error))
        return isinstance(self.error, kind)


class LifeMachine(RuleBasedStateMachine):
    """Opens, closes, kills, cuts the power; knows nothing of what is done in between."""

    log: seglog.Log[bytes]

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashDisk()
        self.faults = FaultDisk(self.disk)
        self.clock = ManualClock()
        self.model = ModelLog()
        self.options: dict[str, Any] = {}
        self.boots = 0
        self.armed: Fault | None = None
        self.power = 0  # what follows the armed death: 0 nothing, else a power cut, by this seed
        self.dead = False  # it died in the call that was made last
        self.struck = False  # a fault struck since the log was opened
        self.open: dict[str, seglog.Consumer[bytes]] = {}

    @property
    def now(self) -> Now:
        return Now(self.clock.time_ns(), self.clock.monotonic())

    # -- how everything is called

    def attempt(self, work: Callable[[], R]) -> Outcome[R]:
        """Do it, and let it meet the armed fault. No fault: then the disk is not to blame for anything."""
        armed, self.armed = self.armed, None
        self.faults.arm(armed, match=may_fail)
        self.model.note_let_go(self.now)
        answer, error = None, None
        try:
            answer = work()
        except seglog.SeglogError as raised:
            error = raised
        except Died:
            pass
        struck = armed is not None and self.faults.matched >= armed.nth
        self.faults.arm(None)
        self.struck = self.struck or struck
        tally["calls"] += 1
        if struck:
            tally["calls that met a fault"] += 1
            tally["of these raised"] += error is not None
        elif error is not None:
            tally["refusals"] += 1
        self.dead = struck and armed is not None and isinstance(armed.error, Died)
        # After a failed sync a file is not written again until it is opened anew, whoever met the failure.
        # So is what could only be opened for reading.
        stuck = isinstance(error, seglog.LogFailed) or getattr(error, "errno", 0) == errno.EROFS
        excused = struck or (self.struck and stuck)
        demand(excused or not isinstance(error, seglog.StorageError), "fails by itself:", repr(error))
        return Outcome(answer, error, self.dead, struck, excused)

    def certain(self, work: Callable[[seglog.Log[bytes]], R]) -> Outcome[R]:
        """Do it; after an error do it again, as that is all an error asks for."""
        first = self.attempt(lambda: work(self.log))
        if first.error is None or first.died:
            return first
        demand(first.excused, "refused:", repr(first.error))
        try:
            answer = work(self.log)
        except seglog.StorageError:  # a sync had failed: that file is not written again until the log is opened anew
            self.close_and_open(self.options)
            answer = work(self.log)
        return Outcome(answer, None, died=False, struck=True, excused=True)

    def after(self) -> None:
        """The end of each rule: if the process died in it, the next one begins."""
        if self.dead:
            self.crash_and_open(self.power, between_calls=False)

    # -- ends and beginnings

    def open_log(self, options: dict[str, Any], *, lossless: bool = True) -> None:
        """Open it, and look whether all that was promised is there. `lossless`: the power was not cut."""
        self.options = options
        limits = Limits(**{name: value for name, value in options.items() if name in Limits.__annotations__})
        before = self.model.limits
        self.model.limits = [*before, limits]
        self.model.fussy = options["serializer"] is not None
        for _ in range(3):
            outcome = self.attempt(self._opening)
            if outcome.done:
                break
            demand(outcome.excused, "open:", repr(outcome.error))
            if outcome.died:
                if outcome.answer is not None:
                    self._die(outcome.answer)
                if self.power:
                    self._cut_power(self.power)
                    lossless = False
                    for tracked in self.model.consumers.values():
                        tracked.died(exact=False)  # what is in flight is noted and not synced
        assert outcome.answer is not None
        tally["openings"] += 1
        self.log = outcome.answer
        self.struck, self.dead = outcome.struck, False
        if not self.struck:
            self.model.limits = [limits]
        self._look_at_the_new_log(lossless=lossless)

    def _opening(self) -> seglog.Log[bytes]:
        return seglog.open(PATH, disk=self.faults, clock=self.clock, sync_interval=3600.0, **self.options)

    def _look_at_the_new_log(self, *, lossless: bool) -> None:
        report = self.log.report
        demand(not (report.damage or report.missing or report.suspect), "open reports a loss:", report)
        gaps: list[seglog.Gap] = []
        found = list(self.log.read(on_gap=gaps.append))
        self.model.reopened(found, self.log.first_offset, lossless=lossless and not self.model.failed)
        self.model.check_gaps(gaps, self.now, reasons=("skipped", "purged", "dropped"))
        self.model.visible, self.model.durable = 0, min(self.log.durable_offset, self.model.durable)
        self.progress()
        self.model.check_names(self.log.consumers())
        self.model.check_letters(list(self.log.dead_letters))

    def close_and_open(self, options: dict[str, Any]) -> None:
        outcome = self.attempt(self.log.close)
        if outcome.died:
            self.options = options
            self.crash_and_open(self.power, between_calls=False)
            return
        demand(outcome.excused or outcome.error is None, "close:", repr(outcome.error))
        self.open.clear()
        for tracked in self.model.consumers.values():
            if tracked.opening is not None:
                tracked.closed(surely=not self.struck)
        if outcome.done and not self.model.failed:
            self.model.durable = self.model.shown
        self.open_log(options, lossless=not isinstance(outcome.error, seglog.LogFailed))

    def crash_and_open(self, power: int, *, between_calls: bool = True) -> None:
        """The process dies, or (if `power`, a seed) all processes do."""
        tally["power cuts" if power else "deaths"] += 1
        tally["of these within a call"] += not between_calls
        self.open.clear()
        for tracked in self.model.consumers.values():
            tracked.died(exact=between_calls and not power and not self.struck)
        self._die(self.log)
        if power:
            self._cut_power(power)
        self.open_log(self.options, lossless=not power)

    def _die(self, log: seglog.Log[bytes]) -> None:
        """Close every file and write nothing, as the kernel does for a dead process."""
        log._after_fork()
        if log._commits is not None:  # its threads die with the process
            log._commits.close(lambda: None)
        if log._syncer is not None:
            log._syncer.stop()

    def _cut_power(self, seed: int) -> None:
        rng = random.Random(seed)
        images = self.disk.images(len(self.disk.journal), rng=rng, subsets=2)
        image = list(islice(images, 1 + rng.randrange(IMAGES)))[-1]
        self.disk = image.disk()
        self.faults = FaultDisk(self.disk)
        self.boots += 1
        self.clock = ManualClock(start_ns=self.clock.time_ns(), seed=self.boots)

    # -- looking

    def progress(self) -> None:
        """Hold the model to what the log says of its ends."""
        log, model = self.log, self.model
        durable = log.durable_offset
        visible = durable if self.options["durability"] == "interval" else log.next_offset
        model.progressed(log.next_offset, durable, visible)
        model.begins_at(log.first_offset)

    def verify(self) -> None:
        """P7: neither a fault nor a crash is damage."""
        report = seglog.verify(PATH, disk=self.faults)
        wrong = report.damage or report.suspect or report.missing or report.acknowledged_loss
        demand(report.ok and not wrong, "verify:", report)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            outcome = self.attempt(self.log.close)
            demand(outcome.excused or outcome.error is None, "close:", repr(outcome.error))
            if outcome.died:
                self._die(self.log)
            self.verify()
