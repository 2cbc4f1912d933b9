"""Decides where an attempt enters the graph: anew with the input, or where the task's checkpoint stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import orjson
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import RESUME
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import Command, StateSnapshot, _interrupt_id

from perdure.errors import GraphError
from perdure.graph import plain
from perdure.graph.breakpoints import AnyGraph, Breakpoints
from perdure.graph.command import ClientCommand
from perdure.lifecycle.task import Interrupt, Task


class Entry(msgspec.Struct, frozen=True):
    """How to enter. With `held` not empty the graph must not be entered: these wait for an answer.

    `head` and `snapshot` are what is resumed, None for a new start; `ours` says that this task had made it.
    `checkpoint_id` is set where an older checkpoint is addressed; `mark` goes into the metadata of all checkpoints.
    """

    input: Any
    head: CheckpointTuple | None = None
    snapshot: StateSnapshot | None = None
    ours: bool = False
    checkpoint_id: str | None = None
    mark: str | None = None
    held: list[Interrupt] = []


async def find_entry(task: Task, graph: AnyGraph, saver: BaseCheckpointSaver[Any], breakpoints: Breakpoints) -> Entry:
    """Read the thread's head and say how the task goes on. Applies the client's update and goto, once.

    Raises GraphError where the task asks for what the thread does not have.
    """
    head = await saver.aget_tuple(thread_config(task))
    ours = head is not None and (head.metadata or {}).get("run_id") == task.task_id
    addressed = None if ours else task.spec.checkpoint_id
    if addressed is not None:
        head = await saver.aget_tuple(thread_config(task, addressed))
        if head is None:
            raise GraphError(f"thread {task.thread_id!r} has no checkpoint {addressed!r}")
    given = orjson.loads(bytes(task.spec.input)) if task.spec.input is not None else None
    # Once a checkpoint is the task's own, all that the task was submitted with is in it.
    said = None if ours else ClientCommand.of_spec(task)
    if not ours and said is None and given is not None:
        return Entry(given, checkpoint_id=addressed)
    if head is None:
        raise GraphError(
            f"thread {task.thread_id!r} is empty, so there is nothing to go on from: the task needs an input"
        )

    config = head.config if addressed is not None else thread_config(task)
    snapshot = await graph.aget_state(config, subgraphs=breakpoints.inside)
    pending = [asked.id for asked in snapshot.interrupts]
    answers = dict(task.answers)
    # LangGraph forks an older checkpoint before it applies an update to it: its other children stay as they are.
    forks = addressed is not None and said is not None and said.answer is msgspec.UNSET
    if said is not None and not forks:
        answers.update(await said.apply(head, pending, saver))
    resumed = ClientCommand.of_resume(task)
    if resumed is not None:
        await resumed.apply(head, pending, saver)

    held = await breakpoints.due(snapshot, saver, task.passed) if breakpoints.any else []
    if not held and addressed is None and not (resumed or said) and _all_wait(snapshot, answers):
        held = questions(snapshot, {})
    # An answer to a question that is no longer asked must not be given to the next one.
    fitting = {key: value for key, value in answers.items() if key in pending}
    if fitting:
        for asked_id in await _taken(graph, saver, config):
            fitting.pop(asked_id, None)
    command = said.as_langgraph() if forks and said is not None else Command(resume=fitting) if fitting else None
    mark = resumed.mark if resumed is not None else None
    return Entry(command, head, snapshot, ours, addressed, mark, held)


def thread_config(task: Task, checkpoint_id: str | None = None) -> RunnableConfig:
    """Where the task's thread is, or one checkpoint of it."""
    at = {"thread_id": task.thread_id, "checkpoint_ns": ""}
    return {"configurable": at if checkpoint_id is None else {**at, "checkpoint_id": checkpoint_id}}


def questions(snapshot: StateSnapshot, namespaces: Mapping[str, tuple[str, ...]]) -> list[Interrupt]:
    """The questions that a state waits with; `namespaces` says in which subgraph each was asked, if it is known."""
    return [
        Interrupt(asked.id, plain.plain(asked.value), list(namespaces.get(asked.id, ())))
        for asked in snapshot.interrupts
    ]


async def _taken(graph: AnyGraph, saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> set[str]:
    """The questions whose answers a cut-off run of their node has stored already, though they still look pending.

    LangGraph would take such an answer, sent again, for the answer to the node's next question.
    """
    taken: set[str] = set()
    levels = [await graph.aget_state(config, subgraphs=True)]
    while levels:
        level = levels.pop()
        at = level.config["configurable"]
        saved = await saver.aget_tuple(level.config)
        stored = {
            task_id: len(value) if isinstance(value, list) else 1
            for task_id, channel, value in (saved.pending_writes or () if saved else ())
            if channel == RESUME
        }
        for step in level.tasks:
            if isinstance(step.state, StateSnapshot) and step.state.config["configurable"].get("checkpoint_id"):
                levels.append(step.state)
            above = at.get("checkpoint_ns") or ""
            namespace = f"{above}|{step.name}:{step.id}" if above else f"{step.name}:{step.id}"
            taken.update(_interrupt_id(namespace, index) for index in range(stored.get(step.id, 0)))
    return taken


def _all_wait(snapshot: StateSnapshot, answers: Collection[str]) -> bool:
    """Does everything that is left of the step wait for answers that are not there? Then nobody need ask again."""
    waiting = [task for task in snapshot.tasks if task.interrupts]
    return (
        bool(waiting)
        and len(waiting) == len(snapshot.next)
        and not any(asked.id in answers for task in waiting for asked in task.interrupts)
    )
