"""Plain JSON out of any Python value: leniently for events, strictly for results."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import ipaddress
import pathlib
import re
import sys
import uuid
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import msgspec
import orjson
from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import BaseModel

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS
# Deeper values are shown as text: orjson gives up at 254 levels. All that the gateway takes (200) passes.
DEPTH_MAX: Final = 220
ARRAY_MAX: Final = 100_000
"""Longer arrays are shown as text in events, and refused in results."""
REPR_MAX: Final = 500
_INT_MAX: Final = 2**63
# Their text is their usual JSON form, which is also pydantic's.
_TEXTS: Final = (
    Decimal,
    Fraction,
    pathlib.PurePath,
    uuid.UUID,
    datetime.tzinfo,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
# Where pydantic's own values are defined: addresses, and secrets, whose text is all stars.
_PYDANTICS: Final = frozenset(("pydantic.types", "pydantic.networks", "pydantic_core._pydantic_core"))


class Unserializable(Exception):
    """A value that has no JSON form. `path` is the way to it from the top, such as `report.rows[3]`."""

    def __init__(self, path: str, kind: str, fault: str = "which has no JSON form") -> None:
        self.path = path
        self.kind = kind
        article = "an" if kind[0] in "aeiou" else "a"
        super().__init__(f"{path or 'the value'} is {article} {kind}, {fault}")


def encode(value: object) -> bytes:
    """JSON bytes of any value; never fails.

    Messages, pydantic models, dataclasses, dates, decimals, paths, arrays and sets become plain JSON; bytes become
    `{"__bytes__": base64}`; integers beyond 64 bits become texts; a lone surrogate in a text becomes its escape,
    `\\ud800`; whatever has no JSON form becomes `{"__repr__": text, "type": name}`.
    """
    try:
        return orjson.dumps(value, default=_simpler, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Rare: huge integers, odd keys, lone surrogates, cycles. The slow way replaces exactly those.
        return orjson.dumps(_plain(value, "", (), strict=False), option=_OPTIONS)


def encode_strictly(value: object) -> bytes:
    """JSON bytes of a value, by the rules of `encode`, or Unserializable with the way to the part that has no JSON
    form; an integer beyond 64 bits has none, as no two readers of JSON agree on it."""
    return orjson.dumps(_plain(value, "", (), strict=True), option=_OPTIONS)


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 can hold, replaced by their escapes."""
    return str(text) if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


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
    if isinstance(value, float):
        return float(value)
    known = _known(value)
    return known if known is not None else _shown(value)


def _plain(value: object, path: str, above: tuple[int, ...], *, strict: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, above, strict=strict)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        if -_INT_MAX <= value < 2 * _INT_MAX:
            return int(value)
        if strict:
            raise Unserializable(path, "integer of more than 64 bits", "which JSON cannot hold exactly; make it a text")
        return _digits(int(value))
    if isinstance(value, str):
        return well_formed(value)
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
    """A simpler form of a value that orjson does not know, one level down; None if there is none."""
    if isinstance(value, _TEXTS) or type(value).__module__ in _PYDANTICS:
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, re.Pattern):
        return str(value.pattern)
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, Send):
        return {"node": value.node, "input": value.arg}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return _from_numpy(value)


def _from_numpy(value: object) -> object | None:
    """What an array or a scalar of numpy holds. Whoever has such a value has imported numpy; nobody else need."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.generic):
        item: object = value.item()
        # Some scalars, such as long doubles, have no Python form and give themselves back.
        return None if isinstance(item, numpy.generic) else item
    if isinstance(value, numpy.ndarray) and value.size <= ARRAY_MAX:
        items: object = value.tolist()
        return items
    return None


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:
        # Python refuses to write out thousands of digits in decimal.
        return hex(number)


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
        return well_formed(key)
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
    text = well_formed(text)
    return text if len(text) <= REPR_MAX else text[: REPR_MAX - 1] + "…"
