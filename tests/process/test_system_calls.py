"""What the kernel is asked for: content, then name, then directory, and only then is anything acknowledged.

The file systems that people use forgive a directory that is not synced, so no crash on them shows it. Here the calls
are looked at in the order in which they are made, and repeated on a disk that forgives nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk import local
from seglog.repair import repair
from tools.crashtest.block_calls import CallCrashes, Calls, few
from tools.crashtest.history import Broken
from tools.crashtest.workloads import text, workload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are given names by /proc")

ROOT = Path(__file__).resolve().parents[2]
DONE = "done"  # the line behind what an operation did: now its caller is told
WORTHLESS = ("lock", ".lock")  # names that may be lost: whoever opens the log makes them again
STRACED = "openat,mkdir,mkdirat,pwrite64,fallocate,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlinkat"


class Heard(Calls):
    """The calls as lines, like "fsync segments"; paths are relative to the log's directory."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log
        self.lines: list[str] = []
        self.after: dict[str, list[str]] = {}  # what each operation did

    def _named(self, fd: int, name: str = "") -> str:
        return os.path.relpath(os.path.join(os.readlink(f"/proc/self/fd/{fd}"), name), self.log)

    def made(self, name: str, result: Any, *args: Any, **kwargs: Any) -> None:
        match name:
            case "open":
                if args[1] & os.O_CREAT:
                    self.lines.append(f"create {self._named(result)}")
            case "mkdir" | "unlink":
                fd = kwargs.get("dir_fd")
                path = os.path.relpath(args[0], self.log) if fd is None else self._named(fd, args[0])
                self.lines.append(f"{name} {path}")
            case "replace":
                self.lines.append(f"rename {self._named(kwargs['src_dir_fd'], args[0])}")
            case "close":
                pass
            case _:
                self.lines.append(f"{name} {self._named(args[0])}")

    def done(self, operation: str) -> None:
        """Name what was done since the last time."""
        last = len(self.lines) - self.lines[::-1].index(DONE) if DONE in self.lines else 0
        self.after[operation] = self.lines[last:]
        self.lines.append(DONE)


def whole_life(path: Path) -> Heard:
    """Everything a log does to its disk, once."""
    log_path = path / "new" / "spool"
    with Heard(log_path) as heard:
        log = seglog.open(log_path, segment_bytes=4096)
        heard.done("creation")
        log.append(text(0))
        heard.done("append")
        log.append(text(1, 3900))
        heard.done("rotation")
        consumer = log.consumer("uploader")
        heard.done("registration")
        for operation in ("ack", "rejection"):
            message = consumer.receive()
            assert message is not None
            if operation == "ack":
                consumer.ack(message)
            else:
                consumer.reject(message, reason="test")
            heard.done(operation)
        log.compact()
        log.append(text(2, 3900))
        message = consumer.receive()
        assert message is not None
        heard.done("what is to be compacted")
        consumer.ack(message)
        log.append(text(3, 3900))
        log.compact()
        heard.done("compaction")
        log.dead_letters.delete([letter.id for letter in log.dead_letters])
        heard.done("deletion of a letter")
        log.purge()
        heard.done("purge")
        log.append(text(4, 1000))
        log.append(text(5, 1000))
        log.close()
        heard.done("close")
        rot(log_path, text(4, 1000))
        repair(log_path)
        heard.done("repair")
    return heard


def rot(log: Path, payload: bytes) -> None:
    """A few bytes of this record are other ones."""
    (path,) = (path for path in (log / "segments").iterdir() if payload in path.read_bytes())
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(content.index(payload) + 10)
        file.write(b"rotten")


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    return whole_life(tmp_path_factory.mktemp("life").resolve())


NEW_SEGMENT = [
    "create segments/*.seg.tmp",
    "pwrite segments/*.seg.tmp",
    "fsync segments/*.seg.tmp",
    "rename segments/*.seg.tmp",
    "fsync segments",
]
GOING = ["pwrite meta", "fdatasync meta", "unlink segments/*.seg", "fsync segments"]
ORDER = {
    "creation": [
        *("mkdir ..", "mkdir .", "mkdir segments", "fsync .", "fsync ..", "fsync ../.."),
        *NEW_SEGMENT,
        *("create meta.tmp", "pwrite meta.tmp", "fsync meta.tmp", "rename meta.tmp", "fsync ."),
    ],
    "append": ["pwrite segments/*.seg", "fdatasync segments/*.seg"],
    "rotation": [*NEW_SEGMENT, "ftruncate segments/*00.seg", "pwrite segments/*01.seg", "fdatasync segments/*01.seg"],
    "registration": [
        *("create cursors/*.cursor.tmp", "pwrite cursors/*.cursor.tmp", "fsync cursors/*.cursor.tmp"),
        *("rename cursors/*.cursor.tmp", "fsync cursors", "pwrite meta", "fdatasync meta"),
    ],
    "ack": ["pwrite cursors/*.cursor", "fdatasync cursors/*.cursor"],
    "rejection": [
        *("pwrite dead/segments/*.seg", "fdatasync dead/segments/*.seg"),
        *("pwrite cursors/*.cursor", "fdatasync cursors/*.cursor"),
    ],
    "compaction": GOING,
    "deletion of a letter": ["pwrite dead/cursors/deleted.cursor", "fdatasync dead/cursors/deleted.cursor"],
    "purge": [*NEW_SEGMENT, *GOING],
    "close": ["pwrite segments/*.seg", "fdatasync segments/*.seg"],
    "repair": [
        *("create quarantine/*.evidence.tmp", "pwrite quarantine/*.evidence.tmp", "fsync quarantine/*.evidence.tmp"),
        *("rename quarantine/*.evidence.tmp", "rename quarantine/*.manifest.json.tmp", "fsync quarantine", "fsync ."),
        *("pwrite dead/segments/*.seg", "fdatasync dead/segments/*.seg", "pwrite meta", "fdatasync meta"),
    ],
}


def is_in_order(lines: list[str], wanted: list[str]) -> bool:
    """Whether these are among the lines, each behind the one before."""
    rest = iter(lines)
    return all(any(fnmatchcase(line, each) for line in rest) for each in wanted)


@pytest.mark.parametrize("operation", ORDER)
def test_p1_content_then_name_then_directory_then_the_answer(operation: str, life: Heard) -> None:
    assert is_in_order(life.after[operation], ORDER[operation]), "\n".join(life.after[operation])


@pytest.mark.parametrize("operation", ORDER)
def test_the_order_notices_each_call_that_is_missing(operation: str, life: Heard) -> None:
    for missing in ORDER[operation]:
        rest = [line for line in life.after[operation] if not fnmatchcase(line, missing)]
        assert not is_in_order(rest, ORDER[operation]), missing


def violations(lines: list[str]) -> Iterator[str]:
    """What must never be, whatever the operation."""
    written: set[str] = set()  # files with bytes that are not synced
    renamed: set[str] = set()  # directories with names that are not synced
    for number, line in enumerate(lines):
        call, _, path = line.partition(" ")
        directory = os.path.normpath(f"{path}/..")
        if call in ("pwrite", "ftruncate", "posix_fallocate"):
            written.add(path)
        elif call in ("fsync", "fdatasync"):
            written.discard(path)
            renamed.discard(path)
        elif call == "rename" and path in written:
            yield f"{number}: renamed with content that is not synced: {path}"
        elif call == "unlink" and (above := os.path.join(os.path.dirname(directory), "meta")) in written:
            yield f"{number}: gone, and {above} does not say so: {path}"
        elif line == DONE:
            yield from (f"{number}: acknowledged with names that are not synced in {each}" for each in renamed)
            newest = max(each for each in lines[:number] if each.startswith("pwrite segments/")).split(" ")[1]
            newest = newest.removesuffix(".tmp")
            if newest in written:
                yield f"{number}: acknowledged with records that are not synced in {newest}"
        if call in ("create", "mkdir", "rename", "unlink") and os.path.basename(path) not in WORTHLESS:
            renamed.add(directory)


def test_p1_nothing_is_acknowledged_that_is_not_synced(life: Heard) -> None:
    assert not list(violations(life.lines))


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["create a.tmp", "pwrite a.tmp", "rename a.tmp", "fsync ."], "renamed with content"),
        (["pwrite segments/1.seg", "fdatasync segments/1.seg", "mkdir dead", DONE], "names that are not synced in ."),
        (["pwrite segments/1.seg", DONE], "records that are not synced"),
        (["pwrite meta", "unlink segments/1.seg", "fsync segments"], "meta does not say so"),
    ],
)
def test_the_rules_notice(lines: list[str], wrong: str) -> None:
    (found,) = violations(lines)
    assert wrong in found


# The same calls on a disk that loses whatever may be lost

KINDS = ("creation", "rotations", "acks", "compaction", "rejects", "deleted_letters", "recovery_of_a_copy")


@pytest.mark.parametrize("kind", KINDS)
def test_p1_the_calls_survive_a_disk_that_forgives_nothing(kind: str) -> None:
    assert CallCrashes(few(workload(kind), steps=4)).run("") >= 5


@pytest.mark.parametrize(
    ("kind", "swallowed"),
    [
        ("creation", "LocalFile.sync"),
        ("one_append", "LocalFile.datasync"),
        ("creation", "LocalDirectory.sync"),
        ("creation", "LocalDirectory.sync_parents"),
    ],
)
def test_a_sync_that_the_real_disk_swallows_loses_something(
    kind: str, swallowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, method = swallowed.split(".")
    monkeypatch.setattr(getattr(local, name), method, lambda _: None)
    with pytest.raises(Broken):
        CallCrashes(few(workload(kind), steps=1000)).run("")


# The kernel's own view

_FD = r"\d+<(?P<{}>[^>]*)>"
_AT = rf'(?:AT_FDCWD(?:<[^>]*>)?|{_FD.format("at")}), "(?P<name>[^"]*)"'
_STRACE = [
    (re.compile(rf"openat\(.*O_CREAT.*= {_FD.format('fd')}$"), "create"),
    (re.compile(rf"mkdirat\({_AT}"), "mkdir"),
    (re.compile(r'mkdir\((?P<at>)"(?P<name>[^"]*)"'), "mkdir"),
    (re.compile(rf"unlinkat\({_AT}"), "unlink"),
    (re.compile(rf"renameat2?\({_AT}"), "rename"),
    (re.compile(rf"fallocate\({_FD.format('fd')}"), "posix_fallocate"),
    (re.compile(rf"pwrite64\({_FD.format('fd')}"), "pwrite"),
    (re.compile(rf"(?P<call>fsync|fdatasync|ftruncate)\({_FD.format('fd')}"), ""),
]


def as_lines(strace: str, log: Path) -> Iterator[str]:
    """The calls that strace saw, in the words of `Heard`."""
    for line in strace.splitlines():
        if " = -1 " in line:
            continue
        for pattern, call in _STRACE:
            if found := pattern.search(line):
                named = found.groupdict()
                path = named.get("fd") or os.path.join(named.get("at") or "", named["name"])
                yield f"{call or named['call']} {os.path.relpath(path, log)}"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_hears_what_was_heard_here(tmp_path: Path) -> None:
    """Nothing goes past the ears of `Calls`, and nothing is heard that never reached the kernel."""
    program = (
        "import sys; from pathlib import Path; from tests.process.test_system_calls import whole_life;"
        "print(*whole_life(Path(sys.argv[1])).lines, sep='\\n')"
    )
    trace, place = tmp_path / "strace", tmp_path.resolve() / "life"
    command = ["strace", "-f", "-y", "-s", "4", "-e", f"trace={STRACED}", "-o", str(trace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [*command, sys.executable, "-c", program, str(place)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "PTRACE" in ran.stderr or "ptrace" in ran.stderr:
        pytest.skip(f"strace may not trace here: {ran.stderr.splitlines()[0]}")
    assert ran.returncode == 0, ran.stderr
    heard = [line for line in ran.stdout.splitlines() if line != DONE]
    assert len(heard) > 100
    inside = [line for line in heard if "../../.." not in line]
    traced = as_lines(trace.read_text(), place / "new" / "spool")
    assert [line for line in traced if "../../.." not in line] == inside
