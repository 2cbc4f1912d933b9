"""Runs scripts as attempts: by a small runner with the graph runner's contract, or by the graph runner on LangGraph."""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, Final, Protocol

import msgspec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import RunControl
from langgraph.types import interrupt
from typing_extensions import TypedDict

from perdure.clock import Clock
from perdure.errors import DependencyError, LeaseLost
from perdure.graph.author import artifact, emit
from perdure.graph.event_log import EventLog
from perdure.graph.failure import task_error
from perdure.graph.outcome import Drained, Failed, Finished, Outcome, Paused
from perdure.graph.registry import GraphRegistry
from perdure.graph.runner import GraphRunner
from perdure.graph.tags import Tagged
from perdure.lifecycle.events import Method, Tag
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Reason
from perdure.store.base import Claim, TaskStore
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.referee import Referee
from perdure.testing.simulation.saver import Checkpoints, FencedSaver, Head
from perdure.testing.simulation.script import GRAPH, STEPS_MAX, Script

FILE: Final = b"made in a step"


class StepFailed(Exception):
    """What a script's failing step raises."""


class Stage:
    """What a runner needs of the worker's process that it runs in."""

    def __init__(
        self,
        store: TaskStore,
        clock: Clock,
        referee: Referee,
        worker: Process,
        keeper: Process,
        kill: Callable[[str], None],
        checkpoints: Callable[[Lease], Checkpoints],
    ) -> None:
        self.store = store
        self.clock = clock
        self.referee = referee
        self.worker = worker
        self.keeper = keeper
        self.kill = kill
        self.checkpoints = checkpoints

    @contextlib.contextmanager
    def playing(self, lease: Lease, step: int) -> Iterator[None]:
        """The author's part of a step: the referee knows that it runs, until it does no more."""
        self.referee.enters(lease, self.worker, self.keeper)
        self.referee.begins(lease, step)
        try:
            yield
        finally:
            self.referee.leaves(lease)


class ScriptRunner:
    """Keeps the contract of GraphRunner in as few lines as will do."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def run(self, claim: Claim, control: RunControl) -> Outcome:
        stage = self._stage
        async with EventLog(stage.store, claim.lease, stage.clock, claim.task.attempt) as log:
            try:
                return await self._run(claim, control, log)
            except (LeaseLost, DependencyError):
                raise
            except StepFailed as error:
                return Failed(task_error(error), Reason.GRAPH_ERROR, await log.take())

    async def _run(self, claim: Claim, control: RunControl, log: EventLog) -> Outcome:
        stage, task = self._stage, claim.task
        script = Script.of_input(task.spec.input)
        checkpoints = stage.checkpoints(claim.lease)
        head = await checkpoints.head()
        done = head.done if head is not None and head.task_id == task.task_id else 0
        if claim.lost_worker is not None:
            log.put(Tagged(Method.CUSTOM, Tag.RECOVERY, (), None, {"name": "recovery"}), done)
        for step in range(done, len(script.steps)):
            if control.drain_requested:
                await log.flush()
                return Drained()
            at = head.checkpoint_id if head is not None else ""
            node = script.node(step)
            if node in task.spec.interrupt_before and f"{at}:{node}" not in task.passed:
                asked = Interrupt(f"bp-{at}-{node}", {"checkpoint_id": at}, breakpoint=node)
                return Paused([asked], at, await log.take())
            for number in range(script.steps[step].asks):
                question = f"ask-{step}-{number}"
                if question not in task.answers:
                    return Paused([Interrupt(question, {"step": step})], at, await log.take())
                stage.referee.uses(claim.lease, question, task.answers[question])
            with stage.playing(claim.lease, step):
                said = await self._work(claim, script, step, log)
            await log.flush()
            head = Head(task.task_id, step + 1, f"{task.task_id}-{task.attempt}-{step}")
            await checkpoints.commit(head, said)
        return Finished(msgspec.json.encode({"done": len(script.steps)}), await log.take())

    async def _work(self, claim: Claim, script: Script, step: int, log: EventLog) -> set[str]:
        stage, todo, attempt = self._stage, script.steps[step], claim.task.attempt
        said = set()
        for number in range(todo.says):
            mark = f"{claim.task.task_id}/{attempt}/{step}/{number}"
            log.put(Tagged(Method.CUSTOM, Tag.THOUGHT, (), script.node(step), {"mark": mark}), step)
            said.add(mark)
            await asyncio.sleep(todo.lasts_s / todo.says)
        if not todo.says:
            await asyncio.sleep(todo.lasts_s)
        if todo.makes_file:
            await stage.store.put_artifact(claim.lease, f"file-{step}", "text/plain", FILE, step)
        if attempt <= todo.kills_until:
            stage.kill(f"step {step} ended it")
            await asyncio.sleep(0)
        if attempt <= todo.fails_until:
            raise StepFailed(f"step {step} fails in attempt {attempt}")
        return said


# --- the same scripts as a LangGraph graph
class State(TypedDict, total=False):
    """`script` is the input; `done` counts finished steps; `said` are the marks of what the last step said."""

    script: Any
    done: int
    said: list[str]
    trail: Annotated[list[str], operator.add]


_on_stage: ContextVar[tuple[Stage, Claim] | None] = ContextVar("simulated_stage", default=None)


class _Node(Protocol):
    def __call__(self, state: State) -> Awaitable[State]: ...


def _node(step: int) -> _Node:
    async def work(state: State) -> State:
        there = _on_stage.get()
        assert there is not None
        stage, claim = there
        script = msgspec.convert(state["script"], Script)
        todo, attempt = script.steps[step], claim.task.attempt
        for number in range(todo.asks):
            answer = interrupt({"step": step, "number": number})
            stage.referee.uses(claim.lease, f"ask-{step}-{number}", answer)
        with stage.playing(claim.lease, step):
            said = []
            for number in range(todo.says):
                mark = f"{claim.task.task_id}/{attempt}/{step}/{number}"
                emit("THOUGHT", mark=mark)
                said.append(mark)
                await asyncio.sleep(todo.lasts_s / todo.says)
            if not todo.says:
                await asyncio.sleep(todo.lasts_s)
            if todo.makes_file:
                artifact(f"file-{step}", FILE)
            if attempt <= todo.kills_until:
                stage.kill(f"step {step} ended it")
                await asyncio.sleep(0)
            if attempt <= todo.fails_until:
                raise StepFailed(f"step {step} fails in attempt {attempt}")
        return {"done": step + 1, "said": said, "trail": [f"{claim.task.task_id}/{step}"]}

    return work


def _graph() -> StateGraph[State]:
    builder = StateGraph(State)
    for step in range(STEPS_MAX):
        builder.add_node(f"n{step}", _node(step))
    builder.add_edge(START, "n0")
    for step in range(STEPS_MAX):
        # Async, as LangGraph would run it in a thread otherwise.
        async def onward(state: State, step: int = step) -> str:
            return f"n{step + 1}" if step + 1 < len(state["script"]["steps"]) else END

        builder.add_conditional_edges(f"n{step}", onward, [END, *([f"n{step + 1}"] if step + 1 < STEPS_MAX else [])])
    return builder


registry: Final = GraphRegistry.of({GRAPH: _graph().compile()})


class LangGraphRunner:
    """The real graph runner, on the same scripts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

        def savers(lease: Lease, before_put: Callable[[], Awaitable[None]]) -> BaseCheckpointSaver[Any]:
            return FencedSaver(stage.checkpoints(lease), before_put)

        self._runner = GraphRunner(registry, stage.store, savers, None, stage.clock)

    async def run(self, claim: Claim, control: RunControl) -> Outcome:
        token = _on_stage.set((self._stage, claim))
        try:
            return await self._runner.run(claim, control)
        finally:
            _on_stage.reset(token)
