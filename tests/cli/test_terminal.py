"""What only a terminal gets: progress and tables, with rich and without it."""

from __future__ import annotations

import os
import pty
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog
from tests.cli.conftest import TIMEOUT, Cli

WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from seglog.cli.main import entry; entry()"


class Terminal:
    """The other end of a terminal: what a person would see."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.shown = b""

    def read(self, seconds: float) -> None:
        """What comes within this time; returns early when something came or nobody can write any more."""
        ready, _, _ = select.select([self.ours], [], [], seconds)
        if ready:
            try:
                self.shown += os.read(self.ours, 1 << 16)
            except OSError:  # Linux says EIO when the last writer has gone
                return


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.ours)
    os.close(made.theirs)


@pytest.fixture(params=["rich", "plain"])
def either(request: pytest.FixtureRequest, cli: Cli) -> Cli:
    if request.param == "plain":
        cli.command = [cli.command[0], "-c", WITHOUT_RICH]
    else:
        pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    cli.environment |= {"TERM": "xterm", "COLUMNS": "120"}
    return cli


def test_progress_of_a_long_append(either: Cli, terminal: Terminal, tmp_path: Path) -> None:
    process = either.start("append", tmp_path, stderr=terminal.theirs)
    assert process.stdin is not None
    deadline = time.monotonic() + TIMEOUT
    sent = 0
    while b"appended" not in terminal.shown:
        assert time.monotonic() < deadline, terminal.shown
        process.stdin.write(b"event\n")
        sent += 1
        terminal.read(0.02)
    assert either.end(process)[:2] == (0, b"")
    terminal.read(0.5)
    assert b"records" in terminal.shown
    assert terminal.shown.rstrip().endswith(
        (b"\x1b[K", b"\x1b[2K", b"\x1b[?25h", b"\x1b[1A\x1b[2K")
    )  # and is gone again
    with seglog.open(tmp_path, mode="r") as log:
        assert log.next_offset == sent


def test_no_progress_for_what_is_done_at_once_and_none_in_a_pipe(
    either: Cli, terminal: Terminal, tmp_path: Path
) -> None:
    assert either("append", tmp_path, input=b"event\n", stderr=terminal.theirs).returncode == 0
    terminal.read(0.1)
    assert terminal.shown == b""


def test_the_table_of_consumers(either: Cli, terminal: Terminal, tmp_path: Path) -> None:
    with seglog.open(tmp_path) as log:
        log.append(b"event")
        with log.consumer("uploader"):
            pass
    assert either("stat", tmp_path, stdout=terminal.theirs).returncode == 0
    terminal.read(TIMEOUT)
    text = terminal.shown.decode()
    assert "consumer" in text
    assert "watermark" in text
    assert "uploader" in text
    assert "\x1b[" not in either("stat", tmp_path).stdout.decode()
