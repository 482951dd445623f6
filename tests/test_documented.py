"""Every public call says what it promises: its parameters by name, their units, what it raises, when it is durable.

The names stand here as data: what was promised once is not dropped by accident. tests/test_public_api.py has the
signatures, README.md the guide.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import seglog
import seglog.aio

# Call -> the parameters that are promised. More may be there; all that are there are documented.
CALLS = {
    "open": "path mode durability sync_interval segment_bytes max_record_bytes compression file_mode max_bytes "
    "max_records when_full retention_bytes retention_seconds dead_letter_bytes serializer strict disk clock",
    "verify": "path progress",
    "repair": "path dry_run",
    "Log.append": "value key headers delay ttl timeout",
    "Log.append_many": "values timeout",
    "Log.submit": "value key headers delay ttl timeout",
    "Log.sync": "",
    "Log.wait_durable": "offset timeout",
    "Log.get": "offset",
    "Log.read": "start stop on_gap",
    "Log.compact": "",
    "Log.purge": "",
    "Log.stats": "",
    "Log.consumer": "name start lease max_attempts backoff max_in_flight on_gap",
    "Log.consumers": "",
    "Log.remove_consumer": "name",
    "Log.close": "",
    "Consumer.receive": "timeout",
    "Consumer.receive_many": "limit timeout max_bytes",
    "Consumer.ack": "messages",
    "Consumer.nack": "messages delay",
    "Consumer.reject": "messages reason",
    "Consumer.extend": "messages seconds",
    "Consumer.drain": "",
    "Consumer.unacked": "",
    "Consumer.seek": "where",
    "Consumer.stats": "",
    "Consumer.close": "",
    "DeadLetters.get": "id",
    "DeadLetters.replay": "ids",
    "DeadLetters.delete": "ids",
    "DeadLetters.purge": "older_than",
}
PROPERTIES = {
    "Log": "id first_offset next_offset durable_offset report dead_letters",
    "Message": "offset id value payload key headers timestamp attempts",
    "DeadLetter": "id reason detail consumer payload key headers offset last_offset attempts timestamp",
    "Record": "value key headers delay ttl",
}
PROTOCOLS = {
    "Log": "__enter__ __exit__ __bool__",
    "Consumer": "__enter__ __exit__ __iter__ __len__",
    "DeadLetters": "__iter__ __len__",
}

SECONDS = "sync_interval retention_seconds delay ttl timeout lease backoff seconds older_than".split()
BYTES = "segment_bytes max_record_bytes max_bytes retention_bytes dead_letter_bytes".split()
CHANGES = """
    Log.append Log.append_many Log.submit Log.sync Log.wait_durable Log.compact Log.purge Log.consumer
    Log.remove_consumer Consumer.ack Consumer.nack Consumer.reject Consumer.seek DeadLetters.replay DeadLetters.delete
    DeadLetters.purge repair
""".split()
# What says nothing of errors, since its caller can do nothing about them or there are none of its own.
NEVER_RAISES = "Consumer.drain Consumer.unacked".split()


def named(path: str, module: Any = seglog) -> Any:
    found = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def parameters(call: Any) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name != "self"]


def public_calls() -> Iterator[str]:
    """Those that are there."""
    for cls in ("Log", "Consumer", "DeadLetters"):
        for name, member in vars(named(cls)).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield f"{cls}.{name}"


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("path", CALLS)
def test_what_is_promised_is_there(path: str) -> None:
    assert set(CALLS[path].split()) <= set(parameters(named(path)))


@pytest.mark.parametrize(("cls", "names"), [*PROPERTIES.items(), *PROTOCOLS.items()])
def test_members_are_there(cls: str, names: str) -> None:
    there = {*dir(named(cls)), *getattr(named(cls), "__annotations__", ())}
    assert set(names.split()) - there == set()


@pytest.mark.parametrize("path", sorted({*CALLS, *public_calls()}))
def test_a_call_is_documented(path: str) -> None:
    call = named(path)
    text = inspect.getdoc(call) or ""
    there = parameters(call)
    assert text
    assert path not in CALLS or set(there) - words(text) == set(), "parameters that its docstring does not name"
    assert not set(SECONDS) & set(there) or "seconds" in text, "the unit"
    assert not set(BYTES) & set(there) or "bytes" in text, "the unit"
    assert path not in CHANGES or re.search("durabl", text, re.IGNORECASE), "when it is durable"
    assert path not in CALLS or path in NEVER_RAISES or "Raises" in text or "raises" in text, "its errors"


@pytest.mark.parametrize(("cls", "names"), PROPERTIES.items())
def test_properties_are_documented(cls: str, names: str) -> None:
    found = named(cls)
    of_the_class = inspect.getdoc(found) or ""
    for name in names.split():
        member = inspect.getattr_static(found, name, None)
        own = inspect.getdoc(member) if isinstance(member, property) else None
        assert own or name in words(of_the_class), name


ASYNC = sorted(path for path in CALLS if path not in ("repair",))


@pytest.mark.parametrize("path", ASYNC)
def test_asyncio_has_the_same_names_and_parameters(path: str) -> None:
    call = named(path, seglog.aio)
    assert inspect.getdoc(call), path
    assert set(CALLS[path].split()) <= set(parameters(call))
    assert set(parameters(call)) <= words(inspect.getdoc(call) or "") | words(inspect.getdoc(named(path)) or "")


def test_an_undocumented_parameter_would_be_found() -> None:
    def call(given: int, timeout: float) -> None:
        """Waits for what is given."""

    assert set(parameters(call)) - words(call.__doc__ or "") == {"timeout"}
