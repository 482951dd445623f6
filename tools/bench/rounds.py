"""Compare by turns: each side does a small piece of work, then the other, many times over.

A busy neighbour or a slow minute of the disk then hits all sides alike, and a median forgets the worst of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles

Piece = Callable[[], object]


@dataclass
class Result:
    """One line of the table. `ratio`, of ours to the peer's, is what the target is held against."""

    name: str
    peer: str
    ratio: float
    target: str
    met: bool
    low: float  # the quartiles of the rounds' ratios
    high: float
    best: float  # the same ratio of the tenths that were fastest: with quiet neighbours
    detail: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # median of one piece, by side


def by_turns(sides: Mapping[str, Piece], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece, by side, in order of rounds. Every second round goes backwards."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(rounds):
        for name in order:
            start = time.perf_counter()
            sides[name]()
            taken[name].append(time.perf_counter() - start)
        order.reverse()
    return taken


def faster(name: str, taken: dict[str, list[float]], us: str, peer: str, least: float) -> Result:
    """How many times as fast as the peer we are, by the median of the rounds' ratios."""
    ratios = [theirs / ours for ours, theirs in zip(taken[us], taken[peer], strict=True)]
    middle, (low, high) = median(ratios), spread(ratios)
    seconds = {side: median(times) for side, times in taken.items()}
    best = fastest(taken[peer]) / fastest(taken[us])
    return Result(name, peer, middle, f">= {least:g}", middle >= least, low, high, best, seconds=seconds)


def fastest(times: list[float]) -> float:
    """The time that a tenth of the pieces did not exceed."""
    return sorted(times)[len(times) // 10]


def spread(values: list[float]) -> tuple[float, float]:
    """The lower and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high
