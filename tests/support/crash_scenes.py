"""Scenes for what whole workloads do not reach: each sets up one moment, crashes there, and demands one promise.

Every scene takes `ignore`, which makes its disk lie about some syncs, and raises Broken if the promise is not kept.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import seglog
from seglog import segment_writer
from seglog.testing import CrashDisk, Fault, FaultDisk, Image, ManualClock, Operation
from seglog.testing.crash_disk import CrashDirectory
from seglog.verify import verify
from tools.crashtest.history import demand
from tools.crashtest.life import PATH, Life
from tools.crashtest.power_loss import Crashes, Start, Workload
from tools.crashtest.workloads import NEVER, made, text

Ignore = Callable[[Operation], bool]
Scene = Callable[[Ignore], None]


class Killed(BaseException):
    """The process dies here."""


def crashes(workload: Workload, *, last: int | None = None, again: bool = False) -> Scene:
    """A workload as a scene, crashed in all steps or the last few, once or also in the life after."""
    each = workload if again else replace(workload, again=0, every_again=False)

    def scene(ignore: Ignore) -> None:
        Crashes(each, ignore=ignore).run("", last=last)

    scene.__name__ = workload.name
    return scene


def lost_power(disk: CrashDisk, step: int | None = None) -> Iterator[Image]:
    """All that a power cut may leave, at the end of the journal or at a step."""
    step = len(disk.journal) if step is None else step
    return (image for image in disk.images(step, rng=random.Random(step)) if not image.killed)


def killed(disk: CrashDisk, step: int) -> Image:
    return next(image for image in disk.images(step, rng=random.Random(step), subsets=0) if image.killed)


def step_of(disk: CrashDisk, kind: str, end: str, nth: int = -1) -> int:
    """The step right behind the n-th operation of a kind on a path that ends so."""
    steps = [step for step, op in enumerate(disk.journal, 1) if op.kind == kind and op.path.endswith(end)]
    return steps[nth]


def reopened(image: Image, seed: int, ignore: Ignore | None = None, **options: Any) -> Life:
    return Life(image.disk(ignore=ignore), seed, **options)


def recovery_reads_little(ignore: Ignore) -> None:
    """P10: after a power cut not the whole last segment is walked, but what lies behind the last durable hint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_writer, "HINT_EVERY_BYTES", 256 * 1024)
        life = reopened(made(segment_bytes=1 << 24)[0], 0, ignore, segment_bytes=1 << 24)
        for number in range(150):
            life.append(text(number, 32 * 1024))
        life.die()
    without_hint = next(lost_power(life.disk))
    watched = FaultDisk(without_hint.disk())
    seglog.open(PATH, disk=watched, clock=ManualClock(seed=1), segment_bytes=1 << 24).close()
    reads = sum(name.endswith("00.seg") for call, name in watched.calls if call == "read")
    demand(reads <= 40, "the whole segment was walked:", reads, "reads")


def a_sync_proves(ignore: Ignore) -> None:
    """P7: what an explicit sync() covered is never called torn or suspect: if it rots, it is damage."""
    life = reopened(made(**NEVER)[0], 0, ignore, **NEVER)
    life.append(text(0))
    life.append(text(1))
    life.log.sync()
    life.die()
    for image in lost_power(life.disk):
        disk = image.disk()
        file = disk.open(f"{PATH}/segments", create=False).open("00000000000000000000-00000000.seg", write=True)
        at = file.read(0, file.size()).index(text(1)[:50])
        file.write(at, b"rot")
        file.close()
        report = verify(PATH, disk=disk)
        lost = [(damage.first_offset, damage.last_offset) for damage in report.damage]
        demand(lost == [(1, 1)] and not report.suspect, "not called damage:", report)


def a_clean_end_is_durable(ignore: Ignore) -> None:
    """A log that was closed is clean after a power cut, and goes on in the same segment."""
    life = reopened(made()[0], 0, ignore)
    life.append(text(0))
    life.close()
    for image in lost_power(life.disk):
        later = reopened(image, 1)
        clean = later.log.report.clean
        later.die()
        demand(clean, "closed, and not clean:", image.label)


def a_clean_end_blames_nobody(ignore: Ignore) -> None:
    """A message that was given back by a clean end has not failed, whatever a power cut makes of the note of it."""
    life = reopened(made()[0], 0, ignore)
    life.append(text(0))
    life.register("uploader")
    life.consumer("uploader").receive()
    life.append(text(1))
    life.ack("uploader", 1)  # the note of the delivery is on the disk by now
    life.close()
    for image in lost_power(life.disk):
        later = reopened(image, 1)
        message = later.consumer("uploader").receive()
        later.die()
        demand(message is not None and message.attempts == 1, "blamed:", message, image.label)


def the_start_never_goes_back(ignore: Ignore) -> None:
    """Row 15: a start that was shown stays, though the compaction that moved it was killed before its sync."""
    life = reopened(made()[0], 0)
    for number in range(6):
        life.append(text(number, 1700))
    life.register("uploader")
    life.ack("uploader", 0, 1, 2, 3)
    life.compact()
    life.die()
    later = reopened(killed(life.disk, step_of(life.disk, "write", "spool/meta", -2)), 1, ignore)
    shown = later.log.first_offset
    later.die()
    demand(shown > 0, "the compaction was not seen")
    for image in lost_power(later.disk):
        last = reopened(image, 2)
        start = last.log.first_offset
        last.die()
        demand(start >= shown, "the start went back and is lost:", start, shown)


def compacted_while_the_writer_rotates(ignore: Ignore) -> None:
    """Another process compacts between the rename and the directory sync of a rotation; then power fails."""
    disk = CrashDisk(ignore=ignore)
    log = seglog.open(PATH, disk=disk, segment_bytes=4096, clock=ManualClock())
    consumer = log.consumer("uploader")
    for number in range(4):
        log.append(text(number, 900))
    consumer.ack(*range(4))
    other = seglog.open(PATH, mode="r", disk=disk, clock=ManualClock(seed=1))
    other.compact()
    before = len(disk.journal)
    removed: list[int] = []
    sync = CrashDirectory.sync

    def between(self: CrashDirectory) -> None:
        if not removed and self.path.endswith("segments") and self.list()[-1].startswith(f"{4:020d}"):
            removed.append(0)
            removed.append(other.compact().removed_segments)
        sync(self)

    try:
        CrashDirectory.sync = between  # type: ignore[method-assign]
        log.append(text(4, 900))
        demand(removed == [0, 1], "the other process did not compact in between:", removed)
        for step in range(before, len(disk.journal) + 1):
            for image in lost_power(disk, step):
                report = verify(PATH, disk=image.disk())
                demand(report.ok, "all was acked, and verify says:", report.missing, report.damage, image.label)
    finally:
        CrashDirectory.sync = sync  # type: ignore[method-assign]
        other.close()
        log.close()


def registered_by_a_process_that_died(ignore: Ignore) -> None:
    """Row 17: another process registers the consumer and is killed before its sync; we find it, ack, and lose power."""

    def run(life: Life) -> None:
        life.append_many([text(0), text(1)])
        dying = FaultDisk(life.disk)
        other = seglog.open(PATH, mode="r", disk=dying, clock=ManualClock(seed=5))
        fault = Fault(nth=2, error=Killed(), after=True)  # the first write is what it read, once more
        dying.arm(fault, match=lambda call, name: (call, name) == ("write", "meta"))
        life.disk.mark(("register", "uploader"))
        with pytest.raises(Killed):
            other.consumer("uploader")
        other._after_fork()
        life.register("uploader")
        life.ack("uploader", 0)
        life.die()

    Crashes(Workload("registered_elsewhere", run, start=made, again=0), ignore=ignore).run("", last=3)


def an_ack_in_the_page_cache(ignore: Ignore) -> None:
    """Row 17: killed in an ack; the next one must not be torn together with it. The slots are longer than a sector."""
    life = reopened(made()[0], 0)
    life.append_many([text(number, 20) for number in range(99)])
    life.register("uploader")
    life.ack("uploader", *range(1, 98, 2))
    life.ack("uploader", 98)
    step = step_of(life.disk, "write", ".cursor")
    life.die()
    image, marks = killed(life.disk, step), life.disk.marks(step)

    def run(later: Life) -> None:
        later.ack("uploader", 60)
        later.die()

    Crashes(Workload("ack_in_cache", run, start=lambda: (image, marks), again=0), ignore=ignore).run("")


def what_was_given_back_stays_away(ignore: Ignore) -> None:
    """Compaction is durable on return."""
    life = reopened(made()[0], 0, ignore)
    for number in range(6):
        life.append(text(number, 1700))
    life.register("uploader")
    life.ack("uploader", 0, 1, 2, 3)
    life.compact()
    left = life.disk.open(f"{PATH}/segments", create=False).list()
    life.die()
    for image in lost_power(life.disk):
        back = set(image.disk().open(f"{PATH}/segments", create=False).list()) - set(left)
        demand(not back, "reclaimed, and back:", back)


def a_removed_cursor_stays_away(ignore: Ignore) -> None:
    """A stray cursor file counts as a consumer while a slot of `meta` is bad, so it must not come back."""
    life = reopened(made()[0], 0, ignore)
    life.register("uploader")
    life.remove("uploader")
    life.die()
    for image in lost_power(life.disk):
        names = image.disk().open(f"{PATH}/cursors", create=False).list()
        demand("uploader.cursor" not in names, "removed, and back:", names)


def _with_a_bad_cursor() -> Image:
    """A log with a consumer whose cursor file does not read back; all of it durable."""
    life = reopened(made()[0], 0)
    life.append(text(0))
    life.register("uploader")
    life.close()
    file = life.disk.open(f"{PATH}/cursors", create=False).open("uploader.cursor", write=True)
    file.write(0, bytes(file.size()))
    file.sync()
    return next(lost_power(life.disk))


def _acks_stay(life: Life, image: Image) -> None:
    later = reopened(image, 9)
    again = [message.offset for message in later.log.consumer("uploader").unacked()]
    later.die()
    demand(0 not in again, "acked after the cursor was made anew, and given out again:", image.label)


def a_new_cursor_for_a_bad_one(ignore: Ignore) -> None:
    """A cursor that is made anew has a durable name before an ack is answered."""
    life = reopened(_with_a_bad_cursor(), 1, ignore)
    life.log.consumer("uploader").ack(0)
    life.die()
    for image in lost_power(life.disk):
        _acks_stay(life, image)


def a_new_cursor_by_a_process_that_died(ignore: Ignore) -> None:
    """Row 17: as before, but the process is killed before it synced the name, and the next one goes on."""
    life = reopened(_with_a_bad_cursor(), 1)
    life.log.consumer("uploader")
    life.die()
    later = reopened(killed(life.disk, step_of(life.disk, "rename", ".cursor.tmp")), 2, ignore)
    later.log.consumer("uploader").ack(0)
    later.die()
    for image in lost_power(later.disk):
        _acks_stay(later, image)


def meta_is_lost() -> Start:
    """A log with records, whose `meta` does not read back; all of it durable."""
    life = reopened(made()[0], 7)
    for number in range(6):
        life.append(text(number, 1700))
    life.close()
    file = life.disk.open(PATH, create=False).open("meta", write=True)
    file.write(0, bytes(file.size()))
    file.sync()
    return next(lost_power(life.disk)), life.disk.marks(len(life.disk.journal))


def killed_while_meta_is_rebuilt() -> Start:
    """`meta` was made anew and has its name, and the name is not durable."""
    image, marks = meta_is_lost()
    life = reopened(image, 8)
    life.die()
    return killed(life.disk, step_of(life.disk, "rename", "spool/meta.tmp")), marks


def reclaim_the_middle(life: Life) -> None:
    """Only `meta` knows afterwards that what is gone was not lost."""
    life.register("uploader")
    life.ack("uploader", 2, 3)
    life.compact()
    life.die()


def failing_write(life: Life) -> None:
    """A write fails half-way, a shorter one follows: the rest of the first must not come back behind it."""
    faults = FaultDisk(life.disk)
    life.kill(through=faults)
    life.append(text(0))
    fault = Fault(error=errno.ENOSPC, written=lambda length: length - 8)
    faults.arm(fault, match=lambda call, name: call == "write" and name.endswith(".seg"))
    life.disk.mark(("submit", (text(1, 2000),)))
    with pytest.raises(seglog.DiskFull):
        life.log.append(text(1, 2000))
    life.disk.mark(("refused",))
    faults.arm(None)
    life.append(text(2, 500))
    life.die()


def _records(life: Life) -> list[tuple[int, bytes]]:
    return [(m.offset, m.payload) for m in life.log.read(on_gap=lambda _: None)]


def suspect_in_the_page_cache(ignore: Ignore) -> None:
    """Row 17: the run before suspect bytes is kept where it is; what was read of it must be on the disk."""
    life = reopened(made(**NEVER)[0], 0, **NEVER)
    life.append(text(0))
    life.append(text(1))
    life.append(text(2))
    life.append(text(3))
    life.die()
    disk = killed(life.disk, len(life.disk.journal)).disk(ignore=ignore)
    file = disk.open(f"{PATH}/segments", create=False).open("00000000000000000000-00000000.seg", write=True)
    file.write(file.read(0, file.size()).index(text(3)[:50]), b"rot")
    file.close()
    later = Life(disk, 1, **NEVER)
    shown = _records(later)
    later.die()
    for image in lost_power(disk):
        last = reopened(image, 2, **NEVER)
        records = _records(last)
        last.die()
        demand(set(shown) <= set(records), "shown and lost:", shown, records)


def _with_a_rotten_end() -> Image:
    """Two records that were acknowledged; a sector of the second turned to zeros, as if it had never been written."""
    life = reopened(made()[0], 0)
    life.append(text(0))
    life.append(text(1, 2000))
    life.die()
    image = next(lost_power(life.disk))  # without the hint: nothing proves either of them
    disk = image.disk()
    file = disk.open(f"{PATH}/segments", create=False).open("00000000000000000000-00000000.seg", write=True)
    file.write(9216, bytes(512))
    file.sync()
    file.close()
    return next(lost_power(disk))


def rot_frees_no_offsets(ignore: Ignore) -> None:
    """P4: what was acknowledged and reads torn is lost, and its offset stays its own."""
    life = reopened(_with_a_rotten_end(), 1, ignore)
    offset = life.log.next_offset
    life.die()
    demand(offset >= 2, "given out again:", offset)


def a_jump_survives_a_crash_before_it(ignore: Ignore) -> None:
    """P4: offsets that were shown and lost with the page cache; recovery copies the rest, jumps, and is cut short."""
    life = reopened(made(**NEVER)[0], 0, **NEVER)
    life.append(text(0))
    life.append(text(1, 2000))
    life.die()
    jumped = 0
    for image in lost_power(life.disk):
        later = reopened(image, 1, ignore)  # from now on "always": what is there need not be suspected for ever
        half = len(_records(later)) == 1
        later.die()
        if not half:
            continue
        for step in range(len(later.disk.journal) + 1):
            for again in lost_power(later.disk, step):
                last = reopened(again, 2)
                offset = last.log.next_offset
                last.die()
                demand(offset >= 2, "given out again after a crash in the recovery:", offset, again.label)
        jumped += 1
        if jumped == 2:
            return
    demand(jumped > 0, "nothing was recovered")
