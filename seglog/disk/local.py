"""The real disk: POSIX files, opened relative to their directory (FORMAT.md §2).

It never follows a symbolic link below the root, never blocks on a FIFO, never maps a file, and keeps no
state of its own but file descriptors. Every OSError that leaves it names the file.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seglog.clock import Clock, SystemClock
from seglog.disk.base import Directory

_POLL_SECONDS = 0.01  # how often a waiting lock() tries again: flock has no timeout
_ZEROS = bytes(256 * 1024)  # what allocate writes at a time
_CLOSED = 2**31 - 1  # never open, so the kernel says EBADF; for -1, Python would raise ValueError
_DEPTH_MAX = 4096  # more directories than any path has components; bounds the walk to the root
_WRONG_KIND = (errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO somebody put there must not hang; it means nothing for the regular files we accept.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_sync: Callable[[int], None]
_datasync: Callable[[int], None]

if sys.platform == "darwin":  # there, fsync leaves the data in the drive's volatile cache

    def _full_sync(fd: int) -> None:
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)  # network file systems know no full sync

    _sync = _datasync = _full_sync

    def _reserve(fd: int, position: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
else:
    _sync = os.fsync
    _datasync = os.fdatasync
    _reserve = os.posix_fallocate


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Calls on descriptors do not know the file's name; whoever reads the error must."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _component(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a single path component", name)
    return name


class LocalFile:
    """An open regular file of the real disk."""

    def __init__(self, fd: int, name: str, path: str, clock: Clock) -> None:
        self._fd = fd
        self.name = name
        self._directory = os.path.dirname(path)
        self._clock = clock

    @property
    def _path(self) -> str:
        return os.path.join(self._directory, self.name)  # by the name it has now: files are renamed once whole

    def read(self, position: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, position)
            while data and len(data) < length:  # usually the end of the file: the next one returns nothing
                more = os.pread(self._fd, length - len(data), position + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = self._path
            raise
        return data

    def write(self, position: int, data: bytes | memoryview) -> None:
        try:
            written = os.pwrite(self._fd, data, position)
            if written != len(data):
                self._write_rest(position, memoryview(data), written)
        except OSError as error:
            error.filename = self._path
            raise

    def _write_rest(self, position: int, data: memoryview, done: int) -> None:
        while done < len(data):
            written = os.pwrite(self._fd, data[done:], position + done)
            if written == 0:
                raise OSError(errno.EIO, "the file system accepts no more bytes and gives no error")
            done += written

    def size(self) -> int:
        with _naming(self._path):
            return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        with _naming(self._path):
            os.ftruncate(self._fd, size)

    def allocate(self, position: int, length: int) -> None:
        """Reserved first, so that a full disk says so; then zeros are really written.

        In space that is only reserved, a write makes the file system note in its journal that the blocks are in use,
        and the sync waits for that: on ext4 the 200 KB batch takes 490 µs, and 370 over zeros, theirs included.
        """
        with _naming(self._path):
            at = os.fstat(self._fd).st_size  # never over bytes that are there
            try:
                _reserve(self._fd, position, length)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            while at < position + length:
                piece = _ZEROS[: position + length - at]
                self.write(at, piece)
                at += len(piece)

    def sync(self) -> None:
        with _naming(self._path):
            _sync(self._fd)

    def datasync(self) -> None:
        try:
            _datasync(self._fd)
        except OSError as error:
            error.filename = self._path
            raise

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        deadline = self._clock.monotonic() + wait
        while True:
            try:
                with _naming(self._path):
                    fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._clock.sleep(min(_POLL_SECONDS, left))
            else:
                return True

    def unlock(self) -> None:
        with _naming(self._path):
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        # Not LOCK_UN: a forked child shares the parent's lock, and closing its copy must not drop it.
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            try:  # no call before this one: an interrupt there would leak the descriptor, and the lock with it
                os.close(fd)
            except OSError as error:
                error.filename = self._path
                raise

    def __del__(self) -> None:
        self.close()


class LocalDirectory:
    """An open directory of the real disk."""

    def __init__(
        self, fd: int, path: str, clock: Clock, *, file_mode: int, directory_mode: int, created_levels: int = 0
    ) -> None:
        self._fd = fd
        self.path = path
        self._clock = clock
        self._file_mode = file_mode
        self._directory_mode = directory_mode
        self._created_levels = created_levels  # this directory and how many above it were made by this open

    def list(self) -> list[str]:
        # A fresh descriptor: the read position of a shared one would be shared with other threads and children.
        with _naming(self.path):
            fd = os.open(".", _DIRECTORY, dir_fd=self._fd)
            try:
                return sorted(os.listdir(fd))
            finally:
                os.close(fd)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> LocalFile:
        path = os.path.join(self.path, _component(name))
        flags = _FILE | (os.O_RDWR if write or create else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(name, flags, self._file_mode, dir_fd=self._fd)
        except OSError as error:
            if error.errno in _WRONG_KIND:
                raise OSError(errno.EINVAL, "not a regular file", path) from None
            error.filename = path
            raise
        file = LocalFile(fd, name, path, self._clock)
        with _naming(path):
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                file.close()
                raise OSError(errno.EINVAL, "not a regular file", path)
            if create and stat.S_IMODE(mode) != self._file_mode:
                os.fchmod(fd, self._file_mode)
        return file

    def directory(self, name: str, *, create: bool = False) -> LocalDirectory:
        path = os.path.join(self.path, _component(name))
        if create:
            with _naming(path):
                _make_directory(name, self._directory_mode, dir_fd=self._fd)
        try:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        except NotADirectoryError:  # Linux says so for a symbolic link, too
            raise OSError(errno.EINVAL, "not a directory", path) from None
        except OSError as error:
            error.filename = path
            raise
        return LocalDirectory(fd, path, self._clock, file_mode=self._file_mode, directory_mode=self._directory_mode)

    def rename(self, old: str, new: str) -> None:
        with _naming(os.path.join(self.path, _component(old))):
            os.replace(old, _component(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        with _naming(os.path.join(self.path, _component(name))):
            os.unlink(name, dir_fd=self._fd)

    def sync(self) -> None:
        with _naming(self.path):
            _sync(self._fd)

    def sync_parents(self) -> None:
        """Sync the directory above, and go on upwards as long as this user may have made what was passed.

        A process that died after making several levels leaves names that nobody synced, and no trace of
        that; so every directory that is ours is taken for one of those. A mount point is nobody's entry.
        """
        fd, here = self._fd, os.fstat(self._fd)
        try:
            for level in range(1, _DEPTH_MAX):
                with _naming(os.path.join(self.path, *[".."] * level)):
                    try:
                        above_fd = os.open("..", _DIRECTORY, dir_fd=fd)
                    except PermissionError:
                        return
                    passed, fd = fd, above_fd  # first, so that after an interrupt `finally` closes none twice
                    if passed != self._fd:
                        os.close(passed)
                    above = os.fstat(fd)
                    if above.st_dev != here.st_dev or above.st_ino == here.st_ino:
                        return
                    _sync(fd)
                if level >= self._created_levels and above.st_uid != os.geteuid():
                    return
                here = above
        finally:
            if fd != self._fd:
                os.close(fd)

    def warnings(self) -> builtins.list[str]:
        with _naming(self.path):
            found = os.fstat(self._fd)
        sentences = []
        if found.st_mode & stat.S_IWOTH:
            sentences.append(f"{self.path} is writable by everybody on this machine")
        if found.st_uid != os.geteuid():
            sentences.append(f"{self.path} belongs to user {found.st_uid}, not to user {os.geteuid()} who runs this")
        return sentences

    def free_bytes(self) -> int:
        with _naming(self.path):
            found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            try:
                os.close(fd)
            except OSError as error:
                error.filename = self.path
                raise

    def __del__(self) -> None:
        self.close()


def _make_directory(path: str, mode: int, *, dir_fd: int | None = None) -> bool:
    """Make it with exactly this mode; False if the name is taken already."""
    try:
        os.mkdir(path, mode, dir_fd=dir_fd)
    except FileExistsError:
        return False
    # By name, not by descriptor: under umask 0777 it cannot be opened before its mode is right.
    if stat.S_IMODE(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode) != mode:
        os.chmod(path, mode, dir_fd=dir_fd)
    return True


class LocalDisk:
    """The file system of this machine."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> LocalDirectory:
        missing: list[str] = []
        if create:
            ancestor = path
            while ancestor and not os.path.lexists(ancestor):
                missing.append(ancestor)
                ancestor = os.path.dirname(ancestor.rstrip("/"))
        created = 0
        for each in reversed(missing):
            created += _make_directory(each, directory_mode)
        fd = os.open(path, _DIRECTORY)
        return LocalDirectory(
            fd, path, self._clock, file_mode=file_mode, directory_mode=directory_mode, created_levels=created
        )

    def boot_id(self) -> bytes:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return bytes.fromhex(file.read().strip().replace("-", ""))
        except FileNotFoundError:  # only Linux has it
            return bytes(16)

    def free_bytes(self, directory: Directory) -> int:
        if not isinstance(directory, LocalDirectory):
            raise TypeError(f"not a directory of this disk: {directory!r}")
        return directory.free_bytes()

    def holder(self) -> str:
        program = os.path.basename(sys.executable) or "python"
        script = os.path.basename(sys.argv[0]) if sys.argv else ""
        return f"pid {os.getpid()} ({program} {script}".rstrip() + f") on {socket.gethostname()}"
