"""One file of a log, structure by structure: positions, lengths, checksums; never a payload (FORMAT.md §5 to §8).

It reads the one file it is given and nothing beside it, so where a segment ends is known only if its footer
says so: what its successor declares cut or damaged is shown as the bytes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from seglog.disk.base import File
from seglog.errors import NotALog
from seglog.format import layout as L
from seglog.format import names
from seglog.format.batch import BatchHeader
from seglog.format.cursor_state import decode_cursor, decode_note
from seglog.format.footer import Footer, footer_length
from seglog.format.hint import decode_hint
from seglog.format.meta_state import decode_meta
from seglog.format.segment_header import SegmentHeader, decode_segment_header
from seglog.format.slots import Slot, decode_slot
from seglog.options import DURABILITIES
from seglog.segment_reader import Block, Rot, SegmentReader, read_footer

Row = dict[str, Any]  # always with "position" and "kind"

_SLOT_PLACES = {L.KIND_META: L.META_SLOT_BYTES, L.KIND_CURSOR: L.CURSOR_SLOT_BYTES}


def rows(file: File) -> Iterator[Row]:
    """The structures of a file, front to back. Raises NotALog if it is no file of a log."""
    size = file.size()
    first, second = file.read(0, 8), file.read(L.HEADER_COPY_AT, 8)
    tail = file.read(max(0, size - L.FOOTER_TAIL.size), L.FOOTER_TAIL.size)
    name = file.name.removesuffix(names.TEMPORARY)
    if (
        L.SEGMENT_MAGIC in (first, second)
        or footer_length(tail) is not None
        or names.parse_segment_name(name) is not None
    ):
        return _segment(file, size)
    slots = L.SLOT_MAGIC in (first, file.read(L.META_SLOT_BYTES, 8), file.read(L.CURSOR_SLOT_BYTES, 8))
    if slots or name == names.META or name.endswith(names.CURSOR_SUFFIX):
        return _slots(file, name)
    if first == L.HINT_MAGIC or (name == names.LOCK and size == L.LOCK_BYTES):
        return _lock(file)
    raise NotALog(f"{file.name}: not a file of a seglog log (a segment, a cursor, meta or lock)")


def _segment(file: File, size: int) -> Iterator[Row]:
    header = None
    for position in (0, L.HEADER_COPY_AT):
        copy = decode_segment_header(file.read(position, L.SEGMENT_HEADER.size))
        yield {"position": position, "kind": "segment header", "crc_ok": copy is not None, **_header_fields(copy)}
        header = header or copy
    footer = _footer(file, size, header)
    if footer is not None:
        header = header or footer[0].header
    if header is None:
        raise NotALog(f"{file.name}: no copy of the segment header holds, so no batch in it can be checked")
    name = names.SegmentName(header.base_offset, header.segment_id)
    end, stop = (footer[0].end_position, footer[0].end_offset) if footer is not None else (size, None)
    position = L.DATA_START
    reader = SegmentReader(file, name, header)
    for found in reader.walk(position, header.base_offset, end, stop, spares=True):
        yield _batch(found) if isinstance(found, Block) else _rot(found)
        position = found.end
    rest = footer[1] if footer is not None else size
    if position < rest:
        kind = "zero bytes" if reader.is_zero(position, rest) else "behind the end"
        yield {"position": position, "kind": kind, "length": rest - position}
    if footer is not None:
        yield _footer_row(*footer)


def _footer(file: File, size: int, header: SegmentHeader | None) -> tuple[Footer, int] | None:
    """The footer, whose copy of the header stands in where both others are gone."""
    if header is None:
        length = footer_length(file.read(max(0, size - L.FOOTER_TAIL.size), L.FOOTER_TAIL.size))
        if length is None or length > size:
            return None
        header = decode_segment_header(file.read(size - length + L.FOOTER_HEAD.size, L.SEGMENT_HEADER.size))
    return None if header is None else read_footer(file, names.SegmentName(header.base_offset, header.segment_id), size)


def _header_fields(header: SegmentHeader | None) -> Row:
    if header is None:
        return {}
    before = header.predecessor
    return {
        **header._asdict(),
        "log_id": header.log_id.hex(),
        "salt": f"{header.salt:016x}",
        "durability": _word(DURABILITIES, header.durability),
        "jump_reason": _word(L.JUMP_REASONS, header.jump_reason),
        "predecessor": None if before is None else {**before._asdict(), "salt": f"{before.salt:016x}"},
    }


def _word(table: tuple[str, ...], index: int) -> str:
    return table[index] if index < len(table) else str(index)


def _batch(block: Block) -> Row:
    header: BatchHeader = block.header
    return {
        "position": block.position,
        "kind": "close marker" if header.is_close_marker else "batch",
        "length": header.length,
        **header._asdict(),
        "codec": _word(("none", "zstd"), header.codec),
        "flags": [word for bit, word in ((L.FLAG_EXTENDED, "extended"), (L.FLAG_CLOSE, "close")) if header.flags & bit],
        "body_crc": f"{header.body_crc:08x}",
        "crc_ok": not block.fault,
        "fault": block.fault,
    }


def _rot(rot: Rot) -> Row:
    row: Row = {"position": rot.position, "kind": "unreadable", "length": rot.end - rot.position, "crc_ok": False}
    known = rot.stop > rot.first
    return {**row, "first_offset": rot.first, "last_offset": rot.stop - 1 if known else None}


def _footer_row(footer: Footer, position: int) -> Row:
    return {
        "position": position,
        "kind": "footer",
        "crc_ok": True,
        "end_position": footer.end_position,
        "end_offset": footer.end_offset,
        "first_time_ns": footer.first_time_ns,
        "last_time_ns": footer.last_time_ns,
        "entries": [entry._asdict() for entry in footer.entries],
    }


def _slots(file: File, name: str) -> Iterator[Row]:
    expected = L.KIND_META if name == names.META else L.KIND_CURSOR
    found: dict[int, Slot | None] = {0: decode_slot(file.read(0, L.META_SLOT_BYTES))}
    if found[0] is None:  # then the other slot's place says which kind of file this is, else its name
        for kind, place in _SLOT_PLACES.items():
            slot = decode_slot(file.read(place, place))
            expected = kind if slot is not None and slot.kind == kind else expected
    else:
        expected = found[0].kind
    place = _SLOT_PLACES.get(expected, L.CURSOR_SLOT_BYTES)
    found[place] = decode_slot(file.read(place, place))
    newest = max((slot.generation for slot in found.values() if slot is not None), default=None)
    for position, slot in found.items():
        label = "meta slot" if expected == L.KIND_META else "cursor slot"
        row: Row = {"position": position, "kind": label, "crc_ok": slot is not None}
        yield row if slot is None else {**row, **_slot_fields(slot), "newest": slot.generation == newest}
    if expected == L.KIND_CURSOR:
        raw = file.read(L.NOTE_AT, L.NOTE_BYTES)
        note = decode_note(raw)
        if any(raw):  # else none was written yet
            row = {"position": L.NOTE_AT, "kind": "delivery note", "crc_ok": note is not None}
            yield row if note is None else {**row, **note._asdict()}


def _slot_fields(slot: Slot) -> Row:
    fields: Row = {"generation": slot.generation, "log_id": slot.log_id.hex(), "payload_bytes": len(slot.payload)}
    try:
        if slot.kind == L.KIND_META:
            meta = decode_meta(slot.payload)
            removed, retention = [removed._asdict() for removed in meta.removed], meta.retention._asdict()
            return {**fields, **meta._asdict(), "removed": removed, "retention": retention}
        cursor = decode_cursor(slot.payload)
        return {**fields, **cursor._asdict(), "seen": cursor.seen._asdict()}
    except ValueError as error:  # under a valid checksum: no writer of ours made this
        return {**fields, "unreadable": str(error)}


def _lock(file: File) -> Iterator[Row]:
    hint = decode_hint(file.read(0, L.HINT.size))
    row: Row = {"position": 0, "kind": "hint", "crc_ok": hint is not None}
    if hint is not None:
        row |= {
            "generation": hint.generation,
            "segment_id": hint.segment_id,
            "durable_position": hint.position,
            "durable_offset": hint.end_offset,
            "salt": f"{hint.salt:016x}",
            "boot_id": hint.boot_id.hex(),
        }
    yield row
    holder = file.read(L.HOLDER_AT, L.HOLDER_BYTES).split(b"\0")[0].decode("utf-8", "backslashreplace")
    yield {"position": L.HOLDER_AT, "kind": "last writer", "holder": holder}
