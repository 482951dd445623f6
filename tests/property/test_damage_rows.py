"""The rows of the fault catalogue that are about bytes which rotted, moved or went away (P6, P7, P8)."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest

import seglog
from seglog.errors import DamageFound, UnsupportedVersion
from seglog.format import layout as L
from seglog.format.batch import encode_batch
from seglog.format.checksum import crc32c, seed
from seglog.verify import verify
from tools.crashtest.anatomy import batches, header_of, parts
from tools.crashtest.damage_oracle import Seen, check, named_by, opened_and_used, read_only, verified
from tools.crashtest.images import (
    NEXT_BOOT,
    ROOT,
    Image,
    cut,
    disk_with,
    flipped,
    image_of,
    overwritten,
    segment_paths,
    without,
)
from tools.crashtest.subjects import SUBJECTS, Builder, Subject

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


def record_byte(subject: Subject, offset: int) -> tuple[str, int]:
    """Where the first byte of a record stands."""
    part = next(part for part in parts(subject.image) if part.what == "record" and part.costs == (offset,))
    return part.path, part.start


def with_hint_of(image: Image, older: Image) -> Image:
    return {**image, "lock": older["lock"]}


# -- torn, suspect, damaged: what proves that bytes were durable


def last_batch_rotten(proof: str) -> tuple[Subject, Image]:
    """A log whose last batch has a flipped bit; only `proof` says that it had been durable."""
    made = Builder(seed=20)
    made.one(b"first")
    older = image_of(made.disk)
    made.one(b"last")
    match proof:
        case "later mark":
            made.one(b"later")
        case "successor":
            made.rotate()
            made.one(b"next segment")
        case "cursor":
            with made.log.consumer("u") as consumer:
                consumer.ack(consumer.receive_many(1)[0])
        case "sync":
            made.log.sync()
        case "close marker":
            made.log.close()
            made.log = made.open()
    whole = made.killed()
    acked = frozenset((0,)) if proof == "cursor" else frozenset()
    subject = Subject(whole, made.records, acked=acked, boot_id=NEXT_BOOT)
    path, position = record_byte(subject, 1)
    rotten = flipped(whole, path, position, 3)
    return subject, rotten if proof == "hint" else with_hint_of(rotten, older)


@pytest.mark.parametrize("proof", ["hint", "later mark", "successor", "cursor", "close marker"])
def test_p7_f22_f23_bad_bytes_that_anything_proves_durable_are_damage(proof: str) -> None:
    subject, image = last_batch_rotten(proof)
    report = verified(subject, image)
    assert [(d.first_offset, d.last_offset) for d in report.damage] == [(1, 1)]
    assert not report.suspect
    assert report.torn_tail_bytes == 0
    check(subject, image, {1}, hidden={1, 2} if proof in ("successor", "cursor") else ())


def test_p7_f23_without_any_proof_they_are_suspect_and_stay_so_for_ever() -> None:
    subject, image = last_batch_rotten("nothing")
    report = verified(subject, image)
    assert [(r.first_offset, r.last_offset) for r in report.suspect] == [(1, 1)]
    assert not report.ok
    assert not report.damage
    used = opened_and_used(subject, image)
    for _ in range(3):
        with seglog.open(ROOT, disk=used.disk) as log:
            log.append(b"more")
    after = verify(ROOT, disk=used.disk)
    assert [(r.first_offset, r.last_offset) for r in after.suspect] == [(1, 1)]
    assert not after.skipped


def test_p7_f24_the_verdict_does_not_depend_on_compression_or_footers() -> None:
    for compression in (None, "zstd"):
        made = Builder(seed=21, compression=compression)
        made.many(b"abcdefgh" * 20, b"abcdefgh" * 30)
        made.many(b"abcdefgh" * 40, b"abcdefgh" * 50)
        made.rotate()
        made.one(b"behind")
        image = made.closed()
        path = segment_paths(image)[0]
        second = batches(image, path)[1]
        hit = next(p for p in parts(image) if p.start > second.position and p.what in ("record", "frame"))
        rotten = flipped(image, path, hit.start + 10, 0)
        for variant in (rotten, cut(rotten, path, batches(image, path)[-1].end)):
            report = verified(Subject(image, made.records), variant)
            assert {(d.first_offset, d.last_offset) for d in report.damage} <= {(2, 2), (2, 3)}
            assert report.damage
            assert not report.suspect


def torn_variants(subject: Subject) -> Iterator[tuple[str, Image]]:
    """What a power cut leaves of the last batch: all its sectors but one."""
    path = segment_paths(subject.image)[-1]
    last = batches(subject.image, path)[-1]
    for start in range(last.position // L.SECTOR * L.SECTOR, last.end, L.SECTOR):
        first, stop = max(start, last.position), min(start + L.SECTOR, last.end)
        yield f"bytes {first} to {stop} unwritten", overwritten(subject.image, path, first, bytes(stop - first))
    for size in range(last.position, last.end, 1 if DEEP > 1 else 7):
        yield f"cut at {size}", cut(subject.image, path, size)


def test_p7_an_interrupted_append_is_torn_wherever_a_sector_lacks() -> None:
    made = Builder(seed=22)
    made.one(b"first")
    older = image_of(made.disk)
    made.many(bytes(700), b"x" * 600, b"y" * 700)  # whole sectors that really are zero, too
    whole = with_hint_of(made.killed(), older)
    subject = Subject(whole, {0: b"first"}, boot_id=NEXT_BOOT)
    torn_bytes = set()
    for what, image in torn_variants(subject):
        report = verified(subject, image)
        assert report.ok, what
        assert report.records == 1, what
        torn_bytes.add(report.torn_tail_bytes > 0)
        disk = disk_with(image, boot_id=NEXT_BOOT)
        before = image_of(disk)[segment_paths(image)[0]].rstrip(b"\0")
        with seglog.open(ROOT, disk=disk) as log:
            assert log.report.torn_tail_bytes == report.torn_tail_bytes, what
            assert not log.report.suspect, what
            assert not log.report.damage, what
            assert [m.payload for m in log.read()] == [b"first"], what
            log.append(b"after")
        assert image_of(disk)[segment_paths(image)[0]].startswith(before), f"{what}: cut bytes are gone"
        again = verify(ROOT, disk=disk)
        assert (again.ok, again.torn_tail_bytes, again.suspect) == (True, report.torn_tail_bytes, ()), what
    assert True in torn_bytes


# -- lengths and limits


@pytest.mark.parametrize("field", ["stored", "raw", "count"])
@pytest.mark.parametrize("value", [0, 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1])
def test_p10_f25_a_length_is_bounded_before_anything_is_allocated(field: str, value: int) -> None:
    """Even under a checksum that holds, as only a hostile or faulty writer makes it."""
    subject = SUBJECTS["batched"]()
    path = segment_paths(subject.image)[0]
    first = batches(subject.image, path)[0]
    salt = header_of(subject.image, path).salt
    header = bytearray(subject.image[path][first.position : first.position + L.BATCH_HEADER_BYTES])
    at = {"count": 8, "stored": 12, "raw": 16}[field]
    header[at : at + 4] = value.to_bytes(4, "little")
    header[60:64] = crc32c(bytes(header[4:60]), seed(salt, first.position)).to_bytes(4, "little")
    # Without the copy, so that nothing mends it, and with a body that does not prove the lengths.
    image = overwritten(subject.image, path, first.position, bytes(header))
    image = overwritten(image, path, first.end - 72, bytes(72))
    image = flipped(image, path, first.position + L.BATCH_HEADER_BYTES + 40, 0)
    tracemalloc.start()
    try:
        seen = read_only(subject, image)
        report = verified(subject, image)
        used = opened_and_used(subject, image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
    expected = {offset for offset in subject.records if offset not in first.offsets}
    assert expected <= set(seen.records)
    assert expected <= set(used.read.records)
    assert named_by(report, subject) | set(seen.records) == set(subject.records)


def test_f26_a_record_of_the_old_limit_reads_after_the_limit_was_lowered() -> None:
    made = Builder(seed=23)
    made.log.close()
    disk = made.disk
    with seglog.open(ROOT, disk=disk, max_record_bytes=1000) as log:
        log.append(b"x" * 1000)
        with pytest.raises(seglog.RecordTooLarge):
            log.append(b"x" * 1001)
    with seglog.open(ROOT, disk=disk, max_record_bytes=10) as log:
        with pytest.raises(seglog.RecordTooLarge):
            log.append(b"x" * 11)
        log.append(b"x" * 10)
        assert [len(message.payload) for message in log.read()] == [1000, 10]
    assert verify(ROOT, disk=disk).ok
    with seglog.open(ROOT, disk=disk, max_record_bytes=2000) as log:
        log.append(b"x" * 2000)
        assert [len(message.payload) for message in log.read()] == [1000, 10, 2000]


# -- no record is invented


@pytest.mark.parametrize("lift", range(8))
def test_p6_f27_batches_of_this_very_segment_inside_a_payload_are_never_taken_for_real_ones(lift: int) -> None:
    """Payloads hold copies of batches, and batches forged for the place they stand at with every salt but ours."""
    made = Builder(seed=24)
    made.one(b"template")
    made.many(b"one", b"two")
    path = segment_paths(image_of(made.disk))[0]
    content = image_of(made.disk)[path]
    batch = content[L.DATA_START : batches(image_of(made.disk), path)[-1].end]
    place = made.log.stats().bytes  # anything: the copies repeat at every alignment
    forged = encode_batch(
        [b"forged"], salt=place | 1, position=9000, base_offset=3, time_ns=0, durable=(L.DATA_START, 0)
    )
    made.one(bytes(lift) + batch * 3)
    made.many(bytes(lift) + forged * 3, bytes(lift) + batch)
    made.one(b"behind")
    image = made.closed()
    subject = Subject(image, made.records)
    placed = [placed for placed in batches(image, path) if placed.header.count]
    single, several = placed[2], placed[3]
    check(subject, flipped(image, path, single.position + 20, 5), {3})
    both = flipped(flipped(image, path, several.position + 20, 5), path, several.end - 8 - 64 + 20, 5)
    check(subject, both, {4, 5})
    check(subject, overwritten(image, path, single.position, bytes(64)), {3})


def test_f10_batches_of_another_segment_or_another_place_do_not_validate() -> None:
    subject = SUBJECTS["many_segments"]()
    one, two = segment_paths(subject.image)[:2]
    source = subject.image[one][L.DATA_START : L.DATA_START + 180]
    moved = overwritten(subject.image, two, L.DATA_START, source)
    lost = named_by(verified(subject, moved), subject)
    assert lost <= {5, 6, 7, 8}
    check(subject, moved, lost)
    third = batches(subject.image, two)[2]
    block = subject.image[two][L.DATA_START : L.DATA_START + third.header.length]
    check(subject, overwritten(subject.image, two, third.position, block), set(third.offsets))


# -- files that are gone, doubled or somebody else's


def test_p6_f30_a_missing_middle_segment_is_a_gap_with_its_exact_range() -> None:
    subject = SUBJECTS["many_segments"]()
    paths = segment_paths(subject.image)
    for gone in (1, 2):
        lost = set(range(5 * gone, 5 * gone + 5))
        report = check(subject, without(subject.image, paths[gone]), lost)
        assert [(r.first_offset, r.last_offset) for r in report.missing] == [(min(lost), max(lost))]


def test_p6_f30_a_missing_first_segment_is_no_reclaimed_one() -> None:
    subject = SUBJECTS["many_segments"]()
    report = check(subject, without(subject.image, segment_paths(subject.image)[0]), {0, 1, 2, 3, 4})
    assert [(r.first_offset, r.last_offset) for r in report.missing] == [(0, 4)]


def test_p6_f30_two_neighbours_missing() -> None:
    subject = SUBJECTS["many_segments"]()
    image = subject.image
    for path in segment_paths(image)[1:3]:
        image = without(image, path)
    check(subject, image, set(range(5, 15)))


@pytest.mark.parametrize("witness", ["footer", "hint", "cursor"])
def test_p4_f31_a_missing_tail_segment_is_noticed_and_its_offsets_are_not_used_again(witness: str) -> None:
    made = Builder(seed=25)
    made.one(b"kept")
    made.rotate()
    made.many(b"lost", b"lost too")
    if witness == "cursor":
        with made.log.consumer("u") as consumer:
            consumer.ack(*consumer.receive_many(2))
    image = made.closed()
    kept, lost = segment_paths(image)
    image = without(image, lost)
    if witness != "footer":
        image = cut(image, kept, batches(image, kept)[-1].end)
    if witness != "hint":
        image = overwritten(image, "lock", 0, bytes(L.HINT.size))
    acked = frozenset((0, 1)) if witness == "cursor" else frozenset()
    subject = Subject(image, made.records, acked=acked)
    report = verified(subject, image)
    assert named_by(report, subject) == {1, 2}
    assert report.acknowledged_loss
    used = opened_and_used(subject, image)
    assert set(used.read.records) == {0}
    assert used.read.told(subject) == {1, 2}
    assert named_by(verify(ROOT, disk=used.disk), subject) == {1, 2}


def test_f31_all_segments_missing() -> None:
    subject = SUBJECTS["segments"]()
    image = subject.image
    for path in segment_paths(image):
        image = without(image, path)
    report = verified(subject, image)
    assert named_by(report, subject) == set(subject.records)
    used = opened_and_used(subject, image)
    assert not used.read.records
    assert named_by(verify(ROOT, disk=used.disk), subject) == set(subject.records)


def test_f32_copies_and_strangers_among_the_segments_are_reported_and_left_alone() -> None:
    subject = SUBJECTS["many_segments"]()
    stranger = SUBJECTS["plain"]()
    one, two = segment_paths(subject.image)[1:3]
    foreign = {
        one + ".bak": subject.image[one],
        one.replace(".seg", " (copy).seg"): subject.image[one],
        "segments/notes.txt": b"hello",
        two.replace("00000002", "00000001"): subject.image[two],  # under another id
        "segments/00000000000000000099-00000009.seg": subject.image[two],  # under another name, as the last
        "segments/00000000000000000050-00000004.seg": stranger.image[segment_paths(stranger.image)[0]],
    }
    image = {**subject.image, **foreign}
    report = verified(subject, image)
    assert report.ok
    assert report.records == len(subject.records)
    for path in foreign:
        assert any(path.removeprefix("segments/") in warning for warning in report.warnings), path
    assert read_only(subject, image).records == subject.records
    used = opened_and_used(subject, image)
    assert used.read.records == subject.records
    after = image_of(used.disk)
    assert {path: after[path] for path in foreign} == foreign


def test_f32_a_file_of_another_log_in_the_place_of_the_next_segment_is_never_overwritten() -> None:
    subject = SUBJECTS["many_segments"]()
    stranger = SUBJECTS["plain"]()
    path = "segments/00000000000000000020-00000004.seg"
    image = {**subject.image, path: stranger.image[segment_paths(stranger.image)[0]]}
    disk = disk_with(image)
    with seglog.open(ROOT, disk=disk) as log:  # larger records than the last segment allows: it must rotate
        with pytest.raises(seglog.StorageError, match="another log"):
            log.append(b"new")
        assert len(list(log.read())) == len(subject.records)
    assert image_of(disk)[path] == image[path]
    with seglog.open(ROOT, disk=disk_with(without(image_of(disk), path))) as log:
        assert log.append(b"new") == 20


def test_f34_a_log_that_only_a_newer_version_may_write_is_read_and_not_opened_for_writing() -> None:
    subject = SUBJECTS["plain"]()
    path = segment_paths(subject.image)[0]
    content = bytearray(subject.image[path])
    size = L.SEGMENT_HEADER.size
    for at in (0, L.HEADER_COPY_AT):
        content[at + 10 : at + 12] = L.TEST_VERSION.to_bytes(2, "little")
        content[at + size - 4 : at + size] = crc32c(bytes(content[at : at + size - 4])).to_bytes(4, "little")
    image = {**subject.image, path: bytes(content)}
    disk = disk_with(image)
    with pytest.raises(UnsupportedVersion):
        seglog.open(ROOT, disk=disk)
    assert {**image_of(disk), "lock": b""} == {**image, "lock": b""}
    assert read_only(subject, image).records == subject.records
    assert verified(subject, image).ok


def test_f34_a_version_without_a_checksum_is_damage_and_not_a_newer_format() -> None:
    subject = SUBJECTS["plain"]()
    path = segment_paths(subject.image)[0]
    check(subject, overwritten(subject.image, path, 8, b"\xff\xff\xff\xff"), set())


@pytest.mark.parametrize("what", ["both slots", "one slot", "gone", "empty"])
def test_p8_f36_damaged_meta_is_rebuilt_and_no_consumer_is_forgotten(what: str) -> None:
    subject = SUBJECTS["many_segments"]()
    hurt = flipped(subject.image, "meta", 60, 0)
    image = {
        "both slots": flipped(hurt, "meta", L.META_SLOT_BYTES + 60, 0),
        "one slot": hurt,
        "gone": without(subject.image, "meta"),
        "empty": cut(subject.image, "meta", 0),
    }[what]
    report = verified(subject, image)
    assert not report.acknowledged_loss
    used = opened_and_used(subject, image)
    assert used.read.records == subject.records
    assert set(used.consumed.records) == set(subject.records) - subject.acked
    assert verify(ROOT, disk=used.disk).ok
    with seglog.open(ROOT, disk=used.disk) as log:
        assert set(log.consumers()) == {"u", "late"}


def test_f36_nothing_is_reclaimed_while_a_registration_may_be_forgotten() -> None:
    """The cursor is there, the slot of meta that names it is not: it pins all the same."""
    subject = SUBJECTS["many_segments"]()
    disk = disk_with(flipped(flipped(subject.image, "meta", 60, 0), "meta", L.META_SLOT_BYTES + 60, 0))
    before = segment_paths(image_of(disk))
    with seglog.open(ROOT, disk=disk) as log:
        with log.consumer("quick") as quick:
            quick.ack(*quick.receive_many(100))
        log.compact()
    assert segment_paths(image_of(disk)) == before


# -- consumers and dead letters


def test_p6_two_consumers_in_two_openings_leave_one_dead_letter() -> None:
    subject = SUBJECTS["batched"]()
    path, position = record_byte(subject, 1)
    disk = disk_with(flipped(subject.image, path, position, 0))
    for name in ("a", "b", "a"):
        with seglog.open(ROOT, disk=disk) as log:
            seen = Seen()
            with log.consumer(name, on_gap=seen.gaps.append) as consumer:
                messages = list(consumer.drain())
                consumer.ack(*messages)
    with seglog.open(ROOT, disk=disk) as log:
        (letter,) = log.dead_letters
    damaged = disk_with(flipped(subject.image, path, position, 0))
    content = image_of(damaged)[path]
    assert (letter.reason, letter.offset, letter.last_offset, letter.consumer) == ("damaged", 1, 1, "")
    assert letter.payload == content[position : position + len(subject.records[1])]


def test_p6_a_consumer_with_its_watermark_inside_the_damage_meets_the_same_damage() -> None:
    subject = SUBJECTS["batched"]()
    path = segment_paths(subject.image)[0]
    first = batches(subject.image, path)[0]
    image = overwritten(subject.image, path, first.position, bytes(first.header.length))
    disk = disk_with(image)
    with seglog.open(ROOT, disk=disk) as log:
        for name, start in (("all", 0), ("inside", 2), ("behind", 4)):
            seen = Seen()
            with log.consumer(name, start=start, on_gap=seen.gaps.append) as consumer:
                seen.take(consumer.drain(), subject)
            assert set(seen.records) == {4, 5, 6}
            assert seen.told(subject) == set(range(start, 4))
        assert len(log.dead_letters) == 1


def test_p8_strict_refuses_what_is_damaged() -> None:
    subject, image = last_batch_rotten("nothing")
    disk = disk_with(image, boot_id=NEXT_BOOT)
    with pytest.raises(DamageFound):
        seglog.open(ROOT, disk=disk, strict=True)
    assert subject.records


# -- copies


def test_f20_a_directory_copied_at_any_moment_opens_honestly() -> None:
    """File after file, while the writer goes on: each file is as it was at some moment, and they do not fit."""
    made = Builder(seed=26)
    moments = []
    for number in range(4):
        made.many(b"%d" % number, b"payload" * number)
        moments.append((image_of(made.disk), dict(made.records)))
        if number == 1:
            made.rotate()
    made.log.close()
    for (early, known), (late, all_known) in pairwise(moments):
        for newer in ("lock", "meta", segment_paths(early)[-1]):
            image = {**early, newer: late[newer]}
            # From meta nobody learns of records: this copy is a valid older log (FORMAT.md §12, 3).
            subject = Subject(image, known if newer == "meta" else all_known, boot_id=NEXT_BOOT)
            read_only(subject, image)
            used = opened_and_used(subject, image)
            assert set(used.read.records) | used.read.told(subject) >= set(known), newer
            assert named_by(verified(subject, image), subject) <= used.read.told(subject), newer


@pytest.mark.parametrize("at", [0, L.META_SLOT_BYTES])
def test_f32_a_sector_of_another_logs_meta_costs_nothing(at: int) -> None:
    """Put there by a disk that misses its sector, checksum and all: of two log ids in one file none is believed."""
    subject, stranger = SUBJECTS["plain"](), SUBJECTS["segments"]()  # the newer generation is the stranger's
    sector = stranger.image["meta"][at : at + L.SECTOR]
    check(subject, overwritten(subject.image, "meta", at, sector), ())


@pytest.mark.parametrize("at", [0, L.HEADER_COPY_AT])
def test_f32_a_sector_of_another_logs_segment_costs_nothing(at: int) -> None:
    """The header of the segment with the same name there: the copy that is of this log counts."""
    subject, stranger = SUBJECTS["batched"](), SUBJECTS["plain"]()
    path = segment_paths(subject.image)[0]
    sector = stranger.image[path][at : at + L.SECTOR]
    report = check(subject, overwritten(subject.image, path, at, sector), ())
    assert [(d.position, d.reason) for d in report.damage] == [(at, "segment header copy")]
