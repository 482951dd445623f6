"""What seglog asks of a disk, and what it may rely on (FORMAT.md §2).

The durability contract, the same for every disk:

- `File.write` and `File.truncate` change what later reads see, and promise nothing about power loss.
- `File.allocate` makes a range that reads zero and in which later writes need no new space, where it can.
- `File.sync` makes data and size durable, `File.datasync` data and what is needed to read it back.
- A created, renamed or unlinked name is durable only after `Directory.sync` of the directory it is in.
- After a sync failed, nothing is known of the file's unsynced bytes, and another sync proves nothing.

Errors are OSError with errno and, where there is one, the file name. Names are single path components;
directories and files are opened relative to their directory, never through a symbolic link, and only
regular files and directories are accepted (else OSError with ELOOP or EINVAL).
"""

from __future__ import annotations

import builtins
from typing import Protocol


class File(Protocol):
    """An open regular file. Not buffered; positions and lengths in bytes."""

    name: str

    def read(self, position: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        ...

    def write(self, position: int, data: bytes | memoryview) -> None:
        """All of `data`, front to back; short writes are continued. On OSError any prefix may have been written."""
        ...

    def size(self) -> int: ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, position: int, length: int) -> None:
        """Extend the file to at least `position + length`, zero there; OSError(ENOSPC) if there is no room."""
        ...

    def sync(self) -> None:
        """Data and metadata (size, mode) are durable on return."""
        ...

    def datasync(self) -> None:
        """Data, and the size needed to read it, are durable on return."""
        ...

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        """Take the lock of this open file, waiting up to `wait` seconds; False if held by another.

        Exclusive, or `shared` with others who take it shared. Held until `unlock` or `close`, or until the process
        dies. Another opening of the same file in the same process conflicts too (flock semantics, never POSIX record
        locks).
        """
        ...

    def unlock(self) -> None: ...

    def close(self) -> None:
        """Idempotent; drops the lock."""
        ...


class Directory(Protocol):
    """An open directory."""

    path: str

    def list(self) -> list[str]:
        """The names in it, sorted."""
        ...

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        """Open a regular file. `create` makes it (exclusively: FileExistsError) with the disk's file mode,
        whatever the umask."""
        ...

    def directory(self, name: str, *, create: bool = False) -> Directory:
        """Open a directory in this one; `create` makes it first if it is not there."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomically, replacing `new` if it exists."""
        ...

    def unlink(self, name: str) -> None: ...

    def sync(self) -> None:
        """The names in this directory are durable on return."""
        ...

    def sync_parents(self) -> None:
        """The names on the path to this directory are durable on return, as far up as they may be ours (whoever
        made them may have died before syncing them); a parent that may not be opened is passed over."""
        ...

    def warnings(self) -> builtins.list[str]:
        """What is unsafe about this directory (world-writable, foreign owner), as sentences."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Disk(Protocol):
    """Where logs live."""

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> Directory:
        """Open the root directory of a log; `create` makes it and its missing parents.

        Modes hold for what is created below, whatever the umask; an existing root keeps its own. Raises
        FileNotFoundError, NotADirectoryError. The root itself may be reached through symbolic links.
        """
        ...

    def boot_id(self) -> bytes:
        """16 bytes that change when the machine restarts (all zero if unknown)."""
        ...

    def free_bytes(self, directory: Directory) -> int:
        """Free space where this directory is, for this user."""
        ...

    def holder(self) -> str:
        """How this process is named in a lock's error message: pid, host, program."""
        ...
