"""The spec reader, which was written from FORMAT.md alone, and the library say the same about every directory.

Two implementations that share no code: where they differ, one of them, or FORMAT.md, is wrong.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import seglog
from seglog.errors import SeglogError
from seglog.format import layout as L
from seglog.format.cursor_state import decode_cursor, decode_note
from seglog.format.slots import decode_slot
from seglog.model import OffsetRange
from seglog.verify import verify
from tools import make_golden, spec_reader

GOLDEN = Path(__file__).parent / "v1"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))

Image = dict[str, bytes]


class Said(NamedTuple):
    """What one of the two says of a directory; ranges as merged pairs, end excluded."""

    records: int
    first_offset: int
    next_offset: int
    torn: int
    lost: list[tuple[int, int]]
    suspect: list[tuple[int, int]]
    missing: list[tuple[int, int]]
    skipped: list[tuple[int, int]]
    repaired: list[tuple[int, int]]
    well: bool  # nothing bad anywhere, spares included
    letters: int  # in the queue of dead letters
    readable: dict[int, tuple[bytes, bytes | None]]


REFUSED = "cannot be checked"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


def load(name: str) -> Image:
    directory = GOLDEN / name / "log"
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def _pairs(ranges: Iterable[OffsetRange]) -> list[tuple[int, int]]:
    return merged((r.first_offset, r.last_offset + 1) for r in ranges)


def library_says(image: Image) -> Said | str:
    disk = make_golden.in_memory(image)
    try:
        report = verify("log", disk=disk)
        readable = {}
        if any(name.startswith("segments/") for name in image):
            with seglog.open("log", "r", disk=disk) as log:
                readable = {m.offset: (m.payload, m.key) for m in log.read(on_gap=lambda _: None)}
    except SeglogError:
        return REFUSED
    damage = [d for d in report.damage if d.segment != "meta"]
    return Said(
        report.records,
        report.first_offset,
        report.next_offset,
        report.torn_tail_bytes,
        merged(
            (d.first_offset, d.last_offset + 1)
            for d in damage
            if d.first_offset is not None and d.last_offset is not None
        ),
        _pairs(report.suspect),
        _pairs(report.missing),
        _pairs(report.skipped),
        _pairs(report.repaired),
        not (damage or report.suspect or report.missing),
        report.dead_letters,
        readable,
    )


def spec_reader_says(path: Path) -> Said | str:
    try:
        findings = spec_reader.check(str(path))
        readable = {record.offset: (record.payload, record.key) for record in spec_reader.read_records(str(path))}
    except spec_reader.CannotCheck:
        return REFUSED
    return Said(
        findings.records,
        findings.first_offset,
        findings.next_offset,
        findings.torn_tail_bytes,
        merged(
            (d.first_offset, d.last_offset + 1)
            for d in findings.damage
            if d.first_offset is not None and d.last_offset is not None
        ),
        merged(findings.suspect),
        merged(findings.missing),
        merged(findings.skipped),
        merged(findings.repaired),
        not (findings.damage or findings.suspect or findings.missing),
        len(findings.dead_letters),
        readable,
    )


def compare(image: Image, path: Path) -> None:
    ours, theirs = library_says(image), spec_reader_says(path)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    if ours.missing or ours.repaired:  # where a neighbour is gone too, cut bytes and bad bytes may be one and the same
        ours, theirs = ours._replace(torn=0), theirs._replace(torn=0)
    # Only the library passes over a bad spare of a batch that nothing proves to have been written whole.
    assert ours.well or not theirs.well
    assert ours._replace(readable={}, well=True) == theirs._replace(readable={}, well=True)
    # A reader of the library sees what is proven; the rest of the end waits for an opening for writing to judge it.
    assert list(ours.readable.items()) == list(theirs.readable.items())[: len(ours.readable)]


@pytest.mark.parametrize("name", NAMES)
def test_both_say_the_same_of_a_golden_directory(name: str) -> None:
    image = load(name)
    compare(image, GOLDEN / name / "log")
    ours, theirs = library_says(image), spec_reader_says(GOLDEN / name / "log")
    if isinstance(ours, Said) and isinstance(theirs, Said):
        assert ours.well is theirs.well


def test_both_read_the_same_in_the_cursor_of_a_process_that_died() -> None:
    image = load("in_flight")
    cursors = spec_reader.check(str(GOLDEN / "in_flight" / "log")).cursors
    assert sorted(cursors) == ["archive", "uploader"]
    for name, theirs in cursors.items():
        content = image[f"cursors/{name}.cursor"]
        slots = [decode_slot(content[at : at + L.CURSOR_SLOT_BYTES]) for at in (0, L.CURSOR_SLOT_BYTES)]
        state = decode_cursor(max((slot.generation, slot.payload) for slot in slots if slot is not None)[1])
        note = decode_note(content[L.NOTE_AT :])
        assert note is not None
        assert theirs.ok
        assert (theirs.watermark, theirs.acked, theirs.failed) == (
            state.watermark,
            list(state.acked),
            dict(state.attempts),
        )
        assert theirs.note == (note.in_flight, note.attempt, list(note.ranges))
    assert cursors["archive"].note == (1, 2, [(0, 1)])


def damaged(image: Image, chance: random.Random) -> Image:
    """One to three things happen to the files: bits, sectors, cuts, lost files, blocks that moved."""
    image = dict(image)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice([path for path in sorted(image) if image[path] and not path.startswith("dead/")])
        content = bytearray(image[path])
        used = len(content.rstrip(b"\0")) or 1
        at = chance.randrange(used) if path != "meta" else chance.choice((0, 65536)) + chance.randrange(80)
        at = min(at, len(content) - 1)
        if path.endswith(".seg") and chance.random() < 0.7 and used > 8192:
            at = chance.randrange(8192, used)  # most of the rest is padding
        match chance.randrange(7):
            case 0 | 1:
                content[at] ^= 1 << chance.randrange(8)
            case 2:
                start = at // 512 * 512
                content[start : start + 512] = bytes(len(content[start : start + 512]))
            case 3:
                del content[at:]
            case 4:
                length = chance.randrange(1, 64)
                content[at : at + length] = chance.randbytes(len(content[at : at + length]))
            case 5:
                other = chance.randrange(used) // 8 * 8
                block = content[other : other + 512]
                content[at // 8 * 8 : at // 8 * 8 + len(block)] = block
            case 6 if path.endswith(".seg"):
                del image[path]
                continue
        image[path] = bytes(content)
    return image


def write(image: Image, path: Path) -> None:
    for name, content in image.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.mark.parametrize("part", range(10))
def test_both_say_the_same_of_a_thousand_damaged_directories(part: int, tmp_path: Path) -> None:
    for seed in range(part * 100 * DEEP, (part + 1) * 100 * DEEP):
        chance = random.Random(seed)
        name = chance.choice(NAMES)
        image = damaged(load(name), chance)
        path = tmp_path / str(seed)
        write(image, path)
        try:
            compare(image, path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: damaged {name}") from error
