"""The `lock` file: the writer's kernel lock, its name for others to read, and the durable hint (FORMAT.md §8).

And the other kernel lock, `cursors/.lock`, as those take it who only look at `meta`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from seglog.disk.base import Directory, File
from seglog.errors import LogLocked
from seglog.format import layout as L
from seglog.format.hint import Hint, decode_hint, encode_hint
from seglog.format.names import CURSORS, CURSORS_LOCK, LOCK

# What cannot be written now waits until the disk takes it, or until somebody moves a strange file out of the way.
WAITING_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EEXIST)


class LockFile:
    """The open `lock` of a log directory, as writer or as reader."""

    def __init__(self, file: File, path: str, *, read_only: tuple[Directory, str] | None = None) -> None:
        """`read_only`: where to open it once more, and for whom, as the disk took no writes when it was opened."""
        self.file = file
        self.path = path
        self._generation = 0
        self._written = file
        self._read_only = read_only

    @classmethod
    def acquire(cls, directory: Directory, holder: str, *, wait: float = 0.0) -> LockFile:
        """Take the writer's lock, making the file if need be. Raises LogLocked, naming the holder."""
        file, writable = _open_or_make(directory)
        lock = cls(file, directory.path, read_only=None if writable else (directory, holder))
        try:
            if not file.lock(wait=wait):
                who = lock.holder() or "another process"
                raise LogLocked(f"{directory.path}: the log is open for writing by {who}; one writer at a time")
            lock._write_holder(holder)
            known = lock.hint()
        except BaseException:
            file.close()
            raise
        lock._generation = known.generation if known else 0
        return lock

    @classmethod
    def for_reading(cls, directory: Directory) -> LockFile | None:
        """None if there is no such file."""
        try:
            return cls(directory.open(LOCK), directory.path)
        except FileNotFoundError:
            return None

    def _write_holder(self, holder: str) -> None:
        name = holder.encode("utf-8", "replace")[: L.HOLDER_BYTES - 1].ljust(L.HOLDER_BYTES, b"\0")
        try:
            if self._written.size() < L.LOCK_BYTES:
                self._written.allocate(0, L.LOCK_BYTES)
            self._written.write(L.HOLDER_AT, name)
        except OSError as error:
            if error.errno not in WAITING_ERRNOS and error.errno != errno.EBADF:
                raise
            # A full or read-only disk: the kernel's lock holds all the same; only our name is not in it.

    def holder(self) -> str:
        """Who wrote its name here last; it may be gone."""
        raw = self.file.read(L.HOLDER_AT, L.HOLDER_BYTES).split(b"\0")[0]
        return "".join(c if c.isprintable() else "?" for c in raw.decode("utf-8", "replace"))

    def is_held(self) -> bool:
        """Whether a process holds the writer's lock at this moment; for a reader.

        Asked for with a shared lock: several readers who ask at the same time are no writer to each other.
        """
        if self.file.lock(shared=True):
            self.file.unlock()
            return False
        return True

    def hint(self) -> Hint | None:
        """The hint, if its checksum holds."""
        return decode_hint(self.file.read(0, L.HINT.size))

    def make_hint(self, segment_id: int, position: int, end_offset: int, salt: int, boot_id: bytes) -> bytes:
        """What `write_hint` is to write once this is true; made before the sync, while the caches are warm."""
        self._generation += 1
        return encode_hint(Hint(self._generation, segment_id, position, end_offset, salt, boot_id))

    def write_hint(self, hint: bytes) -> None:
        """Say what is durable. Only ever called after the sync that made it so; not synced itself."""
        if self._read_only is not None:  # perhaps no more: without a hint, readers would see nothing of what comes
            directory, holder = self._read_only
            self._written = directory.open(LOCK, write=True)  # the kernel's lock stays with the file that has it
            self._read_only = None
            self._write_holder(holder)
        self._written.write(0, hint)

    def sync(self) -> None:
        """Bounds how far recovery must walk after a power cut."""
        self._written.datasync()

    def close(self) -> None:
        try:
            self.file.close()
        finally:
            if self._written is not self.file:
                self._written.close()


def _open_or_make(directory: Directory) -> tuple[File, bool]:
    """The lock file, for writing where the disk takes writes; and whether it does."""
    try:
        return directory.open(LOCK, write=True), True
    except FileNotFoundError:
        try:
            return directory.open(LOCK, write=True, create=True), True
        except FileExistsError:  # another process made it in between
            return directory.open(LOCK, write=True), True
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return directory.open(LOCK), False


@contextmanager
def undisturbed(root: Directory) -> Iterator[bool]:
    """Whether nobody else writes `meta` in here, as `cursors/.lock` is held now. Nobody is waited for."""
    with ExitStack() as handles:
        try:
            cursors = root.directory(CURSORS)
            handles.callback(cursors.close)
            lock = cursors.open(CURSORS_LOCK, write=True)
        except FileNotFoundError:
            yield True  # `meta` has not changed since it was made
            return
        handles.callback(lock.close)
        alone = lock.lock()
        if alone:
            handles.callback(lock.unlock)  # not by closing alone, see Registry.locked
        yield alone
