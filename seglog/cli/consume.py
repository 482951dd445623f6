"""`seglog consume DIR --consumer NAME`: prints messages and acknowledges them, in this order.

What could not be written to stdout in full is not acknowledged, so it comes again.
"""

from __future__ import annotations

import argparse

import seglog
from seglog.cli import arguments, exit_codes, manual, messages
from seglog.cli.output import Stdout
from seglog.cli.stopping import Stop
from seglog.consumers.retry import BACKOFF_SECONDS_MAX
from seglog.errors import InvalidOption

BATCH_MESSAGES = 1000
BATCH_BYTES = 1 << 20
POLL_SECONDS = 0.2  # how soon --follow notices a signal
BACKOFF_SECONDS = 1.0


NOTES = """A batch is acknowledged once all of it was written to stdout. If that fails, if the reader goes away or the
process dies, it is delivered again next time: at least once, in order. What a pipe has taken was written: a reader that
leaves early, like head, may have been given more than it looked at. To take a few, say -n.

CMD is split into words as a shell would, and started without one; for pipes and variables write sh -c '…'. It finds
SEGLOG_OFFSET, SEGLOG_ID (the same for ever, to recognise what comes twice), SEGLOG_ATTEMPTS (1 the first time) and
SEGLOG_KEY (if the message has a key that is UTF-8) in its environment. Its output goes where that of seglog goes. A
CMD that cannot be started ends seglog with exit code 3, and no message is to blame.

With --exec, a message for which CMD failed stays and does not hold up the others. With --follow or --max-attempts it
is tried again, later; else not in this run. Ctrl-C and SIGTERM terminate CMD, a second one kills it; its message comes
again, and that counts as no attempt."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "consume",
        summary="print messages and acknowledge them",
        description="Prints what this consumer has not handled yet and acknowledges it; stops at the end of the log.",
        notes=NOTES,
        examples=[
            "seglog consume spool/ --consumer loader | psql -c 'copy events from stdin'",
            "seglog consume spool/ --consumer watcher --follow --json",
            "seglog consume spool/ --consumer mailer --exec 'mail -s event ops@example.com' --max-attempts 5",
            """seglog consume spool/ --consumer copier --exec 'sh -c "cat > out.$SEGLOG_OFFSET"'""",
        ],
        files=("segments", "cursors", "dead"),
        codes={exit_codes.NOT_WELL: "with --exec: for some message CMD failed, and did not succeed later"},
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
    parser.add_argument(
        "-n",
        type=arguments.count,
        metavar="N",
        help="stop after N messages, with --exec after N runs (default: no limit)",
    )
    parser.add_argument("--follow", action="store_true", help="at the end, wait for more until stopped")
    messages.add_options(parser)
    _add_exec(parser)
    parser.set_defaults(run=run)


def _add_exec(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a command for each message")
    group.add_argument(
        "--exec",
        type=arguments.command,
        metavar="CMD",
        help="run CMD once for each message, with the payload on its stdin (with --json, that object); acknowledge the "
        "message if CMD exits with 0, else give it back (default: print)",
    )
    group.add_argument(
        "--lease",
        type=arguments.seconds,
        metavar="S",
        help="seconds that CMD may take; then it is terminated, and has failed (default: no limit)",
    )
    group.add_argument(
        "--backoff",
        type=arguments.seconds,
        metavar="S",
        help="with --follow or --max-attempts: seconds until a message for which CMD failed is tried again, doubled "
        f"each time, at most {BACKOFF_SECONDS_MAX:g} (default: {BACKOFF_SECONDS:g})",
    )
    group.add_argument(
        "--max-attempts",
        type=arguments.count,
        metavar="N",
        help="when CMD has failed N times for a message, the message becomes a dead letter (default: no limit)",
    )


def run(args: argparse.Namespace) -> int:
    if args.exec is None and any(option is not None for option in (args.lease, args.backoff, args.max_attempts)):
        raise InvalidOption("--lease, --backoff and --max-attempts are for --exec")
    with Stop() as stop, seglog.open(args.directory, mode="r") as log:
        if args.exec is None:
            with log.consumer(args.consumer, start=args.start, on_gap=messages.tell_gap) as consumer:
                return _print(args, consumer, stop)
        from seglog.cli.worker import Worker

        worker = Worker(args, stop)
        with log.consumer(
            args.consumer,
            start=args.start,
            max_attempts=args.max_attempts,
            backoff=BACKOFF_SECONDS if args.backoff is None else args.backoff,
            on_gap=worker.on_gap,
        ) as consumer:
            return worker.run(consumer)


def _print(args: argparse.Namespace, consumer: seglog.Consumer[bytes], stop: Stop) -> int:
    out = Stdout()
    render = messages.renderer(args)
    left: int | None = args.n
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
