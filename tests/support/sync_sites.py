"""Where seglog syncs: every call in its source that makes something durable, found by its syntax tree.

A site is named `module.function receiver.method`, numbered where one function has several alike. `asked_by` tells
whether a sync that arrives at the disk comes from a site; so one site can be switched off while the rest works.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import seglog
from seglog.testing import Operation

SOURCE = Path(seglog.__file__).parent
SYNCING = ("sync", "datasync", "sync_parents", "confirm", "_sync", "_datasync")
# Doubles, and what calls only the public API; the sink that writes files has canaries of its own.
ELSEWHERE = ("testing", "cli", "demo", "forward")
DOUBLES = ("disk/base.py", "disk/memory.py")


@dataclass(frozen=True)
class Site:
    """One call that syncs."""

    name: str
    file: str
    first_line: int
    last_line: int


def sites() -> dict[str, Site]:
    """Every site by its name."""
    found: dict[str, Site] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        if inside.parts[0] in ELSEWHERE or inside.as_posix() in DOUBLES:
            continue
        found |= sites_in(path)
    return found


def sites_in(path: Path) -> dict[str, Site]:
    """Those of one module."""
    found: dict[str, Site] = {}
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for function, call in _calls(ast.parse(path.read_text()), ""):
        name = f"{module}.{function} {ast.unparse(call.func)}"
        number = 2
        while name in found:
            name, number = f"{name.split(' #', maxsplit=1)[0]} #{number}", number + 1
        found[name] = Site(name, str(path), call.lineno, call.end_lineno or call.lineno)
    return found


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    """Syncing calls below a node, with the name of the innermost function or class path around them."""
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inner = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.Call):
            called = child.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in SYNCING:
                yield inner, child
        yield from _calls(child, inner)


def asked_by(site: Site, path: str = "") -> Callable[[Operation], bool]:
    """For CrashDisk(ignore=…): whether a sync comes from this site, and its path matches this expression."""

    def ignored(operation: Operation) -> bool:
        if not re.search(path, operation.path):
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:  # the whole stack: one site may call another
            if frame.f_code.co_filename == site.file and site.first_line <= frame.f_lineno <= site.last_line:
                return True
            frame = frame.f_back
        return False

    return ignored
