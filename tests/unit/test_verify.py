"""Verify beside others, and what it says of losses that were declared."""

from __future__ import annotations

from seglog.verify import verify
from tests.support.anatomy import batches
from tests.support.images import ROOT, disk_with, flipped, segment_paths
from tests.support.subjects import SUBJECTS


def test_p11_two_that_verify_at_the_same_time_are_no_writer_to_each_other() -> None:
    subject = SUBJECTS["unproven"]()
    last = segment_paths(subject.image)[-1]
    rotten = flipped(subject.image, last, batches(subject.image, last)[-1].position + 72, 0)
    disk = disk_with(rotten, boot_id=subject.boot_id)
    alone = verify(ROOT, disk=disk)
    assert alone.suspect
    other = disk.open(ROOT, create=False).open("lock")
    assert other.lock(shared=True)  # as the other one, when it asks whether a writer lives
    assert verify(ROOT, disk=disk) == alone
    other.unlock()
    assert other.lock()  # a writer: past what it called durable nothing is judged
    assert not verify(ROOT, disk=disk).suspect
