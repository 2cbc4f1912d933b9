"""The bodies that go over HTTP, as types: what clients send and what they get. The OpenAPI page is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from perdure.lifecycle.ids import ID_PATTERN
from perdure.lifecycle.task import DEFAULT_MAX_ATTEMPTS, Interrupt, Multitask, Task, TaskError
from perdure.lifecycle.transitions import Status

# The pattern is shown here and checked by `check_id`, whose message says what an id looks like.
Id = Annotated[str, Meta(extra_json_schema={"pattern": ID_PATTERN})]
_YEAR_S = 366 * 86_400


class NewTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task to run. `input`, `config`, `context` and `command` are handed to the graph as they come."""

    graph: str
    input: Raw | UnsetType = UNSET
    thread_id: Id | None = None
    tier: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    config: Raw | UnsetType = UNSET
    context: Raw | UnsetType = UNSET
    metadata: dict[str, Any] = {}
    multitask: Multitask = Multitask.ENQUEUE
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = DEFAULT_MAX_ATTEMPTS
    deadline_s: Annotated[float, Meta(gt=0, le=_YEAR_S)] | None = None
    after_s: Annotated[float, Meta(ge=0, le=_YEAR_S)] | None = None
    webhook: Raw | UnsetType = UNSET
    checkpoint_id: Id | None = None
    command: Raw | UnsetType = UNSET
    interrupt_before: list[str] | Literal["*"] = []
    interrupt_after: list[str] | Literal["*"] = []


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of LangChain's RunnableConfig that can travel as JSON."""

    tags: list[str] = []
    metadata: dict[str, Any] = {}
    run_name: str | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] | None = None
    recursion_limit: Annotated[int, Meta(ge=1)] | None = None
    configurable: dict[str, Any] = {}


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """LangGraph's Command as JSON."""

    update: Any = None
    resume: Any = None
    goto: str | list[str] = []


class Links(msgspec.Struct, frozen=True):
    """Where to go on from here."""

    self: str
    events: str
    cancel: str


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that is stored. `stored` says what it survives; `broker` is there only while the broker is away.

    `status` is `queued`, or after `Prefer: wait` how the task stood last."""

    task_id: str
    thread_id: str
    graph: str
    status: Status
    tier: str
    stored: str
    links: Links
    broker: Literal["degraded"] | None = None


class TaskView(msgspec.Struct, frozen=True):
    """A task as it stands. Times are milliseconds since 1970. Lists leave `input` and `result` out. `interrupts` are
    those that still wait for an answer."""

    task_id: str
    thread_id: str
    graph: str
    status: str
    tier: str
    priority: str
    attempt: int
    losses: int
    max_attempts: int
    step: int
    created_ms: int
    updated_ms: int
    started_ms: int | None
    finished_ms: int | None
    deadline_ms: int | None
    not_before_ms: int | None
    worker: str | None
    reason: str | None
    checkpoint_id: str | None
    error: TaskError | None
    interrupts: Sequence[Interrupt]
    metadata: dict[str, Any]
    links: Links
    input: Raw | UnsetType | None = UNSET
    result: Raw | UnsetType | None = UNSET


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, newest first; `next_cursor` is null at the end."""

    tasks: Sequence[TaskView]
    next_cursor: str | None


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to one interrupt."""

    interrupt_id: str
    value: Any


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers: a bare `value` where exactly one interrupt waits, or `responses` by id."""

    value: Any = UNSET
    responses: list[Answer] | UnsetType = UNSET
    update: Raw | UnsetType = UNSET
    goto: str | list[str] = []


class ArtifactView(msgspec.Struct, frozen=True):
    """A file that a task made."""

    artifact_id: str
    name: str
    media_type: str
    size: int
    created_ms: int
    step: int
    attempt: int
    href: str


class ArtifactList(msgspec.Struct, frozen=True):
    """A task's files, oldest first."""

    artifacts: Sequence[ArtifactView]


class NewThread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A thread to make before its first task."""

    thread_id: Id | None = None
    metadata: dict[str, Any] = {}
    graph: str | None = None


class ThreadView(msgspec.Struct, frozen=True):
    """A thread as it stands. `owner` is its live task, `waiting` those behind it."""

    thread_id: str
    created_ms: int
    updated_ms: int
    epoch: str
    last_seq: int
    graph: str | None
    owner: str | None
    waiting: Sequence[str]
    metadata: dict[str, Any]
    checkpoint_id: str | None
    last_task: str | None


class ThreadPage(msgspec.Struct, frozen=True):
    """Threads, newest first; `next_cursor` is null at the end."""

    threads: Sequence[ThreadView]
    next_cursor: str | None


class StateView(msgspec.Struct, frozen=True):
    """The state of a thread at a checkpoint. Values that JSON does not know are shown with a marker."""

    thread_id: str
    checkpoint_id: str | None
    parent_checkpoint_id: str | None
    created_at: str | None
    values: Raw
    next: Sequence[str]
    interrupts: Sequence[Interrupt]
    metadata: Raw


class StateUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A correction of a thread's state, as if the node `as_node` had written `values`."""

    values: Any
    as_node: str | None = None
    checkpoint_id: Id | None = None


class CheckpointRef(msgspec.Struct, frozen=True):
    """Where a thread stands after a correction or a fork."""

    thread_id: str
    checkpoint_id: str | None


class CheckpointView(msgspec.Struct, frozen=True):
    """One point of a thread's history."""

    checkpoint_id: str
    parent_checkpoint_id: str | None
    created_at: str
    step: int
    source: str
    task_id: str | None


class CheckpointPage(msgspec.Struct, frozen=True):
    """A thread's history, newest first; `next_before` is null at the end."""

    checkpoints: Sequence[CheckpointView]
    next_before: str | None


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A copy of a thread's state under a new thread, up to `checkpoint_id` or whole."""

    checkpoint_id: Id | None = None
    thread_id: Id | None = None


class GraphView(msgspec.Struct, frozen=True):
    """A graph that is served, or why it cannot be."""

    name: str
    tier: str | None = None
    error: str | None = None
    graph: dict[str, Any] | None = None


class GraphList(msgspec.Struct, frozen=True):
    """What is served."""

    graphs: Sequence[str]


class WorkerView(msgspec.Struct, frozen=True):
    """One worker of the fleet, as it last described itself."""

    worker_id: str
    host: str
    pid: int
    tier: str
    slots: int
    standby: bool
    state: str
    held: Sequence[str]
    graphs: Sequence[str]
    started_ms: int
    heartbeat_ms: int
    version: str


class WorkerList(msgspec.Struct, frozen=True):
    """The fleet."""

    workers: Sequence[WorkerView]


class Killed(msgspec.Struct, frozen=True):
    """The worker process that was sent SIGKILL, and what it held."""

    worker_id: str
    pid: int
    held: Sequence[str]


class EventList(msgspec.Struct, frozen=True):
    """A page of events. `next_since` is the cursor of the next page."""

    events: Sequence[dict[str, Any]]
    epoch: str
    first_seq: int
    last_seq: int
    next_since: str


class Health(msgspec.Struct, frozen=True):
    """Whether this process lives, or can serve."""

    status: str
    checks: dict[str, str] = {}


def links_of(task_id: str) -> Links:
    here = f"/v1/tasks/{task_id}"
    return Links(here, f"{here}/events", f"{here}/cancel")


def task_view(task: Task, *, whole: bool) -> TaskView:
    """What is shown of a task; `whole` with its input and result."""
    spec = task.spec
    return TaskView(
        task_id=spec.task_id,
        thread_id=spec.thread_id,
        graph=spec.graph,
        status=task.status,
        tier=task.tier,
        priority=spec.priority,
        attempt=task.attempt,
        losses=task.losses,
        max_attempts=spec.max_attempts,
        step=task.step,
        created_ms=spec.created_ms,
        updated_ms=task.updated_ms,
        started_ms=task.started_ms,
        finished_ms=task.finished_ms,
        deadline_ms=spec.deadline_ms,
        not_before_ms=task.not_before_ms,
        worker=task.worker,
        reason=task.reason,
        checkpoint_id=task.checkpoint_id,
        error=task.error,
        interrupts=[question for question in task.interrupts if question.id not in task.answers],
        metadata=spec.metadata,
        links=links_of(spec.task_id),
        input=spec.input if whole else UNSET,
        result=task.result if whole else UNSET,
    )
