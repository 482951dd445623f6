"""The bytes of a log, as FORMAT.md defines them: pure functions between bytes and values.

Nothing here knows a file, a clock, a thread or randomness.
"""
