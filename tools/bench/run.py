"""Compare seglog with its peers on this machine and print the table: python tools/bench/run.py [--quick] [--json].

Figures are ratios of what ran by turns in one run; it always exits 0: a measurement is no test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.comparisons import COMPARISONS, QUICK, Sizes
from tools.bench.peers import BareLoop
from tools.bench.rounds import Result


def sync_latency(directory: Path, count: int = 500) -> list[float]:
    """Microseconds of a bare 200-byte pwrite + fdatasync, in order of size."""
    loop = BareLoop(directory / "latency", count * 200)
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        loop.append(b"x" * 200)
        taken.append((time.perf_counter() - start) * 1e6)
    loop.close()
    return sorted(taken)


def machine(directory: Path) -> dict[str, object]:
    """What the figures depend on."""
    taken = sync_latency(directory)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_us": {"median": round(median(taken)), "p95": round(taken[len(taken) * 95 // 100])},
    }


def measure(root: Path, names: Iterable[str], sizes: Sizes) -> Iterator[Result]:
    """The results of these comparisons, each in a directory of its own below `root`."""
    for name in names:
        place = root / name
        place.mkdir()
        yield from COMPARISONS[name](place, sizes)


def row(result: Result) -> str:
    met = "yes" if result.met else "**no**"
    spread = f"{result.low:.2f}-{result.high:.2f}"
    return (
        f"| {result.name} | {result.peer} | {result.ratio:.2f} | {spread} | {result.best:.2f} "
        f"| {result.target} | {met} | {result.detail} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare seglog with its peers on this machine.")
    parser.add_argument("--quick", action="store_true", help="less of everything: a first look")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--only", choices=COMPARISONS, action="append", help="this comparison; may be repeated")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write (default: here); cleaned up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seglog-bench-", dir=options.dir) as name:
        root = Path(name)
        about = machine(root)
        results = measure(root, options.only or COMPARISONS, QUICK if options.quick else Sizes())
        if options.json:
            print(json.dumps({"machine": about, "results": [asdict(result) for result in results]}, indent=2))
            return
        print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
        print("| what | against | ratio | quartiles | at best | target | met | figures |")
        print("|---|---|---|---|---|---|---|---|")
        for result in results:
            print(row(result), flush=True)


if __name__ == "__main__":
    main()
