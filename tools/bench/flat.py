"""Whether costs stay flat: the same call on a log with little and with much behind it, by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import seglog
from tools.bench.rounds import Result, by_turns, fastest, spread

AT_MOST = 1.3
SEGMENT_BYTES = 4096
FILLS_A_SEGMENT = bytes(4000)
BATCH = 1000


@dataclass
class Side:
    """One log, with a consumer that lags behind all of it and one that is at its end."""

    log: seglog.Log[bytes]
    late: seglog.Consumer[bytes]
    quick: seglog.Consumer[bytes]


def with_records(path: Path, count: int) -> seglog.Log[bytes]:
    """A few small segments first, so that neither side has but one, then large ones."""
    with seglog.open(path, segment_bytes=1 << 16) as log:
        log.consumer("late")
        for _ in range(10):
            log.append_many([b"x" * 200] * (BATCH // 10))
    log = seglog.open(path)
    for first in range(BATCH, count, BATCH):
        log.append_many([b"x" * 200] * min(BATCH, count - first))
    return log


def with_segments(path: Path, count: int) -> seglog.Log[bytes]:
    with seglog.open(path, segment_bytes=SEGMENT_BYTES, durability="never") as log:
        log.consumer("late")
        for _ in range(count):
            log.append(FILLS_A_SEGMENT)
    return seglog.open(path, segment_bytes=SEGMENT_BYTES)


def with_straggler(path: Path, count: int) -> seglog.Log[bytes]:
    """Segments of 64 KiB; the straggler has acked all but the first message, again and again."""
    log = seglog.open(path, segment_bytes=1 << 16)
    late = log.consumer("late")
    for first in range(0, count, BATCH):
        offsets = log.append_many([b"x" * 200] * min(BATCH, count - first))
        late.ack(*(offset for offset in offsets if offset))
    return log


def calls(times: int) -> dict[str, Callable[[Side], object]]:
    """The pieces of work."""

    def append(side: Side) -> None:
        for _ in range(times):
            side.log.append(b"x" * 200)

    def append_and_rotate(side: Side) -> None:
        for _ in range(times):
            side.log.append(FILLS_A_SEGMENT)

    def receive_and_ack(side: Side) -> None:
        for _ in range(times):
            side.quick.ack(*side.quick.receive_many(1))

    def length(side: Side) -> None:
        for _ in range(20 * times):
            len(side.late)

    return {
        "append": append,
        "append into a new segment": append_and_rotate,
        "receive + ack": receive_and_ack,
        "len(consumer)": length,
    }


def flat(root: Path, rounds: int, times: int, records: tuple[int, int], segments: tuple[int, int]) -> Iterator[Result]:
    """Each call on each pair of logs: few and many records, few and many segments, little and much past a straggler."""
    pairs = {
        "records in the backlog": (with_records, records),
        "segments behind a straggler": (with_segments, segments),
        "records acked behind one that is not": (with_straggler, records),
    }
    for what, (make, counts) in pairs.items():
        with ExitStack() as stack:
            sides = {}
            for count in counts:
                log = stack.enter_context(make(root / f"{what} {count}".replace(" ", "-"), count))
                late, quick = log.consumer("late"), log.consumer("quick", start="latest")
                log.append_many([b"x" * 200] * ((rounds + 1) * times))  # for `quick` to ack
                sides[f"{count:,}"] = Side(log, late, quick)
            for name, call in calls(times).items():
                if name.endswith("segment") and what != "segments behind a straggler":
                    continue  # there a segment takes more than one of these
                pieces = {side: partial(call, sides[side]) for side in sides}
                by_turns(pieces, 1)
                yield compared(f"{name}: {what}", by_turns(pieces, rounds), times * (20 if "len" in name else 1))


def compared(name: str, taken: dict[str, list[float]], times: int) -> Result:
    """How much longer the larger side takes, by the median of the rounds' ratios."""
    few, many = taken
    ratios = [large / small for small, large in zip(taken[few], taken[many], strict=True)]
    middle, (low, high) = median(ratios), spread(ratios)
    each = {side: median(seconds) / times * 1e6 for side, seconds in taken.items()}
    return Result(
        f"{name}, {many}",
        few,
        middle,
        f"<= {AT_MOST}",
        middle <= AT_MOST,
        low,
        high,
        fastest(taken[many]) / fastest(taken[few]),
        f"{each[few]:.0f} µs and {each[many]:.0f} µs",
        {side: median(seconds) for side, seconds in taken.items()},
    )
