"""Open a log directory, as writer or as reader, and hand out the public object."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from seglog.catalog import Meta
from seglog.clock import Clock, SystemClock
from seglog.dead_letters import DeadLetters
from seglog.disk.base import Directory, Disk
from seglog.disk.memory import MemoryDisk
from seglog.errors import InvalidOption, LogNotFound, NotALog, StorageError, storage_error
from seglog.log import Log
from seglog.model import OpenReport, Origin, Serializer, Value
from seglog.opening import open_for_writing
from seglog.options import MIB, LogOptions, whole
from seglog.source import Source
from seglog.view import View

_CREATION_LOOKS = 100
_CREATION_PAUSE_SECONDS = 0.02


def open_log(
    path: str | os.PathLike[str],
    mode: str = "rw",
    *,
    durability: str = "always",
    sync_interval: float = 0.1,
    segment_bytes: int = 64 * MIB,
    max_record_bytes: int = 16 * MIB,
    compression: str | None = None,
    file_mode: int = 0o600,
    max_bytes: int | None = None,
    max_records: int | None = None,
    when_full: str = "block",
    retention_bytes: int | str | None = None,
    retention_seconds: float | str | None = None,
    dead_letter_bytes: int = 64 * MIB,
    serializer: Serializer[Value] | None = None,
    strict: bool = False,
    disk: Disk | None = None,
    clock: Clock | None = None,
) -> Log[Value]:
    """Open a log directory; "rw" creates it if need be and recovers it (see `Log.report`).

    Args:
        path: the directory; the str ":memory:" means a log that lives in this process only.
        mode: "rw": the one writer. "r": reads, and consumes by name, beside a live writer or without one.
        durability: "always": append returns when the record is fsynced. "interval": when it is written; a sync
            follows within `sync_interval` seconds, and readers see it then. "never": survives the death of the
            process, not power loss.
        sync_interval: seconds.
        segment_bytes: a target; a batch that does not fit opens a new segment.
        max_record_bytes: of one payload.
        compression: None or "zstd", per batch.
        file_mode: of what is created; directories get x where this has r.
        max_bytes, max_records: how much may be there that is not yet consumed: counted from the lowest watermark of
            all registered consumers, without any from the first record; never exceeded.
        when_full: "block": append waits (see its `timeout`). "error": it raises LogFull. "drop_oldest": the oldest
            records go, just so many that it fits; consumers that wanted them get a gap "dropped".
        retention_bytes, retention_seconds: what all consumers have passed is kept for replay until so many newer bytes
            have been passed, too, or its last append is so long ago (one suffices); None: given back as soon as all
            have passed it. Without consumers: the most that is kept; None: everything. Whole segments. Other
            processes that compact keep it, too. In mode "r": for this opening's `compact` only. "kept": as the writer
            before said.
        dead_letter_bytes: the most that the dead-letter queue may hold.
        serializer: an object with dumps(value) -> bytes and loads(bytes) -> value; None for bytes.
        strict: raise DamageFound instead of opening a log that shows damage.
        disk, clock: for tests.

    Raises InvalidOption, NotALog, LogNotFound (mode "r"), LogLocked, UnsupportedVersion, DamageFound (strict),
    StorageError. An existing log opens whatever its bytes are, also on a full disk; a new one is not made there
    (DiskFull).
    """
    if sys.platform == "win32":
        raise NotImplementedError("seglog needs POSIX file locks and directory syncs; Windows is not supported yet")
    options = LogOptions(
        mode,
        durability,
        sync_interval,
        segment_bytes,
        max_record_bytes,
        compression,
        file_mode,
        strict,
        max_bytes,
        max_records,
        when_full,
        retention_bytes,
        retention_seconds,
    )
    whole("dead_letter_bytes", dead_letter_bytes, 4096, 1 << 40)
    if serializer is not None and not all(callable(getattr(serializer, name, None)) for name in ("dumps", "loads")):
        raise InvalidOption(f"serializer={serializer!r}: expected an object with dumps and loads")
    if disk is None:
        if path == ":memory:":
            disk = MemoryDisk()
        else:
            from seglog.disk.local import LocalDisk

            disk = LocalDisk()
    clock = clock or SystemClock()
    root, name = _root(path, options, disk)
    try:
        return _open(root, name, options, disk, clock, serializer, dead_letter_bytes)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to tell
            root.close()
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise storage_error(error, f"opening {name}") from error
        raise


def _root(path: str | os.PathLike[str], options: LogOptions, disk: Disk) -> tuple[Directory, str]:
    """The directory, made if need be, and its name."""
    name: object = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidOption(f"path {path!r}: expected a directory name")
    create = options.mode == "rw"
    try:
        modes = {"file_mode": options.file_mode, "directory_mode": options.directory_mode}
        return disk.open(name, create=create, **modes), name
    except FileNotFoundError as error:
        why = "cannot be created" if create else "only a writer makes one"
        raise LogNotFound(f"{name}: no such directory; {why}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise NotALog(f"{name}: a log is a directory, this is a file") from error
    except OSError as error:
        raise storage_error(error, f"opening {name}") from error


def _open(
    root: Directory,
    name: str,
    options: LogOptions,
    disk: Disk,
    clock: Clock,
    serializer: Serializer[Value] | None,
    dead_letter_bytes: int,
) -> Log[Value]:
    letters = DeadLetters(disk, clock, root, options, dead_letter_bytes)
    if options.mode == "rw":
        opened = open_for_writing(disk, clock, root, options)
        try:
            letters.prepare()
            source = Source(
                Origin(opened.meta.log_id.hex(), serializer),
                opened.catalog,
                clock,
                letters,
                root,
                Meta.open(root, write=False),
                appender=opened.appender,
            )
            return Log(options, source, disk, name, opened.report, opened, None)
        except BaseException:
            opened.close()
            raise
    view = _view(disk, root, clock)
    if view is None:
        raise LogNotFound(f"{name}: an empty directory, no log yet; only a writer makes one")
    source = Source(
        Origin(view.log_id.hex(), serializer), view.catalog, clock, letters, root, view.meta, horizon=view.horizon
    )
    return Log(options, source, disk, name, OpenReport(), None, view)


def _view(disk: Disk, root: Directory, clock: Clock) -> View | None:
    """The view; if a writer is just creating the log (`meta` comes last), wait a moment for it to finish."""
    for _ in range(_CREATION_LOOKS):
        view = View.open(disk, root)
        if view is None or view.meta is not None or view.lock is None or not view.lock.is_held():
            return view
        view.close()
        clock.sleep(_CREATION_PAUSE_SECONDS)
    return View.open(disk, root)
