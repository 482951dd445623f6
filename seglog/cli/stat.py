"""`seglog stat DIR`: what a log holds and where its consumers stand."""

from __future__ import annotations

import argparse
import dataclasses

import seglog
from seglog.cli import arguments, exit_codes
from seglog.cli.output import age, escape, number, print_json, size, table
from seglog.model import LogStats

EPILOG = """example:
  seglog stat spool/ --json | jq .consumers.uploader.lag_records

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "stat",
        help="show segments, records, bytes, consumers and their lag",
        description="Shows what a log holds and where its consumers stand. Reads only; beside a live writer, too.",
        epilog=EPILOG + exit_codes.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("directory", metavar="DIR", type=arguments.directory, help="the log directory")
    parser.add_argument("--json", action="store_true", help="one object; sizes in bytes, ages in seconds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        stats = log.stats()
    if args.json:
        print_json(dataclasses.asdict(stats))
    else:
        _show(stats)
    return exit_codes.OK


def _show(stats: LogStats) -> None:
    print(f"records       {number(stats.records)} (offsets {stats.first_offset} to {stats.next_offset}, excluded)")
    print(f"durable up to {stats.durable_offset}")
    print(f"size          {size(stats.bytes)} in {number(stats.segments)} segments")
    print(f"dead letters  {number(stats.dead_letters)}")
    print(f"pinned by     {escape(', '.join(stats.pinned_by)) or 'nobody'}")
    if not stats.consumers:
        print("consumers     none")
        return
    print()
    table(
        ("consumer", "watermark", "lag", "lag bytes", "oldest", "in flight"),
        [
            (
                name,
                number(consumer.watermark),
                number(consumer.lag_records),
                size(consumer.lag_bytes),
                age(consumer.oldest_age_seconds),
                number(consumer.in_flight),
            )
            for name, consumer in stats.consumers.items()
        ],
    )
