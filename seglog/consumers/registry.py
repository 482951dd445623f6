"""Who is registered as a consumer, and what was reclaimed: all that `meta` may say, and the lock under which it
changes (FORMAT.md §7.2, §10.9).

`meta` is written only under `cursors/.lock`, by whichever process registers, compacts or purges.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from seglog.catalog import Meta
from seglog.consumers.cursor import Cursor
from seglog.disk.base import Directory, File
from seglog.errors import InvalidOption, StorageError, UnknownConsumer, storage_error
from seglog.format import layout as L
from seglog.format.names import CURSOR_SUFFIX, CURSORS_LOCK, batch_file_name, cursor_file_name

LOCK_WAIT_SECONDS = 30.0


class Registry:
    """The consumers of one log directory."""

    def __init__(self, cursors: Directory, meta: Meta) -> None:
        self.cursors = cursors
        self.meta = meta

    @contextmanager
    def locked(self, wait: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
        """Hold `cursors/.lock`; `meta` is fresh inside."""
        try:
            file = self._lock_file()
            try:
                if not file.lock(wait=wait):
                    raise StorageError(errno.EAGAIN, f"another process holds it for more than {wait:.0f} s", file.name)
                self.meta.reload()
                self.meta.confirm()
                if not self.meta.file.whole:
                    # A registration may have been torn: before `meta` is whole again it must name all who count now.
                    self._store(self.names())
                yield
            finally:
                try:
                    file.unlock()  # not by closing alone: a child forked meanwhile has a copy of the descriptor
                finally:
                    file.close()
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(error, "changing the register of consumers") from error

    def _lock_file(self) -> File:
        try:
            return self.cursors.open(CURSORS_LOCK, write=True)
        except FileNotFoundError:
            try:
                return self.cursors.open(CURSORS_LOCK, write=True, create=True)
            except FileExistsError:
                return self.cursors.open(CURSORS_LOCK, write=True)

    def names(self) -> dict[str, int]:
        """Registered consumers and where they started. A cursor whose file `meta` does not know counts while a
        slot of `meta` is bad: nothing may be deleted past a consumer that was perhaps forgotten."""
        found = dict(self.meta.state.consumers)
        if not self.meta.file.whole:
            for entry in self.cursors.list():
                if entry.endswith(CURSOR_SUFFIX):
                    found.setdefault(entry.removesuffix(CURSOR_SUFFIX), self.meta.state.start_offset)
        return found

    def register(self, name: str, start: int) -> None:
        """Under the lock: make the consumer known. Durable on return."""
        known = self.names()
        twin = next((other for other in known if other.lower() == name.lower() and other != name), None)
        if twin is not None:
            raise InvalidOption(f"consumer name {name!r} differs from the registered {twin!r} only in case")
        if len(known) >= L.META_CONSUMERS_MAX:
            raise InvalidOption(f"{len(known)} consumers are registered, the most there can be; remove some")
        # The cursor first: a name in `meta` without a file would pin the whole log.
        if cursor_file_name(name) in self.cursors.list():
            self.cursors.unlink(cursor_file_name(name))
        Cursor.create(self.cursors, name, start, self.meta.log_id)
        self.cursors.sync()
        known[name] = start
        self._store(known)

    def restart(self, name: str, start: int) -> None:
        """Under the lock: give a registered consumer whose file is lost a new one, which begins at `start`."""
        if cursor_file_name(name) in self.cursors.list():
            self.cursors.unlink(cursor_file_name(name))
        Cursor.create(self.cursors, name, start, self.meta.log_id)
        self.cursors.sync()

    def remove(self, name: str) -> None:
        """Under the lock: forget the consumer. `meta` first, so that a crash leaves a stray file, not a pin."""
        known = self.names()
        if name not in known:
            raise UnknownConsumer(f"no consumer {name!r} is registered")
        del known[name]
        self._store(known)
        gone = {cursor_file_name(name), batch_file_name(name)}.intersection(self.cursors.list())
        for file_name in sorted(gone):
            self.cursors.unlink(file_name)
        if gone:
            self.cursors.sync()

    def _store(self, consumers: dict[str, int]) -> None:
        self.meta.store(self.meta.state._replace(consumers=tuple(sorted(consumers.items()))))
