"""`seglog stat DIR`: what a log holds and where its consumers stand."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.output import age, escape, number, print_json, size, table
from seglog.model import ConsumerStats, LogStats

NOTES = """Of a consumer it shows its watermark (all below it is handled), its lag in records and bytes, the age of the
oldest record that it has not handled, and how many messages it noted last as in flight. 'pinned by' names the consumers
that keep the oldest segment.

--watch looks anew each second, waits for a log that is not there yet, and ends by Ctrl-C. On a terminal it shows the
figures in place (with pip install 'seglog[cli]'), else as blocks of text, one below the other. Rates are those since
the look before."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "stat",
        summary="show segments, records, bytes, consumers and their lag",
        description="Shows what a log holds and where its consumers stand. Reads only; beside a live writer, too.",
        notes=NOTES,
        examples=[
            "seglog stat spool/",
            "seglog stat spool/ --json | jq .consumers.uploader.lag_records",
            "seglog stat spool/ --watch",
            "seglog stat spool/ --prometheus >spool.tmp && mv spool.tmp spool.prom",
        ],
        files=("segments", "cursors", "dead", "meta"),
    )
    manual.add_directory(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object; sizes in bytes, ages in seconds")
    form.add_argument("--watch", action="store_true", help="again and again, with rates, until stopped")
    form.add_argument(
        "--prometheus",
        action="store_true",
        help="in Prometheus' text format, for a textfile collector (needs: pip install 'seglog[metrics]')",
    )
    parser.add_argument(
        "--interval",
        type=arguments.pause,
        default=1.0,
        metavar="S",
        help="seconds from one look to the next, with --watch (default: 1)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.watch:
        from seglog.cli import watch

        return watch.run(args)
    with seglog.open(args.directory, mode="r") as log:
        if args.prometheus:
            return _prometheus(log, str(args.directory))
        stats = log.stats()
    if args.json:
        print_json(dataclasses.asdict(stats))
    else:
        _show(stats)
    return exit_codes.OK


def _prometheus(log: seglog.Log[bytes], name: str) -> int:
    from seglog.metrics import Collector

    sys.stdout.write(Collector(log, name).text())
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
