"""Bytes that nobody chose, behind checksums that hold: only documented errors, in bounded time and space.

Flipped bits stop at a checksum (rot.py); here the checksums are made for whatever bytes come, as by a faulty or hostile
writer. Only `open` leaves them alone: there also no record may come back that was never appended. Each target takes
some bytes. With atheris (the extra `fuzz`) they are guided by what code they reach, else they are blind mutations of
the corpus, which is what earlier guided runs kept. As a program, `TARGET RUNS SEED DIRECTORY`: guided, and what reached
something new goes to the directory.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import seglog
from seglog.cli import structures
from seglog.errors import SeglogError
from seglog.format import layout as L
from seglog.format.batch import encode_batch
from seglog.format.checksum import crc32c, seed
from seglog.format.slots import Slot, encode_slot, slot_length
from seglog.testing import ManualClock
from seglog.verify import verify
from tools.crashtest.anatomy import batches, header_of
from tools.crashtest.campaign import Finding, Tally
from tools.crashtest.damage_oracle import LATER_NS, opened_and_used, read_only, verified
from tools.crashtest.images import ROOT, Image, disk_with, overwritten, segment_paths
from tools.crashtest.subjects import SUBJECTS, Subject

CORPUS = Path(__file__).with_name("corpus")  # a file a target, an input in hexadecimal a line
INPUT_BYTES_MAX = 512
RUNS, GUIDED_RUNS = 1000, 250  # of one share
SHARES = 20  # of each target
CHILD_SECONDS_MAX = 600.0


@lru_cache(maxsize=1)
def base() -> Subject:
    return SUBJECTS["dead_letters"]()


def use(image: Image) -> None:
    """All that anybody does with a directory; documented errors are fine, and one of them does not end the rest."""
    for way in (lambda: verify(ROOT, disk=disk_with(image)), lambda: _read(image), lambda: _write(image)):
        try:
            way()
        except SeglogError:
            continue


def _read(image: Image) -> None:
    with seglog.open(ROOT, "r", disk=disk_with(image), clock=ManualClock(start_ns=LATER_NS)) as log:
        list(log.read(on_gap=lambda _: None))


def _write(image: Image) -> None:
    with seglog.open(ROOT, disk=disk_with(image), clock=ManualClock(start_ns=LATER_NS)) as log:
        list(log.read(on_gap=lambda _: None))
        for letter in log.dead_letters:
            log.dead_letters.get(letter.id)
        with log.consumer("u", on_gap=lambda _: None) as consumer:
            consumer.ack(*consumer.receive_many(100, timeout=0))
        log.append(b"new")
        log.stats()


# -- targets


def fuzz_open(data: bytes) -> None:
    """Edits anywhere: a file, a place, some bytes, again and again. No checksum is mended."""
    subject = base()
    image = subject.image
    files = sorted(path for path in image if image[path])
    at = 0
    while at + 4 <= len(data):
        path = files[data[at] % len(files)]
        used = len(image[path].rstrip(b"\0")) or 1
        position = int.from_bytes(data[at + 1 : at + 3], "little") % used
        length = data[at + 3] % 64
        image = overwritten(image, path, position, data[at + 4 : at + 4 + length])
        at += 4 + length
    for way in (verified, read_only, opened_and_used):
        try:
            way(subject, image)
        except SeglogError:
            continue


def fuzz_read(data: bytes) -> None:
    """A batch of any shape, under checksums that hold."""
    image, path = base().image, segment_paths(base().image)[0]
    use(overwritten(image, path, L.DATA_START, sealed_batch(data, header_of(image, path).salt, L.DATA_START)))


def sealed_batch(data: bytes, salt: int, position: int) -> bytes:
    """The first bytes are the header's behind its magic, the others the body."""
    head = data[:52].ljust(52, b"\0")
    body = data[52:] + bytes(-len(data[52:]) % 8)
    here = seed(salt, position)
    head += crc32c(body, here).to_bytes(4, "little")
    return L.BATCH_MAGIC + head + crc32c(head, here).to_bytes(4, "little") + body


def fuzz_verify(data: bytes) -> None:
    """A segment header, and a footer, of any content."""
    image, path = base().image, segment_paths(base().image)[0]
    size = L.SEGMENT_HEADER.size
    header = bytearray(image[path][:size])
    header[16 : size - 4] = data[: size - 20].ljust(size - 20, b"\0")
    header[40:48], header[32:36] = image[path][40:48], image[path][32:36]  # else the name tells
    header[-4:] = crc32c(bytes(header[:-4])).to_bytes(4, "little")
    body = L.FOOTER_MAGIC + data[size:].ljust(L.FOOTER_HEAD.size + size, b"\0")
    footer = body + L.FOOTER_TAIL.pack(len(body) + L.FOOTER_TAIL.size, crc32c(body), L.FOOTER_MAGIC)
    image = overwritten(overwritten(image, path, 0, bytes(header)), path, L.HEADER_COPY_AT, bytes(header))
    use(image)
    use({**image, path: image[path] + footer})


def in_slot(path: str, kind: int, size: int, payload: bytes) -> Image:
    image = base().image
    log_id = header_of(image, segment_paths(image)[0]).log_id
    return overwritten(image, path, 0, encode_slot(Slot(kind, 1 << 40, log_id, payload), size))


def fuzz_cursor(data: bytes) -> None:
    """A cursor of any content. Its first byte says whether the name in it is right."""
    named = data[1:49].ljust(48, b"\0") + b"\x01\0\0\0u" + data[49:] if data[:1] > b"\x20" else data[1:]
    use(in_slot("cursors/u.cursor", L.KIND_CURSOR, L.CURSOR_SLOT_BYTES, named))


def fuzz_meta(data: bytes) -> None:
    use(in_slot("meta", L.KIND_META, L.META_SLOT_BYTES, data))


def fuzz_letters(data: bytes) -> None:
    """An envelope of any content at the end of the dead letters."""
    image = base().image
    inner = {path.removeprefix("dead/"): content for path, content in image.items() if path.startswith("dead/")}
    path = segment_paths(inner)[-1]
    last = batches(inner, path)[-1]
    letter = encode_batch(
        [L.LETTER_MAGIC + data],
        salt=header_of(inner, path).salt,
        position=last.end,
        base_offset=last.header.end_offset,
        time_ns=0,
        durable=(last.end, last.header.end_offset),
    )
    use(overwritten(image, f"dead/{path}", last.end, bytes(letter)))


def fuzz_inspect(data: bytes) -> None:
    """`seglog inspect` of a file that is anything, under each name that a file may have."""
    disk = disk_with({"meta": data, "lock": data, "u.cursor": data, "00000000000000000000-00000000.seg": data})
    directory = disk.open(ROOT, create=False)
    for name in directory.list():
        try:
            for row in structures.rows(directory.open(name)):
                assert row["kind"]
        except SeglogError:
            continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    made.__name__.removeprefix("fuzz_"): made
    for made in (fuzz_open, fuzz_read, fuzz_verify, fuzz_cursor, fuzz_meta, fuzz_letters, fuzz_inspect)
}


# -- inputs


def natural() -> dict[str, bytes]:
    """For each target what a real log holds: from there it is not far to what is nearly right."""
    image = base().image
    segment = image[segment_paths(image)[0]]
    cursor, meta = image["cursors/u.cursor"], image["meta"]
    dead = next(content for path, content in image.items() if path.startswith("dead/segments/0"))
    letter = dead.index(L.LETTER_MAGIC)
    head = L.SLOT_HEADER.size
    return {
        "open": bytes((5, 0, 32, 2, 255, 255)),
        "read": segment[L.DATA_START + 4 : L.DATA_START + 56] + segment[L.DATA_START + 64 : L.DATA_START + 200],
        "verify": segment[16:152],
        "cursor": bytes(1) + cursor[head : slot_length(cursor[:head])],
        "meta": meta[head : slot_length(meta[:head])],
        "letters": dead[letter + len(L.LETTER_MAGIC) : letter + 120],
        "inspect": cursor[: slot_length(cursor[:head])],
    }


def kept(target: str) -> list[bytes]:
    """The corpus: what is natural, and what guided runs have found."""
    path = CORPUS / f"{target}.hex"
    lines = path.read_text("ascii").split() if path.exists() else []
    return [natural()[target], *map(bytes.fromhex, lines)]


def mutations(target: str, chance: random.Random, runs: int) -> Iterator[bytes]:
    """The corpus as it is, then blind changes to it."""
    inputs = kept(target)
    yield from inputs[:runs]
    for _ in range(runs - len(inputs)):
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
                case 1:
                    data[at : at + 8] = chance.choice((0, 1, 1 << 24, 1 << 31, (1 << 63) - 1)).to_bytes(8, "little")
                case 2:
                    del data[at : at + chance.randrange(1, 16)]
                case _:
                    data[at:at] = chance.choice(inputs)[: chance.randrange(1, 32)]
        yield bytes(data[:INPUT_BYTES_MAX])


def one(target: str, data: bytes, begin: Callable[[], object], endless: type[BaseException]) -> Tally:
    """`begin` starts a clock that raises `endless`."""
    tally = Tally(Counter(cases=1, fuzz=1))
    begin()
    try:
        TARGETS[target](data)
    except (Exception, endless) as error:
        tally.findings.append(Finding(f"fuzz/{target}/x{data.hex()}", f"{type(error).__name__}: {error}"[:1000]))
    return tally


def guided(target: str, number: str, runs: int) -> tuple[Tally, list[bytes]]:
    """A share that atheris guides, in a process of its own: its instruments slow everything."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as work:
        command = [sys.executable, "-m", "tools.crashtest.fuzz", target, str(runs), number, work]
        done = subprocess.run(command, check=False, capture_output=True, timeout=CHILD_SECONDS_MAX)
        crashes = [path for path in Path(work).iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
        if done.returncode and not crashes:
            raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
        counts = Counter({"cases": runs, "fuzz": runs, "fuzz, guided by coverage": runs})
        return Tally(counts), [path.read_bytes() for path in crashes]


def shares(seed: int) -> Iterator[str]:
    return (f"fuzz/{target}/{seed + number}" for number in range(SHARES) for target in TARGETS)


def work(share: str, begin: Callable[[], object], endless: type[BaseException], runs: int | None = None) -> Tally:
    """`fuzz/TARGET/SEED`, or `fuzz/TARGET/xHEX` for one input."""
    _, target, number = share.split("/")
    if target not in TARGETS:
        raise LookupError(share)
    if number.startswith("x"):
        return one(target, bytes.fromhex(number[1:]), begin, endless)
    if find_spec("atheris") is not None:
        tally, crashes = guided(target, str(int(number) + 1), runs or GUIDED_RUNS)
        for data in crashes:  # again, for its words
            told = one(target, data, begin, endless).findings
            tally.findings += told or [Finding(f"fuzz/{target}/x{data.hex()}", "ended the process that was guided")]
        return tally
    tally = Tally()
    for data in mutations(target, random.Random(share), runs or RUNS):
        tally.add(one(target, data, begin, endless))
    tally.counts["fuzz, not guided"] = tally.counts["fuzz"]
    return tally


def main(arguments: list[str]) -> None:
    import atheris

    target, runs, number, directory = arguments
    for index, data in enumerate(kept(target)):
        Path(directory, f"kept-{index}").write_bytes(data)
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and (found.__module__ or "").startswith("seglog"):
            atheris.instrument_func(found)
    options = [f"-runs={runs}", f"-seed={number}", f"-max_len={INPUT_BYTES_MAX}", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={directory}{os.sep}", directory], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    import logging

    logging.disable()
    main(sys.argv[1:])
