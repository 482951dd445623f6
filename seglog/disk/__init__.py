"""The seam to the outside: `base` says what a disk promises, `local` and `memory` keep it."""
