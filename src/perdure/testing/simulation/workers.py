"""Worker machines: the real worker service, executor and lease keeper in processes that crash, and who starts them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from perdure.errors import BrokerUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Priority
from perdure.recovery.rescuer import Rescuer
from perdure.store.base import TaskStore, WorkerInfo
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.runner import LangGraphRunner, ScriptRunner, Stage
from perdure.testing.simulation.saver import Checkpoints
from perdure.worker.executor import Executor
from perdure.worker.lease_keeper import LeaseKeeper
from perdure.worker.service import WorkerService
from perdure.worker.supervisor import take_back

if TYPE_CHECKING:
    from perdure.testing.simulation.world import World

TIER: Final = "cpu"
DRAIN_TIMEOUT_S: Final = 1.0


class WorkerMachine:
    """Keeps one worker process alive, as the supervisor does, on a host that may be lost with it."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._random = random.Random(f"{world.seed} machine {number}")
        self.supervisor = world.process(f"host{number}")
        self.standby = number > 0 and self._random.random() < 0.3
        self.child: Child | None = None
        self.supervisor.start(self._keep(number), "supervise")

    async def _keep(self, number: int) -> None:
        world, rng = self._world, self._random
        store, broker = world.store(self.supervisor), world.broker(self.supervisor)
        lived = 0
        while True:
            lived += 1
            child = self.child = Child(world, WorkerId(f"w{number}.{lived}"), standby=self.standby)
            why = await child.worker.wait_ended()
            child.keeper.kill(why)
            world.trace.tell(self.supervisor.name, f"{child.worker_id} ended: {why}")
            if rng.random() >= world.weather.host_lost or world.cleared:
                await asyncio.sleep(rng.random() * 0.05)
                await take_back(store, broker, child.worker_id, child.held, child.in_turn)
            await asyncio.sleep(0.1 + rng.random())


class Child:
    """One worker process: two simulated ones, as the lease keeper's thread runs on while the event loop stands."""

    def __init__(self, world: World, worker_id: WorkerId, *, standby: bool) -> None:
        self.worker_id = worker_id
        self.worker = world.process(worker_id)
        self.keeper = world.process(f"{worker_id}k")
        self.held: Counter[ThreadRef] = Counter()
        self.in_turn: set[ThreadRef] = set()
        self.service: WorkerService | None = None
        self._world = world
        self._standby = standby
        self.worker.start(self._main(), "main")

    async def _main(self) -> None:
        world, worker_id = self._world, self.worker_id
        store, broker = world.store(self.worker), world.broker(self.worker)
        wire = world.store_wire(self.worker)

        def checkpoints(lease: Lease) -> Checkpoints:
            return Checkpoints(world.memory, world.witness, wire, lease)

        stage = Stage(store, world.clock, world.referee, self.worker, self.keeper, self.kill, checkpoints)
        runner = LangGraphRunner(stage) if world.langgraph else ScriptRunner(stage)
        keeper = LeaseKeeper(_never_opened, world.clock, world.lease_ttl_ms, self._describe)
        executor = Executor(runner, store, broker, keeper, world.clock)
        self.service = WorkerService(
            worker_id=worker_id,
            tier=TIER,
            slots=world.slots,
            classes=(Priority.RECOVERY,) if self._standby else tuple(Priority),
            store=store,
            broker=broker,
            executor=executor,
            clock=world.clock,
            lease_ttl_ms=world.lease_ttl_ms,
            drain_timeout_s=DRAIN_TIMEOUT_S,
            report=self._report,
            report_turn=self.in_turn.add,
        )
        keeping = self.keeper.start(keeper.keep(world.store(self.keeper)), "keep leases")
        try:
            await self.service.run()
        except BrokerUnavailable as error:
            self.worker.kill(f"deaf: {error}")
        keeper.leave()
        await asyncio.wait({keeping})
        self.worker.leave()

    def kill(self, why: str) -> None:
        self.worker.kill(why)
        self.keeper.kill(why)

    def drain(self) -> None:
        """SIGTERM."""
        if self.service is not None and self.worker.runs:
            self.worker.call_later(0.0, self.service.drain)

    def _report(self, held: bool, thread: ThreadRef) -> None:
        self.held[thread] += 1 if held else -1
        if not self.held[thread]:
            del self.held[thread]
            self.in_turn.discard(thread)

    def _describe(self) -> WorkerInfo:
        return WorkerInfo(self.worker_id, "host", 1, TIER, self._world.slots, self._standby, "ready", [], [], 0)


class RescuerMachine:
    """Runs the real rescuer, again whenever it died."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._random = random.Random(f"{world.seed} rescuer {number}")
        self.process: Process | None = None
        self.supervisor = world.process(f"rescuers{number}")
        self.supervisor.start(self._keep(), "supervise")

    async def _keep(self) -> None:
        world, lived = self._world, 0
        while True:
            lived += 1
            process = self.process = world.process(f"r{self._number}.{lived}")
            rescuer = Rescuer(world.store(process), world.broker(process), look_every_s=world.look_every_s)
            process.start(rescuer.run(), "rescue")
            await process.wait_ended()
            await asyncio.sleep(self._random.random() * 2)


@asynccontextmanager
async def _never_opened() -> AsyncIterator[TaskStore]:
    raise RuntimeError("a simulated lease keeper is handed its store")
    yield  # type: ignore[unreachable]
