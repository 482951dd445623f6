"""`seglog repair DIR`: deals with what `verify` finds; shows the plan and asks first."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import seglog
from seglog.cli import exit_codes, manual
from seglog.cli.output import Progress, agreed, can_ask, escape, number, print_json, reader_may_leave, say
from seglog.errors import InvalidOption
from seglog.model import RepairAction, RepairReport

NOTES = """One line for each thing that is not well, with what is done about it:

  divert   the bytes go to the dead letters; their records are declared lost
  declare  there are no bytes: the records are declared lost
  restore  a spare copy is written as it was, which the rest of the file proves
  rebuild  meta is written anew
  restart  a consumer whose cursor does not read back begins at the start
  left     nothing can be done about it, and it costs no record

Before anything is changed, the bytes are kept in DIR/quarantine/, with a manifest. Records that read well are never
touched, and every reader still gets them. What was declared lost is "repaired" for 'seglog verify' from then on.

No writer may have the log open; with --dry-run one may. Cut short, it is started again and goes on. Without a
terminal to ask on it wants --yes."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "repair",
        summary="set damage aside and declare what is lost",
        description="Deals with everything that 'seglog verify' finds: keeps the damaged bytes, restores what a copy "
        "proves, and declares the rest lost, so that verify is content and new damage shows.",
        notes=NOTES,
        examples=["seglog repair spool/ --dry-run", "seglog repair spool/ --yes", "seglog repair spool/ --yes --json"],
        files=("quarantine", "segments", "dead", "cursors", "meta", "lock"),
        codes={
            exit_codes.OK: "verify has nothing to say (any more)",
            exit_codes.NOT_WELL: "something is left; with --dry-run: something would be repaired",
        },
    )
    manual.add_directory(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="one object; positions and lengths in bytes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.dry_run:
        return _show(args, _repair(args, dry_run=True))
    if not args.yes:
        if not can_ask():
            raise InvalidOption("without a terminal to ask on, repair wants --yes (or --dry-run); nothing was touched")
        plan = _repair(args, dry_run=True)
        for action in plan.actions:
            say(_line(action))
        todo = sum(bool(action.action) for action in plan.actions)
        if todo and not agreed(f"{number(todo)} things to do in {args.directory}. Repair it?"):
            say("nothing was changed")
            return _code(plan)
    return _show(args, _repair(args, dry_run=False))


def _repair(args: argparse.Namespace, *, dry_run: bool) -> RepairReport:
    with Progress("reading") as progress:
        return seglog.repair(args.directory, dry_run, progress)


def _code(report: RepairReport) -> int:
    return exit_codes.OK if report.ok else exit_codes.NOT_WELL


def _show(args: argparse.Namespace, report: RepairReport) -> int:
    with reader_may_leave():
        if args.json:
            print_json(dataclasses.asdict(report))
        else:
            for line in _lines(report):
                print(line)
    return _code(report)


def _lines(report: RepairReport) -> Iterator[str]:
    yield from map(_line, report.actions)
    if not report.actions:
        yield "nothing to repair"
    if report.dry_run:
        yield "nothing was changed"
        return
    for found in report.repaired:
        yield f"declared lost: offsets {found.first_offset}-{found.last_offset}"
    for manifest in report.quarantine:
        yield f"kept: {manifest}"
    for action in report.left:
        yield f"still there: {_line(action)}"


def _line(action: RepairAction) -> str:
    where = escape(action.file)
    if action.length:
        where += f" position {action.position} length {action.length}"
    kind = "dead letters" if action.file.startswith("dead/") else "offsets"
    lost = "no record" if action.first_offset is None else f"{kind} {action.first_offset}-{action.last_offset}"
    return f"{action.action or 'left'}: {f'{where}: ' if where else ''}{lost}: {escape(action.reason)}"
