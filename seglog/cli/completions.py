"""`seglog completions SHELL`: prints the completion script of a shell.

The scripts are made from the parsers by tools/make_completions.py and shipped as files.
"""

from __future__ import annotations

import argparse
import importlib.resources
import sys

from seglog.cli import exit_codes, manual

SHELLS = ("bash", "zsh", "fish")

NOTES = """To have it in every new shell:

  bash  in ~/.bashrc: source <(seglog completions bash)
  zsh   in ~/.zshrc, after compinit: eval "$(seglog completions zsh)"
  fish  seglog completions fish > ~/.config/fish/completions/seglog.fish"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = manual.add_command(
        commands,
        "completions",
        summary="print a completion script for bash, zsh or fish",
        description="Prints the script with which a shell completes commands, options and paths.",
        notes=NOTES,
        examples=["source <(seglog completions bash)", "seglog completions zsh > _seglog"],
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(importlib.resources.files("seglog.cli").joinpath("scripts", f"seglog.{args.shell}").read_text())
    return exit_codes.OK
