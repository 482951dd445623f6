"""Eight threads in two processes on one log, both killed again and again; and one that looks on from outside.

`SEGLOG_SIEGE_SECONDS=60 ./tools/test tests/process/test_siege.py` is the long one.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

import seglog
from tests.support.process import open_descriptors
from tests.support.siege import CONSUMERS, MAX_BYTES, MAX_RECORDS
from tools.crashtest.kill_oracle import Oracle
from tools.crashtest.zygote import Child, Start, wait_for

SECONDS = float(os.environ.get("SEGLOG_SIEGE_SECONDS", "10"))
STORM = 0.6  # of the time processes are killed; then they are left alone, and must stay as they are
LOOK_SECONDS = 0.1
PROCESSES = ("write", "read")
LINUX = Path("/proc/self/status").exists()


class Held(NamedTuple):
    """What a process holds."""

    resident: int
    descriptors: int


class Siege:
    """The processes, what they said, and what is seen from outside."""

    def __init__(self, start: Start, directory: str) -> None:
        self.start = start
        self.directory = directory
        self.dice = random.Random("siege")
        self.oracle = Oracle(CONSUMERS)
        self.rejected: dict[str, set[int]] = {name: set() for name in CONSUMERS}
        self.children: dict[str, Child] = {}
        self.lives = self.kills = self.refusals = self.fullest = 0
        self.samples: dict[str, list[Held]] = {name: [] for name in PROCESSES}

    def begin(self, name: str) -> None:
        self.lives += 1
        generation = self.oracle.next_generation() if name == "write" else self.lives
        child = self.start(f"tests.support.siege:{name}", self.directory, generation)
        self.children[name] = child

    def listen(self, seconds: float) -> None:
        """Take in what they say for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            wait_for(list(self.children.values()), left)
            for child in self.children.values():
                for line in child.lines_so_far():
                    self.take(line)

    def take(self, line: str) -> None:
        if line == "open":
            return
        if line.startswith("x "):
            _, name, offsets = line.split()
            self.rejected[name].update(map(int, offsets.split(",")))
            return
        self.refusals += line.startswith("r ")
        self.oracle.heard(line)

    def kill(self, *names: str) -> None:
        for name in names:
            self.children[name].kill()
        for name in names:
            child = self.children.pop(name)
            for line in child.lines():
                self.take(line)
            child.close()
            self.kills += 1
        if names == ("write",):
            # Its last batch may be consumed and reclaimed before anybody here has seen whether it is there.
            self.oracle.batches.clear()

    def look(self, log: seglog.Log[bytes]) -> None:
        """Never more waits for consumers than the limits say. The end first: later watermarks only make it less."""
        end = log.next_offset
        mark = min(consumer.watermark for consumer in log.consumers().values())
        waiting = [len(message.payload) for message in log.read(mark, end, on_gap=lambda gap: None)]
        assert len(waiting) <= MAX_RECORDS
        assert sum(waiting) <= MAX_BYTES
        self.fullest = max(self.fullest, len(waiting))
        if LINUX:
            for name, child in self.children.items():
                self.samples[name].append(held_by(child.pid))

    def check(self) -> None:
        """Both are dead: everything that can be asked of the directory."""
        assert not self.children
        report = seglog.verify(self.directory)
        assert report.ok, report
        with seglog.open(self.directory) as log:
            assert (log.report.damage, log.report.missing, log.report.suspect) == ((), (), ())
            self.oracle.check_log(log)
            self.oracle.settle()
            for name in CONSUMERS:
                self.oracle.check_consumer(name, {message.offset for message in log.consumer(name).unacked()})
            letters = Counter((letter.consumer, letter.offset) for letter in log.dead_letters)
        assert set(letters.values()) <= {1}, "the same message is twice among the dead letters"
        for name, offsets in self.rejected.items():
            assert {(name, offset) for offset in offsets} <= set(letters), "a rejected message is not kept"


def held_by(pid: int) -> Held:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return Held(resident, len(os.listdir(f"/proc/{pid}/fd")))


@pytest.mark.slow
@pytest.mark.timeout(60 + 6 * SECONDS)
def test_p1_to_p5_p10_p11_eight_threads_in_two_processes_that_are_killed_lose_nothing_and_stay_small(
    start: Start, tmp_path: Path
) -> None:
    siege = Siege(start, str(tmp_path / "log"))
    with seglog.open(siege.directory) as log:  # who comes later does not get what was consumed before
        for name in CONSUMERS:
            log.consumer(name)
    for name in PROCESSES:
        siege.begin(name)
    with seglog.open(siege.directory, "r") as beside:
        storm(siege, beside, SECONDS * STORM)
        quiet(siege, beside, SECONDS * (1 - STORM))
    siege.kill("write", "read")
    siege.check()
    assert siege.kills >= SECONDS / 2
    assert siege.refusals, "the limit was never met"
    assert siege.fullest > MAX_RECORDS / 4, "the log was never near its limit"
    assert siege.oracle.acknowledged > 50 * SECONDS
    if LINUX:
        for name in PROCESSES:
            stays_small(siege.samples[name])


def storm(siege: Siege, beside: seglog.Log[bytes], seconds: float) -> None:
    """Kill one, the other or both, whatever they are doing; begin anew at once."""
    dice, until = siege.dice, time.monotonic() + seconds
    descriptors = 0
    while time.monotonic() < until:
        life = time.monotonic() + dice.random() ** 2 * 1.5
        while time.monotonic() < life:
            siege.listen(min(LOOK_SECONDS, max(0.0, life - time.monotonic())))
            siege.look(beside)
        names = dice.choice((("write",), ("read",), PROCESSES))
        siege.kill(*names)
        if names == PROCESSES and dice.random() < 0.5:
            siege.check()
        for name in names:
            siege.begin(name)
        descriptors = descriptors or open_descriptors()
    assert open_descriptors() <= descriptors + 2, "the one that looks on leaks"


def quiet(siege: Siege, beside: seglog.Log[bytes], seconds: float) -> None:
    """Nobody is killed; both have lived for a while before it counts what they hold."""
    until = time.monotonic() + seconds / 4
    while time.monotonic() < until:
        siege.listen(LOOK_SECONDS)
    for samples in siege.samples.values():
        samples.clear()
    until = time.monotonic() + seconds * 3 / 4
    while time.monotonic() < until:
        siege.listen(LOOK_SECONDS)
        siege.look(beside)


def stays_small(samples: list[Held]) -> None:
    """As much memory and as many descriptors at the end as at the beginning, but for those of a moment."""
    third = len(samples) // 3
    assert third >= 2, "it was not looked at"
    early, late = samples[:third], samples[-third:]
    assert median(s.resident for s in late) <= 1.1 * median(s.resident for s in early)
    assert median(s.descriptors for s in late) <= median(s.descriptors for s in early) + 4
