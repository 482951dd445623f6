"""What a log directory holds and what it lost: reads everything, changes nothing (FORMAT.md §10.8)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from seglog.audit import Audit, Progress
from seglog.clock import SystemClock
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Directory, Disk
from seglog.errors import LogNotFound, NotALog, storage_errors
from seglog.format.names import DEAD
from seglog.model import OffsetRange, VerifyReport
from seglog.options import LogOptions

_NO_DIRECTORY = (errno.EINVAL, errno.ENOTDIR, errno.ELOOP)
_LOOKS = 3  # at the dead letters: somebody may be adding one at this moment


def verify(path: str | os.PathLike[str], progress: Progress | None = None, *, disk: Disk | None = None) -> VerifyReport:
    """Read the whole log and say what is lost.

    Args:
        path: the log directory.
        progress: called with (bytes read so far, bytes in all) now and then.
        disk: for tests.

    Returns a report; `ok` is False where anything is damaged, suspect or missing. What a repair declared lost is told
    as `repaired`, and nothing else is said of it. What is not well among the dead letters is a warning, as it costs the
    log nothing.
    Raises LogNotFound, NotALog, UnsupportedVersion, StorageError: it could not be checked.
    """
    if disk is None:
        from seglog.disk.local import LocalDisk

        disk = LocalDisk()
    with log_directory(disk, os.fspath(path), "verifying") as root:
        audit = Audit(disk, root, progress).run()
        return _report(audit, *_dead_letters(disk, root))


@contextmanager
def log_directory(disk: Disk, name: str, doing: str, file_mode: int = 0o600) -> Iterator[Directory]:
    """An existing log directory; whatever the disk says in here leaves in its typed form."""
    with storage_errors(f"{doing} {name}"):
        modes = LogOptions(file_mode=file_mode)
        try:
            root = disk.open(name, create=False, file_mode=file_mode, directory_mode=modes.directory_mode)
        except FileNotFoundError as error:
            raise LogNotFound(f"{name}: no such directory") from error
        except (NotADirectoryError, FileExistsError) as error:
            raise NotALog(f"{name}: a log is a directory, this is a file") from error
        try:
            yield root
        finally:
            root.close()


def audit_dead(disk: Disk, root: Directory, *, alone: bool = False) -> Audit | None:
    """What is not well in `dead/`; None without one. What only looks bad while it is being written is well in the
    next look. `alone`: the caller holds its lock."""
    try:
        dead = root.directory(DEAD)
    except FileNotFoundError:
        return None
    try:
        audit = _audited(Audit(disk, dead, alone=alone))
        for _ in range(_LOOKS - 1):
            if audit.well or alone:
                break
            audit = _audited(Audit(disk, dead, alone=alone))
        return audit
    finally:
        dead.close()


def _audited(audit: Audit) -> Audit:
    try:
        return audit.run()
    except NotALog as error:
        audit.warnings.append(str(error))
        return audit


def _dead_letters(disk: Disk, root: Directory) -> tuple[list[str], int]:
    """What is not well among them, and how many there are. Somebody's file in their place is no reason not to check
    the log."""
    try:
        dead = audit_dead(disk, root)
        letters = len(DeadLetters(disk, SystemClock(), root, LogOptions(), 1 << 40))
        return [] if dead is None else list(_in_dead(dead)), letters
    except OSError as error:
        if error.errno not in _NO_DIRECTORY:
            raise
        return [f"{DEAD} is no directory, so dead letters cannot be kept"], 0


def _report(audit: Audit, in_dead: list[str], dead_letters: int) -> VerifyReport:
    warnings = [*audit.warnings, *in_dead]
    return VerifyReport(
        ok=audit.well,
        acknowledged_loss=audit.lost,
        segments=audit.segments,
        records=audit.records,
        first_offset=audit.first_offset,
        next_offset=audit.next_offset,
        bytes=audit.bytes,
        torn_tail_bytes=audit.torn_bytes,
        damage=tuple(found.damage for found in audit.findings if not found.suspect),
        suspect=tuple(
            OffsetRange(found.damage.first_offset or 0, found.damage.last_offset or 0)
            for found in audit.findings
            if found.suspect
        ),
        missing=tuple(audit.missing),
        skipped=tuple(audit.skipped),
        repaired=tuple(audit.repaired),
        cursors=audit.cursors,
        dead_letters=dead_letters,
        warnings=tuple(warnings),
    )


def _in_dead(dead: Audit) -> Iterator[str]:
    """What is not well there costs the log nothing, so it is no finding of its own."""
    for found in dead.findings:
        damage = found.damage
        lost = "" if damage.first_offset is None else f", dead letters {damage.first_offset} to {damage.last_offset}"
        where = f"{DEAD}/{damage.segment}: {damage.length} bytes at {damage.position}"
        yield f"{where}{lost}: {damage.reason}"
    for gone in dead.missing:
        yield f"{DEAD}/: dead letters {gone.first_offset} to {gone.last_offset} are missing"
    for warning in dead.warnings:
        yield f"{DEAD}/: {warning}"
