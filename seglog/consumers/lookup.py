"""Single records by their offsets, in any order; what was read lately is kept, so that neighbours cost one reading."""

from __future__ import annotations

from seglog.reader import Hole, Run, Scan

KEPT_RUNS = 16
KEPT_BYTES = 8 << 20  # of the runs that are kept, the latest not counted


class Lookup:
    """Not thread-safe."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._runs: list[tuple[Run, int]] = []  # with their bytes, the latest last; each to the end of its batch

    def at(self, offset: int) -> Run | Hole | None:
        """A run that holds the record, or the hole in its place, or None beyond the end. Raises StorageError."""
        for run, _ in reversed(self._runs):
            if run.first <= offset < run.first + len(run.records):
                return run
        if offset != self._scan.offset:
            self._scan.seek(offset)
        found = self._scan.next()
        if isinstance(found, Run):
            self._keep(found)
        return found

    def _keep(self, run: Run) -> None:
        end = run.first + len(run.records)
        kept = [(other, size) for other, size in self._runs if not run.first < other.first < end]
        while len(kept) >= KEPT_RUNS or sum(size for _, size in kept) > KEPT_BYTES:
            del kept[0]
        self._runs = [*kept, (run, sum(map(len, run.records)))]

    def close(self) -> None:
        """Let go of file and memory; it may be used again."""
        self._runs.clear()
        self._scan.close()
