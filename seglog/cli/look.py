"""One look at a log from the outside: its figures at a moment, and what two moments say about its pace.

It opens the log anew each time and closes it again: a log that was removed and made anew is seen as it is now.
Takes no lock and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import seglog
from seglog.clock import Clock
from seglog.disk.local import LocalDisk
from seglog.format import layout
from seglog.model import LogStats
from seglog.tally import Letters, Tally
from seglog.view import View


class Look(NamedTuple):
    """What was seen. `segments`: first offsets, oldest first; `written`: bytes of all batches ever appended."""

    when: float
    log_id: str
    stats: LogStats
    letters: Letters
    segments: tuple[int, ...]
    written: int | None
    free_bytes: int


class Pace(NamedTuple):
    """Per second. None: not known."""

    records: float
    bytes: float | None
    handled: dict[str, float | None]


def look(directory: Path, tally: Tally, clock: Clock) -> Look:
    """Raises LogNotFound, and whatever else opening and looking raise."""
    with seglog.open(directory, mode="r") as log:
        when, stats = clock.monotonic(), log.stats()
        segments, written = _segments(directory)
        letters = tally.of(log, stats.dead_letters) or Letters({}, ())
        disk = os.statvfs(directory)
        return Look(when, log.id, stats, letters, segments, written, disk.f_bavail * disk.f_frsize)


def _segments(directory: Path) -> tuple[tuple[int, ...], int | None]:
    """Where each segment begins, and how many bytes were ever written: their sizes have space in them that is not."""
    disk = LocalDisk()
    root = disk.open(str(directory), create=False)
    with contextlib.closing(root):
        view = View.open(disk, root)
        if view is None:
            return (), None
        with contextlib.closing(view):
            written = None
            with contextlib.suppress(FileNotFoundError):  # reclaimed at this moment: the next look knows
                seen = view.seen()
                for name in view.catalog.names:
                    header = view.catalog.facts(name).header
                    if name.segment_id == seen.segment_id and header is not None:
                        written = header.bytes_before + seen.position - layout.DATA_START
            return tuple(name.base_offset for name in view.catalog.names), written


def pace(before: Look | None, now: Look) -> Pace | None:
    """What happened between two looks; None if they are not of the same log."""
    if before is None or before.log_id != now.log_id or now.when <= before.when:
        return None
    seconds = now.when - before.when
    known = before.written is not None and now.written is not None
    handled = {name: _handled(before, now, name) for name in now.stats.consumers}
    return Pace(
        records=max(0, now.stats.next_offset - before.stats.next_offset) / seconds,
        bytes=max(0, (now.written or 0) - (before.written or 0)) / seconds if known else None,
        handled={name: None if count is None else count / seconds for name, count in handled.items()},
    )


def _handled(before: Look, now: Look, name: str) -> int | None:
    """How many records a consumer handled in between, those above its watermark too; None if it stepped back."""
    if name not in before.stats.consumers:
        return None
    was, is_now = (each.stats.next_offset - each.stats.consumers[name].lag_records for each in (before, now))
    return is_now - was if is_now >= was else None
