"""The public names, their signatures, and what `import seglog` costs. A change here belongs into CHANGELOG.md."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import seglog
import seglog.errors
import seglog.forward
import seglog.testing

ROOT = Path(__file__).resolve().parent.parent

ERRORS = """
    SeglogError InvalidOption NotALog LogNotFound LogLocked ReadOnly LogClosed LogForked UnsupportedVersion LogFull
    RecordTooLarge SerializeError OffsetOutOfRange UnknownConsumer ConsumerBusy DamageFound DeadLetterWriteFailed
    StorageError DiskFull LogFailed
""".split()
REPORTS = """
    OpenReport VerifyReport CompactReport LogStats ConsumerStats CursorReport Damage OffsetRange PinnedSegment
    RepairAction RepairReport
""".split()
FUNCTIONS_AND_VALUES = "open repair serializers verify Log Consumer DeadLetters Record Message Gap DeadLetter".split()
NAMES = [*ERRORS, *REPORTS, *FUNCTIONS_AND_VALUES]

LOG = """
    append append_many submit sync wait_durable id first_offset next_offset durable_offset get read compact stats
    report dead_letters consumer consumers remove_consumer close
""".split()
CONSUMER = "receive receive_many ack nack reject drain unacked seek stats close".split()
MESSAGE = "offset id value payload key headers timestamp attempts".split()

# Names, order, kinds and defaults; the types are checked by mypy and pyright.
SIGNATURES = {
    "open": (
        "(path, mode='rw', *, durability='always', sync_interval=0.1, segment_bytes=67108864, "
        "max_record_bytes=16777216, compression=None, file_mode=384, max_bytes=None, max_records=None, "
        "when_full='block', retention_bytes=None, retention_seconds=None, dead_letter_bytes=67108864, serializer=None, "
        "strict=False, disk=None, clock=None)"
    ),
    "verify": "(path, progress=None, *, disk=None)",
    "repair": (
        "(path, dry_run=False, progress=None, *, file_mode=384, dead_letter_bytes=67108864, disk=None, clock=None)"
    ),
    "Log.append": "(self, value, key=None, headers=None, delay=None, ttl=None, timeout=None)",
    "Log.append_many": "(self, values, timeout=None)",
    "Log.submit": "(self, value, key=None, headers=None, delay=None, ttl=None, timeout=None)",
    "Log.wait_durable": "(self, offset, timeout=None)",
    "Log.get": "(self, offset)",
    "Log.read": "(self, start=None, stop=None, on_gap=None)",
    "Log.consumer": (
        "(self, name, start='earliest', *, lease=None, max_attempts=None, backoff=None, max_in_flight=10000, "
        "on_gap=None)"
    ),
    "Consumer.receive": "(self, timeout=0)",
    "Consumer.receive_many": "(self, limit, timeout=0, max_bytes=None)",
    "Consumer.ack": "(self, *messages)",
    "Consumer.nack": "(self, *messages, delay=None)",
    "Consumer.extend": "(self, *messages, seconds=30)",
    "Consumer.seek": "(self, where)",
    "Record": "(value, key=None, headers=None, delay=None, ttl=None)",
    "forward.Forwarder": (
        "(consumer, sink, *, batch_records=500, batch_bytes=1048576, linger=0.2, max_refused=10, patience=None, "
        "batch_file=None, clock=None)"
    ),
}

# `seglog append` in a shell loop is a headline use: the import stays light.
HEAVY = "asyncio rich urllib3 msgspec http.client ssl subprocess seglog.forward seglog.testing seglog.cli".split()


def plain(call: Any) -> str:
    """The signature without types."""
    signature = inspect.signature(call)
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def named(path: str) -> Any:
    found: Any = seglog
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_names() -> None:
    assert sorted(seglog.__all__) == sorted(NAMES)
    assert [name for name in NAMES if not hasattr(seglog, name)] == []


def test_error_tree() -> None:
    for name in ERRORS:
        assert getattr(seglog, name) is getattr(seglog.errors, name)
        assert issubclass(getattr(seglog, name), seglog.SeglogError)
    bases = {
        "InvalidOption": ValueError,
        "SerializeError": ValueError,
        "StorageError": OSError,
        "DiskFull": seglog.StorageError,
        "LogFailed": seglog.StorageError,
    }
    for name, base in bases.items():
        assert issubclass(getattr(seglog, name), base)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path: str) -> None:
    assert plain(named(path)) == SIGNATURES[path]


@pytest.mark.parametrize(("path", "names"), [("Log", LOG), ("Consumer", CONSUMER), ("Message", MESSAGE)])
def test_members(path: str, names: list[str]) -> None:
    cls = named(path)
    instance_fields = set(getattr(cls, "__slots__", ()))
    assert [name for name in names if not hasattr(cls, name) and name not in instance_fields] == []


def test_doubles_and_forwarder_are_public() -> None:
    assert {"CrashDisk", "FaultDisk", "ManualClock"} <= set(seglog.testing.__all__)
    assert "Forwarder" in seglog.forward.__all__


@pytest.mark.parametrize("name", [*REPORTS, "Gap", "DeadLetter"])
def test_reports_are_frozen(name: str) -> None:
    cls = getattr(seglog, name)
    first = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(object.__new__(cls), first, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ERRORS])
def test_public_names_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(seglog, name))


def test_import_is_light() -> None:
    script = f"import sys, seglog; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == []


def test_version_and_script_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert seglog.__version__ == project["version"]
    entry = importlib.metadata.EntryPoint("seglog", project["scripts"]["seglog"], "console_scripts")
    assert callable(entry.load())
