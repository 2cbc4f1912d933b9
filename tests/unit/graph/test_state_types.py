"""The author's classes in a state come back from checkpoints as what they were, or are refused by name."""

from __future__ import annotations

import dataclasses
from http import HTTPMethod, HTTPStatus
from typing import Any, TypedDict

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from state_classes import (
    Colour,
    Everything,
    Fleet,
    Leaf,
    Level,
    Machine,
    Part,
    Spot,
    Tree,
)

from perdure.checkpoint import ValkeySaver
from perdure.graph.outcome import Failed, Finished, Paused
from perdure.graph.registry import GraphRegistry
from perdure.valkey.connection import Client

pytestmark = pytest.mark.anyio

TREE = Tree({"a": [Leaf(Level.HIGH)]}, Spot(1, Colour.RED))
MACHINE = Machine(parts=[Part(n=1)], main=Part(n=2))
MADE: Everything = {"tree": TREE, "trees": {"t": (TREE,)}, "fleet": Fleet([MACHINE]), "status": HTTPStatus.OK}


def flow(make: Any, look: Any, schema: Any = Everything) -> Any:
    graph = StateGraph(schema)
    graph.add_node("make", make)
    graph.add_node("look", look)
    graph.add_edge(START, "make")
    graph.add_edge("make", "look")
    return graph


@pytest.fixture
def store_url(valkey: Any) -> str:
    """Only the real saver has an allow-list by itself."""
    return str(valkey.url)


@pytest.mark.parametrize("inside", [False, True])
async def test_declared_classes_survive_a_question_and_a_lost_worker(deploy: Any, inside: bool) -> None:
    """Nested in each other, in unions, lists, mappings and NewTypes; in a graph and in a subgraph."""
    seen: list[Everything] = []

    def look(state: Everything) -> Everything:
        interrupt("well?")
        seen.append(state)
        return {}

    graph = flow(lambda state: MADE, look)
    if inside:
        outer = StateGraph(Everything)
        outer.add_node("sub", graph.compile())
        outer.add_edge(START, "sub")
        graph = outer
    house = deploy(agent=graph)
    ref = await house.submit("agent", {})
    paused = await house.attempt(ref)
    assert isinstance(paused, Paused)
    await house.store.resume(ref, value=1)
    assert isinstance(await house.attempt(ref, "w-b"), Finished)
    (state,) = seen
    assert state["tree"] == TREE
    assert isinstance(state["trees"]["t"][0].spot, Spot)
    assert list(state["fleet"]) == [MACHINE]
    assert state["status"] is HTTPStatus.OK


async def test_what_a_task_function_returned_is_the_same_class_after_a_lost_worker(deploy: Any) -> None:
    """Nothing declares it, but it is defined beside the function."""
    seen: list[Any] = []

    @task
    async def make() -> Any:
        return Beside(3)

    @entrypoint()
    async def agent(n: int) -> int:
        made = await make()
        seen.append(made)
        interrupt("well?")
        return n

    house = deploy(agent=agent)
    ref = await house.submit("agent", 1)
    paused = await house.attempt(ref)
    assert isinstance(paused, Paused)
    await house.store.resume(ref, value=1)
    assert isinstance(await house.attempt(ref, "w-b"), Finished)
    assert seen == [Beside(3), Beside(3)]


@dataclasses.dataclass
class Beside:
    n: int


@pytest.mark.parametrize("wrapped", [lambda v: v, lambda v: [{"deep": v}], lambda v: {v}, lambda v: Leaf(v)])
async def test_an_undeclared_class_fails_the_task_at_once_and_says_how_to_mend_it(deploy: Any, wrapped: Any) -> None:
    house = deploy(agent=flow(lambda state: {"loose": wrapped(HTTPMethod.GET)}, lambda state: {}))
    outcome = await house.attempt(await house.submit("agent", {}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error.node) == ("unserializable", "make")
    for words in ("key 'loose' of node 'make'", "http.HTTPMethod", "state's schema", "allowed_msgpack_modules"):
        assert words in outcome.error.message


async def test_a_class_that_cannot_be_found_by_its_name_fails_the_task(deploy: Any) -> None:
    @dataclasses.dataclass
    class Hidden:
        n: int

    class State(TypedDict):
        hidden: Any

    house = deploy(agent=flow(lambda state: {"hidden": Hidden(1)}, lambda state: {}, State))
    outcome = await house.attempt(await house.submit("agent", {}))
    assert isinstance(outcome, Failed)
    assert "define the class at the top of its module" in outcome.error.message


async def test_a_question_may_hold_any_class(deploy: Any) -> None:
    """Its payload becomes JSON for the person who answers, and nobody reads it back as an object."""
    house = deploy(agent=flow(lambda state: {}, lambda state: {"loose": interrupt({"how": HTTPMethod.GET})}))
    paused = await house.attempt(await house.submit("agent", {}))
    assert isinstance(paused, Paused)
    assert paused.interrupts[0].value == {"how": "GET"}


async def test_a_reader_that_is_bound_sees_the_classes_too(deploy: Any, store_url: str) -> None:
    graph = flow(lambda state: MADE, lambda state: {}).compile()
    house = deploy(agent=graph)
    ref = await house.submit("agent", {})
    await house.attempt(ref)
    loaded = await GraphRegistry.of({"agent": graph}).load("agent")
    async with Client(store_url) as client:
        reader = graph.copy({"checkpointer": loaded.bind(ValkeySaver(client))})
        snapshot = await reader.aget_state({"configurable": {"thread_id": house.thread_id}})
    assert snapshot.values["tree"] == TREE
