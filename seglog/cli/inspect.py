"""`seglog inspect FILE`: one file of a log, structure by structure. It shows; `seglog verify` judges."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from typing import Any

from seglog.cli import exit_codes, manual, structures
from seglog.cli.output import escape
from seglog.disk.local import LocalDisk

NOTES = """Columns of a batch: position and length in the file, offset of its first record, number of records, stored
and raw length of its body in bytes, codec, flags, append time (UTC), durable mark (position/end offset known to be on
the disk before this batch was built), and whether its checksums hold (else what does not)."""


_BATCH = "{:>12}  {:<12}  {:>10}  {:>12}  {:>8}  {:>10}  {:>10}  {:<5}  {:<8}  {:<26}  {:<20}  {}"
_NAMES = ("position", "kind", "length", "offset", "count", "stored", "raw", "codec", "flags", "time", "durable", "crc")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "inspect",
        summary="show one file of a log, structure by structure",
        description="Shows what one file of a log holds: positions, lengths, checksums; never a payload. Reads only.",
        notes=NOTES,
        examples=[
            "seglog inspect spool/segments/00000000000000000000-00000000.seg",
            "seglog inspect spool/cursors/uploader.cursor --json",
        ],
        files=("segments", "cursors", "meta", "lock"),
    )
    parser.add_argument("file", metavar="FILE", help="a file below the log directory")
    parser.add_argument("--json", action="store_true", help="one object per line; times in Unix nanoseconds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    parent, name = os.path.split(os.path.realpath(args.file))
    try:
        directory = LocalDisk().open(parent, create=False)
        file = directory.open(name)
    except OSError as error:
        error.filename = args.file  # as it was given
        raise
    try:
        titled = False
        for row in structures.rows(file):
            if args.json:
                print(json.dumps(row))
                continue
            batch = row["kind"] in ("batch", "close marker")
            if batch and not titled:
                print(_BATCH.format(*_NAMES))
                titled = True
            print(_as_columns(row) if batch else _as_pairs(row))
    finally:
        file.close()
        directory.close()
    return exit_codes.OK


def _as_columns(row: structures.Row) -> str:
    return _BATCH.format(
        row["position"],
        row["kind"],
        row["length"],
        row["base_offset"],
        row["count"],
        row["stored_length"],
        row["raw_length"],
        row["codec"],
        ",".join(row["flags"]) or "-",
        _time(row["time_ns"]),
        f"{row['durable_position']}/{row['durable_offset']}",
        "ok" if row["crc_ok"] else f"BAD: {row['fault']}",
    )


def _as_pairs(row: structures.Row) -> str:
    fields = {name: value for name, value in row.items() if name not in ("position", "kind", "crc_ok")}
    shown = [f"{row['position']:>12}  {row['kind']:<12}"]
    if "crc_ok" in row:
        shown.append(f"crc={'ok' if row['crc_ok'] else 'BAD'}")
    shown += [f"{name}={_plain(name, value)}" for name, value in fields.items()]
    return "  ".join(shown)


def _plain(name: str, value: Any) -> str:
    if name == "entries":
        return str(len(value))
    if name.endswith("_ns"):
        return _time(value)
    return escape(value) if isinstance(value, str) else escape(json.dumps(value, separators=(",", ":")))


def _time(nanoseconds: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
        return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (ValueError, OverflowError, OSError):  # the clock of the machine that wrote it may have been anything
        return f"{nanoseconds} ns"
