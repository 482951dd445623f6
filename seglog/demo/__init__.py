"""The parts of `seglog demo`: real text, a writer and a collector in processes of their own, and the account.

Nothing here is part of the library; it is a program that uses it as any other would.
"""
