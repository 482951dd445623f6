"""What is left of what was acknowledged. Reads only: neither the log nor the notes are changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import seglog
from seglog.crashtest.ack_log import Appended, Began, Handled, read_notes
from seglog.crashtest.place import Place, place_of
from seglog.crashtest.work import payload
from seglog.errors import LogNotFound, NotALog, SeglogError
from seglog.intervals import Intervals
from seglog.model import OffsetRange, VerifyReport


@dataclass(frozen=True)
class CheckReport:
    """What the disk, its file system and seglog kept.

    Attributes:
        ok: nothing that was acknowledged is lost, and verify finds nothing.
        disk_lied: something that was acknowledged, after its sync had returned, is not there.
        acknowledged: records; `reclaimed` of them were given back since, after all consumers had acked them.
        starts: how often the program began to write.
        lost: offsets of acknowledged records that are not there, or not as they were appended.
        forgotten_acks: offsets that are given out again although their acks were acknowledged, by consumer.
        reused: offsets that were acknowledged twice, for different records.
        torn_tail_bytes: of appends that the power cut interrupted: never acknowledged.
        verify_ok, damaged, missing, suspect: what `seglog verify` says; the ranges counted.
        unreadable_notes: lines of the ack log that do not read back; they prove nothing. One, cut short, is the rule.
    """

    ok: bool
    disk_lied: bool
    acknowledged: int
    reclaimed: int
    starts: int
    lost: tuple[OffsetRange, ...]
    forgotten_acks: dict[str, int]
    reused: tuple[OffsetRange, ...]
    torn_tail_bytes: int
    verify_ok: bool
    damaged: int
    missing: int
    suspect: int
    unreadable_notes: int
    place: Place


@dataclass
class _Noted:
    """The sum of the notes."""

    acknowledged: int = 0
    starts: int = 0
    unreadable: int = 0
    end: int = 0
    names: dict[int, tuple[str, int]] = field(default_factory=dict)  # by offset, as far as the log still has it
    handled: Counter[str] = field(default_factory=Counter)
    reused: Intervals = field(default_factory=Intervals)
    log_ids: set[str] = field(default_factory=set)


def check(directory: Path, notes: Path, progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Compare. Raises OSError if there are no notes, LogNotFound if there is no log and they speak of none,
    SeglogError if they speak of another one."""
    place = place_of(directory)
    report: VerifyReport | None
    try:
        report = seglog.verify(directory, progress=progress)
        with seglog.open(directory, "r") as log:
            noted = _noted(notes, _given_back(log))  # before the log is read, so that a living writer does no harm
            if noted.log_ids and log.id not in noted.log_ids:
                raise SeglogError(f"{notes} is about another log than {directory}")
            lost = _lost(log, noted.names)
            reached = {name: consumer.watermark for name, consumer in log.consumers().items()}
    except (LogNotFound, NotALog):
        noted = _noted(notes, 0)
        if not noted.acknowledged:
            raise
        report, reached = None, {}
        lost = Intervals((offset, offset + 1) for offset in sorted(noted.names))
    forgotten = +Counter({name: mark - reached.get(name, 0) for name, mark in noted.handled.items()})
    lied = bool(lost or forgotten or noted.reused)
    return CheckReport(
        ok=not lied and report is not None and report.ok,
        disk_lied=lied,
        acknowledged=noted.acknowledged,
        reclaimed=noted.acknowledged - len(noted.names),
        starts=noted.starts,
        lost=_ranges(lost),
        forgotten_acks=dict(forgotten),
        reused=_ranges(noted.reused),
        torn_tail_bytes=0 if report is None else report.torn_tail_bytes,
        verify_ok=report is not None and report.ok,
        damaged=0 if report is None else len(report.damage),
        missing=0 if report is None else len(report.missing),
        suspect=0 if report is None else len(report.suspect),
        unreadable_notes=noted.unreadable,
        place=place,
    )


def _given_back(log: seglog.Log[bytes]) -> int:
    """The log may lack what is below: no further than its consumers have passed it."""
    return min([log.first_offset, *(consumer.watermark for consumer in log.consumers().values())])


def _lost(log: seglog.Log[bytes], names: dict[int, tuple[str, int]]) -> Intervals:
    """Offsets of these records that do not read as they were appended."""
    left, lost = dict(names), Intervals()
    for message in log.read(on_gap=lambda gap: None):
        name = left.pop(message.offset, None)
        if name is not None and message.payload != payload(*name):
            lost.add(message.offset, message.offset + 1)
    first = _given_back(log)
    for offset in left:
        if offset >= first:
            lost.add(offset, offset + 1)
    return lost


def _ranges(found: Intervals) -> tuple[OffsetRange, ...]:
    return tuple(OffsetRange(first, stop - 1) for first, stop in found)


def _noted(path: Path, first_offset: int) -> _Noted:
    found = _Noted()
    for note in read_notes(path):
        match note:
            case None:
                found.unreadable += 1
            case Began():
                found.starts += 1
                found.log_ids.add(note.log_id)
            case Handled():
                found.handled[note.consumer] = max(found.handled[note.consumer], note.watermark)
            case Appended():
                if note.offset < found.end:  # offsets only ever go up
                    found.reused.add(note.offset, min(note.stop, found.end))
                found.end = max(found.end, note.stop)
                found.acknowledged += note.count
                for number in range(max(note.offset, first_offset) - note.offset, note.count):
                    found.names[note.offset + number] = note.run, note.first + number
    return found
