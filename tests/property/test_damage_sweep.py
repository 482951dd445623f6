"""Hits in what means nothing, and in the dead letters (P6). The sweeps over all bits, cuts and blocks: test_rot.py."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest

import seglog
from tools.crashtest.anatomy import dead_parts, parts
from tools.crashtest.damage_oracle import check
from tools.crashtest.images import ROOT, cut, disk_with, flipped, image_of
from tools.crashtest.subjects import SUBJECTS

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("seglog").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("seglog").setLevel(logging.NOTSET)


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
    hits = [part for part in dead_parts(image) if part.path.startswith("dead/segments/")]
    positions = [at for part in hits for at in range(part.start, part.stop)]
    path = hits[0].path
    expected = subject.records.keys() - {1}
    for position in positions[:: 1 if DEEP > 1 else 7]:
        for damaged in (flipped(image, path, position, position % 8), cut(image, path, position)):
            disk = disk_with(damaged)
            with seglog.open(ROOT, disk=disk) as log:
                assert {message.offset for message in log.read(on_gap=lambda _: None)} == expected, position
                assert len(log.dead_letters) <= 1
                with log.consumer("second", on_gap=lambda _: None) as consumer:
                    assert {message.offset for message in consumer.drain()} == expected, position
                reasons = [letter.offset for letter in log.dead_letters]
                assert reasons == [1], position  # kept once, or once more where the first was lost
