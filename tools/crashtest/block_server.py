"""The other end of a FUSE mount that is one file: a disk whose writes and flushes are written down in order.

Run as a process of its own: what waits for this disk in the kernel cannot be killed before it is answered. It speaks
the kernel's protocol itself (linux/fuse.h, 7.31), of which one file needs a dozen messages; it imports nothing of ours.

    python block_server.py FUSE DISK LOG        three file descriptors

A line on stdin says that FUSE is mounted. DISK holds the bytes. LOG gets `OFFSET LENGTH` and the bytes of each write,
and OFFSET = FLUSH for each flush, before the kernel gets its answer; so its size is a point in time.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys

FLUSH = 2**64 - 1
ENTRY = struct.Struct("<QQ")  # offset, length

_IN = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions
_OUT = struct.Struct("<IiQ")  # length, error, unique
_WRITE_MAX = 1 << 20  # bytes
_PAGES_MAX = _WRITE_MAX >> 12
_DIRECT_IO = 1  # in the answer to OPEN: nothing is kept in the page cache, so that we see each write at once
_MAX_PAGES = 1 << 22  # in the answer to INIT

_FORGET, _GETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC = 2, 3, 14, 15, 16, 17, 18, 20
_FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 25, 26, 36, 38, 42


class Server:
    """Answers until the file system is unmounted."""

    def __init__(self, fuse: int, disk: int, log: int) -> None:
        self.fuse = fuse
        self.disk = disk
        self.log = log
        self.size = os.fstat(disk).st_size

    def serve(self) -> None:
        buffer = bytearray(_WRITE_MAX + 4096)
        view = memoryview(buffer)
        while True:
            try:
                length = os.readv(self.fuse, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # unmounted
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue  # ENOENT: the request was withdrawn
                raise
            _, opcode, unique, *_ = _IN.unpack_from(buffer)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue  # want no answer
            try:
                code, answer = 0, self.answer(opcode, view[_IN.size : length])
            except OSError as error:
                code, answer = -(error.errno or errno.EIO), b""
            try:
                os.writev(self.fuse, [_OUT.pack(_OUT.size + len(answer), code, unique), answer])
            except FileNotFoundError:
                continue  # nobody waits for it any more

    def answer(self, opcode: int, asked: memoryview) -> bytes:
        match opcode:
            case _ if opcode == _READ:
                _, offset, length = struct.unpack_from("<QQI", asked)
                return os.pread(self.disk, length, offset)
            case _ if opcode == _WRITE:
                _, offset, length = struct.unpack_from("<QQI", asked)
                data = asked[40 : 40 + length]
                os.pwrite(self.disk, data, offset)
                self.note(offset, data)
                return struct.pack("<II", length, 0)
            case _ if opcode == _FSYNC:
                self.note(FLUSH, memoryview(b""))
                return b""
            case _ if opcode == _GETATTR:
                return struct.pack("<QII", 3600, 0, 0) + self.attributes()
            case _ if opcode == _OPEN:
                return struct.pack("<QII", 1, _DIRECT_IO, 0)
            case _ if opcode == _STATFS:
                return struct.pack("<5Q10I", self.size >> 12, 0, 0, 1, 0, 4096, 255, 4096, *[0] * 7)
            case _ if opcode == _INIT:
                return struct.pack("<4I2H2I2H8I", 7, 31, 0, _MAX_PAGES, 16, 12, _WRITE_MAX, 1, _PAGES_MAX, 0, *[0] * 8)
            case _ if opcode in (_RELEASE, _FLUSH, _DESTROY):  # _FLUSH: a descriptor was closed, no more
                return b""
        raise OSError(errno.ENOSYS, "one file needs no more; the kernel does without it")

    def attributes(self) -> bytes:
        mode = stat.S_IFREG | 0o600
        return struct.pack("<6Q10I", 1, self.size, self.size >> 9, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def note(self, offset: int, data: memoryview) -> None:
        os.writev(self.log, [ENTRY.pack(offset, len(data)), data])


def main() -> None:
    if sys.stdin.readline():
        Server(*map(int, sys.argv[1:4])).serve()


if __name__ == "__main__":
    main()
