"""Reads a request's body within bounds and turns it into a typed value, or says which field is wrong."""

from __future__ import annotations

import json
import math
import re
from array import array
from itertools import accumulate
from typing import Any, Final, TypeVar

import msgspec
import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from perdure.errors import InvalidRequest
from perdure.gateway.access import Headers
from perdure.gateway.problems import TooLarge, WrongMediaType
from perdure.gateway.settings import GatewaySettings

T = TypeVar("T")

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
# Digits become `0` and `E` becomes `e`, so that suspicious numbers are found by searching for a few words.
_SHAPE: Final = bytes.maketrans(b"123456789E", b"000000000e")
_DIGITS: Final = b"0" * 19
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_PLACE: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD: Final = re.compile(r"(unknown|missing required) field `(.*)`")


async def read_body(receive: Receive, headers: Headers, bound: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to be over `bound`, without reading on."""
    if headers.content_length is not None:
        try:
            announced = int(headers.content_length)
        except ValueError:
            raise InvalidRequest(("", "Content-Length is not a number")) from None
        if announced > bound:
            raise _too_large(bound)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > bound:
            raise _too_large(bound)
        return body
    parts, size = [body], len(body)
    while True:
        if size > bound:
            raise _too_large(bound)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])


def check_json(body: bytes, headers: Headers, settings: GatewaySettings) -> None:
    """Raise unless the body says that it is JSON, is UTF-8, and is not nested beyond the bound."""
    kind = headers.content_type
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise WrongMediaType("send the body as `Content-Type: application/json`")
    if not body:
        raise InvalidRequest(("", "the body is empty; send a JSON object"))
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(("", f"the body is not UTF-8: byte {error.start} is wrong")) from None
    if body.count(b"[") + body.count(b"{") > settings.depth_max and depth(body) > settings.depth_max:
        raise InvalidRequest(("", f"the body is nested deeper than {settings.depth_max} levels; flatten it"))
    if b"\\u" in body:
        # Half a surrogate pair is JSON's grammar but no text: it could be stored and never be read again.
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(("", f"the body is not JSON: {error}")) from None
    if b"NaN" in body or b"Infinity" in body or _suspicious(body):
        _check_numbers(body)


def escaped(name: str) -> str:
    """A name as one part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _suspicious(body: bytes) -> bool:
    """Might a number be too large to be kept? Costs two passes in C; only then are strings told from numbers."""
    shape = body.translate(_SHAPE)
    return _has_odd_shape(shape) and _has_odd_shape(_STRING.sub(b"", shape))


def _has_odd_shape(shape: bytes) -> bool:
    return _DIGITS in shape or b"e000" in shape or b"e+000" in shape


def _check_numbers(body: bytes) -> None:
    """Raise for a number that no JSON reader keeps: not finite, or an integer beyond 64 bits."""
    try:
        value = json.loads(body, parse_int=_integer)
    except ValueError:
        return  # Not JSON at all: whoever decodes it says where.
    pointer = _odd_number(value, "")
    if pointer is not None:
        raise InvalidRequest(
            (pointer, "this number cannot be kept: send finite numbers and integers of at most 64 bits, others as text")
        )


def _integer(digits: str) -> float:
    if len(digits) > 20 or not _INT_MIN <= int(digits) <= _INT_MAX:
        return math.inf
    return 0


def _odd_number(value: Any, pointer: str) -> str | None:
    """Where the first number lies that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else pointer
    if isinstance(value, dict):
        parts = ((escaped(key), item) for key, item in value.items())
    elif isinstance(value, list):
        parts = ((str(index), item) for index, item in enumerate(value))
    else:
        return None
    for name, item in parts:
        found = _odd_number(item, f"{pointer}/{name}")
        if found is not None:
            return found
    return None


def depth(body: bytes) -> int:
    """How deep the brackets outside of strings are nested. Runs in C over the brackets alone."""
    steps = _STRING.sub(b"", body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(array("b", steps)), default=0)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw, under: str = "") -> T:
    """The typed value, or InvalidRequest with the JSON pointer of the field. `under` is where `body` was found."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_located(str(error), under)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest((under, f"this is not JSON: {error}")) from None
    except UnicodeDecodeError:
        raise InvalidRequest((under, "this is not UTF-8")) from None
    except RecursionError:
        raise InvalidRequest((under, "this is nested too deeply; flatten it")) from None


def _located(message: str, under: str) -> tuple[str, str]:
    found = _PLACE.match(message)
    assert found is not None
    what, path = found["what"], found["path"] or ""
    pointer = under + re.sub(r"\.([^.\[]+)|\[([^\]]+)\]", lambda part: "/" + (part[1] or part[2]), path)
    field = _FIELD.search(what)
    if field is not None:
        detail = "there is no such field; see /docs" if field[1] == "unknown" else "this field is required"
        return f"{pointer}/{escaped(field[2])}", detail
    return pointer, what[0].lower() + what[1:]


def _too_large(bound: int) -> TooLarge:
    return TooLarge(f"the body is over {bound} bytes; put large things where the graph can fetch them and send a link")
