"""The shape of every command's help: what it does, its options, what else to know, examples, files, exit codes.

Options stand in the parsers and nowhere else; README.md names them and the tests compare the two.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence

from seglog.cli import exit_codes

FILES = {
    "segments": ("DIR/segments/*.seg", "the records"),
    "cursors": ("DIR/cursors/NAME.cursor", "where the consumer NAME stands"),
    "dead": ("DIR/dead/", "the dead letters, a small log in the same format"),
    "quarantine": ("DIR/quarantine/", "what a repair set aside, with a manifest"),
    "meta": ("DIR/meta", "which consumers are registered, what was reclaimed"),
    "lock": ("DIR/lock", "held by the writer; nothing to clean up after a crash"),
}


# How `seglog --help` lists the commands. A name in no group would not be listed; a test looks.
GROUPS = {
    "events in and out": ("append", "read", "consume", "forward"),
    "what is there, and is it well": ("stat", "verify", "inspect"),
    "keeping house": ("compact", "consumers", "dlq", "repair"),
    "more": ("demo", "crashtest", "completions"),
}


class Page(argparse.HelpFormatter):
    """Paragraphs are filled to the width of the terminal; what is indented stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for paragraph in text.strip().split("\n\n"):
            raw = any(line.startswith(" ") for line in paragraph.splitlines())
            filled.append(paragraph if raw else textwrap.fill(" ".join(paragraph.split()), width))
        return "\n\n".join(filled)


class Contents(Page):
    """The page of `seglog` itself: its commands, in groups."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        parts = []
        known = {str(listed.dest): listed for listed in action._choices_actions}
        for title, names in GROUPS.items():
            parts.append(f"  {title}:\n")
            self._indent()
            parts += [super(Contents, self)._format_action(known[name]) for name in names if name in known]
            self._dedent()
        return "".join(parts)


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands that a parser chooses from; none for a command that does something itself."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    summary: str,
    description: str,
    notes: str = "",
    examples: Sequence[str],
    files: Sequence[str] = (),
    codes: Mapping[int, str] | None = None,
) -> argparse.ArgumentParser:
    """A parser for one command, with its manual page.

    Args:
        summary: one line for the list of commands.
        description: stands before the options; `notes` behind them: paragraphs, or indented lines kept as they are.
        examples: command lines that work; a log called spool/ is there.
        files: keys of FILES, those that the command reads or writes.
        codes: what exit codes mean here, where that is more than in general.
    """
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="\n\n".join(filter(None, [notes.strip(), *_sections(examples, files, codes or {})])),
        formatter_class=Page,
        allow_abbrev=False,
    )


def add_directory(parser: argparse.ArgumentParser) -> None:
    """The argument DIR."""
    from seglog.cli import arguments

    parser.add_argument("directory", metavar="DIR", type=arguments.directory, help="the log directory")


def _sections(examples: Sequence[str], files: Sequence[str], codes: Mapping[int, str]) -> list[str]:
    found = ["\n".join(["examples:", *(f"  {line}" for line in examples)])]
    if files:
        found.append(file_list(files))
    found.append(exit_codes.listing({exit_codes.NOT_WELL: "", **codes}))
    return found


def file_list(names: Sequence[str]) -> str:
    """The section that says where things are."""
    return "\n".join(["files:", *(f"  {path:<25}{what}" for path, what in map(FILES.__getitem__, names))])
