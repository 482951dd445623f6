"""The exit codes of `seglog`, in one table. Scripts rely on them, so they never change.

A process that died of a signal is reported by the shell as 128 + its number; an orderly end on a signal uses
the same numbers.
"""

from __future__ import annotations

from seglog.errors import InvalidOption, OffsetOutOfRange

OK = 0
NOT_WELL = 1  # the thing checked is not well: damage, missing or suspect records
USAGE = 2  # the command cannot be meant like this; nothing was touched
FAILED = 3  # it could not be done; the message says what, where and what to do
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # SIGTERM

HELP = """exit codes:
  0    ok
  1    the thing checked is not well
  2    wrong usage
  3    could not be done
  130  stopped by Ctrl-C (143: by SIGTERM)"""


def of_error(error: Exception) -> int:
    """The exit code for an error that ends a command."""
    return USAGE if isinstance(error, (InvalidOption, OffsetOutOfRange)) else FAILED
