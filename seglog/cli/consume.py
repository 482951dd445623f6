"""`seglog consume DIR --consumer NAME`: prints messages and acknowledges them, in this order.

What could not be written to stdout in full is not acknowledged, so it comes again.
"""

from __future__ import annotations

import argparse

import seglog
from seglog.cli import arguments, manual, messages
from seglog.cli.output import Stdout
from seglog.cli.stopping import Stop

BATCH_MESSAGES = 1000
BATCH_BYTES = 1 << 20
POLL_SECONDS = 0.2  # how soon --follow notices a signal


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "consume",
        summary="print messages and acknowledge them",
        description="Prints what this consumer has not handled yet and acknowledges it; stops at the end of the log.",
        notes="A batch is acknowledged once all of it was written to stdout. If that fails, if the reader goes away or "
        "the process dies, it is delivered again next time: at least once, in order.",
        examples=[
            "seglog consume spool/ --consumer loader | psql -c 'copy events from stdin'",
            "seglog consume spool/ --consumer watcher --follow --json",
        ],
        files=("segments", "cursors", "dead"),
    )
    manual.add_directory(parser)
    parser.add_argument(
        "--consumer",
        type=arguments.consumer_name,
        required=True,
        metavar="NAME",
        help="whose position to use; a new name is registered, and the log then keeps what it has not handled",
    )
    parser.add_argument(
        "--start",
        type=arguments.start,
        default="earliest",
        metavar="WHERE",
        help="where a new name begins: earliest, latest, an offset or an ISO 8601 time (default: earliest)",
    )
    parser.add_argument("-n", type=arguments.count, metavar="N", help="stop after N messages (default: no limit)")
    parser.add_argument("--follow", action="store_true", help="at the end, wait for more until stopped")
    messages.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    out = Stdout()
    render = messages.renderer(args)
    left: int | None = args.n
    with (
        Stop() as stop,
        seglog.open(args.directory, mode="r") as log,
        log.consumer(args.consumer, start=args.start, on_gap=messages.tell_gap) as consumer,
    ):
        while not stop and left != 0:
            limit = BATCH_MESSAGES if left is None else min(BATCH_MESSAGES, left)
            timeout = POLL_SECONDS if args.follow else 0
            batch = consumer.receive_many(limit, timeout=timeout, max_bytes=BATCH_BYTES)
            if not batch:
                if args.follow:
                    continue
                break
            try:
                with stop.at_once():  # a reader that reads no more must not hold us
                    for message in batch:
                        out.write(render(message))
                    out.flush()
            except KeyboardInterrupt:
                break  # not acknowledged
            consumer.ack(*batch)
            if left is not None:
                left -= len(batch)
    return stop.exit_code
