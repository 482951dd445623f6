"""`seglog dlq list|show|export|replay|delete|purge DIR`: what could not be handled, and what becomes of it."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.messages import for_terminal
from seglog.cli.output import Stdout, agreed, escape, number, print_json, reader_may_leave, say, size, table
from seglog.disk.local import LocalDisk
from seglog.errors import InvalidOption, SeglogError
from seglog.format.layout import REASONS
from seglog.json_bytes import put, put_headers
from seglog.model import DeadLetter, Gap

FILES = ("dead",)
FIELDS = (
    "id, reason, detail, consumer, offset, last_offset, attempts, timestamp (Unix seconds), key, headers, payload; "
    "bytes that are no UTF-8 stand base64-encoded under NAME_base64 instead"
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "dlq",
        summary="look at the dead letters, replay or delete them",
        description="A dead letter is what could not be handled: damaged bytes, a record that the serializer does not "
        "read, a message that was rejected, that failed too often, or that the far end of a forwarder refused.",
        notes="All of this works beside a live writer, but 'replay', which appends and so has to be the writer.",
        examples=["seglog dlq list spool/", "seglog dlq export spool/ > dead.ndjson", "seglog dlq replay spool/ --all"],
        files=FILES,
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_list, _add_show, _add_export, _add_replay, _add_delete, _add_purge):
        add(actions)


def _add_list(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "list",
        summary="show what there is, oldest first",
        description="Shows one line for each dead letter: its id, why and when it was set aside, and of which offset.",
        examples=["seglog dlq list spool/", "seglog dlq list spool/ --reason rejected --json"],
        files=FILES,
        codes={exit_codes.NOT_WELL: "part of the queue does not read back"},
    )
    manual.add_directory(parser)
    _add_filters(parser)
    parser.add_argument("--json", action="store_true", help=f"one object per line: {FIELDS}; without the payload")
    parser.set_defaults(run=run_list)


def _add_show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "show",
        summary="show one of them, with its payload",
        description="Shows everything that is known of one dead letter. On a terminal, control characters are escaped.",
        examples=["seglog dlq show spool/ 0", "seglog dlq show spool/ 0 --raw > payload.bin"],
        files=FILES,
    )
    manual.add_directory(parser)
    parser.add_argument("id", metavar="ID", type=arguments.id, help="the id that 'dlq list' shows")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--raw", action="store_true", help="the payload and nothing else, byte for byte")
    form.add_argument("--json", action="store_true", help=f"one object: {FIELDS}")
    parser.set_defaults(run=run_show)


def _add_export(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "export",
        summary="write them as JSON, one per line",
        description=f"Writes one JSON object per line: {FIELDS}. Nothing is deleted.",
        examples=["seglog dlq export spool/ > dead.ndjson", "seglog dlq export spool/ 0 -o dead.ndjson"],
        files=FILES,
        codes={exit_codes.NOT_WELL: "part of the queue does not read back; the rest was written"},
    )
    manual.add_directory(parser)
    _add_ids(parser, "*", "only these (default: all)")
    _add_filters(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", default=None, help="write to this new file (default: standard output)"
    )
    parser.set_defaults(run=run_export)


def _add_replay(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "replay",
        summary="append them again as new records",
        description="Appends payload, key and headers as new records at the end of the log, and then deletes the dead "
        "letters. Prints the new offsets, one per line.",
        notes="Damaged bytes are no record and cannot be replayed; --all leaves them. Cut short, some may be both "
        "appended and still in the queue: never neither. It needs the writer's lock.",
        examples=["seglog dlq replay spool/ 0", "seglog dlq replay spool/ --all --reason rejected"],
        files=("dead", "segments", "lock"),
    )
    manual.add_directory(parser)
    _add_ids(parser, "*", "which ones")
    parser.add_argument("--all", action="store_true", help="all that can be replayed and match")
    _add_filters(parser)
    parser.set_defaults(run=run_replay)


def _add_delete(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "delete",
        summary="delete some of them",
        description="Deletes dead letters by id. Ids that are not there (any more) are fine.",
        examples=["seglog dlq delete spool/ 0 1"],
        files=FILES,
    )
    manual.add_directory(parser)
    _add_ids(parser, "+", "which ones")
    parser.set_defaults(run=run_delete)


def _add_purge(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        actions,
        "purge",
        summary="delete all of them, or the old ones",
        description="Deletes all dead letters, or those that are older than a duration.",
        notes="On a terminal it asks first.",
        examples=["seglog dlq purge spool/ --older-than 7d --yes", "seglog dlq purge spool/ --yes"],
        files=FILES,
    )
    manual.add_directory(parser)
    parser.add_argument(
        "--older-than",
        type=arguments.age,
        default=None,
        metavar="DURATION",
        help="only those: seconds, or a number with s, m, h, d or w behind it (default: all)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run_purge)


def _add_ids(parser: argparse.ArgumentParser, count: str, text: str) -> None:
    parser.add_argument("ids", metavar="ID", nargs=count, type=arguments.id, help=f"{text}: ids that 'dlq list' shows")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reason", choices=REASONS, metavar="REASON", help=f"only these: {', '.join(REASONS)} (default: all)"
    )
    parser.add_argument(
        "--consumer",
        metavar="NAME",
        type=arguments.consumer_name,
        help="only those of this consumer (default: all)",
    )


class _Queue:
    """The dead letters of one directory, as far as the arguments ask for them; counts what does not read back."""

    def __init__(self, log: seglog.Log[bytes], args: argparse.Namespace) -> None:
        self.letters = log.dead_letters
        self.lost = 0
        self._args = args

    def chosen(self) -> Iterator[DeadLetter]:
        args = self._args
        ids = set(getattr(args, "ids", ()))
        for letter in self.letters.read(on_gap=self._tell):
            if ids and letter.id not in ids:
                continue
            if args.reason in (None, letter.reason) and args.consumer in (None, letter.consumer):
                yield letter

    def _tell(self, gap: Gap) -> None:
        self.lost += 1
        say(f"dead letters {gap.first_offset}-{gap.last_offset} do not read back: {gap.reason}")

    @property
    def code(self) -> int:
        return exit_codes.NOT_WELL if self.lost else exit_codes.OK


def run_list(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log, reader_may_leave():
        queue = _Queue(log, args)
        if args.json:
            for letter in queue.chosen():
                print_json(_fields(letter, payload=False))
            return queue.code
        rows = [
            (str(one.id), one.reason, one.consumer or "-", _offsets(one), str(one.attempts), size(len(one.payload)),
             one.detail)
            for one in queue.chosen()
        ]  # fmt: skip
        if rows:
            table(("id", "reason", "consumer", "offsets", "attempts", "payload", "detail"), rows)
        else:
            say("no dead letters")
        return queue.code


def run_show(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log, reader_may_leave():
        letter = _get(log, args.id)
        if args.json:
            print_json(_fields(letter))
        elif args.raw:
            out = Stdout()
            out.write(letter.payload)
            out.flush()
        else:
            for name in ("id", "reason", "detail", "consumer", "attempts"):
                print(f"{name + ':':<12}{escape(getattr(letter, name))}")
            print(f"{'offsets:':<12}{_offsets(letter)}")
            print(f"{'time:':<12}{_time(letter.timestamp)}")
            if letter.key is not None:
                print(f"{'key:':<12}{escape(letter.key.decode('utf-8', 'backslashreplace'))}")
            for name, value in letter.headers.items():
                print(f"{'header:':<12}{escape(name)}: {escape(value.decode('utf-8', 'backslashreplace'))}")
            print(f"{'payload:':<12}{number(len(letter.payload))} bytes", flush=True)
            out = Stdout()
            out.write((for_terminal(letter.payload) if os.isatty(1) else letter.payload) + b"\n")
            out.flush()
    return exit_codes.OK


def _get(log: seglog.Log[bytes], id: int) -> DeadLetter:
    letter = log.dead_letters.get(id)
    if letter is None:
        raise InvalidOption(f"there is no dead letter {id}")
    return letter


def run_export(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        _check_ids(log, args)  # before anything is written
        queue = _Queue(log, args)
        lines = (json.dumps(_fields(letter)).encode() + b"\n" for letter in queue.chosen())
        if args.output is not None:
            say(f"{number(_write_new(args.output, lines))} dead letters in {args.output}")
            return queue.code
        with reader_may_leave():
            out = Stdout()
            for line in lines:
                out.write(line)
            out.flush()
        return queue.code


def _write_new(path: str, lines: Iterable[bytes]) -> int:
    """How many went into a file that was not there. It and its name are synced: whoever purges next must have it."""
    folder, name = os.path.split(path)
    if not name:
        raise InvalidOption(f"-o {path!r}: expected the name of a new file")
    with contextlib.closing(LocalDisk().open(folder or ".", create=False)) as directory:
        with contextlib.closing(directory.open(name, create=True)) as file:
            count = position = 0
            for line in lines:
                file.write(position, line)
                position += len(line)
                count += 1
            file.sync()
        directory.sync()
    return count


def _check_ids(log: seglog.Log[bytes], args: argparse.Namespace) -> None:
    """Raises InvalidOption for an id that is not there, or that the filters leave out."""
    for id in args.ids:
        letter = _get(log, id)
        if args.reason not in (None, letter.reason):
            raise InvalidOption(f"dead letter {id} has the reason {letter.reason}, not {args.reason}")
        if args.consumer not in (None, letter.consumer):
            raise InvalidOption(f"dead letter {id} is of {_whose(letter)}, not {args.consumer}")


def _whose(letter: DeadLetter) -> str:
    return f"consumer {letter.consumer}" if letter.consumer else "no consumer"


def run_replay(args: argparse.Namespace) -> int:
    if bool(args.ids) == args.all:
        raise InvalidOption("give the ids to replay, or --all")
    seglog.open(args.directory, mode="r").close()  # a writer would make a log where there is none
    with seglog.open(args.directory, retention_bytes="kept", retention_seconds="kept") as log:
        _check_ids(log, args)
        queue = _Queue(log, args)
        ids = args.ids
        if args.all:
            ids = [letter.id for letter in queue.chosen() if letter.reason != "damaged"]
        offsets = log.dead_letters.replay(ids)
        with reader_may_leave():
            for offset in offsets:
                print(offset)
        say(f"{number(len(offsets))} dead letters appended again")
        return queue.code


def run_delete(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        say(f"{number(log.dead_letters.delete(args.ids))} dead letters deleted")
    return exit_codes.OK


def run_purge(args: argparse.Namespace) -> int:
    with seglog.open(args.directory, mode="r") as log:
        letters = log.dead_letters
        which = "all" if args.older_than is None else f"those older than {number(int(args.older_than))} s of"
        if not args.yes and not agreed(f"Delete {which} {number(len(letters))} dead letters of {args.directory}?"):
            raise SeglogError("nothing was deleted")
        say(f"{number(letters.purge(args.older_than))} dead letters deleted")
    return exit_codes.OK


def _time(timestamp: float) -> str:
    return datetime.datetime.fromtimestamp(timestamp).astimezone().isoformat(timespec="seconds")


def _offsets(letter: DeadLetter) -> str:
    if letter.last_offset == letter.offset:
        return str(letter.offset)
    return f"{letter.offset}-{letter.last_offset}"


def _fields(letter: DeadLetter, *, payload: bool = True) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "consumer": letter.consumer,
        "offset": letter.offset,
        "last_offset": letter.last_offset,
        "attempts": letter.attempts,
        "timestamp": letter.timestamp,
    }
    if letter.key is not None:
        put(fields, "key", letter.key)
    put_headers(fields, letter.headers)
    if payload:
        put(fields, "payload", letter.payload)
    return fields
