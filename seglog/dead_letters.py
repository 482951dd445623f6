"""What could not be handled: the dead-letter queue, kept in the log in `dead/` (FORMAT.md §9, §10.10).

A cursor moves only after `divert` returned. Entries are keyed, so the same damage or message is there once, whoever
meets it, however often they crash. Damage inside `dead/` is reported, never diverted again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from seglog.clock import Clock
from seglog.dead_log import Contents, DeadLog, changing, reading
from seglog.disk.base import Directory, Disk
from seglog.errors import (
    DamageFound,
    DeadLetterWriteFailed,
    InvalidOption,
    ReadOnly,
    SeglogError,
    storage_errors,
)
from seglog.format.dead_letter import Envelope, encode_letter
from seglog.format.layout import OFFSET_MAX
from seglog.format.names import DEAD, META
from seglog.intervals import Intervals
from seglog.model import DeadLetter, Gap, Record
from seglog.options import LogOptions, seconds, whole

logger = logging.getLogger("seglog")


class Replayer(Protocol):
    """Appends records whose values are encoded already: yields the offsets of a batch once it is durable.

    All are checked before the first is appended. `timeout` as in `Log.append`.
    """

    def __call__(self, records: Sequence[Record[bytes]], timeout: float | None) -> Iterator[range]: ...


class DeadLetters:
    """The dead letters of one log. Thread-safe; iterating gives `DeadLetter`s, oldest first. Works in mode "r" too."""

    def __init__(self, disk: Disk, clock: Clock, root: Directory, options: LogOptions, cap_bytes: int) -> None:
        self._disk = disk
        self._clock = clock
        self._root = root
        self._file_mode = options.file_mode
        self._cap_bytes = cap_bytes
        self._mutex = threading.Lock()  # waits in here are bounded: consumers divert under their own lock
        self._replaying = threading.Lock()
        self._check: Callable[[], None] = lambda: None
        self._replayer: Replayer | None = None
        self._known: dict[tuple[object, ...], int] = {}  # identities in `dead/`, with their ids
        self._known_of = b""  # the id of the log in `dead/` that they are of
        self._known_from = 0
        self._scanned = 0

    def attach(self, check: Callable[[], None], replayer: Replayer | None) -> None:
        """To an open log: `check` raises once it is closed; without a replayer nothing can be replayed."""
        self._check, self._replayer = check, replayer

    # -- keeping

    def prepare(self) -> None:
        """Make the queue, if it is not there: the space behind its end is the reserve for a full disk."""
        with self._mutex:
            try:
                if DEAD in self._root.list():
                    dead = self._root.directory(DEAD)
                    try:
                        if META in dead.list():
                            return
                    finally:
                        dead.close()
                with self._changing() as log:
                    log.reserve()
            except (OSError, SeglogError) as error:
                logger.warning("the dead-letter queue has no reserve: %s", error)

    def divert(self, letters: Sequence[Envelope]) -> None:
        """Keep these, each once; durable on return. Raises DeadLetterWriteFailed if they cannot be kept."""
        wanted = {letter.identity: (letter, encode_letter(letter)) for letter in letters}
        largest = max((len(data) for _, data in wanted.values()), default=0)
        with self._mutex:
            try:
                with self._changing(largest) as log:
                    # What another process diverted since, and what we did before a crash, is there already.
                    contents = log.contents()
                    self._learn(contents)
                    fresh = [data for letter, data in wanted.values() if not self._is_kept(letter, contents)]
                    if fresh:
                        log.append(fresh)
            except (OSError, SeglogError) as error:
                raise DeadLetterWriteFailed(f"{len(letters)} dead letters could not be kept: {error}") from error

    def _learn(self, contents: Contents) -> None:
        """The identities of what came since the last look; those of what was reclaimed are forgotten."""
        start, end = contents.state().start_offset, contents.seen().end_offset
        if self._known_of != contents.log_id or end < self._scanned:  # it was lost, and made anew
            self._known, self._known_of, self._scanned = {}, contents.log_id, 0
        elif start > self._known_from:
            self._known = {identity: id for identity, id in self._known.items() if id >= start}
        for found in contents.everything(self._scanned):
            if not isinstance(found, Gap):
                self._known[found[1].identity] = found[0]
        self._known_from, self._scanned = start, end

    def _is_kept(self, letter: Envelope, contents: Contents) -> bool:
        """Damage whose entry was deleted is not kept again. A message that is rejected anew after that is: else it
        would be nowhere."""
        id = self._known.get(letter.identity)
        return id is not None and (letter.reason == "damaged" or id not in contents.deleted)

    def _changing(self, largest: int = 0) -> AbstractContextManager[DeadLog]:
        return changing(self._disk, self._clock, self._root, self._file_mode, self._cap_bytes, largest=largest)

    # -- looking

    def __iter__(self) -> Iterator[DeadLetter]:
        return self.read()

    def read(self, on_gap: Callable[[Gap], None] | None = None) -> Iterator[DeadLetter]:
        """Iterate over the entries, oldest first.

        Args:
            on_gap: called for each range of ids that does not read back; without it a warning is logged.

        Raises StorageError, LogClosed. The iterator is not thread-safe.
        """
        self._check()
        return self._read(on_gap)

    def _read(self, on_gap: Callable[[Gap], None] | None) -> Iterator[DeadLetter]:
        with storage_errors("reading the dead letters"), reading(self._disk, self._root) as contents:
            for found in contents.entries() if contents is not None else ():
                self._check()
                if not isinstance(found, Gap):
                    yield _shown(*found)
                elif on_gap is not None:
                    on_gap(found)
                else:
                    logger.warning("dead letters %d to %d: %s", found.first_offset, found.last_offset, found.reason)

    def get(self, id: int) -> DeadLetter | None:
        """The entry with this id; None if there never was one, or it was deleted.

        Raises DamageFound if it does not read back, StorageError, LogClosed.
        """
        whole("id", id, 0, OFFSET_MAX)
        return self._entries([id]).get(id)

    def _entries(self, ids: Collection[int]) -> dict[int, DeadLetter]:
        """Those of the entries with these ids that are there."""
        self._check()
        found: dict[int, DeadLetter] = {}
        with storage_errors("reading the dead letters"), reading(self._disk, self._root) as contents:
            if contents is None or not ids:
                return {}
            for entry in contents.entries(min(ids)):
                if not isinstance(entry, Gap):
                    if entry[0] in ids:
                        found[entry[0]] = _shown(*entry)
                elif lost := [id for id in ids if entry.first_offset <= id <= entry.last_offset]:
                    raise DamageFound(
                        f"dead letter {lost[0]} does not read back; seglog dlq delete takes it off the list",
                        segment=DEAD,
                        position=0,
                        reason=entry.reason,
                    )
                if len(found) == len(ids):
                    break
        return found

    def __len__(self) -> int:
        """How many entries there are; does not read them. Those that do not read back are counted too."""
        self._check()
        with storage_errors("counting the dead letters"), reading(self._disk, self._root) as contents:
            return 0 if contents is None else len(contents)

    def __bool__(self) -> bool:
        return True

    # -- giving up, and trying again

    def delete(self, ids: Iterable[int]) -> int:
        """Delete the entries with these `ids`, return how many went; durable on return. Others are fine.

        Disk space comes back once nothing is left of a segment. Raises InvalidOption, StorageError, LogClosed,
        LogLocked if another process keeps the queue busy, and LogFull if more than 10,240 separate ranges would be
        deleted: then none is.
        """
        return self._delete(_ranges(ids))

    def purge(self, older_than: float | None = None) -> int:
        """Delete all entries, or those that were made more than `older_than` seconds ago; returns how many went.

        Durable on return. Raises as `delete`.
        """
        if older_than is None:
            return self._delete(Intervals([(0, OFFSET_MAX)]))
        limit = self._clock.time_ns() - int(seconds("older_than", older_than) * 1e9)
        old = Intervals()
        self._check()
        with storage_errors("reading the dead letters"), reading(self._disk, self._root) as contents:
            for found in contents.entries() if contents is not None else ():
                if not isinstance(found, Gap) and found[1].time_ns < limit:
                    old.add(found[0], found[0] + 1)
        return self._delete(old)

    def _delete(self, ranges: Intervals) -> int:
        self._check()
        with storage_errors("deleting dead letters"), self._mutex:
            if DEAD not in self._root.list():
                return 0
            with self._changing() as log:
                return log.delete(ranges)

    def replay(self, ids: Iterable[int], timeout: float | None = None) -> list[int]:
        """Append the payloads of these entries with key and headers as new records, then delete the entries.

        Returns the new offsets, in the order of `ids`; records and deletions are durable on return. A crash in
        between leaves entries whose records are there already: duplicates, never a loss.

        Args:
            ids: of entries; each is appended once.
            timeout: seconds, as in `Log.append`.

        Raises ReadOnly (mode "r"), InvalidOption for an id that is not there and for damage, DamageFound for an entry
        that does not read back, RecordTooLarge, LogFull (see `delete`): nothing is changed. Raises what `Log.append`
        raises: what was appended before is deleted here, the rest stays.
        """
        self._check()
        replayer = self._replayer
        if replayer is None:
            raise ReadOnly('the log was opened with mode "r"; replaying appends, so it needs the one writer')
        if timeout is not None:
            seconds("timeout", timeout)
        wanted = list(dict.fromkeys(_ids(ids)))
        with self._replaying:
            entries = self._entries(set(wanted))
            for id in wanted:
                if id not in entries:
                    raise InvalidOption(f"there is no dead letter {id}")
                if entries[id].reason == "damaged":
                    raise InvalidOption(f"dead letter {id} holds damaged bytes, no record: it cannot be replayed")
            if not wanted:
                return []
            with storage_errors("replaying dead letters"), self._mutex, self._changing() as log:
                log.check_deletable(_ranges(wanted))
            offsets: list[int] = []
            records = [Record(entries[id].payload, entries[id].key, entries[id].headers or None) for id in wanted]
            for batch in replayer(records, timeout):
                # Only now: a crash before this gives the record twice, the other order would lose it.
                self._delete(_ranges(wanted[len(offsets) : len(offsets) + len(batch)]))
                offsets += batch
            return offsets


def _shown(id: int, letter: Envelope) -> DeadLetter:
    return DeadLetter(
        id=id,
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


def _ids(ids: object) -> list[int]:
    """Checked."""
    found = list(ids) if isinstance(ids, Iterable) else None
    if found is None or not all(isinstance(id, int) and not isinstance(id, bool) for id in found):
        raise InvalidOption(f"{ids!r}: expected ids of dead letters, an iterable of whole numbers")
    return found


def _ranges(ids: Iterable[int]) -> Intervals:
    return Intervals((id, id + 1) for id in sorted(_ids(ids)) if id >= 0)
