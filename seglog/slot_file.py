"""The two-slot file under `meta` and the cursors (FORMAT.md §7): one durable value that survives any crash.

The older slot is overwritten and synced; the file is never renamed or replaced, so its lock holds and a full
disk does not matter. A crash in the middle leaves the other slot.
"""

from __future__ import annotations

import errno

from seglog.disk.base import Directory, File
from seglog.errors import LogFailed, UnsupportedVersion
from seglog.format import layout as L
from seglog.format.names import TEMPORARY
from seglog.format.slots import Slot, decode_slot, encode_slot, slot_length


class SlotFile:
    """One open two-slot file. Not thread-safe; its owner serialises."""

    def __init__(self, file: File, *, kind: int, log_id: bytes, slot_bytes: int) -> None:
        self.file = file
        self._kind = kind
        self._log_id = log_id
        self._slot_bytes = slot_bytes
        self._generation = 0
        self._older = 0  # the slot that the next write goes to
        self._durable = 0  # the generation that this object knows to be on the disk
        self._failed = False
        self._write_version = L.WRITE_VERSION
        self.whole = False  # both slots read back
        self.log_id = log_id  # as the file says it, once loaded

    @classmethod
    def create(
        cls,
        directory: Directory,
        name: str,
        payload: bytes,
        *,
        kind: int,
        log_id: bytes,
        slot_bytes: int,
        tail: int = 0,
    ) -> SlotFile:
        """Make the file with both slots written; its content is durable, its name once the caller syncs `directory`.

        `tail` bytes are reserved behind the slots.
        """
        temporary = name + TEMPORARY
        if temporary in directory.list():
            directory.unlink(temporary)  # left by a crash in here
        file = directory.open(temporary, write=True, create=True)
        try:
            file.allocate(0, 2 * slot_bytes + tail)
            made = cls(file, kind=kind, log_id=log_id, slot_bytes=slot_bytes)
            for slot in (0, 1):
                made._generation += 1
                file.write(slot * slot_bytes, made._encoded(payload))
            # A name must never lead to a file without a valid slot: content first, then the rename.
            file.sync()
            directory.rename(temporary, name)
            file.name = name
        except BaseException:
            file.close()
            raise
        made.whole = True
        made._durable = made._generation
        return made

    def load(self) -> bytes | None:
        """The newest payload, or None if neither slot can be believed. Raises UnsupportedVersion if newer than us."""
        found: list[tuple[int, Slot] | None] = [self._slot(0), self._slot(1)]
        good = [slot for slot in found if slot is not None]
        self.whole = len(good) == 2
        if not good:
            return None
        if len({slot.log_id for _, slot in good}) == 2:  # a disk put a sector of another log there
            self.whole = False
            good = [(index, slot) for index, slot in good if slot.log_id == self._log_id]
            if not good:
                return None  # nobody has said which log this is
        if len(good) == 2 and self._contradict(good[0][1], good[1][1]):
            self.whole = False
            return None
        index, newest = max(good, key=lambda slot: slot[1].generation)
        self._write_version = newest.write_version
        self._generation = newest.generation
        self._older = 1 - index
        self.log_id = self._log_id = newest.log_id
        return newest.payload

    def _slot(self, index: int) -> tuple[int, Slot] | None:
        at = index * self._slot_bytes
        data = self.file.read(at, L.BLOCK)
        if slot_length(data) > L.BLOCK:
            data = self.file.read(at, min(slot_length(data), self._slot_bytes))
        slot = decode_slot(data)
        return None if slot is None or slot.kind != self._kind else (index, slot)

    @staticmethod
    def _contradict(one: Slot, other: Slot) -> bool:
        """Nobody can say which of them was acknowledged."""
        return one.generation == other.generation and one != other

    def _encoded(self, payload: bytes) -> bytes:
        return encode_slot(Slot(self._kind, self._generation, self._log_id, payload), self._slot_bytes)

    def confirm(self, *, alone: bool = True) -> None:
        """What was loaded is durable on return.

        Whoever wrote it may have been killed before its own sync, so it may stand in the page cache only. Building on
        it would break two ways in a power cut: it is forgotten, or it is torn together with the slot written next.
        If that sync failed, the cache still shows it, and another sync succeeds and writes nothing (FORMAT.md A7): so
        the slot is first written again, as it stands. Not if somebody else may write here now (`alone` is False).
        """
        again = alone and self._generation not in (0, self._durable) and self._write_version <= L.WRITE_VERSION
        try:
            if again:
                self._write_again()
            self.file.datasync()
        except BaseException:
            self._failed = True
            raise
        if again:
            self._durable = self._generation

    def _write_again(self) -> None:
        """The newest slot, byte for byte: a power cut in here leaves both slots as the disk had them."""
        at = (1 - self._older) * self._slot_bytes
        size = min(slot_length(self.file.read(at, L.SLOT_HEADER.size)), self._slot_bytes)
        try:
            self.file.write(at, self.file.read(at, size))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # some file systems want space for that, too
                raise

    def write(self, payload: bytes) -> None:
        """Durable on return. After a failed sync the file refuses: what it holds is decided when it is opened again."""
        if self._failed:
            raise LogFailed(5, "an earlier sync of this file failed; close and open it again", self.file.name)
        if self._write_version > L.WRITE_VERSION:
            raise UnsupportedVersion(
                f"{self.file.name}: only format version {self._write_version} or newer may write it; "
                f"this seglog writes up to {L.WRITE_VERSION}"
            )
        self._generation += 1
        self.file.write(self._older * self._slot_bytes, self._encoded(payload))
        try:
            self.file.datasync()
        except BaseException:
            self._failed = True
            raise
        self._durable = self._generation
        self._older = 1 - self._older

    def write_both(self, payload: bytes) -> None:
        """Durable on return, in both slots, one after the other: afterwards one bad slot costs nothing."""
        self.write(payload)
        self.write(payload)
        self.whole = True

    def close(self) -> None:
        self.file.close()
