"""`seglog crashtest DIR --ack-log …`: write until somebody pulls the plug; with --check: what did the disk keep?"""

from __future__ import annotations

import argparse
import dataclasses
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from seglog.cli import exit_codes, manual
from seglog.cli.output import Progress, escape, number, print_json, reader_may_leave, say
from seglog.cli.stopping import Stop
from seglog.crashtest.ack_log import address, log_ids, open_notes
from seglog.crashtest.check import CheckReport, check
from seglog.crashtest.work import Work
from seglog.errors import InvalidOption

NOTES = """1. Start it on the disk to be tried, with the ack log on another disk, or on another machine:

  other-machine$ nc -l 7000 >> acks      (some need: nc -l -p 7000)
  this-machine$  seglog crashtest /mnt/disk/trial --ack-log other-machine:7000

2. Pull the plug: the power, not the shutdown button. A virtual machine that is reset tries its host's page cache, not a
disk.

3. When the machine is up again, bring the ack log there and ask:

  this-machine$  seglog crashtest /mnt/disk/trial --ack-log acks --check

Once is not enough: caches lose what they hold at that moment. Start it again on the same DIR and ack log, and pull the
plug again.

It appends single records and batches to small segments, lets two consumers ack them, compacts, and keeps about 64 MiB.
Each acknowledgement is noted in the ack log after the call returned, and before the next one is made. What is noted
and not there was lost by the disk, its controller or its file system, after they had said that it was written."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "crashtest",
        summary="pull the plug of a disk, and see whether it keeps what it promised",
        description="Writes to a new log in DIR until the power fails, and notes elsewhere what was acknowledged. "
        "With --check: says whether all of that is there.",
        notes=NOTES,
        examples=["seglog crashtest trial/ --ack-log acks", "seglog crashtest trial/ --ack-log acks --check"],
        files=("segments", "cursors", "meta", "lock"),
        codes={
            exit_codes.NOT_WELL: "something acknowledged is lost, or verify finds something",
            exit_codes.FAILED: "could not be done or checked; the message says why",
        },
    )
    manual.add_directory(parser)
    parser.add_argument(
        "--ack-log",
        required=True,
        metavar="FILE|HOST:PORT",
        type=_ack_log,
        help="where acknowledgements are noted: a file on another disk, or whoever listens there",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; compare DIR with the ack log")
    parser.add_argument("--json", action="store_true", help="with --check: one object")
    parser.set_defaults(run=run)


def _ack_log(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def run(args: argparse.Namespace) -> int:
    if args.check:
        return _check(args)
    if args.json:
        raise InvalidOption("--json goes with --check")
    return _work(args)


def _work(args: argparse.Namespace) -> int:
    known = log_ids(args.ack_log)
    notes = open_notes(args.ack_log)
    try:
        with Stop() as stop, Work(args.directory, notes, known, secrets.randbits(64)) as work:
            if address(args.ack_log) is None and os.stat(args.ack_log).st_dev == os.stat(args.directory).st_dev:
                say(f"{args.ack_log} is on the file system of {args.directory}: what that loses, both may lose")
            say("pull the plug whenever you like; Ctrl-C ends it in order")
            with Progress("acknowledged", "records") as progress:
                while not stop:
                    work.step()
                    progress(work.acknowledged)
        say(f"{number(work.acknowledged)} records were acknowledged")
        return stop.exit_code
    finally:
        notes.close()


def _check(args: argparse.Namespace) -> int:
    if address(args.ack_log) is not None:
        raise InvalidOption(f"--check reads a file; bring here what {args.ack_log} has kept")
    with Progress("verifying") as progress:
        report = check(args.directory, Path(args.ack_log), progress)
    if not args.directory.exists():
        say(f"{args.directory}: no such directory; is it the right one, and its disk mounted?")
    with reader_may_leave():
        if args.json:
            print_json(dataclasses.asdict(report))
        else:
            for line in _lines(report):
                print(line)
    return exit_codes.OK if report.ok else exit_codes.NOT_WELL


def _lines(report: CheckReport) -> Iterator[str]:
    if report.disk_lied:
        yield "ACKNOWLEDGED RECORDS OR ACKS ARE LOST: the disk, its controller or its file system lost what it had"
        yield "said was written (or somebody changed the log since)"
    elif not report.ok:
        yield "all that was acknowledged is there, but the log is not well: ask seglog verify"
    elif not report.acknowledged:
        yield "nothing was acknowledged, so nothing could be lost"
    else:
        yield "everything that was acknowledged is there"
    lost = sum(found.last_offset - found.first_offset + 1 for found in report.lost)
    yield (
        f"{number(report.acknowledged)} records acknowledged in {number(report.starts)} runs: {number(lost)} lost, "
        f"{number(report.reclaimed)} given back since"
    )
    for found in report.lost:
        yield f"lost: offsets {found.first_offset}-{found.last_offset}"
    for name, count in report.forgotten_acks.items():
        yield f"lost acks of {escape(name)}: {number(count)} records would come again"
    for found in report.reused:
        yield f"given to other records, too: offsets {found.first_offset}-{found.last_offset}"
    yield (
        f"verify: {number(report.damaged)} damaged, {number(report.missing)} missing, {number(report.suspect)} "
        f"suspect; torn: {number(report.torn_tail_bytes)} bytes, never acknowledged"
    )
    if report.unreadable_notes:
        yield f"ack log: {number(report.unreadable_notes)} lines do not read back, and prove nothing"
    place = report.place
    for what, value in (
        ("device", " ".join(filter(None, [place.device, place.model]))),
        ("write cache", place.write_cache),
        ("file system", place.file_system and f"{place.file_system} on {place.mount_point} ({place.mount_options})"),
    ):
        yield f"{what}: {escape(value) or 'not known'}"
