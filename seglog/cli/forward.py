"""`seglog forward DIR --to URL`: drains a log to a sink until stopped. The work is done by seglog.forward."""

from __future__ import annotations

import argparse
import contextlib
import logging

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.messages import tell_gap
from seglog.cli.output import say
from seglog.cli.stopping import Stop
from seglog.errors import LogNotFound

WAIT_SECONDS = 0.2  # how often a log that is not there yet is looked for
ONCE_PATIENCE_SECONDS = 10.0


NOTES = """URL is http://…, https://… (needs the extra: pip install 'seglog[http]') or stdout:

A record is acknowledged after the far end confirmed it: at least once, in order. What the far end refuses for good
(HTTP 400, 413, 422) goes to the dead-letter queue; anything else is kept and tried again, with growing pauses. SIGTERM
and Ctrl-C finish the batch under way; after SIGTERM the exit code is 0."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "forward",
        summary="drain a log to a collector until stopped",
        description="Sends what the consumer has not handled yet to URL, and goes on until stopped. Waits for a log "
        "that is not there yet.",
        notes=NOTES,
        examples=[
            "seglog forward spool/ --to https://collector.example.com/events --header 'Authorization: Bearer TOKEN'",
            "seglog forward spool/ --to stdout: --once",
        ],
        files=("segments", "cursors", "dead"),
    )
    manual.add_directory(parser)
    parser.add_argument("--to", required=True, metavar="URL", help="where the records go")
    parser.add_argument(
        "--consumer",
        type=arguments.consumer_name,
        default="forward",
        metavar="NAME",
        help="whose position to use (default: forward)",
    )
    _add_pace(parser)
    _add_form(parser)
    parser.set_defaults(run=run)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="stop when everything is forwarded")
    parser.add_argument(
        "--patience",
        type=arguments.seconds,
        metavar="S",
        help=f"give up (exit code 3, nothing is lost) after S seconds without progress (default: never; with --once "
        f"{ONCE_PATIENCE_SECONDS:g})",
    )
    parser.add_argument(
        "--batch-records", type=arguments.count, default=500, metavar="N", help="records in one send (default: 500)"
    )
    parser.add_argument(
        "--batch-bytes",
        type=arguments.size,
        default=1 << 20,
        metavar="SIZE",
        help="payload bytes in one send, like 1MiB (default: 1MiB)",
    )
    parser.add_argument(
        "--linger",
        type=arguments.seconds,
        default=0.2,
        metavar="S",
        help="seconds to wait for a batch to fill (default: 0.2)",
    )
    parser.add_argument(
        "--max-refused",
        type=arguments.count,
        default=10,
        metavar="N",
        help="after N refused records in a row nothing more is dead-lettered: that is no fault of the records "
        "(default: 10)",
    )


def _add_form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("lines", "envelope"),
        help="where the far end has no fields of its own: lines: payloads as they are, one per line; envelope: a JSON "
        "object per line, for binary or multi-line payloads (default: lines)",
    )
    parser.add_argument(
        "--header",
        type=arguments.header,
        action="append",
        default=[],
        metavar="'K: V'",
        help="a further request header, HTTP only; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    from seglog.forward import Forwarder, open_sink

    logging.getLogger("seglog").setLevel(logging.INFO)
    sink = open_sink(args.to, format=args.format, headers=dict(args.header))
    with Stop() as stop, contextlib.ExitStack() as ended:
        ended.callback(getattr(sink, "close", lambda: None))
        log = _open_when_it_is_there(args, stop)
        if log is None:
            return _exit_code(stop)
        with log, log.consumer(args.consumer, on_gap=tell_gap) as consumer:
            forwarder = Forwarder(
                consumer,
                sink,
                batch_records=args.batch_records,
                batch_bytes=args.batch_bytes,
                linger=args.linger,
                max_refused=args.max_refused,
                patience=ONCE_PATIENCE_SECONDS if args.once and args.patience is None else args.patience,
            )
            stop.call(forwarder.stop)
            try:
                forwarder.run(once=args.once)
            finally:
                done = forwarder.stats()
                say(
                    f"forwarded {done.sent_records} records in {done.sent_batches} batches; "
                    f"{done.refused_records} refused, {done.failures} failed attempts"
                )
    return _exit_code(stop)


def _open_when_it_is_there(args: argparse.Namespace, stop: Stop) -> seglog.Log[bytes] | None:
    """The log, opened beside its writer; None if asked to stop first."""
    told = False
    while not stop:
        try:
            return seglog.open(args.directory, mode="r")
        except LogNotFound:
            if args.once:
                raise
        if not told:
            say(f"{args.directory}: no log yet, waiting for one")
            told = True
        stop.wait(WAIT_SECONDS)
    return None


def _exit_code(stop: Stop) -> int:
    """SIGTERM is how a forwarder is meant to be ended."""
    return exit_codes.OK if stop.exit_code == exit_codes.TERMINATED else stop.exit_code
