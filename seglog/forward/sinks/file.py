"""`file:/path/to/name.ndjson`: batches are appended to a file, one record a line. Needs no extra.

Beside it lies `name.ndjson.seglog`, two slots (as FORMAT.md §7 has them, of a kind of its own) with what is confirmed:
which log, which of its offsets, and how long the file is with them. The order makes a kill or a power cut harmless:

    1. the batch is written behind the confirmed bytes, and synced
    2. the state is written, and synced; from now on the batch is there

What stands behind the confirmed bytes at the start is a batch that died between the two, and is cut off; the forwarder
sends it again. Bytes that somebody else put there are not, if the sink before was closed: then the state says so, and
what is there too much is a fault that somebody must look at. (After a kill nobody can tell the ones from the others.)
So is a file that came without a state, one of another log, and one that is gone. Nothing is ever overwritten. One
forwarder at a time: the state is locked.

With `rotate`, a file that the next batch would make larger gets a number, `name.000001.ndjson`, and a new one begins.

No directory is made, and no symbolic link followed but in the path to the directory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from seglog import options
from seglog.disk.base import Directory, Disk, File
from seglog.errors import InvalidOption, SeglogError, storage_errors
from seglog.forward.sinks import address
from seglog.forward.sinks.base import SinkError, Verdict
from seglog.forward.sinks.encoding import encoder
from seglog.forward.sinks.file_state import SLOT_BYTES, State, decode, encode, slot_file
from seglog.model import Message
from seglog.slot_file import SlotFile

_logger = logging.getLogger("seglog")

_MENDED_BY_SOMEBODY = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.EROFS),
    )
)
_OPTIONS = ("format", "keep", "mode", "rotate")


class FileSink:
    """Appends batches to one file. See `seglog.forward.open_sink`.

    Options of the URL:

    - `format`: as for `open_sink`, where it is not given there.
    - `rotate`: bytes, like 64MiB, that no file exceeds, unless a single batch does. Without it the file grows.
    - `keep`: how many of the numbered files stay; the older ones are deleted. Without it all stay.
    - `mode`: permissions of what is made, in octal; 600 unless it says otherwise.

    Args:
        url: `file:/path/to/name?option=value&…`; what is no letter of a URL is written as %20 and the like.
        format: "lines" (the default) or "envelope".
        disk: what the file is on; the machine's own, if it is None.
    """

    def __init__(self, url: str, *, format: str | None = None, disk: Disk | None = None) -> None:
        self.path, given = _taken_apart(url)
        if format is not None and "format" in given:
            raise InvalidOption("the format is given twice, in the URL and beside it")
        self._encode = encoder(format or given.get("format", "lines"))
        self._rotate = _bytes(given["rotate"]) if "rotate" in given else None
        self._keep = address.whole(given, "keep", 0, 1, 1 << 30) if "keep" in given else None
        if self._keep is not None and self._rotate is None:
            raise InvalidOption("the URL's option keep is for rotate")
        self._mode = _mode(given.get("mode", "600"))
        if disk is None:
            from seglog.disk.local import LocalDisk

            disk = LocalDisk()
        self._disk = disk
        self._folder, self._file_name = os.path.split(self.path)
        self._log_id = ""
        self._directory: Directory | None = None
        self._slots: SlotFile | None = None
        self._state = State("")

    def attach(self, log_id: str) -> None:
        self._log_id = log_id

    def resume_point(self) -> int | None:
        """By the state, read anew: after a failure nobody knows which of its slots the disk has.

        It may be low: what is there is left out by `send`.
        """
        self._let_go()
        self._begin()
        return self._state.resume_point

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """On the disk on return. What the file has already is confirmed as well."""
        if self._slots is None:
            self._begin()
        fresh = [message for message in batch if message.offset not in self._state.there]
        data = self._encode(fresh)
        if not data:
            return
        try:
            with storage_errors(f"writing {self.path}"):
                self._append(data, fresh)
        except BaseException:
            self._let_go()  # what became of it is looked up when it goes on
            raise

    def classify(self, error: Exception) -> Verdict:
        if isinstance(error, SinkError):
            return error.verdict
        if isinstance(error, OSError):
            return Verdict.CONFIGURATION if error.errno in _MENDED_BY_SOMEBODY else Verdict.RETRY
        return Verdict.CONFIGURATION if isinstance(error, SeglogError) else Verdict.RETRY

    def close(self) -> None:
        """Give the file back. A later `send` takes it again."""
        if self._slots is not None and self._state.writing:
            # If the disk refuses, or something is left to cut off, the state goes on to say that we write.
            with contextlib.suppress(OSError):
                if self._size() in (None, self._state.size):
                    self._save(replace(self._state, writing=False))
        self._let_go()

    # Taking it

    def _begin(self) -> None:
        try:
            with storage_errors(f"opening {self.path}"):
                self._take()
                self._settle()
        except BaseException:
            self._let_go()
            raise

    def _take(self) -> None:
        """Lock the state, read it, and see that it is ours; make it if there is none and nothing is there either."""
        directory = self._directory = self._disk.open(self._folder or ".", create=False, file_mode=self._mode)
        name = f"{self._file_name}.seglog"
        try:
            file = directory.open(name, write=True)
        except FileNotFoundError:
            self._must_be_empty("no state beside it")
            file = directory.open(name, write=True, create=True)
        slots = self._slots = slot_file(file)
        if not file.lock():
            raise self._fault("another forwarder is writing it")
        payload = slots.load()
        # A name that a killed process made is perhaps in memory only, and so is what its last write left.
        directory.sync()
        if payload is None:
            self._must_be_empty("its state does not read back")  # a state comes before its file
            file.allocate(0, 2 * SLOT_BYTES)
            part = max(self._parts(), default=0) + 1
            self._state = State(self._log_id, part=part, first_part=part)
            slots.write_both(encode(self._state))
            return
        slots.confirm()
        try:
            self._state = decode(payload)
        except ValueError as error:
            raise self._fault(f"its state is of another version of seglog: {error}") from None
        if self._state.log_id != self._log_id:
            raise self._fault("it has records of another log, and one file takes one log")

    def _settle(self) -> None:
        """Finish what a kill cut short, so that the file ends with what is confirmed."""
        state, size = self._state, self._size()
        if state.moving:  # a new file only comes when the state says that the old one has moved
            state = state.moved() if size is None else replace(state, moving=False)
            self._save(state)
        if size is None and state.size:
            raise self._fault(f"it is gone, and {state.size} bytes were confirmed; to begin anew, remove its state")
        if (size or 0) < state.size:
            raise self._fault(f"it has {size} bytes, and {state.size} were confirmed")
        if (size or 0) > state.size:
            if not state.writing:
                raise self._strange(size or 0)
            _logger.warning("%s: %d bytes that were not confirmed are cut off", self.path, (size or 0) - state.size)
            with self._opened() as file:
                file.truncate(state.size)

    def _must_be_empty(self, why: str) -> None:
        if self._size():
            raise self._fault(f"it is there already, with {why}; nothing is written to it")

    # Writing

    def _append(self, data: bytes, fresh: Sequence[Message[Any]]) -> None:
        if not self._state.writing:
            self._save(replace(self._state, writing=True))
        if self._rotate is not None and self._state.size > 0 and self._state.size + len(data) > self._rotate:
            self._move_away()
        with self._opened() as file:
            state, size = self._state, file.size()
            if size != state.size:
                self._save(replace(state, writing=False))  # so that it is not cut off after a kill
                raise self._strange(size)
            try:
                file.write(size, data)
                file.datasync()
            except BaseException:
                # All that was not synced goes, and is written again: so a later sync means what it says.
                with contextlib.suppress(OSError):  # then the next one to take the file does it
                    file.truncate(size)
                raise
        self._save(state.with_these([message.offset for message in fresh], size + len(data)))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[File]:
        """The file, by its name: somebody may have taken the one of the last batch away."""
        file = self._data()
        try:
            yield file
        finally:
            file.close()

    def _data(self) -> File:
        assert self._directory is not None
        try:
            return self._directory.open(self._file_name, write=True)
        except FileNotFoundError:
            if self._state.size:
                raise self._fault(f"it is gone, and {self._state.size} bytes were confirmed") from None
        file = self._directory.open(self._file_name, write=True, create=True)
        try:
            self._directory.sync()  # confirmed bytes in a file without a name would be lost
        except BaseException:
            file.close()
            raise
        return file

    def _move_away(self) -> None:
        """First the intent, so that a kill in here leaves no doubt which file the confirmed bytes are in."""
        directory, old = self._directory, self._part_name(self._state.part)
        assert directory is not None
        if old in directory.list():
            raise self._fault(f"{old} is in its way")
        self._save(replace(self._state, moving=True))
        directory.rename(self._file_name, old)
        directory.sync()
        last = self._state.part
        self._save(self._state.moved())
        for number, name in self._parts().items():
            # What had a number before there was a state is somebody else's.
            if self._keep is not None and self._state.first_part <= number <= last - self._keep:
                with contextlib.suppress(FileNotFoundError):  # somebody else deletes, too
                    directory.unlink(name)

    def _save(self, state: State) -> None:
        assert self._slots is not None
        self._slots.write(encode(state))
        self._state = state

    # Looking

    def _size(self) -> int | None:
        """Of the file; None if there is none."""
        assert self._directory is not None
        try:
            file = self._directory.open(self._file_name)
        except FileNotFoundError:
            return None
        try:
            return file.size()
        finally:
            file.close()

    def _part_name(self, number: int) -> str:
        stem, extension = os.path.splitext(self._file_name)
        return f"{stem}.{number:06d}{extension}"

    def _parts(self) -> dict[int, str]:
        """The numbered files."""
        assert self._directory is not None
        stem, extension = map(re.escape, os.path.splitext(self._file_name))
        found = (re.fullmatch(rf"{stem}\.([0-9]{{6,12}}){extension}", name) for name in self._directory.list())
        return {int(match[1]): match[0] for match in found if match}

    def _strange(self, size: int) -> SinkError:
        return self._fault(f"it has {size} bytes, and only {self._state.size} of them are from here")

    def _fault(self, what: str) -> SinkError:
        return SinkError(f"{self.path}: {what}", verdict=Verdict.CONFIGURATION)

    def _let_go(self) -> None:
        slots, directory = self._slots, self._directory
        self._slots = self._directory = None
        if slots is not None:
            slots.close()
        if directory is not None:
            directory.close()


def _taken_apart(url: str) -> tuple[str, dict[str, str]]:
    """The path and the options. Raises InvalidOption."""
    rest = url.partition(":")[2]
    if rest.startswith("//"):
        host, slash, below = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidOption(f"a file is on this machine, not on {host}: write file:/path/to/name.ndjson")
        rest = slash + below
    written, _, query = rest.partition("?")
    path = urllib.parse.unquote(written)
    if "#" in rest or os.path.basename(path) in ("", ".", "..") or any(ord(one) < 32 for one in path):
        raise InvalidOption("the URL needs the path of a file: expected file:/path/to/name.ndjson")
    return path, address.query(query, _OPTIONS, "file:/path/to/name.ndjson")


def _bytes(text: str) -> int:
    found = options.size(text)
    options.whole("rotate", found, 1, 1 << 60)
    return found


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text) or int(text, 8) & 0o600 != 0o600 or int(text, 8) & 0o111:
        raise InvalidOption(
            f"the URL's option mode is like 640: the owner reads and writes, nobody executes; not {text!r}"
        )
    return int(text, 8)
