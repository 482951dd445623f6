"""A log as lines of text: what `seglog stat --watch` shows. No line is longer than the terminal is wide.

A line is a list of spans, each with what it means; colours are made of that where there are colours.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Sequence

from seglog.cli.look import Look, Pace
from seglog.cli.output import age, escape, number, size
from seglog.intervals import Intervals
from seglog.model import ConsumerStats

Span = tuple[str, str]  # text, meaning: "", "title", "bad", or a character of the map
Line = list[Span]

MAP_ROWS = 4
# In the order of what matters more, where several segments share a cell.
CELLS = {
    "!": "damaged",
    "@": "a consumer is here",
    "#": "kept for a consumer",
    "-": "kept, no consumer",
    ">": "being written",
    ".": "passed by all",
}


def plain(line: Line) -> str:
    return "".join(text for text, _ in line)


def columns(text: str) -> int:
    """How many columns of a terminal it takes; CJK and such take two each, what combines takes none."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, width: int) -> str:
    """As much of its beginning as so many columns hold."""
    for at, taken in enumerate(itertools.accumulate(map(_columns_of, text))):
        if taken > width:
            return text[:at]
    return text


def clip(line: Line, width: int) -> Line:
    """At most so wide; what is cut ends in two dots."""
    if columns(plain(line)) <= width:
        return line
    cut: Line = []
    left = max(0, width - 2)
    for text, meaning in line:
        piece = _fitting(text, left)
        cut.append((piece, meaning))
        left -= columns(piece)
        if piece != text:
            break
    return [*cut, (".."[:width], "")]


def folded(text: str, width: int) -> list[str]:
    """In as many lines as it takes, none wider, broken at spaces where there are some."""
    rows = []
    while columns(text) > width:
        piece = _fitting(text, width) or text[0]
        space = text.rfind(" ", 1, len(piece) + 1)
        rows.append(piece if space < 0 else text[:space])
        text = text[len(rows[-1]) :].removeprefix(" ")
    return [*rows, text]


def picture(now: Look, pace: Pace | None, width: int) -> list[Line]:
    """All that is known of one moment."""
    lines = [*_figures(now, pace, width), *_map(now, width), [], *_consumers(now, pace, width)]
    return [clip(line, width) for line in lines]


def _figures(now: Look, pace: Pace | None, width: int) -> list[Line]:
    stats, letters = now.stats, now.letters
    behind = stats.next_offset - stats.durable_offset
    figures = [
        ("records", f"{number(stats.records)} (offsets {stats.first_offset} to {stats.next_offset}, excluded)"),
        ("durable", f"up to {stats.durable_offset}" + (f", {number(behind)} are not yet" if behind > 0 else "")),
        ("appended", "-" if pace is None else f"{rate(pace.records)} records/s, {_bytes_per_second(pace.bytes)}"),
        ("size", f"{size(stats.bytes)} in {number(stats.segments)} segments; {size(now.free_bytes)} free on the disk"),
    ]
    lines = [line for name, text in figures for line in _wrapped(name, text, width)]
    if stats.dropped:
        lines += _wrapped("dropped", f"{number(stats.dropped)} to stay within a limit", width, "bad")
    if stats.dead_letters:
        reasons = ", ".join(f"{escape(reason)} {number(count)}" for reason, count in letters.by_reason.items())
        lines += _wrapped("dead", f"{number(stats.dead_letters)}{': ' if reasons else ''}{reasons}", width, "bad")
    return lines


def _bytes_per_second(value: float | None) -> str:
    return "bytes not known" if value is None else f"{size(round(value))}/s"


def rate(value: float | None) -> str:
    """A number of records in a second; "-" for not known."""
    if value is None:
        return "-"
    return number(round(value)) if value >= 10 or value == 0 else f"{value:.1f}"


# -- segments


def states(now: Look) -> list[str]:
    """For each segment its character of CELLS, oldest first."""
    marks = sorted(consumer.watermark for consumer in now.stats.consumers.values())
    stops = [*now.segments[1:], max(now.stats.next_offset, *now.segments[-1:], 0)]
    damaged = Intervals((lost.first_offset, lost.last_offset + 1) for lost in now.letters.damaged)
    found = []
    for index, (first, stop) in enumerate(zip(now.segments, stops, strict=True)):
        active = index == len(now.segments) - 1
        if damaged.overlap(first, stop):
            found.append("!")
        elif any(first <= mark < stop or (active and mark >= stop) for mark in marks):
            found.append("@")
        elif active:
            found.append(">")
        elif not marks:
            found.append("-")
        else:
            found.append("#" if marks[0] < stop else ".")
    return found


def _map(now: Look, width: int) -> list[Line]:
    cells = states(now)
    if not cells:
        return [[("segments  none yet", "")]]
    room = max(1, width - 10)
    group = -(-len(cells) // (room * MAP_ROWS))
    worst = [min(cells[at : at + group], key=list(CELLS).index) for at in range(0, len(cells), group)]
    lines: list[Line] = []
    for at in range(0, len(worst), room):
        head = f"{'segments':<10}" if at == 0 else " " * 10
        lines.append([(head, ""), *((cell, cell) for cell in worst[at : at + room])])
    legend = [f"{cell} {meaning}" for cell, meaning in CELLS.items() if cell in worst]
    if group > 1:
        legend.append(f"{number(group)} segments a cell")
    lines += _wrapped("", "  ".join(word.replace(" ", "\0") for word in legend), width)
    if now.stats.pinned_by:
        lines += _wrapped("oldest", f"kept for {', '.join(map(escape, now.stats.pinned_by))}", width)
    return lines


def _wrapped(name: str, text: str, width: int, meaning: str = "") -> list[Line]:
    """A name, and beside it the text in as many lines as it takes; "\0" is a space that stays."""
    head = f"{name:<10}"
    rows = textwrap.wrap(text, max(1, width - len(head)), break_on_hyphens=False)
    return [[(f"{' ' * 10 if at else head}{row}".replace("\0", " "), meaning)] for at, row in enumerate(rows)]


# -- consumers


def _consumers(now: Look, pace: Pace | None, width: int) -> list[Line]:
    """A line for each, or two where the window is too narrow for a table."""
    if not now.stats.consumers:
        return [[("no consumer is registered", "")]]
    rows = [
        _row(name, consumer, None if pace is None else pace.handled[name])
        for name, consumer in now.stats.consumers.items()
    ]
    names = ("consumer", "watermark", "lag", "lag bytes", "oldest", "in flight", "handled/s")
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return [[(_aligned(names, widths), "title")], *([(_aligned(row, widths), "")] for row in rows)]
    stacked: list[Line] = []
    for name, _, lag, lag_bytes, oldest, in_flight, handled in rows:
        stacked.append([(name, "title"), (f"  lag {lag}, {lag_bytes}", "")])
        stacked.append([(f"  oldest {oldest}, in flight {in_flight}, {handled}/s", "")])
    return stacked


def _row(name: str, consumer: ConsumerStats, handled: float | None) -> tuple[str, ...]:
    return (
        escape(name),
        number(consumer.watermark),
        number(consumer.lag_records),
        size(consumer.lag_bytes),
        age(consumer.oldest_age_seconds),
        number(consumer.in_flight),
        rate(handled),
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others])
