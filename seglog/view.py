"""A log directory as a reader sees it, without the writer's lock: nothing is created or changed (FORMAT.md §10.3)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from seglog.catalog import Catalog, Meta
from seglog.disk.base import Directory, Disk
from seglog.errors import NotALog
from seglog.format import names as N
from seglog.format.cursor_state import Seen
from seglog.format.meta_state import MetaState
from seglog.horizon import HintHorizon
from seglog.lock_file import LockFile
from seglog.reader import Scan


@dataclass
class View:
    """An open log directory. `segments` is None while there is nothing in it yet."""

    root: Directory
    segments: Directory
    lock: LockFile | None
    meta: Meta | None
    catalog: Catalog
    horizon: HintHorizon
    log_id: bytes

    @classmethod
    def open(cls, disk: Disk, root: Directory) -> View | None:
        """None if the directory holds no segments yet (an empty log). Raises NotALog for somebody else's files."""
        entries = check_is_log(root)
        if N.SEGMENTS not in entries:
            return None
        segments = root.directory(N.SEGMENTS)
        lock = meta = None
        try:
            catalog = Catalog(segments)
            lock = LockFile.for_reading(root)
            if lock is not None:
                catalog.hint = lock.hint
            meta = Meta.open(root, write=False)
            log_id = meta.log_id if meta is not None else id_from_segments(catalog)
            catalog.log_id = log_id
            catalog.settle()
            horizon = HintHorizon(catalog, lock, disk.boot_id())
            return cls(root, segments, lock, meta, catalog, horizon, log_id or bytes(16))
        except BaseException:
            for handle in (segments, lock, meta):
                if handle is not None:
                    handle.close()
            raise

    @property
    def state(self) -> MetaState:
        """What `meta` says; without it, what the listing says."""
        if self.meta is not None:
            return self.meta.state
        names = self.catalog.names
        return MetaState(names[0].base_offset if names else 0)

    def scan(self, offset: int) -> Scan:
        return Scan(self.catalog, lambda: self.state, self.seen, offset)

    def seen(self) -> Seen:
        return self.horizon.seen()

    def close(self) -> None:
        with ExitStack() as files:
            for handle in (self.segments, self.lock, self.meta):
                if handle is not None:
                    files.callback(handle.close)


def check_is_log(root: Directory) -> list[str]:
    """The names in the directory. Raises NotALog if they are others' and none of ours."""
    entries = root.list()
    others = [name for name in entries if name not in N.IGNORED and not N.is_temporary(name)]
    if others and not N.OURS.intersection(others):
        raise NotALog(
            f"{root.path}: not a log: it holds other files ({others[0]!r} …); a new log wants an empty directory"
        )
    return entries


def id_from_segments(catalog: Catalog) -> bytes | None:
    """The log id as the newest readable segment header gives it."""
    for name in reversed(catalog.names):
        header = catalog.facts(name).header
        if header is not None and any(header.log_id):  # a header put together from hint or successor knows none
            return header.log_id
    return None
