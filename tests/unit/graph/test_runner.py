"""One attempt after another: the plain way, kills between steps, drains, failures, artifacts."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections import Counter
from typing import Annotated, Any, TypedDict

import orjson
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Send
from pydantic import BaseModel

from perdure import artifact, emit, idempotency_key
from perdure.errors import LeaseLost, StoreUnavailable
from perdure.graph.author import ARTIFACT_BYTES_MAX
from perdure.graph.outcome import Drained, Failed, Finished
from perdure.graph.registry import GraphRegistry
from perdure.graph.runner import GraphRunner
from perdure.lifecycle.ids import WorkerId

pytestmark = pytest.mark.anyio


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def chain(*nodes: Any, **compile_with: Any) -> Any:
    """A graph of nodes in a row; a name alone is a node that writes its name."""
    graph = StateGraph(Log)
    named = [(n, lambda state, n=n: {"log": [n]}) if isinstance(n, str) else (n.__name__, n) for n in nodes]
    for name, node in named:
        graph.add_node(name, node)
    names = [name for name, _ in named]
    for before, after in zip((START, *names), (*names, END), strict=True):
        graph.add_edge(before, after)
    return graph.compile(**compile_with)


def result_of(outcome: Any) -> Any:
    assert isinstance(outcome, Finished), outcome
    return orjson.loads(outcome.result)


async def test_a_graph_runs_to_its_result_and_tells_every_step(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b"))
    ref = await house.submit("agent", {"log": ["in"]})
    assert result_of(await house.attempt(ref)) == {"log": ["in", "a", "b"]}
    events = await house.events(ref)
    told = [(e.data["name"], e.data["status"]) for e in events if e.method == "tasks"]
    assert told == [("a", "started"), ("a", "finished"), ("b", "started"), ("b", "finished")]
    assert [e.data["step"] for e in events if e.method == "checkpoints"] == [-1, 0, 1, 2]
    assert [e.params["step"] for e in events if e.method == "tasks"] == [1, 1, 2, 2]
    assert events[-1].method == "lifecycle"
    assert events[-1].data["status"] == "succeeded"


async def test_a_finished_steps_events_are_stored_before_its_checkpoint(deploy: Any) -> None:
    """Also in a subgraph, whose stream parts travel through its parent."""
    house = deploy(agent=chain("a", _as_node(chain("x", "y"), "sub"), "c"))
    ref = await house.submit("agent", {"log": []})
    seen: list[tuple[str, int, int]] = []

    async def look(metadata: Any) -> None:
        finished = sum(e.method == "tasks" and e.data["status"] == "finished" for e in await house.events(ref))
        seen.append((metadata["ns"].partition(":")[0], metadata["step"], finished))

    house.on_put = look
    await house.attempt(ref)
    assert seen == [
        ("", -1, 0), ("", 0, 0), ("", 1, 1),
        ("sub", -1, 1), ("sub", 0, 1), ("sub", 1, 2), ("sub", 2, 3),
        ("", 2, 4), ("", 3, 5),
    ]  # fmt: skip


def _as_node(graph: Any, name: str) -> Any:
    graph.__name__ = name
    return graph


async def test_only_the_output_keys_are_the_result(deploy: Any) -> None:
    class State(TypedDict):
        question: str
        answer: str

    class Out(TypedDict):
        answer: str

    graph = StateGraph(State, output_schema=Out)
    graph.add_node("a", lambda state: {"answer": state["question"].upper()})
    graph.add_edge(START, "a")
    house = deploy(agent=graph)
    assert result_of(await house.attempt(await house.submit("agent", {"question": "why"}))) == {"answer": "WHY"}


async def test_a_pydantic_state_makes_a_plain_result(deploy: Any) -> None:
    class State(BaseModel):
        n: int
        tags: set[str] = set()

    graph = StateGraph(State)
    graph.add_node("a", lambda state: {"n": state.n + 1, "tags": {"b", "a"}})
    graph.add_edge(START, "a")
    house = deploy(agent=graph)
    assert result_of(await house.attempt(await house.submit("agent", {"n": 1}))) == {"n": 2, "tags": ["a", "b"]}


# --- killed between steps


async def test_a_killed_task_goes_on_after_its_last_checkpoint_and_says_so(deploy: Any) -> None:
    ran: Counter[str] = Counter()
    gate = asyncio.Event()

    def first(state: Log) -> Log:
        ran["first"] += 1
        return {"log": ["first"]}

    async def second(state: Log) -> Log:
        ran["second"] += 1
        emit("THOUGHT", "half a sentence")
        if ran["second"] == 1:
            gate.set()
            await asyncio.Event().wait()
        return {"log": ["second"]}

    house = deploy(agent=chain(first, second))
    ref = await house.submit("agent", {"log": []})
    await house.killed(ref, gate)
    head = await house.head_id()
    outcome = await house.attempt(ref, "w-b")
    assert result_of(outcome) == {"log": ["first", "second"]}
    assert ran == {"first": 1, "second": 2}
    events = await house.events(ref)
    mine = [e for e in events if e.params["worker"] == "w-b" and e.method != "lifecycle"]
    recovery = mine[0]
    assert (recovery.method, recovery.tag, recovery.data["name"]) == ("custom", "RECOVERY", "recovery")
    assert (recovery.data["dead_worker"], recovery.data["new_worker"]) == ("w-a", "w-b")
    assert recovery.data["attempt"] == 2
    assert recovery.data["rehydrated"]["next"] == ["second"]
    assert recovery.data["rehydrated"]["step"] == 1
    assert recovery.data["from_checkpoint"] == head


async def test_a_task_killed_before_its_first_checkpoint_starts_with_its_input(deploy: Any) -> None:
    house = deploy(agent=chain("a"))
    ref = await house.submit("agent", {"log": ["in"]})
    await house.claim(ref)
    await house.store.abandon(ref.thread, WorkerId("w-a"))
    assert result_of(await house.attempt(ref, "w-b")) == {"log": ["in", "a"]}
    recovery = next(e for e in await house.events(ref) if e.tag == "RECOVERY")
    assert recovery.data["from_checkpoint"] is None


async def test_of_a_half_done_fan_out_only_the_missing_branch_runs_again(deploy: Any) -> None:
    ran: Counter[str] = Counter()
    broken = True

    def fan(state: Log) -> list[Send]:
        return [Send("work", name) for name in ("a", "b", "c")]

    done = asyncio.Event()

    async def work(name: str) -> Log:
        ran[name] += 1
        if name == "c" and broken:
            await asyncio.Event().wait()
        return {"log": [name]}

    graph = StateGraph(Log)
    graph.add_node("start", lambda state: {})
    graph.add_node("work", work)
    graph.add_edge(START, "start")
    graph.add_conditional_edges("start", fan, ["work"])
    stored: list[str] = []

    def look(writes: Any) -> None:
        stored.extend(value[0] for channel, value in writes if channel == "log")
        if sorted(stored) == ["a", "b"]:
            done.set()

    house = deploy(agent=graph)
    house.on_writes = look
    ref = await house.submit("agent", {"log": []})
    await house.killed(ref, done)
    broken = False
    assert result_of(await house.attempt(ref, "w-b")) == {"log": ["a", "b", "c"]}
    assert ran == {"a": 1, "b": 1, "c": 2}
    inputs = [e.data["input"] for e in await house.events(ref) if e.method == "tasks" and "input" in e.data]
    assert set(inputs) == {"a", "b", "c"}


async def test_finished_tasks_of_the_functional_api_are_not_repeated(deploy: Any) -> None:
    ran: Counter[int] = Counter()
    stuck = asyncio.Event()

    @task
    async def square(n: int) -> int:
        ran[n] += 1
        if n == 3 and ran[3] == 1:
            stuck.set()
            await asyncio.Event().wait()
        return n * n

    @entrypoint()
    async def flow(numbers: list[int]) -> dict[str, Any]:
        return {"squares": [await square(n) for n in numbers]}

    house = deploy(agent=flow)
    ref = await house.submit("agent", [1, 2, 3])
    await house.killed(ref, stuck)
    assert result_of(await house.attempt(ref, "w-b")) == {"squares": [1, 4, 9]}
    assert ran == {1: 1, 2: 1, 3: 2}


async def test_an_idempotency_key_is_the_same_in_every_attempt_and_differs_by_call(deploy: Any) -> None:
    keys: list[tuple[str, str]] = []
    gate = asyncio.Event()

    async def pay(state: Log) -> Log:
        keys.append((idempotency_key(), idempotency_key()))
        if len(keys) == 1:
            gate.set()
            await asyncio.Event().wait()
        return {"log": ["paid"]}

    house = deploy(agent=chain("a", pay))
    ref = await house.submit("agent", {"log": []})
    await house.killed(ref, gate)
    await house.attempt(ref, "w-b")
    assert keys[0] == keys[1]
    assert len({*keys[0]}) == 2
    assert keys[0][0].startswith(ref.task_id)


async def test_a_drained_task_stops_between_steps_and_goes_on_elsewhere(deploy: Any) -> None:
    control = RunControl()

    def first(state: Log) -> Log:
        control.request_drain()
        return {"log": ["first"]}

    house = deploy(agent=chain(first, "b"))
    ref = await house.submit("agent", {"log": []})
    assert isinstance(await house.attempt(ref, control=control), Drained)
    assert [e.data["status"] for e in await house.events(ref) if e.method == "tasks"] == ["started", "finished"]
    assert result_of(await house.attempt(ref, "w-b")) == {"log": ["first", "b"]}


async def test_a_second_task_of_a_thread_starts_on_the_state_of_the_first(deploy: Any) -> None:
    house = deploy(agent=chain("a"))
    await house.attempt(await house.submit("agent", {"log": ["one"]}))
    outcome = await house.attempt(await house.submit("agent", {"log": ["two"]}))
    assert result_of(outcome) == {"log": ["one", "a", "two", "a"]}


async def test_a_task_forks_from_an_older_checkpoint(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b"))
    first = await house.submit("agent", {"log": ["in"]})
    await house.attempt(first)
    before_b = next(e.data for e in await house.events(first) if e.method == "checkpoints" and e.data["next"] == ["b"])
    again = await house.submit("agent", None, checkpoint_id=before_b["checkpoint_id"])
    assert result_of(await house.attempt(again)) == {"log": ["in", "a", "b"]}
    assert [e.data["name"] for e in await house.events(again) if e.method == "tasks"] == ["b", "b"]


async def test_a_lost_lease_ends_the_attempt_with_lease_lost(deploy: Any) -> None:
    async def slow(state: Log) -> Log:
        await house.store.abandon(ref.thread, WorkerId("w-a"))
        return {"log": ["slow"]}

    house = deploy(agent=chain(slow, "b"))
    ref = await house.submit("agent", {"log": []})
    claim = await house.claim(ref)
    with pytest.raises(LeaseLost):
        await house.runner.run(claim, RunControl())


async def test_a_store_that_stays_away_ends_the_attempt_and_not_the_task(deploy: Any) -> None:
    async def away(metadata: Any) -> None:
        if metadata["step"] == 1:
            raise StoreUnavailable("away")

    house = deploy(agent=chain("a", "b"))
    house.on_put = away
    ref = await house.submit("agent", {"log": []})
    claim = await house.claim(ref)
    with pytest.raises(StoreUnavailable):
        await house.runner.run(claim, RunControl())
    house.on_put = None
    await house.store.abandon(ref.thread, WorkerId("w-a"))
    assert result_of(await house.attempt(ref, "w-b")) == {"log": ["a", "b"]}


async def test_parallel_tasks_of_a_worker_do_not_hear_each_other(deploy: Any) -> None:
    async def speak(state: Log) -> Log:
        emit("THOUGHT", state["log"][0])
        artifact(state["log"][0], "x")
        return {"log": []}

    first, second = deploy(agent=chain(speak)), deploy(agent=chain(speak))
    refs = [(house, await house.submit("agent", {"log": [name]})) for house, name in ((first, "one"), (second, "two"))]
    await asyncio.gather(*(house.attempt(ref) for house, ref in refs))
    for (house, ref), name in zip(refs, ("one", "two"), strict=True):
        assert [e.data["text"] for e in await house.events(ref) if e.tag == "THOUGHT"] == [name]
        assert [file.name for file in await house.store.artifacts(ref)] == [name]


async def test_user_config_reaches_the_nodes_but_not_our_keys(deploy: Any) -> None:
    seen: dict[str, Any] = {}

    def look(state: Log, config: RunnableConfig) -> Log:
        seen.update(config["configurable"], **config["metadata"])
        return {"log": []}

    house = deploy(agent=chain(look))
    config = {"configurable": {"model": "m", "thread_id": "evil"}, "metadata": {"run_id": "evil", "team": "x"}}
    ref = await house.submit("agent", {"log": []}, config=config)
    await house.attempt(ref)
    assert (seen["model"], seen["team"]) == ("m", "x")
    assert (seen["thread_id"], seen["run_id"]) == (house.thread_id, ref.task_id)


# --- failures


async def test_a_node_that_raises_fails_the_task_with_the_authors_own_frames(deploy: Any) -> None:
    def divide() -> None:
        raise ZeroDivisionError("nothing to divide by")

    def boom(state: Log) -> Log:
        divide()
        return {}

    house = deploy(agent=chain("a", boom))
    ref = await house.submit("agent", {"log": []})
    outcome = await house.attempt(ref)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error.type, outcome.error.node) == ("graph_error", "ZeroDivisionError", "boom")
    assert outcome.error.message == "nothing to divide by"
    trace = outcome.error.traceback or ""
    assert "in divide" in trace
    assert "in boom" in trace
    assert "langgraph" not in trace
    failed = next(e for e in await house.events(ref) if e.tag == "ERROR" and e.method == "tasks")
    assert failed.data["error"] == "ZeroDivisionError: nothing to divide by"


async def test_a_node_that_raises_inside_a_subgraph_is_named_with_its_way(deploy: Any) -> None:
    def boom(state: Log) -> Log:
        raise KeyError("k")

    house = deploy(agent=chain("a", _as_node(chain("x", boom), "sub")))
    outcome = await house.attempt(await house.submit("agent", {"log": []}))
    assert isinstance(outcome, Failed)
    assert outcome.error.node == "sub/boom"


async def test_a_state_that_cannot_be_stored_names_key_and_node(deploy: Any) -> None:
    house = deploy(agent=chain("a", locker))
    outcome = await house.attempt(await house.submit("agent", {"log": []}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error.node) == ("unserializable", "locker")
    assert "key 'log' of node 'locker'" in outcome.error.message
    assert "lock" in outcome.error.message


def locker(state: Log) -> Any:
    return {"log": [threading.Lock()]}


async def test_a_result_that_has_no_json_form_names_key_and_node(deploy: Any) -> None:
    @entrypoint()
    async def flow(n: int) -> Any:
        return {"rows": [1, complex(1, 2)]}

    house = deploy(agent=flow)
    outcome = await house.attempt(await house.submit("agent", 1))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "unserializable"
    assert "complex" in outcome.error.message
    assert "rows[1]" in outcome.error.message or "rows" in outcome.error.message


async def test_a_node_that_returns_the_wrong_type_is_named(deploy: Any) -> None:
    def wrong(state: Log) -> Any:
        return 7

    house = deploy(agent=chain("a", wrong))
    outcome = await house.attempt(await house.submit("agent", {"log": []}))
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, outcome.error.node) == ("InvalidUpdateError", "wrong")


async def test_two_nodes_that_write_one_value_at_once_are_both_named(deploy: Any) -> None:
    class State(TypedDict):
        x: int

    graph = StateGraph(State)
    for name in "ab":
        graph.add_node(name, lambda state: {"x": 1})
        graph.add_edge(START, name)
    house = deploy(agent=graph)
    outcome = await house.attempt(await house.submit("agent", {"x": 0}))
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, outcome.error.node) == ("InvalidUpdateError", "a, b")


async def test_a_graph_that_never_ends_fails_at_its_recursion_limit(deploy: Any) -> None:
    graph = StateGraph(Log)
    graph.add_node("loop", lambda state: {"log": ["x"]})
    graph.add_edge(START, "loop")
    graph.add_edge("loop", "loop")
    house = deploy(agent=graph)
    outcome = await house.attempt(await house.submit("agent", {"log": []}, config={"recursion_limit": 5}))
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "GraphRecursionError"


@pytest.mark.parametrize(
    ("graph", "input", "more", "words"),
    [
        ("nobody", {}, {}, "no graph is named 'nobody'; served are: agent"),
        ("agent", None, {}, "the task needs an input"),
        ("agent", {"log": []}, {"interrupt_before": ["typo"]}, "no node 'typo'; it has: a"),
        ("agent", None, {"checkpoint_id": "gone"}, "has no checkpoint 'gone'"),
    ],
)
async def test_what_cannot_be_run_fails_with_words_that_mend_it(
    deploy: Any, graph: str, input: Any, more: Any, words: str
) -> None:
    house = deploy(agent=chain("a"))
    outcome = await house.attempt(await house.submit(graph, input, **more))
    assert isinstance(outcome, Failed)
    assert words in outcome.error.message


async def test_a_lone_surrogate_in_an_error_an_event_or_a_result_is_shown_as_its_escape(deploy: Any) -> None:
    """UTF-8 has no form for it, and no part of a task's record may fail because of it."""

    def fails(state: Log) -> Any:
        emit("THOUGHT", "half \ud83d")
        raise ValueError("half \ud83d")

    house = deploy(agent=chain(fails), whole=chain(lambda_node))
    ref = await house.submit("agent", {"log": []})
    outcome = await house.attempt(ref)
    assert isinstance(outcome, Failed)
    assert outcome.error.message == "half \\ud83d"
    assert "half \\ud83d" in (outcome.error.traceback or "")
    assert [e.data["text"] for e in await house.events(ref) if e.tag == "THOUGHT"] == ["half \\ud83d"]
    assert result_of(await house.attempt(await house.submit("whole", {"log": []}))) == {"log": ["half \\ud83d"]}


def lambda_node(state: Log) -> Log:
    return {"log": ["half \ud83d"]}


def leaves(state: Log) -> Any:
    raise SystemExit(3)


async def leaves_later(state: Log) -> Any:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("graph", "node", "kind"),
    [
        (chain("a", leaves), "leaves", "SystemExit"),
        (chain("a", leaves_later), "leaves_later", "KeyboardInterrupt"),
        (chain(_as_node(chain(leaves_later), "sub")), "sub/leaves_later", "KeyboardInterrupt"),
    ],
)
async def test_a_node_that_exits_fails_its_task_and_not_the_worker(
    deploy: Any, graph: Any, node: str, kind: str
) -> None:
    house = deploy(agent=graph)
    outcome = await house.attempt(await house.submit("agent", {"log": []}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error.type, outcome.error.node) == ("graph_error", kind, node)
    assert "test_runner.py" in (outcome.error.traceback or "")


async def test_an_integer_of_more_than_64_bits_fails_the_task_and_names_key_and_node(deploy: Any) -> None:
    class State(TypedDict, total=False):
        total: int

    graph = StateGraph(State)
    graph.add_node("count", lambda state: {"total": 2**70})
    graph.add_edge(START, "count")
    house = deploy(agent=graph)
    outcome = await house.attempt(await house.submit("agent", {}))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.error.node) == ("unserializable", "count")
    assert "key 'total' of node 'count'" in outcome.error.message


async def test_numpys_arrays_become_a_plain_result_and_its_scalars_are_refused_by_name(deploy: Any) -> None:
    """LangGraph's checkpoints hold arrays, and no scalars."""
    numpy = pytest.importorskip("numpy")

    class State(TypedDict, total=False):
        mean: float
        rows: Any

    graphs = {}
    for name, made in (("arrays", {"rows": numpy.array([1, 2])}), ("scalars", {"mean": numpy.float64(1.5)})):
        graph = StateGraph(State)
        graph.add_node("count", lambda state, made=made: made)
        graph.add_edge(START, "count")
        graphs[name] = graph
    house = deploy(**graphs)
    assert result_of(await house.attempt(await house.submit("arrays", {}))) == {"rows": [1, 2]}
    house = deploy(**graphs)
    outcome = await house.attempt(await house.submit("scalars", {}))
    assert isinstance(outcome, Failed)
    assert "key 'mean' of node 'count'" in outcome.error.message


async def test_a_task_sees_the_long_term_store_of_its_tenant(deploy: Any) -> None:
    stores: dict[str, BaseStore] = {}

    def node(state: Log, runtime: Runtime[None]) -> Log:
        assert runtime.store is not None
        return {"log": ["mine" if runtime.store is stores["default"] else "not mine"]}

    house = deploy(agent=chain(node))

    def long_term(tenant: str) -> BaseStore:
        return stores.setdefault(tenant, InMemoryStore())

    registry = GraphRegistry.of({"agent": chain(node)})
    house.runner = GraphRunner(registry, house.store, house._saver, long_term, house.clock)
    assert result_of(await house.attempt(await house.submit("agent", {"log": []}))) == {"log": ["mine"]}
    assert list(stores) == ["default"]


# --- what authors emit


async def test_emitted_events_and_artifacts_come_from_sync_and_async_nodes(deploy: Any) -> None:
    def sync(state: Log) -> Log:
        emit("CRITIC_EVAL", "well", score=3)
        artifact("a.csv", "x,y\n1,2\n")
        return {"log": ["sync"]}

    async def later(state: Log) -> Log:
        emit("MY_TAG", n=1)
        artifact("b.bin", b"\x00")
        return {"log": ["later"]}

    house = deploy(agent=chain(sync, _as_node(chain(later), "sub")))
    stored_at: list[int] = []

    async def look(metadata: Any) -> None:
        if metadata["ns"] == "":
            stored_at.append(len(await house.store.artifacts(ref)))

    house.on_put = look
    ref = await house.submit("agent", {"log": []})
    await house.attempt(ref)
    events = await house.events(ref)
    said = [(e.tag, e.namespace[:1] != [], e.node, e.data) for e in events if e.tag in ("CRITIC_EVAL", "MY_TAG")]
    assert said == [
        ("CRITIC_EVAL", False, "sync", {"text": "well", "score": 3}),
        ("MY_TAG", True, "later", {"n": 1}),
    ]
    files = [(f.name, f.media_type, f.step) for f in await house.store.artifacts(ref)]
    assert files == [("a.csv", "text/csv", 1), ("b.bin", "application/octet-stream", 2)]
    assert (await house.store.artifact(ref, "a.csv"))[1] == b"x,y\n1,2\n"
    assert stored_at[2] == 1, "the step's checkpoint comes after its artifact"
    told = [e.data["artifact"]["name"] for e in events if e.data.get("name") == "artifact"]
    assert told == ["a.csv", "b.bin"]


def test_the_authors_calls_do_nothing_outside_of_a_task() -> None:
    emit("THOUGHT", "nobody listens")
    artifact("a.txt", "text")
    assert idempotency_key() != idempotency_key()

    def node(state: Log) -> Log:
        emit("THOUGHT", "under plain LangGraph")
        artifact("a.txt", "text")
        return {"log": [idempotency_key()[:0]]}

    assert chain(node).invoke({"log": []}) == {"log": [""]}


def test_a_malformed_tag_and_a_huge_artifact_are_refused_everywhere() -> None:
    with pytest.raises(ValueError, match="is not a tag"):
        emit("no spaces please")
    with pytest.raises(ValueError, match="64 MiB"):
        artifact("huge.bin", bytes(ARTIFACT_BYTES_MAX + 1))
