"""The layer table and the style rules, as data, and the test that holds the code to them.

Add a module: give it a row in MODULES. A rule that makes the code worse is changed here, with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "seglog"

MODULE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
LONG_MODULES: dict[str, int] = {}  # module: lines it may have, with the reason in a comment


class Row(NamedTuple):
    """Modules of `layer` import what lies in layers smaller than `below` (their own, if not given), and `peers`."""

    layer: int
    peers: tuple[str, ...] = ()
    below: int | None = None


# Names are paths below seglog/ without ".py"; a package is its "__init__"; "cli/*" is every module of cli.
MODULES = {
    "errors": Row(0),
    "model": Row(0, ("errors",)),
    "options": Row(0, ("errors",)),
    "json_bytes": Row(0),
    "format/__init__": Row(1),
    "format/layout": Row(1),
    "format/checksum": Row(1),
    "format/batch": Row(1, ("format/layout", "format/checksum")),
    "format/salvage": Row(1, ("format/layout", "format/checksum", "format/batch")),
    "format/segment_header": Row(1, ("format/layout", "format/checksum")),
    "format/footer": Row(1, ("format/layout", "format/checksum", "format/segment_header")),
    "format/slots": Row(1, ("format/layout", "format/checksum")),
    "format/cursor_state": Row(1, ("format/layout", "format/checksum")),
    "format/meta_state": Row(1, ("format/layout", "format/checksum")),
    "format/hint": Row(1, ("format/layout", "format/checksum")),
    "format/extended": Row(1, ("format/layout", "format/checksum")),
    "format/dead_letter": Row(1, ("format/layout", "format/checksum", "format/extended")),
    "format/names": Row(1, ("format/layout",)),
    "disk/__init__": Row(2, below=1),
    "disk/base": Row(2, below=1),
    "disk/local": Row(2, ("disk/base", "clock"), below=1),
    "disk/memory": Row(2, ("disk/base", "clock"), below=1),
    "clock": Row(2, below=0),
    "segment_reader": Row(3),
    "segment_writer": Row(3),
    "slot_file": Row(3),
    "lock_file": Row(3),
    "intervals": Row(0),
    "recovery": Row(3, below=2),  # a pure table: no disk, no clock
    "findings": Row(3, ("segment_reader",)),
    "spares": Row(3, ("segment_reader",)),
    "tail": Row(3, ("recovery", "segment_reader", "segment_writer")),
    "catalog": Row(4),
    "group_commit": Row(4, ("clock",), below=1),  # many waiters, one sync: no files, no bytes
    "intake": Row(4, ("group_commit",)),
    "appender": Row(4, ("catalog", "group_commit")),
    "reader": Row(4, ("catalog",)),
    "horizon": Row(4, ("catalog",)),
    "view": Row(4, ("catalog", "horizon", "reader")),
    "continuation": Row(4, ("catalog",)),
    "cursor_files": Row(4),
    "opening": Row(4, ("catalog", "cursor_files", "appender", "continuation", "view")),
    "consumers/__init__": Row(0),
    "consumers/timetable": Row(0),
    "consumers/schedule": Row(0),
    "consumers/flight": Row(1, ("consumers/timetable",)),
    "consumers/retry": Row(1),
    "consumers/references": Row(0, ("errors", "intervals", "model")),
    "consumers/cursor": Row(5),
    "consumers/registry": Row(5, ("consumers/cursor",)),
    "consumers/waiting": Row(5, ("consumers/cursor", "source")),
    "consumers/lookup": Row(5),
    "consumers/haul": Row(5),
    "consumers/damage_letter": Row(5, ("source",)),
    "consumers/diversion": Row(5, ("consumers/cursor", "consumers/damage_letter", "source")),
    "consumers/doubt": Row(5, ("consumers/cursor",)),
    "consumers/delivery": Row(
        5,
        (
            "consumers/cursor",
            "consumers/diversion",
            "consumers/doubt",
            "consumers/haul",
            "consumers/lookup",
            "source",
            "consumers/waiting",
        ),
    ),
    "consumers/standing": Row(5, ("source",)),
    "consumers/consumer": Row(5, ("consumers/cursor", "consumers/delivery", "source", "consumers/standing")),
    "consumers/roster": Row(
        5, ("consumers/consumer", "consumers/cursor", "consumers/registry", "source", "consumers/standing")
    ),
    "dead_log": Row(5, ("compact", "consumers/cursor", "consumers/registry")),
    "dead_letters": Row(5, ("dead_log",)),
    "gauge": Row(5),
    "compact": Row(5, ("gauge", "consumers/registry")),
    "source": Row(5, ("dead_letters",)),
    "limits": Row(5, ("gauge", "source")),
    "replay": Row(5, ("limits",)),
    "housekeeping": Row(5, ("compact", "consumers/registry", "source")),
    "survey": Row(5, ("limits", "source")),
    "syncer": Row(5),
    "log": Row(6),
    "open_log": Row(6, ("log",)),
    "tally": Row(6, ("log",)),
    "metrics": Row(6, ("log", "tally")),
    "serializers": Row(6, below=1),
    "audit": Row(6),
    "verify": Row(6, ("audit",)),
    "repair": Row(6, ("audit", "quarantine", "verify")),
    "quarantine": Row(6),
    "aio/*": Row(7, ("aio/*",)),
    "forward/*": Row(7, ("forward/*",)),
    "cli/*": Row(8, ("cli/*", "crashtest/*", "demo/*", "__init__")),
    "crashtest/*": Row(8, ("crashtest/*", "__init__")),
    "demo/*": Row(8, ("demo/*", "__init__")),
    "testing/sink_check": Row(9, ("testing/*",)),  # a whole log and a forwarder, imported when it runs
    "testing/*": Row(9, ("testing/*",), below=3),  # doubles for users too, so nothing in seglog leans on them
    "__init__": Row(9),
    "__main__": Row(9),
}

FREE = ("cli/*", "crashtest/*", "demo/*")  # programs, not the log: they may print, sleep and start processes
FILES = ("disk/local", "forward/*", *FREE)
THREADS = (
    "aio/*",
    "group_commit",
    "limits",
    "housekeeping",
    "consumers/consumer",
    "dead_letters",
    "catalog",
    "source",
    "syncer",
    "consumers/roster",
    "log",
    "disk/memory",
    "forward/*",
    "testing/*",
    *FREE,
)

# One home per hazard: whoever looks for all of one kind finds them in one place.
IMPORT_HOMES = {
    "struct": ("format/*",),
    "time": ("clock", *FREE),
    "random": ("clock", "testing/trials", *FREE),  # the latter seeded: what it does, it does again
    "secrets": ("clock", *FREE),
    "threading": THREADS,
    "asyncio": ("aio/*", "forward/sinks/*"),  # the latter for clients that there are for asyncio only
    "fcntl": FILES,
    "shutil": FILES,
    "tempfile": FILES,
    "glob": FILES,
    "pathlib": FILES,
    # The host's name in a lock's message; for IPv6, what kind of socket listens.
    "socket": ("disk/local", "forward/endpoint", *FREE),
    "subprocess": ("forward/*", *FREE),
    "multiprocessing": (),
    "pickle": (),
    "marshal": (),
    "shelve": (),
    "mmap": (),  # a mapped file turns a bad sector into SIGBUS
}
CALL_HOMES = {"print": FREE, "input": (), "eval": (), "exec": (), "__import__": (), "open": FILES}
OS_HOMES = {"urandom": ("clock", *FREE), "register_at_fork": ("log", *FREE)}
OS_ANYWHERE = frozenset(("PathLike", "fspath", "strerror", "getpid"))  # no file system call among them


def known_row(name: str) -> Row | None:
    """The row of a module: its own, or that of its package."""
    return MODULES.get(name) or MODULES.get(f"{name.partition('/')[0]}/*" if "/" in name else "")


def at_home(name: str, homes: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, home) for home in homes)


def layer_fault(importer: str, imported: str) -> str | None:
    """None if `importer` may import `imported`."""
    row, target = known_row(importer), known_row(imported)
    if row is None or target is None:
        return f"{importer if row is None else imported} has no row in MODULES"
    if at_home(imported, row.peers) or target.layer < (row.layer if row.below is None else row.below):
        return None
    return f"imports {imported} (layer {target.layer})"


def seglog_imports(tree: ast.AST, existing: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and module name of everything imported from seglog, wherever in the module that stands."""

    def module(dotted: str) -> str:
        name = "/".join(dotted.split(".")[1:])
        package = f"{name}/__init__".lstrip("/")
        return package if package in existing else name

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, module(a.name)) for a in node.names if a.name.split(".")[0] == "seglog")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "seglog":
            for alias in node.names:
                inner = module(f"{node.module}.{alias.name}")  # a module of the package, or a name in it
                yield node.lineno, inner if inner in existing else module(node.module or "")


def hazards(tree: ast.AST, name: str) -> Iterator[tuple[int, str]]:
    """Dangerous things used outside their home."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, f"import {top}") for top in strangers([a.name for a in node.names], name))
            case ast.ImportFrom(module="os"):
                yield from ((node.lineno, f"os.{a.name}") for a in node.names if not os_allowed(a.name, name))
            case ast.ImportFrom(level=0):
                yield from ((node.lineno, f"import {top}") for top in strangers([node.module or ""], name))
            case ast.ImportFrom():
                yield node.lineno, "relative import"
            case ast.Attribute(value=ast.Name(id="os")) if not os_allowed(node.attr, name):
                yield node.lineno, f"os.{node.attr}"
            case ast.Call(func=ast.Name(id=called)) if not at_home(name, CALL_HOMES.get(called, ("*",))):
                yield node.lineno, f"{called}()"


def strangers(imported: list[str], name: str) -> list[str]:
    """Those of the imported modules that may not be used in `name`."""
    tops = [dotted.split(".")[0] for dotted in imported]
    return [top for top in tops if not at_home(name, IMPORT_HOMES.get(top, ("*",)))]


def os_allowed(attribute: str, name: str) -> bool:
    return attribute in OS_ANYWHERE or at_home(name, OS_HOMES.get(attribute, FILES))


def style_faults(tree: ast.Module, source: str, lines_max: int = MODULE_LINES_MAX) -> Iterator[tuple[int, str]]:
    lines = source.splitlines()
    if len(lines) > lines_max:
        yield len(lines), f"module of {len(lines)} lines: which second noun hides in it?"
    if not ast.get_docstring(tree):
        yield 1, "no module docstring"
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield number, "unfinished"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            if length > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {length} lines"
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except"
            elif swallows_everything(node):
                yield node.lineno, "swallows every error"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A long promise does not make a long function."""
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) is not None else 0


def swallows_everything(handler: ast.ExceptHandler) -> bool:
    broad = isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    return broad and all(isinstance(statement, ast.Pass) for statement in handler.body)


def faults(name: str, source: str, existing: frozenset[str]) -> list[str]:
    """Everything that is wrong with one module, as `name:line: what`."""
    tree = ast.parse(source)
    found = [
        (line, fault)
        for line, imported in seglog_imports(tree, existing)
        if (fault := layer_fault(name, imported)) is not None
    ]
    found += hazards(tree, name)
    found += style_faults(tree, source, LONG_MODULES.get(name, MODULE_LINES_MAX))
    return [f"{name}:{line}: {fault}" for line, fault in sorted(found)]


def modules() -> dict[str, str]:
    """Name -> source of every module of the package."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text("utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


# Documents and scripts, where these would be a trap for the reader on another machine.
PRIVATE = re.compile(r"(?<![\w.:/-])/(?:work|home|root|farm|Users)/|\.\./[a-z]+/|\b(?:issue|GH-) ?#?\d+\b")
CITATION = re.compile(r"\b[A-Z]{3,}(?:_[A-Z]+)?\.md\b")


def text_faults(name: str, text: str, documents: frozenset[str]) -> list[str]:
    """Private paths, tracker numbers, and documents that are cited and not there."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found += [f"{name}:{number}: {match[0]!r} means nothing elsewhere" for match in PRIVATE.finditer(line)]
        found += [
            f"{name}:{number}: cites {cited[0]}, which is not there"
            for cited in CITATION.finditer(line)
            if cited[0] not in documents
        ]
    return found


def project_texts() -> dict[str, str]:
    """Every text of the project: code, documents, scripts."""
    roots = [ROOT / "seglog", ROOT / "tests", ROOT / "tools", ROOT / ".ci"]
    paths = [path for root in roots for path in root.rglob("*") if path.is_file()]
    paths += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml")]
    skipped = ("golden", "__pycache__")
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for path in sorted(paths)
        if not any(part in skipped for part in path.parts)
        and (path.suffix in (".py", ".md", ".toml", ".sh", ".txt") or not path.suffix)
    }


SOURCES = modules()


@pytest.mark.parametrize("name", SOURCES)
def test_module_keeps_the_rules(name: str) -> None:
    assert known_row(name) is not None, f"{name} has no row in MODULES"
    assert faults(name, SOURCES[name], frozenset(SOURCES)) == []


def test_every_row_has_a_module() -> None:
    assert [row for row in MODULES if not any(fnmatchcase(name, row) for name in SOURCES)] == []


def test_contributing_shows_every_module() -> None:
    shown = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    wanted = {
        f"`{row.partition('/')[0]}/`" if "/" in row else f"`{row}`" for row in MODULES if not row.startswith("__")
    }
    assert {name for name in wanted if name not in shown} == set()


def test_long_modules_are_still_long() -> None:
    assert [name for name in LONG_MODULES if len(SOURCES[name].splitlines()) <= MODULE_LINES_MAX] == []


def test_texts_mention_nothing_private() -> None:
    documents = frozenset(path.name for path in [*ROOT.glob("*.md"), *ROOT.glob("t*/**/*.md")])
    own = Path(__file__).relative_to(ROOT).as_posix()
    texts = {name: text for name, text in project_texts().items() if name != own}
    assert [fault for name, text in texts.items() for fault in text_faults(name, text, documents)] == []


# The checker itself: each rule must be able to fail.

EXISTING = frozenset((*(row for row in MODULES if "*" not in row), "forward/forwarder", "testing/crash_disk"))


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("errors", "import seglog.log", "imports log (layer 6)"),
        ("format/batch", "from seglog.format import footer", "imports format/footer (layer 1)"),
        ("format/names", "from seglog.disk.local import LocalDisk", "imports disk/local (layer 2)"),
        (
            "consumers/cursor",
            "def f():\n    from seglog.consumers import consumer",
            "imports consumers/consumer (layer 5)",
        ),
        ("recovery", "from seglog.clock import Clock", "imports clock (layer 2)"),
        ("group_commit", "from seglog.disk.base import File", "imports disk/base (layer 2)"),
        ("log", "from seglog.testing.crash_disk import CrashDisk", "imports testing/crash_disk (layer 9)"),
        ("log", "import seglog", "imports __init__ (layer 9)"),
        ("testing/crash_disk", "from seglog.catalog import Catalog", "imports catalog (layer 4)"),
        ("reader", "from seglog.utils import helper", "utils has no row in MODULES"),
        ("reader", "from . import catalog", "relative import"),
        ("appender", "import struct", "import struct"),
        ("appender", "from struct import Struct", "import struct"),
        ("appender", "import time", "import time"),
        ("appender", "import concurrent.futures, threading", "import threading"),
        ("disk/memory", "import fcntl", "import fcntl"),
        ("disk/memory", "open('x')", "open()"),
        ("log", "import os\nos.replace('a', 'b')", "os.replace"),
        ("log", "from os import unlink", "os.unlink"),
        ("log", "import os\nos.urandom(8)", "os.urandom"),
        ("log", "import asyncio.events", "import asyncio"),
        ("cli/main", "import asyncio", "import asyncio"),
        ("forward/forwarder", "import time", "import time"),
        ("verify", "print(1)", "print()"),
        ("cli/main", "import pickle", "import pickle"),
        ("cli/main", "eval('1')", "eval()"),
        ("disk/local", "import mmap", "import mmap"),
        ("log", "# TODO: later", "unfinished"),
        ("log", "try:\n    f()\nexcept:\n    raise", "bare except"),
        ("log", "try:\n    f()\nexcept Exception:\n    pass", "swallows every error"),
        ("log", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        ("reader", "x = 1\n" * 450, "module of 451 lines: which second noun hides in it?"),
    ],
)
def test_checker_finds(name: str, source: str, fault: str) -> None:
    found = faults(name, f'"""What it is."""\n{source}', EXISTING)
    assert [entry.partition(": ")[2] for entry in found] == [fault]


def test_checker_wants_a_docstring_and_a_row() -> None:
    assert faults("log", "x = 1", EXISTING) == ["log:1: no module docstring"]
    assert known_row("utils") is None
    assert known_row("format/utils") is None
    assert layer_fault("log", "utils") == "utils has no row in MODULES"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("consumers/consumer", "from seglog.consumers.cursor import Cursor\nimport threading, os\nx: os.PathLike[str]"),
        ("log", "import os\nfrom seglog.compact import compact\nos.register_at_fork()"),
        ("cli/main", "import time, subprocess\nimport seglog\nprint(open(1))"),
        ("format/footer", "from seglog.format import layout, segment_header\nfrom seglog.errors import SeglogError"),
        ("clock", "import os, time\nos.urandom(8)"),
        ("log", "try:\n    f()\nexcept KeyError:\n    pass"),
        ("log", 'def f():\n    """' + "Long.\n" * 60 + '"""\n    return 1'),
    ],
)
def test_checker_allows(name: str, source: str) -> None:
    assert faults(name, f'"""What it is."""\n{source}', EXISTING) == []


@pytest.mark.parametrize(
    "line",
    ["see /home/me/notes", "as in ../elsewhere/plan", "mends issue 7", "mends GH-12", "see NOWHERE.md, section 4"],
)
def test_checker_finds_private_text(line: str) -> None:
    assert len(text_faults("README.md", line, frozenset(("FORMAT.md",)))) == 1


@pytest.mark.parametrize("line", ["FORMAT.md §4", "https://example.org/home/x", "`/var/spool/app`", "an issue 'x'"])
def test_checker_allows_public_text(line: str) -> None:
    assert text_faults("README.md", line, frozenset(("FORMAT.md",))) == []
