"""`run sim`: power fails, or the process is killed, at every operation of a simulated disk.

The shares, the most telling first: all sequences of up to three operations on a log that has a little of everything;
the same with a sync that fails; the named workloads; then random longer ones, without end. No share crashes a step that
another one crashes already: a sequence only those of its last operation. What a disk may keep says
`seglog.testing.CrashDisk`, who judges it `life` and `history`. Places are those of `power_loss`.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import seglog
from seglog.testing import CrashDisk, Operation
from tools.crashtest.campaign import Finding, Tally
from tools.crashtest.history import Broken
from tools.crashtest.life import Life
from tools.crashtest.power_loss import Crashes, Start, Workload
from tools.crashtest.workloads import NEVER, WORKLOADS, ZSTD, noise, text

MAIN = "uploader"  # the consumer that works
SPOIL = ("zeros", "stale")
VARIANTS: dict[str, dict[str, Any]] = {"always": {}, "never": NEVER, "zstd": ZSTD}
NAME_PARTS = {"named": 1, "ops": 2, "random": 2, "fails": 3}  # how many parts of a place name the workload
RANDOM_OPERATIONS = range(5, 13)
RANDOM_STEPS = 24  # that are crashed, of a random workload

# What must not leave an operation whose sync failed is any other error.
EXPECTED_ERRORS = (seglog.StorageError, seglog.DeadLetterWriteFailed)


def stocked(**options: Any) -> Start:
    """A log with three segments, records nobody has acked in each, a failed message, a dead letter, two consumers.

    One more ack, and compaction has something to give back.
    """
    disk = CrashDisk()
    life = Life(disk, 7, **options)
    life.register(MAIN)
    life.register("archive")
    for number in range(5):
        life.append(text(number, 1400))
    life.sync()
    life.reject(MAIN, 0)
    life.ack("archive", 0, 1, 3)
    life.nack(MAIN)
    life.close()
    end = len(disk.journal)
    return next(disk.images(end, rng=random.Random(0), subsets=0)), disk.marks(end)


# The operations. Each makes sense whatever came before: without a message, an ack acks nothing.


def _payload(life: Life, size: int) -> bytes:
    """One of its own; the disk's journal grows with every append."""
    number = len(life.disk.journal)
    return noise(number, size) if number % 3 == 0 else text(number, size)


def append(life: Life) -> None:
    life.append(_payload(life, 200))


def append_many(life: Life) -> None:
    life.append_many([_payload(life, 30), b"", _payload(life, 1100)])


def submit(life: Life) -> None:
    life.submit(_payload(life, 90))


def rotate(life: Life) -> None:
    """A record that fits no segment that has any."""
    life.append(_payload(life, 3900))


def _main(life: Life) -> str:
    if MAIN not in life.log.consumers():
        life.register(MAIN)
    return MAIN


def _next(life: Life) -> seglog.Message[bytes] | None:
    return next(iter(life.consumer(_main(life)).unacked()), None)


def ack(life: Life) -> None:
    message = _next(life)
    if message is not None:
        life.ack(MAIN, message.offset)


def nack(life: Life) -> None:
    consumer = life.consumer(_main(life))
    message = consumer.receive()
    if message is not None:
        consumer.nack(message)
        life.disk.mark(("failed", MAIN, message.offset))


def reject(life: Life) -> None:
    message = _next(life)
    if message is not None:
        life.reject(MAIN, message.offset)


def register(life: Life) -> None:
    life.register(f"new-{len(life.disk.journal)}")


def remove(life: Life) -> None:
    """The consumer that pins the most; what it alone pinned may go."""
    for name in sorted(life.log.consumers())[:1]:
        life.remove(name)


def replay(life: Life) -> None:
    for letter in itertools.islice(life.log.dead_letters, 1):
        assert letter.offset is not None
        life.replay_letter(letter.offset)


def delete(life: Life) -> None:
    for letter in itertools.islice(life.log.dead_letters, 1):
        assert letter.offset is not None
        life.delete_letters(letter.offset)


OPERATIONS: dict[str, Callable[[Life], object]] = {
    "append": append,
    "rotate": rotate,
    "ack": ack,
    "reject": reject,
    "compact": Life.compact,
    "kill": Life.kill,
    "reopen": Life.reopen,
    "many": append_many,
    "nack": nack,
    "purge": Life.purge,
    "repair": Life.repair,
    "replay": replay,
    "delete": delete,
    "submit": submit,
    "sync": Life.sync,
    "read": Life.read,
    "register": register,
    "remove": remove,
}


# The few that need much before they do anything are left out of the sequences of three.
COMMON = [name for name in OPERATIONS if name not in ("replay", "delete", "register", "remove")]


def perform(life: Life, names: Sequence[str]) -> None:
    """One operation after the other; where a sync fails, the log is opened anew, and the next one follows.

    The one that failed need not be of this operation: compaction by the way says nothing, and then the file refuses
    whoever comes next.
    """
    last = 0
    for name in names:
        try:
            OPERATIONS[name](life)
        except EXPECTED_ERRORS:
            if not any(operation.failed for operation in life.disk.journal[last:]):
                raise
            last = len(life.disk.journal)
            life.recover()


def in_sequence(life: Life, *, names: Sequence[str]) -> None:
    """Crashes begin behind the first step of the last one; what is before it, the shorter sequence crashes."""
    perform(life, names[:-1])
    begun = len(life.disk.journal)
    perform(life, names[-1:])
    life.first_step = min(begun + 1, len(life.disk.journal)) if names else 0


def all_of_it(life: Life, *, names: Sequence[str]) -> None:
    perform(life, names)


@cache
def _stocked(variant: str) -> Start:
    return stocked(**VARIANTS[variant])


def sequence(variant: str, names: Sequence[str], *, name: str) -> Workload:
    """A sequence of operations, crashed in its last one. Short ones are crashed the harder."""
    again = {0: 4, 1: 4, 2: 2}.get(len(names), 1)
    return Workload(
        name,
        partial(in_sequence, names=names),
        VARIANTS[variant],
        partial(_stocked, variant),
        again=again,
        third=0.25,
        subsets=2,
        spoil=SPOIL,
    )


def failing(variant: str, names: Sequence[str], *, name: str) -> Iterator[Workload]:
    """The same with each of its syncs failing in turn, crashed everywhere behind that."""
    whole = Workload(
        name,
        partial(all_of_it, names=names),
        VARIANTS[variant],
        partial(_stocked, variant),
        again=0,
        subsets=1,
        steps=12,
    )
    disk, _, _ = Crashes(whole).first_life()
    syncs = sum(operation.kind in ("sync", "datasync", "sync_directory") for operation in disk.journal)
    for number in range(syncs):
        yield replace(whole, name=f"{name}/{number}", fails=number)


def wandering(seed: int, number: int) -> Workload:
    """A longer sequence, by chance."""
    rng = random.Random(f"{seed} {number}")
    variant = rng.choice(list(VARIANTS))
    names = rng.choices(list(OPERATIONS), k=rng.choice(RANDOM_OPERATIONS))
    return Workload(
        f"random/{seed}/{number}",
        partial(all_of_it, names=names),
        VARIANTS[variant],
        partial(_stocked, variant),
        again=2,
        third=0.5,
        subsets=2,
        spoil=SPOIL,
        steps=RANDOM_STEPS,
    )


def sequences(length: int) -> Iterator[str]:
    """All of that length, far apart from each other at first, and the same each time."""
    every = ["+".join(names) for names in itertools.product(COMMON if length > 2 else OPERATIONS, repeat=length)]
    random.Random(length).shuffle(every)
    yield from every


class Simulation:
    """The layer. `ignore`: which syncs the disk lies about."""

    unit = "states"

    def __init__(self, ignore: Callable[[Operation], bool] | None = None) -> None:
        self._ignore = ignore

    def shares(self, seed: int) -> Iterator[str]:
        yield from (f"ops/{variant}/open" for variant in VARIANTS)
        for name in sequences(1):
            yield from (f"ops/{variant}/{name}" for variant in VARIANTS)
        yield from (f"fails/always/{name}" for name in sequences(1))
        yield from (f"named/{each.name}" for each in WORKLOADS)
        for name in sequences(2):
            yield from (f"ops/{variant}/{name}" for variant in VARIANTS)
        pairs, threes, numbers = sequences(2), sequences(3), itertools.count()
        for name in threes:
            yield f"ops/always/{name}"
            yield f"random/{seed}/{next(numbers)}"
            with contextlib.suppress(StopIteration):
                yield f"fails/always/{next(pairs)}"
        for variant in ("never", "zstd"):
            yield from (f"ops/{variant}/{name}" for name in sequences(3))
        yield from (f"random/{seed}/{number}" for number in numbers)

    def work(self, share: str) -> Tally:
        """All crashes of the workloads of a share; in each of them the first promise that is not kept ends it."""
        return self._done(workloads(share), "")

    def replay(self, place: str) -> Tally:
        kind, *rest = place.split("/")
        parts = NAME_PARTS[kind]
        share, name = "/".join([kind, *rest[: min(parts, 2)]]), "/".join([kind, *rest[:parts]])
        chosen = [each for each in workloads(share) if name in (share, each.name)]
        if not chosen or not all(number.isdigit() for number in rest[parts:]):
            raise LookupError(place)
        return self._done(chosen, place)

    def _done(self, chosen: Sequence[Workload], place: str) -> Tally:
        tally = Tally()
        for each in chosen:
            crashes = Crashes(each, ignore=self._ignore)
            try:
                crashes.run(place)
            except Broken as error:
                tally.findings.append(Finding(error.place or each.name, str(error)))
            tally.counts.update(crashes.counts)
        return tally

    def table(self, counts: Counter[str]) -> str:
        rows = ["states", "depth 1", "depth 2", "depth 3", "kills", "torn writes", "zeros", "stale"]
        return "\n".join(f"{counts[row]:>12,}  {row}" for row in rows)


def workloads(share: str) -> list[Workload]:
    """What a share stands for. Raises LookupError, ValueError if there is no such share."""
    kind, *rest = share.split("/")
    if kind == "named":
        (name,) = rest
        found = [each for each in WORKLOADS if each.name == name]
        return [replace(each, name=share, again=1, spoil=SPOIL, third=0.25) for each in found]
    first, second = rest
    if kind == "random":
        return [wandering(int(first), int(second))]
    names = [] if second == "open" else second.split("+")
    if first not in VARIANTS or not set(names) <= set(OPERATIONS) or kind not in NAME_PARTS:
        raise LookupError(share)
    return list(failing(first, names, name=share)) if kind == "fails" else [sequence(first, names, name=share)]


LAYER = Simulation()
