"""Small programs that use a log, each for one thing that must survive a crash (see `power_loss`)."""

from __future__ import annotations

import random
from typing import Any

from seglog.testing import CrashDisk
from tools.crashtest.life import Life
from tools.crashtest.power_loss import Start, Workload

ZSTD: dict[str, Any] = {"compression": "zstd"}
NEVER: dict[str, Any] = {"durability": "never"}
RETRIES: dict[str, Any] = {"consumes": {"max_attempts": 2, "lease": 10.0}}
DROPPING: dict[str, Any] = {"max_records": 4, "when_full": "drop_oldest"}
RETAINING: dict[str, Any] = {"retention_bytes": 2500, "retention_seconds": 100.0}
INTERVAL: dict[str, Any] = {"durability": "interval", "sync_interval": 3600.0}  # nothing but our own sync()
LETTERS: dict[str, Any] = {"dead_letter_bytes": 4096}  # so that each has a segment of its own


def text(number: int, size: int = 200) -> bytes:
    """A payload of its own, without any zero byte."""
    return (b"<%d>" % number * (size // 3 + 1))[:size]


def noise(number: int, size: int) -> bytes:
    """A payload of its own that does not compress."""
    return random.Random(number).randbytes(size)


def made(**options: Any) -> Start:
    """A log that was made and closed, so that a workload is not crashed in the creation once more."""
    disk = CrashDisk()
    Life(disk, 7, **options).log.close()
    return next(disk.images(len(disk.journal), rng=random.Random(0), subsets=0)), []


def creation(life: Life) -> None:
    life.append(text(0))
    life.close()


def one_append(life: Life) -> None:
    life.append(text(0))
    life.close()


def appends(life: Life) -> None:
    for number in range(6):
        life.append(text(number, 50 + 170 * number))
    life.close()


def appends_many(life: Life) -> None:
    life.append_many([text(0), text(1), text(2)])
    life.append(text(3))
    life.append_many([text(number, 600) for number in range(4, 8)])
    life.append_many([text(8, 20)])
    life.close()


def rotations(life: Life) -> None:
    for number in range(7):
        life.append(text(number, 1500))
    life.append_many([text(number, 1800) for number in range(7, 10)])  # more than a segment
    life.append(text(10))
    life.close()


def acks(life: Life) -> None:
    life.register("uploader")
    for number in range(4):
        life.append(text(number))
        life.ack("uploader", number)
    life.close()


def scattered_acks(life: Life) -> None:
    life.register("uploader")
    life.append_many([text(number) for number in range(8)])
    life.ack("uploader", 5)
    life.register("archive")
    life.ack("uploader", 1, 2)
    life.ack("archive", 0, 7)
    life.ack("uploader", 0)
    life.append(text(8))
    life.ack("archive", 3)
    life.ack("uploader", 3, 4, 6, 7, 8)
    life.close()


def compaction_at_rotation(life: Life) -> None:
    life.register("uploader")
    for number in range(9):
        offset = life.append(text(number, 1700))
        if number != 4:
            life.ack("uploader", offset)
    life.ack("uploader", 4)
    life.append(text(9, 1700))
    life.close()


def compaction(life: Life) -> None:
    for number in range(7):
        life.append(text(number, 1700))
    life.register("uploader")
    life.ack("uploader", 3, 4, 5)  # a whole segment in the middle
    life.compact()
    life.ack("uploader", 0, 1)
    life.compact()
    life.append(text(8, 1700))
    life.ack("uploader", 2)
    life.compact()
    life.close()


def reclaiming_many(life: Life) -> None:
    """Several segments go at once; any of them may come back."""
    for number in range(10):
        life.append(text(number, 1700))
    life.register("uploader")
    life.ack("uploader", *range(7))
    life.compact()
    life.ack("uploader", 7, 8, 9)
    life.compact()
    life.append(text(10))
    life.close()


def removed_consumers(life: Life) -> None:
    for number in range(5):
        life.append(text(number, 1700))
    life.register("slow")
    life.register("uploader")
    life.ack("uploader", 0, 1, 2, 3)
    life.remove("slow")
    life.compact()
    life.register("slow")
    life.ack("slow", 4)
    life.close()


def many_consumers(life: Life) -> None:
    """The register is longer than a sector."""
    for number in range(9):
        life.register(f"consumer-with-a-name-as-long-as-names-may-be-{number:019}")
    life.append(text(0))
    life.ack("consumer-with-a-name-as-long-as-names-may-be-" + "0" * 19, 0)
    life.close()


def reopening(life: Life) -> None:
    life.append(text(0))
    life.append(text(1))
    life.reopen()
    life.append(text(2, 900))
    life.reopen(segment_bytes=8192)
    life.reopen()
    life.append(text(3))
    life.close()


def killed_and_reopened(life: Life) -> None:
    """The process dies twice, in the middle of things; the machine goes on."""
    life.append(text(0))
    life.kill()
    life.append_many([text(1), text(2)])
    life.append(text(3, 3500))
    life.kill()
    life.append(text(4))
    life.close()


def compressed(life: Life) -> None:
    life.append_many([text(number, 3000) for number in range(6)])
    life.append_many([noise(6, 700), noise(7, 900)])
    life.append(text(8, 8000))
    life.append(noise(9, 2600))
    life.append_many([text(number, 500) for number in range(10, 14)])
    life.close()


def unsynced(life: Life) -> None:
    for number in range(3):
        life.append(text(number, 700))
    life.sync()
    life.append_many([text(3), text(4)])
    life.append(text(5, 1100))
    life.show()
    life.append(text(6, 3000))  # opens the next segment
    life.append(text(7))
    life.sync()
    life.append(text(8))
    life.close()


def zeros(life: Life) -> None:
    life.append(b"")
    life.append(bytes(1600))
    life.append_many([b"", bytes(700), b""])
    life.append(text(5, 300) + bytes(1024) + text(5, 300))
    life.append(bytes(1))
    life.append_many([bytes(512)] * 3)
    life.close()


def rejects(life: Life) -> None:
    life.register("uploader")
    life.append_many([text(number) for number in range(4)])
    life.reject("uploader", 1)
    life.ack("uploader", 0)
    life.reject("uploader", 2)
    life.close()


def retries(life: Life) -> None:
    """Messages fail: by a nack, by a lease that ends, for the last time."""
    life.register("uploader")
    life.append_many([text(number) for number in range(5)])
    life.nack("uploader")
    life.exhaust("uploader")
    life.expire("uploader")
    life.ack("uploader", 1)
    life.nack("uploader")
    life.reopen()
    life.exhaust("uploader")
    life.expire("uploader")
    life.ack("uploader", 4)
    life.close()


def deleted_letters(life: Life) -> None:
    """One, and then the rest; with a small cap each of them has a segment of its own."""
    _rejected(life, 3)
    life.delete_letters(1)
    life.purge_letters()
    life.reject("uploader", 3)
    life.close()


def replayed_letters(life: Life) -> None:
    _rejected(life, 2)
    life.replay_letter(1)
    life.append(text(20))
    life.close()


def _rejected(life: Life, count: int) -> None:
    life.register("uploader")
    life.register("archive")  # acks nothing: what is replayed stays
    life.append_many([text(number, 300) for number in range(4)])
    if not life.always:
        life.sync()
    for number in range(count):
        life.reject("uploader", number)


def interval_waiting(life: Life) -> None:
    """The thread that syncs does it; whoever must know waits for it."""
    life.reopen(sync_interval=0.001)
    for number in range(3):
        offset = life.append(text(number, 300))
        life.log.wait_durable(offset, timeout=30)
        life.disk.mark(("synced",))
    life.close()


def dropping(life: Life) -> None:
    """The oldest go, record by record; `meta` hears of it now and then, and the disk gets its space back."""
    life.register("uploader")
    for number in range(9):
        life.append(text(number, 900))
        life.clock.advance(0.07)
    life.ack("uploader", life.log.first_offset)
    life.append_many([text(9, 700), text(10, 700), text(11, 700)])
    life.close()


def dropping_unsynced(life: Life) -> None:
    """What is dropped lies close to what is not synced yet."""
    for number in range(6):
        life.append(text(number, 300))
        life.clock.advance(0.2)
    life.close()


def purging(life: Life) -> None:
    life.register("uploader")
    for number in range(5):
        life.append(text(number, 1700))
    life.purge()
    life.append(text(5))
    life.ack("uploader", 5)
    life.purge()
    life.append(text(6, 1700))
    life.append(text(7, 1700))
    life.purge()
    life.close()


def retaining(life: Life) -> None:
    """Segments stay for a while, first for want of a consumer, then for replay."""
    for number in range(4):
        life.let_go(life.log.next_offset - 2)
        life.append(text(number, 1700))
    life.register("uploader")
    for number in range(4, 7):
        offset = life.append(text(number, 1700))
        life.ack("uploader", offset)
    life.ack("uploader", 2, 3)
    life.clock.advance(101)
    life.compact()
    life.reopen(retention_bytes=0)
    life.compact()
    life.close()


def closing(life: Life) -> None:
    """Close markers, with something and with nothing before them."""
    life.reopen()
    life.append(text(0))
    life.reopen()
    life.append(text(1))
    life.close()


def killed_in_a_write() -> Start:
    """What a process leaves that was killed with a batch written and not synced: recovery has something to copy."""
    return _crashed(last=("write", 1), label="killed")


def torn_in_a_write() -> Start:
    """What is left of a batch when power fails in its write: recovery has something to cut."""
    return _crashed(last=("write", 1), label="first 3 of")


def killed_in_a_rotation() -> Start:
    """The next segment has its name, and the name is not durable."""
    return _crashed(last=("rename", 1), label="killed")


def killed_unsynced() -> Start:
    """A process that never syncs is killed; what it wrote was shown, and is in the page cache only."""
    return _crashed(last=("write", 1), label="killed", **NEVER)


def killed_with_a_few_unsynced() -> Start:
    """The same with several batches in one segment, of which a power cut may leave the first ones."""
    disk = made(**NEVER)[0].disk()
    life = Life(disk, 8, **NEVER)
    for number in range(3):
        life.append(text(number, 600))
    life.die()
    end = len(disk.journal)
    return next(image for image in disk.images(end, rng=random.Random(0)) if image.killed), disk.marks(end)


def _crashed(last: tuple[str, int], label: str, **options: Any) -> Start:
    """A log that was crashed right behind the last operation of this kind in `segments/`."""
    disk = made(**options)[0].disk()
    life = Life(disk, 8, **options)
    life.append(text(0))
    life.append_many([text(1), text(2, 2000)])
    life.append(text(3, 2900))
    kind, behind = last
    steps = [step for step, op in enumerate(disk.journal) if op.kind == kind and "/segments/" in op.path]
    step = steps[-1] + behind
    image = next(image for image in disk.images(step, rng=random.Random(0)) if label in image.label)
    life.die()
    return image, disk.marks(step)


def recovery(life: Life) -> None:
    """Opening recovers whatever was left; then a life as any other."""
    life.settle()
    life.append(text(20))
    life.close()


def recovery_of_unsynced(life: Life) -> None:
    life.settle()
    life.append(text(20))
    life.sync()
    life.close()


def recovery_with_more_care(life: Life) -> None:
    """Unsynced records, from a program that from now on syncs: what its recovery jumps over, no later one jumps over
    again, so the first of its two segments must remember it."""
    life.settle()
    life.append(text(20))
    life.close()


WORKLOADS = [
    Workload("creation", creation, path="srv/data/app/spool", at_least=410),
    Workload("one_append", one_append, start=made, every_again=True, at_least=620),
    Workload("appends", appends, start=made, at_least=430),
    Workload("appends_many", appends_many, start=made, at_least=330),
    Workload("rotations", rotations, start=made, again=1, subsets=2, at_least=1880),
    Workload("acks", acks, start=made, at_least=570),
    Workload("scattered_acks", scattered_acks, start=made, at_least=730),
    Workload("compaction_at_rotation", compaction_at_rotation, start=made, again=0, at_least=720),
    Workload("compaction", compaction, start=made, again=0, subsets=1, at_least=1160),
    Workload("reclaiming_many", reclaiming_many, start=made, again=0, subsets=1, at_least=1610),
    Workload("removed_consumers", removed_consumers, start=made, again=1, subsets=2, at_least=1880),
    Workload("many_consumers", many_consumers, start=made, again=1, at_least=790),
    Workload("reopening", reopening, start=made, at_least=390),
    Workload("killed_and_reopened", killed_and_reopened, start=made, at_least=720),
    Workload("compressed", compressed, ZSTD, start=made, at_least=1070),
    Workload("never", unsynced, NEVER, start=lambda: made(**NEVER), at_least=1680),
    Workload("interval", unsynced, INTERVAL, start=lambda: made(**INTERVAL), again=0, subsets=1, at_least=400),
    Workload("interval_waiting", interval_waiting, INTERVAL, start=lambda: made(**INTERVAL), at_least=230),
    Workload("zeros", zeros, start=made, at_least=620),
    Workload("rejects", rejects, start=made, at_least=1050),
    Workload("retries", retries, RETRIES, start=made, again=1, at_least=1150),
    Workload("dropping", dropping, DROPPING, start=made, again=1, at_least=1130),
    Workload(
        "dropping_unsynced", dropping_unsynced, NEVER | DROPPING, start=lambda: made(**NEVER), again=1, at_least=690
    ),
    Workload("purging", purging, start=made, again=1, at_least=1630),
    Workload("retaining", retaining, RETAINING, start=made, again=0, subsets=1, at_least=1070),
    Workload("deleted_letters", deleted_letters, start=made, again=0, subsets=1, at_least=430),
    Workload("reclaimed_letters", deleted_letters, LETTERS, start=made, again=1, subsets=2, at_least=1810),
    Workload("replayed_letters", replayed_letters, start=made, again=1, subsets=2, at_least=740),
    Workload(
        "replayed_unsynced", replayed_letters, NEVER, start=lambda: made(**NEVER), again=0, subsets=1, at_least=300
    ),
    Workload("closing", closing, start=made, at_least=230),
    Workload("recovery_of_a_copy", recovery, start=killed_in_a_write, at_least=1290),
    Workload("recovery_of_a_torn_tail", recovery, start=torn_in_a_write, every_again=True, at_least=1000),
    Workload("recovery_of_unsynced", recovery_of_unsynced, NEVER, start=killed_unsynced, at_least=1510),
    Workload(
        "recovery_with_more_care", recovery_with_more_care, start=killed_with_a_few_unsynced, again=6, at_least=1300
    ),
    Workload("recovery_in_a_rotation", recovery, start=killed_in_a_rotation, every_again=True, at_least=1220),
]


def workload(name: str) -> Workload:
    """The workload of that name."""
    return next(each for each in WORKLOADS if each.name == name)
