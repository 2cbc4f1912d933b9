"""Events: the entries of a thread's ordered, replayable log, and the bytes they are stored and sent as.

An event is encoded once, by whoever makes it, into its *body*: everything after the number. The store numbers it;
readers put the short prefix with the number in front (`prefix`) and send the body on untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import orjson

from perdure.lifecycle.ids import TaskId
from perdure.lifecycle.task import TaskError
from perdure.lifecycle.transitions import Status


class Method(StrEnum):
    """The kind of an event, as in LangChain's agent streaming protocol."""

    LIFECYCLE = "lifecycle"
    MESSAGES = "messages"
    TOOLS = "tools"
    VALUES = "values"
    UPDATES = "updates"
    CHECKPOINTS = "checkpoints"
    TASKS = "tasks"
    INPUT_REQUESTED = "input.requested"
    CUSTOM = "custom"


class Tag(StrEnum):
    """How the (sub)agent speaks. Authors may emit further tags: 1 to 32 characters out of A-Z 0-9 _."""

    THOUGHT = "THOUGHT"
    TOOL_USE = "TOOL_USE"
    TOOL_RESULT = "TOOL_RESULT"
    CRITIC_EVAL = "CRITIC_EVAL"
    ANSWER = "ANSWER"
    DRAFT = "DRAFT"
    NODE = "NODE"
    CHECKPOINT = "CHECKPOINT"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    USAGE = "USAGE"
    ERROR = "ERROR"
    RECOVERY = "RECOVERY"


class NewEvent(msgspec.Struct, frozen=True):
    """An event that has no number yet.

    `namespace` is the LangGraph namespace joined with `|` (empty at the root). `body` is what `encode_body` made.
    """

    method: str
    tag: str
    namespace: str
    body: bytes


class Event(msgspec.Struct, frozen=True):
    """An event as the store keeps it. `seq` is one integer per thread: contiguous, over tasks and attempts."""

    epoch: str
    seq: int
    method: str
    tag: str
    namespace: str
    task_id: TaskId
    body: bytes

    @property
    def event_id(self) -> str:
        return f"{self.epoch}:{self.seq}"

    def json(self) -> bytes:
        """The whole event as one JSON object."""
        return prefix(self.epoch, self.seq) + self.body

    def decoded(self) -> dict[str, Any]:
        """The whole event as Python values."""
        value: dict[str, Any] = orjson.loads(self.json())
        return value


def prefix(epoch: str, seq: int) -> bytes:
    """What comes before the body: the JSON object's start with the number in it."""
    return b'{"type":"event","event_id":"%s:%d","seq":%d,' % (epoch.encode(), seq, seq)


def sse_frame(event: Event) -> bytes:
    """The event as one Server-Sent Events frame."""
    return b"id: %s:%d\nevent: %s\ndata: %s%s\n\n" % (
        event.epoch.encode(),
        event.seq,
        event.method.encode(),
        prefix(event.epoch, event.seq),
        event.body,
    )


def encode_body(
    *,
    method: str,
    tag: str,
    namespace: Sequence[str],
    timestamp_ms: int,
    task_id: TaskId,
    step: int,
    attempt: int,
    worker: str | None,
    data: Any,
    node: str | None = None,
    agent: str | None = None,
    path: Sequence[str] | None = None,
) -> bytes:
    """Encode everything after the number. `data` must be JSON-ready; otherwise TypeError.

    `path` is the readable way to the speaker (namespace without its ids, then the node); `agent` the innermost
    (sub)graph's node name, None at the root.
    """
    params = {
        "namespace": list(namespace),
        "timestamp": timestamp_ms,
        "tag": tag,
        "path": list(path) if path is not None else path_of(namespace, node),
        "node": node,
        "agent": agent if agent is not None else agent_of(namespace),
        "task_id": task_id,
        "run_id": task_id,
        "step": step,
        "attempt": attempt,
        "worker": worker,
        "data": data,
    }
    return orjson.dumps({"method": method, "params": params}, option=orjson.OPT_NON_STR_KEYS)[1:]


def path_of(namespace: Sequence[str], node: str | None) -> list[str]:
    """`("reflect:b9da", )`, `"critic"` → `["reflect", "critic"]`."""
    way = [part.split(":", 1)[0] for part in namespace]
    return [*way, node] if node else way


def agent_of(namespace: Sequence[str]) -> str | None:
    """The name of the innermost subgraph that speaks, None at the root."""
    return namespace[-1].split(":", 1)[0] if namespace else None


def end_frame(task_id: TaskId, status: Status) -> bytes:
    """The last frame of a finished task's stream. It has no number, as it is not part of the log."""
    return b'event: end\ndata: {"task_id":"%s","status":"%s"}\n\n' % (task_id.encode(), status.encode())


_LIFECYCLE_WORD: Mapping[Status, str] = {
    Status.QUEUED: "started",
    Status.RUNNING: "running",
    Status.INTERRUPTED: "interrupted",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
    Status.DEAD: "failed",
}


def lifecycle_event(
    *,
    task_id: TaskId,
    graph: str,
    tier: str,
    status: Status,
    reason: str | None,
    error: TaskError | None,
    timestamp_ms: int,
    step: int,
    attempt: int,
    worker: str | None,
) -> NewEvent:
    """The root event that tells a task's status: `data.event` is the protocol's word for it, `data.status` ours."""
    tag = Tag.ERROR if status in (Status.FAILED, Status.DEAD) else Tag.NODE
    data: dict[str, Any] = {
        "event": _LIFECYCLE_WORD[status],
        "status": status,
        "graph_name": graph,
        "tier": tier,
    }
    if reason is not None:
        data["reason"] = reason
    if error is not None:
        data["error"] = f"{error.type}: {error.message}"
    body = encode_body(
        method=Method.LIFECYCLE,
        tag=tag,
        namespace=(),
        timestamp_ms=timestamp_ms,
        task_id=task_id,
        step=step,
        attempt=attempt,
        worker=worker,
        data=data,
    )
    return NewEvent(Method.LIFECYCLE, tag, "", body)
