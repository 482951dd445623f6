"""Make a segment, append batches to it, sync it, seal it (FORMAT.md §5, §10.1, §10.2).

Disk first, then fields: the position moves only after the bytes are written, `durable` only after the sync.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from seglog.disk.base import Directory, File
from seglog.errors import LogFailed
from seglog.format import layout as L
from seglog.format.batch import encode_batch
from seglog.format.footer import Footer, IndexEntry, encode_footer
from seglog.format.names import TEMPORARY, SegmentName
from seglog.format.segment_header import SegmentHeader, encode_segment_header

PREALLOCATION_MIN = 64 * 1024
PREALLOCATION_MAX = 1024 * 1024  # the sync behind a step waits for its zeros: 3 ms here, with 8 MiB it was 30
HINT_EVERY_BYTES = 8 * 1024 * 1024  # how often the owner is asked to make the hint durable: that is a sync, too
_BATCH_OVERHEAD = 2 * L.BATCH_HEADER_BYTES + L.END_MARK_BYTES + L.ALIGNMENT  # at most
INDEX_EVERY_BYTES = 256 * 1024
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Mark(NamedTuple):
    """A place in a segment: the byte position, and the offset that comes next there."""

    position: int
    offset: int


class StoredBatch(NamedTuple):
    """Stored records with the append time and flags they are to have."""

    records: Sequence[bytes]
    time_ns: int
    flags: int


class SegmentWriter:
    """The active segment. Not thread-safe; the group commit's leader is alone here."""

    def __init__(
        self,
        file: File,
        header: SegmentHeader,
        end: Mark,
        *,
        allocated: int,
        segment_bytes: int,
        compress: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.file = file
        self.header = header
        self.name = SegmentName(header.base_offset, header.segment_id)
        self.position = end.position
        self.next_offset = end.offset
        self.durable = end
        self.index: list[IndexEntry] = []
        self.first_time_ns = 0
        self.last_time_ns = 0
        self.hint_due = False  # the owner then makes the hint durable
        self._hint_at = 0  # how far may be allocated until that is due
        self._allocated = allocated
        self._segment_bytes = segment_bytes
        self._step = PREALLOCATION_MIN
        self._compress = compress

    @classmethod
    def create(
        cls,
        directory: Directory,
        header: SegmentHeader,
        run: Iterable[StoredBatch],
        *,
        segment_bytes: int,
        compress: Callable[[bytes], bytes] | None = None,
    ) -> SegmentWriter:
        """Make a segment that is born with the batches of `run`; all of it, and its name, is durable on return.

        The header declares the born end; it is part of what the sync covers, so a name never leads to less.
        """
        name = SegmentName(header.base_offset, header.segment_id).file_name
        if _is_there(directory, name):  # not one of ours, or it would be the last one; a rename would replace it
            raise FileExistsError(errno.EEXIST, "a file of another log has the name of the next segment", name)
        try:
            file = directory.open(name + TEMPORARY, write=True, create=True)
        except FileExistsError:
            directory.unlink(name + TEMPORARY)  # left by a failed attempt
            file = directory.open(name + TEMPORARY, write=True, create=True)
        try:
            start = Mark(L.DATA_START, header.base_offset)
            made = cls(file, header, start, allocated=0, segment_bytes=segment_bytes, compress=compress)
            made._allocate(L.DATA_START)
            for batch in run:
                made.write(batch.records, batch.time_ns, batch.flags)
            end = Mark(made.position, made.next_offset)
            made.header = header = header._replace(
                born_position=end.position,
                born_offset=end.offset,
                floor_offset=max(header.floor_offset, end.offset),
            )
            file.write(0, encode_segment_header(header))
            # Content before name: a rename that survives a power cut must not lead to an unwritten header.
            file.sync()
            directory.rename(name + TEMPORARY, name)
            file.name = name
            # Until this returns a power cut may take the name back, so nothing in here may be acknowledged.
            directory.sync()
        except Exception as error:
            file.close()
            if _may_be_there(directory, name):
                # Renamed, and it may or may not survive: which segment is the last one is not known any more.
                raise LogFailed(
                    errno.EIO, f"the name of a new segment could not be made durable: {error}", name
                ) from error
            directory.unlink(name + TEMPORARY)
            raise
        except BaseException:
            file.close()  # interrupted: the owner appends no more, and the next opening looks at what is there
            raise
        made.durable = end
        return made

    @property
    def is_empty(self) -> bool:
        """Whether no record was ever in it."""
        return self.next_offset == self.header.base_offset

    def has_room(self, size: int, count: int) -> bool:
        """Whether a batch of `count` records and `size` bytes of body still fits; an empty segment takes any batch."""
        end = self.position + size + _BATCH_OVERHEAD - L.DATA_START
        in_segment = self.next_offset + count - self.header.base_offset
        return self.position == L.DATA_START or (end <= self._segment_bytes and in_segment <= L.SEGMENT_RECORDS_MAX)

    def write(self, records: Sequence[bytes], time_ns: int, flags: int = 0) -> int:
        """Write one batch; returns its base offset. Not durable before `sync`.

        On OSError nothing of it is in the log, unless `cut_back` fails too.
        """
        position, base = self.position, self.next_offset
        data = encode_batch(
            records,
            salt=self.header.salt,
            position=position,
            base_offset=base,
            time_ns=time_ns,
            durable=self.durable,
            flags=flags,
            compress=self._compress,
        )
        end = position + len(data)
        if end > self._allocated:
            self._allocate(end)
        self.file.write(position, memoryview(data))
        if not self.index or position - self.index[-1].position >= INDEX_EVERY_BYTES:
            self.index.append(IndexEntry(base, position, time_ns))
            self.first_time_ns = self.first_time_ns or time_ns
        self.last_time_ns = time_ns
        self.next_offset = base + len(records)
        self.position = end
        return base

    def _allocate(self, end: int) -> None:
        """Reserve zeroed space ahead, so that a commit changes no size; less, then none, on a nearly full disk."""
        room = self._segment_bytes + L.DATA_START - self._allocated
        step = min(self._step, max(room, 0))
        need = end - self._allocated
        while step >= L.BLOCK:
            length = -(-max(step, need) // L.BLOCK) * L.BLOCK
            try:
                self.file.allocate(self._allocated, length)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                step //= 2
                continue
            self._allocated += length
            self._step = min(2 * self._step, PREALLOCATION_MAX)
            if self._allocated > self._hint_at:
                self.hint_due = True
                self._hint_at = self._allocated + HINT_EVERY_BYTES
            return

    def reserve(self, length: int) -> None:
        """Allocate so many bytes behind the end, if the disk has them."""
        if self.position + length > self._allocated:
            self._allocate(self.position + length)

    def cut_back(self) -> None:
        """After a failed write: drop what it may have left. Raises OSError if the disk refuses even that."""
        if self._nothing_written():
            return  # so a disk that has become read-only, or refuses everything else, costs no more than this batch
        self.file.truncate(self.position)
        self._allocated = self.position
        # Before anybody is told "not accepted": were the cut lost in a power cut, the batch could be back, or its rest
        # mix with the next one.
        self.file.datasync()

    def _nothing_written(self) -> bool:
        """Whether a failed write left nothing: it goes front to back, no batch begins with zero, and the space behind
        the end is zero."""
        try:
            return not any(self.file.read(self.position, 1))
        except OSError:
            return False  # nobody knows

    def sync(self) -> None:
        """All that was written is durable on return."""
        end = Mark(self.position, self.next_offset)
        self.file.datasync()
        self.durable = end

    def seal(self) -> None:
        """Add the footer and give back the space behind it. Only after the successor is durable.

        Not synced: a footer is an accelerator, and the successor's header says where this segment ends.
        """
        footer = Footer(
            self.header, self.position, self.next_offset, self.first_time_ns, self.last_time_ns, tuple(self.index)
        )
        data = encode_footer(footer)
        self.file.write(self.position, data)
        self.file.truncate(self.position + len(data))

    def close(self) -> None:
        self.file.close()


def _is_there(directory: Directory, name: str) -> bool:
    """Asked by opening: a listing would cost the more the more segments there are."""
    try:
        directory.open(name).close()
    except FileNotFoundError:
        return False
    return True


def _may_be_there(directory: Directory, name: str) -> bool:
    """Whether the name is there, or cannot be looked for."""
    try:
        return name in directory.list()
    except OSError:
        return True
