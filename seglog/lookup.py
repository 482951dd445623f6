"""Single records by their offsets, in any order; neighbours cost one reading of their batch."""

from __future__ import annotations

from seglog.reader import Hole, Run, Scan


class Lookup:
    """Not thread-safe. It keeps one batch in memory until `close`."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._run: Run | None = None

    def at(self, offset: int) -> Run | Hole | None:
        """A run that holds the record, or the hole in its place, or None beyond the end. Raises StorageError."""
        run = self._run
        if run is not None and run.first <= offset < run.first + len(run.records):
            return run
        if offset != self._scan.offset:
            self._scan.seek(offset)
        found = self._scan.next()
        self._run = found if isinstance(found, Run) else None
        return found

    def close(self) -> None:
        """Let go of file and memory; it may be used again."""
        self._run = None
        self._scan.close()
