"""Bits flip, files are cut, blocks and files are zeroed, swapped, doubled, foreign, old: each case is judged by itself.

A case damages one of the small logs of subjects.py in memory; damage_oracle.py opens it in every way there is. Beside
what it says: no case may take more than some seconds of processor time, or half a GiB. What a case costs follows from
where it hits (anatomy.py). It sees nothing that needs two hits far apart, and no damage that a checksum lets pass.
Shares: files, blocks, cuts, bits (one in sixteen in every way there is, the others in the most telling ones),
fuzz (see fuzz.py), deep (every bit in every way).
"""

from __future__ import annotations

import logging
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from seglog.format import layout as L
from seglog.format.slots import decode_slot
from tools.crashtest import fuzz
from tools.crashtest.anatomy import Part, batches, dead_parts, header_of, parts
from tools.crashtest.campaign import Finding, Tally
from tools.crashtest.damage_oracle import check, check_briefly, named_by, verified
from tools.crashtest.images import Image, cut, flipped, overwritten, segment_paths, without
from tools.crashtest.subjects import SUBJECTS, Subject, mixed

USED_BYTES_MIN = 64 << 10  # of the corpus: named subjects, then mixed ones until it has so many
BITS_BYTES, DEEP_BYTES, CUTS = 256, 64, 512  # of a file, for one share
SECONDS_MAX = 20.0  # of processor time for one case; a hundredth is what it takes
SPACE_MAX = 512 << 20
SILENT = ("hint", "holder", "slot", "note", "footer")  # one may be lost in a crash, and costs nothing
UNITS = (L.SECTOR, L.BLOCK)


class Specimen(NamedTuple):
    """A subject, and what each of its bytes is."""

    subject: Subject
    parts: tuple[Part, ...]

    def of(self, path: str) -> list[Part]:
        return [part for part in self.parts if part.path == path]

    def used(self) -> int:
        return sum(part.stop - part.start for part in self.parts)


@lru_cache(maxsize=64)
def specimen(name: str) -> Specimen:
    """By the name of a subject, or `mixed-<seed>`."""
    subject = mixed(int(name.removeprefix("mixed-"))) if name.startswith("mixed-") else SUBJECTS[name]()
    return Specimen(subject, (*parts(subject.image), *dead_parts(subject.image)))


def corpus(seed: int) -> Iterator[str]:
    """Names of subjects that have 64 KiB of used bytes together."""
    used = 0
    for name in (*SUBJECTS, *(f"mixed-{seed + number}" for number in range(64))):
        if used >= USED_BYTES_MIN:
            return
        used += specimen(name).used()
        yield name


# -- what a hit costs


def is_unproven(subject: Subject, part: Part) -> bool:
    """Whether the part belongs to a batch that nothing proves durable."""
    placed = batches(subject.image, part.path) if part.path.startswith("segments/") else []
    return any(batch.position <= part.start < batch.end and set(batch.offsets) & subject.unproven for batch in placed)


def hidden_by(subject: Subject, part: Part) -> Collection[int]:
    """The offsets that a reader may not see before an opening for writing, if this part is hit: those of the last
    batch, where only the hint proves it, or nothing does."""
    if part.path == "lock":
        last = segment_paths(subject.image)[-1]
        filled = [batch for batch in batches(subject.image, last) if batch.header.count]
        return filled[-1].offsets if filled else ()
    return subject.unproven if is_unproven(subject, part) else ()


def is_silent(subject: Subject, part: Part) -> bool:
    """Whether verify need not say that this part is hit: it costs nothing, and a crash alone may leave it so."""
    spares = ("batch header", "header copy", "end mark")
    in_dead = part.path.startswith("dead/")  # is told, but does not change the verdict
    return in_dead or part.what in SILENT or (not part.costs and part.what in spares and is_unproven(subject, part))


def letters_at_risk(part: Part) -> Collection[int] | None:
    """The dead letters that a hit may cost; None: what was deleted may be there again."""
    return None if part.path.startswith("dead/cursors/") else part.letters


def judge_bit(whole: Specimen, part: Part, position: int, bit: int, *, fully: bool) -> None:
    subject, hidden = whole.subject, hidden_by(whole.subject, part)
    image = flipped(subject.image, part.path, position, bit)
    if fully:
        report = check(subject, image, part.costs, hidden=hidden, letters=letters_at_risk(part))
    else:
        report = check_briefly(subject, image, part.costs)
    silent = is_silent(subject, part)
    assert report.ok is (silent and subject.sound), f"verify's verdict is {report.ok} ({part.what})"
    assert not silent or part.path.startswith("dead/") or not report.damage, f"{part.what}: {report.damage}"
    assert not set(part.costs) & subject.unproven or report.suspect, "neither torn nor damaged"


def judge_bytes(whole: Specimen, image: Image, *, briefly: bool = False) -> None:
    """Any bytes of files are others, or gone: their records are lost, and at most those of the batches they are in."""
    subject = whole.subject
    least, most, hidden = set[int](), set[int](), set[int]()
    letters: Collection[int] | None = ()
    for path in subject.image:
        hits = changes(subject.image[path], image.get(path, b""))
        if not hits:
            continue
        if path == "meta" and other_log(subject, image):
            most.update(subject.records)  # who the log is, meta says; nobody can know that this one is another's
        last = segment_paths(subject.image)[-1]
        # By an older hint, a rotation is under way, or the segment ends earlier; so it may seem without a successor.
        if path == "lock" or (path == last and not subject.sound):
            hidden.update(offset for batch in batches(subject.image, last) for offset in batch.offsets)
        if path.startswith("dead/"):
            letters = None
        for part in whole.of(path):
            if part.what in ("record", "frame") and any(max(part.start, a) < min(part.stop, b) for a, b in hits):
                least.update(part.costs)
        for batch in batches(subject.image, path) if path.startswith("segments/") else ():
            if any(batch.position < b and a < batch.end for a, b in hits):
                most.update(batch.offsets)
    report = verified(subject, image)
    lost = named_by(report, subject)
    assert least <= lost <= most, f"at least {sorted(least)} and at most {sorted(most)} are lost, verify names {lost}"
    if briefly:
        check_briefly(subject, image, lost, report)
    else:
        check(subject, image, lost, hidden=hidden, letters=letters, report=report)


def other_log(subject: Subject, image: Image) -> bool:
    """Whether all of meta that reads back names another log."""
    slots = [decode_slot(image.get("meta", b"")[at : at + L.META_SLOT_BYTES]) for at in (0, L.META_SLOT_BYTES)]
    ids = {slot.log_id for slot in slots if slot is not None}
    return len(ids) == 1 and ids != {header_of(subject.image, segment_paths(subject.image)[0]).log_id}


def changes(before: bytes, after: bytes) -> list[tuple[int, int]]:
    """From where to where two contents differ: all that is behind a cut, and each byte that is another one."""
    found = [(len(after), len(before))] if len(after) < len(before) else []
    for block in range(0, min(len(before), len(after)), L.SECTOR):
        if before[block : block + L.SECTOR] != after[block : block + L.SECTOR]:
            spots = range(block, min(block + L.SECTOR, len(before), len(after)))
            found += [(at, at + 1) for at in spots if before[at] != after[at]]
    return found


# -- cases: each kind of share makes them from its name


class Case(NamedTuple):
    place: str
    run: Callable[[], None]


def bit_cases(name: str, path: str, spots: str, *, fully: bool = False) -> Iterator[Case]:
    """`spots`: `from-to` of bytes, or `byte.bit`."""
    whole = specimen(name)
    first, stop, only = _spots(spots)
    for part in whole.of(path):
        for position in range(max(part.start, first), min(part.stop, stop)):
            for bit in range(8) if only is None else (only,):
                yield Case(
                    f"{'deep' if fully or only is not None else 'bits'}/{name}/{path}/{position}.{bit}",
                    lambda part=part, position=position, bit=bit: judge_bit(  # type: ignore[misc]
                        whole, part, position, bit, fully=fully or only is not None or (position + bit) % 16 == 0
                    ),
                )


def _spots(spots: str) -> tuple[int, int, int | None]:
    if "." in spots:
        position, bit = map(int, spots.split("."))
        if not 0 <= bit < 8:
            raise ValueError("a byte has bits 0 to 7")
        return position, position + 1, bit
    first, _, last = spots.partition("-")
    return int(first), int(last or int(first) + 1), None


def cut_cases(name: str, path: str, spots: str) -> Iterator[Case]:
    """Every size that ends inside of something, or right at its ends. `spots`: `from-to` of sizes, or one size."""
    whole = specimen(name)
    first, stop, _ = _spots(spots)
    sizes = {size for part in whole.of(path) for size in range(part.start, part.stop + 1)}
    for size in sorted(size for size in sizes if first <= size < min(stop, len(whole.subject.image[path]))):
        yield Case(
            f"cuts/{name}/{path}/{size}",
            lambda size=size: judge_bytes(  # type: ignore[misc]
                whole, cut(whole.subject.image, path, size), briefly=size % 8 != 0 and stop - first > 1
            ),
        )


def block_cases(name: str) -> Iterator[Case]:
    """Blocks of each file of the log are zeroed, swapped, doubled, and taken from elsewhere."""
    whole = specimen(name)
    image = whole.subject.image
    chance = random.Random(f"blocks {name}")
    stranger = specimen("mixed-4711").subject.image
    for path in sorted({part.path for part in whole.parts}):
        for unit in UNITS:
            starts = sorted({at // unit * unit for part in whole.of(path) for at in (part.start, part.stop - 1)})
            for start in starts:
                block = image[path][start : start + unit]
                other = chance.choice(starts)
                taken = image[path][other : other + unit]
                foreign = chance.choice([content for content in stranger.values() if len(content) > unit])
                alike = stranger.get(path, foreign)
                variants = {
                    "zeroed": overwritten(image, path, start, bytes(unit)),
                    "ones": overwritten(image, path, start, b"\xff" * unit),
                    "noise": overwritten(image, path, start, chance.randbytes(unit)),
                    "doubled": overwritten(image, path, other, block),
                    "swapped": overwritten(overwritten(image, path, start, taken), path, other, block),
                    "foreign": overwritten(image, path, start, foreign[:unit]),
                    "alike": overwritten(image, path, start, alike[start : start + unit]),
                }
                for what, damaged in variants.items():
                    if damaged != image and all(damaged[path] != variants[k][path] for k in variants if k < what):
                        yield Case(
                            f"blocks/{name}/{path}/{unit}/{start}/{what}",
                            lambda damaged=damaged: judge_bytes(whole, damaged),  # type: ignore[misc]
                        )


def file_cases(name: str) -> Iterator[Case]:
    """Whole files are gone, empty, zero, somebody else's, another of this log, old, or there twice."""
    whole = specimen(name)
    image, older = whole.subject.image, whole.subject.older
    stranger = specimen("mixed-4711").subject.image
    for path in sorted(path for path in image if not path.endswith("/")):
        content = image[path]
        kind = Path(path).suffix
        others = [p for p in sorted(image) if Path(p).suffix == kind and p != path and image[p] and kind]
        variants = {
            "gone": without(image, path),
            "empty": cut(image, path, 0),
            "half": cut(image, path, len(content) // 2 // 8 * 8),
            "zero": {**image, path: bytes(len(content))},
            "old": {**image, path: older.get(path, content)},
            "foreign": {**image, path: stranger.get(path, content)},
            **{f"as {other}": {**image, path: image[other]} for other in others},
            "copied": {**image, f"{path}.bak": content, f"{path} (copy)": content, f"{path}.tmp": content},
        }
        for what, damaged in variants.items():
            if damaged != image:
                yield Case(
                    f"files/{name}/{path}/{what.replace('/', '|')}",
                    lambda damaged=damaged: judge_bytes(whole, damaged),  # type: ignore[misc]
                )


def cases(place: str) -> Iterable[Case]:
    """Those of a share, or the one of a place."""
    kind, _, rest = place.partition("/")
    name, _, inner = rest.partition("/")
    if kind in ("blocks", "files"):
        made = block_cases(name) if kind == "blocks" else file_cases(name)
        return [case for case in made if not inner or case.place == place]
    path, _, spots = inner.rpartition("/")
    match kind:
        case "bits" | "deep":
            return bit_cases(name, path, spots, fully=kind == "deep")
        case "cuts":
            return cut_cases(name, path, spots)
    raise LookupError(kind)


# -- the layer


class Endless(BaseException):
    """Nothing that the log would take for an error of its disk."""


@contextmanager
def bounds() -> Iterator[None]:
    """An endless loop and a mad allocation end as an error of the case that has them."""

    def ended(_signal: int, _frame: FrameType | None) -> None:
        raise Endless(f"{SECONDS_MAX} s of processor time were not enough")

    old = signal.signal(signal.SIGVTALRM, ended)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        space = int(statm.read_text().split()[0]) * resource.getpagesize() + SPACE_MAX
        if limits[0] in (resource.RLIM_INFINITY,) or limits[0] > space:
            resource.setrlimit(resource.RLIMIT_AS, (space, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def work(share: str) -> Tally:
    tally = Tally()
    with bounds():
        for case in cases(share):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_MAX)
            try:
                case.run()
            except (Exception, Endless) as error:
                tally.findings.append(Finding(case.place, f"{type(error).__name__}: {error}"[:1000]))
            tally.counts["cases"] += 1
            tally.counts[share.partition("/")[0]] += 1
    return tally


class Rot:
    """See the module."""

    unit = "cases"

    def shares(self, seed: int) -> Iterator[str]:
        names = list(corpus(seed))
        proven = [name for name in names if not specimen(name).subject.unproven]  # else anything may have been torn
        yield from (f"{kind}/{name}" for kind in ("files", "blocks") for name in proven)
        yield from (share for name in proven for share in self._by_range("cuts", name, CUTS))
        yield from (share for name in names for share in self._by_range("bits", name, BITS_BYTES))
        yield from fuzz.shares(seed)
        yield from (share for name in names for share in self._by_range("deep", name, DEEP_BYTES))

    def _by_range(self, kind: str, name: str, size: int) -> Iterator[str]:
        whole = specimen(name)
        for path in sorted({part.path for part in whole.parts}):
            ranges = {at // size for part in whole.of(path) for at in range(part.start, part.stop + (kind == "cuts"))}
            yield from (f"{kind}/{name}/{path}/{size * number}-{size * (number + 1)}" for number in sorted(ranges))

    def work(self, share: str) -> Tally:
        logger = logging.getLogger("seglog")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # it tells of damage, a hundred thousand times
        try:
            if not share.startswith("fuzz/"):
                return work(share)
            with bounds():
                return fuzz.work(share, lambda: signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_MAX), Endless)
        finally:
            logger.setLevel(level)

    def replay(self, place: str) -> Tally:
        tally = self.work(place)
        if not tally.counts[self.unit]:
            raise LookupError("no case")
        return tally

    def table(self, counts: Counter[str]) -> str:
        return "\n".join(f"{kind:>7}: {number:,}" for kind, number in sorted(counts.items()) if kind != self.unit)


LAYER = Rot()
