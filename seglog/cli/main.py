"""The `seglog` command: finds the command asked for, runs it, and turns every outcome into an exit code.

Only the module of the command asked for is imported: `seglog append` in a shell loop must start fast.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import traceback

from seglog import __version__
from seglog.cli import exit_codes, manual
from seglog.cli.output import Talk, flush_stdout, print_whole, say, silence_stdout
from seglog.errors import SeglogError

COMMANDS = (
    *("append", "read", "consume", "forward"),
    *("stat", "verify", "inspect", "compact", "consumers", "dlq", "repair"),
    *("demo", "crashtest", "completions"),
)

DESCRIPTION = "An append-only log of events in a directory: nothing that was acknowledged is lost."
NOTES = """'seglog COMMAND --help', or 'seglog help COMMAND', is the page of a command.

Data goes to standard output, talk to standard error. With --json a report is one object and a listing one object
per line. Sizes are in bytes or like 64MiB (1024) and 64MB (1000); durations are in seconds; times are ISO 8601,
and one without a zone is local."""


def entry() -> None:
    """The `seglog` script."""
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code. Wrong usage leaves by SystemExit(2), as argparse does."""
    _hold_standard_streams()
    _listen_to_the_library()
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parse(argv)
        code: int = args.run(args)
        flush_stdout()
        return code
    except KeyboardInterrupt:
        silence_stdout()
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()  # the reader had enough
        return exit_codes.OK
    except Exception as error:
        say(describe(error))
        _flush_what_was_printed()
        return exit_codes.of_error(error)


def describe(error: Exception) -> str:
    """One line: what is wrong, where, and what to do if the error knows."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        text = f"{where}{error.strerror}"
    elif isinstance(error, (SeglogError, OSError)):
        text = str(error) or type(error).__name__
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        name = os.path.basename(frame.filename)
        text = f"internal error, please report it: {type(error).__name__}: {error} ({name}:{frame.lineno})"
    return "; ".join([text, *getattr(error, "__notes__", ())])


def parser(*names: str) -> argparse.ArgumentParser:
    """The parser that knows these commands (none given: all of them)."""
    made = argparse.ArgumentParser(
        prog="seglog",
        description=DESCRIPTION,
        epilog="\n\n".join([NOTES, manual.file_list(list(manual.FILES)), exit_codes.listing({})]),
        formatter_class=manual.Contents,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"seglog {__version__}", help="print the version and exit")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in names or COMMANDS:
        importlib.import_module(f"seglog.cli.{name}").add_parser(commands)
    return made


def _parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, by the parser of the command asked for, or by one that knows all for help and errors."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    made = parser(argv[0]) if argv[:1] and argv[0] in COMMANDS else parser()
    while (below := manual.commands_of(made)) and argv[:1] and argv[0] in below:
        made, argv = below[argv[0]], argv[1:]
    if below:
        return made.parse_args(argv)
    return made.parse_intermixed_args(argv)  # "append DIR --whole-file FILE…" is how people write it


def _flush_what_was_printed() -> None:
    """If stdout itself is the trouble, the interpreter must not stumble over it again on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def _listen_to_the_library() -> None:
    """What the library logs is said on stderr."""
    logger = logging.getLogger("seglog")
    if not any(isinstance(handler, Talk) for handler in logger.handlers):
        logger.addHandler(Talk())


def _hold_standard_streams() -> None:
    """A closed stdin, stdout or stderr gets a stand-in that refuses: else a file of the log could get its number."""
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            stand_in = os.open(os.devnull, flags)
            if stand_in != number:
                os.dup2(stand_in, number)
                os.close(stand_in)
    # Python has none where the number was not open. These live as long as the process.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="backslashreplace")
    print_whole()
