"""The simulation has teeth: each fence and rule of the store, removed alone, is caught within a few hundred seeds."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from perdure.lifecycle.doorbell import Doorbell, TaskRef, ThreadRef
from perdure.lifecycle.events import NewEvent
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, Task, TaskError, TaskSpec
from perdure.lifecycle.transitions import Status
from perdure.store.base import Artifact, Claim, Created, Due, Ended
from perdure.store.memory import MemoryStore, _Thread
from perdure.testing.simulation import Promise, simulate

SEEDS_MAX = 600


class Unfenced(MemoryStore):
    """Lets one verb pass the fence; which one, the subclasses say."""

    _open = False

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _held(self, lease: Lease) -> tuple[_Thread, Task]:
        if self._open:
            thread = self._threads[ThreadRef(lease.tenant, lease.thread_id)]
            return thread, thread.tasks[lease.task_id]
        return super()._held(lease)


class AppendUnfenced(Unfenced):
    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        with self.opened():
            return await super().append(lease, events, first)


class SucceedUnfenced(Unfenced):
    async def succeed(self, lease: Lease, result: bytes, events: Sequence[NewEvent] = ()) -> Ended:
        with self.opened():
            return await super().succeed(lease, result, events)


class FailUnfenced(Unfenced):
    async def fail(self, lease: Lease, error: TaskError, reason: str, events: Sequence[NewEvent] = ()) -> Ended:
        with self.opened():
            return await super().fail(lease, error, reason, events)


class PauseUnfenced(Unfenced):
    async def pause(
        self, lease: Lease, interrupts: Sequence[Interrupt], checkpoint_id: str, events: Sequence[NewEvent] = ()
    ) -> None:
        with self.opened():
            await super().pause(lease, interrupts, checkpoint_id, events)


class GiveBackUnfenced(Unfenced):
    async def give_back(self, lease: Lease, reason: str, **more: Any) -> Doorbell:
        with self.opened():
            return await super().give_back(lease, reason, **more)


class ArtifactUnfenced(Unfenced):
    async def put_artifact(self, lease: Lease, name: str, media_type: str, data: bytes, step: int) -> Artifact:
        with self.opened():
            return await super().put_artifact(lease, name, media_type, data, step)


class CheckpointUnfenced(Unfenced):
    def note_checkpoint(self, lease: Lease, checkpoint_id: str, step: int) -> None:
        with self.opened():
            super().note_checkpoint(lease, checkpoint_id, step)


class RenewUnfenced(MemoryStore):
    async def renew(self, leases: Sequence[Lease]) -> Sequence[bool]:
        await super().renew(leases)
        return [True] * len(leases)


class TokenNotGrown(MemoryStore):
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        if (thread := self._threads.get(ref.thread)) is not None:
            thread.token = 0
        return await super().claim(ref, worker, ttl_ms)


class ClaimIgnoresOwner(MemoryStore):
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        thread = self._threads.get(ref.thread)
        if thread is not None and thread.owner != ref.task_id and thread.tasks[ref.task_id].status is Status.QUEUED:
            thread.owner = ref.task_id
        return await super().claim(ref, worker, ttl_ms)


class ClaimIgnoresStatus(MemoryStore):
    async def claim(self, ref: TaskRef, worker: WorkerId, ttl_ms: int) -> Claim | None:
        thread = self._threads.get(ref.thread)
        if thread is not None and thread.owner == ref.task_id:
            task = thread.tasks[ref.task_id]
            thread.tasks[ref.task_id] = msgspec.structs.replace(task, status=Status.QUEUED)
        return await super().claim(ref, worker, ttl_ms)


class AbandonIgnoresWorker(MemoryStore):
    async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
        record = self._threads.get(thread)
        if record is not None and record.owner is not None:
            worker = record.tasks[record.owner].worker or worker
        return await super().abandon(thread, worker, charge=charge)


class CreateIgnoresOwner(MemoryStore):
    async def create(self, spec: TaskSpec) -> Created:
        thread = self._threads.get(ThreadRef(spec.tenant, spec.thread_id))
        if thread is not None and spec.task_id not in thread.tasks:
            thread.owner = None
        return await super().create(spec)


class CreateTwice(MemoryStore):
    async def create(self, spec: TaskSpec) -> Created:
        self._where.pop(spec.task_id, None)
        return await super().create(spec)


class ResumeIgnoresStatus(MemoryStore):
    async def resume(self, ref: TaskRef, **more: Any) -> Doorbell | None:
        thread, task = self._task(ref)
        thread.tasks[ref.task_id] = msgspec.structs.replace(task, status=Status.INTERRUPTED)
        return await super().resume(ref, **more)


class ResumeForgetsAnswers(MemoryStore):
    """The last answer is kept, those before it are not."""

    async def resume(self, ref: TaskRef, **more: Any) -> Doorbell | None:
        thread, task = self._task(ref)
        thread.tasks[ref.task_id] = msgspec.structs.replace(task, answers={}, passed=[])
        return await super().resume(ref, **more)


class RescueIgnoresExpiry(MemoryStore):
    async def rescue(self, due: Due) -> Doorbell | None:
        if (thread := self._threads.get(due.thread)) is not None and thread.fence:
            thread.until_ms = 0
        return await super().rescue(due)


class RescueIgnoresStart(MemoryStore):
    """No grace after a start of the store."""

    async def rescue(self, due: Due) -> Doorbell | None:
        started_ms, self.started_ms = self.started_ms, 0
        try:
            return await super().rescue(due)
        finally:
            self.started_ms = started_ms

    def _plan(self, *args: Any, **more: Any) -> None:
        started_ms, self.started_ms = self.started_ms, 0
        super()._plan(*args, **more)
        self.started_ms = started_ms


class RescueNever(MemoryStore):
    async def due(self, limit: int) -> Sequence[Due]:
        return []


class RescueForgetsRings(MemoryStore):
    """Expired leases are taken away, but nobody is rung for again."""

    async def rescue(self, due: Due) -> Doorbell | None:
        bell = await super().rescue(due)
        return bell if bell is not None and self._threads[due.thread].lost else None


class CancelKeepsLease(MemoryStore):
    async def cancel(self, ref: TaskRef, reason: str = "requested") -> Ended:
        thread, _ = self._task(ref)
        fence, owner = thread.fence, thread.owner
        ended = await super().cancel(ref, reason)
        if ended.changed and owner == ref.task_id:
            thread.fence = fence
        return ended


class CancelForgotten(MemoryStore):
    """A cancelled task can be claimed again."""

    async def cancel(self, ref: TaskRef, reason: str = "requested") -> Ended:
        ended = await super().cancel(ref, reason)
        if ended.changed:
            thread, task = self._task(ref)
            thread.tasks[ref.task_id] = msgspec.structs.replace(task, status=Status.QUEUED)
            thread.owner = thread.owner or ref.task_id
            self._plan(thread)
        return ended


class RequeueIgnoresOwner(MemoryStore):
    async def requeue(self, ref: TaskRef) -> Doorbell:
        thread, task = self._task(ref)
        if task.status in (Status.FAILED, Status.DEAD):
            thread.owner = thread.head_task = None
        return await super().requeue(ref)


class RequeueIgnoresStatus(MemoryStore):
    async def requeue(self, ref: TaskRef) -> Doorbell:
        thread, task = self._task(ref)
        thread.tasks[ref.task_id] = msgspec.structs.replace(task, status=Status.FAILED)
        return await super().requeue(ref)


class AppendForgetsPlace(MemoryStore):
    """What is sent again is stored again."""

    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        return await super().append(lease, events, 0)


class AppendLosesSome(MemoryStore):
    async def append(self, lease: Lease, events: Sequence[NewEvent], first: int = 0) -> int:
        seq = await super().append(lease, events, first)
        thread = self._threads[ThreadRef(lease.tenant, lease.thread_id)]
        if len(events) > 2:
            thread.events.pop(-2)
        return seq


class ReserveNever(MemoryStore):
    async def reserve(self, tenant: Any, key: str, fingerprint: str, answer: bytes) -> bytes | None:
        return None


class FinishForgetsNext(MemoryStore):
    """The next task of the thread does not become its owner."""

    def _end(self, thread: _Thread, task: Task, verb: Any, reason: str | None) -> Ended:
        queue, thread.queue = thread.queue, []
        ended = super()._end(thread, task, verb, reason)
        thread.queue = queue
        return ended


class LoseKeepsAttempts(MemoryStore):
    """A task that kills its worker is tried for ever."""

    def _lose(self, thread: _Thread, task: Task, reason: str, *, charge: bool = True) -> Doorbell | None:
        return super()._lose(thread, msgspec.structs.replace(task, losses=0), reason, charge=charge)


MUTANTS: Sequence[type[MemoryStore]] = (
    AppendUnfenced,
    SucceedUnfenced,
    FailUnfenced,
    PauseUnfenced,
    GiveBackUnfenced,
    ArtifactUnfenced,
    CheckpointUnfenced,
    RenewUnfenced,
    TokenNotGrown,
    ClaimIgnoresOwner,
    ClaimIgnoresStatus,
    AbandonIgnoresWorker,
    CreateIgnoresOwner,
    CreateTwice,
    ResumeIgnoresStatus,
    ResumeForgetsAnswers,
    RescueIgnoresExpiry,
    RescueIgnoresStart,
    RescueNever,
    RescueForgetsRings,
    CancelKeepsLease,
    CancelForgotten,
    RequeueIgnoresOwner,
    RequeueIgnoresStatus,
    AppendForgetsPlace,
    AppendLosesSome,
    ReserveNever,
    FinishForgetsNext,
    LoseKeepsAttempts,
)


def first_caught(mutant: type[MemoryStore], seeds: int = SEEDS_MAX) -> tuple[int, Promise] | None:
    """The first seed that catches a broken store, and the promise that it broke."""
    for seed in itertools.islice(itertools.count(), seeds):
        run = simulate(seed, store_class=mutant, langgraph=False)
        if not run.held:
            return seed, run.broken[0].promise
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_missing_fence_is_caught(mutant: type[MemoryStore]) -> None:
    assert first_caught(mutant) is not None


def test_a_seed_repeats_itself() -> None:
    """The same seed gives the same run, line by line: what it caught can be read again."""
    first, second = (simulate(9, langgraph=False, trace=True) for _ in range(2))
    assert first.trace == second.trace
    assert len(first.trace) > 20


def test_a_broken_promise_names_itself() -> None:
    """A failing run says which promise broke, and its trace ends with how."""
    caught = first_caught(RescueIgnoresExpiry)
    assert caught is not None
    run = simulate(caught[0], store_class=RescueIgnoresExpiry, langgraph=False, trace=True)
    assert str(caught[1]) in str(run.broken[0])
    assert any("broken" in line for line in run.trace)
