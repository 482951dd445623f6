"""`python -m seglog` is the `seglog` command."""

from seglog.cli.main import entry

entry()
