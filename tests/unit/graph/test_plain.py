"""Any value becomes JSON: leniently for events, strictly for results."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from typing import Any

import msgspec
import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Send
from pydantic import AnyUrl, BaseModel, SecretStr

from perdure.graph import plain


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    n: int
    inner: Any = None


@dataclasses.dataclass
class Point:
    x: int
    y: Any


class Metre(float):
    """As numpy's float64 is one: a subclass that orjson does not know."""


class Struct(msgspec.Struct):
    a: int


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": (1, 2.5, None, True)}, {"a": [1, 2.5, None, True]}),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: "int", None: "none"}, {"1": "int", "null": "none"}),
        (Point(1, {2}), {"x": 1, "y": [2]}),
        (Model(n=1, inner=Point(1, 2)), {"n": 1, "inner": {"x": 1, "y": 2}}),
        (Struct(1), {"a": 1}),
        (Colour.RED, "red"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"\x00\xff", {"__bytes__": "AP8="}),
        (Send("node", {"x": 1}), {"node": "node", "input": {"x": 1}}),
        (ValueError("bad"), {"type": "ValueError", "message": "bad"}),
        (2**80, str(2**80)),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ({"\udfff": "\ud800"}, {"\\udfff": "\\ud800"}),
        (Metre(1.5), 1.5),
        ({"huge": 2**64, "rest": Metre(2)}, {"huge": str(2**64), "rest": 2.0}),
        (decimal.Decimal("1.10"), "1.10"),
        (fractions.Fraction(1, 3), "1/3"),
        (pathlib.Path("a/b"), "a/b"),
        (datetime.timedelta(minutes=1.5), 90.0),
        (datetime.time(1, 2, tzinfo=datetime.UTC), "01:02:00+00:00"),
        (zoneinfo.ZoneInfo("UTC"), "UTC"),
        (re.compile("a+"), "a+"),
        (collections.deque([1, 2]), [1, 2]),
        (ipaddress.ip_address("::1"), "::1"),
        (Model(n=1, inner={decimal.Decimal(1), decimal.Decimal(2)}), {"n": 1, "inner": ["1", "2"]}),
        (Model(n=1, inner=SecretStr("hush")), {"n": 1, "inner": "**********"}),
        (Model(n=1, inner=AnyUrl("http://a.test/b")), {"n": 1, "inner": "http://a.test/b"}),
        (Point(1, {"p": pathlib.Path("x"), "c": Colour.RED}), {"x": 1, "y": {"p": "x", "c": "red"}}),
        ({(1, 2): "tuple key"}, {"(1, 2)": "tuple key"}),
    ],
)
def test_values_become_plain_json(value: Any, expected: Any) -> None:
    assert plain.plain(value) == expected
    assert plain.plain([value]) == [expected]


def test_messages_become_plain_dicts() -> None:
    told = plain.plain([HumanMessage("hi", id="1"), AIMessage("yes", id="2")])
    assert [(m["type"], m["content"], m["id"]) for m in told] == [("human", "hi", "1"), ("ai", "yes", "2")]


@pytest.mark.parametrize("value", [Opaque(), Hostile(), CYCLE, object, lambda: None, complex(1, 2), float("nan")])
def test_an_event_never_fails_because_of_a_value(value: Any) -> None:
    told = orjson.loads(plain.encode({"here": value}))
    assert "here" in told


def test_what_has_no_json_form_is_shown_and_marked() -> None:
    assert plain.plain(Opaque()) == {"__repr__": "<opaque>", "type": f"{__name__}.Opaque"}


def test_deep_values_end_in_text_instead_of_an_error() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    assert b"__repr__" in plain.encode(deep)
    assert b"__repr__" in plain.encode({"surrogates take": "the slow way \ud800", "deep": deep})


def test_what_a_request_may_hold_comes_through_unchanged() -> None:
    deep: Any = 2**70
    for _ in range(200):
        deep = {"a": deep}
    assert b"__repr__" not in plain.encode(deep)


def test_a_number_of_ten_thousand_digits_is_told_in_events() -> None:
    assert plain.plain({"n": 10**10_000})["n"].startswith("0x")


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**4_000])
def test_a_result_refuses_integers_that_json_cannot_hold_exactly(value: int) -> None:
    with pytest.raises(plain.Unserializable, match=r"a\[0\] is an integer of more than 64 bits.*make it a text"):
        plain.encode_strictly({"a": [value]})


def test_numpys_values_are_numbers_and_lists() -> None:
    """Also those that orjson knows only with an option, and in results."""
    numpy = pytest.importorskip("numpy")
    value = {
        "f64": numpy.float64(1.5),
        "f32": [numpy.float32(0.5)],
        "i": numpy.int64(3),
        "b": numpy.bool_(True),
        "a": numpy.array([[1, 2], [3, 4]]),
    }
    expected = {"f64": 1.5, "f32": [0.5], "i": 3, "b": True, "a": [[1, 2], [3, 4]]}
    assert plain.plain(value) == expected
    assert orjson.loads(plain.encode_strictly(value)) == expected
    big = numpy.zeros(plain.ARRAY_MAX + 1)
    assert "__repr__" in plain.plain(big)
    with pytest.raises(plain.Unserializable, match=r"numpy\.ndarray"):
        plain.encode_strictly(big)


@pytest.mark.parametrize(
    ("value", "path"),
    [({"rows": [1, {"cell": complex(1, 2)}]}, "rows[1].cell"), ({"a": CYCLE}, "a[0]"), (Opaque(), "")],
)
def test_a_result_that_has_no_json_form_says_where(value: Any, path: str) -> None:
    with pytest.raises(plain.Unserializable) as caught:
        plain.encode_strictly(value)
    assert caught.value.path == path


def test_a_plain_result_is_the_same_either_way() -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)
    value = {
        "at": [when, when.replace(tzinfo=None), when.time()],
        "how": Colour.RED,
        "much": decimal.Decimal("1.0"),
        "messages": [HumanMessage("hi", id="1")],
        "when": datetime.date(2026, 1, 2),
        "set": {1, 2},
        "n": 2**63,
    }
    assert plain.encode_strictly(value) == plain.encode(value)
