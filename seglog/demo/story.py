"""What happens in the demo, in order: three processes, three kills, a copy with a flipped byte, and the account.

The collector is away for a moment; the writer and the forwarder are killed while they work, and go on where they
were. All of it is the ordinary command and the ordinary library; only the account knows that it is a demo.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import seglog
from seglog.clock import SystemClock
from seglog.demo.account import Account, Balance
from seglog.demo.children import Child, Children
from seglog.demo.damage import Flip, flip_one_byte
from seglog.demo.source import write_events
from seglog.errors import SeglogError

WRITER, COLLECTOR = "seglog.demo.writer", "seglog.demo.collector"  # modules
FORWARDER, FRESH = "forward", "fresh"  # consumers
WRITING_SECONDS = 8.0  # the writer takes its time, so that there is something to interrupt
AWAY_SECONDS = 1.5
SEGMENTS = 6
STANDSTILL_SECONDS = 40.0
POLL_SECONDS = 0.01


class Stop(Protocol):
    """True once somebody asked for the end."""

    def __bool__(self) -> bool: ...

    def wait(self, seconds: float) -> None: ...


class Stopped(Exception):
    """Somebody asked for the end; the caller cleans up."""


@dataclass(frozen=True)
class Findings:
    """What the demo found. `problems`: what is not as promised, in words; empty if all is well."""

    ok: bool
    source: str
    events: int
    balance: Balance
    killed: tuple[str, ...]
    busy_answers: int
    damaged: Flip
    copy_delivered: int
    copy_dead_letters: tuple[str, ...]
    verify_exit_code: int
    verify_copy_exit_code: int
    verify_copy_damage: tuple[dict[str, Any], ...]
    seconds: float
    problems: tuple[str, ...]


class Story:
    """One run of the demo in an empty directory. `close` ends every process of it."""

    def __init__(self, root: Path, stop: Stop, tell: Callable[[str], None], show: Callable[[int, int], None]) -> None:
        self.log = root / "spool"
        self._copy = root / "spool-copy"
        self._input = root / "events.ndjson"
        self._received = root / "collector.received"
        self._stop = stop
        self._tell = tell
        self._show = show
        self._clock = SystemClock()
        self._children = Children(root)
        self._busy_answers = self._slow_answers = 0
        self._port = 0
        self._collector_is_up = False
        self._rate = self._segment_bytes = 0

    def close(self) -> None:
        self._children.close()

    def run(self, count: int) -> Findings:
        """Raises Stopped if asked to stop, SeglogError if a process ends that should not."""
        begun = self._clock.monotonic()
        source, events = write_events(self._input, count)
        self._tell(f"{len(events):,} events, each a line of {source}")
        self._rate = max(1, int(len(events) / WRITING_SECONDS))
        self._segment_bytes = max(4096, self._input.stat().st_size // SEGMENTS)
        self._account = Account(events, self._received)
        self._send_everything(len(events))
        verify_exit_code, _ = self._verify(self.log)
        flip = self._damage_a_copy()
        copy_exit_code, copy_report = self._verify(self._copy)
        copied = self._consume_the_copy()
        with seglog.open(self._copy, mode="r") as log:
            letters = tuple(f"{one.reason}: offsets {one.offset}-{one.last_offset}" for one in log.dead_letters)
        findings = Findings(
            ok=True,
            source=source,
            events=len(events),
            balance=self._account.balance(),
            killed=("collector", "writer", "forwarder"),
            busy_answers=self._busy_answers,
            damaged=flip,
            copy_delivered=len(copied),
            copy_dead_letters=letters,
            verify_exit_code=verify_exit_code,
            verify_copy_exit_code=copy_exit_code,
            verify_copy_damage=tuple(copy_report["damage"]),
            seconds=self._clock.monotonic() - begun,
            problems=(),
        )
        expected = [record for offset, record in sorted(self._account.records.items()) if offset != flip.offset]
        problems = tuple(problems_of(findings, copy_is_as_expected=copied == expected))
        return dataclasses.replace(findings, ok=not problems, problems=problems)

    # -- the acts

    def _send_everything(self, total: int) -> None:
        account = self._account
        collector = self._start_collector()
        writer = self._start_writer()
        self._until(lambda: bool(account.acknowledged), writer, collector)
        forwarder = self._start_forwarder()
        self._until(lambda: len(account.records) >= total // 10, writer, forwarder, collector)

        self._kill(collector)
        self._tell(f"collector killed; away for {AWAY_SECONDS} s, the writer goes on")
        back = self._clock.monotonic() + AWAY_SECONDS
        self._until(lambda: self._clock.monotonic() >= back, writer, forwarder)
        collector = self._start_collector()

        self._until(lambda: len(account.acknowledged) >= total * 45 // 100, writer, forwarder, collector)
        self._kill(writer)
        self._tell(f"writer killed after event {len(account.acknowledged):,}, started again")
        writer = self._start_writer()

        self._until(lambda: len(account.records) >= total * 65 // 100, writer, forwarder, collector)
        self._slow_answers = 0
        self._until(lambda: self._slow_answers > 0, writer, forwarder, collector)
        self._kill(forwarder)  # the worst moment: the collector has the batch, and the forwarder does not know it
        self._tell(f"forwarder killed after {len(account.records):,} records were delivered, started again")
        forwarder = self._start_forwarder()

        self._until(lambda: len(account.acknowledged) == total, writer, forwarder, collector)
        self._expect_end(writer)
        self._tell("the writer is done; the forwarder drains the rest")
        self._until(lambda: account.everything_arrived() and self._lag() == 0, forwarder, collector)
        forwarder.ask_to_end()
        self._expect_end(forwarder)
        self._kill(collector)
        account.read_deliveries()

    def _damage_a_copy(self) -> Flip:
        shutil.copytree(self.log, self._copy)
        flip = flip_one_byte(self._copy, self._account.records)
        self._tell(f"flipped byte {flip.position} of {flip.segment} in a copy: it is in record {flip.offset}")
        return flip

    def _consume_the_copy(self) -> list[bytes]:
        consume = self._start("consume", "seglog", "consume", str(self._copy), "--consumer", FRESH)
        return [line.encode() for line in self._all_lines(consume, codes=(0,))]

    # -- the processes

    def _start_collector(self) -> Child:
        self._collector_is_up = False
        child = self._start("collector", COLLECTOR, str(self._received), "--port", str(self._port))
        self._until(lambda: self._collector_is_up, child)
        return child

    def _start_forwarder(self) -> Child:
        url = f"http://127.0.0.1:{self._port}/"
        return self._start("forwarder", "seglog", "forward", str(self.log), "--to", url, "--consumer", FORWARDER)

    def _start_writer(self) -> Child:
        return self._start(
            "writer",
            WRITER,
            str(self.log),
            str(self._input),
            f"--first={len(self._account.acknowledged)}",
            f"--rate={self._rate}",
            f"--segment-bytes={self._segment_bytes}",
            f"--also-for={FRESH}",
        )

    def _start(self, name: str, *arguments: str) -> Child:
        return self._children.start(name, *arguments)

    def _kill(self, child: Child) -> None:
        """SIGKILL, and then hear what it had still said."""
        child.kill()
        self._listen(child)

    def _verify(self, log: Path) -> tuple[int, dict[str, Any]]:
        child = self._start("verify", "seglog", "verify", str(log), "--json")
        report: dict[str, Any] = json.loads("".join(self._all_lines(child, codes=(0, 1))))
        code = child.exit_code()
        assert code is not None
        self._tell(f"seglog verify {log.name}: exit code {code}")
        return code, report

    # -- waiting

    def _until(self, condition: Callable[[], bool], *alive: Child) -> None:
        """Listen to everybody until the condition holds. None of `alive` may end, nor everything stand still."""
        account = self._account
        quiet_since, before = self._clock.monotonic(), (-1, -1)
        while not condition():
            self._stop.wait(POLL_SECONDS)
            for child in alive:
                self._listen(child)
            account.read_deliveries()
            if self._stop:
                raise Stopped
            for child in alive:
                if child.exit_code() not in ((None, 0) if child.name == "writer" else (None,)):
                    self._stop.wait(0.2)  # Ctrl-C reaches all of us: perhaps we hear of it a moment later
                    raise Stopped if self._stop else child.failure()
            now = (len(account.acknowledged), len(account.records))
            self._show(*now)
            if now != before:
                quiet_since, before = self._clock.monotonic(), now
            elif self._clock.monotonic() - quiet_since > STANDSTILL_SECONDS:
                raise SeglogError(
                    f"nothing moved for {STANDSTILL_SECONDS:g} s: {now[0]} acknowledged, {now[1]} delivered"
                )

    def _listen(self, child: Child) -> None:
        for line in child.lines():
            word, _, number = line.partition(" ")
            if child.name == "writer":
                self._account.acknowledge(line)
            elif word == "port":
                self._port = int(number)
                self._collector_is_up = True
            elif word == "busy":
                self._busy_answers += 1
            elif word == "slow":
                self._slow_answers += 1

    def _expect_end(self, child: Child) -> None:
        self._until(lambda: child.exit_code() is not None)
        if child.exit_code() != 0:
            raise child.failure()

    def _all_lines(self, child: Child, codes: tuple[int, ...]) -> list[str]:
        """Everything it says until it ends, with one of these exit codes."""
        lines: list[str] = []

        def ended() -> bool:
            over = child.exit_code() is not None
            lines.extend(child.lines())
            return over

        self._until(ended)
        if child.exit_code() not in codes:
            raise child.failure()
        return lines

    def _lag(self) -> int:
        with seglog.open(self.log, mode="r") as log:
            return log.stats().consumers[FORWARDER].lag_records


def problems_of(found: Findings, *, copy_is_as_expected: bool) -> list[str]:
    """Everything that is not as promised."""
    balance = found.balance
    only_the_flipped = [(one["first_offset"], one["last_offset"]) for one in found.verify_copy_damage] == [
        (found.damaged.offset, found.damaged.offset)
    ]
    letter = f"damaged: offsets {found.damaged.offset}-{found.damaged.offset}"
    checks = {
        f"{found.events - balance.acknowledged} events were never acknowledged": balance.acknowledged == found.events,
        f"{balance.unaccounted} acknowledged events did not arrive": balance.unaccounted == 0,
        f"{balance.altered} records arrived altered": balance.altered == 0,
        f"{balance.out_of_order} records arrived out of order": balance.out_of_order == 0,
        f"{balance.offsets_reused} offsets were given twice": balance.offsets_reused == 0,
        f"verify of the log exits {found.verify_exit_code}, not 0": found.verify_exit_code == 0,
        f"verify of the damaged copy exits {found.verify_copy_exit_code}, not 1": found.verify_copy_exit_code == 1,
        "verify of the damaged copy does not name exactly the record that was hit": only_the_flipped,
        "the damaged copy did not deliver exactly the other records, in order": copy_is_as_expected,
        f"the dead letters of the copy are {list(found.copy_dead_letters)}": found.copy_dead_letters == (letter,),
    }
    return [problem for problem, well in checks.items() if not well]
