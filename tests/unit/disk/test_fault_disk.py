"""The disk that fails on purpose."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk


def writes(operation: str, name: str) -> bool:
    return operation == "write" and name == "file"


def test_it_fails_the_nth_matching_call_once() -> None:
    disk = FaultDisk(MemoryDisk(), Fault(2, errno.EIO), match=writes)
    root = disk.open("log", create=True)
    file, other = root.open("file", create=True), root.open("other", create=True)
    file.write(0, b"one")
    other.write(0, b"not counted")
    with pytest.raises(OSError) as caught:
        file.write(3, b"two")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "log/file")
    file.write(3, b"three")
    assert file.read(0, 99) == b"onethree"
    assert disk.matched == 3
    assert disk.calls == [
        ("open", "log"),
        ("create", "file"),
        ("create", "other"),
        ("write", "file"),
        ("write", "other"),
        ("write", "file"),
        ("write", "file"),
        ("read", "file"),
    ]


def test_it_fails_from_the_nth_call_on_until_disarmed() -> None:
    disk = FaultDisk(MemoryDisk())
    file = disk.open("log", create=True).open("file", create=True)
    disk.arm(Fault(2, errno.ENOSPC, onwards=True), match=writes)
    file.write(0, b"a")
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            file.write(1, b"b")
        assert caught.value.errno == errno.ENOSPC
    disk.arm(None)
    file.write(1, b"c")
    assert file.read(0, 9) == b"ac"


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (Fault(written=lambda length: 1), b"a"),
        (Fault(written=lambda length: length // 2), b"abc"),
        (Fault(written=lambda length: length - 1), b"abcde"),
        (Fault(), b""),
        (Fault(after=True), b"abcdef"),
    ],
)
def test_a_failed_write_leaves_what_was_asked_for(fault: Fault, left: bytes) -> None:
    disk = FaultDisk(MemoryDisk(), fault, match=writes)
    file = disk.open("log", create=True).open("file", create=True)
    with pytest.raises(OSError):
        file.write(0, memoryview(b"abcdef"))
    assert file.read(0, 9) == left


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_any_exception_before_or_after_the_call(error: BaseException, after: bool) -> None:
    disk = FaultDisk(MemoryDisk())
    root = disk.open("log", create=True)
    disk.arm(Fault(error=error, after=after))
    with pytest.raises(type(error)):
        root.directory("below", create=True)
    assert root.list() == (["below"] if after else [])


def test_a_class_of_exceptions_makes_a_new_one_for_each_call() -> None:
    disk = FaultDisk(MemoryDisk(), Fault(error=MemoryError, onwards=True))
    raised = []
    for _ in range(2):
        with pytest.raises(MemoryError) as caught:
            disk.open("log", create=True)
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert disk.failed == [("open", "log")] * 2


def test_every_operation_has_a_name_and_can_fail() -> None:
    disk = FaultDisk(MemoryDisk())

    def everything() -> None:
        root = disk.open("log", create=True)
        root.directory("below", create=True)
        root.directory("below").close()
        root.open("a", create=True).close()
        file = root.open("a", write=True)
        file.allocate(0, 9)
        file.write(0, b"x")
        file.read(0, 1)
        file.size()
        file.truncate(1)
        file.sync()
        file.datasync()
        file.lock()
        file.unlock()
        file.close()
        root.rename("a", "b")
        root.list()
        root.sync()
        root.sync_parents()
        root.unlink("b")
        disk.free_bytes(root)

    everything()
    names = [operation for operation, _ in disk.calls]
    assert sorted(set(names)) == sorted(
        "open free_bytes list open_file create open_directory make_directory rename unlink sync_directory sync_parents "
        "close_directory read write size truncate allocate sync datasync lock unlock close".split()
    )
    for nth, name in enumerate(names, 1):
        disk.inner = MemoryDisk()
        disk.calls.clear()
        disk.arm(Fault(nth))
        with pytest.raises(OSError) as caught:
            everything()
        assert caught.value.filename is not None
        assert disk.calls[-1][0] == name


def test_a_failed_close_has_closed_and_a_failed_unlock_has_unlocked() -> None:
    disk = FaultDisk(MemoryDisk())
    root = disk.open("log", create=True)
    for operation in ("close", "unlock"):
        file = root.open(operation, create=True)
        assert file.lock()
        disk.arm(Fault(), match=_only(operation))
        with pytest.raises(OSError):
            getattr(file, operation)()
        disk.arm(None)
        assert root.open(operation, write=True).lock()


def _only(operation: str) -> Callable[[str, str], bool]:
    return lambda name, _: name == operation
