"""`seglog demo`: the main job on this machine, with kills and a damaged copy, and what came of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seglog.cli import arguments, exit_codes, manual
from seglog.cli.output import number, print_json, say, table
from seglog.cli.stopping import Stop
from seglog.demo.story import Findings, Stopped, Story
from seglog.errors import SeglogError

EVENTS_MIN = 1000


NOTES = """A writer appends real text of this machine to a log in a temporary directory, `seglog forward` drains it
to an HTTP collector on the loopback. The collector goes away, comes back, and is busy now and then; the writer and the
forwarder are killed (SIGKILL) while they work, and started again. Then one byte of a copy of the log is flipped. Takes
about half a minute. Needs the extra: pip install 'seglog[http]'"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "demo",
        summary="see it work on this machine, killed and damaged on the way",
        description="Real events go to a real collector; everybody is killed on the way; then the account is made.",
        notes=NOTES,
        examples=["seglog demo", "seglog demo --events 2000 --keep"],
        codes={exit_codes.NOT_WELL: "something was not as promised"},
    )
    parser.add_argument(
        "--events", type=_events, default=40_000, metavar="N", help=f"at least {EVENTS_MIN} (default: 40000)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory and say where it is")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    parser.set_defaults(run=run)


def _events(text: str) -> int:
    found = arguments.count(text)
    if found < EVENTS_MIN:
        raise argparse.ArgumentTypeError(f"{found} events are too few to be interrupted; at least {EVENTS_MIN}")
    return found


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("urllib3") is None:
        raise SeglogError("the demo forwards over HTTP, which needs urllib3: pip install 'seglog[http]'")
    with Stop() as stop:
        root = Path(tempfile.mkdtemp(prefix="seglog-demo-"))
        report = Report()
        story = Story(root, stop, report.tell, report.show)
        try:
            findings = story.run(args.events)
        except Stopped:
            report.tell("stopped")
            return stop.exit_code
        finally:
            with _undisturbed():
                story.close()
                if args.keep:
                    report.tell(f"kept {root}")
                else:
                    shutil.rmtree(root, ignore_errors=True)
    if args.json:
        print_json(dataclasses.asdict(findings))
    else:
        _print_table(findings)
    for problem in findings.problems:
        say(f"NOT AS PROMISED: {problem}")
    return exit_codes.OK if findings.ok else exit_codes.NOT_WELL


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Cleaning up takes a moment, and nobody is helped if impatience leaves a process behind."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Report:
    """What is going on, on stderr; the running numbers only on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = (0, 0)

    def tell(self, text: str) -> None:
        self._clear()
        say(text)

    def show(self, acknowledged: int, delivered: int) -> None:
        if self._terminal and (acknowledged, delivered) != self._shown:
            self._shown = (acknowledged, delivered)
            sys.stderr.write(f"\r  acknowledged {number(acknowledged)}, delivered {number(delivered)}\x1b[K")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")


def _print_table(found: Findings) -> None:
    balance, flip = found.balance, found.damaged
    table(
        ("what", "events", "should be"),
        [
            ("acknowledged to the writer", number(balance.acknowledged), number(found.events)),
            ("delivered to the collector", number(balance.delivered), number(balance.acknowledged)),
            ("  of these, delivered twice", number(balance.delivered_twice), "few"),
            ("written twice (writer killed before it was answered)", number(balance.written_twice), "few"),
            ("acknowledged and unaccounted for", number(balance.unaccounted), "0"),
            ("altered, or out of order", number(balance.altered + balance.out_of_order), "0"),
            ("damaged by us, in a copy", "1", "1"),
            (
                "delivered from that copy",
                number(found.copy_delivered),
                number(balance.delivered + balance.written_twice - 1),
            ),
            ("in the dead letters of that copy", number(len(found.copy_dead_letters)), "1"),
        ],
    )
    print()
    print(f"killed on the way: {', '.join(found.killed)}; the collector was busy {found.busy_answers} times")
    print(f"the byte: position {flip.position} of {flip.segment}, in the record with offset {flip.offset}")
    print(f"verify of the log: exit code {found.verify_exit_code} (0: nothing acknowledged is lost)")
    named = ", ".join(f"offsets {one['first_offset']}-{one['last_offset']}" for one in found.verify_copy_damage)
    print(
        f"verify of the damaged copy: exit code {found.verify_copy_exit_code} (1: not well), names {named or 'nothing'}"
    )
    print(f"dead letters of the copy: {', '.join(found.copy_dead_letters) or 'none'}")
    print(f"{'all as promised' if found.ok else 'NOT AS PROMISED'}, in {found.seconds:.0f} s")
