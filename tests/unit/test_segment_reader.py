"""Walking one segment: blocks, rot, and where reading goes on after bad bytes (FORMAT.md §10.3, §10.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglog.catalog import Catalog
from seglog.format import layout as L
from seglog.segment_reader import Block, Rot, SegmentReader
from tools.crashtest.anatomy import Placed, batches
from tools.crashtest.images import ROOT, Image, disk_with, overwritten, segment_paths
from tools.crashtest.subjects import SUBJECTS

IMAGE = SUBJECTS["many_segments"]().image
PATH = segment_paths(IMAGE)[0]
PLACED = [batch for batch in batches(IMAGE, PATH) if batch.header.count]
END = batches(IMAGE, PATH)[-1].end
STOP = 5

Seen = tuple[str, int, int, int, int, str]


def reader(image: Image) -> SegmentReader:
    segments = disk_with(image).open(ROOT, create=False).directory("segments")
    catalog = Catalog(segments)
    return catalog.open(catalog.names[0])


def walked(image: Image, *, stop: int | None = STOP, end: int = END, spares: bool = True) -> list[Seen]:
    found: list[Seen] = []
    for item in reader(image).walk(L.DATA_START, 0, end, stop, spares=spares):
        if isinstance(item, Rot):
            found.append(("rot", item.position, item.end, item.first, item.stop, ""))
        else:
            header = item.header
            found.append(("block", item.position, item.end, header.base_offset, header.end_offset, item.fault))
    return found


def whole(batch: Placed, fault: str = "") -> Seen:
    return ("block", batch.position, batch.end, batch.offsets.start, batch.offsets.stop, fault)


def rot(first: Placed, last: Placed) -> Seen:
    return ("rot", first.position, last.end, first.offsets.start, last.offsets.stop, "")


MARKER = walked(IMAGE)[-1]
ONE, MANY, TWO = PLACED


def test_a_whole_segment_is_its_batches() -> None:
    assert walked(IMAGE) == [whole(ONE), whole(MANY), whole(TWO), MARKER]
    assert MARKER[3:] == (5, 5, "")


def test_a_single_batch_without_its_header_is_rot_with_its_offset() -> None:
    image = overwritten(IMAGE, PATH, ONE.position, bytes(4))
    assert walked(image) == [rot(ONE, ONE), whole(MANY), whole(TWO), MARKER]


def test_a_batch_without_its_header_is_read_by_its_copy() -> None:
    image = overwritten(IMAGE, PATH, MANY.position, bytes(64))
    assert walked(image) == [whole(ONE), whole(MANY, "header"), whole(TWO), MARKER]


def test_rot_goes_on_over_several_batches_and_knows_all_their_offsets() -> None:
    image = overwritten(IMAGE, PATH, ONE.position, b"\xff" * (MANY.end - ONE.position))
    assert walked(image) == [rot(ONE, MANY), whole(TWO), MARKER]


def test_rot_to_the_declared_end_has_the_declared_offsets() -> None:
    image = overwritten(IMAGE, PATH, TWO.position, b"\xff" * (END - TWO.position))
    assert walked(image) == [whole(ONE), whole(MANY), ("rot", TWO.position, END, 4, 5, "")]
    assert walked(image, stop=None)[-1] == ("rot", TWO.position, END, 4, 4, "")


def test_zeros_behind_the_last_batch_are_rot_only_where_an_end_is_declared() -> None:
    image = overwritten(IMAGE, PATH, TWO.position, bytes(END - TWO.position))
    assert walked(image, stop=None) == [whole(ONE), whole(MANY)]
    assert walked(image)[-1] == ("rot", TWO.position, END, 4, 5, "")


def test_an_end_that_declares_more_than_there_is() -> None:
    assert walked(IMAGE, stop=9)[-1] == ("rot", END, END, 5, 9, "")
    assert walked(IMAGE, end=END + 5000, stop=9)[-1][0] == "rot"


@pytest.mark.parametrize(
    ("hit", "fault"), [(MANY.end - 1, "end mark"), (MANY.end - 72, "header copy"), (MANY.position + 64, "body")]
)
def test_spares_are_looked_at_only_if_asked(hit: int, fault: str) -> None:
    image = overwritten(IMAGE, PATH, hit, b"\xee")
    assert walked(image)[1] == whole(MANY, fault)
    assert walked(image, spares=False)[1] == whole(MANY, "body" if fault == "body" else "")


@given(st.integers(L.DATA_START, END - 1), st.binary(min_size=1, max_size=300), st.booleans())
def test_p6_whatever_is_overwritten_the_walk_covers_the_segment_in_order(at: int, data: bytes, declared: bool) -> None:
    image = overwritten(IMAGE, PATH, at, data[: END - at])
    position, offset = L.DATA_START, 0
    for item in reader(image).walk(L.DATA_START, 0, END, STOP if declared else None, spares=True):
        assert item.position == position, "no byte is left out or met twice"
        first = item.first if isinstance(item, Rot) else item.header.base_offset
        assert first == offset, "no offset is left out or met twice"
        if isinstance(item, Block):
            position, offset = item.end, item.header.end_offset
            original = next(batch for batch in batches(IMAGE, PATH) if batch.position == item.position)
            assert original.header == item.header
        else:
            position, offset = item.end, item.stop
    if declared:
        assert (position, offset) == (END, STOP)


def test_find_hops_to_the_batch_of_an_offset_and_stops_before_bad_bytes() -> None:
    segment = reader(IMAGE)
    for batch in PLACED:
        for offset in batch.offsets:
            assert segment.find(L.DATA_START, 0, offset, END) == (batch.position, batch.offsets.start)
    damaged = reader(overwritten(IMAGE, PATH, MANY.position, b"\0"))
    assert damaged.find(L.DATA_START, 0, 4, END) == (MANY.position, MANY.offsets.start)


def test_resynchronising_looks_over_any_amount_of_bad_bytes_in_bounded_memory() -> None:
    """The next batch lies behind megabytes, and right across a window's edge."""
    from seglog.segment_reader import WINDOW_BYTES

    content = IMAGE[PATH]
    for gap in (WINDOW_BYTES - 64, WINDOW_BYTES - 32, WINDOW_BYTES, 5 * WINDOW_BYTES + 8):
        moved = content[: TWO.position] + b"\xa5" * gap + content[TWO.position :]
        # What moved does not validate; the search ends at the end of the file without finding anything.
        found = list(reader({**IMAGE, PATH: moved}).walk(TWO.position, 4, len(moved)))
        assert [(item.position, item.end) for item in found] == [(TWO.position, len(moved))]


@pytest.mark.parametrize("edge", range(-64, 72, 8))
def test_resynchronising_finds_a_batch_at_every_place_around_a_windows_edge(edge: int) -> None:
    import seglog
    from seglog.disk.memory import MemoryDisk
    from seglog.segment_reader import WINDOW_BYTES
    from seglog.testing import ManualClock
    from tools.crashtest.images import flipped, image_of

    disk = MemoryDisk()
    with seglog.open(ROOT, disk=disk, clock=ManualClock()) as log:
        log.append(b"\xb1SLB" * ((WINDOW_BYTES + edge - 64 - 8 - 8) // 4))
        log.append(b"behind")
    image = image_of(disk)
    path = segment_paths(image)[0]
    first, second = batches(image, path)[:2]
    segment = reader(flipped(image, path, first.position + 8, 0))
    found = list(segment.walk(first.position, 0, second.end, 2))
    assert [(item.position, item.end) for item in found] == [(first.position, first.end), (second.position, second.end)]
