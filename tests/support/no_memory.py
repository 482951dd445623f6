"""One allocation fails, the n-th, for every n: of an append, of opening, of acking. Runs in a child (CPython's own test
hook): should the interpreter itself not survive one, the test sees it die.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found, unused-ignore]
import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import seglog
from seglog.disk.memory import MemoryDisk
from tools.crashtest.images import disk_with, image_of
from tools.crashtest.zygote import Hear, Say

ALLOCATIONS_MAX = 20_000


def failing(call: Callable[[], Any], allocation: int) -> tuple[bool, Any]:
    """Whether that allocation was met, and what the call returned (None if it raised)."""
    result, met = None, False
    _testcapi.set_nomemory(allocation, allocation + 1)
    try:
        result = call()
    except Exception:  # MemoryError, mostly; CPython itself makes SystemError and RuntimeError of some
        met = True
    finally:
        _testcapi.remove_mem_hooks()
    return met, result


def appends(say: Say, hear: Hear, step: int) -> None:
    """A batch is in or out, whole; the log goes on, or says that it does not know."""
    batch = [b"a", b"b" * 5000, b"c"]  # opens a new segment
    met = 0
    quiet = 0
    for allocation in range(0, ALLOCATIONS_MAX, step):
        disk = MemoryDisk()
        log = seglog.open("log", disk=disk, segment_bytes=4096)
        log.append(b"before")
        failed, _ = failing(lambda log=log: log.append_many(batch), allocation)  # type: ignore[misc]
        goes_on = True
        try:
            log.append(b"after")
        except seglog.LogFailed:
            goes_on = False
        with contextlib.suppress(seglog.LogFailed):
            log.close()
        with seglog.open("log", disk=disk) as log:
            there = [message.payload for message in log.read()]
            rest = [b"after"] if goes_on else []
            assert there in ([b"before", *batch, *rest], [b"before", *rest]), (allocation, there)
            assert failed or batch[0] in there, allocation
            log.append(b"on")
        assert seglog.verify("log", disk=disk).ok, allocation
        met += failed
        quiet = 0 if failed else quiet + 1
        if quiet > 20:
            break
    say(f"met {met}")


def openings(say: Say, hear: Hear, step: int) -> None:
    """Recovery after a kill: it opens or it does not; the next opening finds the same."""
    met = 0
    quiet = 0
    warnings.simplefilter("ignore", ResourceWarning)  # a log that was just made, and given to nobody
    for allocation in range(0, ALLOCATIONS_MAX, step):
        disk = MemoryDisk()
        log = seglog.open("log", disk=disk, durability="never")
        log.append_many([b"a", b"b"])
        log.append(b"c")
        killed = disk_with(image_of(disk))
        log.close()
        failed, opened = failing(lambda disk=killed: seglog.open("log", disk=disk), allocation)  # type: ignore[misc]
        if opened is not None:
            opened.close()
        del opened
        with seglog.open("log", disk=disk_with(image_of(killed))) as log:
            assert [message.payload for message in log.read()] == [b"a", b"b", b"c"], allocation
            log.append(b"on")
        met += failed
        quiet = 0 if failed else quiet + 1
        if quiet > 20:
            break
    say(f"met {met}")
