"""Is every record at the far end exactly once, in order, whatever dies? One engine, one forwarder, many deaths.

The forwarder is the real command in a process of its own. It is killed at random moments while it works, the server
is killed and started again, and once the forwarder's cursor is deleted. Then what arrived is compared with the log.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import seglog
from tools.engines.server import Engine, wait_until

ROOT = Path(__file__).resolve().parents[2]
BATCH_RECORDS = 40
CHUNK_RECORDS = 400  # between two deaths


@dataclass(frozen=True)
class Outcome:
    """What one trial came to."""

    engine: str
    kills: int
    restarts: int
    records: int
    duplicates: int
    holes: int
    in_order: bool
    server: str  # what the restarts were

    @property
    def at_least_once(self) -> bool:
        """Nothing is missing, and what came first came in order."""
        return self.in_order and not self.holes

    @property
    def ok(self) -> bool:
        return self.at_least_once and not self.duplicates

    def row(self) -> str:
        """Of the table."""
        cells = (self.kills, self.restarts, f"{self.records:,}", f"{self.duplicates:,}", f"{self.holes:,}")
        order = "yes" if self.in_order else "NO"
        return f"| {self.engine} | {' | '.join(map(str, cells))} | {order} | {self.server} |"


HEAD = """| far end | forwarder killed | server restarted | records | duplicates | holes | in order | server |
|---|---|---|---|---|---|---|---|"""


def payload(number: int) -> bytes:
    return b"event %d " % number + b"x" * (number * 37 % 300)


class Forwarding:
    """The forwarder's lives."""

    def __init__(self, directory: Path, url: str) -> None:
        self._command = [sys.executable, "-m", "seglog", "forward", str(directory), "--to", url]
        self._command += ["--batch-records", str(BATCH_RECORDS), "--linger", "0"]
        self._log = directory.parent / "forwarder.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}  # see `stuck`
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log, env=environment)

    def end(self, number: int = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.poll() is None, f"it ended by itself: {self.said()}"
            process.send_signal(number)
            process.wait(60)

    def stuck(self) -> str:
        """Ends it, and returns what it said until then, and where each of its threads was."""
        self.end(signal.SIGABRT)
        return self.said()

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")[-10_000:] if self._log.exists() else ""


@contextmanager
def forwarding(directory: Path, url: str) -> Iterator[Forwarding]:
    process = Forwarding(directory, url)
    process.start()
    try:
        yield process
    finally:
        process.end()


def trial(
    engine: Engine, folder: Path, *, kills: int, restarts: int, seed: int = 0, lose_cursor: bool = True
) -> Outcome:
    """Run one. The engine is started already. Raises AssertionError if something hangs or ends by itself."""
    restarts = restarts if engine.server else 0
    dice = random.Random(f"{engine.name} {seed}")
    deaths = ["forwarder"] * kills + ["server"] * restarts + ["cursor"] * lose_cursor
    dice.shuffle(deaths)
    target = f"trial-{seed}"
    engine.prepare(target)
    number = 0
    with (
        seglog.open(folder / "log", segment_bytes=64 << 10, durability="never") as log,
        log.consumer("watcher"),  # so that a cursor that begins anew finds all of it
        forwarding(folder / "log", engine.url(target)) as forwarder,
    ):
        for death in deaths:
            log.append_many([payload(n) for n in range(number, number + CHUNK_RECORDS)])
            number += CHUNK_RECORDS
            _wait_for_work(log, dice, forwarder)
            if death == "server":
                engine.restart(dice.random() * 0.1)
                continue
            forwarder.end()
            if death == "cursor":
                (folder / "log" / "cursors" / "forward.cursor").unlink(missing_ok=True)
            forwarder.start()
        log.append_many([payload(n) for n in range(number, number + CHUNK_RECORDS)])
        number += CHUNK_RECORDS
        wait_until(lambda: _lag(log) == 0, 120, lambda: f"it is not forwarded: {forwarder.stuck()}")
        found = [(one.id, one.payload) for one in engine.arrived(target)]
        expected = [(message.id, message.payload) for message in log.read()]
    assert len(expected) == number
    times, arrived = Counter(id for id, _ in found), set(found)
    assert arrived <= set(expected), "something else arrived"
    return Outcome(
        engine.name,
        kills + lose_cursor,
        restarts,
        number,
        sum(times.values()) - len(times),
        len(set(expected) - arrived),
        list(dict.fromkeys(found)) == [pair for pair in expected if pair in arrived],
        engine.mock or (engine.restarted if engine.server else "none"),
    )


def _lag(log: seglog.Log[bytes]) -> int:
    stats = log.consumers().get("forward")
    return 1 if stats is None else stats.lag_records


def _wait_for_work(log: seglog.Log[bytes], dice: random.Random, forwarder: Forwarding) -> None:
    """Until some of the newest chunk is forwarded, and a moment more."""
    at = log.next_offset - dice.randrange(1, CHUNK_RECORDS)

    def reached() -> bool:
        stats = log.consumers().get("forward")
        return stats is not None and stats.watermark >= at

    wait_until(reached, 60, lambda: f"nothing is forwarded: {forwarder.stuck()}")
    time.sleep(dice.random() * 0.01)
