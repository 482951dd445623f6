"""What may be left on a block device that lost power, made from the log of its writes and flushes (`block_server`).

All that was written before the last flush is there. Of what was written since, anything may be: nothing, all of it, one
write without the others, some of them, some of their sectors. It knows nothing of file systems.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from tools.crashtest.block_server import ENTRY, FLUSH

BLOCK = 4096
SECTOR = 512
Blocks = dict[int, bytes]  # by number; a block that is not here is zero


@dataclass(frozen=True)
class Entry:
    """A write, or a flush. `end`: of this entry in the log, which is the time when it was done."""

    end: int
    offset: int
    data: bytes

    @property
    def flush(self) -> bool:
        return self.offset == FLUSH


def entries_of(log: bytes) -> list[Entry]:
    """In the order in which the kernel sent them."""
    found, at = [], 0
    while at + ENTRY.size <= len(log):
        offset, length = ENTRY.unpack_from(log, at)
        at += ENTRY.size + length
        if at > len(log):
            break  # it is being written
        found.append(Entry(at, offset, log[at - length : at]))
    return found


def written(blocks: Blocks, offset: int, data: bytes) -> None:
    """Write into `blocks`."""
    done = 0
    while done < len(data):
        number, start = divmod(offset + done, BLOCK)
        piece = data[done : done + BLOCK - start]
        old = blocks.get(number) or bytes(BLOCK)
        blocks[number] = old[:start] + piece + old[start + len(piece) :]
        done += len(piece)


def pending(entries: Sequence[Entry]) -> list[int]:
    """How many writes are not flushed when none, one, two … of these were sent."""
    found = [0]
    for entry in entries:
        found.append(0 if entry.flush else found[-1] + 1)
    return found


@dataclass(frozen=True)
class CrashImage:
    """What is left, and how that came about."""

    blocks: Blocks
    time: int  # in the log, when power failed
    pending: int  # writes that were not flushed
    label: str

    @property
    def digest(self) -> bytes:
        made = blake2b(digest_size=16)
        for number in sorted(self.blocks):
            made.update(b"%d:" % number + self.blocks[number])
        return made.digest()


def crashed(blocks: Blocks, entries: Sequence[Entry], step: int, dice: random.Random, *, unit: int) -> CrashImage:
    """Power fails when the first `step` entries were sent; `unit`: bytes that the disk writes whole."""
    done = entries[:step]
    flushed = step - pending(done)[-1]
    kept = dict(blocks)
    for entry in done[:flushed]:
        if not entry.flush:
            written(kept, entry.offset, entry.data)
    since = [(entry.offset, entry.data) for entry in done[flushed:]]
    how, survived = _survivors(since, dice, unit) if since else ("nothing was on its way", [])
    for offset, data in survived:
        written(kept, offset, data)
    label = f"{step} of {len(entries)} writes and flushes, {len(since)} not flushed: {how}"
    return CrashImage(kept, done[-1].end if done else 0, len(since), label)


Writes = list[tuple[int, bytes]]


def _survivors(since: Writes, dice: random.Random, unit: int) -> tuple[str, Writes]:
    one = dice.randrange(len(since))
    match dice.choice(("none", "all", "all but one", "only one", "some", "last torn", "sectors")):
        case "none":
            return "none survives", []
        case "all":
            return "all survive", since
        case "all but one":
            return f"all but number {one} survive", since[:one] + since[one + 1 :]
        case "only one":
            return f"only number {one} survives", [since[one]]
        case "some":
            some = [number for number in range(len(since)) if dice.random() < 0.5]
            return f"numbers {some} survive", [since[number] for number in some]
        case "last torn":
            offset, data = since[-1]
            cut = unit * dice.randrange(max(1, len(data) // unit))
            return f"{cut} bytes of the last and all before survive", [*since[:-1], (offset, data[:cut])]
    sectors = [(offset + at, data[at : at + unit]) for offset, data in since for at in range(0, len(data), unit)]
    share = dice.choice((0.1, 0.5, 0.9))
    left = [sector for sector in sectors if dice.random() < share]
    return f"{len(left)} of {len(sectors)} sectors survive", left
