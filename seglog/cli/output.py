"""Where the command line writes: data on stdout, talk on stderr, progress and tables for terminals.

Names and errors are printed with control characters escaped, so that nothing in a log can drive a terminal.
`rich` is optional, and imported only where a terminal shows it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import select
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from seglog.clock import SystemClock

FLUSH_BYTES = 256 << 10
PROGRESS_AFTER = 0.5  # seconds: what is done sooner needs no progress bar
PROGRESS_EVERY = 0.1


def escape(text: object, keep: str = "") -> str:
    """`text` with everything that is not printable (but the characters in `keep`) written as an escape."""
    raw = str(text)
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in raw)


def say(message: object) -> None:
    """One line of talk on stderr. If nobody listens there, there is nobody to tell."""
    with contextlib.suppress(OSError, ValueError):
        print(f"seglog: {escape(message)}", file=sys.stderr, flush=True)


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str) -> bool:
    """Ask on the terminal. Without one there is nobody to ask: then the command line counts as meant."""
    if not can_ask():
        return True
    sys.stderr.write(f"{escape(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Talk(logging.Handler):
    """What the library logs (under the name "seglog"), as talk."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def print_json(value: dict[str, Any]) -> None:
    """One object on one line."""
    import json

    print(json.dumps(value))


class Stdout:
    """Bytes for standard output. What `flush` returned from has left this process, all of it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Raises BrokenPipeError if the reader went away, OSError for anything else."""
        rest = memoryview(b"".join(self._parts))
        self._parts.clear()
        self._bytes = 0
        while rest:
            rest = rest[_write(rest) :]


def _write(data: Any) -> int:
    """How many bytes of it went to standard output: not all of them, perhaps."""
    while True:
        try:
            return os.write(1, data)
        except BlockingIOError:  # somebody made our stdout non-blocking
            select.select([], [1], [])
        except OSError as error:
            error.filename = "stdout"  # not a file of the log
            raise


class _Descriptor(io.RawIOBase):
    """Standard output, below the buffer that asks again for what a write left over."""

    def fileno(self) -> int:
        return 1

    def isatty(self) -> bool:
        return os.isatty(1)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return _write(data)


def print_whole() -> None:
    """From now on what is printed is written whole, or an error is raised.

    With PYTHONUNBUFFERED there is no buffer, and what a write leaves over, on a disk that is nearly full, is lost.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    try:
        if stream.fileno() != 1:
            return
    except io.UnsupportedOperation:  # whoever calls this from Python put something else in its place
        return
    stream.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Descriptor()),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def flush_stdout() -> None:
    """What was printed has left this process. Raises as `Stdout.flush` does."""
    sys.stdout.flush()


def silence_stdout() -> None:
    """After a broken pipe: what is still buffered goes nowhere, and the interpreter's last flush is quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print in this block; if the reader of stdout goes away meanwhile, the rest is dropped in silence."""
    try:
        yield
        flush_stdout()
    except BrokenPipeError:
        silence_stdout()


def number(value: int) -> str:
    """With thousands separators."""
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes for people."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{value} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def age(seconds: float | None) -> str:
    """A duration for people; "-" for none."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(seconds, 0):.1f} s"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; the first is text, the others are right-aligned. On a terminal by rich, if it is there."""
    cells = [[escape(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=SIMPLE, pad_edge=False)
        for index, name in enumerate(columns):
            shown.add_column(name, justify="right" if index else "left", overflow="fold")
        for row in cells:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for first, *others in [list(columns), *cells]:
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *aligned]))


class Progress:
    """How far a long command is, on stderr, if that is a terminal and it takes longer than a moment."""

    def __init__(self, what: str, unit: str = "bytes") -> None:
        self._what = what
        self._unit = unit
        self._clock = SystemClock()
        self._next = self._clock.monotonic() + PROGRESS_AFTER if sys.stderr.isatty() else float("inf")
        self._shown = False
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int | None = None) -> None:
        """`done` of `total` (None: not known)."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_EVERY
        if not self._shown and importlib.util.find_spec("rich") is not None:
            self._start_bar()
        self._shown = True
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        share = f" of {number(total)} ({100 * done // total} %)" if total else ""
        sys.stderr.write(f"\r{self._what}: {number(done)}{share} {self._unit}\x1b[K")
        sys.stderr.flush()

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.completed:,.0f}} {self._unit}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._what, total=None)
        self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
