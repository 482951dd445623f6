"""Ready-made serializers: values in, payload bytes out, and back. Any object with `dumps` and `loads` does as well.

All errors are ValueError or TypeError when a value is refused (append raises SerializeError, nothing is written), and
ValueError when a payload does not read (a consumer keeps it as a dead letter). No code is ever loaded from a payload.
`msgpack` and `typed` need msgspec, which is imported when they are first asked for.
"""

from __future__ import annotations

import json as stdlib_json
from types import ModuleType
from typing import Any, Generic, NoReturn, TypeVar, overload

from seglog.errors import InvalidOption
from seglog.model import Serializer

T = TypeVar("T")

__all__ = ["json", "msgpack", "typed"]

msgpack: Serializer[Any]  # made by __getattr__: not everybody has msgspec


class _Json:
    """What the json module makes of a value: compact, UTF-8; NaN and infinities, which are no JSON, are refused."""

    def __init__(self) -> None:
        self._encode = stdlib_json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        self._decode = stdlib_json.JSONDecoder(parse_constant=_no_json).decode

    def dumps(self, value: Any, /) -> bytes:
        try:
            return self._encode(value).encode()
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def loads(self, payload: bytes, /) -> Any:
        try:
            return self._decode(payload.decode())
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def __repr__(self) -> str:
        return "seglog.serializers.json"

    def __reduce__(self) -> str:
        return "json"  # a message knows its serializer, and messages pickle


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class _Msgpack:
    """MessagePack, by msgspec: bytes and datetimes stay what they are; integers have 64 bits."""

    def __init__(self) -> None:
        library = _msgspec().msgpack
        self._encode = library.Encoder().encode
        self._decode = library.Decoder().decode

    def dumps(self, value: Any, /) -> bytes:
        try:
            return bytes(self._encode(value))
        except (RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def loads(self, payload: bytes, /) -> Any:
        try:
            return self._decode(payload)
        except RecursionError as error:
            raise ValueError(str(error)) from error

    def __repr__(self) -> str:
        return "seglog.serializers.msgpack"

    def __reduce__(self) -> str:
        return "msgpack"


class _Typed(Generic[T]):
    """JSON that is held to a type, both ways."""

    def __init__(self, kind: Any) -> None:
        library = _msgspec().json
        try:
            decoder = library.Decoder(kind)
        except TypeError as error:
            raise InvalidOption(f"typed({kind!r}): {error}") from error
        self._kind = kind
        self._encode = library.Encoder().encode
        self._decode = decoder.decode

    def dumps(self, value: T, /) -> bytes:
        """Refuses whatever would not come back as it is: a dataclass does not check its fields, so this does."""
        try:
            payload = bytes(self._encode(value))
        except (RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from error
        if self.loads(payload) != value:
            raise ValueError(f"what reads back as {self._name()} is not equal to the {type(value).__name__} given")
        return payload

    def loads(self, payload: bytes, /) -> T:
        try:
            return self._decode(payload)  # type: ignore[no-any-return]  # the decoder holds it to the type
        except RecursionError as error:
            raise ValueError(str(error)) from error

    def _name(self) -> str:
        return self._kind.__name__ if isinstance(self._kind, type) else str(self._kind)

    def __repr__(self) -> str:
        return f"seglog.serializers.typed({self._name()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return typed, (self._kind,)


@overload
def typed(kind: type[T], /) -> Serializer[T]: ...
@overload
def typed(kind: Any, /) -> Serializer[Any]: ...
def typed(kind: Any, /) -> Serializer[Any]:
    """Values of one type, stored as JSON.

    Args:
        kind: a dataclass, a msgspec Struct, a TypedDict, a NamedTuple, a builtin, or a type made of these.

    Strict both ways: nothing is converted, a value is accepted only if what reads back is of that type and equal
    to it (so it needs an `__eq__` that compares what it holds, as dataclasses and Structs have).
    Raises ImportError without msgspec (`pip install 'seglog[msgspec]'`), InvalidOption for a type it cannot store.
    """
    return _Typed(kind)


def _msgspec() -> ModuleType:
    try:
        import msgspec.json
        import msgspec.msgpack
    except ImportError as error:
        raise ImportError(
            "seglog.serializers.msgpack and typed need msgspec: pip install 'seglog[msgspec]'", name="msgspec"
        ) from error
    return msgspec


json: Serializer[Any] = _Json()


def __getattr__(name: str) -> Any:
    if name != "msgpack":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _Msgpack()
    return made
