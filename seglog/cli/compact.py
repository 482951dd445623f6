"""`seglog compact DIR`: gives disk space back, and says what holds the rest."""

from __future__ import annotations

import argparse
import dataclasses

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.output import escape, number, print_json, size


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "compact",
        summary="remove segments that all consumers have passed",
        description="Removes what every consumer has handled, and says what pins each segment that it left.",
        notes="Whole segments that every registered consumer has passed are removed, never the active one. What the "
        "writer keeps for replay, by retention_bytes or retention_seconds, stays; without consumers only these remove "
        "anything. Works beside a live writer.",
        examples=["seglog compact spool/", "seglog compact spool/ --json", "seglog compact spool/ --retention-age 30d"],
        files=("segments", "cursors", "meta"),
    )
    manual.add_directory(parser)
    parser.add_argument(
        "--retention-bytes",
        type=arguments.size,
        default=None,
        metavar="SIZE",
        help="keep so much of what all consumers have passed; without consumers, of everything, like 10GiB (default: "
        "what the writer was opened with)",
    )
    parser.add_argument(
        "--retention-age",
        type=arguments.age,
        default=None,
        metavar="DURATION",
        help="keep what was appended within the last 12h, say; of both options, one suffices to remove (default: what "
        "the writer was opened with)",
    )
    parser.add_argument("--json", action="store_true", help="one object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    kept = {"retention_bytes": args.retention_bytes, "retention_seconds": args.retention_age}
    with seglog.open(args.directory, mode="r", **kept) as log:
        report = log.compact()
    if args.json:
        print_json(dataclasses.asdict(report))
        return exit_codes.OK
    print(f"removed {number(report.removed_segments)} segments, {size(report.removed_bytes)}")
    print(f"first offset {report.first_offset}")
    for left in report.remaining:
        print(f"kept {escape(left.segment)} pinned by {escape(', '.join(left.pinned_by))}")
    return exit_codes.OK
