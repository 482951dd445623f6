"""What `CrashDisk` says may be left, against what a disk may really do."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from seglog.disk.base import Directory
from seglog.testing import CrashDisk, Image, Operation

SECTOR = 512
Tree = dict[str, bytes | None]  # path -> bytes, None for a directory


def contents(directory: Directory, prefix: str = "") -> Tree:
    found: Tree = {}
    for name in directory.list():
        try:
            below = directory.directory(name)
        except OSError:
            file = directory.open(name)
            found[prefix + name] = file.read(0, file.size())
        else:
            found[prefix + name] = None
            found.update(contents(below, f"{prefix}{name}/"))
    return found


def held(disk: CrashDisk) -> Tree:
    return contents(disk.open("", create=False))


def images(disk: CrashDisk, step: int | None = None, *, subsets: int = 4) -> list[Image]:
    step = len(disk.journal) if step is None else step
    return list(disk.images(step, rng=random.Random(step), subsets=subsets))


def lost_power(disk: CrashDisk, step: int | None = None, *, subsets: int = 4) -> list[Tree]:
    return [held(image.disk()) for image in images(disk, step, subsets=subsets) if not image.killed]


def durable_file(disk: CrashDisk, data: bytes) -> None:
    root = disk.open("log", create=True)
    root.sync_parents()
    file = root.open("file", create=True)
    file.write(0, data)
    file.sync()
    root.sync()


def file_after(disk: CrashDisk) -> set[bytes]:
    found = {tree["log/file"] for tree in lost_power(disk)}
    assert None not in found
    return {data for data in found if data is not None}


def test_what_was_synced_is_all_there_is() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    assert lost_power(disk) == [{"log": None, "log/file": b"abc"}]


def test_an_unsynced_write_survives_or_not() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    file = disk.open("log", create=False).open("file", write=True)
    file.write(1, b"X")
    assert file_after(disk) == {b"abc", b"aXc"}
    file.datasync()
    assert file_after(disk) == {b"aXc"}


def test_size_and_data_survive_separately() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    disk.open("log", create=False).open("file", write=True).write(3, b"def")
    assert file_after(disk) == {b"abc", b"abcdef", b"abc\0\0\0"}


def test_sectors_survive_each_by_itself() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * 3 * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(0, b"n" * 3 * SECTOR)
    shapes = {data[::SECTOR] for data in file_after(disk)}
    assert {b"ooo", b"nnn", b"noo", b"ono", b"oon", b"nno", b"onn"} <= shapes
    assert all(len(set(data[at : at + SECTOR])) == 1 for data in file_after(disk) for at in range(0, 1536, SECTOR))


def test_a_cut_and_what_is_written_after_it_survive_separately() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * 2 * SECTOR)
    file = disk.open("log", create=False).open("file", write=True)
    file.truncate(SECTOR // 2)
    file.write(SECTOR, b"n" * SECTOR)
    old, new, zero, half = b"o" * 512, b"n" * 512, bytes(512), b"o" * 256 + bytes(256)
    found = file_after(disk)
    assert {old + old, b"o" * 256, half + zero, half + new, old + new} <= found
    assert all(data[512:] in (b"", old, new, zero) for data in found)


def test_preallocated_space_may_be_gone() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    file = disk.open("log", create=False).open("file", write=True)
    file.allocate(0, 2000)
    assert file_after(disk) == {b"abc", b"abc" + bytes(1997)}
    file.sync()
    file.write(3, b"def")
    assert file_after(disk) == {b"abc" + bytes(1997), b"abcdef" + bytes(1994)}


def test_earlier_bytes_of_a_sector_come_back_in_subsets() -> None:
    disk = CrashDisk()
    durable_file(disk, b"0")
    file = disk.open("log", create=False).open("file", write=True)
    for version in (b"1", b"2", b"3"):
        file.write(0, version)
    assert {tree["log/file"] for tree in lost_power(disk, subsets=50)} == {b"0", b"1", b"2", b"3"}


def test_a_new_name_needs_a_sync_of_its_directory() -> None:
    disk = CrashDisk()
    root = disk.open("log", create=True)
    root.sync_parents()
    file = root.open("file", create=True)
    file.write(0, b"abc")
    file.sync()
    assert {frozenset(tree.items()) for tree in lost_power(disk)} == {
        frozenset({("log", None)}),
        frozenset({("log", None), ("log/file", b"abc")}),
    }


def test_a_durable_name_of_an_unsynced_file_may_be_empty_torn_or_whole() -> None:
    disk = CrashDisk()
    root = disk.open("log", create=True)
    root.sync_parents()
    file = root.open("file", create=True)
    root.sync()
    file.write(0, b"a" * 600)
    assert file_after(disk) == {b"", b"a" * 600, b"a" * 512 + bytes(88), bytes(512) + b"a" * 88, bytes(600)}


def test_a_directory_needs_the_sync_of_its_parents() -> None:
    disk = CrashDisk()
    root = disk.open("a/log", create=True)
    file = root.open("file", create=True)
    file.sync()
    root.sync()
    assert {} in lost_power(disk)
    assert {"a": None} in lost_power(disk)
    root.sync_parents()
    assert lost_power(disk) == [{"a": None, "a/log": None, "a/log/file": b""}]


def test_a_rename_is_old_or_new_and_never_both() -> None:
    disk = CrashDisk()
    durable_file(disk, b"old")
    root = disk.open("log", create=False)
    new = root.open("new", create=True)
    new.write(0, b"new")
    new.sync()
    root.sync()
    root.rename("new", "file")
    before = {"log": None, "log/file": b"old", "log/new": b"new"}
    after = {"log": None, "log/file": b"new"}
    assert [tree in (before, after) for tree in lost_power(disk)] == [True, True]
    root.sync()
    assert lost_power(disk) == [after]


def test_a_file_that_is_renamed_twice_has_one_name() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    root = disk.open("log", create=False)
    root.rename("file", "b")
    root.rename("b", "c")
    names = [sorted(set(tree) - {"log"}) for tree in lost_power(disk, subsets=20)]
    assert sorted(names) == [["log/b"], ["log/c"], ["log/file"]]


def test_directory_operations_may_survive_out_of_order() -> None:
    disk = CrashDisk()
    root = disk.open("log", create=True)
    root.sync_parents()
    for name in ("a", "b", "c"):
        root.open(name, create=True)
    root.sync()
    for name in ("a", "b", "c"):
        root.unlink(name)
    left = {"".join(path[-1] for path in tree if path != "log") for tree in lost_power(disk)}
    assert {"abc", "bc", "ac", "ab", "c", "a", ""} <= left


def test_unlinked_files_come_back_until_the_directory_is_synced() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    root = disk.open("log", create=False)
    file = root.open("file", write=True)
    file.write(0, b"X")
    root.unlink("file")
    assert {tree.get("log/file") for tree in lost_power(disk)} == {None, b"abc", b"Xbc"}
    root.sync()
    file.write(0, b"more")  # an open file without a name
    file.sync()
    assert lost_power(disk) == [{"log": None}]


def test_a_name_that_is_used_again_leads_to_one_of_its_files() -> None:
    disk = CrashDisk()
    durable_file(disk, b"old")
    root = disk.open("log", create=False)
    root.unlink("file")
    new = root.open("file", create=True)
    new.write(0, b"new")
    new.sync()
    assert {tree.get("log/file") for tree in lost_power(disk)} == {b"old", None, b"new"}


def test_a_kill_loses_nothing_and_power_may_still_be_lost_after_it() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    root = disk.open("log", create=False)
    root.open("file", write=True).write(0, b"X")
    root.open("more", create=True)
    (killed,) = [image for image in images(disk) if image.killed]
    after = killed.disk()
    assert after.boot_id() == disk.boot_id()
    assert held(after) == {"log": None, "log/file": b"Xbc", "log/more": b""}
    assert {tree["log/file"] for tree in lost_power(after)} == {b"abc", b"Xbc"}
    assert {"log/more" in tree for tree in lost_power(after)} == {True, False}
    file = after.open("log", create=False).open("file", write=True)
    file.write(1, b"Y")
    assert file_after(after) == {b"abc", b"Xbc", b"XYc"}
    file.sync()
    assert file_after(after) == {b"XYc"}
    assert file_after(disk) == {b"abc", b"Xbc"}  # the disk that was left behind knows nothing of this


def test_a_kill_may_come_in_the_middle_of_a_write() -> None:
    disk = CrashDisk()
    durable_file(disk, b"")
    disk.open("log", create=False).open("file", write=True).write(100, b"x" * 2000)
    killed = [held(image.disk())["log/file"] for image in images(disk, len(disk.journal) - 1) if image.killed]
    assert [len(data or b"") for data in killed] == [0, 512, 1024, 1536, 2048]
    assert killed[1] == bytes(100) + b"x" * 412


def test_power_loss_is_another_boot_and_all_that_is_left_is_durable() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    disk.open("log", create=False).open("file", write=True).write(0, b"X")
    for image in images(disk):
        if not image.killed:
            after = image.disk()
            assert after.boot_id() != disk.boot_id()
            assert lost_power(after) == [held(after)]


def test_an_image_gives_a_fresh_disk_each_time() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    (image,) = [image for image in images(disk) if not image.killed]
    one = image.disk()
    one.open("log", create=False).open("file", write=True).write(0, b"changed")
    assert held(image.disk()) == {"log": None, "log/file": b"abc"}


def test_locks_do_not_outlive_a_crash() -> None:
    disk = CrashDisk()
    durable_file(disk, b"")
    assert disk.open("log", create=False).open("file", write=True).lock()
    for image in images(disk):
        assert image.disk().open("log", create=False).open("file", write=True).lock()


@pytest.mark.parametrize("kind", ["sync", "datasync", "sync_directory"])
def test_a_sync_that_lies_is_seen(kind: str) -> None:
    def work(disk: CrashDisk) -> None:
        root = disk.open("log", create=True)
        root.sync_parents()
        file = root.open("file", create=True)
        root.sync()
        file.write(0, b"abc")
        file.datasync() if kind == "datasync" else file.sync()

    whole: Tree = {"log": None, "log/file": b"abc"}
    honest, lying = CrashDisk(), CrashDisk(ignore=lambda operation: operation.kind == kind)
    work(honest)
    work(lying)
    assert lost_power(honest) == [whole]
    assert whole in lost_power(lying)
    assert len(lost_power(lying)) > 1
    assert [each.kind for each in lying.journal] == [each.kind for each in honest.journal]
    assert {each.kind for each in lying.journal if each.ignored} == {kind}


def test_a_sync_that_fails_loses_what_it_was_to_write_although_it_reads_back_and_a_later_sync_succeeds() -> None:
    fails = [False]
    disk = CrashDisk(fail=lambda operation: fails[0])
    root = disk.open("log", create=True)
    root.sync_parents()
    file = root.open("file", create=True)
    root.sync()
    file.write(0, b"abc".ljust(512, b"."))
    file.sync()
    fails[0] = True
    file.write(512, b"lost")
    with pytest.raises(OSError, match="file") as caught:
        file.datasync()
    assert caught.value.errno == errno.EIO
    fails[0] = False
    assert file.read(512, 4) == b"lost"
    file.datasync()
    for image in disk.images(len(disk.journal), rng=random.Random(0)):
        there = image.disk().open("log", create=False).open("file").read(0, 1000)
        assert there[:3] == b"abc"
        assert there[512:].strip(b"\0") == (b"lost" if image.killed else b"")
    file.write(512, b"again")  # the page is written anew: all of it
    file.datasync()
    assert {image["log/file"][512:] for image in lost_power(disk) if image["log/file"]} == {b"again"}


def test_an_image_can_lie_as_well() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    lying = images(disk)[0].disk(ignore=lambda operation: operation.kind == "sync")
    file = lying.open("log", create=False).open("file", write=True)
    file.write(0, b"X")
    file.sync()
    assert file_after(lying) == {b"abc", b"Xbc"}


def test_marks_stand_between_operations() -> None:
    disk = CrashDisk()
    disk.mark("start")
    root = disk.open("log", create=True)
    disk.mark("opened")
    root.sync_parents()
    disk.mark("durable")
    assert [disk.marks(step) for step in (0, 1, 2)] == [["start"], ["start", "opened"], ["start", "opened", "durable"]]


def test_the_journal_names_what_happened() -> None:
    disk = CrashDisk()
    root = disk.open("log", create=True)
    file = root.open("a", create=True)
    file.allocate(0, 8)
    file.write(2, memoryview(b"xyz"))
    file.truncate(4)
    file.datasync()
    file.sync()
    root.rename("a", "b")
    root.sync()
    root.unlink("b")
    file.close()
    root.close()
    assert [(each.kind, each.path) for each in disk.journal] == [
        ("mkdir", "log"),
        ("create", "log/a"),
        ("allocate", "log/a"),
        ("write", "log/a"),
        ("truncate", "log/a"),
        ("datasync", "log/a"),
        ("sync", "log/a"),
        ("rename", "log/a"),
        ("sync_directory", "log"),
        ("unlink", "log/b"),
    ]
    write = disk.journal[3]
    assert (write.name, write.position, write.data) == ("a", 2, b"xyz")
    assert disk.journal[7].new_name == "b"


def test_steps_outside_the_journal_are_refused() -> None:
    for step in (-1, 1):
        with pytest.raises(ValueError, match="not among"):
            images(CrashDisk(), step)


def workload(disk: CrashDisk, rng: random.Random, durable: Callable[[Tree], None]) -> None:
    """Random calls on a few files; calls `durable` with everything when everything was just synced."""
    root = disk.open("log", create=True)
    root.sync_parents()
    names = ["a", "b", "c"]
    for _ in range(60):
        there = root.list()
        name = rng.choice(names)
        if name not in there:
            root.open(name, create=True).close()
            continue
        file = root.open(name, write=True)
        match rng.randrange(8):
            case 0:
                file.truncate(rng.randrange(3000))
            case 1:
                file.allocate(rng.randrange(3000), rng.randrange(1, 1000))
            case 2:
                file.sync()
            case 3:
                root.rename(name, rng.choice(names))
            case 4:
                root.unlink(name)
            case 5:
                for each in there:
                    root.open(each, write=True).sync()
                root.sync()
                durable(held(disk))
            case _:
                file.write(rng.randrange(2000), rng.randbytes(rng.randrange(1500)))


@pytest.mark.parametrize("seed", range(20))
def test_random_work_survives_whole_where_it_was_synced_whole(seed: int) -> None:
    disk = CrashDisk()
    synced: dict[int, Tree] = {}
    live: dict[int, Tree] = {}
    workload(disk, random.Random(seed), lambda tree: synced.update({len(disk.journal): tree}))
    live[len(disk.journal)] = held(disk)
    for step, tree in (synced | live).items():
        found = images(disk, step)
        lost = [held(image.disk()) for image in found if not image.killed]
        killed = next(held(image.disk()) for image in found if image.killed)
        assert killed == tree
        assert tree in lost
        if step in synced:
            assert lost == [tree]
    assert synced


@pytest.mark.parametrize("seed", range(5))
def test_digests_tell_images_apart_and_order_of_steps_does_not_matter(seed: int) -> None:
    disk = CrashDisk()
    workload(disk, random.Random(seed), lambda tree: None)
    steps = list(range(len(disk.journal) + 1))
    by_digest: dict[bytes, Tree] = {}
    forward: dict[int, list[bytes]] = {}
    for step in steps:
        found = [image for image in images(disk, step, subsets=2) if not image.killed]
        forward[step] = [image.digest for image in found]
        assert len(set(forward[step])) == len(found)
        for image in found:
            tree = held(image.disk())
            assert by_digest.setdefault(image.digest, tree) == tree
    trees = [tuple(sorted(tree.items(), key=str)) for tree in by_digest.values()]
    assert len(set(trees)) == len(by_digest)
    for step in random.Random(seed).sample(steps, 5):
        again = [image.digest for image in images(disk, step, subsets=2) if not image.killed]
        assert again == forward[step]


def test_images_stay_as_they_were_when_time_goes_on() -> None:
    disk = CrashDisk()
    workload(disk, random.Random(7), lambda tree: None)
    early = [(image, held(image.disk())) for step in range(len(disk.journal)) for image in images(disk, step)]
    assert all(held(image.disk()) == tree for image, tree in early)


def test_operations_are_values_of_the_public_api() -> None:
    disk = CrashDisk()
    disk.open("log", create=True)
    assert isinstance(disk.journal[0], Operation)
    assert "power lost" in repr(images(disk)[0])


def spoilt(disk: CrashDisk, *kinds: str, subsets: int = 4, seed: int = 0) -> dict[str, set[bytes]]:
    """What of `log/file` may be left, by what it was spoilt with."""
    found: dict[str, set[bytes]] = {}
    for image in disk.images(len(disk.journal), rng=random.Random(seed), subsets=subsets, spoil=kinds):
        data = held(image.disk())["log/file"]
        assert data is not None
        if not image.killed:
            found.setdefault(image.spoilt, set()).add(data)
    return found


def test_nothing_is_spoilt_unless_it_is_asked_for() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * 2 * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(0, b"n" * 2 * SECTOR)
    assert set(spoilt(disk)) == {""}
    with pytest.raises(ValueError, match="neither"):
        spoilt(disk, "garbage")


def test_unsynced_sectors_may_come_back_as_zeros_and_durable_bytes_stay() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * 3 * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(100, b"n" * SECTOR)
    zeros = spoilt(disk, "zeros")["zeros"]
    first = b"o" * 100 + bytes(412) + b"n" * 100 + b"o" * 924
    second = b"o" * 100 + b"n" * 412 + bytes(100) + b"o" * 924
    both = b"o" * 100 + bytes(512) + b"o" * 924
    assert {first, second, both} <= zeros
    assert all(data[:100] == b"o" * 100 and data[612:] == b"o" * 924 for data in zeros)


def test_new_sectors_may_come_back_as_bytes_of_another_file() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * SECTOR)
    root = disk.open("log", create=False)
    other = root.open("other", create=True)
    other.write(SECTOR, b"y" * SECTOR)
    other.sync()
    root.sync()
    file = root.open("file", write=True)
    file.write(SECTOR, b"n" * 100)
    found = [spoilt(disk, "stale", seed=seed)["stale"] for seed in range(20)]
    assert set.union(*found) >= {b"o" * SECTOR + b"y" * 100, b"o" * SECTOR + b"o" * 100}
    file.sync()
    assert spoilt(disk, "zeros", "stale") == {"": {b"o" * SECTOR + b"n" * 100}}


def test_sectors_that_are_written_over_may_come_back_as_noise_and_durable_bytes_stay() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(500, b"n" * 12)
    (data,) = spoilt(disk, "stale")["stale"]
    assert data[:500] == b"o" * 500
    assert len(set(data[500:])) > 3


def test_who_writes_what_is_there_spoils_nothing() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(0, b"o" * 100)
    assert set(spoilt(disk, "zeros", "stale")) == {""}


def test_what_was_deleted_may_come_back_in_another_file() -> None:
    disk = CrashDisk()
    durable_file(disk, b"x" * SECTOR)
    root = disk.open("log", create=False)
    root.unlink("file")
    root.open("file", create=True)
    root.sync()
    root.open("file", write=True).write(0, b"n" * SECTOR)
    assert b"x" * SECTOR in spoilt(disk, "stale")["stale"]


def test_a_size_may_survive_with_something_else_where_nothing_was_written() -> None:
    disk = CrashDisk()
    durable_file(disk, b"x" * SECTOR)
    disk.open("log", create=False).open("file", write=True).allocate(0, 4 * SECTOR)
    found = spoilt(disk, "stale")
    assert found[""] == {b"x" * SECTOR, b"x" * SECTOR + bytes(3 * SECTOR)}
    assert found["stale"] == {b"x" * 4 * SECTOR}


def test_two_writes_with_something_durable_between_them_spoil_only_their_own_bytes() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * SECTOR)
    file = disk.open("log", create=False).open("file", write=True)
    file.write(0, b"n" * 10)
    file.write(20, b"n" * 10)
    zeros = spoilt(disk, "zeros", subsets=20)["zeros"]
    assert all(data[10:20] == b"o" * 10 and data[30:] == b"o" * 482 for data in zeros)
    file.write(5, b"n" * 20)  # touches the write before it
    assert b"n" * 5 + bytes(25) + b"o" * 482 in spoilt(disk, "zeros")["zeros"]


def test_images_say_whether_a_write_is_torn() -> None:
    disk = CrashDisk()
    durable_file(disk, b"o" * 2 * SECTOR)
    disk.open("log", create=False).open("file", write=True).write(0, b"n" * 2 * SECTOR)
    torn = {held(image.disk())["log/file"] for image in images(disk) if image.torn}
    assert torn == {b"n" * SECTOR + b"o" * SECTOR, b"o" * SECTOR + b"n" * SECTOR}
    before = images(disk, len(disk.journal) - 1)
    assert [image.torn for image in before if image.killed] == [False, True]


def all_digests(seed: int) -> list[bytes]:
    """Of every image of random work, spoilt ones and those after a kill among them."""
    disk = CrashDisk()
    synced: dict[int, Tree] = {}
    workload(disk, random.Random(seed), lambda tree: synced.update({len(disk.journal): tree}))
    digests = []
    for step in range(len(disk.journal) + 1):
        for image in disk.images(step, rng=random.Random(step), spoil=("zeros", "stale")):
            digests.append(image.digest)
            if image.killed:
                again = image.disk().images(0, rng=random.Random(0), subsets=1, spoil=("stale",))
                digests += [each.digest for each in again]
            elif step in synced:
                assert held(image.disk()) == synced[step]
    return digests


@pytest.mark.parametrize("seed", range(5))
def test_spoilt_images_are_the_same_each_time_and_durable_states_cannot_be_spoilt(seed: int) -> None:
    assert all_digests(seed) == all_digests(seed)


def test_a_directory_sync_that_fails_leaves_names_undecided_and_the_next_one_may_do_it() -> None:
    fails = [False]
    disk = CrashDisk(fail=lambda operation: fails[0] and operation.kind == "sync_directory")
    root = disk.open("log", create=True)
    root.sync_parents()
    root.open("file", create=True).sync()
    fails[0] = True
    with pytest.raises(OSError, match="log"):
        root.sync()
    assert {"log/file" in tree for tree in lost_power(disk)} == {True, False}
    fails[0] = False
    root.sync()
    assert {"log/file" in tree for tree in lost_power(disk)} == {True}


def test_an_image_can_fail_as_well() -> None:
    disk = CrashDisk()
    durable_file(disk, b"abc")
    failing = images(disk)[0].disk(fail=lambda operation: operation.kind == "datasync")
    file = failing.open("log", create=False).open("file", write=True)
    with pytest.raises(OSError, match="file"):
        file.datasync()
