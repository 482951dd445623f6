"""SQLite, the queues people use instead, and seglog under the same faults, at their defaults and at their safest.

flip: one bit in the files of a store of 64 records, properly closed, is another one; how many records do not come back,
how many come back as something else without a word, does it open at all. Bytes that are zero, and locks, are not hit.
kill: SIGKILL of a process that says each acknowledgement; how many of these are gone.
power: a power cut right after an acknowledgement, on a disk that peer_power.py rebuilds (see there for the limits).
A finding is what seglog loses against its promises; what the others lose is only counted. What is not installed is left
out: `pip install 'seglog[peers]'`.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tools.crashtest.campaign import CannotRun, Finding, Tally
from tools.crashtest.peer_power import has_strace, laid_out, replayed, strace
from tools.crashtest.peer_stores import STORES, installed

RECORDS = 64
FLIPS, KILLS, CUTS = 24, 3, 6  # of one share
SECONDS_MAX = 60.0  # a child that takes longer hangs
PROGRAM = [sys.executable, "-m", "tools.crashtest.peer_stores"]
NO_DATA = (".lock", "-shm", "/lock")  # locks and shared memory


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def written(name: str, directory: Path, records: int) -> None:
    """A store of so many records, closed as its documentation says."""
    directory.mkdir(parents=True)
    command = [*PROGRAM, "close", name, str(records), str(directory)]
    subprocess.run(command, check=True, timeout=SECONDS_MAX, env=environment(), stdout=subprocess.DEVNULL)


def read_back(name: str, directories: list[Path], records: int) -> list[dict[str, Any]]:
    """What a child reads in each; one that dies or hangs did not open the directory it was at."""
    found: list[dict[str, Any]] = []
    while len(found) < len(directories):
        command = [*PROGRAM, "read", name, str(records), *map(str, directories[len(found) :])]
        try:
            done = subprocess.run(
                command, check=False, timeout=SECONDS_MAX, env=environment(), capture_output=True, text=True
            )
            lines = done.stdout
        except subprocess.TimeoutExpired as error:
            lines = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
        found += [json.loads(line) for line in lines.splitlines() if line.endswith("}")]
        if len(found) < len(directories):
            found.append({"got": [], "wrong": 0, "opened": False, "error": "the process died or hung"})
    return found


def flipped_copies(name: str, base: Path, work: Path, chance: random.Random, number: int) -> list[Path]:
    """Copies of a store, each with one bit flipped where something stands."""
    written(name, base, RECORDS)
    files = sorted(path for path in base.rglob("*") if path.is_file() and not str(path).endswith(NO_DATA))
    spots = [(path, at) for path in files for at, byte in enumerate(path.read_bytes()) if byte]
    copies = []
    for index in range(number):
        path, at = chance.choice(spots)
        copy = work / f"flip{index}"
        shutil.copytree(base, copy)
        target = copy / path.relative_to(base)
        content = bytearray(target.read_bytes())
        content[at] ^= 1 << chance.randrange(8)
        target.write_bytes(content)
        copies.append(copy)
    return copies


def flip(name: str, work: Path, chance: random.Random) -> Iterator[tuple[Counter[str], str]]:
    for seen in read_back(name, flipped_copies(name, work / "base", work, chance, FLIPS), RECORDS):
        lost = RECORDS - len(seen["got"])
        counts = Counter({f"lost {lost}": 1, "wrong": seen["wrong"], "shut": int(not seen["opened"])})
        bad = lost > 1 or seen["wrong"] or not seen["opened"]
        yield counts, f"one flipped bit: {lost} records lost, {seen['wrong']} wrong; {seen['error']}" if bad else ""


def killed(name: str, directory: Path, after: int) -> int:
    """SIGKILL a writer after it has said so many; how many acknowledgements it said in the end."""
    directory.mkdir(parents=True)
    command = [*PROGRAM, "write", name, "100000", str(directory)]
    said = b""
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as child,
        selectors.DefaultSelector() as w,
    ):
        assert child.stdout is not None
        w.register(child.stdout, selectors.EVENT_READ)
        while said.count(b"\n") < after:
            if not w.select(SECONDS_MAX) or not (chunk := os.read(child.stdout.fileno(), 1 << 16)):
                break
            said += chunk
        child.kill()
        said += child.stdout.read()
    return said.count(b"\n")


def kill(name: str, work: Path, chance: random.Random) -> Iterator[tuple[Counter[str], str]]:
    for index in range(KILLS):
        directory = work / f"kill{index}"
        acknowledged = killed(name, directory, chance.randrange(1, 120))
        (seen,) = read_back(name, [directory], acknowledged + 1)
        lost = len(set(range(acknowledged)) - set(seen["got"]))
        yield Counter({f"lost {lost}": 1}), f"{lost} of {acknowledged} lost by a kill; {seen['error']}" if lost else ""


def power(name: str, work: Path, chance: random.Random) -> Iterator[tuple[Counter[str], str]]:
    directory, trace = work / "disk", work / "trace"
    directory.mkdir(parents=True)
    command = [*strace(trace), *PROGRAM, "write", name, "32", str(directory)]
    subprocess.run(command, check=True, timeout=SECONDS_MAX, env=environment(), stdout=subprocess.DEVNULL)
    moments = {1, 32, *(chance.randrange(1, 32) for _ in range(CUTS - 2))}
    cases: list[tuple[int, str, Path]] = []
    for disk in replayed(trace, directory):
        if disk.acknowledged in moments:
            for what, image in disk.images():
                laid_out(image, work / f"cut{len(cases)}")
                cases.append((disk.acknowledged, what, work / f"cut{len(cases)}"))
    if not cases:
        raise CannotRun("strace recorded nothing: may this process be traced?")
    for (acknowledged, what, _), seen in zip(cases, read_back(name, [case[2] for case in cases], 32), strict=True):
        lost = len(set(range(acknowledged)) - set(seen["got"]))
        told = f"a power cut after {acknowledged} acknowledgements left {what}: {lost} lost; {seen['error']}"
        yield Counter({f"lost {lost}": 1}), told if lost else ""


FAULTS = {"flip": flip, "kill": kill, "power": power}


def mean_and_max(counts: Counter[str], key: str) -> tuple[int, float, int]:
    """How often, and how many were lost: from `key lost N` -> how often N were."""
    start = f"{key} lost "
    lost = {int(name.removeprefix(start)): n for name, n in counts.items() if name.startswith(start)}
    times = sum(lost.values())
    return times, sum(number * n for number, n in lost.items()) / max(times, 1), max(lost, default=0)


class Peers:
    """See the module."""

    unit = "faults"

    def shares(self, seed: int) -> Iterator[str]:
        """`FAULT/STORE:SETTING/SEED`. Never ends; the first round is enough for a table."""
        faults = [fault for fault in FAULTS if fault != "power" or has_strace()]
        return (
            f"{fault}/{name}/{number}"
            for number in count(seed)
            for fault in faults
            for name, store in STORES.items()
            if installed(store)
        )

    def work(self, share: str) -> Tally:
        fault, name, seed = share.split("/")
        if name not in STORES or fault not in FAULTS:
            raise LookupError(share)
        if not installed(STORES[name]):
            raise CannotRun(f"{STORES[name].module} is not installed: pip install 'seglog[peers]'")
        tally, sums = Tally(), defaultdict[str, int](int)
        with tempfile.TemporaryDirectory(prefix="peers") as work:
            for counts, told in FAULTS[fault](name, Path(work), random.Random(share + seed)):
                for what, number in counts.items():
                    sums[f"{name} {fault} {what}"] += number
                tally.counts[self.unit] += 1
                if told and STORES[name].name == "seglog":
                    tally.findings.append(Finding(share, told))
        tally.counts.update(sums)
        return tally

    def replay(self, place: str) -> Tally:
        return self.work(place)

    def table(self, counts: Counter[str]) -> str:
        lines = [
            f"| store ({RECORDS} records) | setting | not read back after one flipped bit: mean, most |"
            " of these read wrong, without a word | would not open | acknowledged, lost by a kill: most |"
            " acknowledged, lost by a power cut: most |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, store in STORES.items():
            flips, mean, most = mean_and_max(counts, f"{name} flip")
            kills, _, by_kill = mean_and_max(counts, f"{name} kill")
            cuts, _, by_cut = mean_and_max(counts, f"{name} power")
            if not flips + kills + cuts:
                continue
            wrong, shut = counts[f"{name} flip wrong"], counts[f"{name} flip shut"]
            cells = [f"{mean:.1f}, {most}", f"{wrong / flips:.2f}", f"{shut} of {flips}"] if flips else ["?"] * 3
            cells += [f"{by_kill} (of {kills} kills)" if kills else "?", f"{by_cut} (of {cuts} cuts)" if cuts else "?"]
            lines.append(f"| {store.name} | {store.setting} | {' | '.join(cells)} |")
        left_out = sorted({store.module for store in STORES.values() if not installed(store)})
        if left_out:
            lines.append(f"\nnot installed: {', '.join(left_out)} (pip install 'seglog[peers]')")
        return "\n".join(lines)


LAYER = Peers()
