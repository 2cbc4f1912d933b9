"""Graphs that do as little as possible, so that what is measured is the house around them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """A word in, a trail out."""

    text: str
    trail: Annotated[list[str], operator.add]


Node = Callable[[State], Awaitable[dict[str, Any]]]


def node(name: str, seconds: float) -> Node:
    """A node that leaves its name on the trail."""

    async def run(state: State) -> dict[str, Any]:
        if seconds:
            await asyncio.sleep(seconds)
        return {"trail": [name]}

    return run


def chain(names: str, seconds: float = 0.0) -> StateGraph[State]:
    """Nodes one after another."""
    builder = StateGraph(State)
    previous = START
    for name in names:
        builder.add_node(name, node(name, seconds))
        builder.add_edge(previous, name)
        previous = name
    return builder


async def talk(state: State) -> dict[str, Any]:
    """10,000 small custom events as fast as they can be said."""
    write = get_stream_writer()
    for number in range(10_000):
        write({"n": number})
        if number % 100 == 99:
            await asyncio.sleep(0)
    return {"trail": ["talked"]}


graph = chain("abc").compile()
slow = chain("abcdefgh", 0.4).compile()
_talker = StateGraph(State)
_talker.add_node("talk", talk)
_talker.add_edge(START, "talk")
chatter = _talker.compile()
