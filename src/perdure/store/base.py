"""The store port: every verb is one atomic step, and the same for every backend.

Errors all verbs share: `StoreUnavailable` (nothing is known to have been written; trying again is safe unless a verb
says otherwise) and, for verbs that take a lease, `LeaseLost` (the holder was superseded, or the task ended; nothing
was written). A verb that a Status forbids raises `Conflict`; one whose task is unknown raises `NotFound`.
What may happen to a task is decided by `lifecycle.transitions` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec

from perdure.lifecycle.doorbell import Doorbell, TaskRef, ThreadRef
from perdure.lifecycle.events import Event, NewEvent
from perdure.lifecycle.ids import TaskId, Tenant, ThreadId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Task, TaskError, TaskSpec
from perdure.lifecycle.transitions import Status

RING_AGAIN_MS: Final = 5_000
"""How long a task may wait for a worker before it is rung for again."""

IDEMPOTENCY_MS: Final = 24 * 3600 * 1000
"""How long an Idempotency-Key is remembered."""


class Created(msgspec.Struct, frozen=True):
    """What `create` did. `doorbell` is None while the task waits behind another of its thread."""

    task: Task
    doorbell: Doorbell | None
    displaced: Sequence[tuple[TaskRef, WorkerId | None]] = ()
    replayed: bool = False


class Claim(msgspec.Struct, frozen=True):
    """A lease and all that its holder needs to go on.

    `lost_worker`, `lost_attempt`: who held the task in the attempt before, if that attempt was cut off.
    `superseded`: first and last seq of the events of that attempt after its last checkpoint, if there are any.
    """

    lease: Lease
    task: Task
    epoch: str
    lost_worker: WorkerId | None = None
    superseded: tuple[int, int] | None = None


class Ended(msgspec.Struct, frozen=True):
    """What a terminal transition left: the task, the worker that held it, the next task of the thread to ring for."""

    task: Task
    changed: bool
    worker: WorkerId | None = None
    doorbell: Doorbell | None = None


class Thread(msgspec.Struct, frozen=True):
    """A thread as it stands. `owner` is the live task that owns it, `waiting` those behind it, oldest first."""

    thread_id: ThreadId
    created_ms: int
    updated_ms: int
    epoch: str
    last_seq: int
    graph: str | None
    owner: TaskId | None
    waiting: Sequence[TaskId]
    metadata: Mapping[str, Any]
    checkpoint_id: str | None
    last_task: TaskId | None


class EventPage(msgspec.Struct, frozen=True):
    """Events after a cursor, in order. `first_seq` is the oldest that is kept, `last_seq` the newest."""

    epoch: str
    first_seq: int
    last_seq: int
    events: Sequence[Event]


class WorkerInfo(msgspec.Struct, frozen=True):
    """One worker of the fleet, as it last described itself."""

    worker_id: WorkerId
    host: str
    pid: int
    tier: str
    slots: int
    standby: bool
    state: str
    held: Sequence[TaskId]
    graphs: Sequence[str]
    started_ms: int
    heartbeat_ms: int = 0
    version: str = ""


class Artifact(msgspec.Struct, frozen=True):
    """A file that a task made. `artifact_id` is unique in the task, `name` need not be."""

    artifact_id: str
    name: str
    media_type: str
    size: int
    created_ms: int
    step: int
    attempt: int


class Finding(msgspec.Struct, frozen=True):
    """One result of the start-up check. `fatal` ones mean that accepted tasks could be lost."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    fatal: bool = False


class Due(msgspec.Struct, frozen=True):
    """A thread that may need the rescuer. `mark` is handed back to `settle` to say that it does not."""

    thread: ThreadRef
    mark: str


class EventFeed(ABC):
    """Wakes readers when threads have new events."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[None]:
        """Yields once at the start and then whenever the thread may have new events; may yield for nothing."""


class TaskStore(ABC):
    """Tasks, threads, leases, events, artifacts and the fleet."""

    # --- acceptance -------------------------------------------------------------------------------------------
    @abstractmethod
    async def create(self, spec: TaskSpec) -> Created:
        """Store a task with its first event, behind or before the others of its thread as `spec.multitask` says.

        If a task of that id is there already, nothing is written and it is returned with `replayed=True`; so a
        caller that does not know whether its first try arrived may try again.
        Raises Conflict (`thread_busy`) under multitask=reject while the thread has a live task.
        """

    @abstractmethod
    async def reserve(self, tenant: Tenant, key: str, fingerprint: str, answer: bytes) -> bytes | None:
        """Keep `answer` for 24 h under an Idempotency-Key. None if this call kept it; otherwise what was kept first.

        Raises IdempotencyMismatch if the key was used for another fingerprint (a digest of the request).
        """

    # --- acting under a lease ---------------------------------------------------------------------------------
    @abstractmethod
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        """Take a queued, due task that owns its thread. None if there is nothing to take: another worker has it,
        it ended, it waits behind another, or it is not due yet. Appends a `running` event."""

    @abstractmethod
    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        """Extend leases to their full time from now. False for each that is lost."""

    @abstractmethod
    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        """Number and store events, all or none. Returns the last seq.

        `first` is the place of the first of them among all that this holder appends, counted from 1. Events that
        are stored already are not stored again, so a holder that lost the answer sends them again, with others
        behind them or not. With 0 nothing is remembered.
        """

    @abstractmethod
    async def succeed(self, lease: Lease, result: bytes, events: Sequence[NewEvent] = ()) -> Ended:
        """End the task with its result (JSON). `events` come before the terminal one."""

    @abstractmethod
    async def fail(self, lease: Lease, error: TaskError, reason: str, events: Sequence[NewEvent] = ()) -> Ended:
        """End the task with an error."""

    @abstractmethod
    async def pause(
        self, lease: Lease, interrupts: Sequence[Interrupt], checkpoint_id: str, events: Sequence[NewEvent] = ()
    ) -> None:
        """Let the task wait for answers, holding no worker. It keeps its thread."""

    @abstractmethod
    async def give_back(
        self,
        lease: Lease,
        reason: str,
        *,
        tier: str | None = None,
        not_before_ms: int | None = None,
        error: TaskError | None = None,
        cut: bool = False,
    ) -> Doorbell:
        """Put the task back into the queue (drain, hand-over, retry). With `tier` it moves there, and the next
        claim keeps the attempt number. `cut` says that a step was cut off, so that the next claim tells what of the
        stream is superseded. The caller rings, at once or when it is due."""

    @abstractmethod
    async def put_artifact(self, lease: Lease, name: str, media_type: str, data: bytes, step: int) -> Artifact:
        """Keep a file that the task made."""

    # --- from outside -----------------------------------------------------------------------------------------
    @abstractmethod
    async def cancel(self, ref: TaskRef, reason: str = "requested") -> Ended:
        """End a live task as cancelled; on an ended one `changed` is False. The holder's lease is lost at once; the
        caller tells the worker (`tell`)."""

    @abstractmethod
    async def resume(
        self,
        ref: TaskRef,
        *,
        value: Any = msgspec.UNSET,
        responses: Mapping[str, Any] | None = None,
        update: bytes | None = None,
        goto: Sequence[str] = (),
    ) -> Doorbell | None:
        """Answer interrupts. A bare `value` is for exactly one pending interrupt, else Conflict (`ambiguous`).

        Unknown ids raise InvalidRequest. With answers still missing the task stays interrupted and None is
        returned; the last answer puts it back into the queue. Twice at once: one wins, the other gets Conflict.
        """

    @abstractmethod
    async def requeue(self, ref: TaskRef) -> Doorbell:
        """Revive a failed or dead task from its last checkpoint. Conflict (`thread_moved_on`) if the thread's head is
        no longer the task's, or another task owns the thread."""

    @abstractmethod
    async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
        """`worker` is known to be dead: take its lease on `thread` away, if it holds one. The task is queued again,
        or dead if its attempts are used up. Returns what to ring for.

        Without `charge` the loss is not counted against the attempts (unless only one is allowed) but as a suspicion:
        the worker held several tasks, any of which may have killed it."""

    @abstractmethod
    async def due(self, limit: int) -> Sequence[Due]:
        """Threads whose next look is due: leases that may have expired, tasks nobody may have been rung for, tasks
        whose time has come, deadlines. A superset; empty when there is nothing."""

    @abstractmethod
    async def rescue(self, due: Due) -> Doorbell | None:
        """Look at one due thread and mend it: an expired lease is taken away, a passed deadline ends the task, a task
        that waits for a worker is returned to be rung for. Sets the time of the next look."""

    # --- reading ----------------------------------------------------------------------------------------------
    @abstractmethod
    async def locate(self, task_id: TaskId, tenant: Tenant) -> TaskRef | None:
        """Where a task lives; None if it is unknown or another tenant's."""

    @abstractmethod
    async def get(self, ref: TaskRef) -> Task:
        """The task as it stands."""

    @abstractmethod
    async def list_tasks(
        self,
        tenant: Tenant,
        *,
        status: Status | None = None,
        thread_id: ThreadId | None = None,
        graph: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[Sequence[Task], str | None]:
        """Newest first. Returns the tasks and the cursor of the next page, None at the end."""

    @abstractmethod
    async def delete_task(self, ref: TaskRef) -> None:
        """Forget an ended task and its artifacts. Conflict while it is live. Its events stay on the thread."""

    @abstractmethod
    async def thread(self, ref: ThreadRef) -> Thread:
        """The thread as it stands."""

    @abstractmethod
    async def create_thread(self, ref: ThreadRef, metadata: Mapping[str, Any], graph: str | None = None) -> Thread:
        """Make an empty thread, or return the one that is there."""

    @abstractmethod
    async def list_threads(
        self, tenant: Tenant, *, limit: int = 20, cursor: str | None = None
    ) -> tuple[Sequence[Thread], str | None]:
        """Newest first."""

    @abstractmethod
    async def delete_thread(self, ref: ThreadRef) -> None:
        """Forget the thread with its tasks, events, checkpoints and artifacts. Conflict while a task is live."""

    @abstractmethod
    async def events(self, thread: ThreadRef, after_seq: int, limit: int = 500) -> EventPage:
        """Events with a seq above `after_seq`, oldest first. NotFound if there is no such thread."""

    @abstractmethod
    def follow(self, thread: ThreadRef) -> AbstractAsyncContextManager[EventFeed]:
        """Be told of new events of a thread. All feeds of one process share one connection."""

    @abstractmethod
    async def artifacts(self, ref: TaskRef) -> Sequence[Artifact]:
        """What the task has made so far, oldest first."""

    @abstractmethod
    async def artifact(self, ref: TaskRef, name: str) -> tuple[Artifact, bytes]:
        """One file by id, or the newest of that name. NotFound if there is none."""

    # --- the fleet --------------------------------------------------------------------------------------------
    @abstractmethod
    async def heartbeat(self, worker: WorkerInfo, ttl_ms: int) -> None:
        """Say that a worker lives; forgotten after `ttl_ms` without another one."""

    @abstractmethod
    async def forget_worker(self, worker: WorkerId) -> None:
        """The worker left."""

    @abstractmethod
    async def workers(self) -> Sequence[WorkerInfo]:
        """The fleet."""

    @abstractmethod
    async def tell(self, worker: WorkerId, task_id: TaskId) -> None:
        """Tell a worker that its lease on a task is gone, so that it stops now instead of at its next write."""

    @abstractmethod
    def orders(self, worker: WorkerId) -> AbstractAsyncContextManager[AsyncIterator[TaskId]]:
        """What `tell` tells this worker. May lose orders; the lease keeper finds out anyway."""

    # --- the deployment ---------------------------------------------------------------------------------------
    @abstractmethod
    async def counts(self) -> Mapping[str, int]:
        """How many live tasks there are, by `tier/status`, roughly; for metrics."""

    @abstractmethod
    async def check(self) -> Sequence[Finding]:
        """Can this store keep Perdure's promises? Version, persistence, eviction, rights."""

    @property
    @abstractmethod
    def stored(self) -> str:
        """What an accepted task survives: `fsync`, `replicated`, `everysec` or `memory`."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers and can write."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release all connections. Safe to repeat."""
