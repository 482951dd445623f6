"""`tools/crashtest/run LAYER`: break a log in one of many ways, and say whether it kept its promises (see README.md).

Exit codes: 0 every promise was kept, 1 one was not, 2 wrong usage, 3 this layer cannot run here, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from seglog.cli.arguments import age
from seglog.cli.output import Progress
from tools.crashtest.campaign import FINDINGS_MAX, LAYERS, CannotRun, Report, Terms, layer_named, run, verdict

KEPT, BROKEN, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
TALK_EVERY = 60.0  # seconds, where no terminal shows a bar

WHAT = {
    "sim": "power fails, or the process is killed, at every operation of a simulated disk",
    "faults": "each call to the disk fails, in every way a call can fail",
    "threads": "threads are stopped and let go in chosen orders",
    "kill": "SIGKILL at random times and at named points of real processes",
    "disk": "a real file system loses power: what was written between two flushes is reordered, torn, lost (root)",
    "rot": "bits flip, files are cut, blocks are zeroed, swapped, doubled, foreign",
    "canaries": "break the code on purpose: at least two layers notice each bug",
    "peers": "the same faults for SQLite and the queues people use instead",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tools/crashtest/run", description=__doc__)
    layers = made.add_subparsers(dest="layer", required=True, metavar="LAYER")
    for name in LAYERS:
        layer = layers.add_parser(name, help=WHAT[name], description=WHAT[name])
        layer.add_argument("--seed", type=int, default=0, help="for all that is left to chance (default: 0)")
        layer.add_argument(
            "--budget",
            type=age,
            default=60.0,
            metavar="DURATION",
            help="begin nothing new after so long, like 30s, 10m or 2h; 0: until all is done (default: 60s)",
        )
        layer.add_argument("--replay", metavar="PLACE", help="run again what a finding names")
        layer.add_argument("--only", default="*", metavar="PATTERN", help="only shares whose names match, like 'acks*'")
        layer.add_argument(
            "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
        )
        layer.add_argument("--resume", type=Path, metavar="FILE", help="note what is done there, and go on from it")
        layer.add_argument(
            "--stop-at",
            type=int,
            default=FINDINGS_MAX,
            metavar="N",
            help=f"end after N findings (default: {FINDINGS_MAX})",
        )
        layer.add_argument("--list", action="store_true", help="print the names of the shares (the first 1000)")
        layer.add_argument("--json", action="store_true", help="print the report as JSON")
    return made


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if args.jobs < 1:
        parser().error("--jobs: at least 1")
    try:
        if args.list:
            for _, share in zip(range(1000), layer_named(args.layer).shares(args.seed), strict=False):
                print(share)
            return KEPT
        report = _replayed(args) if args.replay else _run(args)
    except CannotRun as error:
        print(f"{args.layer}: {error}", file=sys.stderr)
        return FAILED
    except (LookupError, ValueError) as error:
        if not args.replay:
            raise
        print(f"{args.layer}: there is no such place as {args.replay!r} ({error})", file=sys.stderr)
        return USAGE
    _tell(report, args)
    return INTERRUPTED if report.interrupted else KEPT if report.ok else BROKEN


def _replayed(args: argparse.Namespace) -> Report:
    report, begun = Report(args.layer, args.seed), time.monotonic()
    report.add(layer_named(args.layer).replay(args.replay))
    report.seconds, report.finished = round(time.monotonic() - begun, 1), True
    return report


def _run(args: argparse.Namespace) -> Report:
    unit = layer_named(args.layer).unit
    terms = Terms(args.seed, args.budget or None, args.jobs, args.only, args.resume, args.stop_at)
    said = time.monotonic()
    with Progress(args.layer, unit) as bar:

        def progress(report: Report) -> None:
            nonlocal said
            bar(report.counts[unit])
            if not sys.stderr.isatty() and time.monotonic() - said >= TALK_EVERY:
                said = time.monotonic()
                print(f"{args.layer}: {report.counts[unit]:,} {unit} so far", file=sys.stderr, flush=True)

        return run(args.layer, terms, progress)


def _tell(report: Report, args: argparse.Namespace) -> None:
    layer = layer_named(args.layer)
    if args.json:
        print(json.dumps(report.as_json()))
    elif table := layer.table(report.counts):
        print(table)
    for finding in report.findings:
        print(f"{finding.what}\n  again: tools/crashtest/run {args.layer} --replay '{finding.place}'", file=sys.stderr)
    print(verdict(report, layer.unit), file=sys.stderr if args.json else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
