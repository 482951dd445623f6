"""Act on what verify finds: keep the evidence, divert damaged records, restore spares, declare what is lost (FORMAT.md
§10.11).

It never rewrites a record, and changes nothing before the bytes are durable in `quarantine/`. Each step can be cut
short: the next repair finds the same, or what is left of it.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seglog.audit import Audit, Finding, Progress
from seglog.clock import Clock, SystemClock
from seglog.consumers.cursor import Cursor
from seglog.consumers.damage_letter import damage_letter
from seglog.consumers.registry import Registry
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Directory, Disk
from seglog.errors import ConsumerBusy
from seglog.format import layout as L
from seglog.format import names as N
from seglog.format.dead_letter import Envelope
from seglog.intervals import Intervals
from seglog.lock_file import LockFile
from seglog.model import OffsetRange, Origin, RepairAction, RepairReport
from seglog.opening import LOCK_WAIT_SECONDS, Opened, open_for_writing
from seglog.options import MIB, LogOptions, whole
from seglog.quarantine import Quarantine
from seglog.reader import Hole
from seglog.source import Source
from seglog.verify import audit_dead, log_directory
from seglog.view import check_is_log

logger = logging.getLogger("seglog")

_DEAD_RECORD_BYTES = 32 * MIB  # what `dead/` is opened with: other limits would begin another segment there
_DEAD_WAIT_SECONDS = 5.0
_DIVERSION_BYTES = 4 * MIB  # of damaged bytes in memory, until they are dead letters
_RESTORATIONS = 4  # one is the rule; bounds the rest
IN_DEAD = f"{N.DEAD}/"


def repair(
    path: str | os.PathLike[str],
    dry_run: bool = False,
    progress: Progress | None = None,
    *,
    file_mode: int = 0o600,
    dead_letter_bytes: int = 64 * MIB,
    disk: Disk | None = None,
    clock: Clock | None = None,
) -> RepairReport:
    """Deal with everything that `verify` finds, so that it says "repaired" afterwards. Durable on return.

    Damaged bytes are kept in `quarantine/`; those that held records go to the dead letters, too, and their offsets are
    declared lost. Spare copies are restored. Readers and consumers still get every other record, and the gap. A log
    that is well is not changed. After an error, or a crash, call it again: it goes on where it was.

    Args:
        path: the log directory.
        dry_run: say what would be done and change nothing; safe beside a live writer.
        progress: called with (bytes read so far, bytes in all) now and then; the log is read several times.
        file_mode, dead_letter_bytes: as in `seglog.open`.
        disk, clock: for tests.

    Raises LogLocked (a writer has the log open), LogNotFound, NotALog, UnsupportedVersion, InvalidOption,
    DeadLetterWriteFailed, and StorageError, as DiskFull if there is no room for the evidence.
    """
    whole("dead_letter_bytes", dead_letter_bytes, 4096, 1 << 40)
    options = LogOptions(file_mode=file_mode)
    if disk is None:
        from seglog.disk.local import LocalDisk

        disk = LocalDisk()
    with log_directory(disk, os.fspath(path), "repairing", file_mode) as root:
        mine = [name for name in check_is_log(root) if name in N.OURS]
        made = _Repair(disk, clock or SystemClock(), root, options, dead_letter_bytes, progress)
        if dry_run:
            return made.plan()
        if not mine:
            return RepairReport(False, True, (), (), (), ())  # an empty log stays an empty directory
        with _locked(root, disk) as lock:
            return made.run(lock)


@contextmanager
def _locked(root: Directory, disk: Disk) -> Iterator[LockFile]:
    lock = LockFile.acquire(root, disk.holder(), wait=LOCK_WAIT_SECONDS)
    try:
        yield lock
    finally:
        lock.close()


def actions(audit: Audit, below: str = "") -> Iterator[RepairAction]:
    """What a repair does about each finding; `below` is "dead/" for the dead letters."""
    for found in audit.findings:
        damage = found.damage
        if damage.segment == N.META:
            path, action = below + N.META, "rebuild"
        else:
            path = f"{below}{N.SEGMENTS}/{damage.segment}"
            spare = "restore" if found.patches else ""
            # What is damaged in the dead letters is not diverted again.
            action = spare if damage.first_offset is None else "declare" if below else "divert"
        reason = f"suspect: {damage.reason}" if found.suspect else damage.reason
        first, last = damage.first_offset, damage.last_offset
        yield RepairAction(path, damage.position, damage.length, first, last, reason, action)
    if audit.half_meta:
        reason = "one slot does not read back"
        yield RepairAction(below + N.META, 0, 2 * L.META_SLOT_BYTES, None, None, reason, "rebuild")
    if audit.lost_meta:
        yield RepairAction(below + N.META, 0, 0, None, None, "missing", "rebuild")
    for gone in audit.missing:
        first, last = gone.first_offset, gone.last_offset
        yield RepairAction(below and IN_DEAD, 0, 0, first, last, "missing", "declare")
    for name, cursor in audit.cursors.items():
        if not cursor.ok:
            path = f"{below}{N.CURSORS}/{N.cursor_file_name(name)}"
            size = 2 * L.CURSOR_SLOT_BYTES + L.BLOCK
            yield RepairAction(path, 0, size, None, None, "the cursor does not read back", "restart")


class _Repair:
    """One repair under way."""

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        root: Directory,
        options: LogOptions,
        dead_letter_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.disk, self.clock, self.root, self.options, self.progress = disk, clock, root, options, progress
        self.letters = DeadLetters(disk, clock, root, options, dead_letter_bytes)
        self.quarantine = Quarantine(root, clock)
        self.kept: list[str] = []
        self.declared = Intervals()

    def _look(self, *, alone: bool) -> tuple[Audit, Audit | None]:
        return Audit(self.disk, self.root, self.progress, alone).run(), audit_dead(self.disk, self.root)

    def plan(self) -> RepairReport:
        """What would be done."""
        log, dead = self._look(alone=False)
        found = _all(log, dead)
        return RepairReport(True, log.well, found, tuple(a for a in found if not a.action), (), ())

    def run(self, lock: LockFile) -> RepairReport:
        """Do it, under the writer's lock."""
        self.quarantine.confirm()
        log, dead = self._look(alone=True)
        found = _all(log, dead)
        if any(action.action for action in found):
            # An opening for writing makes `meta` anew: what is not readable of it must be kept before.
            self._keep(found)
            if dead is not None and any(action.action for action in actions(dead, IN_DEAD)):
                self._mend_dead()
            if any(action.action for action in actions(log)):
                self._mend_log(lock)
            log, dead = self._look(alone=True)
        declared = tuple(OffsetRange(first, stop - 1) for first, stop in self.declared)
        return RepairReport(False, log.well, found, _all(log, dead), declared, tuple(self.kept))

    def _keep(self, found: Sequence[RepairAction]) -> None:
        manifest = self.quarantine.keep([action for action in found if action.action])
        if manifest is not None:
            self.kept.append(manifest)

    def _mend_dead(self) -> None:
        options = LogOptions(max_record_bytes=_DEAD_RECORD_BYTES, file_mode=self.options.file_mode)
        dead = self.root.directory(N.DEAD)
        try:
            opened = open_for_writing(self.disk, self.clock, dead, options, wait=_DEAD_WAIT_SECONDS)
            try:
                self._settle(opened)
                audit = self._restored(dead, opened, IN_DEAD)
                self._declare(audit, Registry(opened.cursors, opened.meta))
            finally:
                opened.lock.file.unlock()
                opened.close()
        finally:
            dead.close()

    def _mend_log(self, lock: LockFile) -> None:
        opened = open_for_writing(self.disk, self.clock, self.root, self.options, lock=lock)
        try:
            self._settle(opened)
            audit = self._restored(self.root, opened, "")
            self._divert(audit, opened)
            self.declared = self._declare(audit, Registry(opened.cursors, opened.meta))
        finally:
            for handle in (opened.meta, opened.segments, opened.cursors):
                handle.close()

    def _settle(self, opened: Opened) -> None:
        """Recovered, whatever an opening puts off on a full disk; and closed, as nothing will be appended."""
        try:
            opened.appender.ready()
        finally:
            opened.appender.close()

    def _divert(self, audit: Audit, opened: Opened) -> None:
        """Meet each damaged place as a consumer would, so that it is one dead letter whoever comes first."""
        log_id = opened.meta.log_id.hex()
        source: Source[bytes] = Source(
            Origin(log_id, None),
            opened.catalog,
            self.clock,
            self.letters,
            self.root,
            opened.meta,
            appender=opened.appender,
        )
        letters: list[Envelope] = []
        for found in audit.findings:
            first, last = found.damage.first_offset, found.damage.last_offset
            if first is None or last is None:
                continue
            scan = source.scan(first)
            try:
                while scan.offset <= last and (met := scan.next()) is not None:
                    letter = damage_letter(source, met) if isinstance(met, Hole) else None
                    if letter is not None:
                        letters.append(letter)
            finally:
                scan.close()
            if sum(len(letter.payload) for letter in letters) > _DIVERSION_BYTES:
                self.letters.divert(letters)
                letters.clear()
        if letters:
            self.letters.divert(letters)

    def _restored(self, root: Directory, opened: Opened, below: str) -> Audit:
        """What is left once every spare is as it was.

        Looked at anew, as recovery has decided what the end of the log is; and again after each time something was
        restored: in a file that was cut short, what is written behind other damage may prove that to be nothing but
        lost zeros.
        """
        audit = self._audited(root, below)
        for _ in range(_RESTORATIONS):
            spoilt = [found for found in audit.findings if found.patches]
            if not spoilt:
                break
            self._restore(spoilt, opened.segments)
            audit = self._audited(root, below)
        return audit

    def _audited(self, root: Directory, below: str) -> Audit:
        """All that it names is kept on return."""
        audit = Audit(self.disk, root, self.progress, alone=True).run()
        self._keep(list(actions(audit, below)))
        return audit

    def _restore(self, spoilt: Sequence[Finding], segments: Directory) -> None:
        for name, group in itertools.groupby(spoilt, key=lambda found: found.damage.segment):
            file = segments.open(name, write=True)
            try:
                for patch in itertools.chain.from_iterable(found.patches for found in group):
                    file.write(patch.position, patch.data)
                # What is reported as restored stays so after a power cut.
                file.datasync()
            finally:
                file.close()

    def _declare(self, audit: Audit, registry: Registry) -> Intervals:
        """The last step: everything that it declares is kept by now, and consumers that do not read back restart."""
        lost = Intervals((gone.first_offset, gone.last_offset + 1) for gone in audit.missing)
        for found in audit.findings:
            if found.damage.first_offset is not None and found.damage.last_offset is not None:
                lost.add(found.damage.first_offset, found.damage.last_offset + 1)
        with registry.locked():
            for name, cursor in audit.cursors.items():
                if not cursor.ok:
                    _restart(registry, name)
            state = registry.meta.state
            repaired = Intervals(state.repaired)
            repaired.remove(0, state.start_offset)  # what was reclaimed needs no excuse
            declared = Intervals()
            for first, stop in lost:
                more = repaired.copy()
                more.add(first, stop)
                if len(more) > L.META_REPAIRED_MAX:
                    logger.warning("offsets %d to %d stay damaged: meta declares no more ranges", first, stop - 1)
                    continue
                repaired = more
                declared.add(first, stop)
            if tuple(repaired) != state.repaired:
                registry.meta.store(state._replace(repaired=tuple(repaired)))
        return declared


def _all(log: Audit, dead: Audit | None) -> tuple[RepairAction, ...]:
    return (*actions(log), *(actions(dead, IN_DEAD) if dead is not None else ()))


def _restart(registry: Registry, name: str) -> None:
    """Under the lock: as opening the consumer would."""
    try:
        cursor = Cursor.open(registry.cursors, name, registry.meta.log_id)
    except ConsumerBusy as error:
        logger.warning("%s: it stays as it is", error)  # whoever holds it writes it anew with the next ack
        return
    if cursor is not None:
        cursor.close()  # it reads, and stands where nothing was ever shown
    registry.restart(name, registry.meta.state.start_offset)
