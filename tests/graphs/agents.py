"""Small graphs that do one thing each, well or badly, and write down what they did into the file `log` of their input.

A node writes one line when it starts and one when it ends, so that a test can count how often each step ran, whatever
was killed meanwhile.
"""

from __future__ import annotations

import asyncio
import ctypes
import operator
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from perdure import emit

STEPS = "abcde"


class State(TypedDict, total=False):
    log: str
    pace: float
    count: int
    item: int
    answers: Annotated[list[Any], operator.add]
    trail: Annotated[list[str], operator.add]


Node = Callable[[State], Awaitable[State]]


def note(state: State, line: str) -> None:
    """Write a line that is on the file whole, or not at all."""
    path = state.get("log")
    if not path:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def one_node(name: str, node: Callable[[State], Any]) -> Any:
    builder = StateGraph(State)
    builder.add_node(name, node)
    builder.add_edge(START, name)
    return builder.compile()


def chain(paced: bool) -> Any:
    builder = StateGraph(State)
    before = START
    for name in STEPS:
        builder.add_node(name, step(name, paced))
        builder.add_edge(before, name)
        before = name
    return builder.compile()


def step(name: str, paced: bool) -> Node:
    async def run(state: State) -> State:
        note(state, f"start {name}")
        if paced:
            await asyncio.sleep(state.get("pace", 0.5))
        note(state, f"end {name}")
        return {"trail": [name]}

    return run


echo = chain(paced=False)
slow = chain(paced=True)


async def talk(state: State) -> State:
    """`count` custom events over `pace` seconds."""
    for n in range(state["count"]):
        emit("THOUGHT", n=n)
        await asyncio.sleep(state["pace"] / state["count"])
    return {"trail": ["talk"]}


speaks = one_node("talk", talk)


async def item(state: State) -> State:
    """Even items are quick, odd ones take their time, so that a step can be cut when half of it is done."""
    note(state, f"start {state['item']}")
    await asyncio.sleep(state["pace"] if state["item"] % 2 else 0)
    note(state, f"end {state['item']}")
    return {"answers": [state["item"]]}


def spread(state: State) -> list[Send]:
    return [Send("item", {**state, "item": n, "answers": [], "trail": []}) for n in range(state["count"])]


fan_builder = StateGraph(State)
fan_builder.add_node("item", item)
fan_builder.add_node("gather", step("gather", paced=False))
fan_builder.add_conditional_edges(START, spread, ["item"])
fan_builder.add_edge("item", "gather")
fan = fan_builder.compile()


@task
async def part(log: str, n: int, pace: float) -> int:
    note({"log": log}, f"start {n}")
    await asyncio.sleep(pace)
    note({"log": log}, f"end {n}")
    return n


@entrypoint()
async def functional(given: State) -> dict[str, list[int]]:
    return {"parts": [await part(given["log"], n, given["pace"]) for n in range(given["count"])]}


async def question(state: State) -> State:
    note(state, "start question")
    answer = interrupt({"question": "May I?"})
    note(state, f"end question {answer}")
    return {"answers": [answer]}


ask_builder = StateGraph(State)
ask_builder.add_node("before", step("before", paced=False))
ask_builder.add_node("question", question)
ask_builder.add_node("after", step("after", paced=False))
ask_builder.add_edge(START, "before")
ask_builder.add_edge("before", "question")
ask_builder.add_edge("question", "after")
ask = ask_builder.compile()


async def two_questions(state: State) -> State:
    return {"answers": [interrupt("first?"), interrupt("second?")]}


ask_twice = one_node("question", two_questions)


async def fail(state: State) -> State:
    raise ValueError("the plan is impossible")


raises = one_node("plan", fail)


async def forty_two(state: State) -> Any:
    return 42


wrong_type = one_node("plan", forty_two)


async def lock(state: State) -> State:
    return {"answers": [threading.Lock()]}


unserialisable = one_node("plan", lock)


async def forever(state: State) -> State:
    note(state, "start forever")
    await asyncio.Event().wait()
    return {}


hangs = one_node("forever", forever)


def in_a_thread(state: State) -> State:
    note(state, "start forever")
    threading.Event().wait()
    return {}


hangs_in_a_thread = one_node("forever", in_a_thread)


async def eats_the_loop(state: State) -> State:
    note(state, "start block")
    time.sleep(state["pace"])  # noqa: ASYNC251 - what must not be done, done on purpose
    note(state, "end block")
    return {"trail": ["block"]}


blocks = one_node("block", eats_the_loop)


async def leave(state: State) -> State:
    note(state, "start leave")
    os._exit(9)


exits = one_node("leave", leave)


async def segfault(state: State) -> State:
    note(state, "start crash")
    ctypes.string_at(0)
    return {}


crashes = one_node("crash", segfault)
