"""Examining the end of the last segment: what is proven, what reads well, and what follows (FORMAT.md §10.6)."""

from __future__ import annotations

import seglog
from seglog.catalog import Catalog
from seglog.disk.memory import MemoryDisk
from seglog.format import layout as L
from seglog.recovery import Ending
from seglog.segment_writer import Mark
from seglog.tail import Tail, examine
from seglog.verify import verify
from tools.crashtest.anatomy import batches
from tools.crashtest.images import ROOT, Image, cut, disk_with, flipped, image_of, overwritten, segment_paths
from tools.crashtest.subjects import SUBJECTS, Builder

START = Mark(L.DATA_START, 0)


def three_batches(*, closed: bool = False) -> Image:
    made = Builder(seed=40)
    made.one(b"first")
    made.many(b"second", b"third")
    made.one(b"fourth" * 120)  # over more than one sector
    return made.closed() if closed else made.killed()


def examined(
    image: Image, *proofs: Mark, covered: Mark | None = None, restarted: bool = False
) -> tuple[Tail, list[Mark]]:
    """The tail, and the ends of the batches that there were."""
    disk: MemoryDisk = disk_with(image)
    catalog = Catalog(disk.open(ROOT, create=False).directory("segments"))
    segment = catalog.open(catalog.names[-1])
    path = segment_paths(image)[-1]
    ends = [Mark(batch.end, batch.offsets.stop) for batch in batches(three_batches(), path)]
    proofs = (START, *proofs, *([covered] if covered else []))
    return examine(segment, proofs, footer=None, covered=covered, restarted=restarted), ends


def test_the_last_batch_is_unproven_and_the_one_before_is_proven_by_its_mark() -> None:
    tail, ends = examined(three_batches())
    assert (tail.proven, tail.run_end, tail.ending) == (ends[1], ends[2], Ending.ZERO)
    assert tail.unproven
    assert tail.highest == 4


def test_a_proof_moves_the_proven_end() -> None:
    _, ends = examined(three_batches())
    tail, _ = examined(three_batches(), ends[2])
    assert (tail.proven, tail.run_end, tail.unproven) == (ends[2], ends[2], False)


def test_after_a_sync_the_mark_of_an_empty_batch_proves_all_before_it() -> None:
    disk = MemoryDisk()
    with seglog.open(ROOT, disk=disk, durability="never") as log:
        log.append(b"written")
        log.append(b"written too")
        log.sync()
        image = image_of(disk)
    path = segment_paths(image)[-1]
    *_, last, empty = batches(image, path)
    assert empty.header.count == 0
    tail, _ = examined(image)
    assert tail.proven == Mark(last.end, 2)
    assert tail.run_end == Mark(empty.end, 2)


def test_a_close_marker_proves_what_is_before_it_and_is_believed_after_a_restart_or_if_the_hint_covers_it() -> None:
    image = three_batches(closed=True)
    end = batches(image, segment_paths(image)[-1])[-1].end
    tail, ends = examined(image)
    assert (tail.ending, tail.proven) == (Ending.ZERO, ends[2])
    for covered, restarted in ((Mark(end, 4), False), (ends[0], True)):
        tail, _ = examined(image, covered=covered, restarted=restarted)
        assert (tail.ending, tail.unproven, tail.run_end) == (Ending.CLOSED, False, Mark(end, 4))
    tail, _ = examined(image, covered=ends[2])
    assert tail.ending is Ending.ZERO


def test_p7_a_hit_end_mark_of_a_close_marker_is_not_believed() -> None:
    image = three_batches(closed=True)
    path = segment_paths(image)[-1]
    marker = batches(image, path)[-1]
    tail, ends = examined(flipped(image, path, marker.end - 1, 0), covered=Mark(L.DATA_START, 0), restarted=True)
    assert (tail.ending, tail.proven) == (Ending.ZERO, ends[2])


def test_p7_bytes_behind_the_run_are_suspect_unless_a_sector_lacks() -> None:
    image = three_batches()
    path = segment_paths(image)[-1]
    last = batches(image, path)[-1]
    tail, ends = examined(flipped(image, path, last.position + 300, 0))
    assert (tail.ending, tail.run_end, tail.bad_end) == (Ending.SUSPECT, ends[1], ends[2])
    assert tail.count_known
    tail, _ = examined(flipped(image, path, last.position + 20, 0))
    assert (tail.ending, tail.count_known, tail.run_end) == (Ending.SUSPECT, False, ends[1])
    for unwritten in range(last.position // L.SECTOR * L.SECTOR, last.end, L.SECTOR):
        first, stop = max(unwritten, last.position), min(unwritten + L.SECTOR, last.end)
        tail, _ = examined(overwritten(image, path, first, bytes(stop - first)))
        assert (tail.ending, tail.run_end) == (Ending.TORN, ends[1])
    tail, _ = examined(cut(image, path, last.end - 1))
    assert tail.ending is Ending.TORN


def test_p7_bad_bytes_before_the_proven_end_are_damage_and_gone_over() -> None:
    image = three_batches()
    path = segment_paths(image)[-1]
    first = batches(image, path)[0]
    tail, ends = examined(flipped(image, path, first.position + 75, 0))
    assert (tail.proven, tail.run_end) == (ends[1], ends[2])
    assert [found.position for found in tail.rot] == [first.position]


def test_p7_a_file_that_ends_before_its_proven_end_is_damaged_and_its_run_ends_there() -> None:
    image = three_batches()
    path = segment_paths(image)[-1]
    _, ends = examined(image)
    for size in (ends[0].position, ends[1].position + 10, ends[2].position - 1, 0, 100):
        tail, _ = examined(cut(image, path, max(size, L.BLOCK)), ends[2])
        assert (tail.proven, tail.run_end, tail.ending) == (ends[2], ends[2], Ending.ZERO)
        assert tail.rot[-1].end == ends[2].position


def test_p4_the_highest_offset_of_a_cut_tail_is_remembered() -> None:
    image = three_batches()
    path = segment_paths(image)[-1]
    second = batches(image, path)[1]
    unproven = overwritten(image, path, second.position, bytes(second.header.length))  # a later batch made it, this not
    tail, ends = examined(unproven)
    assert tail.highest == 4
    assert tail.proven == ends[1]  # the mark of the last one says that it was durable: damage
    assert image_of(disk_with(image)) == image


def test_p8_bad_bytes_on_both_sides_of_the_proven_end_are_no_part_of_the_run() -> None:
    """Of class "never": the last synced batch and the first unsynced one rotted, and good ones follow."""
    disk = MemoryDisk()
    with seglog.open(ROOT, disk=disk, durability="never") as log:
        log.append(b"proven")
        log.append(b"proven too")
        log.sync()
        for number in range(3):
            log.append(b"written %d" % number)
        image = image_of(disk)
    path = segment_paths(image)[-1]
    last_proven, marker, first_unproven = batches(image, path)[1:4]
    for batch in (last_proven, marker, first_unproven):
        image = overwritten(image, path, batch.position, b"rot")
    proven = Mark(marker.end, 2)
    tail, _ = examined(image, proven)
    assert (tail.proven, tail.run_end, tail.ending) == (proven, proven, Ending.SUSPECT)
    with seglog.open(ROOT, disk=disk_with(image)) as log:
        assert [message.offset for message in log.read(on_gap=lambda gap: None)] == [0, 3, 4]
        assert log.append(b"goes on") == 5


def test_p4_p7_bad_bytes_behind_the_last_header_of_a_suspect_tail_may_have_held_any_number_of_records() -> None:
    """Nothing proves the last two batches. The first shows its header, the other one none: its offset was given out."""
    subject = SUBJECTS["unproven"]()
    path = segment_paths(subject.image)[-1]
    pair, single = batches(subject.image, path)[1:3]
    image = flipped(subject.image, path, pair.end - 100, 0)
    image = overwritten(image, path, single.position, b"rot")
    report = verify(ROOT, disk=disk_with(image, boot_id=subject.boot_id))
    assert any(found.first_offset <= 3 <= found.last_offset for found in report.suspect)
    with seglog.open(ROOT, disk=disk_with(image, boot_id=subject.boot_id)) as log:
        assert log.append(b"goes on") > 3
