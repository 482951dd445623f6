"""`seglog inspect`: every file of a log, structure by structure, without a payload."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.cli import exit_codes
from seglog.format import layout as L
from tests.cli.conftest import Cli, one_line

SECRET = b"correct horse battery staple"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A sealed segment, an active one, a consumer."""
    with seglog.open(tmp_path / "log", segment_bytes=8192) as log:
        log.append_many([SECRET, b"b"])
        log.append(b"c", key=b"k")
        log.append(SECRET * 500)  # does not fit: a segment of its own
        with log.consumer("c") as consumer:
            consumer.ack(*consumer.receive_many(2))
    return tmp_path / "log"


def segments(log: Path) -> list[Path]:
    return sorted((log / "segments").iterdir())


def rows(cli: Cli, path: Path) -> list[dict[str, Any]]:
    result = cli("inspect", path, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert SECRET not in result.stdout
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_sealed_segment(cli: Cli, log: Path) -> None:
    shown = rows(cli, segments(log)[0])
    kinds = [row["kind"] for row in shown]
    assert kinds[:2] == ["segment header", "segment header"]
    assert kinds[-1] == "footer"
    batches = [row for row in shown if row["kind"] == "batch" and row["count"]]
    assert [(row["base_offset"], row["count"]) for row in batches] == [(0, 2), (2, 1)]
    assert [row["flags"] for row in batches] == [[], ["extended"]]
    assert all(row["crc_ok"] for row in shown if "crc_ok" in row)
    at = L.DATA_START
    for row in shown:
        if row["kind"] == "batch":
            assert row["position"] == at
            at += row["length"]


def test_the_active_segment_ends_with_its_close_marker(cli: Cli, log: Path) -> None:
    kinds = [row["kind"] for row in rows(cli, segments(log)[-1])]
    assert "close marker" in kinds
    assert set(kinds[kinds.index("close marker") + 1 :]) <= {"zero bytes", "footer"}


def test_for_people(cli: Cli, log: Path) -> None:
    result = cli("inspect", segments(log)[0])
    text = result.stdout.decode()
    assert result.returncode == 0
    assert "position  kind" in text
    assert str(L.DATA_START) in text
    assert SECRET.decode() not in text


def test_cursor_meta_and_lock(cli: Cli, log: Path) -> None:
    cursor = rows(cli, log / "cursors" / "c.cursor")
    newest = next(row for row in cursor if row.get("newest"))
    assert (newest["kind"], newest["name"], newest["watermark"]) == ("cursor slot", "c", 2)
    meta = rows(cli, log / "meta")
    assert [row["kind"] for row in meta] == ["meta slot", "meta slot"]
    assert any(["c", 0] in row["consumers"] for row in meta)
    hint, writer = rows(cli, log / "lock")
    assert (hint["position"], hint["kind"], hint["crc_ok"], hint["durable_offset"]) == (0, "hint", True, 4)
    assert "pid" in writer["holder"]
    for path in (log / "cursors" / "c.cursor", log / "meta", log / "lock"):
        assert cli("inspect", path).returncode == 0


def test_damage_is_shown_and_the_rest_is_still_read(cli: Cli, log: Path) -> None:
    path = segments(log)[0]
    whole = path.read_bytes()
    first, second = (row for row in rows(cli, path) if row["kind"] == "batch" and row["count"])

    def damaged(position: int) -> list[dict[str, Any]]:
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        return rows(cli, path)

    assert [row["crc_ok"] for row in damaged(20)][:2] == [False, True]
    body = [row for row in damaged(whole.index(SECRET)) if row["kind"] == "batch"]
    assert (body[0]["crc_ok"], body[0]["fault"], body[1]["crc_ok"]) == (False, "body", True)
    header = [row for row in damaged(first["position"] + 30) if row["kind"] == "batch"]
    assert (header[0]["position"], header[0]["fault"]) == (first["position"], "header")  # read from its copy
    lost = damaged(second["position"] + 30)  # one record alone has no copy
    assert [row["kind"] for row in lost if row["position"] == second["position"]] == ["unreadable"]
    for place in (20, L.HEADER_COPY_AT + 20):  # both copies: the footer has a third
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    shown = rows(cli, path)
    assert [row["crc_ok"] for row in shown[:2]] == [False, False]
    assert any(row["kind"] == "batch" for row in shown)


def test_a_copy_under_another_name(cli: Cli, log: Path, tmp_path: Path) -> None:
    shutil.copy(segments(log)[0], tmp_path / "evidence.bin")
    assert rows(cli, tmp_path / "evidence.bin") == rows(cli, segments(log)[0])


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100_000), b"\xff" * 9000])
def test_other_files_are_refused(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.txt").write_bytes(content)
    result = cli("inspect", tmp_path / "file.txt")
    assert (result.returncode, result.stdout) == (exit_codes.FAILED, b"")
    assert "not a file of a seglog log" in one_line(result.stderr)


def test_what_is_no_file(cli: Cli, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing", Path("/dev/zero"), Path("/")):
        result = cli("inspect", target)
        assert result.returncode == exit_codes.FAILED
        one_line(result.stderr)


def test_a_segment_without_any_header_left(cli: Cli, log: Path) -> None:
    path = segments(log)[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    result = cli("inspect", path)
    assert result.returncode == exit_codes.FAILED
    assert "no copy of the segment header holds" in one_line(result.stderr)


def test_every_cut_of_a_segment_gives_rows_or_one_line(log: Path, tmp_path: Path) -> None:
    from seglog.cli import structures
    from seglog.disk.local import LocalDisk
    from seglog.errors import NotALog

    whole = segments(log)[0].read_bytes()
    directory = LocalDisk().open(str(tmp_path), create=False)
    for end in [*range(0, 9000, 97), *range(9000, len(whole), 31)]:
        (tmp_path / "cut").write_bytes(whole[:end])
        file = directory.open("cut")
        try:
            found = list(structures.rows(file))
        except NotALog:
            assert end < L.SEGMENT_HEADER.size
        else:
            assert all(row["position"] <= end for row in found if row["kind"] != "segment header")
        finally:
            file.close()
    directory.close()
