"""Small whole log directories to be damaged: made in memory with a clock that stands still and seeded randomness."""

from __future__ import annotations

from dataclasses import dataclass, field

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock
from tools.crashtest.images import NEXT_BOOT, ROOT, Image, image_of, overwritten

MIB = 1 << 20
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Subject:
    """A directory, and what was put into it."""

    image: Image
    records: dict[int, bytes]
    acked: frozenset[int] = frozenset()  # by the consumer "u", if there is one
    boot_id: bytes | None = None
    unproven: frozenset[int] = frozenset()  # offsets that nothing on the disk proves durable


@dataclass
class Builder:
    """Appends and remembers; `log` may be closed and opened again in between."""

    seed: int = 1
    compression: str | None = None
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    records: dict[int, bytes] = field(default_factory=dict)
    largest: int = MIB

    def __post_init__(self) -> None:
        self.clock = ManualClock(start_ns=START_NS, seed=self.seed)
        self.log = self.open()

    def open(self) -> seglog.Log[bytes]:
        self.clock.advance(1)
        return seglog.open(
            ROOT,
            disk=self.disk,
            clock=self.clock,
            segment_bytes=4096,
            max_record_bytes=self.largest,
            compression=self.compression,
        )

    def one(self, payload: bytes) -> None:
        self.clock.advance(1)
        self.records[self.log.append(payload)] = payload

    def many(self, *payloads: bytes) -> None:
        self.clock.advance(1)
        self.records.update(zip(self.log.append_many(payloads), payloads, strict=True))

    def rotate(self) -> None:
        """The next append begins another segment: a larger limit does not fit the old one's header."""
        self.log.close()
        self.largest *= 2
        self.log = self.open()

    def killed(self) -> Image:
        """The directory as it is at this moment: what a kill leaves."""
        image = image_of(self.disk)
        self.log.close()
        return image

    def closed(self) -> Image:
        self.log.close()
        return image_of(self.disk)


def plain() -> Subject:
    """Single appends, closed properly."""
    made = Builder(seed=1)
    for payload in (b"alpha", b"", b"gamma" * 3):
        made.one(payload)
    return Subject(made.closed(), made.records)


def batched() -> Subject:
    """Several records a batch, killed right after the last commit."""
    made = Builder(seed=2)
    made.many(b"one", b"two two", b"", b"four")
    made.one(b"five")
    made.many(b"six", b"seven")
    return Subject(made.killed(), made.records)


def compressed() -> Subject:
    """Compressed batches beside one that does not shrink."""
    made = Builder(seed=3, compression="zstd")
    made.many(b"abcdefgh" * 9, b"abcdefgh" * 10)
    made.one(b"tiny")
    made.many(b"abcdefgh" * 7, b"abcdefgh" * 8, b"abcdefgh" * 9)
    return Subject(made.closed(), made.records)


def extras() -> Subject:
    """Keys, headers, due times in the past, expiry times in the future."""
    made = Builder(seed=4)
    made.clock.advance(1)
    values = [
        seglog.Record(b"with key", key=b"k", headers={"h": b"v"}),
        seglog.Record(b"plain in between"),
        seglog.Record(b"due", delay=1.0, ttl=1e6),
    ]
    payloads = [value.value for value in values]
    made.records.update(zip(made.log.append_many(values), payloads, strict=True))
    made.records[made.log.append(b"alone", key=b"")] = b"alone"
    return Subject(made.closed(), made.records)


def segments() -> Subject:
    """A sealed segment and an active one; a consumer that has acked here and there."""
    made = Builder(seed=5)
    made.one(b"a0")
    made.many(b"a1", b"a2")
    consumer = made.log.consumer("u")
    messages = consumer.receive_many(3)
    consumer.ack(messages[0], messages[2])
    made.rotate()
    made.one(b"b0")
    return Subject(made.closed(), made.records, acked=frozenset((0, 2)))


def many_segments() -> Subject:
    """Four segments of several batches; a consumer in the second one."""
    made = Builder(seed=8)
    for letter in b"abcd":
        made.one(bytes([letter]) * 5)
        made.many(*(bytes([letter]) * n for n in (7, 0, 9)))
        made.one(bytes([letter]) * 30)
        if letter == ord("b"):
            consumer = made.log.consumer("u")
            messages = consumer.receive_many(7)
            consumer.ack(*messages[1:])  # the first is not, so nothing is reclaimed
        if letter != ord("d"):
            made.rotate()
    return Subject(made.closed(), made.records, acked=frozenset(range(1, 7)))


def unproven() -> Subject:
    """After a power cut: the hint is an old one, and nothing proves the last batch."""
    made = Builder(seed=6)
    made.one(b"first")
    old = image_of(made.disk)["lock"]
    made.many(b"second", b"third")
    made.one(b"last")
    image = overwritten(made.killed(), "lock", 0, old)
    return Subject(image, made.records, boot_id=NEXT_BOOT, unproven=frozenset((3,)))


def unproven_batch() -> Subject:
    """As `unproven`, with several records in the last batch."""
    made = Builder(seed=7)
    made.one(b"first")
    old = image_of(made.disk)["lock"]
    made.many(b"second", b"third", b"fourth")
    image = overwritten(made.killed(), "lock", 0, old)
    return Subject(image, made.records, boot_id=NEXT_BOOT, unproven=frozenset((1, 2, 3)))


SUBJECTS = {
    made.__name__: made
    for made in (plain, batched, compressed, extras, segments, many_segments, unproven, unproven_batch)
}
