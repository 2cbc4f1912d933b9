"""One simulated run: machines, clients, weather, and the referee's judgement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from perdure.broker.base import Broker
from perdure.broker.memory import MemoryBroker
from perdure.errors import BrokerUnavailable, DependencyError, StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.events import Method
from perdure.lifecycle.task import Task
from perdure.lifecycle.transitions import TERMINAL, Status
from perdure.store.base import TaskStore
from perdure.store.memory import MemoryStore
from perdure.testing.simulation.clients import Clients
from perdure.testing.simulation.clock import SimClock
from perdure.testing.simulation.gateway import GatewayMachine
from perdure.testing.simulation.loop import StandsStill, VirtualLoop
from perdure.testing.simulation.ports import RemoteBroker, RemoteStore, StoreServer
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.referee import Known, Promise, Referee, Violation, mark_of
from perdure.testing.simulation.saver import Memory
from perdure.testing.simulation.trace import Trace
from perdure.testing.simulation.weather import Chance, Weather
from perdure.testing.simulation.wire import Server, Wire, run_now
from perdure.testing.simulation.witness import Witness
from perdure.testing.simulation.workers import RescuerMachine, WorkerMachine

REST_LIMIT_S: Final = 900.0
"""After the storm everything must come to rest within this virtual time: more than the longest wait for a ring."""
STREAMS_LIMIT_S: Final = 120.0
LANGGRAPH_EVERY: Final = 20
"""One seed of so many runs its scripts on LangGraph, which costs as much as ten others."""


class Run(msgspec.Struct, frozen=True):
    """What came of a seed."""

    seed: int
    broken: list[Violation]
    tasks: int
    turns: int
    lasted_s: float
    trace: list[str]

    @property
    def held(self) -> bool:
        return not self.broken


def simulate(
    seed: int,
    *,
    store_class: type[MemoryStore] = MemoryStore,
    langgraph: bool | None = None,
    trace: bool = False,
) -> Run:
    """Run one seed to its end and judge it. The same seed, code and arguments give the same run.

    `store_class` is what the store's machine runs; `langgraph` chooses the runner, which the seed chooses otherwise.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        world = World(loop, seed, store_class, langgraph=langgraph, trace=trace)
        with world.listening():
            try:
                loop.run_until_complete(world.run())
            except StandsStill as error:
                world.referee.blame(Promise.COMES_TO_REST, str(error))
            run = Run(
                seed,
                list(world.referee.broken),
                len(world.referee.tasks),
                loop.turns,
                loop.time(),
                world.trace.lines,
            )
            loop.run_until_complete(world.bury())
            return run
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class World:
    """Everything of one run. Machines ask it for their ports, each with a wire of its own."""

    def __init__(
        self, loop: VirtualLoop, seed: int, store_class: type[MemoryStore], *, langgraph: bool | None, trace: bool
    ) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.loop = loop
        self.clock = SimClock(loop, seed)
        self.trace = Trace(loop, kept=trace)
        self.referee = Referee(loop, self.clock.now_ms, self.trace)
        self.weather = Weather.of(rng)
        self.cleared = False
        self.storm_s = rng.uniform(4.0, 14.0)
        self.lease_ttl_ms = rng.choice((1_500, 3_000, 6_000))
        self.look_every_s = rng.choice((0.5, 1.0))
        self.slots = rng.choice((1, 2, 3))
        self.tasks_max = rng.choice((2, 4, 6))
        self.langgraph = seed % LANGGRAPH_EVERY == 0 if langgraph is None else langgraph
        self.memory = Memory()
        self.witness = Witness(store_class(self.clock), self.referee)
        self._processes: list[Process] = []
        self._chances: list[Chance] = []
        self._names = 0
        self._broker = MemoryBroker()
        self._store_server = StoreServer(loop, StoreUnavailable, self.witness)
        self._broker_server = Server("broker", loop, BrokerUnavailable)
        self._rng = rng
        self.workers = [WorkerMachine(self, number) for number in range(rng.randint(1, 3))]
        self.workers[0].standby = False
        self.gateways = [GatewayMachine(self, number) for number in range(rng.choice((1, 2)))]
        self.rescuers = [RescuerMachine(self, number) for number in range(rng.choice((1, 1, 2)))]
        self.clients = Clients(self)

    # --- what machines ask for
    def process(self, name: str) -> Process:
        process = Process(name, self.loop)
        self._processes.append(process)
        return process

    def chance(self, name: str) -> Chance:
        self._names += 1
        chance = Chance(self.seed, f"{name} {self._names}", self.weather)
        chance.clear = self.cleared
        self._chances.append(chance)
        return chance

    def store(self, process: Process) -> TaskStore:
        return RemoteStore.of(self._store_server, self.chance(process.name), self.trace, process)

    def store_wire(self, process: Process) -> Wire:
        return Wire(self._store_server, self.chance(process.name))

    def broker(self, process: Process) -> Broker:
        return RemoteBroker(self._broker, self._broker_server, self.chance(process.name), process, self.witness)

    # --- the run
    async def run(self) -> None:
        """Storm, rest, judgement: what is found is in `referee.broken`."""
        self.trace.tell("world", f"seed {self.seed}: {self.weather}")
        storm = [self.loop.create_task(work) for work in (self._crashes(), self._stops(), self._restarts())]
        self.clients.begin()
        await asyncio.sleep(self.storm_s)
        for blow in storm:
            blow.cancel()
        await asyncio.wait(storm)
        self._clear()
        await self._come_to_rest()
        if not self.referee.broken:
            self._judge()

    def _clear(self) -> None:
        """The storm is over: nothing gets lost any more, and what stood still goes on."""
        self.trace.tell("world", "the weather clears")
        self.cleared = True
        for chance in self._chances:
            chance.clear = True
        if not self._store_server.up:
            self._store_is_back()
        for process in self._processes:
            if process.still:
                process.go_on()

    async def _come_to_rest(self) -> None:
        until = self.loop.time() + REST_LIMIT_S
        while self.loop.time() < until and not self.referee.broken:
            if not self.clients.errands and all(map(self._rests, self.referee.tasks.values())):
                break
            await asyncio.sleep(1.0)
        else:
            if not self.referee.broken:
                restless = [f"{k.ref.task_id} is {k.status}" for k in self.referee.tasks.values() if not self._rests(k)]
                self.referee.blame(Promise.COMES_TO_REST, f"{restless}, {len(self.clients.errands)} clients wait")
        if not self.referee.broken:
            with contextlib.suppress(TimeoutError):
                # What the streams did not get in this time, the judgement tells.
                async with asyncio.timeout(STREAMS_LIMIT_S):
                    await self._streams_end()

    def _rests(self, known: Known) -> bool:
        if known.status is Status.QUEUED:
            # Behind a task that waits for an answer for ever, others of its thread wait as long.
            owner = run_now(self.witness.store.thread(known.ref.thread)).owner
            known = self.referee.tasks[owner] if owner is not None else known
        waits = known.status is Status.INTERRUPTED and not self.clients.will_answer(known)
        return known.status in TERMINAL or waits

    async def _streams_end(self) -> None:
        while True:
            if not self._streams_wait():
                return
            await asyncio.sleep(0.5)

    def _streams_wait(self) -> bool:
        for told in self.clients.followers.values():
            if told.ref.task_id:
                known = self.referee.tasks.get(told.ref.task_id)
                if known is not None and known.status in TERMINAL and not told.over:
                    return True
            elif told.ref.thread in self._threads():
                last = run_now(self.witness.store.thread(told.ref.thread)).last_seq
                if not told.seqs or told.seqs[-1] < last:
                    return True
        return False

    # --- faults
    async def _crashes(self) -> None:
        mean, rng = self.weather.crash_every_s, random.Random(f"{self.seed} crashes")
        while mean:
            await asyncio.sleep(rng.expovariate(1 / mean))
            child = rng.choice(self.workers).child
            kind = rng.random()
            if kind < 0.7 and child is not None and not child.worker.dead:
                if rng.random() < self.weather.drain:
                    self.trace.tell("world", f"{child.worker_id} is asked to leave")
                    child.drain()
                else:
                    self.trace.tell("world", f"{child.worker_id} is killed")
                    child.kill("killed")
            elif kind < 0.85:
                rescuer = rng.choice(self.rescuers).process
                if rescuer is not None:
                    rescuer.kill("killed")
            else:
                gateway = rng.choice(self.gateways).gateway
                if gateway is not None:
                    self.trace.tell("world", f"{gateway.process.name} is killed")
                    gateway.process.kill("killed")

    async def _stops(self) -> None:
        mean, rng = self.weather.stop_every_s, random.Random(f"{self.seed} stops")
        while mean:
            await asyncio.sleep(rng.expovariate(1 / mean))
            child, kind = rng.choice(self.workers).child, rng.random()
            for_s = rng.uniform(0.1, 2.5) * self.lease_ttl_ms / 1000
            stopped: list[Process] = []
            if kind < 0.75 and child is not None:
                blocked = rng.random() < self.weather.blocked_loop
                stopped = [child.worker] if blocked else [child.worker, child.keeper]
            elif kind < 0.9:
                rescuer = rng.choice(self.rescuers).process
                stopped = [rescuer] if rescuer is not None else []
            else:
                gateway = rng.choice(self.gateways).gateway
                stopped = [gateway.process] if gateway is not None else []
            for process in stopped:
                if process.runs:
                    self.trace.tell("world", f"{process.name} stands still for {for_s:.2f} s")
                    process.hold_still()
                    self.loop.call_later(for_s, process.go_on)

    async def _restarts(self) -> None:
        mean, rng = self.weather.restart_every_s, random.Random(f"{self.seed} restarts")
        while mean:
            await asyncio.sleep(rng.expovariate(1 / mean))
            self.trace.tell("world", "the store restarts")
            self._store_server.crash()
            await asyncio.sleep(rng.choice((0.05, 0.5, 3.0)) * rng.random())
            self._store_is_back()

    def _store_is_back(self) -> None:
        self.witness.store.started_ms = self.referee.started_ms = self.clock.now_ms()
        self._store_server.start()

    # --- the judgement at the end
    def _judge(self) -> None:
        blame, refs = self.referee.blame, self.witness.refs()
        for ref in self.clients.accepted:
            if ref.task_id not in refs:
                blame(Promise.NOT_LOST, f"task {ref.task_id} was accepted and is not there")
        for thread in self._threads():
            self._judge_log(thread)
            for task in self.witness.tasks_of(thread):
                self._judge_task(task)
        plans = [task.spec.metadata["plan"] for thread in self._threads() for task in self.witness.tasks_of(thread)]
        if doubled := {plan for plan in plans if plans.count(plan) > 1}:
            blame(Promise.MADE_ONCE, f"plans {sorted(doubled)} became two tasks each")
        for told in self.clients.followers.values():
            self._judge_follower(told.who, told.seqs, told.over, told.ref)

    def _threads(self) -> list[ThreadRef]:
        return sorted({ref.thread for ref in self.witness.refs().values()})

    def _judge_log(self, thread: ThreadRef) -> None:
        log = self.witness.log_of(thread)
        if [event.seq for event in log] != list(range(1, len(log) + 1)):
            self.referee.blame(Promise.CONTIGUOUS, f"thread {thread.thread_id}: {[event.seq for event in log]}")
        marks = [mark for event in log if (mark := mark_of(event)) is not None]
        if doubled := {mark for mark in marks if marks.count(mark) > 1}:
            self.referee.blame(Promise.SAID_ONCE, f"thread {thread.thread_id}: {sorted(doubled)}")

    def _judge_task(self, task: Task) -> None:
        known = self.referee.tasks[task.task_id]
        if task.status is not known.status:
            self.referee.blame(Promise.ENDS_ONCE, f"{task.task_id} is {task.status}, was last seen {known.status}")
        statuses = [
            event.decoded()["params"]["data"]["status"]
            for event in self.witness.log_of(known.ref.thread)
            if event.task_id == task.task_id and event.method == Method.LIFECYCLE and not event.namespace
        ]
        ends = sum(status in TERMINAL for status in statuses)
        if ends != known.revivals + (1 if task.status in TERMINAL else 0):
            self.referee.blame(Promise.ENDS_ONCE, f"{task.task_id}, revived {known.revivals} times, told {statuses}")

    def _judge_follower(self, who: str, seqs: list[int], over: bool, ref: Any) -> None:
        if ref.thread not in self._threads():
            return
        log = [event for event in self.witness.log_of(ref.thread) if ref.task_id in ("", event.task_id)]
        last = seqs[-1] if seqs else 0
        expected = [event.seq for event in log if event.seq <= last]
        known = self.referee.tasks.get(ref.task_id)
        if seqs != expected:
            self.referee.blame(Promise.FOLLOWED, f"{who}: got {seqs}, there are {expected}")
        elif known is not None and known.status in TERMINAL and not over:
            self.referee.blame(Promise.FOLLOWED, f"{who}: the stream did not end")
        elif known is None and log and last < log[-1].seq:
            self.referee.blame(Promise.FOLLOWED, f"{who}: stands at {last} of {log[-1].seq}")

    # --- the end
    async def bury(self) -> None:
        """Cancel whatever is left, the dead included, so that nothing outlives the run."""
        self.referee.on_change.clear()
        self._clear()
        for process in self._processes:
            process.bury()
        me = asyncio.current_task()
        for _ in range(20):
            left = [task for task in asyncio.all_tasks(self.loop) if task is not me]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=60)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take what the code logs: unforeseen errors break a promise, the rest goes to the trace."""
        logger = logging.getLogger("perdure")
        before = (logger.level, logger.propagate)
        ear = _Ear(self)
        logger.addHandler(ear)
        logger.setLevel(logging.INFO if self.trace.kept else logging.ERROR)
        logger.propagate = False
        self.loop.set_exception_handler(self._unforeseen)
        try:
            yield
        finally:
            logger.removeHandler(ear)
            logger.setLevel(before[0])
            logger.propagate = before[1]

    def _unforeseen(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.referee.blame(Promise.NO_FAULT, f"{context.get('message')}: {context.get('exception')!r}")


class _Ear(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._world.trace.tell("log", f"{record.getMessage()}{f' ({error!r})' if error else ''}")
        if error is not None and not isinstance(error, DependencyError):
            self._world.referee.blame(Promise.NO_FAULT, f"{record.getMessage()}: {error!r}")
