"""The `seglog` command: arguments, printing and exit codes around the public API, and no logic of its own."""
