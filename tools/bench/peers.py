"""What seglog is compared with, each as fast as we know to make it at the same durability."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from crc32c import crc32c

CHUNK_BYTES = 256 * 1024


class BareLoop:
    """One pwrite and one fdatasync a record, on a file whose zeros are on disk already: the least that is durable."""

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.pwrite(self._fd, bytes(size), 0)
        os.fsync(self._fd)
        self._position = 0

    def append(self, payload: bytes) -> None:
        os.pwrite(self._fd, payload, self._position)
        self._position += len(payload)
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def connect(path: Path) -> sqlite3.Connection:
    """A database that syncs its write-ahead log at every commit: what was committed survives power loss."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    (mode,) = database.execute("PRAGMA journal_mode=WAL").fetchone()
    database.execute("PRAGMA synchronous=FULL")
    (synchronous,) = database.execute("PRAGMA synchronous").fetchone()
    if (mode, synchronous) != ("wal", 2):
        raise RuntimeError(
            f"sqlite: journal_mode {mode}, synchronous {synchronous}: not the durability to compare with"
        )
    return database


class Table:
    """Payloads in one sqlite table."""

    def __init__(self, path: Path) -> None:
        self._database = connect(path)
        self._database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        self._database.execute("CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL)")
        self._database.execute("INSERT INTO cursors VALUES ('reader', 0)")
        self._position = 0

    def append_many(self, rows: list[tuple[bytes]]) -> None:
        """One transaction."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO events (payload) VALUES (?)", rows)
        execute("COMMIT")

    def take_and_delete(self, limit: int) -> int:
        """Read the first, then delete them: durable when it returns."""
        execute = self._database.execute
        found = execute("SELECT id, payload FROM events ORDER BY id LIMIT ?", (limit,)).fetchall()
        execute("BEGIN IMMEDIATE")
        execute("DELETE FROM events WHERE id <= ?", (found[-1][0],))
        execute("COMMIT")
        return len(found)

    def take_and_move_cursor(self, limit: int) -> int:
        """Read on from the cursor's row, then move it: durable when it returns."""
        execute = self._database.execute
        found = execute(
            "SELECT id, payload FROM events WHERE id > ? ORDER BY id LIMIT ?", (self._position, limit)
        ).fetchall()
        self._position = found[-1][0]
        execute("BEGIN IMMEDIATE")
        execute("UPDATE cursors SET position = ? WHERE name = 'reader'", (self._position,))
        execute("COMMIT")
        return len(found)

    def close(self) -> None:
        self._database.close()


def checksum_files(directory: Path) -> int:
    """Read every file and take its CRC32C; returns how many bytes that were."""
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    total = 0
    for path in sorted(directory.iterdir()):
        check = 0
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                check = crc32c(view[:got], check)
                total += got
    return total
