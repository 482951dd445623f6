"""A `seglog` command in a forked child: as a process of its own, without the time that it takes Python to start."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

from seglog.cli import append, consume, consumers, dlq, inspect, main, read, stat, verify  # noqa: F401  # so no child has to
from tools.crashtest.zygote import Hear, Say, Zygote

STREAMS = ("in", "out", "err")


def command(say: Say, hear: Hear, args: Sequence[str], environment: Mapping[str, str], folder: str) -> NoReturn:
    """The child. Its standard streams are files in that folder."""
    for fd, name in enumerate(STREAMS):
        file = os.open(os.path.join(folder, name), os.O_RDONLY if name == "in" else os.O_WRONLY | os.O_APPEND)
        os.dup2(file, fd)
        os.close(file)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), errors="backslashreplace", line_buffering=True
    )
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("error", ResourceWarning)
    sys.argv = ["seglog", *args]
    try:
        code = main.main()
    except SystemExit as error:
        code = int(error.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_forked(
    zygote: Zygote, args: Sequence[str], environment: Mapping[str, str], input: bytes, folder: Path
) -> CompletedProcess[bytes]:
    """Run it to its end."""
    for name in STREAMS:
        (folder / name).write_bytes(input if name == "in" else b"")
    child = zygote.start("tests.support.command:command", list(args), dict(environment), str(folder))
    try:
        assert child.line() is None  # it ended, and did not say a traceback
        out, err = ((folder / name).read_bytes() for name in ("out", "err"))
        return CompletedProcess(list(args), child.wait(), out, err)
    finally:
        child.close()
