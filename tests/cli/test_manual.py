"""Help, documents and behaviour say the same: the parsers are walked, and every command and option is looked for.

Each has a page worth reading, a place in README.md's table of commands, examples that work, and a test here.
"""

from __future__ import annotations

import argparse
import ast
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import seglog
from seglog.cli import main, manual
from tests.cli.conftest import ROOT, TIMEOUT, Cli, wait_until


class Page(NamedTuple):
    """A command that does something: "consumers seek"."""

    name: str
    parser: argparse.ArgumentParser

    @property
    def options(self) -> list[argparse.Action]:
        return [action for action in self.parser._actions if action.option_strings and action.dest != "help"]

    @property
    def examples(self) -> list[str]:
        """As the page shows them, long ones too."""
        section = self.parser.format_help().partition("\nexamples:\n")[2].partition("\n\n")[0]
        return [line.strip() for line in section.splitlines()]


def pages(parser: argparse.ArgumentParser, name: str = "") -> Iterator[Page]:
    below = manual.commands_of(parser)
    if not below:
        yield Page(name, parser)
    for word, each in below.items():
        yield from pages(each, f"{name} {word}".strip())


PAGES = {page.name: page for page in pages(main.parser())}
OPTIONS = [(page.name, action.option_strings[-1]) for page in PAGES.values() for action in page.options]


def test_the_walk_finds_the_commands() -> None:
    assert {name.partition(" ")[0] for name in PAGES} == set(main.COMMANDS)
    assert {"append", "consumers seek"} <= set(PAGES)
    assert ("consume", "--exec") in OPTIONS


# -- the page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name: str) -> None:
    page = PAGES[name]
    text = page.parser.format_help()
    assert len(page.parser.description or "") > 40
    for section in ("examples:", "exit codes:"):
        assert f"\n{section}\n" in text
    assert ("\nfiles:\n" in text) == any(action.dest in ("directory", "file") for action in page.parser._actions)
    assert page.examples
    assert all(f"seglog {name}" in example for example in page.examples)
    assert "  1  " not in text or "the thing checked is not well" not in text, "say what 1 means for this command"


@pytest.mark.parametrize("name", PAGES)
def test_every_argument_says_what_it_is_and_what_happens_without_it(name: str) -> None:
    for action in PAGES[name].parser._actions:
        label = action.option_strings or [action.dest]
        assert action.help, label
        if action.nargs == 0:
            continue
        assert action.metavar or action.choices, label
        if action.option_strings and not action.required and not isinstance(action, argparse._AppendAction):
            assert "default: " in action.help, label
        if action.metavar == "S":
            assert "seconds" in action.help or re.search(r"\bS seconds", action.help), label


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before, _, after = PAGES[name].parser.format_help().partition("\nexamples:\n")
    rest = after.partition("\n\n")[2]
    assert [line for line in f"{before}\n{rest}".splitlines() if len(line) > 80] == []


# -- the documents


def readme_rows() -> dict[str, str]:
    """Command -> its row in the table of commands."""
    text = (ROOT / "README.md").read_text("utf-8")
    rows: dict[str, str] = {}
    for row in re.findall(r"^\| `seglog .*$", text, re.MULTILINE):
        words = re.findall(r"[a-z]+", row.split("`")[1])[1:]
        name = next(known for known in (" ".join(words[:2]), words[0]) if known in PAGES or known in main.COMMANDS)
        assert name not in rows
        rows[name] = row
    return rows


def test_readme_has_a_row_for_every_command_and_no_other() -> None:
    assert set(readme_rows()) == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_readme_names_every_option_and_no_other(name: str) -> None:
    row = readme_rows()[name]
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"\[[^]]*\]\([^)]*\)", "", row)))
    assert named == {string for action in PAGES[name].options for string in action.option_strings}


# -- behaviour


def words_of_tests() -> Iterator[set[str]]:
    """For each test of the command line: the words in it, in its decorators, and in the helpers that it calls."""
    for path in sorted((ROOT / "tests" / "cli").glob("test_*.py")):
        if path.name == "test_manual.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name, node in functions.items():
            if name.startswith("test_"):
                nodes = [node, *(functions[used] for used in names_in(node) if used in functions)]
                yield {word for each in nodes for word in words_in(each)}


def names_in(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}  # fixtures


def words_in(node: ast.AST) -> set[str]:
    said = {each.value for each in ast.walk(node) if isinstance(each, ast.Expr)}  # docstrings
    constants = [each for each in ast.walk(node) if isinstance(each, ast.Constant) and each not in said]
    texts = [each.value for each in constants if isinstance(each.value, str)]
    return {word for text in texts for word in text.split()}


def untested(options: list[tuple[str, str]], tests: list[set[str]]) -> list[tuple[str, str]]:
    return [(name, option) for name, option in options if not any({*name.split(), option} <= words for words in tests)]


def test_every_option_has_a_test() -> None:
    assert untested(OPTIONS, list(words_of_tests())) == []


def test_an_option_without_a_test_would_be_found() -> None:
    assert untested([("stat", "--nonsense")], list(words_of_tests())) == [("stat", "--nonsense")]


# -- examples

# What the examples use beside seglog.
STUBS = {
    "app": "printf 'an event\\nan ERROR\\n'",
    "jq": 'cat >"$1.out"',
    "mail": "cat >/dev/null",
    "psql": "cat >/dev/null",
}
EXAMPLES = [
    example
    for page in PAGES.values()
    if page.name != "demo"
    for example in page.examples  # test_demo.py runs that
]


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    received = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        Collector.received += 1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the examples name: a log that has seen some life, and files to append."""
    root = tmp_path_factory.mktemp("sample")
    with seglog.open(root / "spool") as log:
        log.append_many([b"one", b"an ERROR", b"three", b"four"])
        with log.consumer("uploader") as consumer:
            first, second = consumer.receive_many(2)
            consumer.ack(first)
            consumer.reject(second, reason="not understood")
    with seglog.open(root / "trial"):
        (root / "acks").touch()
    (root / "spool.toml").write_text('[[route]]\ndirectory = "spool"\nto = "stdout:"\n')
    for name in ("monday.jsonl", "tuesday.jsonl", "photo.jpg"):
        (root / name).write_text('{"x": 1}\n')
    return root


@pytest.fixture
def place(sample: Path, tmp_path: Path) -> Path:
    """A copy to work in, with stand-ins for the other programs; "seglog" writes its process id to ./pid."""
    work = tmp_path / "work"
    shutil.copytree(sample, work)
    programs = {**STUBS, "seglog": f'echo $$ >pid\nexec "{sys.executable}" -m seglog "$@"'}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return work


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_works(example: str, place: Path, collector: str, cli: Cli) -> None:
    environment = {**cli.environment, "PATH": f"{place.parent / 'bin'}:{os.environ['PATH']}"}
    command = example.replace("https://collector.example.com", collector)
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    cli.processes.append(process)
    until_the_plug = "crashtest" in example and "--check" not in example
    endless = (
        "--follow" in example
        or "--watch" in example
        or ("forward" in example and "--once" not in example)
        or until_the_plug
    )
    if endless:
        received = Collector.received
        if until_the_plug:
            wait_until(lambda: (place / "acks").stat().st_size > 0)
        elif "http" in example:
            wait_until(lambda: Collector.received > received)
        else:
            assert process.stdout is not None
            assert process.stdout.read(1)
        os.kill(int((place / "pid").read_text()), signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (130 if endless else 0), err.decode()
    assert b"Traceback" not in err
    assert b"usage:" not in out + err
