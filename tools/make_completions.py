"""Makes the shell completion scripts in seglog/cli/scripts/ from the parsers, with shtab.

Run it after changing a command or an option: python tools/make_completions.py. A test compares what it makes with
what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "seglog" / "cli" / "scripts"
sys.path.insert(0, str(ROOT))

from seglog.cli import manual  # noqa: E402
from seglog.cli.completions import SHELLS  # noqa: E402
from seglog.cli.main import parser  # noqa: E402

PATHS = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE}


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """This one and all below it."""
    yield top
    for below in manual.commands_of(top).values():
        yield from parsers(below)


def scripts() -> dict[str, str]:
    """File name -> text."""
    top = parser()
    for each in parsers(top):
        for action in each._actions:
            if action.metavar in PATHS:
                action.complete = PATHS[action.metavar]  # type: ignore[attr-defined]  # where shtab looks for it
    return {f"seglog.{shell}": shtab.complete(top, shell) for shell in SHELLS}


if __name__ == "__main__":
    SCRIPTS.mkdir(exist_ok=True)
    for name, text in scripts().items():
        (SCRIPTS / name).write_text(text)
