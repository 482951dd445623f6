"""`seglog append DIR [FILE…]`: lines become records, in batches that are durable before the next is read.

A line is appended as soon as it is there: a live pipe never waits for a batch to fill. Memory is bounded by the
largest record.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import seglog
from seglog.cli import arguments, exit_codes, manual
from seglog.cli.lines import Splitter
from seglog.cli.output import Progress, Stdout, say, silence_stdout
from seglog.cli.stopping import Stop
from seglog.errors import RecordTooLarge, SeglogError
from seglog.options import DURABILITIES, LogOptions

BATCH_RECORDS = 1000
READ_BYTES = 1 << 20  # at a time, so also what a batch holds unless one line is longer


NOTES = """Lines end with a newline byte and nothing else, so any bytes come through unchanged; an empty line is an
empty record, and the last line needs no newline. A line is appended as soon as it is there: a live pipe never waits
for a batch to fill. Ctrl-C finishes the lines already read.

One process at a time may append to a log; a second one is told who holds it (exit code 3)."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "append",
        summary="append the lines of files or of stdin as records",
        description="Appends the lines of each FILE, or of stdin, as records. The log is made if it is not there.",
        notes=NOTES,
        examples=[
            "app | seglog append spool/",
            "seglog append spool/ monday.jsonl tuesday.jsonl",
            r"find . -print0 | seglog append spool/ --delimiter '\0'",
            "seglog append spool/ --whole-file --print-offsets photo.jpg",
        ],
        files=("segments", "lock"),
    )
    manual.add_directory(parser)
    parser.add_argument("files", metavar="FILE", nargs="*", help="'-' is stdin (default: stdin)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--delimiter",
        type=arguments.delimiter,
        default=b"\n",
        metavar="STRING",
        help=r"what ends a record; knows \0 \n \r \t \\ \xNN (default: \n)",
    )
    form.add_argument("--whole-file", action="store_true", help="each FILE is one record")
    parser.add_argument(
        "--print-offsets", action="store_true", help="write each record's offset to stdout, one per line, once durable"
    )
    parser.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="always: each batch is on the disk before the next; interval: synced every 0.1 s; never: left to the "
        f"operating system until the end (default: {LogOptions.durability})",
    )
    parser.add_argument(
        "--segment-bytes",
        type=arguments.size,
        metavar="SIZE",
        help="size of a segment file, like 64MiB, 64MB or 65536 (default: 64MiB)",
    )
    parser.add_argument(
        "--max-record-bytes",
        type=arguments.size,
        default=LogOptions.max_record_bytes,
        metavar="SIZE",
        help="largest record accepted; a longer line is an error (default: 16MiB)",
    )
    parser.add_argument("--compression", choices=("zstd",), help="compress batches (default: not)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    inputs = [_check(name) for name in args.files or ["-"]]
    chosen = {name: getattr(args, name) for name in ("durability", "segment_bytes", "compression")}
    options = {name: value for name, value in chosen.items() if value is not None}
    with (
        Stop() as stop,
        seglog.open(
            args.directory,
            max_record_bytes=args.max_record_bytes,
            retention_bytes="kept",
            retention_seconds="kept",
            **options,
        ) as log,
        Progress("appended", "records") as progress,
    ):
        work = _Work(log, args, stop, progress)
        try:
            for source in inputs:
                work.append_from(source)
        except BrokenPipeError:
            # Only --print-offsets writes to stdout. Going on unheard, or ending with 0, would both mislead.
            silence_stdout()
            say(f"stdout was closed; {work.so_far()}, the rest of the input is not")
            return exit_codes.FAILED
        except (SeglogError, OSError) as error:
            error.add_note(work.so_far())
            raise
    if stop:
        say(f"stopped; {work.so_far()}")
    return stop.exit_code


@dataclass
class Input:
    """A file to read. `fd` is None until its turn comes, unless opening it twice would mean something else."""

    name: str
    fd: int | None = None


def _check(name: str) -> Input:
    """Before anything is appended: is it there, may it be read, is it no directory?"""
    if name == "-":
        return Input("stdin", 0)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return Input(name, fd)
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory; expected a file of records", name)
    return Input(name)


def _chunks(fd: int, name: str, stop: Stop) -> Iterator[bytes]:
    """What there is to read, as soon as it is there, until the end or until asked to stop."""
    while not stop:
        try:
            ready, _, _ = select.select([fd, stop.fileno()], [], [])
            if stop.fileno() in ready:
                return
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:  # another process was faster on a shared, non-blocking input
            continue
        except OSError as error:
            error.filename = name
            raise
        if not chunk:
            return
        yield chunk


class _Work:
    """One run of the command: what was read becomes durable, and is counted."""

    def __init__(self, log: seglog.Log[bytes], args: argparse.Namespace, stop: Stop, progress: Progress) -> None:
        self._log = log
        self._stop = stop
        self._progress = progress
        self._limit: int = args.max_record_bytes
        self._delimiter: bytes = args.delimiter
        self._whole_file: bool = args.whole_file
        self._offsets = Stdout() if args.print_offsets else None
        # Under "interval" an append returns before the sync; what is printed must be durable.
        self._must_wait = args.durability == "interval" and args.print_offsets
        self._records = 0
        self._unfinished = 0

    def so_far(self) -> str:
        """What became of the input, for a command that ends early."""
        left = f", {self._unfinished} bytes of an unfinished record are not" if self._unfinished else ""
        return f"{self._records} records of the input are in the log{left}"

    def append_from(self, source: Input) -> None:
        """All of one input, or until asked to stop."""
        fd = os.open(source.name, os.O_RDONLY | os.O_CLOEXEC) if source.fd is None else source.fd
        try:
            chunks = _chunks(fd, source.name, self._stop)
            if self._whole_file:
                self._append_whole(source.name, chunks)
            else:
                self._append_lines(source.name, chunks)
        finally:
            if source.fd is None:
                os.close(fd)

    def _append_lines(self, name: str, chunks: Iterator[bytes]) -> None:
        splitter = Splitter(self._delimiter)
        before = self._records
        for chunk in chunks:
            self._append(name, splitter.feed(chunk), before)
            if splitter.unfinished_bytes > self._limit:
                raise self._too_large(f"{name}, record {self._records - before + 1}")
        if self._stop:
            self._unfinished = splitter.unfinished_bytes
        else:
            self._append(name, splitter.end(), before)

    def _append_whole(self, name: str, chunks: Iterator[bytes]) -> None:
        payload = bytearray()
        for chunk in chunks:
            payload += chunk
            if len(payload) > self._limit:
                raise self._too_large(name)
        if self._stop:
            self._unfinished = len(payload)
        else:
            self._append(name, [bytes(payload)], self._records)

    def _append(self, name: str, records: list[bytes], before: int) -> None:
        """Make these durable, up to the first that is too large. `before`: records when this input began."""
        too_large = max(map(len, records), default=0) > self._limit
        if too_large:
            del records[next(at for at, record in enumerate(records) if len(record) > self._limit) :]
        at = 0
        while at < len(records):
            # Only the first can be longer than what was read at a time; it goes alone, within the batch limit.
            end = at + (1 if len(records[at]) > READ_BYTES else BATCH_RECORDS)
            offsets = self._log.append_many(records[at:end])
            self._records += len(offsets)
            at = end
            if self._offsets is not None:
                if self._must_wait:
                    self._log.wait_durable(offsets[-1])
                self._offsets.write(b"".join(b"%d\n" % offset for offset in offsets))
                self._offsets.flush()
            self._progress(self._records)
        if too_large:
            raise self._too_large(f"{name}, record {self._records - before + 1}")

    def _too_large(self, where: str) -> RecordTooLarge:
        return RecordTooLarge(f"{where}: longer than {self._limit} bytes; raise --max-record-bytes to accept it")
