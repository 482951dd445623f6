"""Small whole log directories to be damaged: made in memory with a clock that stands still and seeded randomness."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock
from tools.crashtest.images import NEXT_BOOT, ROOT, Image, image_of, overwritten, segment_paths

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
    sound: bool = True  # False: something is lost already
    letters: dict[int, bytes] = field(default_factory=dict)  # id and payload of each dead letter
    older: Image = field(default_factory=dict)  # the same directory, some time before


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


def dead_letters() -> Subject:
    """Messages that a consumer gave up: more than one batch of letters, one of them deleted."""
    made = Builder(seed=9)
    made.many(*(b"message %d" % number for number in range(6)))
    letters = {}
    with made.log.consumer("u") as consumer:
        messages = consumer.receive_many(6)
        for number, message in enumerate(messages[:4]):
            consumer.reject(message, reason=f"reason {number}")
        letters = {letter.id: letter.payload for letter in made.log.dead_letters}
        made.log.dead_letters.delete([1])
        del letters[1]
        older = image_of(made.disk)
        consumer.ack(messages[5])
    image = made.closed()
    return Subject(image, made.records, acked=frozenset((0, 1, 2, 3, 5)), letters=letters, older=older)


def reclaimed() -> Subject:
    """The first two of four segments were passed by everybody and deleted."""
    made = Builder(seed=10)
    older: Image = {}
    for letter in b"abcd":
        made.many(*(bytes([letter]) * n for n in (8, 0, 11)))
        if letter == ord("b"):
            older = image_of(made.disk)
        if letter != ord("d"):
            made.rotate()
    with made.log.consumer("u") as consumer:
        consumer.ack(*consumer.receive_many(8))
    made.log.compact()
    first = made.log.stats().first_offset
    left = {offset: payload for offset, payload in made.records.items() if offset >= first}
    return Subject(made.closed(), left, acked=frozenset((6, 7)), older=older)


def orphaned() -> Subject:
    """The last of three segments is gone: where the log went on, the footer before it says."""
    made = Builder(seed=11)
    for letter in b"ab":
        made.many(*(bytes([letter]) * n for n in (8, 0, 11)))
        made.one(bytes([letter]) * 20)
        made.rotate()
    known = dict(made.records)
    made.one(b"lost")
    image = made.closed()
    del image[segment_paths(image)[-1]]
    return Subject(image, known, sound=False)


def mixed(seed: int) -> Subject:
    """About 4 KiB of everything, chosen by `seed`; one subject in two was killed, the others were closed."""
    chance = random.Random(f"mixed {seed}")
    made = Builder(seed=1000 + seed, compression=chance.choice((None, "zstd")))
    acked: set[int] = set()
    older: Image = {}

    def payload() -> bytes:
        size = chance.choice((0, 1, 7, 8, 20, 60, 130))
        return chance.choice((chance.randbytes(size), b"abcdefgh" * (size // 8), bytes(size)))

    def some_extras() -> None:
        values = [
            seglog.Record(b"", key=b"key", headers={"h": b"value", "empty": b""}),
            seglog.Record(payload(), ttl=1e6),
            seglog.Record(payload(), key=b"", delay=1.0),
        ]
        chance.shuffle(values)
        made.clock.advance(1)
        made.records.update(zip(made.log.append_many(values), (value.value for value in values), strict=True))

    def consume() -> None:
        with made.log.consumer("u") as consumer:
            messages = consumer.receive_many(chance.randrange(2, 9))
            # The first one of all stays, so that nothing is reclaimed.
            handled = [message for message in messages if message.offset and chance.random() < 0.6]
            acked.update(message.offset for message in handled)
            if handled and chance.random() < 0.5:
                consumer.reject(handled.pop(), reason="chance")
            consumer.ack(*handled)

    def sync() -> None:  # of the log as it is by then
        made.log.sync()

    made.one(payload())

    def one() -> None:
        made.one(payload())

    def many() -> None:
        made.many(*(payload() for _ in range(chance.randrange(2, 7))))

    steps = [one, many, one, many, some_extras, consume, sync, made.rotate, consume]
    for number in range(2):
        chance.shuffle(steps)
        for step in steps:
            step()
        if not number:
            older = image_of(made.disk)
    letters = {letter.id: letter.payload for letter in made.log.dead_letters}
    image = made.closed() if chance.random() < 0.5 else made.killed()
    return Subject(image, made.records, acked=frozenset(acked), letters=letters, older=older)


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
    for made in (
        plain,
        batched,
        compressed,
        extras,
        segments,
        many_segments,
        dead_letters,
        reclaimed,
        orphaned,
        unproven,
        unproven_batch,
    )
}
