"""`seglog consumers list|add|seek|remove DIR`: who reads a log, and where each one stands."""

from __future__ import annotations

import argparse
import dataclasses

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.messages import tell_gap
from seglog.cli.output import agreed, number, print_json, say
from seglog.cli.stat import show_consumers
from seglog.errors import SeglogError, UnknownConsumer

WHERE_HELP = "earliest, latest, an offset, or an ISO 8601 time (the first record appended then or later)"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "consumers",
        summary="list, add, move and remove consumers",
        description="A consumer is a name with a durable position in a log. Segments are kept until every registered "
        "consumer has passed them.",
        notes="A consumer that another process holds can be listed, and neither be moved nor removed (exit code 3).",
        examples=[
            "seglog consumers list spool/",
            "seglog consumers add spool/ audit --start latest",
            "seglog consumers seek spool/ uploader --to 2025-01-31T13:45",
            "seglog consumers remove spool/ uploader --yes",
        ],
        files=("cursors", "meta"),
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_list(actions)
    _add_add(actions)
    _add_seek(actions)
    _add_remove(actions)


def _add_list(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "list",
        summary="show every consumer, its position and its lag",
        description="Shows every registered consumer: its watermark (all below it is handled), how many records and "
        "bytes it has not handled, the age of the oldest of them, and how many messages are in flight.",
        notes="Reads only; beside a live writer, and beside the consumers themselves.",
        examples=["seglog consumers list spool/", "seglog consumers list spool/ --json"],
        files=("cursors", "meta"),
    )
    manual.add_directory(parser)
    parser.add_argument("--json", action="store_true", help="one object per line; sizes in bytes, ages in seconds")
    parser.set_defaults(run=run_list)


def _add_add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "add",
        summary="register a consumer before it runs",
        description="Registers a consumer, so that the log keeps for it what it has not handled yet.",
        notes="A name that is registered already is left as it is (exit code 3).",
        examples=["seglog consumers add spool/ audit", "seglog consumers add spool/ live --start latest"],
        files=("cursors", "meta"),
    )
    _add_directory_and_name(parser)
    parser.add_argument(
        "--start",
        type=arguments.start,
        default="earliest",
        metavar="WHERE",
        help=f"where it begins: {WHERE_HELP} (default: earliest)",
    )
    parser.set_defaults(run=run_add)


def _add_seek(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "seek",
        summary="move a consumer, back to replay or ahead to skip",
        description="Moves a consumer: what lies before the new position counts as handled, what lies behind it does "
        "not. Counts of attempts are forgotten.",
        examples=[
            "seglog consumers seek spool/ uploader --to earliest",
            "seglog consumers seek spool/ uploader --to 2",
        ],
        files=("cursors",),
    )
    _add_directory_and_name(parser)
    parser.add_argument("--to", type=arguments.start, required=True, metavar="WHERE", help=WHERE_HELP)
    parser.set_defaults(run=run_seek)


def _add_remove(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "remove",
        summary="forget a consumer, so that it keeps nothing any more",
        description="Forgets a consumer and its position. What only it had not handled may then be reclaimed.",
        notes="On a terminal it asks first.",
        examples=["seglog consumers remove spool/ uploader --yes"],
        files=("cursors", "meta"),
    )
    _add_directory_and_name(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run_remove)


def _add_directory_and_name(parser: argparse.ArgumentParser) -> None:
    manual.add_directory(parser)
    parser.add_argument("name", metavar="NAME", type=arguments.consumer_name, help="the name of the consumer")


def run_list(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        found = log.consumers()
    if args.json:
        for name, stats in found.items():
            print_json({"name": name, **dataclasses.asdict(stats)})
    elif found:
        show_consumers(found)
    else:
        say("no consumer is registered")
    return exit_codes.OK


def run_add(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        known = log.consumers().get(args.name)
        if known is not None:
            raise SeglogError(f"consumer {args.name!r} is registered already, at offset {known.watermark}")
        log.consumer(args.name, start=args.start, on_gap=tell_gap).close()
        say(f"{args.name}: begins at offset {log.consumers()[args.name].watermark}")
    return exit_codes.OK


def run_seek(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        before = _known(log, args)
        with log.consumer(args.name, on_gap=tell_gap) as consumer:
            consumer.seek(args.to)
            say(f"{args.name}: moved from offset {before.watermark} to {consumer.stats().watermark}")
    return exit_codes.OK


def run_remove(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        left = _known(log, args).lag_records
        if not args.yes and not agreed(f"{args.name} has not handled {number(left)} records. Forget it?"):
            raise SeglogError("nothing was removed")
        log.remove_consumer(args.name)
        say(f"{args.name}: removed, {number(left)} records not handled")
    return exit_codes.OK


def _known(log: seglog.Log[bytes], args: argparse.Namespace) -> seglog.ConsumerStats:
    found = log.consumers().get(args.name)
    if found is None:
        raise UnknownConsumer(f"no consumer {args.name!r} is registered in {args.directory}")
    return found
