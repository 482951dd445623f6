"""Break one thing, and a test must go red: the crashes notice every sync that is missing and every wrong order.

`SYNCS` names every place in seglog that syncs. One that is not here fails `test_every_sync_has_a_canary`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import seglog
from seglog import opening
from seglog.appender import Appender
from seglog.compact import _Compaction
from seglog.consumers.cursor import NOTHING_IN_FLIGHT, Cursor
from seglog.dead_letters import DeadLetters
from seglog.disk import local
from seglog.housekeeping import Housekeeping
from seglog.recovery import Action, Ending, Verdict
from seglog.replay import Replay
from seglog.segment_writer import Mark, SegmentWriter
from seglog.tail import Tail, examine
from seglog.testing import CrashDisk, Operation
from seglog.testing.crash_disk import CrashDirectory, CrashFile
from tests.support import crash_scenes as scenes
from tests.support import repair_scenes
from tests.support.crash_scenes import Scene, crashes
from tests.support.sync_sites import Site, asked_by, sites
from tools.crashtest.history import Broken
from tools.crashtest.power_loss import Workload
from tools.crashtest.workloads import WORKLOADS, made, workload


class Canary(NamedTuple):
    """A sync, and the scene that notices when it is gone. `path`: only for paths that match this expression.

    The call is taken out, or the disk lies about it (for calls that also tell others what is durable now).
    """

    site: str
    scene: Scene
    path: str = ""
    lie: bool = True


def honest(_: Operation) -> bool:
    return False


died_in_rebuilding = crashes(
    Workload("died_in_rebuilding", scenes.reclaim_the_middle, start=scenes.killed_while_meta_is_rebuilt), last=1
)
rebuilt = crashes(Workload("rebuilt", scenes.reclaim_the_middle, start=scenes.meta_is_lost), last=1)
failing_write = crashes(Workload("failing_write", scenes.failing_write, start=made))

SYNCS = [
    # A commit: the acknowledgement stands on this one.
    Canary("segment_writer.SegmentWriter.sync self.file.datasync", crashes(workload("appends"))),
    Canary("appender.Appender._sync writer.sync", crashes(workload("appends_many"))),
    Canary("appender.Appender._commit self._sync", crashes(workload("appends")), lie=False),
    Canary("segment_writer.SegmentWriter.cut_back self.file.datasync", failing_write),
    # The other durability classes.
    Canary("appender.Appender.sync_written self._sync", crashes(workload("interval_waiting"))),
    # These two make the batch without records durable that proves what is before it: rot there is damage, not suspect.
    Canary("appender.Appender.sync self._sync", scenes.a_sync_proves, lie=False),
    Canary("appender.Appender.sync self._sync #2", scenes.a_sync_proves, lie=False),
    # Rotation, recovery, creation: content, then name, then directory.
    Canary("appender.Appender.rotate self._sync", crashes(workload("never")), lie=False),
    Canary("segment_writer.SegmentWriter.create file.sync", crashes(workload("rotations"))),
    Canary("segment_writer.SegmentWriter.create directory.sync", crashes(workload("rotations"))),
    Canary("opening._Opening._write_again file.datasync", scenes.suspect_in_the_page_cache),
    Canary("opening._sync_names directory.sync", crashes(workload("recovery_in_a_rotation")), "/segments$"),
    Canary("opening._sync_names directory.sync", scenes.a_new_cursor_by_a_process_that_died, "/cursors$"),
    Canary("opening._sync_names directory.sync", died_in_rebuilding, "/spool$"),
    Canary("opening._sync_names root.sync_parents", crashes(workload("creation"))),
    Canary("opening._Opening._new_meta self.root.sync", rebuilt),
    # The close marker: after what it claims; and itself, or a clean end would not be one.
    Canary("appender.Appender._leave_marker self._sync", crashes(workload("never")), lie=False),
    Canary("appender.Appender._leave_marker self._sync #2", scenes.a_clean_end_is_durable, lie=False),
    # The hint is no promise: its sync bounds how much is read after a power cut.
    Canary("appender.Appender._publish self._lock.sync", scenes.recovery_reads_little),
    Canary("lock_file.LockFile.sync self._written.datasync", scenes.recovery_reads_little),
    # Two-slot files.
    Canary("slot_file.SlotFile.create file.sync", crashes(workload("acks"))),
    Canary("slot_file.SlotFile.write self.file.datasync", crashes(workload("acks"))),
    Canary("slot_file.SlotFile.confirm self.file.datasync", scenes.an_ack_in_the_page_cache),
    Canary("consumers.cursor.Cursor.open slots.confirm", scenes.an_ack_in_the_page_cache),
    Canary("catalog.Meta.open slots.confirm", scenes.the_start_never_goes_back),
    # Who is registered.
    Canary("consumers.registry.Registry.locked self.meta.confirm", scenes.registered_by_a_process_that_died),
    Canary("catalog.Meta.confirm self.file.confirm", scenes.registered_by_a_process_that_died),
    Canary("consumers.registry.Registry.register self.cursors.sync", crashes(workload("acks"))),
    Canary("consumers.registry.Registry.restart self.cursors.sync", scenes.a_new_cursor_for_a_bad_one),
    Canary("consumers.registry.Registry.remove self.cursors.sync", scenes.a_removed_cursor_stays_away),
    # Compaction.
    Canary("compact._Compaction._remove self.catalog.segments.sync", scenes.what_was_given_back_stays_away),
    Canary(
        "compact._Compaction._confirm_listing self.catalog.segments.sync", scenes.compacted_while_the_writer_rotates
    ),
    # Repair: evidence, its names, and what was written over.
    Canary("quarantine.Quarantine._write evidence.sync", repair_scenes.a_repair_is_cut_short),
    Canary("quarantine.Quarantine._write manifest.sync", repair_scenes.a_repair_is_cut_short),
    Canary("quarantine.Quarantine.keep directory.sync", repair_scenes.a_repair_is_cut_short),
    Canary("quarantine.Quarantine.keep self._root.sync", repair_scenes.what_is_kept_stays),
    Canary("quarantine.Quarantine.confirm file.datasync", repair_scenes.killed_and_then_the_power_fails),
    Canary("quarantine.Quarantine.confirm directory.sync", repair_scenes.killed_and_then_the_power_fails),
    Canary("repair._Repair.run self.quarantine.confirm", repair_scenes.killed_and_then_the_power_fails),
    Canary("repair._Repair._restore file.datasync", repair_scenes.a_repair_stays),
    # Dead letters are a log of their own: the same commit, there.
    Canary("segment_writer.SegmentWriter.sync self.file.datasync", crashes(workload("rejects")), "/dead/segments/"),
    # To delete one is an ack there.
    Canary("slot_file.SlotFile.write self.file.datasync", crashes(workload("deleted_letters")), "/dead/cursors/"),
]

# The real disk, where no crash can be simulated: `test_the_real_disk_is_asked_for_every_sync` reads the system calls.
REAL = {
    "disk.local.LocalFile.sync _sync",
    "disk.local.LocalFile.datasync _datasync",
    "disk.local.LocalDirectory.sync _sync",
    "disk.local.LocalDirectory.sync_parents _sync",
}


def test_every_sync_has_a_canary() -> None:
    assert set(sites()) == {canary.site for canary in SYNCS} | REAL


@pytest.mark.parametrize("canary", SYNCS, ids=lambda canary: f"{canary.site} {canary.path}".strip())
def test_a_missing_sync_is_noticed(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    site = sites()[canary.site]
    if not canary.lie:
        _without_calls_from(site, monkeypatch)
    with pytest.raises(Broken):
        canary.scene(asked_by(site, canary.path) if canary.lie else honest)


def _without_calls_from(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Appender._sync` is not there where this site calls it."""
    sync, gone = Appender._sync, asked_by(site)

    def sometimes(self: Appender, writer: Any) -> None:
        if not gone(Operation("sync", "", None)):  # type: ignore[arg-type]  # only the stack is looked at
            sync(self, writer)

    monkeypatch.setattr(Appender, "_sync", sometimes)


ELSEWHERE = {each.name for each in WORKLOADS}  # crashed with all their syncs in test_power_loss


@pytest.mark.parametrize(
    "scene", [s for s in {c.scene: 0 for c in SYNCS} if s.__name__ not in ELSEWHERE], ids=lambda s: s.__name__
)
def test_with_all_syncs_each_scene_holds(scene: Scene) -> None:
    scene(honest)


# Wrong orders and wrong trust: each breaks seglog in one way.


def answers_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """The sync of a batch comes with the next one."""
    due: set[int] = set()

    def late(self: SegmentWriter) -> None:
        end = Mark(self.position, self.next_offset)
        if id(self) in due:
            self.file.datasync()
        due.add(id(self))
        self.durable = end

    patch.setattr(SegmentWriter, "sync", late)


def writes_the_hint_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    sync = SegmentWriter.sync
    patch.setattr(SegmentWriter, "sync", lambda self: None)
    publish = Appender._publish

    def early(self: Appender, writer: SegmentWriter, hint: bytes) -> None:
        self._lock.write_hint(hint)
        sync(writer)
        publish(self, writer, hint)

    patch.setattr(Appender, "_publish", early)


def seals_before_the_successor_is_there(patch: pytest.MonkeyPatch) -> None:
    header_after = Appender.header_after

    def early(self: Appender, *args: Any, **kwargs: Any) -> Any:
        if self._writer is not None:
            self._writer.seal()
        return header_after(self, *args, **kwargs)

    patch.setattr(Appender, "header_after", early)


def takes_the_hint_for_the_end(patch: pytest.MonkeyPatch) -> None:
    def shorter(*args: Any, covered: Mark | None, **kwargs: Any) -> Tail:
        tail = examine(*args, covered=covered, **kwargs)
        return tail if covered is None else Tail(covered, covered, Ending.ZERO, covered)

    patch.setattr(opening, "examine", shorter)


def takes_every_hint_for_one_of_this_boot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CrashDisk, "boot_id", lambda _: bytes(16))


def forgets_the_offsets_of_a_cut_tail(patch: pytest.MonkeyPatch) -> None:
    def forgetful(*args: Any, **kwargs: Any) -> Tail:
        tail = examine(*args, **kwargs)
        tail.highest = 0
        return tail

    patch.setattr(opening, "examine", forgetful)


def forgets_the_floor(patch: pytest.MonkeyPatch) -> None:
    header_after = Appender.header_after

    def floorless(self: Appender, *args: Any, **kwargs: Any) -> Any:
        return header_after(self, *args, **{**kwargs, "floor": 0})

    patch.setattr(Appender, "header_after", floorless)


def recovers_in_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening, "decide", lambda _: Verdict(Action.CONTINUE, False, ""))


def marks_as_durable_what_is_in_flight(patch: pytest.MonkeyPatch) -> None:
    write = SegmentWriter.write

    def claiming(self: SegmentWriter, *args: Any, **kwargs: Any) -> int:
        self.durable = Mark(self.position, self.next_offset)
        return write(self, *args, **kwargs)

    patch.setattr(SegmentWriter, "write", claiming)


def moves_the_cursor_before_the_letter_is_kept(patch: pytest.MonkeyPatch) -> None:
    divert, store = DeadLetters.divert, Cursor.store
    waiting: list[tuple[DeadLetters, Any]] = []

    def eager(self: Cursor, *args: Any, **kwargs: Any) -> None:
        store(self, *args, **kwargs)
        while waiting:
            divert(*waiting.pop())

    patch.setattr(DeadLetters, "divert", lambda self, letters: waiting.append((self, letters)))
    patch.setattr(Cursor, "store", eager)


def gives_out_again_what_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "keep_counts", lambda self, seen: None)


def ends_without_syncing_the_note(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "end", lambda self, seen: self.write_note(NOTHING_IN_FLIGHT))


def deletes_letters_before_their_records_are_there(patch: pytest.MonkeyPatch) -> None:
    def eager(self: Replay, records: Any, timeout: float | None) -> Iterator[range]:
        for ticket in self._intake.encoded(records, alone=False):
            yield range(self._appender.next_offset, self._appender.next_offset + len(ticket.payloads))
            self._commits.commit(ticket)

    patch.setattr(Replay, "__call__", eager)


def replays_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Appender, "sync_written", lambda self: None)


def unlinks_before_meta_says_so(patch: pytest.MonkeyPatch) -> None:
    def eager(self: _Compaction, removable: Any) -> tuple[int, int]:
        meta, allowed = self._after(removable)
        for name in allowed:
            self.catalog.segments.unlink(name.file_name)
        self.catalog.segments.sync()
        self.catalog.refresh()
        self.registry.meta.store(meta)
        return len(allowed), 0

    patch.setattr(_Compaction, "_remove", eager)


def renames_before_the_content_is_synced(patch: pytest.MonkeyPatch) -> None:
    """Shown for segments. A cursor counts only once `meta` names it, later; `meta` itself would be rebuilt."""
    rename, sync = CrashDirectory.rename, CrashFile.sync
    waiting: list[CrashFile] = []

    def eager(self: CrashDirectory, old: str, new: str) -> None:
        rename(self, old, new)
        while waiting:
            sync(waiting.pop())

    def later(self: CrashFile) -> None:
        waiting.append(self)

    patch.setattr(CrashFile, "sync", later)
    patch.setattr(CrashDirectory, "rename", eager)


def notes_what_was_dropped_after_the_unlinking(patch: pytest.MonkeyPatch) -> None:
    """The segments below the start in memory go; `meta` says so only when somebody compacts the next time."""
    terms = Housekeeping._terms

    def late(self: Housekeeping[bytes], purged: int = 0) -> Any:
        made = terms(self, purged)
        for name in self._source.catalog.names:
            following = self._source.catalog.after(name)
            if following is not None and following.base_offset <= self._source.floor():
                self._source.catalog.segments.unlink(name.file_name)
        return made

    patch.setattr(Housekeeping, "_terms", late)


def purges_without_saying_so(patch: pytest.MonkeyPatch) -> None:
    """Gone for this process, and there again in the next one."""

    def purge(self: Housekeeping[bytes], *_: Any) -> int:
        self._source._floor = self._source.durable().end_offset
        return 0

    patch.setattr(Housekeeping, "purge", purge)


Breakage = Callable[[pytest.MonkeyPatch], None]
WRONG: list[tuple[Breakage, Scene]] = [
    (answers_before_the_sync, crashes(workload("appends"))),
    (writes_the_hint_before_the_sync, crashes(workload("one_append"), again=True)),
    (seals_before_the_successor_is_there, crashes(workload("rotations"))),
    (takes_the_hint_for_the_end, crashes(workload("appends"))),
    (takes_every_hint_for_one_of_this_boot, crashes(workload("never"))),
    (forgets_the_offsets_of_a_cut_tail, scenes.rot_frees_no_offsets),
    (forgets_the_floor, scenes.a_jump_survives_a_crash_before_it),
    (recovers_in_place, crashes(workload("recovery_of_a_copy"), again=True)),
    (recovers_in_place, crashes(workload("recovery_of_a_torn_tail"))),
    (marks_as_durable_what_is_in_flight, crashes(workload("never"))),
    (moves_the_cursor_before_the_letter_is_kept, crashes(workload("rejects"))),
    (moves_the_cursor_before_the_letter_is_kept, crashes(workload("retries"))),
    (gives_out_again_what_is_not_counted, crashes(workload("retries"))),
    (ends_without_syncing_the_note, scenes.a_clean_end_blames_nobody),
    (deletes_letters_before_their_records_are_there, crashes(workload("replayed_letters"))),
    (replays_without_a_sync, crashes(workload("replayed_unsynced"))),
    (unlinks_before_meta_says_so, crashes(workload("compaction"))),
    (unlinks_before_meta_says_so, crashes(workload("dropping"))),
    (notes_what_was_dropped_after_the_unlinking, crashes(workload("dropping"))),
    (purges_without_saying_so, crashes(workload("purging"))),
    (renames_before_the_content_is_synced, crashes(workload("rotations"))),
]


@pytest.mark.parametrize(("breakage", "scene"), WRONG, ids=lambda each: each.__name__)
def test_a_wrong_order_is_noticed(breakage: Breakage, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    breakage(monkeypatch)
    with pytest.raises(Broken):
        scene(honest)


def test_p5_a_clean_end_blames_nobody() -> None:
    scenes.a_clean_end_blames_nobody(honest)


@pytest.mark.parametrize("scene", [scenes.rot_frees_no_offsets, scenes.a_jump_survives_a_crash_before_it])
def test_p4_no_offset_is_given_out_twice(scene: Scene) -> None:
    scene(honest)


# The real disk.


def _asked(tmp_path: Path, patch: pytest.MonkeyPatch) -> set[str]:
    """The syncs that the kernel is asked for while a log is made in a new directory and gets its first record."""
    asked: set[str] = set()

    def watched(name: str, sync: Callable[[int], None]) -> Callable[[int], None]:
        def watch(fd: int) -> None:
            asked.add(f"{name} {os.path.relpath(os.readlink(f'/proc/self/fd/{fd}'), tmp_path)}")
            sync(fd)

        return watch

    patch.setattr(local, "_sync", watched("fsync", os.fsync))
    patch.setattr(local, "_datasync", watched("fdatasync", os.fdatasync))
    with seglog.open(tmp_path / "new" / "spool") as log:
        log.append(b"first")
    return asked


NEEDED = {
    "fsync .",
    "fsync new",
    "fsync new/spool",
    "fsync new/spool/segments",
    "fsync new/spool/segments/00000000000000000000-00000000.seg.tmp",
    "fsync new/spool/meta.tmp",
    "fdatasync new/spool/segments/00000000000000000000-00000000.seg",
}


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are given names by /proc")
def test_the_real_disk_is_asked_for_every_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _asked(tmp_path, monkeypatch) >= NEEDED


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are given names by /proc")
@pytest.mark.parametrize("name", sorted(REAL))
def test_a_sync_that_the_real_disk_swallows_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, kind, method = name.split(" ", maxsplit=1)[0].split(".")
    monkeypatch.setattr(getattr(local, kind), method, lambda _: None)
    assert not _asked(tmp_path, monkeypatch) >= NEEDED
