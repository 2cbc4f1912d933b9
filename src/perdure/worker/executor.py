"""Carries one claimed task to its next rest: runs the graph, keeps the lease, and tells the store how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, TypeVar

from langgraph.runtime import RunControl

from perdure.broker.base import Broker
from perdure.clock import Clock
from perdure.errors import BrokerUnavailable, DependencyError, LeaseLost, StoreUnavailable
from perdure.graph.outcome import Drained, Failed, Finished, Outcome, Paused
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.ids import TaskId
from perdure.lifecycle.task import Reason, TaskError
from perdure.store.base import Claim, TaskStore
from perdure.worker.lease_keeper import LeaseKeeper

log = logging.getLogger(__name__)
T = TypeVar("T")

STORE_RETRY_S: Final = 0.2
STORE_PATIENCE_S: Final = 300.0
"""How long an ended task waits for a store that is away before its outcome is given up (it then runs again)."""


SUSPICIONS_MAX: Final = 2
"""A task that was there when this many workers died, among others, runs with no other suspect beside it."""


class _Running(NamedTuple):
    task_id: TaskId
    control: RunControl
    stop: Callable[[str], None]


class Runner(Protocol):
    """What drives an attempt; `graph.runner.GraphRunner` says what it promises."""

    async def run(self, claim: Claim, control: RunControl) -> Outcome: ...


class Executor:
    """Runs claims. `drain` asks all of them to stop after their running step."""

    def __init__(self, runner: Runner, store: TaskStore, broker: Broker, keeper: LeaseKeeper, clock: Clock) -> None:
        self._runner = runner
        self._store = store
        self._broker = broker
        self._keeper = keeper
        self._clock = clock
        # By fence: one process may hold two attempts of one task for a moment, while the lost one is still ending.
        self._running: dict[str, _Running] = {}
        self._turn = asyncio.Lock()

    @property
    def held(self) -> list[TaskId]:
        return [running.task_id for running in self._running.values()]

    def drain(self) -> None:
        """Ask every running task to stop once its running step is checkpointed."""
        for running in self._running.values():
            running.control.request_drain("the worker drains")

    def cancel_all(self, why: str) -> None:
        """Stop every running task now, in the middle of its step."""
        for running in list(self._running.values()):
            running.stop(why)

    async def execute(
        self, claim: Claim, in_turn: Callable[[], None] = lambda: None, claimed_at: float | None = None
    ) -> None:
        """Run until the task ends, pauses, is handed back or lost. Never raises for what the graph does.

        A task that is suspected of having killed workers waits until no other suspect runs here; `in_turn` is called
        when it begins. `claimed_at` is the clock's time at which the claim was asked for.
        """
        loop = asyncio.get_running_loop()
        control = RunControl()
        work = loop.create_task(self._run(claim, control, in_turn), name=f"task {claim.task.task_id}")
        why: list[str] = []

        def stop(reason: str) -> None:
            self._keeper.heard(claim.lease)
            why.append(reason)
            work.cancel(reason)

        def on_lost(reason: str) -> None:
            with contextlib.suppress(RuntimeError):  # The loop has ended, and the work with it.
                loop.call_soon_threadsafe(stop, reason)

        self._keeper.hold(claim.lease, on_lost, claimed_at)
        self._running[claim.lease.fence] = _Running(claim.task.task_id, control, stop)
        try:
            await asyncio.wait([work])
            if work.cancelled():
                await self._stopped(claim, why[0] if why else "cancelled")
            elif isinstance(error := work.exception(), LeaseLost):
                log.info("task %s: %s", claim.task.task_id, error)
            elif error is not None:
                await self._failed(claim, error)
            else:
                await self._settle(claim, work.result())
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
            del self._running[claim.lease.fence]
            self._keeper.drop(claim.lease)

    async def order(self, task_id: TaskId) -> None:
        """Somebody says that our lease on a task is gone: ask the store, for the order may be old."""
        if task_id in self.held:
            self._keeper.nudge()

    async def _run(self, claim: Claim, control: RunControl, in_turn: Callable[[], None]) -> Outcome:
        if claim.task.suspicions < SUSPICIONS_MAX:
            return await self._runner.run(claim, control)
        async with self._turn:
            in_turn()
            return await self._runner.run(claim, control)

    async def _settle(self, claim: Claim, outcome: Outcome) -> None:
        lease = claim.lease
        match outcome:
            case Finished():
                ended = await self._insist(lambda: self._store.succeed(lease, outcome.result, outcome.events))
                await self._ring(ended.doorbell if ended else None)
            case Failed():
                ended = await self._insist(
                    lambda: self._store.fail(lease, outcome.error, outcome.reason, outcome.events)
                )
                await self._ring(ended.doorbell if ended else None)
            case Paused():
                await self._insist(
                    lambda: self._store.pause(lease, outcome.interrupts, outcome.checkpoint_id, outcome.events)
                )
            case Drained():
                await self._give_back(claim, Reason.DRAIN)

    async def _failed(self, claim: Claim, error: BaseException) -> None:
        """The runner turns everything that a graph does into an outcome, so this is a fault of a dependency or of
        ours. Giving the task back costs it an attempt but not its state; a fault of ours must not go on for ever."""
        task = claim.task
        log.error("task %s: the runner failed", task.task_id, exc_info=error)
        told = TaskError(type(error).__name__, str(error), worker=claim.lease.worker)
        if isinstance(error, DependencyError) or task.attempt < task.spec.max_attempts:
            await self._ring(
                await self._insist(lambda: self._store.give_back(claim.lease, Reason.RETRY, error=told, cut=True))
            )
        else:
            await self._settle(claim, Failed(told, Reason.INTERNAL))

    async def _stopped(self, claim: Claim, why: str) -> None:
        if why == "superseded":
            log.info("task %s: stopped, its lease is gone", claim.task.task_id)
            return
        log.warning("task %s: stopped in the middle of a step (%s)", claim.task.task_id, why)
        # The lease may still be ours once the store is back; then the task goes back without having lost an attempt.
        await self._give_back(claim, Reason.DRAIN if why == "drain" else Reason.LEASE_EXPIRED, cut=True)

    async def _give_back(self, claim: Claim, reason: str, *, cut: bool = False) -> None:
        await self._ring(await self._insist(lambda: self._store.give_back(claim.lease, reason, cut=cut)))

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T | None:
        """Repeat a write until the store has answered. None if the lease is gone: then it was not, or no longer, ours
        to write, or an earlier try had arrived and its answer was lost."""
        until = self._clock.monotonic() + STORE_PATIENCE_S
        while True:
            try:
                return await write()
            except LeaseLost:
                return None
            except StoreUnavailable as error:
                if self._clock.monotonic() > until:
                    log.error("gave up an outcome: the store stayed away: %s", error)
                    return None
                await asyncio.sleep(STORE_RETRY_S)

    async def _ring(self, doorbell: Doorbell | None) -> None:
        if doorbell is None:
            return
        try:
            await self._broker.publish([doorbell])
        except BrokerUnavailable as error:
            log.warning("could not ring for %s, the rescuer will: %s", doorbell.ref.task_id, error)
