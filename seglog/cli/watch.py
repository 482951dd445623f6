"""`seglog stat DIR --watch`: the log as it stands, again and again. On a terminal in place, elsewhere block by block.

It only looks: it takes no lock, writes nothing, and goes on when the log vanishes or is not there yet.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from seglog.cli.look import Look, look, pace
from seglog.cli.output import escape, flush_stdout
from seglog.cli.picture import Line, clip, folded, picture, plain
from seglog.cli.stopping import Stop
from seglog.clock import SystemClock
from seglog.errors import LogNotFound, SeglogError
from seglog.tally import Tally

_BETWEEN_SECONDS = 0.2  # how soon a window that became smaller or larger is filled anew, and Ctrl-Z heard
_STYLES = {"title": "bold", "bad": "red", "!": "bold red", "@": "cyan", "#": "yellow", "-": "yellow", ".": "green"}


def run(args: argparse.Namespace) -> int:
    """Until stopped; the exit code says by what."""
    watcher = Watcher(args.directory)
    with Stop() as stop, _instead_of_talk(watcher), _screen() as screen:
        while not stop:
            watcher.look()
            screen.show(watcher)
            left = args.interval
            while left > 0 and not stop:
                stop.wait(min(left, _BETWEEN_SECONDS))
                left -= _BETWEEN_SECONDS
                screen.between(watcher)
    return stop.exit_code


class Watcher(logging.Handler):
    """What is known of one log directory. What the library warns of meanwhile is a line of it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(logging.WARNING)
        self._directory = directory
        self._clock = SystemClock()
        self._tally = Tally(self._clock)
        self._before: Look | None = None
        self._now: Look | None = None
        self._seen = False
        self._trouble: list[str] = []
        self._time = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())

    def _note(self, text: str) -> None:
        if text not in self._trouble:
            self._trouble.append(text)

    def look(self) -> None:
        """Raises what is wrong with the directory at the first look; later that is shown, and looked at again."""
        self._before, self._now, self._trouble = self._now, None, []
        moment = datetime.datetime.fromtimestamp(self._clock.time_ns() / 1e9)
        self._time = moment.isoformat(" ", timespec="seconds")
        try:
            self._now = look(self._directory, self._tally, self._clock)
            self._seen = True
            if self._tally.trouble is not None:  # it is warned of only once
                self._note(self._tally.trouble)
        except LogNotFound:
            self._trouble = [f"{'the log is gone' if self._seen else 'no log yet'}, waiting for one"]
        except (SeglogError, OSError) as error:
            if not self._seen:
                raise
            self._trouble = [f"it could not be looked at: {error}"]

    def lines(self, width: int) -> list[Line]:
        """What there is to show, in lines no longer than `width`."""
        head: Line = [(f"{escape(self._directory)}  {self._time}", "title")]
        shown = [clip(head, width)]
        for text in self._trouble:
            shown += [clip([(row, "bad")], width) for row in folded(escape(text), width)]
        if self._now is not None:
            shown += picture(self._now, pace(self._before, self._now), width)
        return shown


class _Screen(Protocol):
    def show(self, watcher: Watcher) -> None: ...

    def between(self, watcher: Watcher) -> None:
        """Called several times in a second, between two pictures."""


class _Blocks:
    """One below the other, with an empty line behind each."""

    def show(self, watcher: Watcher) -> None:
        width = shutil.get_terminal_size().columns
        print("\n".join(plain(line) for line in watcher.lines(width)), end="\n\n")
        flush_stdout()

    def between(self, watcher: Watcher) -> None:
        """What was printed stays as it is."""


class _Window:
    """In place, in the terminal's other screen; the last picture stays behind when it ends.

    SIGTSTP is blocked, and answered between two pictures: Ctrl-Z must not leave a shell in the other screen.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._size: tuple[int, int] = (0, 0)
        self._last: Watcher | None = None

    @property
    def can_be_drawn(self) -> bool:
        """Somebody may have told rich what we cannot know, as by TTY_COMPATIBLE=0."""
        return self._console.is_terminal

    def __enter__(self) -> _Window:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
        if self._last is not None:
            _Blocks().show(self._last)

    def show(self, watcher: Watcher) -> None:
        from rich.console import Group
        from rich.text import Text

        self._size = width, height = self._console.size
        lines = watcher.lines(width)
        if len(lines) > height:
            lines = [*lines[: height - 1], clip([(f"{len(lines) - height + 1} more lines", "title")], width)]
        rows = [[(text, _STYLES.get(meaning, "")) for text, meaning in line] for line in lines]
        self._live.update(Group(*(Text.assemble(*row, no_wrap=True) for row in rows)), refresh=True)
        self._last = watcher

    def between(self, watcher: Watcher) -> None:
        if signal.SIGTSTP in signal.sigpending():
            self._live.stop()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])  # it stops here, until SIGCONT
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
            self._live.start()
            self.show(watcher)
        if self._size != self._console.size:
            self.show(watcher)


@contextlib.contextmanager
def _screen() -> Iterator[_Screen]:
    """In place only where somebody looks and the terminal can do it."""
    live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    if live and importlib.util.find_spec("rich") is not None:
        window = _Window()
        if window.can_be_drawn:
            with window:
                yield window
            return
    yield _Blocks()


@contextlib.contextmanager
def _instead_of_talk(watcher: Watcher) -> Iterator[None]:
    """What the library logs is part of the picture: on stderr it would stand in the middle of it."""
    logger = logging.getLogger("seglog")
    before = list(logger.handlers)
    logger.handlers[:] = [watcher]
    try:
        yield
    finally:
        logger.handlers[:] = before
