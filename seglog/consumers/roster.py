"""The consumers of one open log: opened, counted, removed; those of other processes as their cursors tell.

In mode "r" the first consumer is the first thing that is written to the directory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Generic, TypeVar

from seglog.catalog import Meta
from seglog.consumers.consumer import MAX_IN_FLIGHT, Consumer
from seglog.consumers.cursor import Cursor, read_note
from seglog.consumers.registry import Registry
from seglog.consumers.retry import RetryPolicy
from seglog.consumers.standing import standing
from seglog.cursor_files import read_cursors
from seglog.disk.base import Directory
from seglog.errors import InvalidOption, LogClosed, NotALog, StorageError, UnknownConsumer, storage_error
from seglog.format.cursor_state import CursorState
from seglog.format.layout import SEGMENT_RECORDS_MAX
from seglog.format.names import CURSORS, META
from seglog.intervals import Intervals
from seglog.model import ConsumerStats, Gap, Start
from seglog.options import consumer_name, whole
from seglog.source import Source

T = TypeVar("T")
logger = logging.getLogger("seglog")


class Roster(Generic[T]):
    """Who consumes this log. Thread-safe."""

    def __init__(self, source: Source[T], registry: Registry | None, path: str) -> None:
        self._source = source
        self._registry = registry
        self._path = path
        self._lock = threading.RLock()
        self._open: dict[str, tuple[Consumer[T], tuple[object, ...]]] = {}
        self._cursors: Directory | None = None  # these two are opened here in mode "r"
        self._meta: Meta | None = None

    def consumer(
        self,
        name: str,
        start: Start,
        policy: RetryPolicy,
        max_in_flight: int,
        on_gap: Callable[[Gap], None] | None,
    ) -> Consumer[T]:
        """See `Log.consumer`."""
        consumer_name(name)
        whole("max_in_flight", max_in_flight, 1, MAX_IN_FLIGHT)
        settings = (policy, max_in_flight, on_gap)
        with self._lock:
            known = self._open.get(name)
            if known is not None:
                if known[1] != settings:
                    raise InvalidOption(f"consumer {name!r} is open with other options; close it first")
                return known[0]
            registry = self.registry()
            try:
                cursor = self._cursor(registry, name, start)
            except StorageError:
                raise
            except OSError as error:
                raise storage_error(error, f"opening consumer {name!r}") from error
            try:
                made = Consumer(
                    self._source,
                    cursor,
                    policy=policy,
                    max_in_flight=max_in_flight,
                    on_gap=on_gap,
                    on_close=self._forget,
                    register_lock=registry.locked,
                )
            except BaseException:
                cursor.close()
                raise
            self._open[name] = made, settings
            self._source.setbacks += 1
            return made

    def _forget(self, consumer: Consumer[T]) -> None:
        with self._lock:
            known = self._open.get(consumer.name)
            if known is not None and known[0] is consumer:
                del self._open[consumer.name]

    def watermarks(self) -> dict[str, int]:
        """Of the consumers that are open here. Takes no lock: an append asks."""
        return {name: consumer.watermark for name, (consumer, _) in list(self._open.items())}

    def _opened(self) -> list[Consumer[T]]:
        """Those that are open now; to be called without our lock, as they take theirs first."""
        with self._lock:
            return [consumer for consumer, _ in self._open.values()]

    def _cursor(self, registry: Registry, name: str, start: Start) -> Cursor:
        source = self._source
        cursor: Cursor | None = None
        try:
            with registry.locked():
                if name not in registry.names():
                    registry.register(name, source.resolve(start))
                cursor = Cursor.open(registry.cursors, name, registry.meta.log_id)
                # Nothing was ever shown this far ahead (opening would have jumped): such a cursor is damaged.
                if cursor is not None and cursor.watermark > source.seen().end_offset + SEGMENT_RECORDS_MAX:
                    cursor.close()
                    cursor = None
                if cursor is None:
                    logger.warning("the cursor of consumer %r does not read back; it begins again at the start", name)
                    registry.restart(name, source.first_offset())
                    cursor = Cursor.open(registry.cursors, name, registry.meta.log_id)
        except BaseException:
            if cursor is not None:
                cursor.close()
            raise
        if cursor is None:
            raise StorageError(5, f"the cursor of consumer {name!r} cannot be read even after it was made anew")
        return cursor

    def registry(self) -> Registry:
        """The registry, opened for writing. The one who writes the log always has it, and waits for nobody here."""
        if self._registry is not None:
            return self._registry
        with self._lock:
            if self._registry is None:
                root = self._source.root
                try:
                    self._cursors = root.directory(CURSORS, create=CURSORS not in root.list())
                    meta = Meta.open(root, write=True)
                except OSError as error:
                    raise storage_error(error, "opening the register of consumers") from error
                if meta is None:
                    raise NotALog(
                        f"{self._path}: {META} is missing or damaged; `seglog repair` rebuilds it, and so does opening "
                        f"the log for writing"
                    )
                self._meta = meta
                self._registry = Registry(self._cursors, meta)
            return self._registry

    def stats(self) -> dict[str, ConsumerStats]:
        """Every registered consumer and where it stands."""
        source = self._source
        states: dict[str, CursorState | None] = {}
        in_flight: dict[str, int] = {}
        with suppress(FileNotFoundError):  # then all that are registered begin again
            cursors = source.root.directory(CURSORS)
            try:
                states = read_cursors(cursors, bytes.fromhex(source.origin.log_id))
                in_flight = {name: read_note(cursors, name).in_flight for name in states}
            finally:
                cursors.close()
        found = {}
        for name, start in source.state().consumers:
            held = self._open.get(name)
            if held is not None:
                with suppress(LogClosed):  # closed a moment ago: then its file says all
                    found[name] = held[0].stats()
                    continue
            state = states.get(name)
            mark, acked = (start, Intervals()) if state is None else (state.watermark, Intervals(state.acked))
            found[name] = standing(source, mark, acked, in_flight.get(name, 0))
        return found

    def remove(self, name: str) -> None:
        """See `Log.remove_consumer`."""
        consumer_name(name)
        with self._lock:
            held = self._open.get(name)
        if held is not None:
            held[0].close()
        with self._lock:
            registry = self.registry()
            with registry.locked():
                if name not in registry.names():
                    raise UnknownConsumer(f"no consumer {name!r} is registered in {self._path}")
                cursor = Cursor.open(registry.cursors, name, registry.meta.log_id)  # raises ConsumerBusy
                if cursor is not None:
                    cursor.close()
                registry.remove(name)
                self._source.setbacks += 1  # without consumers, nothing is consumed

    def flush(self) -> None:
        """Make positions durable that gaps moved."""
        for consumer in self._opened():
            consumer.flush()

    def close(self) -> None:
        """Close every consumer."""
        with ExitStack() as consumers:  # every one, whatever the others say
            for consumer in self._opened():
                consumers.callback(consumer.close)

    def after_fork(self) -> None:
        """In the child: nobody who held a lock exists here."""
        self._lock = threading.RLock()
        with ExitStack() as consumers:
            for consumer, _ in self._open.values():
                consumers.callback(consumer.after_fork)

    def abandon(self) -> None:
        """Close files and nothing else: last thing at close."""
        with ExitStack() as files:
            for handle in (self._cursors, self._meta):
                if handle is not None:
                    files.callback(handle.close)
            for consumer, _ in self._open.values():
                files.callback(consumer.abandon)
