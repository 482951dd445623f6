"""What could not be handled: the dead-letter queue in `dead/`, a small log of its own (FORMAT.md §9, §10.10).

It is opened for each diversion under its own lock, written, synced and closed; only then may a cursor move.
Entries are keyed, so the same damage or message is there exactly once, whoever meets it, however often they crash.
Damage inside it is reported, never diverted again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from seglog.clock import Clock
from seglog.disk.base import Directory, Disk
from seglog.errors import DeadLetterWriteFailed, SeglogError, storage_errors
from seglog.format.dead_letter import Envelope, decode_letter, encode_letter
from seglog.format.names import DEAD, META
from seglog.group_commit import Ticket
from seglog.model import DeadLetter
from seglog.opening import open_for_writing
from seglog.options import MIB, LogOptions
from seglog.reader import Run, Scan
from seglog.view import View

logger = logging.getLogger("seglog")

LOCK_WAIT_SECONDS = 5.0
_SEGMENT_BYTES = 16 * MIB


class DeadLetters:
    """The dead letters of one log. Thread-safe; iterating gives `DeadLetter`s, oldest first."""

    def __init__(self, disk: Disk, clock: Clock, root: Directory, options: LogOptions, cap_bytes: int) -> None:
        self._disk = disk
        self._clock = clock
        self._root = root
        # One record holds a whole batch's damaged bytes at most, cut to the envelope's limit.
        self._options = LogOptions(max_record_bytes=32 * MIB, segment_bytes=_SEGMENT_BYTES, file_mode=options.file_mode)
        self._cap_bytes = cap_bytes
        self._mutex = threading.Lock()
        self._known: set[tuple[object, ...]] = set()
        self._scanned = 0

    def prepare(self) -> None:
        """Make the queue with its first segment, if it is not there: the space is the reserve for a full disk."""
        with self._mutex:
            try:
                dead = self._root.directory(DEAD, create=DEAD not in self._root.list())
                try:
                    if META not in dead.list():
                        self._append(dead, [])
                finally:
                    dead.close()
            except (OSError, SeglogError) as error:
                logger.warning("the dead-letter queue has no reserve: %s", error)

    def divert(self, letters: list[Envelope]) -> None:
        """Keep these, each once; durable on return. Raises DeadLetterWriteFailed if they cannot be kept."""
        with self._mutex:
            try:
                dead = self._root.directory(DEAD, create=DEAD not in self._root.list())
                try:
                    self._append(dead, letters)
                finally:
                    dead.close()
            except (OSError, SeglogError) as error:
                raise DeadLetterWriteFailed(f"{len(letters)} dead letters could not be kept: {error}") from error

    def _append(self, dead: Directory, letters: list[Envelope]) -> None:
        opened = open_for_writing(self._disk, self._clock, dead, self._options, wait=LOCK_WAIT_SECONDS)
        appender, catalog, state = opened.appender, opened.catalog, opened.meta.state
        try:
            # What another process diverted since, and what we did before a crash, is there already.
            scan = Scan(catalog, lambda: state, lambda: appender.seen, self._scanned)
            self._known.update(letter.identity for _, letter in _letters(scan) if letter is not None)
            self._scanned = appender.seen.end_offset
            fresh = {letter.identity: letter for letter in letters if letter.identity not in self._known}
            payloads = [encode_letter(letter) for letter in fresh.values()]
            size = sum(map(len, payloads)) + 8 * len(payloads)
            if payloads:
                first = catalog.facts(catalog.names[0]).header
                used = appender.bytes_total - (first.bytes_before if first is not None else 0)
                if used + size > self._cap_bytes:
                    raise DeadLetterWriteFailed(
                        f"it holds {used} bytes and may hold {self._cap_bytes}; make room in it or raise the cap"
                    )
                appender.commit([Ticket(payloads, None, size)])
                self._known.update(fresh)
                self._scanned = appender.seen.end_offset
        finally:
            try:
                appender.close()
            finally:
                opened.lock.file.unlock()  # not by closing alone: a child forked meanwhile has a copy
                opened.close()

    def __iter__(self) -> Iterator[DeadLetter]:
        for offset, letter in self._view():
            if letter is not None:
                yield DeadLetter(
                    id=offset,
                    reason=letter.reason,
                    detail=letter.detail,
                    consumer=letter.consumer,
                    payload=letter.payload,
                    key=letter.key,
                    headers=letter.headers or {},
                    offset=letter.offset,
                    last_offset=letter.last_offset,
                    attempts=letter.attempts,
                    timestamp=letter.time_ns / 1e9,
                )

    def __len__(self) -> int:
        return sum(1 for _, letter in self._view() if letter is not None)

    def __bool__(self) -> bool:
        return True

    def _view(self) -> Iterator[tuple[int, Envelope | None]]:
        """All entries as they are on disk now."""
        with storage_errors("reading the dead letters"):
            try:
                dead = self._root.directory(DEAD)
            except FileNotFoundError:
                return
            try:
                view = View.open(self._disk, dead)
                if view is None:
                    return
                try:
                    yield from _letters(view.scan(view.state.start_offset))
                finally:
                    view.close()
            finally:
                dead.close()


def _letters(scan: Scan) -> Iterator[tuple[int, Envelope | None]]:
    """Offsets and envelopes; None where the queue itself is damaged."""
    try:
        while (found := scan.next()) is not None:
            if not isinstance(found, Run):
                logger.warning(
                    "dead letters %d to %d: %s (%s)", found.first, found.stop - 1, found.reason, found.detail
                )
                continue
            for offset, payload in enumerate(found.records, found.first):
                try:
                    yield offset, decode_letter(payload)
                except ValueError:
                    logger.warning("dead letter %d is no envelope", offset)
                    yield offset, None
    finally:
        scan.close()
