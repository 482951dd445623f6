"""Make the golden directories: small logs of every kind, whole and damaged, the same bytes each time.

`python tools/make_golden.py DIR` writes DIR/<name>/log/… and DIR/<name>/expected.json. What stands in tests/golden/v1
is frozen: a reader of version 1 reads it for ever. New kinds may be added; what is there is never made anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seglog
from seglog.catalog import Meta
from seglog.disk.memory import MemoryDisk, Node, Tree
from seglog.errors import SeglogError
from seglog.format import layout as L
from seglog.format.batch import decode_header
from seglog.format.checksum import crc32c
from seglog.format.cursor_state import decode_note, encode_note
from seglog.format.segment_header import decode_segment_header
from seglog.format.slots import slot_length
from seglog.testing import ManualClock
from seglog.verify import verify

Image = dict[str, bytes]  # path below the root -> content
ROOT = "log"
SECOND_BOOT = bytes(15) + b"\x02"
NS = 1_000_000_000
FINDINGS = ("ok", "acknowledged_loss", "records", "first_offset", "next_offset", "torn_tail_bytes")
LISTS = ("damage", "suspect", "missing", "skipped", "repaired")


class GoldenDisk(MemoryDisk):
    """A memory disk that names no process."""

    def holder(self) -> str:
        return "golden"


@dataclass
class Builder:
    """A log that is being written; its clock moves only when told."""

    seed: int
    compression: str | None = None
    largest: int = 1 << 20
    options: dict[str, Any] = field(default_factory=dict)
    disk: GoldenDisk = field(default_factory=GoldenDisk)

    def __post_init__(self) -> None:
        self.clock = ManualClock(seed=self.seed)
        self.log = self._open()

    def _open(self) -> seglog.Log[bytes]:
        self.clock.advance(1)
        return seglog.open(
            ROOT,
            disk=self.disk,
            clock=self.clock,
            segment_bytes=4096,
            max_record_bytes=self.largest,
            compression=self.compression,
            **self.options,
        )

    def add(self, *values: bytes | seglog.Record[bytes]) -> None:
        self.clock.advance(1)
        self.log.append_many(values)

    def rotate(self) -> None:
        """The next append begins a segment: a larger limit does not fit the header of the old one."""
        self.log.close()
        self.largest *= 2
        self.log = self._open()

    def restart(self, image: Image) -> None:
        """The machine went down and left this."""
        self.disk.root.entries[ROOT] = _tree(image)
        self.disk.set_boot_id(SECOND_BOOT)
        self.log = self._open()

    def killed(self) -> Image:
        image = _image(self.disk)
        self.log.close()
        return image

    def closed(self) -> Image:
        self.log.close()
        return _image(self.disk)


def _image(disk: MemoryDisk) -> Image:
    """All files, the empty queue of dead letters left out. Preallocated space is cut to whole blocks, as a writer
    does that is short of it."""
    tree = disk.root.entries[ROOT]
    assert isinstance(tree, Tree)
    image = dict(_files(tree, ""))
    if not any(path.startswith("cursors/") for path in image):
        image = {path: content for path, content in image.items() if not path.startswith("dead/")}
    for path, content in image.items():
        if path.endswith(".seg") and not content.endswith(L.FOOTER_MAGIC):
            used = len(content.rstrip(b"\0"))
            image[path] = content[: max(L.DATA_START, -(-used // L.BLOCK) * L.BLOCK)]
        elif path.endswith(("meta", ".cursor")):
            image[path] = _slots(content, L.META_SLOT_BYTES if path.endswith("meta") else L.CURSOR_SLOT_BYTES)
    return image


def _slots(content: bytes, size: int) -> bytes:
    """Both slots, without the free space behind the second one; and a delivery note, if it says something."""
    note = decode_note(content[L.NOTE_AT :])
    if note is not None and note.in_flight:
        return content[: L.NOTE_AT + len(encode_note(note))]
    return content[: size + slot_length(content[size : size + L.SLOT_HEADER.size])]


def _files(tree: Tree, prefix: str) -> Iterator[tuple[str, bytes]]:
    for name, entry in sorted(tree.entries.items()):
        if isinstance(entry, Tree):
            yield from _files(entry, f"{prefix}{name}/")
        else:
            yield prefix + name, bytes(entry.data)


def _tree(image: Image) -> Tree:
    root = Tree()
    for path, content in image.items():
        *parents, name = path.split("/")
        tree = root
        for parent in parents:
            found = tree.entries.setdefault(parent, Tree())
            assert isinstance(found, Tree)
            tree = found
        tree.entries[name] = node = Node()
        node.data = bytearray(content)
    return root


def _one_slot(image: Image) -> Image:
    """Without the second slot of `meta` and the 64 KiB before it: most directories are to be small."""
    return {**image, "meta": image["meta"][: slot_length(image["meta"][: L.BLOCK])]}


def _segments(image: Image) -> list[str]:
    return [path for path in sorted(image) if path.startswith("segments/")]


def _batch(image: Image, path: str, index: int) -> int:
    """Where the batch of this number stands."""
    header = decode_segment_header(image[path][: L.BLOCK])
    assert header is not None
    position = L.DATA_START
    for _ in range(index):
        batch = decode_header(image[path], position, salt=header.salt, position=position)
        assert batch is not None
        position += batch.length
    return position


def _xor(image: Image, path: str, position: int, mask: int = 1) -> Image:
    content = bytearray(image[path])
    content[position] ^= mask
    return {**image, path: bytes(content)}


def _zero(image: Image, path: str, start: int, length: int) -> Image:
    content = image[path]
    return {**image, path: (content[:start] + bytes(length) + content[start + length :])[: len(content)]}


# -- whole logs


def plain() -> Image:
    made = Builder(1)
    for value in (b"alpha", b"", b"gamma"):
        made.add(value)
    return made.closed()


def batches() -> Image:
    made = Builder(2)
    made.add(b"one", b"two two", b"", b"four")
    made.add(b"five")
    made.add(b"six", b"seven")
    return made.closed()


def compressed() -> Image:
    made = Builder(3, compression="zstd")
    made.add(b"abcdefgh" * 20, b"abcdefgh" * 30)
    made.add(b"tiny")
    made.add(b"abcdefgh" * 40)
    return made.closed()


def extras() -> Image:
    made = Builder(4)
    made.add(
        seglog.Record(b"key and headers", key=b"k", headers={"name": b"value", "ü": b"\xff"}),
        seglog.Record(b"nothing"),
        seglog.Record(b"due and expiry", key=b"", delay=5.0, ttl=60.0),
    )
    made.add(b"plain")
    return _one_slot(made.closed())


def sealed() -> Image:
    made = Builder(5)
    made.add(b"a0", b"a1")
    made.rotate()
    made.add(b"b0")
    return made.closed()


def many_segments() -> Image:
    made = Builder(6)
    for number in range(5):
        made.add(*(b"%d/%d" % (number, index) for index in range(3)))
        made.add(b"%d/single" % number)
        if number < 4:
            made.rotate()
    return made.closed()


def dropped() -> Image:
    """The start lies inside a segment; a consumer that is behind it has one acked record there."""
    made = Builder(41, options={"max_records": 4, "when_full": "drop_oldest", "retention_seconds": 100.5})
    consumer = made.log.consumer("uploader")
    made.add(b"0", b"1", b"2", b"3")
    consumer.ack(1, 3)
    made.add(b"4", b"5", b"6")
    return made.closed()


def consumers() -> Image:
    made = Builder(7)
    made.add(b"0", b"1", b"2", b"3", b"4")
    consumer = made.log.consumer("uploader")
    messages = consumer.receive_many(5)
    consumer.ack(messages[0], messages[2], messages[4])
    consumer.reject(messages[3], reason="no")
    return made.closed()


def dead_letters() -> Image:
    made = Builder(40)
    made.add(b"0", b"1", b"2")
    consumer = made.log.consumer("uploader")
    for offset in range(3):
        consumer.reject(offset, reason=f"number {offset}")
    made.log.dead_letters.delete([1])
    return made.closed()


# -- after a crash


def in_flight() -> Image:
    """The process died with messages in flight: several of one consumer, and one alone that had failed before."""
    made = Builder(31)
    made.add(b"0", b"1", b"2", b"3", b"4", b"5", b"6")
    uploader, archive = made.log.consumer("uploader"), made.log.consumer("archive")
    messages = uploader.receive_many(6)
    uploader.ack(messages[1])
    uploader.nack(messages[3])
    archive.nack(*archive.receive_many(2))
    archive.receive()
    return {path: content for path, content in made.killed().items() if not path.startswith("dead/")}


def killed() -> Image:
    made = Builder(8)
    made.add(b"first")
    made.add(b"second", b"third")
    return _one_slot(made.killed())


def unproven(made: Builder) -> Image:
    """A last batch that nothing proves: the hint is older."""
    made.add(b"first")
    old = _image(made.disk)["lock"]
    made.add(b"x" * 700, b"y" * 300)
    return _one_slot({**made.killed(), "lock": old})


def torn_tail() -> Image:
    image = unproven(Builder(9))
    return _zero(image, _segments(image)[0], L.DATA_START + 512, 512)


def jump() -> Image:
    """As `torn_tail`, opened again: the offsets of the cut batch are skipped."""
    made = Builder(9)
    image = unproven(made)
    made.restart(_zero(image, _segments(image)[0], L.DATA_START + 512, 512))
    made.add(b"behind the jump")
    return _one_slot(made.closed())


def copied_run() -> Image:
    """An unproven batch that reads well is copied into the successor."""
    made = Builder(10)
    made.restart(unproven(made))
    made.add(b"behind the copy")
    return _one_slot(made.closed())


def suspect_tail() -> Image:
    image = unproven(Builder(11))
    return _xor(image, _segments(image)[0], L.DATA_START + 512)


def suspect_declared() -> Image:
    made = Builder(11)
    image = unproven(made)
    made.restart(_xor(image, _segments(image)[0], L.DATA_START + 512))
    made.add(b"behind the suspect")
    return _one_slot(made.closed())


# -- damaged: bytes of `batches` and `many_segments` are changed


def _batches() -> Image:
    return _one_slot(batches())


def _many_segments() -> Image:
    return _one_slot(many_segments())


def damaged_payload() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 0) + 64 + 32 + 4)


def damaged_header() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 0) + 8)


def damaged_header_of_single() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 1) + 8)


def damaged_length() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 0) + 64 + 4)


def damaged_record_crc() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 0) + 64 + 16 + 5)


def damaged_end_mark() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 1) - 1)


def damaged_header_copy() -> Image:
    image = _batches()
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 1) - 8 - 20)


def damaged_both_headers() -> Image:
    image = _batches()
    path = _segments(image)[0]
    end = _batch(image, path, 1)
    return _xor(_xor(image, path, L.DATA_START + 8), path, end - 8 - 20)


def damaged_segment_header() -> Image:
    image = _many_segments()
    return _xor(image, _segments(image)[1], 50)


def damaged_both_segment_headers() -> Image:
    image = _many_segments()
    path = _segments(image)[1]
    return _xor(_xor(image, path, 50), path, L.HEADER_COPY_AT + 50)


def damaged_footer() -> Image:
    image = _many_segments()
    path = _segments(image)[1]
    return _xor(image, path, len(image[path]) - 30)


def damaged_compressed() -> Image:
    image = _one_slot(compressed())
    path = _segments(image)[0]
    return _xor(image, path, _batch(image, path, 0) + 70)


def zeroed_sector() -> Image:
    image = _many_segments()
    return _zero(image, _segments(image)[2], L.DATA_START, 512)


def cut_file() -> Image:
    image = _many_segments()
    path = _segments(image)[3]
    return {**image, path: image[path][: L.DATA_START + 100]}


def missing_middle() -> Image:
    image = _many_segments()
    del image[_segments(image)[2]]
    return image


def missing_tail() -> Image:
    image = _many_segments()
    del image[_segments(image)[-1]]
    return image


def repaired() -> Image:
    """A lost segment and a rotten record that a repair has declared, and a record that rotted since."""
    image = missing_middle()
    path = _segments(image)[0]
    for payload in (b"0/1", b"0/single"):
        image = _xor(image, path, image[path].index(payload))
    disk = in_memory(image)
    meta = Meta.open(disk.open(ROOT, create=False), write=True)
    assert meta is not None
    report = verify(ROOT, disk=disk)
    lost = [(found.first_offset, found.last_offset + 1) for found in report.missing]
    meta.store(meta.state._replace(repaired=((1, 2), *lost)))
    meta.close()
    return _one_slot(_image(disk))


def damaged_meta() -> Image:
    image = sealed()
    return _xor(_xor(image, "meta", 60), "meta", L.META_SLOT_BYTES + 60)


def newer() -> Image:
    """A segment that only a newer version may read; its checksums hold."""
    image = _one_slot(plain())
    path = _segments(image)[0]
    content = bytearray(image[path])
    for at in (0, L.HEADER_COPY_AT):
        content[at + 8 : at + 12] = L.TEST_VERSION.to_bytes(2, "little") * 2
        check = crc32c(bytes(content[at : at + L.SEGMENT_HEADER.size - 4]))
        content[at + L.SEGMENT_HEADER.size - 4 : at + L.SEGMENT_HEADER.size] = check.to_bytes(4, "little")
    return {**image, path: bytes(content)}


KINDS: tuple[Callable[[], Image], ...] = (
    plain,
    batches,
    compressed,
    extras,
    sealed,
    many_segments,
    dropped,
    consumers,
    in_flight,
    dead_letters,
    killed,
    torn_tail,
    jump,
    copied_run,
    suspect_tail,
    suspect_declared,
    damaged_payload,
    damaged_header,
    damaged_header_of_single,
    damaged_length,
    damaged_record_crc,
    damaged_end_mark,
    damaged_header_copy,
    damaged_both_headers,
    damaged_segment_header,
    damaged_both_segment_headers,
    damaged_footer,
    damaged_compressed,
    zeroed_sector,
    cut_file,
    missing_middle,
    missing_tail,
    repaired,
    damaged_meta,
    newer,
)
COMPRESSED = ("compressed", "damaged_compressed")  # their bytes depend on the version of zstd


# -- what a reader finds


def expected(path: str, disk: Any = None) -> dict[str, Any]:
    """What the library says of a log directory, as plain values."""
    try:
        report = verify(path, disk=disk)
        gaps: list[list[Any]] = []

        def on_gap(gap: seglog.Gap) -> None:
            gaps.append([gap.first_offset, gap.last_offset, gap.reason])

        with seglog.open(path, "r", disk=disk) as log:
            records = [
                {
                    "offset": message.offset,
                    "payload": message.payload.hex(),
                    "key": None if message.key is None else message.key.hex(),
                    "headers": {name: value.hex() for name, value in message.headers.items()},
                    "time": message.timestamp,
                }
                for message in log.read(on_gap=on_gap)
            ]
            letters = [[letter.reason, letter.offset, letter.payload.hex()] for letter in log.dead_letters]
    except SeglogError as error:
        return {"error": type(error).__name__}
    findings: dict[str, Any] = {name: getattr(report, name) for name in FINDINGS}
    for name in LISTS:
        findings[name] = [dataclasses.asdict(found) for found in getattr(report, name)]
    findings["cursors"] = {name: dataclasses.asdict(cursor) for name, cursor in report.cursors.items()}
    return {"records": records, "gaps": gaps, "dead_letters": letters, "verify": findings}


def in_memory(image: Image) -> MemoryDisk:
    """The directory after a restart of the machine."""
    disk = GoldenDisk()
    disk.set_boot_id(bytes(15) + b"\x03")
    disk.root.entries[ROOT] = _tree(image)
    return disk


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python tools/make_golden.py DIR", file=sys.stderr)
        return 2
    for kind in KINDS:
        directory = Path(arguments[0]) / kind.__name__
        if directory.exists():
            print(f"{directory} is there already; golden directories are not made anew", file=sys.stderr)
            continue
        image = kind()
        for path, content in image.items():
            file = directory / ROOT / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        text = json.dumps(expected(ROOT, in_memory(image)), indent=1, ensure_ascii=False)
        (directory / "expected.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
