"""Repair: evidence first, damage diverted, spares restored, the rest declared; then verify is content (P6, P8, P12)."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog
from seglog.disk.base import Disk
from seglog.disk.local import LocalDisk
from seglog.format import layout as L
from seglog.intervals import Intervals
from seglog.repair import _Repair, repair
from seglog.testing import Fault, FaultDisk, ManualClock
from seglog.verify import verify
from tests.support.evidence import holds, kept
from tests.support.place import Place, offsets
from tests.support.repair_scenes import overwrite
from tools.crashtest.anatomy import Part, batches, parts
from tools.crashtest.damage_oracle import LATER_NS, NEW, Seen, named_by
from tools.crashtest.images import ROOT, Image, cut, disk_with, flipped, image_of, overwritten, segment_paths, without
from tools.crashtest.subjects import SUBJECTS, Subject

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
FIRST = "segments/00000000000000000000-00000000.seg"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


def disk_of(place: Place) -> Disk:
    return place.disk or LocalDisk()


def repaired(place: Place, *, dry_run: bool = False) -> seglog.RepairReport:
    return repair(place.path, dry_run, disk=place.disk)


def rotten(place: Place, payload: bytes = b"record 3", path: str = FIRST) -> None:
    """Four bytes of this payload are others now."""
    *parents, name = path.split("/")
    file = disk_of(place).open("/".join([place.path, *parents]), create=False).open(name)
    at = file.read(0, file.size()).index(payload)
    file.close()
    overwrite(disk_of(place), place.path, path, at, b"ROT!")


def damaged(place: Place) -> None:
    """Five records, the fourth is rotten."""
    with place.open() as log:
        for number in range(5):
            log.append(b"record %d" % number)
        log.consumer("uploader").close()
    rotten(place)


def everything(place: Place) -> dict[str, bytes]:
    """All bytes of the log but the name of who locked it last."""
    found = {}

    def collect(path: str, prefix: str) -> None:
        directory = disk_of(place).open(path, create=False)
        for name in directory.list():
            try:
                file = directory.open(name)
            except OSError:
                collect(f"{path}/{name}", f"{prefix}{name}/")
                continue
            found[prefix + name] = file.read(0, 512 if name == "lock" else file.size())
            file.close()
        directory.close()

    collect(place.path, "")
    return found


def test_p6_f78_a_damaged_record_is_kept_diverted_and_declared(place: Place) -> None:
    damaged(place)
    assert place.verify().acknowledged_loss
    report = repaired(place)
    assert [(a.action, a.first_offset, a.last_offset) for a in report.actions] == [("divert", 3, 3)]
    assert report.ok
    assert report.left == ()
    assert report.repaired == (seglog.OffsetRange(3, 3),)
    assert report.quarantine == ("quarantine/000001.manifest.json",)
    after = place.verify()
    assert after.ok
    assert not after.acknowledged_loss
    assert after.repaired == report.repaired
    assert (after.damage, after.suspect, after.missing) == ((), (), ())
    assert holds(kept(disk_of(place), place.path), FIRST, b"ROT!rd 3")
    gaps: list[seglog.Gap] = []
    with place.open() as log:
        assert [(letter.reason, letter.offset, letter.payload) for letter in log.dead_letters] == [
            ("damaged", 3, b"ROT!rd 3")
        ]
        assert offsets(log.consumer("uploader", on_gap=gaps.append).drain()) == [0, 1, 2, 4]
        assert len(log.dead_letters) == 1  # the same place, met by a consumer, is the same dead letter
    assert gaps == [seglog.Gap(3, 3, "damaged")]


def test_f78_what_a_consumer_has_diverted_is_not_diverted_again(place: Place) -> None:
    damaged(place)
    with place.open() as log:
        assert offsets(log.consumer("uploader", on_gap=lambda gap: None).drain()) == [0, 1, 2, 4]
    assert repaired(place).ok
    with place.open() as log:
        assert [letter.offset for letter in log.dead_letters] == [3]


def test_a_dry_run_says_the_same_and_changes_nothing_beside_a_writer(place: Place) -> None:
    damaged(place)
    before = everything(place)
    plan = repaired(place, dry_run=True)
    assert everything(place) == before
    with place.open() as log:
        assert repaired(place, dry_run=True).actions == plan.actions
        assert log.append(b"goes on") == 5
    assert (plan.dry_run, plan.ok, plan.left, plan.quarantine, plan.repaired) == (True, False, (), (), ())
    assert repaired(place).actions == plan.actions


def test_p11_f55_a_log_that_is_open_for_writing_is_not_repaired(place: Place) -> None:
    damaged(place)
    with place.open():
        before = everything(place)
        with pytest.raises(seglog.LogLocked, match="pid"):
            repaired(place)
        assert everything(place) == before


def test_the_second_repair_finds_nothing_and_changes_nothing(place: Place) -> None:
    damaged(place)
    repaired(place)
    before = everything(place)
    again = repaired(place)
    assert (again.ok, again.actions, again.left, again.quarantine) == (True, (), (), ())
    assert everything(place) == before


@pytest.mark.parametrize("name", ["nothing", "empty", "segments", "tmp", "lost+found"])
def test_p8_an_empty_log_stays_as_it_is(name: str, place: Place) -> None:
    root = disk_of(place).open(place.path, create=True)
    if name in ("segments", "lost+found"):
        root.directory(name, create=True).close()
    elif name == "tmp":
        root.open("meta.tmp", create=True).close()
    root.close()
    assert repaired(place) == seglog.RepairReport(False, True, (), (), (), ())


def test_what_is_no_log_is_not_touched(place: Place) -> None:
    with pytest.raises(seglog.LogNotFound):
        repaired(place)
    root = disk_of(place).open(place.path, create=True)
    root.open("novel.txt", create=True).close()
    with pytest.raises(seglog.NotALog):
        repaired(place)
    assert root.list() == ["novel.txt"]
    root.close()


# Spares


SPARES = ("segment header", "header copy", "end mark", "batch header", "lengths", "record CRCs", "padding")


def spares(subject: Subject) -> list[Part]:
    """What loses no record, and stands somewhere else, too, or follows from the rest."""
    markers = {
        (path, batch.position)
        for path in segment_paths(subject.image)
        for batch in batches(subject.image, path)
        if not batch.header.count
    }
    return [
        part
        for part in parts(subject.image)
        if part.what in SPARES and not part.costs and part.start < part.stop and (part.path, part.start) not in markers
    ]


def test_p6_bad_bytes_in_which_no_record_was_become_a_batch_without_records() -> None:
    """A close marker: there is no copy of it, and no record in it."""
    subject = SUBJECTS["many_segments"]()
    marker = next(batch for batch in batches(subject.image, FIRST) if not batch.header.count)
    image = overwritten(subject.image, FIRST, marker.position, b"n" * 72)
    disk = disk_with(image)
    assert not verify(ROOT, disk=disk).ok
    report = repair(ROOT, disk=disk, clock=ManualClock())
    assert [action.action for action in report.actions] == ["restore"]
    assert report.ok
    assert holds(kept(disk, ROOT), FIRST, b"n" * 72)
    assert verify(ROOT, disk=disk).records == len(subject.records)


@pytest.mark.parametrize("name", ["plain", "compressed", "extras", "many_segments"])
def test_p6_a_spare_is_restored_to_the_last_bit(name: str) -> None:
    subject = SUBJECTS[name]()
    chance = random.Random(name)
    seen = set()
    for part in spares(subject):
        position = chance.randrange(part.start, part.stop)
        disk = disk_with(flipped(subject.image, part.path, position, chance.randrange(8)))
        report = repair(ROOT, disk=disk, clock=ManualClock())
        assert {action.action for action in report.actions} == {"restore"}, part
        assert report.ok
        after = image_of(disk)
        for path in segment_paths(subject.image):  # the opening in it may have closed the log once more
            assert after[path].startswith(subject.image[path].rstrip(b"\0")), part
        with seglog.open(ROOT, "r", disk=disk) as log:
            assert len(log.dead_letters) == 0
        seen.add(part.what)
    assert len(seen) >= 4


def test_p6_where_both_copies_of_a_segment_header_are_lost_the_salt_is_written_down_again() -> None:
    """Before, only the hint knew it: had that gone too, nothing could have been read."""
    subject = SUBJECTS["batched"]()
    image = overwritten(subject.image, FIRST, 0, bytes(2 * L.BLOCK))
    disk = disk_with(image)
    assert repair(ROOT, disk=disk, clock=ManualClock()).ok
    disk = disk_with(overwritten(image_of(disk), "lock", 0, bytes(64)))
    assert verify(ROOT, disk=disk).ok
    with seglog.open(ROOT, disk=disk) as log:
        assert {m.offset: m.payload for m in log.read(on_gap=lambda gap: None)} == subject.records


def test_f29_a_batch_that_was_cut_in_its_padding_lost_no_record_and_is_made_whole() -> None:
    """With all that is behind it: its trailer, and a close marker."""
    subject = SUBJECTS["compressed"]()
    last = batches(subject.image, FIRST)[-2]
    disk = disk_with(cut(subject.image, FIRST, last.end - L.BATCH_HEADER_BYTES - L.END_MARK_BYTES - 1))
    assert verify(ROOT, disk=disk).records == len(subject.records)
    report = repair(ROOT, disk=disk, clock=ManualClock())
    assert {action.action for action in report.actions} == {"restore"}
    assert report.ok
    assert repair(ROOT, disk=disk, clock=ManualClock()).actions == ()


# Meta and cursors


def test_f36_a_meta_that_does_not_read_back_is_kept_and_made_anew(place: Place) -> None:
    damaged(place)
    for slot in (0, L.META_SLOT_BYTES):
        overwrite(disk_of(place), place.path, "meta", slot + 20, b"noise")
    report = repaired(place)
    assert [action.action for action in report.actions] == ["rebuild", "divert"]
    assert report.ok
    assert holds(kept(disk_of(place), place.path), "meta", b"noise")
    with place.open() as log:
        assert list(log.consumers()) == ["uploader"]


def test_f36_one_bad_slot_of_meta_is_written_again(place: Place) -> None:
    damaged(place)
    repaired(place)
    overwrite(disk_of(place), place.path, "meta", 20, b"noise")
    assert place.verify().warnings
    assert [action.action for action in repaired(place).actions] == ["rebuild"]
    after = place.verify()
    assert not after.warnings
    assert after.repaired == (seglog.OffsetRange(3, 3),)


def test_f36_a_meta_that_is_gone_is_made_anew(place: Place) -> None:
    with place.open() as log:
        log.consumer("uploader")
        log.append(b"x")
    root = disk_of(place).open(place.path, create=False)
    root.unlink("meta")
    root.close()
    assert place.verify().warnings
    with place.open("r") as log, pytest.raises(seglog.NotALog, match="`seglog repair` rebuilds it"):
        log.consumer("uploader")
    assert [(action.file, action.action) for action in repaired(place).actions] == [("meta", "rebuild")]
    assert not place.verify().warnings
    with place.open("r") as log:
        assert list(log.consumers()) == ["uploader"]
    assert repaired(place).actions == ()


def test_p5_f36_a_consumer_whose_cursor_does_not_read_back_begins_again(place: Place) -> None:
    damaged(place)
    with place.open() as log:
        log.consumer("uploader", on_gap=lambda gap: None).ack(0, 1)
    overwrite(disk_of(place), place.path, "cursors/uploader.cursor", 0, bytes(2 * L.CURSOR_SLOT_BYTES))
    report = repaired(place)
    assert [(action.file, action.action) for action in report.actions] == [
        (FIRST, "divert"),
        ("cursors/uploader.cursor", "restart"),
    ]
    assert report.ok
    assert place.verify().cursors["uploader"].ok
    with place.open() as log:
        assert offsets(log.consumer("uploader", on_gap=lambda gap: None).drain()) == [0, 1, 2, 4]


def test_p11_a_cursor_that_another_process_holds_is_left(place: Place) -> None:
    damaged(place)
    reader = place.open("r")
    held = reader.consumer("uploader")
    overwrite(disk_of(place), place.path, "cursors/uploader.cursor", 0, bytes(2 * L.CURSOR_SLOT_BYTES))
    report = repaired(place)
    assert not report.ok
    assert [action.action for action in report.left] == ["restart"]
    held.ack(0)
    held.ack(1)
    held.close()
    assert repaired(place).ok
    with place.open() as log:
        assert offsets(log.consumer("uploader", on_gap=lambda gap: None).drain()) == [2, 4]


# Missing, suspect, and what comes after


def test_f30_lost_segments_are_declared_and_consumers_still_told() -> None:
    subject = SUBJECTS["many_segments"]()
    gone = segment_paths(subject.image)[2]
    disk = disk_with(without(subject.image, gone))
    report = repair(ROOT, disk=disk, clock=ManualClock())
    assert [(action.file, action.action) for action in report.actions] == [("", "declare")]
    assert report.ok
    assert report.quarantine == ()  # there are no bytes
    after = verify(ROOT, disk=disk)
    assert after.ok
    assert after.repaired == report.repaired
    gaps: list[seglog.Gap] = []
    with seglog.open(ROOT, disk=disk) as log:
        assert {m.offset for m in log.read(on_gap=gaps.append)} == subject.records.keys() - set(range(10, 15))
        assert len(log.dead_letters) == 0
    assert [(gap.first_offset, gap.last_offset, gap.reason) for gap in gaps] == [(10, 14, "missing")]


def test_p7_f23_a_suspect_tail_is_kept_diverted_and_declared() -> None:
    subject = SUBJECTS["unproven"]()
    last = batches(subject.image, FIRST)[-1]
    disk = disk_with(flipped(subject.image, FIRST, last.position + 74, 1), boot_id=subject.boot_id)
    assert verify(ROOT, disk=disk).suspect
    report = repair(ROOT, disk=disk, clock=ManualClock())
    assert report.ok
    assert report.repaired == (seglog.OffsetRange(3, 3),)
    with seglog.open(ROOT, disk=disk) as log:
        assert [letter.offset for letter in log.dead_letters] == [3]
        assert {m.offset for m in log.read(on_gap=lambda gap: None)} == {0, 1, 2}


def test_p6_new_damage_after_a_repair_is_a_finding(place: Place) -> None:
    damaged(place)
    repaired(place)
    rotten(place, b"record 2")
    report = place.verify()
    assert not report.ok
    assert report.acknowledged_loss
    assert [(found.first_offset, found.last_offset) for found in report.damage] == [(2, 2)]
    assert report.repaired == (seglog.OffsetRange(3, 3),)
    assert repaired(place).quarantine == ("quarantine/000002.manifest.json",)
    assert place.verify().repaired == (seglog.OffsetRange(2, 3),)


def test_what_was_reclaimed_is_not_told_as_repaired(place: Place) -> None:
    with place.open(segment_bytes=4096) as log:
        for number in range(6):
            log.append(b"record %d" % number + bytes(1500))
    rotten(place, b"record 1")
    repaired(place)
    with place.open(segment_bytes=4096) as log:
        consumer = log.consumer("uploader", on_gap=lambda gap: None)
        consumer.ack(*consumer.drain())
        assert log.compact().removed_segments > 0
    assert place.verify().repaired == ()


def test_more_ranges_than_meta_holds_stay_findings(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L, "META_REPAIRED_MAX", 1)
    damaged(place)
    rotten(place, b"record 1")
    report = repaired(place)
    assert not report.ok
    assert report.repaired == (seglog.OffsetRange(1, 1),)
    assert [action.first_offset for action in report.left] == [3]
    monkeypatch.undo()
    assert repaired(place).ok
    with place.open() as log:
        assert [letter.offset for letter in log.dead_letters] == [1, 3]


# The dead letters


def test_f77_damage_among_the_dead_letters_is_declared_there_and_not_diverted(place: Place) -> None:
    with place.open() as log:
        log.append(b"poison")
        log.consumer("uploader").reject(0, reason="bad")
        log.append(b"fine")
    rotten(place, b"poison", f"dead/{FIRST}")
    assert place.verify().warnings
    report = repaired(place)
    assert [(action.file, action.action) for action in report.actions] == [(f"dead/{FIRST}", "declare")]
    assert holds(kept(disk_of(place), place.path), f"dead/{FIRST}", b"ROT!")
    assert place.verify().warnings == ()
    assert repaired(place).actions == ()
    with place.open() as log:
        assert [letter.reason for letter in log.dead_letters] == []
        assert offsets(log.consumer("uploader").drain()) == [1]
        log.consumer("uploader").reject(1, reason="works")
        assert [letter.offset for letter in log.dead_letters] == [1]


def test_p9_f75_f78_a_full_dead_letter_queue_declares_nothing(place: Place) -> None:
    with place.open() as log:
        log.append(bytes(8192) + b"record 0")
        log.append(b"record 1")
    rotten(place, b"record 0")
    before = place.verify()
    with pytest.raises(seglog.DeadLetterWriteFailed):
        repair(place.path, disk=place.disk, dead_letter_bytes=4096)
    assert place.verify().damage == before.damage
    assert repaired(place).ok
    assert kept(disk_of(place), place.path)
    assert len([name for name in everything(place) if name.startswith("quarantine/")]) == 2  # kept once


# Who may see it, and what may be in the way


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_p12_f81_what_is_set_aside_is_nobody_elses_affair(umask: int, tmp_path: Path) -> None:
    place = Place(str(tmp_path / "log"), None)
    damaged(place)
    before = os.umask(umask)
    try:
        assert repaired(place).ok
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log/quarantine").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log").rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_f81_with_another_file_mode(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "log"), None)
    damaged(place)
    assert repair(place.path, file_mode=0o640).ok
    assert stat.S_IMODE((tmp_path / "log/quarantine").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log/quarantine").iterdir()} == {0o640}


@pytest.mark.parametrize("name", ["quarantine", "segments", "dead"])
def test_p12_a_link_in_the_log_leads_nowhere(name: str, tmp_path: Path) -> None:
    place = Place(str(tmp_path / "log"), None)
    damaged(place)
    elsewhere = tmp_path / "elsewhere"
    if (tmp_path / "log" / name).exists():
        (tmp_path / "log" / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (tmp_path / "log" / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    with pytest.raises(seglog.SeglogError):
        repaired(place)
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_manifests_that_are_noise_are_no_evidence(place: Place) -> None:
    damaged(place)
    directory = disk_of(place).open(f"{place.path}/quarantine", create=True)
    item = {"file": "../../outside", "position": 0, "sha256": ""}
    items = [3, [item], *([{**item, "file": name, "position": {}}] for name in ([1], "segments/none", "meta"))]
    lies = [json.dumps({"evidence": "x", "size": 0, "items": each}).encode() for each in items]
    for number, text in enumerate((b"", b"[]", b"\xff", b'{"evidence": 1}', *lies)):
        file = directory.open(f"00000{number}.manifest.json", create=True)
        file.write(0, text)
        file.close()
    directory.open("x", create=True).close()
    directory.open("000029.evidence.tmp", create=True).close()
    directory.close()
    report = repaired(place)
    assert report.ok
    assert report.quarantine == ("quarantine/000030.manifest.json",)
    assert "quarantine/000029.evidence.tmp" not in everything(place)


# Whatever fails


CHANGES = set("write truncate allocate sync datasync create make_directory rename unlink sync_directory".split())


@pytest.mark.parametrize("onwards", [False, True], ids=["once", "onwards"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=lambda e: errno.errorcode[e])
def test_p9_f43_a_disk_that_refuses_any_step_leaves_nothing_half_declared(error: int, onwards: bool) -> None:
    inner = disk_with({})
    damaged(Place(ROOT, inner))
    image = image_of(inner)
    match = lambda operation, name: operation in CHANGES  # noqa: E731
    counting = FaultDisk(disk_with(image))
    counting.arm(None, match=match)
    assert repair(ROOT, disk=counting, clock=ManualClock()).ok
    raised = 0
    for nth in range(1, counting.matched + 1):
        disk = FaultDisk(disk_with(image))
        disk.arm(Fault(nth, error, onwards=onwards), match=match)
        try:
            repair(ROOT, disk=disk, clock=ManualClock(seed=1))
        except seglog.SeglogError:
            raised += 1
        disk.arm(None)
        between = verify(ROOT, disk=disk)
        if between.repaired:
            assert holds(kept(disk, ROOT), FIRST, b"ROT!"), f"declared without evidence, call {nth}"
        report = repair(ROOT, disk=disk, clock=ManualClock(seed=2))
        assert report.ok, f"call {nth}"
        assert verify(ROOT, disk=disk).repaired == (seglog.OffsetRange(3, 3),)
        assert holds(kept(disk, ROOT), FIRST, b"ROT!")
        with seglog.open(ROOT, disk=disk) as log:
            assert [letter.offset for letter in log.dead_letters] == [3]
            assert {m.offset for m in log.read(on_gap=lambda gap: None)} == {0, 1, 2, 4}
    assert raised > counting.matched // 3


def test_p9_f43_without_room_for_the_evidence_it_says_so_and_nothing_changes() -> None:
    inner = disk_with({})
    damaged(Place(ROOT, inner))
    before = verify(ROOT, disk=inner)
    inner.capacity = 0
    with pytest.raises(seglog.DiskFull):
        repair(ROOT, disk=inner)
    assert verify(ROOT, disk=inner) == before
    assert not [name for name in image_of(inner) if name.startswith("quarantine/0")]


# Anything


def variants(subject: Subject, chance: random.Random) -> Image:
    """One to three things happen to the files."""
    image, known = subject.image, list(parts(subject.image))
    for _ in range(chance.choice((1, 1, 2, 3))):
        part = chance.choice(known)
        if part.start >= min(part.stop, len(image[part.path])):
            continue
        at = chance.randrange(part.start, min(part.stop, len(image[part.path])))
        match chance.randrange(4):
            case 0 | 1:
                image = flipped(image, part.path, at, chance.randrange(8))
            case 2:
                image = cut(image, part.path, at)
            case 3:
                image = overwritten(image, part.path, at // 512 * 512, bytes(512))
    return image


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_p6_p8_whatever_happened_a_repair_ends_it(name: str) -> None:
    subject = SUBJECTS[name]()
    chance = random.Random(name)
    for number in range(40 * DEEP):
        image = variants(subject, chance)
        disk = disk_with(image, boot_id=subject.boot_id)
        before = verify(ROOT, disk=disk)
        with seglog.open(ROOT, "r", disk=disk_with(image, boot_id=subject.boot_id)) as log:
            readable = {message.offset for message in log.read(on_gap=lambda gap: None)}
        report = repair(ROOT, disk=disk, clock=ManualClock(start_ns=LATER_NS, seed=number))
        after = verify(ROOT, disk=disk)
        assert report.ok is after.ok
        assert after.ok or report.left, f"{number}: {after}"
        assert after.records >= before.records, f"{number}: {before} {after}"
        lost = {o for r in after.repaired for o in subject.records if r.first_offset <= o <= r.last_offset}
        assert lost <= named_by(before, subject), f"{number}: declared {lost}, and before: {before}"
        seen = Seen()
        with seglog.open(ROOT, disk=disk, clock=ManualClock(start_ns=LATER_NS, seed=1000)) as log:
            seen.take(log.consumer("late", on_gap=seen.gaps.append).drain(), subject)
            assert log.append(NEW) >= before.next_offset
        assert seen.records.keys() >= readable, f"{number}: {seen} {readable}"
        assert len(seen.records) == after.records, f"{number}: {seen} {after}"
        assert verify(ROOT, disk=disk).ok is after.ok
        assert repair(ROOT, disk=disk, clock=ManualClock(seed=2000)).quarantine == ()


def test_this_modules_promises_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a declaration the damage stays a finding."""
    disk = disk_with({})
    damaged(Place(ROOT, disk))
    monkeypatch.setattr(_Repair, "_declare", lambda *_: Intervals())
    assert not repair(ROOT, disk=disk).ok
