"""LangGraph graphs behave on the saver exactly as on LangGraph's own in-memory saver."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, StateSnapshot, interrupt

from perdure.checkpoint import ValkeySaver
from perdure.clock import SystemClock
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.lease import Lease
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import make_spec, ref_of
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio
Saver = BaseCheckpointSaver[str]
Config = RunnableConfig


@pytest.fixture(params=["standalone", "fenced"])
async def saver(valkey: EmbeddedValkey, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Saver, Config]]:
    """A saver and the config of a thread that it may write to, alone and as the holder of a lease."""
    async with Client(valkey.url) as client:
        lease: Lease | None = None
        thread_id = str(uuid.uuid4())
        if request.param == "fenced":
            store = await ValkeyStore.open(client, SystemClock())
            spec = make_spec()
            await store.create(spec)
            claim = await store.claim(ref_of(spec), WorkerId("w"), 60_000)
            assert claim is not None
            lease, thread_id = claim.lease, spec.thread_id
            await store.aclose()
        made = ValkeySaver(client, lease=lease)
        yield made, {"configurable": {"thread_id": thread_id}}
        await made.aclose()


class Names:
    """Gives ids that differ from run to run the same names in the order in which they are met."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        return self._names.setdefault(value, f"id{len(self._names)}")


def shape(snapshots: list[StateSnapshot]) -> list[object]:
    """Everything of a history that may not depend on the saver."""
    name = Names()
    return [
        (
            snapshot.values,
            snapshot.next,
            {k: v for k, v in (snapshot.metadata or {}).items() if k != "parents"},
            name(snapshot.config["configurable"]["checkpoint_id"]),
            name(snapshot.parent_config["configurable"]["checkpoint_id"]) if snapshot.parent_config else None,
            [
                (t.name, t.path, type(t.error), t.result, [i.value for i in t.interrupts], t.state is not None)
                for t in snapshot.tasks
            ],
        )
        for snapshot in snapshots
    ]


async def history(graph: Any, config: Config) -> list[StateSnapshot]:
    return [snapshot async for snapshot in graph.aget_state_history(config)]


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    big: str
    count: int


class Fan(TypedDict):
    out: Annotated[list[str], operator.add]
    n: int


class Inner(TypedDict):
    log: Annotated[list[str], operator.add]


class Pair(TypedDict):
    out: Annotated[list[str], operator.add]


def joined(state: list[str], writes: list[list[str]]) -> list[str]:
    """An order-sensitive reducer that keeps order over any batching."""
    return [*state, *(item for write in writes for item in write)]


class OftenSnapshot(TypedDict):
    out: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=2)]
    turn: int


class SeldomSnapshot(TypedDict):
    out: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=100)]
    turn: int


async def both(saver: tuple[Saver, Config], play: Callable[[Saver, Config], Any]) -> None:
    """Play the same on both savers and compare all that `play` returns."""
    ours = await play(*saver)
    theirs = await play(InMemorySaver(), {"configurable": {"thread_id": "reference"}})
    assert ours == theirs


def stepper() -> StateGraph[Any, Any, Any, Any]:
    def step(state: State) -> dict[str, Any]:
        count = state.get("count", 0) + 1
        return {"log": [f"step {count}"], "big": f"{count}" * 5000, "count": count}

    def more(state: State) -> Literal["step", "ask"]:
        return "step" if state["count"] % 3 else "ask"

    def ask(state: State) -> dict[str, Any]:
        return {"log": [f"answer {interrupt({'question': state['count']})}"]}

    return (
        StateGraph(State)
        .add_node("step", step)
        .add_node("ask", ask)
        .add_edge(START, "step")
        .add_conditional_edges("step", more)
        .add_edge("ask", END)
    )


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_history_interrupt_resume_and_time_travel(
    saver: tuple[Saver, Config], durability: Literal["sync", "async", "exit"]
) -> None:
    """Resume, replay from an older checkpoint, a fork by update_state, and all tasks' results in the history."""

    async def play(saver: Saver, config: Config) -> list[object]:
        graph = stepper().compile(checkpointer=saver)
        seen: list[object] = []
        seen.append(await graph.ainvoke({"log": ["start"]}, config, durability=durability))
        seen[-1].pop("__interrupt__")  # type: ignore[attr-defined]
        seen.append(shape(await history(graph, config)))
        seen.append(await graph.ainvoke(Command(resume="yes"), config, durability=durability))
        past = await history(graph, config)
        seen.append(shape(past))
        middle = past[len(past) // 2]
        replayed = await graph.ainvoke(None, middle.config, durability=durability)
        replayed.pop("__interrupt__", None)
        seen.append(replayed)
        forked = await graph.aupdate_state(middle.config, {"log": ["fork"], "count": 0}, as_node="step")
        again = await graph.ainvoke(None, forked, durability=durability)
        again.pop("__interrupt__", None)
        seen.append(again)
        seen.append(shape(await history(graph, config)))
        seen.append(shape([await graph.aget_state(middle.config)]))
        return seen

    await both(saver, play)


async def test_parallel_writers_and_sends_apply_in_order_after_a_resume(saver: tuple[Saver, Config]) -> None:
    """Half of a fan-out is done when one task asks; the answer completes it without repeating the others."""

    async def play(saver: Saver, config: Config) -> list[object]:
        ran: list[int] = []

        def work(state: Fan) -> dict[str, Any]:
            n = state["n"]
            if n == 3:
                return {"out": [f"{n}:{interrupt('which?')}"]}
            ran.append(n)
            return {"out": [f"{n}"]}

        def fan(state: Fan) -> list[Send]:
            return [Send("work", {"n": n}) for n in (4, 1, 3, 0, 2)]

        graph = (
            StateGraph(Fan)
            .add_node("work", work)
            .add_conditional_edges(START, fan, ["work"])
            .compile(checkpointer=saver)
        )
        await graph.ainvoke({"out": [], "n": 0}, config)
        state = await graph.aget_state(config)
        result = await graph.ainvoke(Command(resume="this"), config)
        return [sorted(ran), shape([state]), result, shape(await history(graph, config))]

    await both(saver, play)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("schema", [OftenSnapshot, SeldomSnapshot])
async def test_delta_channels_are_rebuilt_in_order(
    saver: tuple[Saver, Config], schema: type[Any], durability: Literal["sync", "async", "exit"]
) -> None:
    """Five parallel writers a step into an order-sensitive delta channel, read back by a fresh graph."""

    async def play(saver: Saver, config: Config) -> list[object]:
        def writer(name: str) -> Any:
            return lambda state: {"out": [f"{name}{state['turn']}:{len(state['out'])}"]}

        def build() -> Any:
            builder: StateGraph[Any, Any, Any, Any] = StateGraph(schema)
            builder.add_node("next", lambda state: {"turn": state["turn"] + 1, "out": ["|"]})
            builder.add_edge(START, "next")
            for name in "ecadb":
                builder.add_node(name, writer(name))
                builder.add_edge("next", name)
                builder.add_edge(name, "end")
            builder.add_node("end", lambda state: {"out": ["."]})
            builder.add_conditional_edges("end", lambda state: "next" if state["turn"] < 3 else END, ["next", END])
            return builder.compile(checkpointer=saver)

        first = await build().ainvoke({"turn": 0, "out": ["in"]}, config, durability=durability)
        read = (await build().aget_state(config)).values
        assert read == first
        await build().aupdate_state(config, {"out": ["corrected"]}, as_node="end")
        second = await build().ainvoke({"turn": 1}, config, durability=durability)
        past = await history(build(), config)
        return [first, second, shape(past), (await build().aget_state(past[-2].config)).values]

    await both(saver, play)


async def test_subgraphs_keep_their_own_checkpoints(saver: tuple[Saver, Config]) -> None:
    """An interrupt two graphs down, read with subgraphs=True, answered, and the subgraph's history."""

    async def play(saver: Saver, config: Config) -> list[object]:
        def ask(state: Inner) -> dict[str, Any]:
            return {"log": [f"asked {interrupt('deep?')}"]}

        deep = StateGraph(Inner).add_node("ask", ask).add_edge(START, "ask").compile()
        inner = (
            StateGraph(Inner)
            .add_node("before", lambda state: {"log": ["before"]})
            .add_node("deep", deep)
            .add_edge(START, "before")
            .add_edge("before", "deep")
            .compile()
        )
        graph = StateGraph(Inner).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)
        await graph.ainvoke({"log": ["start"]}, config)
        state = await graph.aget_state(config, subgraphs=True)
        child = state.tasks[0].state
        assert isinstance(child, StateSnapshot)
        grandchild = child.tasks[0].state
        assert isinstance(grandchild, StateSnapshot)
        result = await graph.ainvoke(Command(resume="yes"), config)
        return [
            shape([state]),
            child.values,
            grandchild.values,
            grandchild.next,
            result,
            shape(await history(graph, config)),
            len(await history(graph, child.config)),
        ]

    await both(saver, play)


async def test_the_functional_api_does_not_repeat_finished_tasks(saver: tuple[Saver, Config]) -> None:
    """@task results survive an interrupt of their @entrypoint; `previous` comes back on the next call."""

    async def play(saver: Saver, config: Config) -> list[object]:
        ran: list[str] = []

        @task
        async def slow(name: str) -> str:
            ran.append(name)
            return name * 600

        @entrypoint(checkpointer=saver)
        async def flow(name: str, *, previous: Any = None) -> Any:
            first = await slow(name)
            answer = interrupt("go on?")
            return [previous and previous[0], first, answer]

        await flow.ainvoke("a", config)
        one = await flow.ainvoke(Command(resume="yes"), config)
        await flow.ainvoke("b", config)
        two = await flow.ainvoke(Command(resume="no"), config)
        return [one, two, ran]

    await both(saver, play)


async def test_a_failed_step_is_retried_without_its_finished_siblings(saver: tuple[Saver, Config]) -> None:
    """One of two parallel nodes raises; calling again runs only that one."""

    async def play(saver: Saver, config: Config) -> list[object]:
        ran: list[str] = []

        done = asyncio.Event()

        async def good(state: Pair) -> dict[str, Any]:
            ran.append("good")
            done.set()
            return {"out": ["good"]}

        async def bad(state: Pair) -> dict[str, Any]:
            ran.append("bad")
            await done.wait()
            if ran.count("bad") == 1:
                raise ValueError("first time")
            return {"out": ["bad"]}

        graph = (
            StateGraph(Pair)
            .add_node("good", good)
            .add_node("bad", bad)
            .add_edge(START, "good")
            .add_edge(START, "bad")
            .compile(checkpointer=saver)
        )
        with pytest.raises(ValueError, match="first time"):
            await graph.ainvoke({"out": []}, config)
        failed = await graph.aget_state(config)
        result = await graph.ainvoke(None, config)
        return [sorted(ran), failed.next, result]

    await both(saver, play)


@pytest.fixture
def sync_saver(valkey: EmbeddedValkey) -> Iterator[ValkeySaver]:
    with ValkeySaver.from_url(valkey.url) as made:
        yield made


def test_the_same_from_synchronous_code(sync_saver: ValkeySaver) -> None:
    """invoke, get_state_history, update_state and stream without an event loop."""

    def play(saver: Saver, thread_id: str) -> list[object]:
        config: Config = {"configurable": {"thread_id": thread_id}}
        graph = stepper().compile(checkpointer=saver)
        graph.invoke({"log": ["start"]}, config)
        result = graph.invoke(Command(resume="yes"), config)
        past = list(graph.get_state_history(config))
        forked = graph.update_state(past[3].config, {"log": ["fork"]}, as_node="step")
        again = graph.invoke(None, forked)
        again.pop("__interrupt__", None)
        return [result, shape(past), again, shape(list(graph.get_state_history(config, limit=3)))]

    assert play(sync_saver, str(uuid.uuid4())) == play(InMemorySaver(), "reference")
