"""Plain JSON out of any Python value: leniently for events, strictly for results."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson
from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import BaseModel

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS
# Deeper values are shown as text: orjson gives up at 254 levels. All that the gateway takes (200) passes.
DEPTH_MAX: Final = 220
REPR_MAX: Final = 500
_INT_MAX: Final = 2**63


class Unserializable(Exception):
    """A value that has no JSON form. `path` is the way to it from the top, such as `report.rows[3]`."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind
        super().__init__(f"{path or 'the value'} is a {kind}, which has no JSON form")


def encode(value: object) -> bytes:
    """JSON bytes of any value; never fails.

    Messages, pydantic models, dataclasses, dates and sets become plain JSON; bytes become
    `{"__bytes__": base64}`; whatever has no JSON form becomes `{"__repr__": text, "type": name}`.
    """
    try:
        return orjson.dumps(value, default=_simpler, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Rare: huge integers, odd keys, lone surrogates, cycles. The slow way replaces exactly those.
        return orjson.dumps(_plain(value, "", (), strict=False), option=_OPTIONS)


def encode_strictly(value: object) -> bytes:
    """JSON bytes of a value, or Unserializable with the way to the part that has no JSON form."""
    return orjson.dumps(_plain(value, "", (), strict=True), option=_OPTIONS)


def plain(value: object) -> Any:
    """The value as JSON-ready Python objects, by the rules of `encode`."""
    return orjson.loads(encode(value))


def _simpler(value: object) -> object:
    """One level of `encode`'s rules, for what orjson does not know itself."""
    if isinstance(value, BaseMessage | BaseModel):
        return _fields(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, set | frozenset):
        return _ordered(value)
    known = _known(value)
    return known if known is not None else _shown(value)


def _plain(value: object, path: str, above: tuple[int, ...], *, strict: bool) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # orjson refuses more than 64 bits; as text the digits survive.
        return int(value) if -_INT_MAX <= value < 2 * _INT_MAX else str(int(value))
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode()
    if id(value) in above or len(above) >= DEPTH_MAX:
        if strict:
            raise Unserializable(path, "value that holds itself" if id(value) in above else "value nested too deeply")
        return _shown(value)
    above = (*above, id(value))
    if isinstance(value, Mapping):
        return {
            _key(key, path, strict=strict): _plain(item, f"{path}.{key}" if path else str(key), above, strict=strict)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]", above, strict=strict) for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [_plain(item, f"{path}[]", above, strict=strict) for item in _ordered(value)]
    if isinstance(value, BaseMessage | BaseModel):
        return _plain(_fields(value), path, above, strict=strict)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return _plain(parts, path, above, strict=strict)
    known = _known(value)
    if known is not None:
        return _plain(known, path, above, strict=strict)
    try:
        return orjson.loads(orjson.dumps(value, default=_bytes_only, option=_OPTIONS))
    except (TypeError, ValueError):
        if strict:
            raise Unserializable(path, f"{type(value).__module__}.{type(value).__qualname__}") from None
        return _shown(value)


def _known(value: object) -> object | None:
    """The plain parts of LangGraph's and msgspec's own values, which are no dataclasses."""
    if isinstance(value, Send):
        return {"node": value.node, "input": value.arg}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return None


def _fields(model: BaseMessage | BaseModel) -> Mapping[str, object]:
    """A model's fields; without running its serializers when those fail."""
    try:
        return model.model_dump()
    except Exception:  # noqa: BLE001 - an author's serializer may raise anything, and an event must not fail
        return {name: getattr(model, name, None) for name in type(model).model_fields}


def _bytes_only(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"__bytes__": base64.b64encode(value).decode()}
    raise TypeError


def _ordered(values: set[Any] | frozenset[Any]) -> list[Any]:
    """A set in an order that does not change from process to process, where its members can be compared."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=_text)


def _key(key: object, path: str, *, strict: bool) -> str:
    if isinstance(key, str):
        return str(key).encode("utf-8", "replace").decode()
    try:
        text: str = next(iter(orjson.loads(orjson.dumps({key: None}, option=_OPTIONS))))
    except (TypeError, ValueError):
        if strict:
            raise Unserializable(path, f"mapping with a key of type {type(key).__qualname__}") from None
        return _text(key)
    return text


def _shown(value: object) -> dict[str, str]:
    return {"__repr__": _text(value), "type": f"{type(value).__module__}.{type(value).__qualname__}"}


def _text(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an author's __repr__ may raise anything, and an event must not fail
        text = f"<{type(value).__qualname__}>"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= REPR_MAX else text[: REPR_MAX - 1] + "…"
