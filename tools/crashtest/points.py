"""The named points at which a process is killed, and the scenes, short lives on one log, that come to them.

A scene is lived by one process after the other: all but the last are killed at a fixed point, so that the last one has
something to recover; that one is killed at the point in question. Nothing in a scene is left to chance, so the n-th
time it comes to a site is the same operation in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.crashtest import workloads as w
from tools.crashtest.kill_disk import Target
from tools.crashtest.life import Life

# What each part of seglog asks of the disk. A test compares it with what the scenes come to.
POINTS: dict[str, str] = {
    "creation": """
        allocate.dead-lock allocate.dead-meta-tmp allocate.dead-segment-tmp allocate.lock allocate.meta-tmp
        allocate.segment-tmp create.dead-lock create.dead-meta-tmp create.dead-segment-tmp create.lock
        create.meta-tmp create.segment-tmp mkdir.cursors mkdir.dead mkdir.dead-cursors mkdir.dead-segments
        mkdir.root mkdir.segments rename.dead-meta-tmp rename.dead-segment-tmp rename.meta-tmp rename.segment-tmp
        sync-parents.dead sync-parents.root sync.cursors sync.dead sync.dead-cursors sync.dead-lock
        sync.dead-meta-tmp sync.dead-segment-tmp sync.dead-segments sync.lock sync.meta-tmp sync.root
        sync.segment-tmp sync.segments write.dead-lock write.dead-meta-tmp write.dead-segment-tmp write.lock
        write.meta-tmp write.segment-tmp
    """,
    "opening": """
        sync-parents.root sync.cursors sync.lock sync.meta sync.root sync.segments write.lock write.meta
    """,
    "append": """
        sync.segment write.lock write.segment
    """,
    "sync": """
        sync.segment write.lock write.segment
    """,
    "rotation": """
        allocate.segment-tmp create.segment-tmp rename.segment-tmp sync.lock sync.meta sync.segment sync.segment-tmp
        sync.segments truncate.segment write.lock write.segment write.segment-tmp
    """,
    "close": """
        sync.cursor sync.meta sync.segment write.cursor write.lock write.segment
    """,
    "recovery": """
        allocate.segment-tmp create.segment-tmp rename.segment-tmp sync.segment-tmp sync.segments truncate.segment
        unlink.meta-tmp unlink.segment-tmp write.segment-tmp
    """,
    "registration": """
        allocate.cursor-tmp create.cursor-tmp create.cursors-lock rename.cursor-tmp sync.cursor sync.cursor-tmp
        sync.cursors sync.meta write.cursor write.cursor-tmp write.meta
    """,
    "removal": """
        sync.cursor sync.cursors sync.meta unlink.cursor write.cursor write.meta
    """,
    "receiving": """
        sync.cursor write.cursor
    """,
    "ack": """
        sync.cursor write.cursor
    """,
    "nack": """
        sync.cursor write.cursor
    """,
    "rejection": """
        sync.cursor write.cursor
    """,
    "diversion": """
        allocate.dead-cursor-tmp allocate.dead-segment-tmp create.dead-cursor-tmp create.dead-cursors-lock
        create.dead-segment-tmp rename.dead-cursor-tmp rename.dead-segment-tmp sync-parents.dead sync.dead
        sync.dead-cursor-tmp sync.dead-cursors sync.dead-lock sync.dead-meta sync.dead-segment sync.dead-segment-tmp
        sync.dead-segments truncate.dead-segment write.dead-cursor-tmp write.dead-lock write.dead-meta
        write.dead-segment write.dead-segment-tmp
    """,
    "deletion": """
        allocate.dead-segment-tmp create.dead-segment-tmp rename.dead-segment-tmp sync-parents.dead sync.dead
        sync.dead-cursor sync.dead-cursors sync.dead-lock sync.dead-meta sync.dead-segment-tmp sync.dead-segments
        truncate.dead-segment unlink.dead-segment write.dead-cursor write.dead-lock write.dead-meta
        write.dead-segment write.dead-segment-tmp
    """,
    "replay": """
        sync-parents.dead sync.dead sync.dead-cursor sync.dead-cursors sync.dead-meta sync.dead-segments
        sync.segment write.dead-cursor write.dead-lock write.dead-meta write.lock write.segment
    """,
    "compaction": """
        sync.meta sync.segments unlink.segment write.meta
    """,
    "dropping": """
        sync.meta sync.segments unlink.segment write.meta
    """,
    "purge": """
        allocate.segment-tmp create.segment-tmp rename.segment-tmp sync.lock sync.meta sync.segment-tmp
        sync.segments truncate.segment unlink.segment write.lock write.meta write.segment write.segment-tmp
    """,
    "repair": """
        allocate.cursor-tmp allocate.dead-cursor-tmp allocate.segment-tmp create.cursor-tmp create.dead-cursor-tmp
        create.dead-cursors-lock create.evidence-tmp create.manifest-tmp create.segment-tmp mkdir.quarantine
        rename.cursor-tmp rename.dead-cursor-tmp rename.evidence-tmp rename.manifest-tmp rename.segment-tmp
        sync-parents.dead sync-parents.root sync.cursor sync.cursor-tmp sync.cursors sync.dead sync.dead-cursor-tmp
        sync.dead-cursors sync.dead-meta sync.dead-segment sync.dead-segments sync.evidence-tmp sync.lock
        sync.manifest-tmp sync.meta sync.quarantine sync.root sync.segment sync.segment-tmp sync.segments
        truncate.segment unlink.cursor write.cursor-tmp write.dead-cursor-tmp write.dead-lock write.dead-meta
        write.dead-segment write.evidence-tmp write.lock write.manifest-tmp write.meta write.segment
        write.segment-tmp
    """,
}


def sites(phases: str = "*") -> Iterator[str]:
    for phase, operations in POINTS.items():
        for operation in operations.split():
            if phases in ("*", phase):
                yield f"{phase}.{operation}"


def sides(site: str) -> tuple[str, ...]:
    """A write can be done by half."""
    return ("before", "half", "after") if ".write." in site else ("before", "after")


def points(phases: str = "*") -> list[str]:
    """All of them, or those of a phase."""
    return [f"{site}.{side}" for site in sites(phases) for side in sides(site)]


@dataclass(frozen=True)
class Before:
    """A process that was there earlier, and how it was killed; None: not at all."""

    run: Callable[[Life], None]
    target: Target | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """What happens on one log until somebody is killed."""

    name: str
    run: Callable[[Life], None]
    options: dict[str, Any] = field(default_factory=dict)
    before: tuple[Before, ...] = ()
    own: dict[str, Any] = field(default_factory=dict)  # options of the last process only
    below: str = ""  # the log's directory, below the one that is there

    def lives(self) -> list[Before]:
        """All processes in turn."""
        return [*self.before, Before(self.run, None, self.own)]


def closing_at_once(life: Life) -> None:
    """Make the log, so that a scene is not all creation."""
    life.close()


def nothing(life: Life) -> None:
    """`repair` is lived without an open log, see `kill_worker.repairing`."""


MADE = (Before(closing_at_once),)


def writing(life: Life) -> None:
    """Small and large batches over several segments, until somebody is killed."""
    life.append(w.text(0))
    life.append_many([w.text(1), w.text(2, 1500)])
    for number in range(3, 8):
        life.append(w.text(number, 1200))


def beside(life: Life) -> None:
    """A process that may not write the log registers, acks, fails, gives up and gives back."""
    life.register("beside")
    life.ack("beside", 0, 2)
    life.nack("beside")
    life.reject("beside", 1)
    life.ack("beside", 3, 4, 5, 6)
    life.compact()
    life.let_go(life.log.first_offset)  # without the consumer nothing will tell any more why that was given back
    life.remove("beside")
    life.die()


def _killed(site: str, side: str, nth: int, run: Callable[[Life], None] = writing) -> tuple[Before, ...]:
    return (*MADE, Before(run, Target(site, side, nth)))


def _recovering(name: str, site: str, side: str, nth: int, **options: Any) -> Scene:
    run = w.recovery_of_unsynced if options else w.recovery
    return Scene(f"recovery_{name}", run, options, _killed(site, side, nth))


TAKEN_OVER = (  # what power loss is tried on, too
    "rotations",
    "appends_many",
    "acks",
    "scattered_acks",
    "compaction",
    "compaction_at_rotation",
    "removed_consumers",
    "reopening",
    "killed_and_reopened",
    "compressed",
    "never",
    "interval",
    "rejects",
    "retries",
    "dropping",
    "purging",
    "retaining",
    "deleted_letters",
    "reclaimed_letters",
    "replayed_letters",
)
SCENES = [
    Scene("creation", w.creation, below="a/b/log"),
    *(Scene(name, w.workload(name).run, w.workload(name).options, MADE) for name in TAKEN_OVER),
    Scene("beside", beside, {}, (Before(w.rotations),), {"mode": "r"}),
    Scene("creation_again", w.creation, {}, (Before(w.creation, Target("creation.rename.meta-tmp", "before", 1)),)),
    _recovering("of_a_copy", "append.write.segment", "after", 4),
    _recovering("of_a_torn_tail", "append.write.segment", "half", 4),
    _recovering("of_a_half_made_segment", "rotation.write.segment-tmp", "half", 2),
    _recovering("in_a_rotation", "rotation.rename.segment-tmp", "after", 1),
    _recovering("of_unsynced", "append.write.segment", "half", 4, **w.NEVER),
    Scene("repair", nothing),
]


def scene(name: str) -> Scene:
    return next(each for each in SCENES if each.name == name)
