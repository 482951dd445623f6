"""Your own code under every crash and every fault: run it once, check what each of them would have left.

    def run(disk, note):                        # your code, on the disk that it is given
        with seglog.open("spool", disk=disk) as log:
            note(log.append(b"paid"))           # what somebody outside was told, or saw happen

    def check(disk, noted):                     # your code again, on what the crash left
        with seglog.open("spool", disk=disk, mode="r") as log:
            assert {message.offset for message in log.read()} >= set(noted)

    every_crash(run, check)

Deterministic: a failure names its state, and `only` runs that one alone.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any

from seglog.disk.base import Disk
from seglog.disk.memory import MemoryDisk
from seglog.errors import SeglogError
from seglog.testing.crash_disk import CrashDisk
from seglog.testing.fault_disk import Fault, FaultDisk

Note = Callable[[Any], None]
Run = Callable[[Disk, Note], object]
Check = Callable[[Disk, list[Any]], object]
ERRORS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES)
CALLS_MAX = 100_000  # a `run` that begins anew after each fault would never end


def every_crash(run: Run, check: Check, *, only: str = "", seed: int = 0, subsets: int = 4) -> int:
    """Check every state that a power cut or a kill may leave while `run` runs; `check` raises if one is wrong.

    Args:
        run: called once with (disk, note). `note(value)` says that something happened that a crash does not undo: an
            acknowledgement was given, a message was sent.
        check: called with (disk, noted) for each state: a disk that holds it, and what had been noted by then.
        only: the name of the one state to check, as a failure tells it.
        seed: of what is left to chance: which unsynced sectors and names survive beside the systematic choices.
        subsets: how many such choices at each step.

    Returns how many states were checked. Raises what `check` raises, with a note that names the state.
    """
    disk = CrashDisk()
    run(disk, disk.mark)
    checked, known = 0, set[tuple[bytes, int]]()
    for step in range(len(disk.journal) + 1):
        noted = disk.marks(step)
        for number, image in enumerate(disk.images(step, rng=random.Random(f"{seed} {step}"), subsets=subsets)):
            name = f"{step}/{number}"
            state = image.digest, len(noted)
            if state in known or (only and name != only):
                continue
            known.add(state)
            checked += 1
            _checked(check, image.disk(), noted, f"{image.label} (only={name!r})")
    return _some(checked, only)


def every_fault(
    run: Run, check: Check, *, only: str = "", errors: Sequence[int] = ERRORS, onwards: bool = False
) -> int:
    """Let each call to the disk fail in turn, once with each error, until none is left; then check on a sound disk.

    Args:
        run: called with (disk, note) once for each fault, each time on an empty disk; see `every_crash`. It may raise
            SeglogError or OSError: then it has ended there.
        check: called with (disk, noted) after each.
        only: the name of the one fault to try, as a failure tells it.
        errors: numbers of `errno`.
        onwards: everything after that call fails, too.

    Returns how many faults were tried. Raises what `check` raises, and what else `run` raises, with a note that names
    the fault.
    """
    tried = 0
    for error in errors:
        for nth in range(1, CALLS_MAX):
            name = f"{errno.errorcode[error]}/{nth}"
            sound, noted = MemoryDisk(), list[Any]()
            disk = FaultDisk(sound, Fault(nth, error, onwards=onwards))
            try:
                run(disk, noted.append)
            except (SeglogError, OSError):
                pass
            except BaseException as raised:
                raised.add_note(_where(disk, nth, f"(only={name!r})"))
                raise
            if disk.matched < nth:
                break
            if not only or name == only:
                tried += 1
                _checked(check, sound, noted, _where(disk, nth, f"fails with {errno.errorcode[error]} (only={name!r})"))
    return _some(tried, only)


def _where(disk: FaultDisk, nth: int, how: str) -> str:
    operation, path = disk.calls[nth - 1]
    return f"call {nth}, {operation} of {path!r}, {how}"


def _checked(check: Check, disk: Disk, noted: list[Any], what: str) -> None:
    try:
        check(disk, noted)
    except BaseException as error:
        error.add_note(f"after {what}; noted by then: {noted!r:.500}")
        raise


def _some(count: int, only: str) -> int:
    if not count:
        raise ValueError(f"there is no state {only!r}: run does something else now")
    return count
