"""One life of a program that uses a log on a `CrashDisk`, between opening and crash; it writes down its history.

Every call is marked on the disk right before it is made and right after it returned, see `history`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import seglog
from seglog.disk.base import Disk
from seglog.model import Gap
from seglog.repair import repair
from seglog.testing import CrashDisk, ManualClock
from seglog.verify import verify
from tools.crashtest.history import Expected, demand

PATH = "srv/spool"
SMALL = {"segment_bytes": 4096}
GAPS = ("skipped", "purged", "dropped")  # what a crash may leave, and a purge or a limit


class Life:
    """Opens the log at once. `seed` makes this life's random bytes; no two lives of one history may share it.

    `before`: what was promised by the lives before, for those that check themselves. `fails`: a sync of this disk
    fails, perhaps while the log is opened; then it is opened once more.
    """

    def __init__(
        self,
        disk: CrashDisk,
        seed: int,
        path: str = PATH,
        *,
        through: Disk | None = None,
        before: Expected | None = None,
        fails: bool = False,
        **options: Any,
    ) -> None:
        self.disk = disk
        self.path = path
        self.before = before or Expected()
        self.fails = fails
        self.first_step = 0  # crashes before this step of the journal are somebody else's
        self.consumes: dict[str, Any] = options.pop("consumes", {})  # the options of every consumer
        self.options = {**SMALL, **options}
        self.lives = [seed, 0]
        self.names: list[str] = []  # consumers, as this life found them
        self.log: seglog.Log[bytes] = self._open(through)

    def _open(self, through: Disk | None = None) -> seglog.Log[bytes]:
        self.lives[1] += 1
        self.clock = ManualClock(seed=self.lives[0] * 1000 + self.lives[1])
        try:
            return seglog.open(self.path, disk=through or self.disk, clock=self.clock, **self.options)
        except seglog.StorageError:
            if not self.fails:
                raise
        self.fails = False
        return self._open(through)

    def consumer(self, name: str) -> seglog.Consumer[bytes]:
        return self.log.consumer(name, **self.consumes)

    @property
    def always(self) -> bool:
        return "durability" not in self.options

    def _may_drop(self, count: int) -> None:
        if self.options.get("when_full") == "drop_oldest":
            self.let_go(self.log.next_offset + count - self.options["max_records"])

    def let_go(self, stop: int) -> None:
        """What lies below may be gone from now on."""
        self.disk.mark(("may_go", stop))

    def append(self, payload: bytes) -> int:
        self._may_drop(1)
        self.disk.mark(("submit", (payload,)))
        offset = self.log.append(payload)
        self.disk.mark(("returned", offset, self.always))
        return offset

    def append_many(self, payloads: Sequence[bytes]) -> range:
        self._may_drop(len(payloads))
        self.disk.mark(("submit", tuple(payloads)))
        offsets = self.log.append_many(payloads)
        self.disk.mark(("returned", offsets.start, self.always))
        return offsets

    def submit(self, payload: bytes) -> int:
        self._may_drop(1)
        self.disk.mark(("submit", (payload,)))
        offset = self.log.submit(payload).result(timeout=30)
        self.disk.mark(("returned", offset, self.always))
        return offset

    def sync(self) -> None:
        self.log.sync()
        self.disk.mark(("synced",))

    def show(self) -> None:
        """Somebody looks at the next offset."""
        self.disk.mark(("shown", self.log.next_offset))

    def promised(self) -> Expected:
        """The sum of the history up to now."""
        return deepcopy(self.before).fold(self.disk.marks(len(self.disk.journal)))

    def read(self) -> list[tuple[int, bytes]]:
        """Read all there is, in the middle of a life: it is shown now."""
        records = [(m.offset, m.payload) for m in self.log.read(on_gap=lambda gap: None)]
        self.promised().check_records(records)
        self.show()
        return records

    def register(self, name: str) -> None:
        self.disk.mark(("register", name))
        start = self.log.first_offset
        self.consumer(name)
        self.disk.mark(("registered", name, start))

    def remove(self, name: str) -> None:
        self.disk.mark(("remove", name))
        self.log.remove_consumer(name)
        self.disk.mark(("removed", name))

    def ack(self, name: str, *offsets: int) -> None:
        consumer = self.consumer(name)
        self.disk.mark(("ack", name, offsets))
        consumer.ack(*offsets)
        self.disk.mark(("acked", name, offsets))

    def reject(self, name: str, offset: int) -> None:
        consumer = self.consumer(name)
        self.disk.mark(("reject", name, offset))
        consumer.reject(offset, reason="test")
        self.disk.mark(("rejected", name, offset))

    def _received(self, name: str) -> seglog.Message[bytes]:
        message = self.consumer(name).receive()
        assert message is not None
        return message

    def nack(self, name: str) -> None:
        """The next message fails."""
        message = self._received(name)
        self.consumer(name).nack(message)
        self.disk.mark(("failed", name, message.offset))

    def expire(self, name: str) -> None:
        """The next message fails by its lease; it has failed for good once it is given out again."""
        message = self._received(name)
        self.clock.advance(self.consumes["lease"])
        again = self._received(name)
        demand((again.offset, again.attempts) == (message.offset, message.attempts + 1), "not given out again:", again)
        self.disk.mark(("failed", name, message.offset))

    def exhaust(self, name: str) -> None:
        """The next message fails for the last time."""
        message = self._received(name)
        self.disk.mark(("reject", name, message.offset))
        self.consumer(name).nack(message)
        self.disk.mark(("rejected", name, message.offset))

    def purge(self) -> None:
        stop = self.log.next_offset
        self.let_go(stop)
        self.log.purge()
        self.disk.mark(("gone", stop))

    def _letter(self, offset: int) -> int:
        """The id of a record's dead letter."""
        return next(letter.id for letter in self.log.dead_letters if letter.offset == offset)

    def delete_letters(self, *offsets: int) -> None:
        ids = [self._letter(offset) for offset in offsets]
        self.disk.mark(("delete", offsets))
        self.log.dead_letters.delete(ids)
        self.disk.mark(("deleted", offsets))

    def purge_letters(self) -> None:
        offsets = tuple(letter.offset for letter in self.log.dead_letters)
        self.disk.mark(("delete", offsets))
        self.log.dead_letters.purge()
        self.disk.mark(("deleted", offsets))

    def replay_letter(self, offset: int) -> None:
        id = self._letter(offset)
        letter = self.log.dead_letters.get(id)
        assert letter is not None
        self.disk.mark(("submit", (letter.payload,)))
        self.disk.mark(("delete", (offset,)))
        self.disk.mark(("replay", offset, letter.payload))
        (new,) = self.log.dead_letters.replay([id])
        self.disk.mark(("returned", new, True))  # durable in every class
        self.disk.mark(("deleted", (offset,)))

    def compact(self) -> None:
        self.log.compact()  # what may be gone after it follows from the acks

    def close(self) -> None:
        self.log.close()
        if not self.always:
            self.disk.mark(("synced",))  # closing syncs, in every durability class

    def reopen(self, **options: Any) -> None:
        self.close()
        self.options.update(options)
        self.log = self._open()

    def repair(self) -> None:
        """Between two openings; there is nothing to repair."""
        self.close()
        self.lives[1] += 1
        clock = ManualClock(seed=self.lives[0] * 1000 + self.lives[1])
        mended(self.disk, self.path, self.promised(), clock)
        self.log = self._open()

    def recover(self) -> None:
        """A sync failed: what was under way is in or out, and the next opening decides it, as errors say."""
        expected = self.promised()
        with contextlib.suppress(seglog.StorageError):
            self.log.close()
        self.log = self._open()
        self.next_life(expected)

    def die(self) -> None:
        """Close every file and write nothing, as the kernel does for a dead process. After close() it is a no-op."""
        self.log._after_fork()

    def kill(self, through: Disk | None = None, **options: Any) -> None:
        """The process dies, the machine does not; another goes on, perhaps with a disk between that fails."""
        self.die()
        self.options.update(options)
        self.log = self._open(through)

    def settle(self, *, spoilt: bool = False) -> list[tuple[int, bytes]]:
        """Read all there is; whatever was in flight before is decided now, for ever."""
        gaps: list[Gap] = []
        records = [(m.offset, m.payload) for m in self.log.read(on_gap=gaps.append)]
        allowed = (*GAPS, "suspect", "missing") if spoilt else GAPS
        demand(all(gap.reason in allowed for gap in gaps), "gaps:", gaps)
        self.disk.mark(("settled", tuple(records), self.log.durable_offset))
        self.show()
        return records

    def next_life(self, expected: Expected) -> list[tuple[int, bytes]]:
        """Everything that the history promises to the program that opens the log after the crash."""
        found = self.log.report
        demand(not found.damage, "open reports damage:", found)
        expected.check_lost(found.missing, found.suspect)
        expected.check_next_offset(self.log.next_offset)
        records = self.settle(spoilt=expected.spoilt)
        expected.check_records(records)
        handled: set[int] = set()
        self.names = list(self.log.consumers())
        expected.check_consumers(self.names)
        for name in self.names:
            consumer = self.consumer(name)
            self.disk.mark(("registered", name, self.log.first_offset))
            unacked = [m.offset for m in consumer.unacked()]
            expected.check_failures(name, consumer._cursor.attempts)
            expected.check_unacked(name, 0, unacked, records)
            mine = (offset for offset, _ in records if expected.rejecters.get(offset, name) == name)
            handled.update(offset for offset in mine if offset not in unacked)
        if expected.rejected:
            # Of spoilt bytes those that are suspect become letters, too.
            letters = [each.offset for each in self.log.dead_letters if not expected.spoilt or each.reason != "damaged"]
            expected.check_letters(letters, handled, records)
        return records

    def work_on(self, expected: Expected) -> None:
        """A little of everything, as the program would go on after the crash."""
        for number in range(2):
            offset = self.append(f"after life {self.lives[0]}: {number}".encode())
            expected.check_next_offset(offset)
        for name in self.names:
            consumer = self.consumer(name)
            if self.consumes:  # the crash may have been its last attempt
                self.disk.mark(("may_be_exhausted", name, tuple(consumer._cursor.attempts)))
            message = consumer.receive()
            if message is not None:
                self.ack(name, message.offset)
        self.close()


def looked_at(disk: CrashDisk, path: str) -> list[tuple[int, bytes]]:
    """What a reader beside the writer sees before anybody recovers the log."""
    try:
        log = seglog.open(path, mode="r", disk=disk, clock=ManualClock())
    except seglog.LogNotFound:
        return []
    try:
        return [(m.offset, m.payload) for m in log.read(on_gap=lambda gap: None)]
    finally:
        log.close()


def verified(disk: CrashDisk, path: str, expected: Expected) -> None:
    """P7 and P8: a crash is no damage, and verify changes nothing. Of spoilt bytes it may say that they are suspect."""
    before = len(disk.journal)
    try:
        report = verify(path, disk=disk)
    except seglog.LogNotFound:
        demand(not any(batch.durable for batch in expected.batches), "the whole directory is gone")
        return
    # A spoilt spare beside suspect bytes stays where it is, and so do spoilt bytes whose records were dropped.
    demand(all(expected.spoilt and found.first_offset is None for found in report.damage), "verify:", report)
    expected.check_lost(report.missing, report.suspect)
    well = report.ok and not report.acknowledged_loss
    demand(well or expected.spoilt, "verify:", report)
    demand(len(disk.journal) == before, "verify wrote:", disk.journal[before:])


def mended(disk: CrashDisk, path: str, expected: Expected, clock: ManualClock) -> None:
    """A crash leaves nothing to repair that held a record; of spoilt bytes, what is suspect is declared."""
    try:
        report = repair(path, disk=disk, clock=clock)
    except seglog.LogNotFound:
        return
    # For a spoilt sector of records that were dropped there is nothing to do; it goes with its segment.
    left = expected.spoilt and all(action.first_offset is None for action in report.left)
    demand(report.ok or left, "repaired, and not well:", report)
    lost = [action for action in report.actions if action.first_offset is not None]
    demand(expected.spoilt or not (lost or report.repaired), "a repair found something lost:", report)
