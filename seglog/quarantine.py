"""What a repair sets aside: bytes as they were found, with a manifest (FORMAT.md §10.11).

It only adds files to `quarantine/`, and nothing of the log is changed before they are durable there. What an earlier
manifest names with the same bytes is not kept again, so that a repair that was cut short can begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import Any, NamedTuple

from seglog.clock import Clock
from seglog.disk.base import Directory, File
from seglog.format.names import META, OURS, QUARANTINE, TEMPORARY, is_temporary
from seglog.model import RepairAction

_CHUNK_BYTES = 1 << 20
_EVIDENCE = ".evidence"
_MANIFEST = ".manifest.json"


class _Known(NamedTuple):
    """Bytes that are kept."""

    file: str
    position: int
    sha256: str


class Quarantine:
    """`quarantine/` below `root`, whose writer's lock the caller holds."""

    def __init__(self, root: Directory, clock: Clock) -> None:
        self._root = root
        self._clock = clock

    def keep(self, actions: Sequence[RepairAction]) -> str | None:
        """Copy the bytes that these are about; durable on return. The path of the manifest; None if there was nothing
        that is not kept already. Raises OSError: then nothing is there but perhaps a temporary file."""
        with ExitStack() as handles:
            known: set[_Known] = set()
            names: list[str] = []
            if QUARANTINE in self._root.list():
                directory = self._root.directory(QUARANTINE)
                handles.callback(directory.close)
                names = directory.list()
                known = set(_known(directory, names))
            fresh = [action for action in actions if action.length and self._is_fresh(action, known)]
            if not fresh:
                return None
            directory = self._root.directory(QUARANTINE, create=True)
            handles.callback(directory.close)
            for name in names:
                if is_temporary(name):
                    directory.unlink(name)  # of a repair that was cut short
            number = f"{max((int(n[:6]) for n in names if n[:6].isdecimal()), default=0) + 1:06d}"
            self._write(directory, number, fresh)
            # Without the names a power cut after the repair leaves no evidence.
            directory.sync()
            self._root.sync()
            return f"{QUARANTINE}/{number}{_MANIFEST}"

    def confirm(self) -> None:
        """What earlier repairs did is durable on return: one may have been killed before its own syncs, and what is
        read now stands in the page cache only. (If one of its syncs failed it said so. Then a restored spare may come
        back as it was, for the next repair; slot files are written again when they are opened, and of evidence only
        what was synced got its name.)"""
        with ExitStack() as handles:
            files, directories = {META}, [self._root]
            if QUARANTINE in self._root.list():
                directory = self._root.directory(QUARANTINE)
                handles.callback(directory.close)
                directories.append(directory)
                files |= {known.file for known in _known(directory, directory.list())}
            for path in sorted(files):
                *parents, name = path.split("/")
                directory = self._root
                try:
                    for parent in parents:
                        directory = directory.directory(parent)
                        handles.callback(directory.close)
                    file = directory.open(name, write=True)
                except FileNotFoundError:
                    continue
                directories.append(directory)
                try:
                    file.datasync()
                finally:
                    file.close()
            for directory in directories:
                directory.sync()

    def _is_fresh(self, action: RepairAction, known: set[_Known]) -> bool:
        digest = sha256()
        size = 0
        for piece in self._pieces(action):
            digest.update(piece)
            size += len(piece)
        return size > 0 and _Known(action.file, action.position, digest.hexdigest()) not in known

    def _pieces(self, action: RepairAction) -> Iterator[bytes]:
        """The bytes an action is about, as they are now; fewer where the file ends or is not there."""
        with ExitStack() as handles:
            *parents, name = action.file.split("/")
            directory = self._root
            try:
                for parent in parents:
                    directory = directory.directory(parent)
                    handles.callback(directory.close)
                file = directory.open(name)
            except FileNotFoundError:
                return
            handles.callback(file.close)
            at, end = action.position, action.position + action.length
            while at < end and (piece := file.read(at, min(_CHUNK_BYTES, end - at))):
                yield piece
                at += len(piece)

    def _write(self, directory: Directory, number: str, actions: Sequence[RepairAction]) -> None:
        made: list[str] = []
        try:
            with ExitStack() as handles:
                evidence = _create(directory, number + _EVIDENCE, made)
                handles.callback(evidence.close)
                items, size = [], 0
                for action in actions:
                    item = self._copy(action, evidence, size)
                    size += item["size"]
                    items.append(item)
                # Content before name: a manifest shall not lead to bytes that are not there.
                evidence.sync()
                manifest = _create(directory, number + _MANIFEST, made)
                handles.callback(manifest.close)
                text = {
                    "quarantine": 1,
                    "time_ns": self._clock.time_ns(),
                    "evidence": number + _EVIDENCE,
                    "size": size,
                    "items": items,
                }
                manifest.write(0, json.dumps(text, indent=1).encode())
                manifest.sync()
                for name in made:
                    directory.rename(name, name.removesuffix(TEMPORARY))
        except OSError:
            left = directory.list()
            for name in made:
                if name in left:
                    directory.unlink(name)
            raise

    def _copy(self, action: RepairAction, evidence: File, at: int) -> dict[str, Any]:
        digest, size = sha256(), 0
        for piece in self._pieces(action):
            evidence.write(at + size, piece)
            digest.update(piece)
            size += len(piece)
        return {
            "file": action.file,
            "position": action.position,
            "length": action.length,
            "first_offset": action.first_offset,
            "last_offset": action.last_offset,
            "reason": action.reason,
            "at": at,
            "size": size,
            "sha256": digest.hexdigest(),
        }


def _create(directory: Directory, name: str, made: list[str]) -> File:
    file = directory.open(name + TEMPORARY, create=True)
    made.append(name + TEMPORARY)
    return file


def _known(directory: Directory, names: Sequence[str]) -> Iterator[_Known]:
    """What the manifests name whose evidence is there, whole. One that does not read says nothing."""
    for name in names:
        if not name.endswith(_MANIFEST):
            continue
        file = directory.open(name)
        try:
            text = file.read(0, file.size())
        finally:
            file.close()
        try:
            manifest = json.loads(text)
            if _size(directory, names, manifest["evidence"]) == manifest["size"]:
                found = [_Known(item["file"], int(item["position"]), str(item["sha256"])) for item in manifest["items"]]
                yield from [known for known in found if _leads_into_the_log(known.file)]
        except (ValueError, KeyError, TypeError):
            continue


def _leads_into_the_log(path: object) -> bool:
    """Anybody may have written a manifest."""
    parts = path.split("/") if isinstance(path, str) else [""]
    return parts[0] in OURS and not {"", ".", ".."}.intersection(parts)


def _size(directory: Directory, names: Sequence[str], name: object) -> int:
    if not isinstance(name, str) or name not in names:
        return -1
    file = directory.open(name)
    try:
        return file.size()
    finally:
        file.close()
