"""A damaged log is repaired, and power fails in the middle: the next repair ends where the first one would have.

Each scene takes `ignore`, which makes its disk lie about some syncs, and raises Broken if a promise is not kept.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import seglog
from seglog.disk.base import Disk, File
from seglog.model import RepairAction
from seglog.quarantine import Quarantine
from seglog.repair import repair
from seglog.testing import CrashDisk, Image, ManualClock, Operation
from seglog.verify import verify
from tests.support.evidence import holds, kept
from tools.crashtest.history import Broken, demand
from tools.crashtest.life import PATH, Life
from tools.crashtest.workloads import made, text

Ignore = Callable[[Operation], bool]
DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
FIRST = "segments/00000000000000000000-00000000.seg"
SECOND = f"segments/{2:020d}-00000001.seg"
RECORDS = {number: text(number, 1700) for number in range(7)}
LOST = (1, 2, 3)  # 1 by its bytes, 2 and 3 with their segment
CURSOR = "cursors/uploader.cursor"


def overwrite(disk: Disk, path: str, name: str, position: int, data: bytes) -> bytes:
    """Other bytes, durably; what was there."""
    file = _open(disk, path, name)
    before = file.read(position, len(data))
    file.write(position, data)
    file.sync()
    file.close()
    return before


def _open(disk: Disk, path: str, name: str) -> File:
    *parents, last = name.split("/")
    return disk.open("/".join([path, *parents]), create=False).open(last, write=True)


def damaged() -> Image:
    """A log with a rotten record, a lost segment, a bad spare, and a consumer whose cursor does not read back."""
    life = Life(made()[0].disk(), 7)
    for payload in RECORDS.values():
        life.append(payload)
    life.log.consumer("uploader").close()
    life.close()
    disk = life.disk
    file = _open(disk, PATH, FIRST)
    at = file.read(0, file.size()).index(RECORDS[1])
    file.close()
    overwrite(disk, PATH, FIRST, at + 100, b"rotten")
    overwrite(disk, PATH, FIRST, 4096, bytes(64))
    overwrite(disk, PATH, CURSOR, 0, bytes(2 * 176128))
    segments = disk.open(f"{PATH}/segments", create=False)
    segments.unlink(SECOND.removeprefix("segments/"))
    segments.sync()
    return next(lost_power(disk))


def lost_power(disk: CrashDisk, step: int | None = None) -> Iterator[Image]:
    step = len(disk.journal) if step is None else step
    return (image for image in disk.images(step, rng=random.Random(step), subsets=1) if not image.killed)


def repaired(disk: Disk, seed: int) -> seglog.RepairReport:
    return repair(PATH, disk=disk, clock=ManualClock(seed=seed))


def check_unfinished(disk: CrashDisk) -> None:
    """After a crash: what is declared has its evidence and its letter; what is not, is a finding still."""
    report = verify(PATH, disk=disk)
    declared = {offset for found in report.repaired for offset in range(found.first_offset, found.last_offset + 1)}
    demand(declared in (set(), set(LOST)), "half declared:", report)
    demand(report.acknowledged_loss is (not declared), "neither lost nor declared:", report)
    found = kept(disk, PATH)
    if declared:
        _check_evidence(disk)
    copy = overwritten(disk)
    demand(holds(found, FIRST, bytes(64)) or not copy, "a spare was written, and nobody kept what was there")


def overwritten(disk: Disk) -> bool:
    """Whether the spare that was bad is another one by now."""
    file = _open(disk, PATH, FIRST)
    try:
        return bool(file.read(4096, 64) != bytes(64))
    finally:
        file.close()


def _check_evidence(disk: CrashDisk) -> None:
    found = kept(disk, PATH)
    demand(holds(found, FIRST, b"rotten"), "declared lost, and the bytes are not kept:", found)
    demand(holds(found, CURSOR, bytes(176128)), "made anew, and the old cursor is not kept")
    view = seglog.open(PATH, "r", disk=disk, clock=ManualClock())
    letters = [(letter.offset, letter.last_offset, letter.reason) for letter in view.dead_letters]
    view.close()
    demand(letters == [(1, 1, "damaged")], "not exactly one dead letter:", letters)


def check_finished(disk: CrashDisk, label: str) -> None:
    """After a repair that returned: as if no crash had ever been."""
    report = verify(PATH, disk=disk)
    demand(report.ok and not report.acknowledged_loss, "repaired, and verify says:", report, label)
    declared = {offset for found in report.repaired for offset in range(found.first_offset, found.last_offset + 1)}
    demand(declared == set(LOST), "declared:", report.repaired, label)
    _check_evidence(disk)
    log = seglog.open(PATH, disk=disk, clock=ManualClock(seed=90), segment_bytes=4096)
    try:
        with log.consumer("uploader", on_gap=lambda gap: None) as consumer:
            there = {message.offset: message.payload for message in consumer.drain()}
        demand(there == {o: p for o, p in RECORDS.items() if o not in LOST}, "not all that is intact:", list(there))
        demand(len(log.dead_letters) == 1, "diverted again")
        demand(log.append(b"on") >= len(RECORDS), "an offset was given out again")
    finally:
        log.close()


def crash_everywhere(ignore: Ignore, every: int = 1) -> int:
    """Repair, crash after each operation, repair again; how many states there were."""
    disk = damaged().disk(ignore=ignore)
    demand(repaired(disk, 1).ok, "not repaired")
    seen: set[bytes] = set()
    for step in range(0, len(disk.journal) + 1, every):
        for image in disk.images(step, rng=random.Random(step), subsets=1):
            if image.digest in seen:
                continue
            seen.add(image.digest)
            try:
                again = image.disk()
                check_unfinished(again)
                demand(repaired(again, 2).ok, "not repaired by the second one")
                for twice in _some(again) if len(seen) % 4 == 0 else ():
                    check_unfinished(twice)
                    demand(repaired(twice, 3).ok, "not repaired by the third one")
                    check_finished(twice, f"{image.label}, twice")
                check_finished(again, image.label)
            except Broken:
                raise
            except Exception as error:
                raise Broken(f"{type(error).__name__}: {error} after {image.label}") from error
    return len(seen)


def _some(disk: CrashDisk) -> Iterator[CrashDisk]:
    """The second repair may be cut short, too."""
    chance = random.Random(len(disk.journal))
    for _ in range(2 * DEEP):
        step = chance.randrange(len(disk.journal) + 1)
        yield chance.choice(list(disk.images(step, rng=chance, subsets=1))).disk()


def a_repair_is_cut_short(ignore: Ignore) -> None:
    crash_everywhere(ignore, every=3)


def killed_and_then_the_power_fails(ignore: Ignore) -> None:
    """Row 17: what the second repair finds done stands in the page cache only, until it makes it durable itself."""
    disk = damaged().disk()
    repaired(disk, 1)
    for step in range(len(disk.journal) + 1):
        image = next(image for image in disk.images(step, rng=random.Random(0), subsets=0) if image.killed)
        again = image.disk(ignore=ignore)
        repaired(again, 2)
        for left in lost_power(again):
            try:
                check_finished(left.disk(), f"{image.label}, then {left.label}")
            except (AssertionError, ValueError, seglog.SeglogError) as error:
                raise Broken(f"{error} after {image.label}, then {left.label}") from error


def a_repair_stays(ignore: Ignore) -> None:
    """What was reported as done is durable."""
    disk = damaged().disk(ignore=ignore)
    repaired(disk, 1)
    for image in lost_power(disk):
        try:
            check_finished(image.disk(), image.label)
        except (AssertionError, ValueError, seglog.SeglogError) as error:
            raise Broken(f"{error} after {image.label}") from error


def what_is_kept_stays(ignore: Ignore) -> None:
    """Evidence is durable when `keep` returns, whatever comes after it."""
    disk = damaged().disk(ignore=ignore)
    root = disk.open(PATH, create=False)
    action = RepairAction(FIRST, 8192, 4096, 0, 1, "test", "divert")
    demand(Quarantine(root, ManualClock()).keep([action]) is not None, "nothing was kept")
    for image in lost_power(disk):
        demand(len(kept(image.disk(), PATH)) == 1, "kept, and gone:", image.label)


def damage_among_the_dead_letters(ignore: Ignore) -> None:
    """Only `dead/` is opened for writing; the evidence is kept beside it."""
    life = Life(made()[0].disk(), 7)
    life.append(text(0))
    consumer = life.log.consumer("uploader")
    consumer.reject(0, reason="test")
    life.close()
    name = "dead/" + FIRST
    file = _open(life.disk, PATH, name)
    at = file.read(0, file.size()).index(text(0))
    file.close()
    overwrite(life.disk, PATH, name, at, b"rotten")
    disk = next(lost_power(life.disk)).disk(ignore=ignore)
    demand(bool(verify(PATH, disk=disk).warnings), "nothing is said of it")
    repaired(disk, 1)
    for image in lost_power(disk):
        again = image.disk()
        demand(not verify(PATH, disk=again).warnings, "still said:", verify(PATH, disk=again).warnings)
        demand(holds(kept(again, PATH), name, b"rotten"), "declared, and not kept:", image.label)
