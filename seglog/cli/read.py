"""`seglog read DIR`: prints records, and moves no consumer's position."""

from __future__ import annotations

import argparse
import datetime

import seglog
from seglog.cli import arguments, exit_codes, manual, messages
from seglog.cli.output import Stdout
from seglog.clock import SystemClock
from seglog.model import Gap

POLL_SECONDS = 0.1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "read",
        summary="print records, without consuming them",
        description="Prints the records of a log, oldest first; beside a live writer, too.",
        notes="With a pipe or a file the payloads are as they were appended; on a terminal control characters are "
        "shown as escapes. Records that cannot be read are passed over, with a line on stderr.",
        examples=[
            "seglog read spool/ --from 2025-01-31T13:45 --json",
            "seglog read spool/ --from 1 --to 3",
            "seglog read spool/ --follow | grep --line-buffered ERROR",
        ],
        files=("segments",),
    )
    manual.add_directory(parser)
    parser.add_argument(
        "--from",
        dest="first",
        type=arguments.where,
        metavar="OFFSET|TIME",
        help="begin with this offset, or with the first record appended at this ISO 8601 time or later; "
        "a time without a zone is local (default: the oldest record)",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--to",
        dest="stop",
        type=arguments.where,
        metavar="OFFSET|TIME",
        help="end before this offset or time (default: the newest record)",
    )
    end.add_argument("--follow", action="store_true", help="at the end, wait for more until stopped")
    messages.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    out = Stdout()
    render = messages.renderer(args)
    clock = SystemClock()
    position: int | datetime.datetime | None = args.first

    def on_gap(gap: Gap) -> None:
        nonlocal position
        messages.tell_gap(gap)
        position = gap.last_offset + 1

    with seglog.open(args.directory, mode="r") as log:
        while True:
            for message in log.read(position, args.stop, on_gap=on_gap):
                out.write(render(message))
                position = message.offset + 1
            out.flush()
            if not args.follow:
                return exit_codes.OK
            clock.sleep(POLL_SECONDS)
