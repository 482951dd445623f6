"""What the documents show is run here, so that it is true.

README.md: every fenced block is run, from top to bottom, in one empty directory; the Python blocks share one
namespace. In the other documents a block is run if its fence says so (```python run, ```sh run).

A Python line `print(...)  # text` says what it prints; in a console block the text after `$ command` is its
output; `...` stands for anything. Commands that would install or test the project inside its own test are
looked at instead of run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from seglog.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "FORMAT.md", "tests/FAULTS.md", "tools/bench/README.md")
RUN_LANGUAGES = ("python", "sh", "console")
COMMAND_SECONDS_MAX = 60


class Block(NamedTuple):
    """A fenced block: the first line of its text in the document, its language, whether it is to be run."""

    line: int
    language: str
    run: bool
    text: str


class Command(NamedTuple):
    """One `$ command` of a console block and the output shown below it."""

    line: int
    text: str
    output: str


def blocks(document: str, *, run_all: bool) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)([^\n]*)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        language, marks, text = match.groups()
        run = language in RUN_LANGUAGES and (run_all or "run" in marks.split())
        yield Block(document.count("\n", 0, match.start()) + 2, language, run, text)


def commands(block: Block) -> list[Command]:
    """A console block, cut at its prompts; a backslash at the end of a line continues the command."""
    found: list[Command] = []
    for part in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        found.append(Command(block.line + block.text.count("\n", 0, part.start()), part[1], part[2]))
    if "".join(f"$ {command.text}\n{command.output}" for command in found) != block.text:
        raise AssertionError(f"line {block.line}: a console block begins with a prompt")
    return found


def agrees(shown: str, real: str) -> bool:
    """Whether `real` is what was shown, where `...` stands for anything, several lines too."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, real.strip(), re.DOTALL) is not None


def run_python(block: Block, namespace: dict[str, Any], document: str) -> None:
    source = "\n" * (block.line - 1) + block.text  # tracebacks then show the document's line
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, document, "exec"), namespace)
    shown = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
    if shown:
        said, real = (" ".join(text.split()) for text in (" ".join(shown), printed.getvalue()))
        assert agrees(said, real), f"{document}:{block.line} printed: {real}"


def run_shell(script: str, environment: dict[str, str], options: str = "-uo") -> str:
    result = subprocess.run(
        ["bash", options, "pipefail", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_SECONDS_MAX,
    )
    output = result.stdout.decode()
    assert result.returncode == 0, f"{script!r} exits {result.returncode}: {output}"
    return output


def looked_at(command: str) -> bool:
    """True for a command that is checked here instead of run: the project's own tools, and installing."""
    words = shlex.split(command, comments=True)
    if words and words[0].startswith("./"):
        tool = ROOT / words[0]
        assert os.access(tool, os.X_OK), f"{words[0]} is not there, or cannot be executed"
        return True
    if "venv" in words and "-m" in words:
        return True
    if words[:1] and words[0].endswith("pip") and words[1:2] == ["install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = set(re.findall(r"[a-z]+", "".join(re.findall(r"\[(.*?)\]", command))))
        assert named <= set(project["optional-dependencies"]), f"{command}: no such extra"
        return True
    return False


def run_document(name: str, text: str, environment: dict[str, str], *, run_all: bool) -> int:
    """Run the blocks of one document in the current directory; returns how many there were."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(text, run_all=run_all):
        if not block.run:
            continue
        count += 1
        if block.language == "python":
            run_python(block, namespace, name)
        elif block.language == "sh":
            lines = block.text.splitlines()
            run_shell("\n".join(line for line in lines if not looked_at(line)), environment, "-euo")
        else:
            for command in commands(block):
                if not looked_at(command.text):
                    output = run_shell(command.text, environment)
                    assert agrees(command.output, output), f"{name}:{command.line}: {command.text} printed:\n{output}"
    return count


class Collector(BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the output belongs to the document."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An empty current directory, `seglog` of this checkout on PATH, and a collector at $COLLECTOR."""
    work, bin_directory = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    bin_directory.mkdir()
    command = bin_directory / "seglog"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seglog "$@"\n')
    command.chmod(0o755)
    monkeypatch.chdir(work)
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield {
                "PATH": f"{bin_directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "HOME": str(tmp_path),
                "LC_ALL": "C.UTF-8",
                "NO_COLOR": "1",
                "COLLECTOR": f"http://127.0.0.1:{server.server_port}/events",
            }
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_in_documents_runs(name: str, environment: dict[str, str]) -> None:
    text = (ROOT / name).read_text("utf-8")
    count = run_document(name, text, environment, run_all=name == "README.md")
    assert count > 0 or name != "README.md"


def test_every_block_of_the_readme_is_run() -> None:
    """A block in another language would look checked and not be; pictures are `text`."""
    found = [(block.line, block.language) for block in blocks(README.read_text("utf-8"), run_all=True) if not block.run]
    assert [entry for entry in found if entry[1] != "text"] == []


def test_links_lead_somewhere() -> None:
    for name in DOCUMENTS:
        document = ROOT / name
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{name} links to {target}"


def test_every_command_is_documented_and_every_documented_command_is_there() -> None:
    text = README.read_text("utf-8")
    table = set(re.findall(r"^\| `seglog ([a-z]+)\b", text, re.MULTILINE))
    used = set(re.findall(r"(?:\$ |\| |`|^)seglog ([a-z]+)\b", text, re.MULTILINE))
    assert len(table) > 5
    assert table == set(COMMANDS)
    assert used <= table


def test_tools_are_there_and_executable() -> None:
    for name in (".ci/run", "tools/demo", "tools/setup", "tools/test"):
        assert os.access(ROOT / name, os.X_OK), name


# The runner itself must be able to fail.


@pytest.mark.parametrize(
    "document",
    [
        "```python\nprint(1 + 1)  # 3\n```\n",
        "```python\nassert False\n```\n",
        "```sh\nfalse | cat\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ exit 3\n```\n",
        "```console\none\n```\n",
        "```sh\n./tools/nothing\n```\n",
        "```sh\npip install '.[nothing]'\n```\n",
    ],
)
def test_runner_finds_what_is_not_so(document: str, environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        run_document("document", document, environment, run_all=True)


def test_runner_runs_what_is_so(environment: dict[str, str]) -> None:
    document = (
        "```python\nx = 1\n```\n\n```python\nfor y in (x, 2):\n    print(y)  # 1...2\n```\n\n"
        "```sh\n./tools/test\necho hello >file\n```\n\n"
        "```console\n$ cat file\nhello\n$ printf '%s\\n' a \\\n  b c\na\n...\nc\n$ true\n```\n\n```text\nnot run\n```\n"
    )
    assert run_document("document", document, environment, run_all=True) == 4
    assert run_document("document", document, environment, run_all=False) == 0
