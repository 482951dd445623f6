"""The parts of `seglog crashtest`: work on a disk until its plug is pulled, and the check of what it kept.

Nothing here is part of the library; it is a program that uses it as any other would.
"""
