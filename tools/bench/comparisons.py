"""The comparisons: the same work by seglog and by a peer, in the same directory, by turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median

import seglog
from tools.bench.flat import flat
from tools.bench.forwarding import forwarding
from tools.bench.peers import BareLoop, Table, checksum_files
from tools.bench.rounds import Result, by_turns, faster, fastest, spread

PAYLOAD = b"x" * 200
BATCH = 1000
THREADS = 16
CHILD = Path(__file__).with_name("child.py")
CHILD_SECONDS = 120


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 40
    singles: int = 10  # appends in one piece, of each thread
    batches: int = 10  # in one piece: what comes every few of them (checkpoints, preallocation) counts
    batch: int = BATCH
    verify_batches: int = 100
    few: int = 10_000
    many: int = 1_000_000
    few_segments: int = 10
    many_segments: int = 5_000
    kills: int = 15
    drains: int = 3
    forward_records: int = 5_000
    forward_rounds: int = 9
    forward_to: tuple[str, ...] = ("Redis", "Nats", "RabbitMQ", "Kafka")


QUICK = Sizes(
    rounds=20,
    verify_batches=30,
    many=200_000,
    many_segments=1_000,
    kills=7,
    drains=1,
    forward_records=2_000,
    forward_rounds=5,
)


def single_appends(root: Path, sizes: Sizes) -> Iterator[Result]:
    """One durable append at a time, one thread."""
    rounds = 5 * sizes.rounds  # many small pieces: some meet no neighbour
    pieces = rounds + 2
    with (
        closing(BareLoop(root / "bare", pieces * sizes.singles * len(PAYLOAD))) as bare,
        seglog.open(root / "log") as log,
    ):

        def some(append: Callable[[bytes], object]) -> None:
            for _ in range(sizes.singles):
                append(PAYLOAD)

        sides = {"seglog": lambda: some(log.append), "pwrite + fdatasync": lambda: some(bare.append)}
        by_turns(sides, 2)
        taken = by_turns(sides, rounds)
    found = faster("durable append, 1 thread, 200 B", taken, "seglog", "pwrite + fdatasync", 0.9)
    least = median(taken["pwrite + fdatasync"]) / sizes.singles * 1e6
    pairs = zip(taken["seglog"], taken["pwrite + fdatasync"], strict=True)
    above = median(ours - theirs for ours, theirs in pairs) / sizes.singles * 1e6
    found.target = ">= 0.9, or <= 12 µs above a loop that takes < 80 µs"
    found.met = found.ratio >= 0.9 or (least < 80 and above <= 12)
    found.detail = f"{least:.0f} µs the bare loop, seglog {above:+.1f} µs"
    yield found


def batch_appends(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Durable batches."""
    payloads = [PAYLOAD] * sizes.batch
    rows = [(payload,) for payload in payloads]
    with closing(Table(root / "table")) as table, seglog.open(root / "log") as log:

        def some(append: Callable[[], object]) -> None:
            for _ in range(sizes.batches):
                append()

        sides = {
            "seglog": lambda: some(lambda: log.append_many(payloads)),
            "sqlite executemany": lambda: some(lambda: table.append_many(rows)),
        }
        by_turns(sides, 1)
        taken = by_turns(sides, sizes.rounds)
    found = faster(f"durable batches of {sizes.batch} x 200 B", taken, "seglog", "sqlite executemany", 4)
    rates = {side: sizes.batches * sizes.batch / seconds / 1000 for side, seconds in found.seconds.items()}
    found.detail = ", ".join(f"{side} {rate:.0f} k/s" for side, rate in rates.items())
    yield found


def threads(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Durable single appends from many threads against one thread."""
    share = 3 * sizes.singles
    with seglog.open(root / "log") as log, ThreadPoolExecutor(THREADS) as pool:

        def appends(count: int) -> None:
            for _ in range(count):
                log.append(PAYLOAD)

        sides = {
            f"{THREADS} threads": lambda: list(pool.map(appends, repeat(share, THREADS))),
            "1 thread": lambda: appends(share * THREADS),
        }
        by_turns(sides, 1)
        taken = by_turns(sides, max(1, sizes.rounds // 4))
    found = faster(f"durable append, {THREADS} threads", taken, f"{THREADS} threads", "1 thread", 2)
    rates = {side: share * THREADS / seconds / 1000 for side, seconds in found.seconds.items()}
    found.detail = ", ".join(f"{side} {rate:.1f} k/s" for side, rate in rates.items())
    yield found


def consuming(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Read a batch, acknowledge it durably."""
    rounds, batch = sizes.rounds, sizes.batch
    payloads = [PAYLOAD] * batch
    rows = [(payload,) for payload in payloads]
    deleting, moving = "sqlite, deletes", "sqlite, cursor row"
    with (
        closing(Table(root / "deleting")) as queue,
        closing(Table(root / "moving")) as stream,
        seglog.open(root / "log") as log,
        log.consumer("reader") as consumer,
    ):
        for _ in range((rounds + 1) * sizes.batches):
            log.append_many(payloads)
            queue.append_many(rows)
            stream.append_many(rows)

        def receive_and_ack() -> int:
            messages = consumer.receive_many(batch)
            consumer.ack(*messages)
            return len(messages)

        def some(take: Callable[[], int]) -> None:
            for _ in range(sizes.batches):
                if take() != batch:
                    raise RuntimeError("not a whole batch was read")

        sides = {
            "seglog": lambda: some(receive_and_ack),
            deleting: lambda: some(lambda: queue.take_and_delete(batch)),
            moving: lambda: some(lambda: stream.take_and_move_cursor(batch)),
        }
        by_turns(sides, 1)
        taken = by_turns(sides, rounds)
    for peer, least in ((deleting, 3), (moving, 1)):
        found = faster(f"read + durable ack of {batch}", taken, "seglog", peer, least)
        each = {side: seconds / sizes.batches * 1e6 for side, seconds in found.seconds.items()}
        found.detail = f"seglog {each['seglog']:.0f} µs, peer {each[peer]:.0f} µs"
        yield found


def verifying(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Verify against reading and checksumming the same files."""
    path = root / "log"
    with seglog.open(path) as log:
        for _ in range(sizes.verify_batches):
            log.append_many([b"x" * 1024] * sizes.batch)
    if not seglog.verify(path).ok:
        raise RuntimeError("verify finds the log it just wrote not well")
    peer = "read + CRC32C"
    sides = {"verify": lambda: seglog.verify(path), peer: lambda: checksum_files(path / "segments")}
    by_turns(sides, 1)
    found = faster("verify, records of 1 KiB", by_turns(sides, max(1, sizes.rounds // 4)), "verify", peer, 0.5)
    size = checksum_files(path / "segments") / 1e9
    found.detail = ", ".join(f"{side} {size / seconds:.1f} GB/s" for side, seconds in found.seconds.items())
    yield found


def backlog(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Open after SIGKILL, and drain, with few and with many records."""
    logs = {"few": root / "few", "many": root / "many"}
    killed_writer(logs["few"], sizes.few)
    killed_writer(logs["many"], sizes.many)
    taken: dict[str, list[float]] = {name: [] for name in logs}
    for turn in range(sizes.kills):
        for name, path in logs.items():
            if turn:
                killed_writer(path, 1)
            seconds = by_turns({name: lambda path=path: seglog.open(path).close()}, 1)  # type: ignore[misc]
            taken[name] += seconds[name]
    ratios = [many / few for many, few in zip(taken["many"], taken["few"], strict=True)]
    few, many = median(taken["few"]), median(taken["many"])
    low, high = spread(ratios)
    yield Result(
        f"open + close after SIGKILL, {sizes.many:,} records",
        f"{sizes.few:,} records",
        many / few,
        "<= 1.3",
        many / few <= 1.3,
        low,
        high,
        fastest(taken["many"]) / fastest(taken["few"]),
        f"{few * 1e3:.1f} ms and {many * 1e3:.1f} ms",
        {"few": few, "many": many},
    )
    peaks: dict[str, list[float]] = {name: [] for name in logs}
    for turn in range(sizes.drains):
        for name, path in logs.items():
            peaks[name].append(draining_peak(path, f"drain-{turn}", sizes.batch))
    small, large = median(peaks["few"]), median(peaks["many"])
    yield Result(
        f"peak memory draining {sizes.many:,} records",
        f"{sizes.few:,} records",
        large / small,
        "<= 3 MB more",
        large - small <= 3e6,
        min(peaks["many"]) / max(peaks["few"]),
        max(peaks["many"]) / min(peaks["few"]),
        large / small,
        f"{small / 1e6:.1f} MB and {large / 1e6:.1f} MB",
    )


def flat_costs(root: Path, sizes: Sizes) -> Iterator[Result]:
    """Append, ack and len with little and with much behind them."""
    records, segments = (sizes.few // 10, sizes.many), (sizes.few_segments, sizes.many_segments)
    yield from flat(root, sizes.rounds, sizes.singles, records, segments)


@contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone, one way or the other, when this is left."""
    process = subprocess.Popen([sys.executable, str(CHILD), *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def killed_writer(path: Path, records: int) -> None:
    """Let a process append and kill it while it goes on appending."""
    with child("write", path, records, BATCH) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the writer died early; see its words above")


def draining_peak(path: Path, consumer: str, batch: int) -> float:
    """Bytes."""
    with seglog.open(path) as log:
        expected = log.next_offset - log.first_offset
    with child("drain", path, consumer, batch) as process:
        said, _ = process.communicate(timeout=CHILD_SECONDS)
    count, kib = map(int, said.split())
    if count != expected:
        raise RuntimeError(f"{count} records drained, {expected} appended")
    return kib * 1024


COMPARISONS = {
    "single": single_appends,
    "batch": batch_appends,
    "threads": threads,
    "consume": consuming,
    "verify": verifying,
    "backlog": backlog,
    "flat": flat_costs,
    "forward": forwarding,
}
