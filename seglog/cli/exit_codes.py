"""The exit codes of `seglog`, in one table. Scripts rely on them, so they never change.

A process that died of a signal is reported by the shell as 128 + its number; an orderly end on a signal uses
the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from seglog.errors import InvalidOption, OffsetOutOfRange

OK = 0
NOT_WELL = 1  # the thing checked is not well: damage, missing or suspect records
USAGE = 2  # the command cannot be meant like this; nothing was touched
FAILED = 3  # it could not be done; the message says what, where and what to do
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # SIGTERM

_MEANINGS = {
    OK: "ok",
    NOT_WELL: "the thing checked is not well",
    USAGE: "wrong usage; nothing was touched",
    FAILED: "could not be done; the message says why",
    INTERRUPTED: "stopped by Ctrl-C (143: by SIGTERM)",
}


def listing(special: Mapping[int, str]) -> str:
    """The section of a help page. `special`: what a code means for this command; "" for one that it never gives."""
    meanings = {**_MEANINGS, **special}
    return "\n".join(["exit codes:", *(f"  {code:<5}{text}" for code, text in meanings.items() if text)])


HELP = listing({})


def of_error(error: Exception) -> int:
    """The exit code for an error that ends a command."""
    return USAGE if isinstance(error, (InvalidOption, OffsetOutOfRange)) else FAILED
