"""`seglog verify DIR`: is everything that was acknowledged still there? Reads only."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import seglog
from seglog.cli import exit_codes, manual
from seglog.cli.output import Progress, escape, number, print_json, reader_may_leave, size
from seglog.model import Damage, OffsetRange, VerifyReport

NOTES = """The first line says whether anything acknowledged was lost. Then one finding per line:

  damage    bytes that were on the disk once and do not read back as written
  missing   records of a file, or part of one, that is gone
  suspect   a last batch that does not read back, and nothing proves that it
            ever was on the disk
  skipped   offsets that were never given to a record
  repaired  records that an earlier repair declared lost: they are no finding
            any more"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "verify",
        summary="check everything; say whether anything acknowledged was lost",
        description="Reads every byte of a log and says what is damaged, missing or suspect. Changes nothing; safe "
        "beside a live writer.",
        notes=NOTES,
        examples=[
            "seglog verify spool/",
            "seglog verify spool/ --json > report.json",
            "seglog verify spool/ || mail -s 'spool damaged' ops@example.com",
        ],
        files=("segments", "cursors", "dead", "meta"),
        codes={
            exit_codes.OK: "nothing acknowledged is lost but what a repair declared",
            exit_codes.NOT_WELL: "something is damaged, missing or suspect",
            exit_codes.FAILED: "could not be checked; the message says why",
        },
    )
    manual.add_directory(parser)
    parser.add_argument("--json", action="store_true", help="one object; positions and lengths in bytes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with Progress("verifying") as progress:
        report = seglog.verify(args.directory, progress=progress)
    with reader_may_leave():  # the verdict stands even if nobody reads to the end
        if args.json:
            print_json(dataclasses.asdict(report))
        else:
            for line in _lines(report):
                print(line)
    return exit_codes.OK if report.ok else exit_codes.NOT_WELL


def _lines(report: VerifyReport) -> Iterator[str]:
    yield _statement(report)
    yield from map(_damage, report.damage)
    for kind in ("missing", "suspect", "skipped", "repaired"):
        ranges: tuple[OffsetRange, ...] = getattr(report, kind)
        for found in ranges:
            yield f"{kind}: offsets {found.first_offset}-{found.last_offset}"
    for name, cursor in report.cursors.items():
        state = "ok" if cursor.ok else "does not read back"
        yield f"consumer {escape(name)}: {state}, watermark {cursor.watermark}, lag {cursor.lag_records}"
    for warning in report.warnings:
        yield f"warning: {escape(warning)}"
    if report.torn_tail_bytes:
        yield f"torn: {number(report.torn_tail_bytes)} bytes of an append that was interrupted, never acknowledged"
    yield (
        f"{number(report.records)} records, offsets {report.first_offset} to {report.next_offset} (excluded), "
        f"{size(report.bytes)} in {number(report.segments)} segments, {number(report.dead_letters)} dead letters"
    )


def _statement(report: VerifyReport) -> str:
    """The first line: was anything acknowledged lost?"""
    lost = sum(found.last_offset - found.first_offset + 1 for found in _lost_ranges(report))
    suspect = sum(found.last_offset - found.first_offset + 1 for found in report.suspect)
    if report.acknowledged_loss:
        return f"ACKNOWLEDGED RECORDS ARE LOST: {number(lost)} damaged or missing"
    if report.suspect:
        return f"acknowledged records may be lost: {number(suspect)} suspect, and nothing proves either way"
    if not report.ok:
        return "nothing acknowledged is lost, but the log is damaged"
    if report.repaired:
        gone = sum(found.last_offset - found.first_offset + 1 for found in report.repaired)
        return f"nothing acknowledged is lost, apart from {number(gone)} offsets that a repair declared"
    return "nothing acknowledged is lost"


def _lost_ranges(report: VerifyReport) -> Iterator[OffsetRange]:
    yield from report.missing
    for damage in report.damage:
        if damage.first_offset is not None and damage.last_offset is not None:
            yield OffsetRange(damage.first_offset, damage.last_offset)


def _damage(damage: Damage) -> str:
    records = "no record" if damage.first_offset is None else f"offsets {damage.first_offset}-{damage.last_offset}"
    return (
        f"damage: {escape(damage.segment)} position {damage.position} length {damage.length}: "
        f"{records}: {escape(damage.reason)}"
    )
