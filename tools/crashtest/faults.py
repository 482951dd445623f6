"""Each call to the disk fails, in every way in which a call can fail, once and from then on.

A share is one way of failing in one tale: `tale/error/how/span`. It lets the first call fail, then the second, until
the tale is over before the fault is met. A place has the number of the call, too: `tale/EIO/before/17/once`.
"""

from __future__ import annotations

import errno
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from seglog.testing import CrashDisk, Fault, Operation
from tools.crashtest.campaign import FINDINGS_MAX, Finding, Tally
from tools.crashtest.history import Broken, demand
from tools.crashtest.power_loss import Workload
from tools.crashtest.story import CtrlC, NoMemory, PlacedFaults, Tale
from tools.crashtest.story_repair import RepairTale
from tools.crashtest.workloads import LETTERS, WORKLOADS, made, text

CODES = ("EIO", "ENOSPC", "EDQUOT", "EINTR", "EACCES", "EROFS", "EMFILE", "ENFILE", "ESTALE")
EXCEPTIONS: dict[str, type[BaseException]] = {"MemoryError": NoMemory, "KeyboardInterrupt": CtrlC}
CUTS: dict[str, Callable[[int], int]] = {
    "one": lambda length: 1,
    "half": lambda length: length // 2,
    "most": lambda length: length - 1,
}  # how much of a write is done, when it fails
CUT_CODES = ("ENOSPC", "EIO", "EDQUOT")  # what a disk says that took a part of it
CALLS_MAX = 5000
WORDS_MAX = 1000  # of a finding; payloads are long


def short(life: Any) -> None:
    """A little of what every program does: the whole loop over it is in the default suite."""
    life.append(text(0))
    life.register("uploader")
    life.append_many([text(1, 1500), text(2, 1500), text(3, 1500)])  # opens a segment
    life.ack("uploader", 0, 1, 2)
    life.close()


def submitting(life: Any) -> None:
    """Appends that another thread makes durable."""
    life.submit(text(0))
    life.submit(text(1, 1700))
    life.append(text(2))
    life.submit(text(3, 1700))
    life.submit(text(4))
    life.reopen()
    life.submit(text(5))
    life.close()


def seeking(life: Any) -> None:
    life.register("uploader")
    life.append_many([text(number, 900) for number in range(6)])
    life.ack("uploader", 0, 1, 2)
    life.seek("uploader", 1)
    life.use("uploader")
    life.ack("uploader", 1)
    life.seek("uploader", 4)
    life.compact()
    life.reopen()
    life.use("uploader")
    life.close()


def looking(life: Any) -> None:
    """A reader with mode "r", verify, and figures, beside the writer."""
    life.register("uploader")
    life.append_many([text(number, 1500) for number in range(4)])
    life.reject("uploader", 1)
    life.look()
    life.figures()
    life.append(text(4))
    life.close()
    life.look()


def growing(life: Any) -> None:
    """Larger batches than what was set aside, into one segment."""
    for number in range(4):
        life.append(text(number, 40_000))
    life.append_many([text(4, 70_000), text(5, 70_000)])
    life.close()


OWN = [
    Workload("short", short, start=made),
    Workload("submitting", submitting, start=made),
    Workload("seeking", seeking, start=made),
    Workload("looking", looking, LETTERS, start=made),
    Workload("growing", growing, {"segment_bytes": 1 << 20}, start=made),
]
# Without the one whose thread syncs whenever it likes: its calls have no numbers.
TOLD = {each.name: each for each in [*OWN, *WORKLOADS] if each.name != "interval_waiting"}
NAMES = [*list(TOLD)[: len(OWN)], "repairing", *list(TOLD)[len(OWN) :]]


@cache
def tale(name: str) -> Tale | RepairTale:
    """It keeps what it begins on, which takes longer to make than to copy."""
    return RepairTale() if name == "repairing" else Tale(TOLD[name])


def ways() -> Iterator[tuple[str, str, str]]:
    """Error, how, and whether once or from then on."""
    for how in ("before", "after"):
        for span in ("once", "onwards"):
            for error in (*CODES, "MemoryError"):
                yield error, how, span
        yield "KeyboardInterrupt", how, "once"
    for how in CUTS:
        for error in CUT_CODES:
            yield error, how, "once"
            yield error, how, "onwards"
    yield "EIO", "forgotten", "once"
    yield "EIO", "forgotten", "onwards"


def fault_of(error: str, how: str, nth: int, span: str) -> Fault:
    raised = EXCEPTIONS[error] if error in EXCEPTIONS else int(getattr(errno, error))
    return Fault(nth, raised, onwards=span == "onwards", after=how == "after", written=CUTS.get(how))


class Forgetting:
    """What Linux does: a sync that failed has taken the data for written, and the next one succeeds."""

    def __init__(self, nth: int, span: str) -> None:
        self.nth = nth
        self.onwards = span == "onwards"
        self.met = 0

    def __call__(self, _: Operation) -> bool:
        self.met += 1
        return self.met == self.nth or (self.onwards and self.met > self.nth)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """No log messages; what other threads died of."""
    died: list[str] = []
    logger = logging.getLogger("seglog")
    level, hook, ignored = logger.level, threading.excepthook, sys.unraisablehook
    logger.setLevel(logging.CRITICAL + 1)
    threading.excepthook = lambda args: died.append(f"a thread died of {args.exc_value!r}")
    sys.unraisablehook = lambda _: None  # what a generator that nobody reads to its end says of its last close
    try:
        yield died
    finally:
        logger.setLevel(level)
        threading.excepthook, sys.unraisablehook = hook, ignored


def failed(share: str, nth: int, tally: Tally) -> bool:
    """One trial; False if the tale has no such call. Raises Broken."""
    name, error, how, span = share.split("/")
    told = tale(name)
    forgetting = Forgetting(nth, span) if how == "forgotten" else None
    disk: CrashDisk = told.disk() if forgetting is None else told.disk(fail=forgetting)
    fault = None if forgetting is not None else fault_of(error, how, nth, span)
    faults = PlacedFaults(disk, fault, writes=how in CUTS)
    try:
        with _quiet() as died:
            errors = told.tell(disk, faults)
            met = faults.matched if forgetting is None else forgetting.met
            if met < nth:
                return False
            faults.arm(None)
            if forgetting is not None:
                forgetting.nth, forgetting.onwards = 0, False
            demand(not died, "", *died)
            forgotten = [step for step, operation in enumerate(disk.journal, 1) if operation.failed]
            states = told.judge(disk, forgotten[0] if forgotten else faults.unsynced)
    except Exception as broken:
        at = faults.failed[0] if faults.failed else "a sync"
        what = f"{type(broken).__name__}: {broken}"
        raise Broken(f"{error} {how} {at}, {span}: {what[:WORDS_MAX]}") from broken
    tally.counts["calls that failed"] += 1
    tally.counts[f"with {error}"] += 1
    tally.counts["noticed"] += bool(errors)
    tally.counts["states judged"] += states
    return True


class Faults:
    """The layer; see the module."""

    unit = "calls that failed"

    def shares(self, seed: int) -> Iterator[str]:
        """The tales in turn. There is nothing to chance."""
        for name in NAMES:
            for error, how, span in ways():
                yield f"{name}/{error}/{how}/{span}"

    def work(self, share: str, every: int = 1, first: int = 1) -> Tally:
        """`every`, `first`: of the calls only each so manieth, from this one on."""
        tally = Tally()
        for nth in range(first, CALLS_MAX, every):
            try:
                if not failed(share, nth, tally):
                    return tally
            except Broken as broken:
                tale, error, how, span = share.split("/")
                tally.findings.append(Finding(f"{tale}/{error}/{how}/{nth}/{span}", str(broken)))
                tally.counts["calls that failed"] += 1
                if len(tally.findings) >= FINDINGS_MAX:
                    return tally
        raise Broken(f"{share} makes no end of calls")

    def replay(self, place: str) -> Tally:
        name, error, how, nth, span = place.split("/")
        if name not in NAMES or (error, how, span) not in set(ways()):
            raise LookupError(place)
        tally = Tally()
        try:
            if not failed(f"{name}/{error}/{how}/{span}", int(nth), tally):
                raise LookupError(f"no call {nth}")
        except Broken as broken:
            tally.findings.append(Finding(place, str(broken)))
        return tally

    def table(self, counts: Counter[str]) -> str:
        lines = [f"{counts[name]:>10,} {name}" for name in sorted(counts) if name.startswith("with ")]
        return "\n".join([*lines, *(f"{counts[name]:>10,} {name}" for name in ("noticed", "states judged"))])


LAYER = Faults()
