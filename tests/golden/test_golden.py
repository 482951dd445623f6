"""The frozen directories of format version 1: they read as they did when they were made, for ever.

`expected.json` beside each says what the library found then; `tools/make_golden.py` made both.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import UnsupportedVersion
from tools import make_golden

GOLDEN = Path(__file__).parent / "v1"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
READABLE = [name for name in NAMES if name != "newer"]


def frozen(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text("utf-8"))
    return found


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_every_kind_is_frozen() -> None:
    assert [kind.__name__ for kind in sorted(make_golden.KINDS, key=lambda kind: kind.__name__)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_p8_a_frozen_directory_reads_and_verifies_as_it_did(name: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / name / "log", tmp_path / "log")
    before = files_of(tmp_path)
    assert make_golden.expected(str(tmp_path / "log")) == frozen(name)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", READABLE)
def test_p8_a_frozen_directory_opens_for_writing_and_takes_appends(name: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / name / "log", tmp_path / "log")
    known = frozen(name)
    with seglog.open(tmp_path / "log") as log:
        read = {message.offset: message.payload.hex() for message in log.read(on_gap=lambda _: None)}
        new = log.append(b"new")
    for record in known["records"]:
        assert read.pop(record["offset"]) == record["payload"]
    # What the last bytes hold besides is decided at an opening for writing: an intact record among suspect ones.
    assert len(read) == known["verify"]["records"] - len(known["records"])
    assert new >= known["verify"]["next_offset"]
    with seglog.open(tmp_path / "log") as log:
        message = log.get(new)
        assert message is not None
        assert message.payload == b"new"


def test_f34_f73_a_newer_version_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "newer" / "log", tmp_path / "log")
    before = files_of(tmp_path / "log")
    with pytest.raises(UnsupportedVersion, match="version"):
        seglog.open(tmp_path / "log")
    with pytest.raises(UnsupportedVersion, match="version"):
        seglog.verify(tmp_path / "log")
    with pytest.raises(UnsupportedVersion, match="version"), seglog.open(tmp_path / "log", "r") as log:
        list(log.read())
    after = files_of(tmp_path / "log")
    holder = slice(512, 768)  # who asked for the lock last
    assert {path: content for path, content in after.items() if path != "lock"} == {
        path: content for path, content in before.items() if path != "lock"
    }
    assert after["lock"].replace(after["lock"][holder], b"") == before["lock"].replace(before["lock"][holder], b"")


# How zstd compresses depends on its version; that the frozen frames read is tested above.
SAME_BYTES = [kind for kind in make_golden.KINDS if kind.__name__ not in make_golden.COMPRESSED]


@pytest.mark.parametrize("kind", SAME_BYTES, ids=lambda kind: kind.__name__)
def test_the_writer_of_version_1_makes_the_same_bytes(kind: Any) -> None:
    assert kind() == files_of(GOLDEN / kind.__name__ / "log")
