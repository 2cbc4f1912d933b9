"""Breakpoints and questions: where a task waits, what passes them, and that no crash runs past an approval."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import msgspec
import orjson
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command, Send, interrupt

from perdure.graph.outcome import Failed, Finished, Paused
from perdure.lifecycle.ids import WorkerId

pytestmark = pytest.mark.anyio


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def chain(*nodes: Any, **compile_with: Any) -> Any:
    graph = StateGraph(Log)
    named = [(n, lambda state, n=n: {"log": [n]}) if isinstance(n, str) else (n.__name__, n) for n in nodes]
    for name, node in named:
        graph.add_node(name, node)
    names = [name for name, _ in named]
    for before, after in zip((START, *names), (*names, END), strict=True):
        graph.add_edge(before, after)
    return graph.compile(**compile_with)


def named(graph: Any, name: str) -> Any:
    graph.__name__ = name
    return graph


def log_of(outcome: Any) -> list[str]:
    assert isinstance(outcome, Finished), outcome
    log: list[str] = orjson.loads(outcome.result)["log"]
    return log


async def paused(house: Any, ref: Any, worker: str = "w-a") -> Paused:
    outcome = await house.attempt(ref, worker)
    assert isinstance(outcome, Paused), outcome
    return outcome


# --- breakpoints


@pytest.mark.parametrize("where", ["author", "request"])
async def test_a_breakpoint_before_a_node_holds_it_until_it_is_answered(deploy: Any, where: str) -> None:
    author = {"interrupt_before": ["b"]} if where == "author" else {}
    house = deploy(agent=chain("a", "b", "c", **author))
    request = {} if author else {"interrupt_before": ["b"]}
    ref = await house.submit("agent", {"log": []}, **request)
    outcome = await paused(house, ref)
    (asked,) = outcome.interrupts
    assert (asked.breakpoint, asked.value["when"]) == ("b", "before")
    assert asked.id == f"bp-{outcome.checkpoint_id}-b"
    told = [e.data["interrupt_id"] for e in await house.events(ref) if e.method == "input.requested"]
    assert told == [asked.id]
    await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["a", "b", "c"]


async def test_the_authors_and_the_requests_breakpoints_both_count(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b", "c", interrupt_before=["b"]))
    ref = await house.submit("agent", {"log": []}, interrupt_before=["c"])
    for node in "bc":
        (asked,) = (await paused(house, ref)).interrupts
        assert asked.breakpoint == node
        await house.store.resume(ref, value=True)
    assert log_of(await house.attempt(ref)) == ["a", "b", "c"]


async def test_a_breakpoint_after_a_node_holds_the_next_one(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b", "c", interrupt_after=["a"]))
    ref = await house.submit("agent", {"log": []})
    (asked,) = (await paused(house, ref)).interrupts
    assert (asked.breakpoint, asked.value["when"]) == ("a", "after")
    await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["a", "b", "c"]


async def test_a_breakpoint_after_the_last_node_holds_nothing(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b", interrupt_after=["b"]))
    assert log_of(await house.attempt(await house.submit("agent", {"log": []}))) == ["a", "b"]


async def test_a_star_stops_before_every_node(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b"))
    ref = await house.submit("agent", {"log": []}, interrupt_before=["*"])
    for node in "ab":
        (asked,) = (await paused(house, ref)).interrupts
        assert asked.breakpoint == node
        await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["a", "b"]


async def test_a_node_in_a_loop_is_asked_for_every_round(deploy: Any) -> None:
    graph = StateGraph(Log)
    graph.add_node("b", lambda state: {"log": ["b"]})
    graph.add_edge(START, "b")
    graph.add_conditional_edges("b", lambda state: "b" if len(state["log"]) < 3 else END)
    house = deploy(agent=graph.compile(interrupt_before=["b"]))
    ref = await house.submit("agent", {"log": []})
    ids = set()
    for _ in range(3):
        ids.add((await paused(house, ref)).interrupts[0].id)
        await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["b", "b", "b"]
    assert len(ids) == 3


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_between_checkpoint_and_stop_does_not_run_past_an_approval(deploy: Any, when: str) -> None:
    author = {"interrupt_before": ["b"]} if when == "before" else {"interrupt_after": ["a"]}
    house = deploy(agent=chain("a", "b", **author))
    ref = await house.submit("agent", {"log": []})
    await house.killed(ref, house.kill_at(lambda metadata: metadata["step"] == 1))
    outcome = await paused(house, ref, "w-b")
    assert outcome.interrupts[0].value["when"] == when
    recovery = next(e for e in await house.events(ref) if e.tag == "RECOVERY")
    assert recovery.data["rehydrated"]["next"] == ["b"]
    await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["a", "b"]


async def test_a_crash_after_an_approval_does_not_ask_again(deploy: Any) -> None:
    gate = asyncio.Event()
    ran = 0

    async def b(state: Log) -> Log:
        nonlocal ran
        ran += 1
        if ran == 1:
            gate.set()
            await asyncio.Event().wait()
        return {"log": ["b"]}

    house = deploy(agent=chain("a", b, interrupt_before=["b"]))
    ref = await house.submit("agent", {"log": []})
    await paused(house, ref)
    await house.store.resume(ref, value=None)
    await house.killed(ref, gate)
    assert log_of(await house.attempt(ref, "w-b")) == ["a", "b"]


async def test_a_send_that_a_breakpoint_follows_is_found_after_a_crash(deploy: Any) -> None:
    graph = StateGraph(Log)
    graph.add_node("fan", lambda state: Command(goto=[Send("work", "x"), Send("work", "y")]))
    graph.add_node("work", lambda name: {"log": [name]})
    graph.add_node("end", lambda state: {"log": ["end"]})
    graph.add_edge(START, "fan")
    graph.add_edge("work", "end")
    house = deploy(agent=graph.compile(interrupt_after=["work"]))
    ref = await house.submit("agent", {"log": []})
    await house.killed(ref, house.kill_at(lambda metadata: metadata["step"] == 2))
    (asked,) = (await paused(house, ref, "w-b")).interrupts
    assert (asked.breakpoint, asked.value["when"]) == ("work", "after")
    await house.store.resume(ref, value=None)
    assert log_of(await house.attempt(ref)) == ["x", "y", "end"]


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_subgraphs_own_breakpoint_holds_it(deploy: Any, when: str, crash: bool) -> None:
    author = {"interrupt_before": ["y"]} if when == "before" else {"interrupt_after": ["x"]}
    house = deploy(agent=chain("a", named(chain("x", "y", **author), "sub"), "c"))
    ref = await house.submit("agent", {"log": []})
    if crash:
        reached = house.kill_at(lambda metadata: metadata["ns"] != "" and metadata["step"] == 1)
        await house.killed(ref, reached)
    (asked,) = (await paused(house, ref, "w-b")).interrupts
    assert (asked.breakpoint, asked.value["when"]) == ("y" if when == "before" else "x", when)
    assert asked.namespace[0].startswith("sub:")
    await house.store.resume(ref, value=None)
    outcome = await house.attempt(ref, "w-c")
    assert log_of(outcome)[-3:] == ["x", "y", "c"]


async def test_a_breakpoint_in_a_graph_that_a_node_calls_by_itself_holds_too(deploy: Any) -> None:
    hidden = {"graph": chain("x", "y", interrupt_before=["y"], checkpointer=True)}

    async def caller(state: Log) -> Log:
        found: Any = hidden["graph"]
        done = await found.ainvoke({"log": []})
        return {"log": done["log"]}

    house = deploy(agent=chain("a", caller, "c"))
    ref = await house.submit("agent", {"log": []})
    outcome = await house.attempt(ref)
    if isinstance(outcome, Paused):
        assert outcome.interrupts[0].breakpoint == "caller"
        await house.store.resume(ref, value=None)
        outcome = await house.attempt(ref)
    assert log_of(outcome) == ["a", "x", "y", "c"]


# --- questions


async def test_a_question_waits_for_its_answer(deploy: Any) -> None:
    def ask(state: Log) -> Log:
        return {"log": [interrupt({"question": "sure?"})]}

    house = deploy(agent=chain("a", ask))
    ref = await house.submit("agent", {"log": []})
    (asked,) = (await paused(house, ref)).interrupts
    assert asked.value == {"question": "sure?"}
    told = [e.data for e in await house.events(ref) if e.method == "input.requested"]
    assert told == [{"interrupt_id": asked.id, "payload": {"question": "sure?"}}]
    await house.store.resume(ref, value="yes")
    assert log_of(await house.attempt(ref)) == ["a", "yes"]


@pytest.mark.parametrize("nested", [False, True])
async def test_two_questions_of_one_node_get_their_own_answers_through_a_crash(deploy: Any, nested: bool) -> None:
    gate = asyncio.Event()
    ran = 0

    async def ask(state: Log) -> Log:
        nonlocal ran
        ran += 1
        first = interrupt("first?")
        if ran == 2:
            gate.set()
            await asyncio.Event().wait()
        second = interrupt("second?")
        return {"log": [first, second]}

    house = deploy(agent=chain(named(chain(ask), "sub")) if nested else chain(ask))
    ref = await house.submit("agent", {"log": []})
    assert (await paused(house, ref)).interrupts[0].value == "first?"
    await house.store.resume(ref, value="one")
    await house.killed(ref, gate)
    assert (await paused(house, ref, "w-b")).interrupts[0].value == "second?"
    await house.store.resume(ref, value="two")
    assert log_of(await house.attempt(ref, "w-b")) == ["one", "two"]


async def test_a_failed_node_that_is_revived_keeps_the_answer_it_had(deploy: Any) -> None:
    broken = [True]

    def ask(state: Log) -> Log:
        first = interrupt("first?")
        if broken.pop() if broken else False:
            raise RuntimeError("not yet")
        return {"log": [first, interrupt("second?")]}

    house = deploy(agent=chain(ask))
    ref = await house.submit("agent", {"log": []})
    await paused(house, ref)
    await house.store.resume(ref, value="one")
    assert isinstance(await house.attempt(ref), Failed)
    await house.store.requeue(ref)
    assert (await paused(house, ref)).interrupts[0].value == "second?"
    await house.store.resume(ref, value="two")
    assert log_of(await house.attempt(ref)) == ["one", "two"]


async def test_parallel_questions_are_answered_by_id_and_in_a_subgraph(deploy: Any) -> None:
    def ask(state: Log) -> Log:
        return {"log": [interrupt("inner?")]}

    def other(state: Log) -> Log:
        return {"log": [interrupt("outer?")]}

    graph = StateGraph(Log)
    graph.add_node("sub", chain(ask))
    graph.add_node("other", other)
    graph.add_edge(START, "sub")
    graph.add_edge(START, "other")
    house = deploy(agent=graph)
    ref = await house.submit("agent", {"log": []})
    asked = {question.value: question for question in (await paused(house, ref)).interrupts}
    assert asked["inner?"].namespace[0].startswith("sub:")
    assert asked["outer?"].namespace == []
    await house.store.resume(ref, responses={asked["inner?"].id: "in", asked["outer?"].id: "out"})
    assert sorted(log_of(await house.attempt(ref))) == ["in", "out"]


async def test_a_question_that_was_asked_before_the_crash_is_not_asked_by_running_again(deploy: Any) -> None:
    ran = 0

    def ask(state: Log) -> Log:
        nonlocal ran
        ran += 1
        return {"log": [interrupt("sure?")]}

    house = deploy(agent=chain(ask))
    ref = await house.submit("agent", {"log": []})
    claim = await house.claim(ref)
    await house.runner.run(claim, RunControl())
    await house.store.abandon(ref.thread, WorkerId("w-a"))
    (asked,) = (await paused(house, ref, "w-b")).interrupts
    assert (asked.value, ran) == ("sure?", 1)
    await house.store.resume(ref, value="yes")
    assert log_of(await house.attempt(ref)) == ["yes"]


# --- update and goto


@pytest.mark.parametrize("crash", ["never", "at once", "after a step"])
async def test_an_update_of_a_resume_is_applied_exactly_once(deploy: Any, crash: str) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    armed = {"ask": crash == "at once", "next": crash == "after a step"}

    async def ask(state: Log) -> Log:
        answer = interrupt("sure?")
        if armed.pop("ask", False):
            gates[0].set()
            await asyncio.Event().wait()
        return {"log": [answer]}

    async def next(state: Log) -> Log:
        if armed.pop("next", False):
            gates[1].set()
            await asyncio.Event().wait()
        return {"log": ["next"]}

    house = deploy(agent=chain(ask, next))
    ref = await house.submit("agent", {"log": ["in"]})
    await paused(house, ref)
    await house.store.resume(ref, value="yes", update=orjson.dumps({"log": ["updated"]}))
    if crash == "at once":
        await house.killed(ref, gates[0])
    if crash == "after a step":
        await house.killed(ref, gates[1])
    assert log_of(await house.attempt(ref, "w-b")) == ["in", "updated", "yes", "next"]


async def test_a_second_resume_at_the_same_checkpoint_adds_its_update(deploy: Any) -> None:
    def ask(state: Log) -> Log:
        return {"log": [interrupt("1?"), interrupt("2?")]}

    house = deploy(agent=chain(ask))
    ref = await house.submit("agent", {"log": []})
    for number in "12":
        await paused(house, ref)
        await house.store.resume(ref, value=f"a{number}", update=orjson.dumps({"log": [f"u{number}"]}))
    assert log_of(await house.attempt(ref)) == ["u1", "u2", "a1", "a2"]


async def test_a_goto_of_a_resume_sends_the_graph_there(deploy: Any) -> None:
    house = deploy(agent=chain("a", "b", "c", interrupt_before=["b"]))
    ref = await house.submit("agent", {"log": []})
    await paused(house, ref)
    await house.store.resume(ref, value=None, goto=["c"])
    assert sorted(log_of(await house.attempt(ref))) == ["a", "b", "c", "c"]


async def test_a_new_task_can_answer_and_update_what_a_cancelled_one_left(deploy: Any) -> None:
    gate = asyncio.Event()
    ran = 0

    async def ask(state: Log) -> Log:
        nonlocal ran
        first = interrupt("first?")
        ran += 1
        if ran == 1:
            gate.set()
            await asyncio.Event().wait()
        return {"log": [first, interrupt("second?")]}

    house = deploy(agent=chain("a", ask))
    old = await house.submit("agent", {"log": []})
    await paused(house, old)
    await house.store.cancel(old)
    ref = await house.submit("agent", None, command={"resume": "one", "update": {"log": ["u"]}})
    await house.killed(ref, gate)
    (asked,) = (await paused(house, ref, "w-b")).interrupts
    assert asked.value == "second?"
    await house.store.resume(ref, value="two", update=msgspec.json.encode({"log": ["v"]}))
    assert log_of(await house.attempt(ref)) == ["a", "u", "v", "one", "two"]


async def test_an_answer_that_nobody_asked_for_fails_with_words(deploy: Any) -> None:
    house = deploy(agent=chain("a"))
    await house.attempt(await house.submit("agent", {"log": []}))
    outcome = await house.attempt(await house.submit("agent", None, command={"resume": "x"}))
    assert isinstance(outcome, Failed)
    assert "nothing to answer" in outcome.error.message
