"""`seglog forward DIR --to URL`: drains a log to a sink until stopped. The work is done by seglog.forward.

With `--config FILE` it is a service of many such routes, see service.py.
"""

from __future__ import annotations

import argparse
import contextlib
import logging

import seglog
from seglog.cli import arguments, exit_codes, listening, manual
from seglog.cli.messages import tell_gap
from seglog.cli.output import say
from seglog.cli.stopping import Stop
from seglog.errors import InvalidOption, LogNotFound

WAIT_SECONDS = 0.2  # how often a log that is not there yet is looked for
ONCE_PATIENCE_SECONDS = 10.0


NOTES = """URL is one of these, or what other packages add; between them the extra that it
needs, as in pip install 'seglog[http]':
  http://… https://…                     http      a collector
  otlp+http://… otlp+https://…           otlp      a collector of OpenTelemetry
  nats://HOST/SUBJECT nats+tls://…       nats      NATS JetStream
  redis://HOST/STREAM rediss://…         redis     Redis or Valkey
  kafka://BROKER/TOPIC kafka+tls://…     kafka     Kafka
  amqp-stream://HOST/STREAM …+tls://…    rabbitmq  a stream of RabbitMQ
  file:PATH exec:COMMAND stdout:         -         here

User and password come from the URL or from SEGLOG_SINK_USER and SEGLOG_SINK_PASSWORD, the password also from a file
(?password_file=FILE). With http, the URL must name the user, and there is no such file. For http and otlp, a password
without a user is a Bearer token.

A record is acknowledged after the far end confirmed it: at least once, in order. What the far end refuses for good
(HTTP 400, 413, 422) goes to the dead-letter queue; anything else is kept and tried again, with growing pauses. SIGTERM
and Ctrl-C finish the batches under way, which takes up to --timeout for each where the far end does not answer; the
second one ends it at once. After SIGTERM the exit code is 0.

With --config there is a route for each [[route]] of FILE: a table with directory, to, and what else is an option here,
written like batch_bytes = "1MiB"; headers = { Authorization = "…" }, password_file and name are keys, too.
[defaults] counts for routes that do not say otherwise. A route that fails is tried again and stops no other. SIGHUP
reads FILE again: routes that are the same go on undisturbed. systemd is told of readiness, status and health
(Type=notify, WatchdogSec=)."""


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
            "seglog forward --config spool.toml",
        ],
        files=("segments", "cursors", "dead"),
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", type=arguments.directory, help="the log directory")
    parser.add_argument("--to", metavar="URL", help="where the records go (default: none, it is needed with DIR)")
    parser.add_argument(
        "--config",
        type=arguments.directory,
        metavar="FILE",
        help="instead of DIR and --to: forward what FILE says, many logs at once (default: none)",
    )
    parser.add_argument("--check", action="store_true", help="only check FILE, and print its routes")
    parser.add_argument(
        "--consumer",
        type=arguments.consumer_name,
        default="forward",
        metavar="NAME",
        help="whose position to use (default: forward)",
    )
    _add_pace(parser)
    _add_form(parser)
    listening.add_option(parser)
    alone = [
        action.dest for action in parser._actions if action.dest not in ("help", "config", "check", "once", "listen")
    ]
    parser.set_defaults(run=run, alone={name: parser.get_default(name) for name in alone})


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
        "--timeout",
        type=arguments.seconds,
        default=30.0,
        metavar="S",
        help="seconds for connecting, and for each wait on the far end (default: 30)",
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
        choices=("lines", "envelope", "cloudevents"),
        help="where the far end has no fields of its own: lines: payloads as they are, one per line; envelope: a JSON "
        "object per line, for binary or multi-line payloads; cloudevents: a JSON array of CloudEvents, HTTP only "
        "(default: lines)",
    )
    parser.add_argument(
        "--header",
        type=arguments.header,
        action="append",
        default=[],
        metavar="'K: V'",
        help="a further request header, HTTP and OTLP only; may be given several times",
    )
    parser.add_argument(
        "--content-encoding",
        choices=("identity", "gzip", "zstd"),
        help="how request bodies are compressed, HTTP and OTLP only (default: identity, which is not at all; for OTLP "
        "gzip)",
    )


def run(args: argparse.Namespace) -> int:
    from seglog.forward import Forwarder, open_sink
    from seglog.forward.bounds import beside_cursor

    logging.getLogger("seglog").setLevel(logging.INFO)
    if args.config is not None:
        return _run_service(args)
    if args.directory is None or args.to is None or args.check:
        raise InvalidOption("expected DIR --to URL, or --config FILE, which --check is for")
    sink = open_sink(
        args.to,
        format=args.format,
        headers=dict(args.header),
        encoding=args.content_encoding,
        timeout=args.timeout,
    )
    with Stop() as stop, contextlib.ExitStack() as ended:
        ended.callback(getattr(sink, "close", lambda: None))
        alone = listening.Alone(args)
        ended.enter_context(listening.listening(args.listen, alone.states))
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
                batch_file=beside_cursor(args.directory, args.consumer),
            )
            stop.call(forwarder.stop)
            alone.runs(forwarder)
            try:
                forwarder.run(once=args.once)
            finally:
                done = forwarder.stats()
                say(
                    f"forwarded {done.sent_records} records in {done.sent_batches} batches; "
                    f"{done.refused_records} refused, {done.failures} failed attempts"
                )
    return _exit_code(stop)


def _run_service(args: argparse.Namespace) -> int:
    from seglog.cli import service

    given = [name for name, default in args.alone.items() if getattr(args, name) != default]
    if given:
        shown = "DIR" if given[0] == "directory" else f"--{given[0].replace('_', '-')}"
        raise InvalidOption(f"{shown} has no place beside --config: the file says it, for each route")
    return service.run(args, ONCE_PATIENCE_SECONDS)


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
