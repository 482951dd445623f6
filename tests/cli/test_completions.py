"""The shipped completion scripts: not stale, and the shells take them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seglog.cli.completions import SHELLS
from tests.cli.conftest import Cli
from tools.make_completions import SCRIPTS, scripts

COMPLETE = {
    # What each shell offers for a command line that ends here.
    "bash": 'source "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); [[ "$2" = *" " ]] && { '
    'COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD+1)); }; COMP_LINE=$2; COMP_POINT=${#2}; _shtab_seglog; '
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "fish": "source $argv[1]; complete --do-complete $argv[2] | string split -f1 \\t",
}
COMMAND = {"bash": ["bash", "-c", COMPLETE["bash"], "bash"], "fish": ["fish", "--no-config", "-c", COMPLETE["fish"]]}


def test_shipped_scripts_are_what_is_made_now() -> None:
    made = scripts()
    assert sorted(made) == sorted(path.name for path in SCRIPTS.iterdir())
    stale = [name for name, text in made.items() if (SCRIPTS / name).read_text("utf-8") != text]
    assert stale == [], "run: python tools/make_completions.py"


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_prints_the_script(cli: Cli, shell: str) -> None:
    result = cli("completions", shell)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == (SCRIPTS / f"seglog.{shell}").read_bytes()


def offered(shell: str, line: str, cwd: Path) -> set[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    result = subprocess.run(
        [*COMMAND[shell], str(SCRIPTS / f"seglog.{shell}"), line], capture_output=True, text=True, cwd=cwd, timeout=30
    )
    assert result.stderr == ""
    return {word.strip() for word in result.stdout.splitlines()}


@pytest.mark.parametrize("shell", list(COMMAND))
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seglog ve", {"verify"}),
        ("seglog co", {"consume", "consumers", "compact", "completions"}),
        ("seglog consumers s", {"seek"}),
        ("seglog consumers seek --t", {"--to"}),
        ("seglog append --durability ", {"always", "interval", "never"}),
    ],
)
def test_a_shell_completes(shell: str, line: str, expected: set[str], tmp_path: Path) -> None:
    assert offered(shell, line, tmp_path) == expected


def test_a_shell_completes_directories(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    assert {word.rstrip("/") for word in offered("bash", "seglog stat sp", tmp_path)} == {"spool"}


# The lines that `seglog completions --help` wants in the shell's start-up file, and what then shows that it has them.
INSTALLED = {
    "bash": ["source <(seglog completions bash)", "complete -p seglog"],
    "zsh": [
        "autoload -Uz compinit; compinit -u -D",
        'eval "$(seglog completions zsh)"',
        "print -r -- $_comps[seglog]",
    ],
    "fish": ["seglog completions fish > $HOME/seglog.fish; source $HOME/seglog.fish", "complete --command seglog"],
}
QUIET = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_script_as_the_help_says(cli: Cli, shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    program = tmp_path / "seglog"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seglog "$@"\n')
    program.chmod(0o755)
    environment = {**cli.environment, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        [shell, *QUIET[shell], "-c", "\n".join(INSTALLED[shell])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "seglog" in result.stdout
    page = " ".join(cli("completions", "--help").stdout.decode().split())
    assert all(line in page for line in INSTALLED[shell] if line.startswith(("source", "eval")))
