"""`seglog stat DIR`: what a log holds and where its consumers stand."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping

import seglog
from seglog.cli import exit_codes, manual
from seglog.cli.output import age, escape, number, print_json, size, table
from seglog.model import ConsumerStats, LogStats

NOTES = """Of a consumer it shows its watermark (all below it is handled), its lag in records and bytes, the age of the
oldest record that it has not handled, and how many messages it noted last as in flight. 'pinned by' names the consumers
that keep the oldest segment."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "stat",
        summary="show segments, records, bytes, consumers and their lag",
        description="Shows what a log holds and where its consumers stand. Reads only; beside a live writer, too.",
        notes=NOTES,
        examples=["seglog stat spool/", "seglog stat spool/ --json | jq .consumers.uploader.lag_records"],
        files=("segments", "cursors", "dead", "meta"),
    )
    manual.add_directory(parser)
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
    if stats.dropped:
        print(f"dropped       {number(stats.dropped)} to stay within a limit")
    print(f"pinned by     {escape(', '.join(stats.pinned_by)) or 'nobody'}")
    if not stats.consumers:
        print("consumers     none")
        return
    print()
    show_consumers(stats.consumers)


def show_consumers(consumers: Mapping[str, ConsumerStats]) -> None:
    """One line for each."""
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
            for name, consumer in consumers.items()
        ],
    )
