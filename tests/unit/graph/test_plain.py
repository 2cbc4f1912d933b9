"""Any value becomes JSON: leniently for events, strictly for results."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from typing import Any

import msgspec
import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Send
from pydantic import BaseModel

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
        ("lone \ud800 surrogate", "lone ? surrogate"),
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


@pytest.mark.parametrize(
    ("value", "path"),
    [({"rows": [1, {"cell": complex(1, 2)}]}, "rows[1].cell"), ({"a": CYCLE}, "a[0]"), (Opaque(), "")],
)
def test_a_result_that_has_no_json_form_says_where(value: Any, path: str) -> None:
    with pytest.raises(plain.Unserializable) as caught:
        plain.encode_strictly(value)
    assert caught.value.path == path


def test_a_plain_result_is_the_same_either_way() -> None:
    value = {"messages": [HumanMessage("hi", id="1")], "when": datetime.date(2026, 1, 2), "set": {1, 2}, "n": 2**63}
    assert plain.encode_strictly(value) == plain.encode(value)
