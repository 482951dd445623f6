"""Every bit, every cut, every sector of small logs: damage costs only what it touches, and is said (P6, P7, P8).

`SEGLOG_DEEP=8` looks at every bit in every way there is; by default each bit is seen by verify, a reader and an
opening for writing with a consumer, and one bit of each byte in every way.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Collection, Iterator

import pytest

import seglog
from seglog.format import layout as L
from tools.crashtest.anatomy import Part, batches, parts
from tools.crashtest.damage_oracle import check, check_briefly, named_by, verified
from tools.crashtest.images import ROOT, Image, cut, disk_with, flipped, image_of, overwritten, segment_paths
from tools.crashtest.subjects import SUBJECTS, Subject

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
SILENT = ("hint", "holder", "slot", "footer")  # one of them may be lost in a crash, and costs nothing


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


def is_unproven(subject: Subject, part: Part) -> bool:
    """Whether the part belongs to a batch that nothing proves durable."""
    placed = batches(subject.image, part.path) if part.path.startswith("segments/") else []
    return any(batch.position <= part.start < batch.end and set(batch.offsets) & subject.unproven for batch in placed)


def hidden_by(subject: Subject, part: Part) -> Collection[int]:
    """The offsets that a reader may not see before an opening for writing, if this part is hit: those of the last
    batch, where only the hint proves it, or nothing does."""
    if part.what == "hint":
        last = segment_paths(subject.image)[-1]
        return [batch for batch in batches(subject.image, last) if batch.header.count][-1].offsets
    return subject.unproven if is_unproven(subject, part) else ()


def is_silent(subject: Subject, part: Part) -> bool:
    """Whether verify need not say that this part is hit: it costs nothing, and a crash alone may leave it so."""
    spares = ("batch header", "header copy", "end mark")
    return part.what in SILENT or (not part.costs and part.what in spares and is_unproven(subject, part))


def sweep_bits(subject: Subject, *, batches_only: bool) -> int:
    """Flip every bit; returns how many variants were looked at."""
    count = 0
    for part in parts(subject.image):
        if batches_only and part.what in ("segment header", "holder", "slot"):
            continue
        hidden = hidden_by(subject, part)
        for position in range(part.start, part.stop):
            for bit in range(8):
                image = flipped(subject.image, part.path, position, bit)
                try:
                    if (position + bit) % 8 < DEEP:
                        report = check(subject, image, part.costs, hidden=hidden)
                    else:
                        report = check_briefly(subject, image, part.costs)
                    assert report.ok is is_silent(subject, part), "verify's verdict"
                    assert not set(part.costs) & subject.unproven or report.suspect, "neither torn nor damaged"
                except Exception as error:
                    raise AssertionError(f"{part.path}: bit {bit} of byte {position} ({part.what})") from error
                count += 1
    return count


# The files around the batches are the same in all subjects: one of them is swept whole, the others in their batches.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["plain", "batched", "compressed", "extras", "segments"])
def test_p6_f21_every_flipped_bit_costs_at_most_one_record_and_is_named(name: str) -> None:
    subject = SUBJECTS[name]()
    assert sweep_bits(subject, batches_only=name != "segments") > 2000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["unproven", "unproven_batch"])
def test_p7_f23_a_flipped_bit_in_a_batch_that_nothing_proves_is_suspect_and_never_torn(name: str) -> None:
    assert sweep_bits(SUBJECTS[name](), batches_only=True) > 2000


def touched(subject: Subject, path: str, start: int, stop: int) -> tuple[set[int], set[int]]:
    """Records with a byte in start .. stop, and all records of the batches with a byte there."""
    if not path.startswith("segments/"):
        return set(), set()
    hit = [part for part in parts(subject.image) if part.path == path and part.start < stop and start < part.stop]
    least = {o for part in hit if part.what in ("record", "frame") and part.start < part.stop for o in part.costs}
    near = [batch for batch in batches(subject.image, path) if batch.position < stop and start < batch.end]
    return least, {offset for batch in near for offset in batch.offsets}


def check_range(subject: Subject, image: Image, path: str, start: int, stop: int, *, briefly: bool = False) -> None:
    """Bytes start .. stop of a file are gone: at least their records are lost, at most their batches."""
    least, most = touched(subject, path, start, stop)
    lost = named_by(verified(subject, image), subject)
    assert least <= lost <= most, f"bytes {start} to {stop} hold {least} of {most}, verify names {lost}"
    if briefly:
        check_briefly(subject, image, lost)
    else:
        hidden = hidden_by(subject, Part(path, start, stop, "hint" if path == "lock" else ""))
        check(subject, image, lost, hidden=hidden)


def cuts(subject: Subject) -> Iterator[tuple[str, int]]:
    """Every size that ends inside of something, or right at its ends."""
    for path in sorted({part.path for part in parts(subject.image)}):
        mine = [part for part in parts(subject.image) if part.path == path]
        sizes = {size for part in mine for size in range(part.start, part.stop + 1)}
        yield from ((path, size) for size in sorted(sizes) if size < len(subject.image[path]))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["batched", "compressed", "extras", "segments", "many_segments"])
def test_p6_f29_every_cut_of_every_file_is_reported_with_the_offsets_it_costs(name: str) -> None:
    subject = SUBJECTS[name]()
    for index, (path, size) in enumerate(cuts(subject)):
        briefly = index % 8 >= DEEP
        try:
            check_range(subject, cut(subject.image, path, size), path, size, len(subject.image[path]), briefly=briefly)
        except Exception as error:
            raise AssertionError(f"{path}: cut at {size}") from error


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", [L.SECTOR, L.BLOCK])
@pytest.mark.parametrize("name", ["batched", "compressed", "extras", "segments", "many_segments"])
def test_p6_f35_a_zeroed_sector_is_damage_and_no_end_of_the_log(name: str, unit: int) -> None:
    subject = SUBJECTS[name]()
    for path in sorted({part.path for part in parts(subject.image)}):
        for start in range(0, len(subject.image[path]), unit):
            image = overwritten(subject.image, path, start, bytes(unit))
            if image == subject.image:
                continue
            try:
                check_range(subject, image, path, start, start + unit)
            except Exception as error:
                raise AssertionError(f"{path}: zeros from {start}") from error


@pytest.mark.parametrize("name", ["batched", "compressed", "extras", "segments", "many_segments"])
def test_p6_a_hit_in_the_padding_costs_nothing(name: str) -> None:
    """Between structures and behind the last batch; there it may look like a suspect tail, but no record is in it."""
    subject = SUBJECTS[name]()
    known = {(part.path, at) for part in parts(subject.image) for at in range(part.start, part.stop)}
    chance = random.Random(name)
    for _ in range(100 * DEEP):
        path = chance.choice([path for path, content in subject.image.items() if content and "dead" not in path])
        position = chance.randrange(len(subject.image[path]))
        if (path, position) in known:
            continue
        try:
            check(subject, flipped(subject.image, path, position, chance.randrange(8)), ())
        except Exception as error:
            raise AssertionError(f"{path}: byte {position}") from error


def test_f77_damage_in_the_dead_letters_costs_the_log_nothing_and_is_not_diverted_again() -> None:
    subject = SUBJECTS["batched"]()
    hit = next(part for part in parts(subject.image) if part.what == "record" and part.costs == (1,))
    disk = disk_with(flipped(subject.image, hit.path, hit.start, 0))
    with seglog.open(ROOT, disk=disk) as log, log.consumer("u") as consumer:
        consumer.ack(*consumer.drain())
        assert len(log.dead_letters) == 1
    image = image_of(disk)
    path = next(path for path in image if path.startswith("dead/segments/") and path.endswith(".seg"))
    used = len(image[path].rstrip(b"\0"))
    expected = subject.records.keys() - {1}
    for position in range(0, used, 1 if DEEP > 1 else 7):
        for damaged in (flipped(image, path, position, position % 8), cut(image, path, position)):
            disk = disk_with(damaged)
            with seglog.open(ROOT, disk=disk) as log:
                assert {message.offset for message in log.read(on_gap=lambda _: None)} == expected, position
                assert len(log.dead_letters) <= 1
                with log.consumer("second", on_gap=lambda _: None) as consumer:
                    assert {message.offset for message in consumer.drain()} == expected, position
                reasons = [letter.offset for letter in log.dead_letters]
                assert reasons == [1], position  # kept once, or once more where the first was lost
