"""What all layers have in common: a budget, all cores, a ledger to go on from, one verdict.

A layer cuts its work into shares, each with a name, and a share is done in seconds. What a share finds names its place;
`layer.replay(place)` runs that one thing again. Nothing here knows what a share is.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

LAYERS = ("sim", "faults", "threads", "kill", "disk", "rot", "canaries", "peers")  # modules beside this one
FINDINGS_MAX = 20  # whoever breaks everything need not be told so a thousand times


@dataclass(frozen=True)
class Finding:
    """A promise that was not kept. `place` replays it."""

    place: str
    what: str


@dataclass
class Tally:
    """What one share, or all of them, met."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.counts.update(other.counts)
        self.findings += other.findings

    def as_json(self) -> dict[str, Any]:
        return {"counts": dict(sorted(self.counts.items())), "findings": [asdict(found) for found in self.findings]}


class CannotRun(Exception):
    """Not on this machine, or not as this user; the message says what is missing."""


class Layer(Protocol):
    """One way to break a log. Made anew in each process, so it keeps nothing between shares.

    Attributes:
        unit: what is counted, a key of each share's counts; the verdict gives its sum.
    """

    unit: str

    def shares(self, seed: int) -> Iterable[str]:
        """Names of shares, the most telling first; may never end. Raises CannotRun before the first."""

    def work(self, share: str) -> Tally:
        """Do one share. The same name always does the same, as far as the machine lets it."""

    def replay(self, place: str) -> Tally:
        """Do again what a finding names."""

    def table(self, counts: Counter[str]) -> str:
        """The figures for a reader, of several lines perhaps; "" if the verdict says it all."""


def layer_named(name: str) -> Layer:
    """Imported when asked for: some need more than others."""
    made: Layer = import_module(f"tools.crashtest.{name}").LAYER
    return made


def work_in_process(name: str, share: str) -> Tally:
    """What the worker processes run."""
    return layer_named(name).work(share)


@dataclass
class Report:
    """How a run ended; `--json` prints exactly this."""

    layer: str
    seed: int
    seconds: float = 0.0
    shares: int = 0
    finished: bool = False  # there was nothing more to do
    interrupted: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, tally: Tally) -> None:
        self.shares += 1
        self.counts.update(tally.counts)
        self.findings += tally.findings

    def as_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**own, **Tally(self.counts, self.findings).as_json(), "ok": self.ok}


class Ledger:
    """A file with a line for each share that is done, so that a long run can be made in pieces. None: kept nowhere."""

    def __init__(self, path: Path | None, layer: str) -> None:
        self._path = path
        self._layer = layer
        self.done: set[str] = set()

    def read(self, report: Report) -> None:
        """Take over what earlier pieces found. A line that a kill cut short is done again."""
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["layer"] == self._layer and entry["share"] not in self.done:
                self.done.add(entry["share"])
                report.seconds += entry["seconds"]
                findings = [Finding(**finding) for finding in entry["findings"]]
                report.add(Tally(Counter(entry["counts"]), findings))

    def write(self, share: str, tally: Tally, seconds: float) -> None:
        if self._path is not None:
            entry = {"layer": self._layer, "share": share, "seconds": seconds, **tally.as_json()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


@dataclass(frozen=True)
class Terms:
    """How a campaign is run. `budget`: seconds, after which no share is begun; None: until all are done.
    `stop_at`: so many findings end it."""

    seed: int = 0
    budget: float | None = 60.0
    jobs: int = 1
    only: str = "*"
    ledger: Path | None = None
    stop_at: int = FINDINGS_MAX


def run(name: str, terms: Terms, progress: Callable[[Report], None] = lambda report: None) -> Report:
    """Work through a layer's shares. Ctrl-C ends it in order. Raises CannotRun."""
    report = Report(name, terms.seed)
    ledger = Ledger(terms.ledger, name)
    ledger.read(report)
    before, begun = report.seconds, time.monotonic()

    def due() -> Iterator[str]:
        for share in layer_named(name).shares(terms.seed):
            # Asked of each, also of those that are not wanted: there may be no end of them.
            if terms.budget is not None and time.monotonic() - begun >= terms.budget:
                return
            if len(report.findings) >= terms.stop_at:
                return
            if share not in ledger.done and fnmatchcase(share, terms.only):
                yield share
            if share == terms.only:
                break
        report.finished = True

    last = begun
    try:
        for share, tally in _worked(name, due(), terms.jobs):
            report.add(tally)
            now = time.monotonic()
            report.seconds = before + now - begun
            ledger.write(share, tally, now - last)
            last = now
            progress(report)
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = round(before + time.monotonic() - begun, 1)
    return report


def _worked(name: str, shares: Iterator[str], jobs: int) -> Iterator[tuple[str, Tally]]:
    """Each share's tally, as it comes. In this process if one job is enough: then a debugger works."""
    if jobs == 1:
        layer = layer_named(name)
        for share in shares:
            yield share, layer.work(share)
        return
    pending: dict[Future[Tally], str] = {}
    # Spawned, not forked: a layer may have threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                while len(pending) < jobs:
                    following = next(shares, None)
                    if following is None:
                        break
                    pending[pool.submit(work_in_process, name, following)] = following
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def verdict(report: Report, unit: str) -> str:
    """The whole run in a line."""
    what = f"{report.layer}: {report.counts[unit]:,} {unit} in {report.seconds:,.0f} s (seed {report.seed})"
    if report.ok:
        return f"{what}: every promise was kept" + (", stopped by Ctrl-C" if report.interrupted else "")
    return f"{what}: {len(report.findings)} times a promise was NOT kept"
