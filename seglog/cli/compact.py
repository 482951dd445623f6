"""`seglog compact DIR`: gives disk space back, and says what holds the rest."""

from __future__ import annotations

import argparse
import dataclasses

import seglog
from seglog.cli import exit_codes, manual
from seglog.cli.output import escape, number, print_json, size


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "compact",
        summary="remove segments that all consumers have passed",
        description="Removes what every consumer has handled, and says what pins each segment that it left.",
        notes="Whole segments that every registered consumer has passed are removed, never the active one. Without "
        "consumers nothing is removed. Works beside a live writer.",
        examples=["seglog compact spool/", "seglog compact spool/ --json"],
        files=("segments", "cursors", "meta"),
    )
    manual.add_directory(parser)
    parser.add_argument("--json", action="store_true", help="one object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        report = log.compact()
    if args.json:
        print_json(dataclasses.asdict(report))
        return exit_codes.OK
    print(f"removed {number(report.removed_segments)} segments, {size(report.removed_bytes)}")
    print(f"first offset {report.first_offset}")
    for left in report.remaining:
        print(f"kept {escape(left.segment)} pinned by {escape(', '.join(left.pinned_by))}")
    return exit_codes.OK
