"""Symlinks and FIFOs in place of files, umasks, permissions: nobody gets in, nothing outside is touched."""

from __future__ import annotations

import ast
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import seglog
from seglog.disk.local import LocalDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import payloads
from tools.crashtest.zygote import ROOT, Start

CHILDREN = "tests.support.children:"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two segments with a consumer and a dead letter."""
    with seglog.open(tmp_path / "log", segment_bytes=4096) as log:
        log.append_many([bytes(2000)] * 3)
        log.append_many([bytes(2000)] * 3)
        log.consumer("c").reject(0)
    return tmp_path / "log"


def files(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


def everything(path: Path) -> Iterator[Callable[[], object]]:
    """What may be asked of a log directory."""

    def write() -> None:
        with seglog.open(path, segment_bytes=4096) as log:
            consumer = log.consumer("c")
            for _ in range(3):
                log.append_many([bytes(2000)] * 3)
            consumer.reject(*consumer.receive_many(1))
            consumer.ack(*consumer.receive_many(100))
            log.compact()

    def read() -> None:
        with seglog.open(path, "r") as log:
            list(log.read(on_gap=lambda gap: None))
            len(log.dead_letters)
            log.stats()
            log.consumer("c").receive()

    yield write
    yield read
    yield lambda: seglog.verify(path)


PLACES = ["lock", "meta", "segment", "cursors/c.cursor", "cursors/.lock", "dead/meta", "dead segment"]


def place(path: Path, what: str) -> Path:
    if what == "segment":
        return sorted((path / "segments").iterdir())[-1]
    if what == "dead segment":
        return sorted((path / "dead" / "segments").iterdir())[-1]
    return path / what


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "directory", "socket"])
def test_f80_p12_something_else_in_place_of_a_file_is_refused_and_its_target_stays_untouched(
    what: str, kind: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(path, what)
    outside = tmp_path / "outside"
    outside.write_bytes(here.read_bytes() if here.exists() else b"precious")
    before = outside.read_bytes()
    here.unlink(missing_ok=True)
    if kind == "symlink":
        here.symlink_to(outside)
    elif kind == "dangling":
        here.symlink_to(tmp_path / "new")
    elif kind == "fifo":
        os.mkfifo(here)
    elif kind == "directory":
        here.mkdir()
    else:
        monkeypatch.chdir(here.parent)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(here.name)
    refused: list[seglog.SeglogError] = []
    for work in everything(path):
        try:
            work()
        except seglog.SeglogError as error:
            refused.append(error)
    assert refused
    assert all(here.name in str(error) for error in refused), refused
    assert outside.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert here.is_symlink() or not here.is_file()


@pytest.mark.parametrize("name", ["segments", "cursors", "dead"])
def test_f80_p12_a_symlink_in_place_of_a_directory_is_refused(name: str, path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (path / name).rename(outside)
    (path / name).symlink_to(outside)
    before = {each: each.read_bytes() for each in outside.rglob("*") if each.is_file()}
    refused = 0
    for work in everything(path):
        try:
            work()
        except seglog.SeglogError:
            refused += 1
    assert refused
    assert {each: each.read_bytes() for each in outside.rglob("*") if each.is_file()} == before


def test_f80_temporary_files_that_are_symlinks_are_removed_and_not_followed(path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    last = place(path, "segment").name
    for name in (f"segments/{last}.tmp", "segments/00000000000000000006-00000002.seg.tmp", "meta.tmp"):
        (path / name).symlink_to(outside)
    with seglog.open(path, segment_bytes=4096) as log:
        for _ in range(3):
            log.append_many([bytes(2000)] * 3)
    assert outside.read_bytes() == b"precious"
    assert not list(path.rglob("*.tmp"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_f81_p12_modes_are_tight_whatever_the_umask(umask: int, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "a" / "log"
    child = start(CHILDREN + "under_umask", str(path), umask)
    assert child.line() == "done"
    for each in [path, path.parent, *path.rglob("*")]:
        assert stat.S_IMODE(each.stat().st_mode) == (0o700 if each.is_dir() else 0o600), each


def test_f81_another_file_mode_holds_for_all_that_is_made(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log", file_mode=0o640) as log:
        log.append(b"x")
        log.consumer("c").reject(0)
    for each in [tmp_path / "log", *(tmp_path / "log").rglob("*")]:
        assert stat.S_IMODE(each.stat().st_mode) == (0o750 if each.is_dir() else 0o640), each


@pytest.mark.parametrize("what", ["segments", "segment", "lock", "meta", "."])
def test_f47_p9_what_may_not_be_read_is_named_and_no_new_log_is_made_beside_it(what: str, path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    here = place(path, what)
    before = files(path)
    mode = here.stat().st_mode
    here.chmod(0)
    try:
        for work in everything(path):
            with pytest.raises(seglog.StorageError) as caught:
                work()
            assert isinstance(caught.value.errno, int)
            assert str(here) in str(caught.value.filename) + str(caught.value)
    finally:
        here.chmod(mode)
    assert files(path) == before
    with seglog.open(path) as log:
        assert len(payloads(log.read())) == 6


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("what", ["segments", "segment", "lock", "meta", "c.cursor"])
def test_f47_p9_every_refusal_of_the_system_is_a_typed_error_that_names_the_file(
    what: str, error: int, path: Path
) -> None:
    name = place(path, what).name
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file() and each.name != "lock"}
    disk = FaultDisk(
        LocalDisk(), Fault(error=error, onwards=True), match=lambda operation, at: "open" in operation and at == name
    )
    for work in (lambda: seglog.open(path, disk=disk), lambda: seglog.verify(path, disk=disk)):
        with pytest.raises(seglog.StorageError) as caught:
            work()
        assert caught.value.errno == error
        assert str(caught.value.filename).endswith(name)
        assert not isinstance(caught.value, (seglog.LogFailed, seglog.DiskFull))
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file() and each.name != "lock"} == before
    with seglog.open(path) as log:
        assert len(payloads(log.read())) == 6


def test_f88_f92_mode_r_and_verify_ask_for_no_change_of_any_kind(path: Path) -> None:
    disk = FaultDisk(LocalDisk())
    with seglog.open(path, "r", disk=disk) as log:
        list(log.read())
        log.stats()
        list(log.dead_letters)
    seglog.verify(path, disk=disk)
    changes = "write truncate allocate sync datasync create make_directory rename unlink sync_directory sync_parents"
    assert {operation for operation, _ in disk.calls} & set(changes.split()) == set()


def test_f83_p12_nothing_in_the_library_runs_what_it_reads() -> None:
    forbidden = {"eval", "exec", "compile", "__import__"}
    modules = {"pickle", "marshal", "shelve", "dill", "runpy", "code"}
    for file in (ROOT / "seglog").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, file
            if isinstance(node, ast.Import):
                assert not modules & {alias.name.split(".")[0] for alias in node.names}, file
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in modules, file


def test_f87_names_and_errors_show_no_terminal_escapes_and_no_payload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = b"\x1b[31msecret\x07"
    with caplog.at_level("DEBUG", "seglog"), seglog.open(tmp_path / "log", max_record_bytes=20) as log:
        log.append(secret)
        with pytest.raises(seglog.RecordTooLarge) as large:
            log.append(secret * 2)
        with pytest.raises(seglog.InvalidOption) as name:
            log.consumer("\x1b[31m")
        (tmp_path / "log" / "segments" / "\x1b[31mforeign").write_bytes(b"")
        log.consumer("c").reject(0, reason="\x1b[31m")
        shown = f"{large.value} {name.value} {log!r} {log.get(0)!r} {log.report} {seglog.verify(tmp_path / 'log')}"
    with caplog.at_level("DEBUG", "seglog"), seglog.open(tmp_path / "log") as log:
        shown += f"{log.report} {list(log.dead_letters)!r}".replace(repr(secret), "").replace("secret", "", 1)
    assert "\x1b" not in shown
    assert "\x1b" not in caplog.text
    assert "secret" not in caplog.text
