"""The supervisor, with real child processes: small scripts that speak its report protocol and die in every way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from perdure.broker.memory import MemoryBroker
from perdure.clock import SystemClock
from perdure.errors import GraphError, StoreUnavailable
from perdure.lifecycle.doorbell import Doorbell, ThreadRef
from perdure.lifecycle.ids import DEFAULT_TENANT, ThreadId, WorkerId
from perdure.lifecycle.task import Priority
from perdure.lifecycle.transitions import Status
from perdure.store.base import WorkerInfo
from perdure.store.memory import MemoryStore
from perdure.testing.faults import alive, wait_until
from perdure.testing.samples import make_spec, ref_of
from perdure.worker.supervisor import EXIT_BROKEN_GRAPH, REPORT_FD_VARIABLE, ReportWriter, Supervisor

pytestmark = pytest.mark.anyio

PRELUDE = f"""
import os, signal, sys
settings = sys.stdin.readline().strip()
def report(line): os.write(int(os.environ[{REPORT_FD_VARIABLE!r}]), line.encode() + b"\\n")
"""
READY = PRELUDE + 'report("!")\n'
WAITS = READY + "sys.stdin.read()\n"  # until the supervisor is gone, or SIGTERM


def holding(thread_id: str) -> str:
    """A child that says it holds a thread, and waits."""
    return (
        PRELUDE
        + f'report("+default/other-1"); report("-default/other-1"); report("+default/{thread_id}")\n'
        + ('report("!")\nsys.stdin.read()\n')
    )


class House:
    """A supervisor under test and what it was given."""

    def __init__(self, script: str, children: int = 1, *, store: MemoryStore | None = None, **more: float) -> None:
        self.store = store or MemoryStore(SystemClock())
        self.broker = MemoryBroker()
        self.started: list[WorkerId] = []
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(
            [sys.executable, "-S", "-E", "-c", script],
            [self._settings] * children,
            self.store,
            self.broker,
            SystemClock(),
            more.get("drain_timeout_s", 5.0),
            more.get("grace_s", 5.0),
        )
        self.running = asyncio.create_task(self.supervisor.run(self.stop))

    def _settings(self, worker_id: WorkerId) -> bytes:
        self.started.append(worker_id)
        return worker_id.encode()

    async def ready(self) -> None:
        async with asyncio.timeout(10):
            await self.supervisor.wait_ready()

    @property
    def pids(self) -> list[int]:
        return [child.process.pid for child in self.supervisor._children.values()]

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            await self.running


@contextlib.asynccontextmanager
async def house(script: str, children: int = 1, **more: object) -> AsyncIterator[House]:
    made = House(script, children, **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.stop.set()
        made.running.cancel()
        await asyncio.wait([made.running])


async def test_it_is_ready_when_every_child_is_and_stopping_leaves_nothing_behind() -> None:
    async with house(WAITS, children=3) as made:
        await made.ready()
        pids = made.pids
        assert made.supervisor.ready == len(pids) == 3
        assert len(set(made.started)) == 3, "no two processes ever share an id"
        made.stop.set()
        await made.ended()
        assert not any(map(alive, pids))


async def test_a_killed_childs_task_is_rung_for_at_once_and_a_new_child_starts() -> None:
    """The whole point: no lease time passes between a process's death and the ring for a standby."""
    spec = make_spec(thread_id=ThreadId("thread-held"))
    async with house(holding("thread-held")) as made:
        await made.store.create(spec)
        await made.ready()
        [pid], [worker] = made.pids, made.started
        assert await made.store.claim(ref_of(spec), worker, 3_600_000) is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(5), made.broker.consume("cpu", "standby", (Priority.RECOVERY,)) as ear:
            [delivery] = await ear.receive(1)
        assert delivery.doorbell == Doorbell(ref_of(spec), "cpu", Priority.RECOVERY)
        task = await made.store.get(ref_of(spec))
        assert (task.status, task.losses, task.reason) == (Status.QUEUED, 1, "worker_lost")
        await _started(made, 2)
        assert made.started[0] != made.started[1]


async def _started(made: House, count: int) -> None:
    """Wait until so many children have been started and the newest is ready: no event tells of a second readiness."""
    await wait_until(lambda: len(made.started) >= count and made.supervisor.ready > 0)


async def test_a_thread_that_was_let_go_is_not_taken_back() -> None:
    spec = make_spec(thread_id=ThreadId("other-1"))
    async with house(holding("thread-held")) as made:
        await made.store.create(spec)
        await made.ready()
        assert await made.store.claim(ref_of(spec), made.started[0], 3_600_000) is not None
        os.kill(made.pids[0], signal.SIGKILL)
        await _started(made, 2)
        assert (await made.store.get(ref_of(spec))).status is Status.RUNNING


async def test_anothers_lease_on_a_reported_thread_is_left_alone() -> None:
    """A child reports before it claims, so it may report what another worker then won."""
    spec = make_spec(thread_id=ThreadId("thread-held"))
    async with house(holding("thread-held")) as made:
        await made.store.create(spec)
        await made.ready()
        assert await made.store.claim(ref_of(spec), WorkerId("w-winner"), 3_600_000) is not None
        os.kill(made.pids[0], signal.SIGKILL)
        await _started(made, 2)
        task = await made.store.get(ref_of(spec))
        assert (task.status, task.worker) == (Status.RUNNING, "w-winner")


async def test_a_dead_child_leaves_the_fleet() -> None:
    async with house(WAITS) as made:
        await made.ready()
        await made.store.heartbeat(
            WorkerInfo(made.started[0], "here", made.pids[0], "cpu", 1, False, "ready", [], [], 0), 60_000
        )
        os.kill(made.pids[0], signal.SIGKILL)
        await _started(made, 2)
        assert await made.store.workers() == []


async def test_a_store_that_is_away_does_not_keep_a_child_from_starting_again() -> None:
    class Away(MemoryStore):
        async def abandon(self, thread: ThreadRef, worker: WorkerId, *, charge: bool = True) -> Doorbell | None:
            raise StoreUnavailable("the store was told to be away")

        async def forget_worker(self, worker: WorkerId) -> None:
            raise StoreUnavailable("the store was told to be away")

    async with house(holding("thread-held"), store=Away(SystemClock())) as made:
        await made.ready()
        os.kill(made.pids[0], signal.SIGKILL)
        await _started(made, 2)


async def test_a_child_that_ignores_sigterm_is_killed_after_its_time() -> None:
    stubborn = PRELUDE + 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nreport("!")\nwhile True: signal.pause()\n'
    async with house(stubborn, drain_timeout_s=0.1, grace_s=0.1) as made:
        await made.ready()
        [pid] = made.pids
        made.stop.set()
        await made.ended()
        assert not alive(pid)


async def test_cancelling_kills_the_children_at_once() -> None:
    stubborn = PRELUDE + 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nreport("!")\nwhile True: signal.pause()\n'
    async with house(stubborn, drain_timeout_s=60) as made:
        await made.ready()
        [pid] = made.pids
        made.running.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([made.running])
        assert not alive(pid)


async def test_a_graph_that_cannot_be_loaded_ends_the_supervisor_with_one_error() -> None:
    """Every child fails alike; the deployment says so once instead of trying for ever."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with house(PRELUDE + f"sys.exit({EXIT_BROKEN_GRAPH})", children=3) as made:
        async with asyncio.timeout(10):
            with pytest.raises(GraphError, match="cannot be loaded"):
                await made.running
    del made
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert complaints == []


async def test_a_child_that_dies_at_once_is_started_again_ever_later_and_stopping_does_not_wait_for_it() -> None:
    async with house(PRELUDE + "sys.exit(1)") as made:
        await wait_until(lambda: len(made.started) >= 5 and not made.supervisor._children)
        made.stop.set()
        async with asyncio.timeout(0.5):
            await made.running


async def test_a_child_hears_by_the_end_of_its_input_that_the_supervisor_is_gone() -> None:
    """What an orphan does then is the worker's business; here it ends with a code of its own."""
    async with house(READY + "sys.stdin.read(); os._exit(7)") as made:
        await made.ready()
        [child] = made.supervisor._children.values()
        assert child.process.stdin is not None
        child.process.stdin.close()
        async with asyncio.timeout(5):
            assert await child.process.wait() == 7


def test_reports_are_whole_lines_and_a_dead_supervisor_is_no_error() -> None:
    reading, writing = os.pipe()
    report = ReportWriter(writing)
    thread = ThreadRef(DEFAULT_TENANT, ThreadId("t"))
    report.ready()
    report.held(True, thread)
    report.held(False, thread)
    assert os.read(reading, 1000) == b"!\n+default/t\n-default/t\n"
    os.close(reading)
    report.held(True, thread)
    report.held(True, thread)
    os.close(writing)


def test_without_a_supervisor_reports_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REPORT_FD_VARIABLE, raising=False)
    ReportWriter.from_environment().ready()
