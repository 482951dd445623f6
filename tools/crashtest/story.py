"""A life on a disk that fails: whatever is refused, the program goes on as a careful one would, and is judged after it.

`Story` has the verbs of a `Life`. Each may raise a SeglogError, which is noted; anything else ends the trial. After
`LogFailed` or an interrupt nothing more is appended until the log was opened again, as that decides what is in; and
every such opening is judged, so that a second life does not hide what the first one lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from hashlib import blake2b
from itertools import islice
from typing import Any

import seglog
from seglog.disk.base import Disk
from seglog.disk.memory import Tree
from seglog.model import Gap
from seglog.testing import CrashDisk, Fault, FaultDisk, Image, ManualClock
from seglog.verify import verify
from tools.crashtest.history import Broken, Expected, demand
from tools.crashtest.life import Life, verified
from tools.crashtest.power_loss import Workload

IMAGES = 2  # how many states after a power cut, where a sync has failed
CUTS = 2  # at how many answers after that, beside the end
SYNCS = ("sync", "datasync", "sync_directory", "sync_parents")
_PATIENCE = 30.0  # seconds; a future that is not answered by then is never answered


class PlacedFaults(FaultDisk):
    """Knows where in the journal its syncs failed."""

    def __init__(self, disk: CrashDisk, fault: Fault | None = None, *, writes: bool = False) -> None:
        self.unsynced: int | None = None
        self._journal = disk.journal
        super().__init__(disk, fault, match=(lambda operation, _: operation == "write") if writes else None)

    def due(self, operation: str, name: str) -> Fault | None:
        fault = super().due(operation, name)
        if fault is not None and operation in SYNCS and self.unsynced is None:
            self.unsynced = len(self._journal)
        return fault


class NoMemory(MemoryError):
    """An injected one; a real one is not ours to catch."""


class CtrlC(KeyboardInterrupt):
    """An injected one."""


INTERRUPTS = (NoMemory, CtrlC)


class NothingThere(seglog.SeglogError):
    """What the story speaks of next is not there, as an earlier call was refused."""


def _attempted(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def attempt(self: Story, *args: Any, **options: Any) -> Any:
        return self.attempt(lambda: verb(self, *args, **options))

    return attempt


class Story(Life):
    """One program on a disk that fails.

    Attributes:
        errors: what was raised, in order.
        doubtful: an append is in or out, and so is what was to come after it.
    """

    def __init__(self, disk: CrashDisk, faults: FaultDisk, path: str, **options: Any) -> None:
        self.faults = faults
        self.errors: list[BaseException] = []
        self.doubtful = False
        self._failed = False
        self._registered: set[str] = set()
        super().__init__(disk, 0, path, **options)

    def _open(self, through: Disk | None = None) -> seglog.Log[bytes]:
        return super()._open(through or self.faults)

    def attempt(self, work: Callable[[], Any]) -> Any:
        """What `work` returns; None if it raised what it may. Anything else is a bug, and ends the trial."""
        try:
            return work()
        except seglog.SeglogError as error:
            self.errors.append(error)
        except INTERRUPTS as error:
            self.errors.append(error)
        return None

    def consumer(self, name: str) -> seglog.Consumer[bytes]:
        """Whichever call comes first registers it: an earlier one may have failed."""
        if name in self._registered:
            return super().consumer(name)
        self.disk.mark(("register", name))
        start = self.log.first_offset
        made = super().consumer(name)
        self.disk.mark(("registered", name, start))
        self._registered.add(name)
        return made

    # -- appending

    def append(self, payload: bytes) -> Any:
        return self._appended([payload], lambda: self.log.append(payload))

    def append_many(self, payloads: Sequence[bytes]) -> Any:
        base = self._appended(payloads, lambda: self.log.append_many(payloads).start)
        return None if base is None else range(base, base + len(payloads))

    def submit(self, payload: bytes) -> Any:
        return self._appended([payload], lambda: self.log.submit(payload).result(_PATIENCE))

    def _appended(self, payloads: Sequence[bytes], call: Callable[[], int]) -> int | None:
        if self._failed:
            self._is_refused(call)
        if self.doubtful:
            return None
        self.attempt(lambda: self._may_drop(len(payloads)))
        self.disk.mark(("submit", tuple(payloads)))
        before = len(self.errors)
        base: int | None = self.attempt(call)
        if len(self.errors) == before:
            assert base is not None
            self.disk.mark(("returned", base, self.always))
            return base
        error = self.errors[-1]
        if isinstance(error, seglog.LogFailed) or not isinstance(error, seglog.SeglogError):
            self.doubtful = True
            # An interrupt leaves this one append unknown, and the log may go on.
            by_disk = self.faults.fault is None or isinstance(self.faults.fault.error, int)
            self._failed = isinstance(error, seglog.LogFailed) and by_disk
        else:
            self.disk.mark(("refused",))
        return None

    def _may_drop(self, count: int) -> None:
        super()._may_drop(count)
        self._retention_only()

    def _retention_only(self) -> None:
        """If the consumer could not be registered, only retention keeps anything."""
        if "retention_bytes" in self.options and self.errors and not self._registered:
            self.let_go(self.log.next_offset)

    def compact(self) -> None:
        self.attempt(self._retention_only)
        self.attempt(lambda: Life.compact(self))

    def _is_refused(self, call: Callable[[], int]) -> None:
        with suppress(seglog.SeglogError):
            call()
            raise Broken("appended after LogFailed, without being opened again")

    def replay_letter(self, offset: int) -> None:
        if self.doubtful:
            return
        before = len(self.errors)
        self.attempt(lambda: Life.replay_letter(self, offset))
        if len(self.errors) > before and not isinstance(self.errors[-1], NothingThere):
            self.doubtful = True  # appended, perhaps, and not yet deleted

    # -- everything else

    sync = _attempted(Life.sync)
    show = _attempted(Life.show)
    register = _attempted(consumer)
    ack = _attempted(Life.ack)
    reject = _attempted(Life.reject)
    nack = _attempted(Life.nack)
    purge = _attempted(Life.purge)
    delete_letters = _attempted(Life.delete_letters)
    purge_letters = _attempted(Life.purge_letters)
    close = _attempted(Life.close)

    def remove(self, name: str) -> None:
        self._registered.discard(name)
        self.attempt(lambda: Life.remove(self, name))

    def _received(self, name: str) -> seglog.Message[bytes]:
        consumer = self.consumer(name)
        if self.consumes:  # as calls failed, this may be the last attempt of any
            self.disk.mark(("may_be_exhausted", name, tuple(consumer._cursor.attempts)))
        message = consumer.receive()
        if message is None:
            raise NothingThere(f"no message for {name}")
        return message

    def exhaust(self, name: str) -> None:
        """The next message fails. It need not be for the last time: a failure before may not have been counted."""

        def exhausted() -> None:
            message = self._received(name)
            last = message.attempts >= self.consumes["max_attempts"]
            if last:
                self.disk.mark(("reject", name, message.offset))
            self.consumer(name).nack(message)
            self.disk.mark(("rejected" if last else "failed", name, message.offset))

        self.attempt(exhausted)

    def expire(self, name: str) -> None:
        """The next message fails by its lease. Others may be given out before it: their answers may have failed."""

        def expired() -> None:
            message = self._received(name)
            self.clock.advance(self.consumes["lease"])
            again = self._received(name)
            if again.offset == message.offset:
                demand(again.attempts == message.attempts + 1, "not counted:", again)
                self.disk.mark(("failed", name, message.offset))

        self.attempt(expired)

    def _letter(self, offset: int) -> int:
        for letter in self.log.dead_letters:
            if letter.offset == offset:
                return letter.id
        raise NothingThere(f"no dead letter of offset {offset}")

    def settle(self, **options: Any) -> list[tuple[int, bytes]]:
        """While recovery waits for the disk, nothing is settled, and no more is shown than was proven."""
        if self.log.durable_offset < self.log.next_offset:
            self.doubtful = True
            raise NothingThere("recovery waits for the disk")
        return super().settle(**options)

    def seek(self, name: str, offset: int) -> None:
        """Back or forth: all from there on comes again, and nothing before it."""

        def stands(start: int, asked: int) -> None:
            """Begins there, and everything below `asked` may be handled."""
            marks = ("removed", name), ("register", name), ("registered", name, start), ("ack", name, range(asked))
            for mark in marks:
                self.disk.mark(mark)

        def sought() -> None:
            consumer = self.consumer(name)
            stands(0, 100)  # until it has returned, anything is handled or not
            consumer.seek(offset)
            stands(offset, offset)

        self.attempt(sought)

    def use(self, name: str) -> None:
        """What changes no promise: receive several, extend their leases, count, let go."""

        def used() -> None:
            consumer = self.consumer(name)
            messages = consumer.receive_many(3)
            consumer.extend(*messages, seconds=60)
            demand(len(consumer) == len(list(consumer.unacked())), "counted otherwise than listed")
            consumer.stats()
            consumer.close()

        self.attempt(used)

    def look(self) -> None:
        """What others see beside the writer is all right, or they are told that the disk does not read."""
        self.attempt(self._verify)
        self.attempt(self._read_beside)

    def figures(self) -> None:
        self.attempt(self.log.stats)
        self.attempt(lambda: list(self.log.dead_letters))

    def _verify(self) -> None:
        report = verify(self.path, disk=self.faults)
        demand(report.ok and not report.acknowledged_loss, "verify takes an I/O error for a loss:", report)

    def _read_beside(self) -> None:
        with seglog.open(self.path, "r", disk=self.faults, clock=ManualClock()) as view:
            gaps: list[Gap] = []
            records = [(message.offset, message.payload) for message in view.read(on_gap=gaps.append)]
            demand(all(gap.reason in ("skipped", "purged", "dropped") for gap in gaps), "a reader is told of", gaps)
            offset, payload = records[-1] if records else (0, None)
            message = view.get(offset)
            demand((message and message.payload) == payload, "get and read differ at", offset)
            view.consumers()

    # -- from life to life

    def reopen(self, **options: Any) -> None:
        self.close()
        self.kill(**options)

    def kill(self, through: Disk | None = None, **options: Any) -> None:
        """The next life. It judges what it finds; where it cannot read that, it appends nothing."""
        self.die()
        self.options.update(options)
        expected = Expected().fold(self.disk.marks(len(self.disk.journal)))
        self.log = self._open(through)
        self.doubtful, self._failed = True, False

        def judged() -> None:
            expected.check_next_offset(self.log.next_offset)
            expected.check_records(self.settle())
            self.doubtful = False

        self.attempt(judged)

    def die(self) -> None:
        """A kernel that cleans up after a process does not fail."""
        fault, self.faults.fault = self.faults.fault, None
        super().die()
        self.faults.fault = fault


def _fingerprint(disk: CrashDisk, *more: object) -> bytes:
    """Of all that happened on a disk."""
    made = blake2b(repr((disk.marks(len(disk.journal)), more)).encode(), digest_size=16)
    for each in disk.journal:
        made.update(f"\n{each.kind} {each.path} {each.new_name} {each.position} {each.size} {each.failed}\n".encode())
        made.update(each.data)
    return made.digest()


def _answers(disk: CrashDisk, first: int) -> list[int]:
    """Steps at which the program was told something, from that one on: the next few, and the end."""
    steps = sorted({at for at, _ in disk._marks if at >= first})
    return [*steps[:CUTS], len(disk.journal)]


def _power_cuts(disk: CrashDisk, step: int) -> Iterator[Image]:
    return (image for image in disk.images(step, rng=random.Random(step), subsets=1) if not image.killed)


def _held(tree: Tree) -> Iterator[str]:
    """The files that somebody has locked."""
    for name, entry in tree.entries.items():
        if isinstance(entry, Tree):
            yield from _held(entry)
        elif entry.holder is not None or entry.sharers:
            yield name


class Tale:
    """A workload that is told on a disk that fails, and judged by the lives after it."""

    def __init__(self, workload: Workload) -> None:
        self.name = workload.name
        self.workload = workload
        self._start = workload.start()
        self._known: dict[bytes, str] = {}  # what was found of an end of the tale: many faults lead to the same one

    def disk(self, **options: Any) -> CrashDisk:
        """A new one to begin on."""
        return self._start[0].disk(**options)

    def tell(self, disk: CrashDisk, faults: FaultDisk) -> list[BaseException]:
        """What was raised. Raises whatever no program should have to expect."""
        for mark in self._start[1]:
            disk.mark(mark)
        try:
            story = Story(disk, faults, self.workload.path, **self.workload.options)
        except seglog.SeglogError as error:
            return [error]
        except INTERRUPTS as error:
            return [error]
        try:
            story.attempt(lambda: self.workload.run(story))
        finally:
            story.die()
        held = list(_held(disk._memory.root))
        demand(not held, "closed, and still locked:", held)
        return story.errors

    def judge(self, disk: CrashDisk, unsynced: int | None) -> int:
        """On a disk that fails no more; how many states that were, without those that were judged before.

        `unsynced`: the step of its journal at which a sync failed; then power cuts from there on are judged too.
        Raises Broken.
        """
        end = _fingerprint(disk, unsynced)
        if end in self._known:
            demand(not self._known[end], self._known[end])
            return 0
        try:
            states = self._judge(disk, unsynced)
        except Broken as broken:
            self._known[end] = str(broken)
            raise
        self._known[end] = ""
        return states

    def _judge(self, disk: CrashDisk, unsynced: int | None) -> int:
        end = len(disk.journal)
        states = 1
        for step in [] if unsynced is None else _answers(disk, unsynced):
            expected = Expected().fold(disk.marks(step))
            for image in islice(_power_cuts(disk, step), IMAGES):
                self._judged(image.disk(), expected, image.label)
                states += 1
        self._judged(disk, Expected().fold(disk.marks(end)), "fails no more")
        if unsynced is not None:  # what the next life found in the page cache only, it must have made durable
            image = next(_power_cuts(disk, len(disk.journal)))
            again = Expected().fold(disk.marks(len(disk.journal)))
            self._judged(image.disk(), again, f"the life after it, then {image.label}")
            states += 1
        return states

    def _judged(self, disk: CrashDisk, expected: Expected, label: str) -> None:
        workload = self.workload
        try:
            verified(disk, workload.path, expected)
            life = Life(disk, len(disk.journal) + 1, workload.path, **workload.options)
            try:
                life.next_life(expected)
                life.work_on(expected)
            finally:
                life.die()
            verified(disk, workload.path, expected)
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}, on a disk that is as follows: {label}") from error
