"""The task: what was asked (TaskSpec, never changes) and where it stands (Task)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, Tenant, ThreadId, WorkerId
from perdure.lifecycle.transitions import Status

DEFAULT_TIER: Final = "cpu"
DEFAULT_MAX_ATTEMPTS: Final = 3


class Priority(StrEnum):
    """Doorbells of a higher class are answered first. RECOVERY is for tasks that lost their worker."""

    RECOVERY = "recovery"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Multitask(StrEnum):
    """What a new task does to the live tasks of its thread."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"


class Reason(StrEnum):
    """Why a task left a status, as a stable word for programs."""

    REQUESTED = "requested"
    SUPERSEDED = "superseded"
    DEADLINE = "deadline"
    GRAPH_ERROR = "graph_error"
    UNSERIALIZABLE = "unserializable"
    INTERNAL = "internal"
    WORKER_LOST = "worker_lost"
    LEASE_EXPIRED = "lease_expired"
    DRAIN = "drain"
    HAND_OVER = "hand_over"
    RETRY = "retry"
    RESUMED = "resumed"
    REQUEUED = "requeued"


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked. Written once at acceptance, as JSON, and never changed.

    `input`, `config`, `context` and `command` are JSON as the client sent it.
    """

    task_id: TaskId
    thread_id: ThreadId
    graph: str
    tier: str
    created_ms: int
    tenant: Tenant = DEFAULT_TENANT
    input: msgspec.Raw | None = None
    priority: Priority = Priority.NORMAL
    config: msgspec.Raw | None = None
    context: msgspec.Raw | None = None
    metadata: dict[str, Any] = {}
    multitask: Multitask = Multitask.ENQUEUE
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    deadline_ms: int | None = None
    not_before_ms: int | None = None
    checkpoint_id: str | None = None
    command: msgspec.Raw | None = None
    interrupt_before: list[str] = []
    interrupt_after: list[str] = []


_RAW_FIELDS: Final = ("input", "config", "context", "command")


class _StoredSpec(TaskSpec, frozen=True):
    """A spec on its way from JSON: msgspec cannot decode `Raw | None`, so absent parts are empty here."""

    input: msgspec.Raw = msgspec.Raw(b"")
    config: msgspec.Raw = msgspec.Raw(b"")
    context: msgspec.Raw = msgspec.Raw(b"")
    command: msgspec.Raw = msgspec.Raw(b"")


_stored_spec: Final = msgspec.json.Decoder(_StoredSpec)


def decode_spec(text: bytes) -> TaskSpec:
    """The inverse of encoding a TaskSpec as JSON."""
    stored = _stored_spec.decode(text)
    fields = {name: getattr(stored, name) for name in TaskSpec.__struct_fields__}
    for name in _RAW_FIELDS:
        fields[name] = fields[name] if bytes(fields[name]) else None
    return TaskSpec(**fields)


class TaskError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a task failed, died or is being tried again."""

    type: str
    message: str
    node: str | None = None
    traceback: str | None = None
    worker: str | None = None


class Interrupt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question that waits for an answer. A breakpoint is one too, with `breakpoint` set to the node it guards."""

    id: str
    value: Any = None
    namespace: list[str] = []
    breakpoint: str | None = None


class Task(msgspec.Struct, frozen=True):
    """A task as it stands in the store. Times are milliseconds since 1970 by the store's clock.

    `attempt` counts claims; `losses` counts those that ended by a crash or a lost lease, which `max_attempts` bounds.
    `suspicions` counts crashes that another task of the same process may as well have caused; they cost no attempt.
    `answers` holds the answers to interrupts by interrupt id, `passed` the breakpoints (`checkpoint_id:node`) that
    were answered; `worker` is who holds it now, or held it last. `base_checkpoint_id` is the thread's head at the first
    claim, to which a rollback returns.
    """

    spec: TaskSpec
    status: Status
    tier: str
    attempt: int = 0
    losses: int = 0
    suspicions: int = 0
    step: int = 0
    updated_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    not_before_ms: int | None = None
    worker: WorkerId | None = None
    reason: str | None = None
    error: TaskError | None = None
    result: msgspec.Raw | None = None
    interrupts: list[Interrupt] = []
    answers: dict[str, Any] = {}
    passed: list[str] = []
    update: msgspec.Raw | None = None
    goto: list[str] = []
    checkpoint_id: str | None = None
    base_checkpoint_id: str | None = None
    first_seq: int = 0
    last_seq: int = 0

    @property
    def task_id(self) -> TaskId:
        return self.spec.task_id

    @property
    def thread_id(self) -> ThreadId:
        return self.spec.thread_id
