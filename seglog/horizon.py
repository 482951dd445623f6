"""How far another process may read: by the hint of the writer, or by what the segment proves (FORMAT.md §8, §10.3)."""

from __future__ import annotations

from seglog.catalog import Catalog
from seglog.errors import DamageFound
from seglog.format import layout as L
from seglog.format.cursor_state import Seen
from seglog.format.hint import Hint
from seglog.format.names import SegmentName
from seglog.lock_file import LockFile
from seglog.options import DURABILITIES
from seglog.segment_writer import Mark
from seglog.tail import examine

_READS = 5  # a hint that is being written while we read it does not validate; the next read does


class HintHorizon:
    """The visible end as a process without the writer's lock sees it. Only reads."""

    def __init__(self, catalog: Catalog, lock: LockFile | None, boot_id: bytes) -> None:
        self._catalog = catalog
        self._lock = lock
        self._boot_id = boot_id
        self._known: tuple[object, Seen] | None = None

    def seen(self) -> Seen:
        """The place up to which records are visible now."""
        for _ in range(_READS):
            try:
                return self._look()
            except FileNotFoundError:
                self._catalog.refresh()  # the log moved on and reclaimed what we looked at
        return self._look()

    def _look(self) -> Seen:
        hint = self._hint()
        names = self._catalog.names
        if not names or hint is None or hint.segment_id != names[-1].segment_id:
            names = self._catalog.refresh()
        if not names:
            return Seen(L.NO_SEGMENT, 0, 0)
        last = names[-1]
        header = self._catalog.facts(last).header
        if header is None:
            return Seen(last.segment_id, L.DATA_START, last.base_offset)
        if hint is not None and hint.segment_id < last.segment_id and hint.boot_id == self._boot_id:
            # The writer is at this moment between making a segment and saying so.
            return Seen(last.segment_id, header.born_position, header.born_offset)
        ours = hint is not None and hint.segment_id == last.segment_id and hint.salt == header.salt
        if DURABILITIES[header.durability] == "never":
            return self._run_end(last, hint if ours else None)
        if ours and hint is not None and hint.boot_id == self._boot_id:
            return Seen(hint.segment_id, hint.position, hint.end_offset)
        return self._examined(last, hint if ours else None)

    def durable(self) -> Seen:
        """A place that is known to be durable; of a segment of class "never" that is where it was born."""
        seen = self.seen()
        for name in reversed(self._catalog.names):
            header = self._catalog.facts(name).header
            if name.segment_id == seen.segment_id and header is not None:
                if DURABILITIES[header.durability] == "never":
                    return Seen(seen.segment_id, header.born_position, header.born_offset)
                return seen
        return Seen(L.NO_SEGMENT, 0, 0)

    def _hint(self) -> Hint | None:
        if self._lock is None:
            return None
        for _ in range(_READS):
            hint = self._lock.hint()
            if hint is not None:
                return hint
        return None

    def _examined(self, name: SegmentName, hint: Hint | None) -> Seen:
        """No writer of this boot has spoken: what is proven, and after a restart all that reads well."""
        with_size = (name, hint, self._size(name))
        if self._known is not None and self._known[0] == with_size:
            return self._known[1]
        try:
            segment = self._catalog.open(name)
        except DamageFound:
            return Seen(name.segment_id, L.DATA_START, name.base_offset)
        try:
            header = segment.header
            proofs = [Mark(L.DATA_START, header.base_offset), Mark(header.born_position, header.born_offset)]
            covered = None if hint is None else Mark(hint.position, hint.end_offset)
            if covered is not None:
                proofs.append(covered)
            footer = self._catalog.facts(name).footer
            tail = examine(segment, proofs, footer=footer, covered=covered, restarted=hint is not None)
        finally:
            segment.close()
        end = tail.run_end if hint is not None else tail.proven
        seen = Seen(name.segment_id, end.position, end.offset)
        self._known = with_size, seen
        return seen

    def _run_end(self, name: SegmentName, hint: Hint | None) -> Seen:
        """Class "never": all that is written is visible, as far as it reads well."""
        start = Seen(name.segment_id, L.DATA_START, name.base_offset)
        if self._known is not None and self._known[1].segment_id == name.segment_id:
            start = self._known[1]
        elif hint is not None:
            start = Seen(name.segment_id, hint.position, hint.end_offset)
        segment = self._catalog.open(name)
        try:
            position, offset = start.position, start.end_offset
            size = segment.file.size()
            # Header by header: a walk would look for the next batch through all that is preallocated.
            while (header := segment.header_at(position, offset, size)) is not None:
                if segment.block(position, header).fault == "body":
                    break
                position, offset = position + header.length, header.end_offset
        finally:
            segment.close()
        seen = Seen(name.segment_id, position, offset)
        self._known = name, seen
        return seen

    def _size(self, name: SegmentName) -> int:
        file = self._catalog.segments.open(name.file_name)
        try:
            return file.size()
        finally:
            file.close()
