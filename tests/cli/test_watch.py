"""`seglog stat --watch`: on terminals of several widths, in a pipe, and on logs that come and go."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog
from seglog.cli.look import Look, Pace, look, pace
from seglog.cli.picture import CELLS, MAP_ROWS, clip, folded, picture, plain, states
from seglog.cli.watch import Watcher
from seglog.clock import SystemClock
from seglog.model import OffsetRange
from seglog.tally import Letters, Tally
from seglog.testing import ManualClock
from tests.cli.conftest import TIMEOUT, Cli, one_line, wait_until
from tests.cli.test_terminal import WITHOUT_RICH, Terminal

CONTROLS = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])")
STOPPED = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
FAST = ("--watch", "--interval", 0.1)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.ours)
    os.close(made.theirs)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Many segments; a consumer that has passed most, one with a long name that stands at the beginning."""
    with (
        seglog.open(tmp_path / "log", segment_bytes=4096) as log,
        log.consumer("uploader") as quick,
        log.consumer("archive-of-everything-that-ever-was") as slow,
    ):
        for _ in range(10):
            log.append(b"x" * 3000)
        quick.ack(*quick.receive_many(7))
        message = slow.receive()
        assert message is not None
        slow.reject(message, reason="not understood")
    return tmp_path / "log"


def shown(terminal: Terminal, *words: str) -> str:
    """What was written to the terminal, once all these words are in it."""
    deadline = time.monotonic() + TIMEOUT
    while not all(word.encode() in terminal.shown for word in words):
        assert time.monotonic() < deadline, terminal.shown
        terminal.read(0.1)
    return terminal.shown.decode()


def rest(terminal: Terminal) -> str:
    """All that was written to the terminal, when the writer has ended."""
    before = -1
    while before < len(terminal.shown):
        before = len(terminal.shown)
        terminal.read(0)
    return terminal.shown.decode()


def as_lines(text: str) -> list[str]:
    """What stood in one line of the terminal; a jump of the cursor begins another."""
    return CONTROLS.sub("", re.sub(r"\x1b\[[0-9;]*H|\x1b\[\?1049[hl]", "\n", text)).splitlines()


class Blocks:
    """The blocks of text of a watcher whose stdout is a pipe."""

    def __init__(self, cli: Cli, directory: Path) -> None:
        self.process = cli.start("stat", directory, *FAST)
        self._cli = cli
        self._data = b""

    def next(self, word: str) -> str:
        """The first block from here on with this word in it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            block, end, rest = self._data.partition(b"\n\n")
            # The consumers stand behind an empty line of their own.
            more, end_of_more, rest_of_more = rest.partition(b"\n\n")
            whole = block + b"\n" + more if end_of_more and b"segments" in block else block
            if end and (b"segments" not in block or end_of_more):
                self._data = rest_of_more if b"segments" in block else rest
                if word in whole.decode():
                    return whole.decode()
                continue
            assert select.select([self.process.stdout], [], [], TIMEOUT)[0]
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, self.process.stderr and self.process.stderr.read()
            self._data += piece
        raise AssertionError(f"{word!r} did not come")

    def stop(self) -> tuple[int, str]:
        """Exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        code, _, err = self._cli.end(self.process)
        return code, err


# -- on a terminal


@pytest.mark.parametrize("columns", [80, 40, 15])
@pytest.mark.parametrize("kind", ["rich", "plain", "dumb"])
def test_no_line_is_longer_than_the_terminal_is_wide(
    cli: Cli, terminal: Terminal, log: Path, kind: str, columns: int
) -> None:
    if kind == "rich":
        pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    elif kind == "plain":
        cli.command = [cli.command[0], "-c", WITHOUT_RICH]
    cli.environment |= {"TERM": "dumb" if kind == "dumb" else "xterm-256color"}
    cli.environment.pop("COLUMNS", None)
    cli.environment.pop("LINES", None)
    fcntl.ioctl(terminal.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = cli.start("stat", log, *FAST, stdout=terminal.theirs)
    shown(terminal, "records", "upload", "appended  0")  # the second look: there are rates
    process.send_signal(signal.SIGINT)
    assert cli.end(process)[::2] == (130, "")
    text = rest(terminal)
    assert max(len(line) for line in as_lines(text)) <= columns
    if kind != "rich":
        assert "\x1b" not in text
        return
    entered, left = text.index("\x1b[?1049h"), text.index("\x1b[?1049l")
    assert entered < left
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    assert "records" in text[left:], "the last picture stays"


@pytest.mark.parametrize("wanted", [True, False])
def test_colours_only_where_they_are_wanted(cli: Cli, terminal: Terminal, log: Path, wanted: bool) -> None:
    pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    cli.environment |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
    if wanted:
        del cli.environment["NO_COLOR"]
    process = cli.start("stat", log, *FAST, stdout=terminal.theirs)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", shown(terminal, "uploader"))) == wanted
    process.send_signal(signal.SIGTERM)
    assert cli.end(process)[0] == 143
    assert "\x1b[?1049l" in rest(terminal), "the terminal is left as it was"


def test_a_window_too_low_says_that_there_is_more(cli: Cli, terminal: Terminal, log: Path) -> None:
    pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    cli.environment |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "5"}
    process = cli.start("stat", log, *FAST, stdout=terminal.theirs)
    assert "uploader" not in shown(terminal, "more lines")
    process.send_signal(signal.SIGINT)
    assert cli.end(process)[0] == 130


def test_a_terminal_that_takes_no_control_sequences_gets_blocks(cli: Cli, terminal: Terminal, log: Path) -> None:
    pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    cli.environment |= {"TERM": "xterm", "TTY_COMPATIBLE": "0"}
    process = cli.start("stat", log, *FAST, stdout=terminal.theirs)
    assert "\x1b" not in shown(terminal, "records", "appended  0")
    process.send_signal(signal.SIGINT)
    assert cli.end(process)[0] == 130


def test_stopped_by_the_terminal_it_leaves_it_as_it_was_and_comes_back(cli: Cli, terminal: Terminal, log: Path) -> None:
    pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    cli.environment |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = cli.start("stat", log, *FAST, stdout=terminal.theirs, process_group=0)  # with a shell above it
    for _ in range(2):
        shown(terminal, "records")
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: os.waitid(os.P_PID, process.pid, STOPPED) is not None)
        left = rest(terminal)
        assert left.rindex("\x1b[?1049l") > left.rindex("\x1b[?1049h")
        assert left.rindex("\x1b[?25h") > left.rindex("\x1b[?25l"), "the cursor is back"
        terminal.shown = b""
        process.send_signal(signal.SIGCONT)
        assert "\x1b[?1049h" in shown(terminal, "records")
    process.send_signal(signal.SIGTERM)
    assert cli.end(process)[0] == 143


# -- in a pipe


def test_blocks_with_rates_beside_the_writer(cli: Cli, log: Path) -> None:
    with seglog.open(log, segment_bytes=4096) as writer:
        watched = Blocks(cli, log)
        first = watched.next("records")
        assert "appended  -\n" in first
        assert "dead      1: rejected 1\n" in first
        assert "oldest    kept for archive-of-everything-that-ever-was" not in first  # it passed the first record
        writer.append_many([b"more"] * 1000)
        block = watched.next("up to 1010")
        records, size = re.search(r"appended +([\d,.]+) records/s, ([\d.]+) ", block).groups()  # type: ignore[union-attr]
        assert float(records.replace(",", "")) > 0
        assert float(size) > 0
        assert watched.stop() == (130, "")


def test_it_waits_for_a_log_and_for_one_that_was_there(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "log"
    watched = Blocks(cli, place)
    watched.next("no log yet, waiting for one")
    with seglog.open(tmp_path / "first") as log:
        log.append(b"one")
    (tmp_path / "first").rename(place)
    assert "no consumer is registered" in watched.next("records   1 ")
    shutil.rmtree(place)
    watched.next("the log is gone, waiting for one")
    with seglog.open(tmp_path / "another") as log:
        log.append_many([b"one", b"two"])
    (tmp_path / "another").rename(place)
    assert "appended  -\n" in watched.next("records   2 ")  # another log: nothing to compare with
    assert watched.stop() == (130, "")


def test_it_changes_nothing(cli: Cli, log: Path) -> None:
    def everything() -> dict[Path, tuple[int, int, int]]:
        found = ((path, path.lstat()) for path in [log, *log.rglob("*")])
        return {path: (at.st_ino, at.st_size, at.st_mtime_ns) for path, at in found}

    before = everything()
    watched = Blocks(cli, log)
    watched.next("records")
    with seglog.open(log):  # no lock is in the way of the writer
        pass
    after_the_writer = everything()
    watched.next("appended  0 records/s")
    assert everything() == after_the_writer
    assert before.keys() <= after_the_writer.keys()
    assert watched.stop() == (130, "")


def test_what_goes_wrong_is_part_of_the_picture(cli: Cli, log: Path) -> None:
    watched = Blocks(cli, log)
    watched.next("records")
    (log / "dead").rename(log / "dead.old")
    (log / "dead").write_text("no directory")
    watched.next("the dead letters cannot be read")  # where counting took long, it is not done at once again
    for _ in range(2):  # as long as it is so, though it is warned of once
        block = watched.next("the dead letters cannot be counted")
        assert block.count("the dead letters cannot be read") == 1
    (log / "segments").rename(log / "segments.old")
    (log / "segments").write_text("no directory")
    watched.next("it could not be looked at: ")
    (log / "segments").unlink()
    (log / "segments.old").rename(log / "segments")
    watched.next("records   10 ")
    assert watched.stop() == (130, "")


@pytest.mark.parametrize(("options", "code"), [(("--watch", "--json"), 2), (("--watch", "--interval", "0"), 2)])
def test_what_cannot_be_meant(cli: Cli, log: Path, options: tuple[str, ...], code: int) -> None:
    assert cli("stat", log, *options).returncode == code


def test_somebody_elses_directory_is_no_log_to_wait_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    result = cli("stat", tmp_path, "--watch")
    assert (result.returncode, result.stdout) == (3, b"")
    assert "not a log" in one_line(result.stderr)


# -- the picture


def seen(log: Path) -> Look:
    return look(log, Tally(), SystemClock())


def test_the_map(log: Path) -> None:
    now = seen(log)
    # One record a segment. One consumer is at offset 1, one at 7; what both have passed is still there.
    assert "".join(states(now)) == ".@#####@#>"
    hurt = now._replace(letters=Letters({"damaged": 1}, (OffsetRange(3, 4),)))
    assert "".join(states(hurt)) == ".@#!!##@#>"
    nobody = now._replace(stats=_without_consumers(now))
    assert "".join(states(nobody)) == "--------->"


def _without_consumers(now: Look) -> seglog.LogStats:
    return seglog.LogStats(**{**vars(now.stats), "consumers": {}})


def test_a_consumer_at_the_end_stands_in_the_last_segment(log: Path) -> None:
    with seglog.open(log, mode="r") as opened, opened.consumer("live", start="latest"):
        pass
    assert states(seen(log))[-1] == "@"


def test_many_segments_share_a_cell_and_the_worst_shows(log: Path) -> None:
    now = seen(log)
    many = now._replace(segments=tuple(range(10_000)), letters=Letters({"damaged": 1}, (OffsetRange(5000, 5000),)))
    lines = [plain(line) for line in picture(many, None, 80)]
    cells = [line[10:] for line in lines if set(line[10:]) <= set(CELLS) and line[11:]]
    assert len(cells) <= MAP_ROWS
    assert "".join(cells).count("!") == 1
    assert any("segments a cell" in line for line in lines)


@pytest.mark.parametrize("width", [1, 2, 9, 10, 11, 40, 79, 80, 200])
def test_any_width(log: Path, width: int) -> None:
    now = seen(log)
    assert max(len(plain(line)) for line in picture(now, None, width)) <= width


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 11, 12, 13, 200])
def test_wide_characters_take_two_columns(width: int) -> None:
    def seen_columns(text: str) -> int:
        return sum(2 if c in "日本語ログ" else c != "\u0301" for c in text)

    line = [("日本語", "title"), ("e\u0301abc", ""), ("ログ", "")]
    shown = plain(clip(line, width))
    if width >= 14:
        assert shown == plain(line)
        return
    assert shown.endswith(".." if width > 1 else ".")
    assert width - 1 <= seen_columns(shown) <= width
    assert plain(line).startswith(shown.rstrip("."))
    for row in folded("日本語 ログログログ.", max(2, width)):
        assert seen_columns(row) <= max(2, width)
    assert "".join(folded("日本語ログログログ.", max(2, width))) == "日本語ログログログ."


def test_trouble_is_shown_whole(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    file = f"{'/a-long-name' * 10}/00000000000000000000-00000000.seg"
    for _ in range(2):
        watcher.handle(logging.makeLogRecord({"msg": f"what is here is damaged: {file}"}))
    rows = [plain(line) for line in watcher.lines(80)][1:]
    assert rows == ["what is here is damaged:", file[:80], file[80:]]


def test_a_table_where_there_is_room_and_two_lines_each_where_not(log: Path) -> None:
    now = seen(log)
    rates = Pace(0, 0, dict.fromkeys(now.stats.consumers, 12.0))
    wide = [plain(line) for line in picture(now, rates, 120)]
    assert any(line.split()[:3] == ["uploader", "7", "3"] and line.endswith(" 12") for line in wide)
    narrow = [plain(line) for line in picture(now, rates, 60)]
    at = next(index for index, line in enumerate(narrow) if line.startswith("uploader  lag 3, "))
    assert narrow[at + 1].endswith("in flight 0, 12/s")


def test_the_pace(log: Path) -> None:
    before = seen(log)
    with seglog.open(log) as opened:
        opened.append_many([b"y" * 100] * 20)
        with opened.consumer("uploader") as consumer:
            messages = consumer.receive_many(10)
            consumer.ack(*messages[5:])  # above its watermark, and handled all the same
        with opened.consumer("archive-of-everything-that-ever-was") as consumer:
            consumer.seek("earliest")
    now = seen(log)._replace(when=before.when + 2)
    found = pace(before, now)
    assert found is not None
    assert found.records == 10
    assert found.bytes is not None
    assert 1000 < found.bytes < 4000
    assert found.handled == {"uploader": 2.5, "archive-of-everything-that-ever-was": None}  # that one stepped back
    assert pace(None, now) is None
    assert pace(before._replace(log_id="another"), now) is None


def reasons(letters: Letters | None) -> dict[str, int]:
    assert letters is not None
    return letters.by_reason


def test_letters_are_counted_again_only_when_there_are_more_or_fewer(log: Path) -> None:
    tally = Tally(ManualClock())
    with seglog.open(log, mode="r") as opened:
        assert reasons(tally.of(opened, 1)) == {"rejected": 1}
        with opened.consumer("uploader") as consumer:
            message = consumer.receive()
            assert message is not None
            consumer.refuse(message, detail="too large")
        assert reasons(tally.of(opened, 1)) == {"rejected": 1}
        assert reasons(tally.of(opened, 2)) == {"refused": 1, "rejected": 1}


def test_counting_letters_takes_a_small_share_of_the_time_however_many_come(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    tally = Tally(clock)
    counts = 0

    def count(_: object) -> Letters:
        nonlocal counts
        counts += 1
        clock.advance(0.3)
        return Letters({"refused": counts}, ())

    monkeypatch.setattr("seglog.tally._count", count)
    with seglog.open(log, mode="r") as opened:
        for look in range(100):
            assert reasons(tally.of(opened, look)) == {"refused": counts}
            clock.advance(1)
        assert 5 < counts < 20
        clock.advance(60)
        tally.of(opened, 100)
        with seglog.open(":memory:") as another:
            assert reasons(tally.of(another, 100)) == {"refused": counts}
        assert reasons(tally.of(opened, 100)) == {"refused": counts}


def test_letters_that_cannot_be_read_are_tried_again_and_warned_of_once(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally(ManualClock())
    with seglog.open(log, mode="r") as opened:
        (log / "dead").rename(log / "elsewhere")
        for reason in ("a file", "a file", "a file"):
            (log / "dead").write_text(reason)
            assert tally.of(opened, 1) is None
            assert tally.trouble is not None
            assert [record.getMessage() for record in caplog.records] == [tally.trouble]
        (log / "dead").unlink()
        (log / "elsewhere").rename(log / "dead")
        assert reasons(tally.of(opened, 1)) == {"rejected": 1}
        assert tally.trouble is None


def test_the_map_of_many_segments_and_many_damaged_letters_is_drawn_at_once(log: Path) -> None:
    count = 1000
    compared = 0

    class Offset(int):
        def __lt__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)  # type: ignore[call-overload, no-any-return]

        def __ge__(self, other: object) -> bool:
            return not self < other

        __hash__ = int.__hash__

    now = seen(log)
    hurt = Letters({"damaged": count}, tuple(OffsetRange(Offset(at), Offset(at)) for at in range(count, 0, -1)))
    found = states(now._replace(segments=tuple(range(0, 10 * count, 10)), letters=hurt))
    assert [index for index, cell in enumerate(found) if cell == "!"] == list(range(count // 10 + 1))
    assert compared < 100 * count
