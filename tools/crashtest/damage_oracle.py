"""What must hold of any damaged directory: the universal oracle of the damage tests (promises P4, P6, P7, P8).

It opens the directory in every way there is, and compares with what had been put into it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.model import Gap, Message, OffsetRange, VerifyReport
from seglog.testing import ManualClock
from seglog.verify import verify
from tools.crashtest.images import ROOT, Image, disk_with, image_of
from tools.crashtest.subjects import START_NS, Subject

NEW = b"appended behind the damage"
LATER_NS = START_NS + 10**12  # what was delayed is due by then
LOSSES = ("damaged", "suspect", "missing")


@dataclass
class Seen:
    """What one way of reading gave."""

    records: dict[int, bytes] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    def take(self, messages: Iterable[Message[bytes]], subject: Subject) -> Seen:
        """In order, nothing twice, nothing that was never appended."""
        last = -1
        for message in messages:
            assert message.offset > last, f"offset {message.offset} came after {last}"
            last = message.offset
            known = subject.records.get(message.offset)
            assert known is not None, f"offset {message.offset} was never given out, read as {message.payload!r}"
            assert message.payload == known, f"offset {message.offset}: {message.payload!r}, appended as {known!r}"
            self.records[message.offset] = message.payload
        return self

    def told(self, subject: Subject) -> set[int]:
        """The subject's offsets that gaps call lost."""
        return _offsets((gap for gap in self.gaps if gap.reason in LOSSES), subject)


def _offsets(ranges: Iterable[Gap | OffsetRange], subject: Subject) -> set[int]:
    found = [(r.first_offset, r.last_offset) for r in ranges]
    return {offset for offset in subject.records for first, last in found if first <= offset <= last}


def named_by(report: VerifyReport, subject: Subject) -> set[int]:
    """The subject's offsets that verify calls damaged, suspect or missing."""
    damaged = [
        OffsetRange(d.first_offset, d.last_offset)
        for d in report.damage
        if d.first_offset is not None and d.last_offset is not None
    ]
    return _offsets((*damaged, *report.suspect, *report.missing), subject)


def unchanged(disk: MemoryDisk, image: Image) -> bool:
    """Not one byte, not one name is another than in the image."""
    return image_of(disk) == image


def verified(subject: Subject, image: Image) -> VerifyReport:
    """What verify says; it must not write."""
    disk = disk_with(image, boot_id=subject.boot_id)
    report = verify(ROOT, disk=disk)
    assert unchanged(disk, image), "verify wrote"
    return report


def read_only(subject: Subject, image: Image) -> Seen:
    """All that mode "r" reads; it must not write."""
    disk = disk_with(image, boot_id=subject.boot_id)
    seen = Seen()
    with seglog.open(ROOT, "r", disk=disk, clock=ManualClock(start_ns=LATER_NS)) as log:
        seen.take(log.read(on_gap=seen.gaps.append), subject)
    assert unchanged(disk, image), 'mode "r" wrote'
    return seen


@dataclass
class Used:
    """What an opening for writing, two consumers and an append behind the damage gave."""

    read: Seen
    consumed: Seen  # by "u", which may have been there before
    later: Seen  # by a consumer that is new
    letters: list[tuple[int, int]]  # first and last offset of each dead letter for damage
    kept: dict[int, bytes]  # id and payload of the other letters
    disk: MemoryDisk


def opened_and_used(subject: Subject, image: Image) -> Used:
    """Open for writing, read, consume twice, append; then open again and read it back."""
    disk = disk_with(image, boot_id=subject.boot_id)
    clock = ManualClock(start_ns=LATER_NS, seed=99)
    read, consumed, later = Seen(), Seen(), Seen()
    with seglog.open(ROOT, disk=disk, clock=clock, segment_bytes=4096) as log:
        read.take(log.read(on_gap=read.gaps.append), subject)
        consumer = log.consumer("u", on_gap=consumed.gaps.append)
        while messages := list(consumer.drain()):  # one by one, if they are doubtful
            assert not consumed.records.keys() & {message.offset for message in messages}, "delivered again"
            consumed.take(messages, subject)
            consumer.ack(*messages)
        later.take(log.consumer("late", on_gap=later.gaps.append).drain(), subject)
        new = log.append(NEW)
        assert new > max(subject.records, default=-1), f"offset {new} was given out before"
    with seglog.open(ROOT, disk=disk, clock=clock, segment_bytes=4096) as log:
        again = {message.offset: message.payload for message in log.read(on_gap=lambda _: None)}
        assert again == {**read.records, new: NEW}, "a second opening reads something else"
        again_consumed = [message.offset for message in log.consumer("u", on_gap=lambda _: None).drain()]
        assert again_consumed == [new], f"what was acked is delivered again: {again_consumed}"
        found = list(log.dead_letters)
    letters = [(letter.offset, letter.last_offset) for letter in found if letter.reason == "damaged"]
    kept = {letter.id: letter.payload for letter in found if letter.reason != "damaged"}
    return Used(read, consumed, later, letters, kept, disk)


def check(
    subject: Subject,
    image: Image,
    lost: Collection[int],
    *,
    hidden: Collection[int] = (),
    letters: Collection[int] | None = (),
    report: VerifyReport | None = None,
) -> VerifyReport:
    """Exactly `lost` does not read back, whichever way the log is read, and everybody says so.

    Args:
        subject: what the directory was.
        image: the damaged directory.
        lost: offsets that the damage costs.
        hidden: what nothing proves durable need not be visible before an opening for writing has judged it.
        letters: dead letters that the damage costs; None: it may be any, and deleted ones may be there again.
        report: what verify says, if that is known.
    """
    lost = set(lost)
    expected = {offset: payload for offset, payload in subject.records.items() if offset not in lost}
    report = report or verified(subject, image)
    assert named_by(report, subject) == lost, f"verify names {named_by(report, subject)}: {report}"
    assert report.records == len(expected), f"verify counts {report.records} records"
    seen = read_only(subject, image)
    if hidden:
        assert list(seen.records.items()) == list(expected.items())[: len(seen.records)], f'mode "r" reads {seen}'
        assert set(seen.records) >= set(expected) - set(hidden), f'mode "r" reads {sorted(seen.records)}'
    else:
        assert seen.records == expected, f'mode "r" reads {sorted(seen.records)}'
        untold = lost - seen.told(subject)
        # What lacks at the end: a reader takes the log for shorter, until an opening for writing has declared it.
        allowed = lost - set(range(max(expected, default=-1) + 1)) if report.missing else set[int]()
        assert untold <= allowed, f'mode "r" tells of {seen.gaps}'
    used = opened_and_used(subject, image)
    assert used.read.records == used.later.records == expected, f"read {used.read}, consumed {used.later}"
    assert used.read.told(subject) == used.later.told(subject) == lost, f"told of {used.read.gaps}, {used.later.gaps}"
    assert set(expected) - subject.acked <= set(used.consumed.records) <= set(expected), f"{used.consumed}"
    check_letters(subject, used, lost)
    if letters is None:
        assert all(subject.letters.get(id, payload) == payload for id, payload in used.kept.items()), f"{used.kept}"
    else:
        left = {id: payload for id, payload in subject.letters.items() if id not in letters}
        assert used.kept == left, f"dead letters {sorted(used.kept)}, lost {letters}"
    after = verify(ROOT, disk=used.disk)
    assert named_by(after, subject) == lost, f"after recovery verify names {named_by(after, subject)}: {after}"
    assert after.records == len(expected) + 1, f"after recovery verify counts {after.records} records"
    return report


def check_briefly(
    subject: Subject, image: Image, lost: Collection[int], report: VerifyReport | None = None
) -> VerifyReport:
    """The heart of `check`, for sweeps: what verify says, what is read and consumed after an opening for writing."""
    lost = set(lost)
    report = report or verified(subject, image)
    assert named_by(report, subject) == lost, f"verify names {named_by(report, subject)}: {report}"
    seen = Seen()
    disk = disk_with(image, boot_id=subject.boot_id)
    with seglog.open(ROOT, disk=disk, clock=ManualClock(start_ns=LATER_NS)) as log:
        seen.take(log.read(on_gap=seen.gaps.append), subject)
        consumed = Seen().take(log.consumer("u", on_gap=lambda _: None).drain(), subject)
    expected = subject.records.keys() - lost
    assert seen.records.keys() == expected, f"lost {lost}, read {seen}"
    assert expected - subject.acked <= consumed.records.keys() <= expected, f"{consumed}"
    assert report.records == len(expected), f"verify counts {report.records} records"
    assert seen.told(subject) == lost, f"told of {seen.gaps}"
    return report


def check_letters(subject: Subject, used: Used, lost: set[int]) -> None:
    """Two consumers met the same damage: each lost record that still has bytes is in exactly one dead letter."""
    kept = [offset for first, last in used.letters for offset in subject.records if first <= offset <= last]
    gone = _offsets((gap for gap in used.later.gaps if gap.reason == "missing"), subject)
    assert sorted(kept) == sorted(lost - gone), f"dead letters {used.letters}, lost {lost}"
