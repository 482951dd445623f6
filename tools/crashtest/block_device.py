"""A block device in memory that writes down what the kernel sends, with a file system on it: needs root.

A FUSE mount that is one file (`block_server`), a loop device over it, a file system on that. All of it is mounted in a
mount namespace that belongs to one thread: when the thread ends, however it ends, the kernel unmounts and detaches.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tools.crashtest import block_server
from tools.crashtest.block_images import BLOCK, SECTOR, Blocks, Entry, entries_of
from tools.crashtest.campaign import CannotRun

T = TypeVar("T")
WAIT_SECONDS = 60  # a bound, never a measure
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS


@dataclass(frozen=True)
class FileSystem:
    """How one is made and mounted. `unit`: bytes that it takes to be written whole."""

    name: str
    megabytes: int
    make: tuple[str, ...]
    options: str = "loop"
    unit: int = SECTOR

    @property
    def kind(self) -> str:
        return self.make[0].removeprefix("mkfs.")


_EXT4 = ("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")
FILE_SYSTEMS = {
    each.name: each
    for each in (
        FileSystem("ext4", 48, _EXT4),
        FileSystem("xfs", 300, ("mkfs.xfs", "-q", "-f", "-K")),
        # A superblock is one block, and none of its sectors is of use without the others.
        FileSystem("btrfs", 120, ("mkfs.btrfs", "-q", "-f", "-K"), "loop,nodiscard", unit=BLOCK),
        # The same without what ext4 does for programs that forget to sync.
        FileSystem("ext4-writeback", 48, _EXT4, "loop,data=writeback,noauto_da_alloc"),
    )
}


class Refused(Exception):
    """The kernel does not mount this. ext4 writes a superblock of two sectors in place, and knows when it is torn."""


class Stopped(Exception):
    """Ctrl-C in the main thread."""


def available() -> list[FileSystem]:
    """What can be made and mounted here. Raises CannotRun, saying what is missing."""
    if not sys.platform.startswith("linux"):
        raise CannotRun("needs Linux: FUSE, loop devices and mount namespaces")
    if os.geteuid() != 0:
        raise CannotRun("needs root, to mount file systems")
    missing = [path for path in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(path)]
    missing += [tool for tool in ("mount", "umount") if shutil.which(tool) is None]
    if missing:
        raise CannotRun(f"needs {', '.join(missing)}")
    known = Path("/proc/filesystems").read_text("ascii").split()
    found = [each for each in FILE_SYSTEMS.values() if each.kind in known and shutil.which(each.make[0])]
    if not found:
        raise CannotRun("needs the kernel's ext4, xfs or btrfs, and its mkfs")
    return found


class Device:
    """One device. Its methods are for the thread that `on_device` runs."""

    def __init__(self, file_system: FileSystem, stack: ExitStack) -> None:
        self.file_system = file_system
        self.stopping = threading.Event()
        self._size = file_system.megabytes << 20
        self._disk = self._memory("disk", stack)
        os.ftruncate(self._disk, self._size)
        self._log = self._memory("log", stack)
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, self._fuse)
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seglog-disk-")))
        self.file = self.directory / "disk"
        self.file.touch()
        self.mount_point = self.directory / "mounted"
        self.mount_point.mkdir()

    @staticmethod
    def _memory(name: str, stack: ExitStack) -> int:
        descriptor = os.memfd_create(name)
        stack.callback(os.close, descriptor)
        return descriptor

    # What is on it

    def made(self) -> Blocks:
        """A new file system."""
        self.load({})
        self._run([*self.file_system.make, f"/proc/self/fd/{self._disk}"], self._disk)
        return self.blocks()

    def blocks(self) -> Blocks:
        """All it holds now."""
        found, at = {}, 0
        while at < self._size:
            try:
                at = os.lseek(self._disk, at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break  # nothing but a hole
            block = os.pread(self._disk, BLOCK, at)
            if any(block):
                found[at // BLOCK] = block
            at += BLOCK
        return found

    def load(self, blocks: Blocks) -> None:
        """Hold these, with an empty log. Not while it is mounted."""
        os.ftruncate(self._disk, 0)
        os.ftruncate(self._disk, self._size)
        os.ftruncate(self._log, 0)
        for number, block in blocks.items():
            os.pwrite(self._disk, block, number * BLOCK)

    def time(self) -> int:
        """What the kernel has sent so far."""
        return os.fstat(self._log).st_size

    def entries(self) -> list[Entry]:
        return entries_of(os.pread(self._log, self.time(), 0))

    # As a mount

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Raises Refused."""
        if self.stopping.is_set():
            raise Stopped
        system = self.file_system
        try:
            self._run(["mount", "-t", system.kind, "-o", system.options, str(self.file), str(self.mount_point)])
        except subprocess.CalledProcessError as error:
            if "loop device" in error.stderr:
                raise  # none was free: that says nothing of what is on it
            raise Refused(error.stderr.strip()) from None
        try:
            yield self.mount_point
        finally:
            self._run(["umount", str(self.mount_point)])

    def _run(self, command: list[str], *descriptors: int) -> None:
        # A session of its own: Ctrl-C must not end it half-way.
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            pass_fds=descriptors,
            start_new_session=True,
        )

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The file is there, for this thread and those it starts."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_MOUNTS):
            raise CannotRun(f"may not make a mount namespace: {os.strerror(ctypes.get_errno())}")
        self._run(["mount", "--make-rprivate", "/"])
        options = f"fd={self._fuse},rootmode=100000,user_id=0,group_id=0"
        self._run(["mount", "-i", "-t", "fuse", "-o", options, "seglog", str(self.file)], self._fuse)
        try:
            yield
        finally:
            self._run(["umount", str(self.file)])

    @contextmanager
    def served(self) -> Iterator[Callable[[], object]]:
        """A process answers the kernel, from when the function is called until FUSE is unmounted.

        It is outside the namespace, so that whatever is left in there is unmounted while somebody still answers.
        """
        descriptors = (self._fuse, self._disk, self._log)
        command = [sys.executable, "-I", block_server.__file__, *map(str, descriptors)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=descriptors, bufsize=0, start_new_session=True
        ) as server:
            stdin = server.stdin
            assert stdin is not None
            try:
                yield partial(stdin.write, b"mounted\n")
            finally:
                stdin.close()
                try:
                    server.wait(WAIT_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()  # the kernel answers with errors from now on
                    raise


def on_device(file_system: FileSystem, work: Callable[[Device], T]) -> T:
    """Run `work` in a thread that has a device."""
    with ExitStack() as stack:
        device = Device(file_system, stack)
        go = stack.enter_context(device.served())

        def attached() -> T:
            with device.attached():
                go()
                return work(device)

        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(attached)
            try:
                return future.result()
            finally:
                device.stopping.set()  # after Ctrl-C; what is under way is unmounted first
