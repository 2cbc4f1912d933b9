"""Applies what a client says besides input (`update`, `goto`, answers) to a checkpoint exactly once.

LangGraph stores what a Command says as writes of its null task beside the checkpoint that it resumes, and applies them
when the next step starts; but a Command that is sent again, because the worker died, is stored again, and its update
applied twice. So they are written here instead: the same writes, in one call, followed by a mark that names the resume
and holds its answers by interrupt id. It was applied if the mark is among the head's writes, or if the head itself was
made in an attempt that had applied it: the mark's name is in the metadata of all checkpoints since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson
from langgraph._internal._constants import NO_WRITES, NULL_TASK_ID
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.pregel._io import map_command
from langgraph.types import Command, Send

from perdure.errors import GraphError
from perdure.lifecycle.task import Task

MARK_KEY: Final = "perdure_applied"


class ClientCommand(msgspec.Struct, frozen=True):
    """One thing that a client said. `answer` is for the one pending interrupt, or by interrupt id."""

    mark: str
    update: Any = None
    goto: tuple[str | Send, ...] = ()
    answer: Any = msgspec.UNSET

    @classmethod
    def of_spec(cls, task: Task) -> ClientCommand | None:
        """The command that the task was submitted with: `{resume?, update?, goto?}`."""
        said = orjson.loads(bytes(task.spec.command)) if task.spec.command is not None else None
        if not isinstance(said, dict) or not said:
            return None
        goto = said.get("goto") or []
        return cls(
            mark=_mark(task, "command"),
            update=said.get("update"),
            goto=tuple(_target(target) for target in (goto if isinstance(goto, list) else [goto])),
            answer=said["resume"] if said.get("resume") is not None else msgspec.UNSET,
        )

    @classmethod
    def of_resume(cls, task: Task) -> ClientCommand | None:
        """What the newest resume said besides its answers. Each resume answers something, so its mark is its own."""
        if task.update is None and not task.goto:
            return None
        update = orjson.loads(bytes(task.update)) if task.update is not None else None
        said = (bytes(task.update or b"").decode(), *task.goto, *sorted(task.answers), *task.passed)
        return cls(mark=_mark(task, *said), update=update, goto=tuple(task.goto))

    async def apply(
        self, head: CheckpointTuple, pending: list[str], saver: BaseCheckpointSaver[Any]
    ) -> Mapping[str, Any]:
        """Store the command beside the head, unless that was done. Returns its answers by interrupt id."""
        metadata: Mapping[str, Any] = head.metadata or {}
        if metadata.get(MARK_KEY) == self.mark:
            return {}
        writes = [
            (channel, value)
            for task_id, channel, value in head.pending_writes or ()
            if task_id == NULL_TASK_ID and channel not in WRITES_IDX_MAP
        ]
        for channel, value in writes:
            if channel == NO_WRITES and isinstance(value, dict) and value.get("mark") == self.mark:
                answers: Mapping[str, Any] = value["answers"]
                return answers
        # Savers key a write by its place in the list: those that are there stay where they are.
        answers = self._answers(pending)
        writes += [(channel, value) for _, channel, value in map_command(self.as_langgraph())]
        writes.append((NO_WRITES, {"mark": self.mark, "answers": answers}))
        await saver.aput_writes(head.config, writes, NULL_TASK_ID)
        return answers

    def as_langgraph(self) -> Command[Any]:
        """Update and goto for a checkpoint that LangGraph forks first, so that they are applied with the fork."""
        return Command(update=self.update, goto=self.goto)

    def _answers(self, pending: list[str]) -> Mapping[str, Any]:
        said = self.answer
        if said is msgspec.UNSET:
            return {}
        if isinstance(said, dict) and said and all(key in pending for key in said):
            return said
        if len(pending) != 1:
            raise GraphError(
                f"command.resume: {len(pending)} interrupts are pending on the thread"
                + (f"; answer them by id: {', '.join(pending)}" if pending else ", so there is nothing to answer")
            )
        return {pending[0]: said}


def _target(target: Any) -> str | Send:
    if isinstance(target, str):
        return target
    if isinstance(target, dict) and isinstance(target.get("node"), str):
        return Send(target["node"], target.get("input"))
    raise GraphError(f'command.goto: {target!r} is neither a node\'s name nor {{"node": name, "input": …}}')


def _mark(task: Task, *said: str) -> str:
    return hashlib.sha256(orjson.dumps([task.task_id, *said])).hexdigest()[:32]
