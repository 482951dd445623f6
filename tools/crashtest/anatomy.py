"""Which byte of a whole log directory is what, and which records a hit there may cost (promise P6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.batch import BatchHeader, decode_header, words
from seglog.format.cursor_state import decode_note, encode_note
from seglog.format.names import parse_segment_name
from seglog.format.segment_header import SegmentHeader, decode_segment_header
from seglog.format.slots import slot_length
from tools.crashtest.images import Image, segment_paths


class Part(NamedTuple):
    """Bytes start .. stop of a file; `costs` are the offsets that one flipped bit in them takes away.

    In `dead/` these cost the log nothing: there `letters` are the dead letters that go.
    """

    path: str
    start: int
    stop: int
    what: str
    costs: tuple[int, ...] = ()
    letters: tuple[int, ...] = ()


class Placed(NamedTuple):
    """A batch and where it stands."""

    path: str
    position: int
    header: BatchHeader

    @property
    def end(self) -> int:
        return self.position + self.header.length

    @property
    def offsets(self) -> range:
        return range(self.header.base_offset, self.header.end_offset)


def header_of(image: Image, path: str) -> SegmentHeader:
    """The header of a whole segment."""
    header = decode_segment_header(image[path][: L.BLOCK])
    assert header is not None
    return header


def batches(image: Image, path: str) -> list[Placed]:
    """The batches of a whole segment, from its first byte to its last valid one."""
    salt, content = header_of(image, path).salt, image[path]
    found = []
    position = L.DATA_START
    while (header := decode_header(content, position, salt=salt, position=position)) is not None:
        found.append(Placed(path, position, header))
        position += header.length
    return found


def parts(image: Image) -> Iterator[Part]:
    """All bytes of the log that mean something (those of `dead/` left out), none of the zeros behind them."""
    for path in segment_paths(image):
        yield from _segment(image, path)
    for path, content in sorted(image.items()):
        if path == "meta" or path.endswith(".cursor"):
            size = L.META_SLOT_BYTES if path == "meta" else L.CURSOR_SLOT_BYTES
            for at in (0, size):
                if content[at : at + 8] == L.SLOT_MAGIC:
                    yield Part(path, at, at + slot_length(content[at : at + L.SLOT_HEADER.size]), "slot")
            if path != "meta" and (note := decode_note(content[L.NOTE_AT :])) is not None:
                yield Part(path, L.NOTE_AT, L.NOTE_AT + len(encode_note(note)), "note")
        elif path == "lock":
            yield Part(path, 0, L.HINT.size, "hint")
            yield Part(path, L.HOLDER_AT, L.HOLDER_AT + len(content[L.HOLDER_AT :].rstrip(b"\0")), "holder")


def dead_parts(image: Image) -> Iterator[Part]:
    """The same of the dead letters, which are a log of their own."""
    inner = {path.removeprefix("dead/"): content for path, content in image.items() if path.startswith("dead/")}
    for part in parts(inner):
        yield part._replace(path="dead/" + part.path, costs=(), letters=part.costs)


def _segment(image: Image, path: str) -> Iterator[Part]:
    content = image[path]
    assert parse_segment_name(path.removeprefix("segments/")) is not None
    for at in (0, L.HEADER_COPY_AT):
        yield Part(path, at, at + L.SEGMENT_HEADER.size, "segment header")
    placed = batches(image, path)
    for batch in placed:
        yield from _batch(content, batch)
    end = placed[-1].end if placed else L.DATA_START
    if content.endswith(L.FOOTER_MAGIC):
        yield Part(path, end, len(content), "footer")


def _batch(content: bytes, batch: Placed) -> Iterator[Part]:
    path, position, header = batch
    everything = tuple(batch.offsets)
    # A single record's header has no copy: its bits are the record's.
    at = position + L.BATCH_HEADER_BYTES
    yield Part(path, position, at, "batch header", everything if header.count == 1 else ())
    body_end = at + header.stored_length
    if header.codec != L.CODEC_NONE:
        yield Part(path, at, body_end, "frame", everything)
    elif header.count:
        lengths = words(header.count).unpack_from(content, at)
        table = 4 * header.count
        yield Part(path, at, at + table, "lengths")
        yield Part(path, at + table, at + 2 * table, "record CRCs")
        at += 2 * table
        for offset, length in zip(everything, lengths, strict=True):
            yield Part(path, at, at + length, "record", (offset,))
            at += length
    padded = position + L.BATCH_HEADER_BYTES + L.aligned(header.stored_length)
    yield Part(path, body_end, padded, "padding")
    if header.count > 1:
        yield Part(path, padded, padded + L.BATCH_HEADER_BYTES, "header copy")
    yield Part(path, batch.end - L.END_MARK_BYTES, batch.end, "end mark")
