"""The parent of worker processes: starts them, sees at once when one dies, and gives back what it held.

Each child tells over a pipe which threads it is about to claim and which it has let go. When the child is gone, its
leases are taken away under its worker id, which no other process ever has, and the doorbells are rung for a standby;
so the death of a process costs milliseconds, and only the loss of a host costs the lease time. The child reads its
settings from standard input, and the end of that input tells it that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

from perdure.broker.base import Broker
from perdure.clock import Clock
from perdure.errors import BrokerUnavailable, GraphError, StoreUnavailable
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import Tenant, ThreadId, WorkerId
from perdure.store.base import TaskStore

log = logging.getLogger(__name__)

RESTART_FIRST_S: Final = 0.1
RESTART_MAX_S: Final = 10.0
LIVED_WELL_S: Final = 10.0
"""A child that lived this long is started again at once; one that did not is waited for longer and longer."""
LEAVE_GRACE_S: Final = 10.0
"""How long a child may take to leave after its time to drain, before it is killed."""
EXIT_BROKEN_GRAPH: Final = 78
"""How a worker process ends that cannot load a graph; trying again would only repeat the error."""

REPORT_FD_VARIABLE: Final = "PERDURE_REPORT_FD"


def new_worker_id(clock: Clock) -> WorkerId:
    """An id that no other process ever has; short, for people read it."""
    return WorkerId(f"w-{clock.nonce()[:8]}")


class ReportWriter:
    """The child's end of the pipe. A report is one small write, so the parent sees it whole or not at all."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> ReportWriter:
        """Without a supervisor there is nobody to report to, and the lease time covers a death."""
        text = os.environ.pop(REPORT_FD_VARIABLE, None)
        if text is None:
            return cls(None)
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
        return cls(descriptor)

    def ready(self) -> None:
        self._write("!")

    def held(self, held: bool, thread: ThreadRef) -> None:
        self._write(f"{'+' if held else '-'}{thread.tenant}/{thread.thread_id}")

    def in_turn(self, thread: ThreadRef) -> None:
        """A suspect begins to run: if we die now, it is the one to blame."""
        self._write(f"*{thread.tenant}/{thread.thread_id}")

    def _write(self, line: str) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, line.encode() + b"\n")
        except BrokenPipeError:
            self._descriptor = None  # The supervisor died; the end of standard input says so too.


class Child:
    """One worker process as its parent knows it."""

    def __init__(self, worker_id: WorkerId, process: asyncio.subprocess.Process, report_fd: int) -> None:
        self.worker_id = worker_id
        self.process = process
        self.held: Counter[ThreadRef] = Counter()
        self.in_turn: set[ThreadRef] = set()
        self.ready = False
        self._fd = report_fd
        self._partial = b""
        os.set_blocking(report_fd, False)

    def read_reports(self) -> None:
        """Take in what the child has said so far."""
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._fd)
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._take(line.decode())

    def _take(self, line: str) -> None:
        if line == "!":
            self.ready = True
            return
        tenant, _, thread_id = line[1:].partition("/")
        thread = ThreadRef(Tenant(tenant), ThreadId(thread_id))
        match line[0]:
            case "+":
                self.held[thread] += 1
            case "*":
                self.in_turn.add(thread)
            case _:
                # Counted, because a doubled ring makes a second claim on a thread that we hold, in vain.
                self.held[thread] -= 1
                if self.held[thread] <= 0:
                    del self.held[thread]
                    self.in_turn.discard(thread)

    def close(self) -> None:
        os.close(self._fd)


class Supervisor:
    """Keeps `len(settings)` children alive. `settings[i](worker_id)` is what child i reads from its standard input."""

    def __init__(
        self,
        command: Sequence[str],
        settings: Sequence[Callable[[WorkerId], bytes]],
        store: TaskStore,
        broker: Broker,
        clock: Clock,
        drain_timeout_s: float,
        grace_s: float = LEAVE_GRACE_S,
    ) -> None:
        self._command = command
        self._settings = settings
        self._store = store
        self._broker = broker
        self._clock = clock
        self._leave_s = drain_timeout_s + grace_s
        self._children: dict[int, Child] = {}
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self.deaths = 0
        """Children that ended without having been asked to."""

    async def wait_ready(self) -> None:
        """Return when every child has imported its graphs and listens."""
        await self._all_ready.wait()

    @property
    def ready(self) -> int:
        """How many children are ready."""
        return sum(child.ready for child in self._children.values())

    @property
    def size(self) -> int:
        """How many children there should be."""
        return len(self._settings)

    @property
    def held(self) -> int:
        """How many threads the children hold."""
        return sum(len(child.held) for child in self._children.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the children alive until `stop`, then drain them. Children that do not leave in time are killed.

        When cancelled, the children are killed at once and what they held is given back.
        """
        keepers = [asyncio.create_task(self._keep(index, self._stopping)) for index in range(len(self._settings))]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            for child in self._children.values():
                _signal(child, signal.SIGTERM)
            done, late = await asyncio.wait(keepers, timeout=self._leave_s)
            if late:
                log.error("%d workers did not leave in time and are killed", len(late))
            errors = [error for keeper in done if (error := keeper.exception()) is not None]
            if errors:
                raise errors[0]
        finally:
            self._stopping.set()
            stopping.cancel()
            for child in self._children.values():
                _signal(child, signal.SIGKILL)
            await asyncio.wait(keepers, timeout=10)

    async def _keep(self, index: int, stop: asyncio.Event) -> None:
        delay = RESTART_FIRST_S
        while not stop.is_set():
            started_at = self._clock.monotonic()
            child = await self._start(index)
            if stop.is_set():
                _signal(child, signal.SIGTERM)  # The others were told while this one was being started.
            code = await child.process.wait()
            _end_group(child)
            self._children.pop(index, None)
            child.read_reports()
            asyncio.get_running_loop().remove_reader(child._fd)
            child.close()
            await take_back(self._store, self._broker, child.worker_id, child.held, child.in_turn)
            if stop.is_set():
                return
            self.deaths += 1
            if code == EXIT_BROKEN_GRAPH and not self._all_ready.is_set():
                raise GraphError("a graph cannot be loaded; the worker's message above says why")
            log.warning(
                "worker %s (pid %d) %s; held %d threads",
                child.worker_id,
                child.process.pid,
                _how(code),
                len(child.held),
            )
            lived = self._clock.monotonic() - started_at
            delay = RESTART_FIRST_S if lived > LIVED_WELL_S else min(delay * 2, RESTART_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stop.wait()

    async def _start(self, index: int) -> Child:
        worker_id = new_worker_id(self._clock)
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=sys.stderr.fileno(),
                stderr=sys.stderr.fileno(),
                pass_fds=(writing,),
                env={**os.environ, REPORT_FD_VARIABLE: str(writing)},
                start_new_session=True,
            )
        finally:
            os.close(writing)
        child = self._children[index] = Child(worker_id, process, reading)

        def on_report() -> None:
            child.read_reports()
            if self.ready == len(self._settings):
                self._all_ready.set()

        asyncio.get_running_loop().add_reader(reading, on_report)
        assert process.stdin is not None
        process.stdin.write(self._settings[index](worker_id) + b"\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # It died at once; wait() tells.
            await process.stdin.drain()
        return child


async def take_back(
    store: TaskStore,
    broker: Broker,
    worker_id: WorkerId,
    held: Collection[ThreadRef],
    in_turn: Collection[ThreadRef] = (),
) -> None:
    """Give a dead worker's leases back and ring for its tasks. What the store does not hear now, the lease time and
    the rescuer cover.

    The death is charged to the task that was alone, or to the suspect whose turn it was (`in_turn`). Where several ran
    side by side nobody knows which of them it was: then all are suspected, and none of them loses an attempt.
    """
    for thread in list(held):
        try:
            doorbell = await store.abandon(thread, worker_id, charge=len(held) == 1 or thread in in_turn)
            if doorbell is not None:
                await broker.publish([doorbell])
        except (StoreUnavailable, BrokerUnavailable) as error:
            log.warning("could not give back thread %s, the rescuer will: %s", thread.thread_id, error)
    try:
        await store.forget_worker(worker_id)
    except StoreUnavailable as error:
        log.debug("could not forget worker %s: %s", worker_id, error)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


def _end_group(child: Child) -> None:
    """End what the dead child's graphs had started: it led a process group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
