"""`seglog compact DIR`: gives disk space back, and says what holds the rest."""

from __future__ import annotations

import argparse
import dataclasses

import seglog
from seglog.cli import arguments, exit_codes
from seglog.cli.output import escape, number, print_json, size

EPILOG = """Whole segments that every registered consumer has passed are removed, never the active one. Without
consumers nothing is removed. Works beside a live writer.

example:
  seglog compact spool/

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compact",
        help="remove segments that all consumers have passed",
        description="Removes what every consumer has handled, and says what pins each segment that it left.",
        epilog=EPILOG + exit_codes.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("directory", metavar="DIR", type=arguments.directory, help="the log directory")
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
