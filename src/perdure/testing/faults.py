"""Tools that break things on purpose: kill and stop processes, cut and pause connections, run a whole deployment.

Nothing in here knows how Perdure works inside: a deployment is a process with an address, and what happens to it is
what happens to processes and sockets in the world. Needs a POSIX system; `DevStack.pids` needs /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from perdure.client import AsyncClient, WorkerInfo

GONE_TIMEOUT_S: Final = 20.0
READY_TIMEOUT_S: Final = 60.0
LEAVE_TIMEOUT_S: Final = 60.0
_PIECE: Final = 65_536


def kill(pid: int) -> None:
    """SIGKILL a process and return once it is dead; its parent may still have to collect it."""
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def alive(pid: int) -> bool:
    """Does a process run? A dead one that its parent has not collected yet does not."""
    try:
        wait_gone(pid, 0)
    except TimeoutError:
        return True
    return False


def wait_gone(pid: int, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Return once a process, anybody's child, has ended. Raises TimeoutError."""
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "linux":
            descriptor = os.pidfd_open(pid)
            try:
                ended, _, _ = select.select([descriptor], [], [], timeout_s)
            finally:
                os.close(descriptor)
            if not ended:
                raise TimeoutError(f"process {pid} still runs")
        else:
            until = time.monotonic() + timeout_s
            while True:
                os.kill(pid, 0)
                if time.monotonic() > until:
                    raise TimeoutError(f"process {pid} still runs")
                time.sleep(0.01)


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Return once a condition holds that nobody can tell us of, such as a fact of another process. TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still, as on a machine that swaps or is moved. It goes on at the end of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Proxy:
    """A TCP proxy that misbehaves when told. Use as an async context manager; `address` is `host:port`.

    `target` is `host:port` or the path of a Unix socket.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.WriteTransport] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.refusing = False
        """Close every new connection at once."""

    @property
    def address(self) -> str:
        assert self._server is not None, "the proxy was not started"
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._transports) // 2

    def pause(self) -> None:
        """Pass nothing on, in neither direction, and keep every connection open: a network that drops packets."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what came meanwhile, and all that follows."""
        self._flows.set()

    def cut(self) -> None:
        """Break every connection with a reset."""
        for transport in list(self._transports):
            transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.current_task()
        assert pump is not None
        self._pumps.add(pump)
        try:
            if not self.refusing:
                await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._pumps.discard(pump)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await self._reach()
        except OSError:
            return
        ends = {writer.transport, there_writer.transport}
        self._transports |= ends
        ways = [asyncio.create_task(self._pump(*way)) for way in ((reader, there_writer), (there_reader, writer))]
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            there_writer.transport.abort()
            self._transports -= ends

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("/"):
            return await asyncio.open_unix_connection(self._target)
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
            writer.write_eof()


class DevStack:
    """A whole deployment in a process of its own, `perdure dev`, that can be killed and started again on its data.

    An async context manager; its address stays the same over restarts. `settings` become `PERDURE_*` variables.
    What the deployment logs is in `log_file`.
    """

    def __init__(
        self,
        folder: Path,
        config: Path,
        *,
        command: Sequence[str] = (sys.executable, "-m", "perdure", "dev"),
        **settings: object,
    ) -> None:
        self.folder = folder
        self.log_file = folder / "dev.log"
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._settings = {
            "config": config,
            "data_dir": folder / "data",
            "port": free_port(),
            **settings,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._settings['port']}"

    @property
    def pid(self) -> int:
        """The deployment's first process: gateway and supervisor."""
        assert self._process is not None, "the deployment was not started"
        return self._process.pid

    @property
    def valkey_pid(self) -> int:
        """The embedded store's process."""
        return int((self.folder / "data" / "valkey" / "valkey.pid").read_text())

    @property
    def pids(self) -> list[int]:
        """Every process of the deployment that lives, orphans included. Linux only.

        They are found by their environment, or, as a Valkey writes its title over that, by their working folder.
        """
        data = Path(str(self._settings["data_dir"]))
        mark = f"PERDURE_DATA_DIR={data}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                ours = mark in (entry / "environ").read_bytes().split(b"\0")
                if ours or (entry / "cwd").readlink() == data / "valkey":
                    found.append(int(entry.name))
        return sorted(found)

    async def start(self) -> None:
        """Returns when the deployment says that it is ready. Raises RuntimeError with its log if it ends instead."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self._environment()},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self.kill()
            raise RuntimeError(f"the deployment was not ready in time:\n{self.log_tail()}") from None
        if not line:
            code = await self._process.wait()
            raise RuntimeError(f"the deployment ended with exit code {code}:\n{self.log_tail()}")

    async def stop(self) -> int:
        """Drain it with SIGTERM; its exit code. Safe to repeat, and after `kill`."""
        assert self._process is not None, "the deployment was not started"
        if self._process.returncode is None:
            self._process.terminate()
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._process.wait()
        assert self._process.returncode is not None
        return self._process.returncode

    async def kill(self) -> None:
        """SIGKILL its process group at once. Worker processes and the store have sessions of their own, as they would
        have after the crash of their parent."""
        assert self._process is not None, "the deployment was not started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def kill_all(self) -> None:
        """SIGKILL every process of it, as a power cut does to a machine."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
        for pid in self.pids:
            await asyncio.to_thread(wait_gone, pid)

    def client(self, *, patience_s: float = 60.0) -> AsyncClient:
        return AsyncClient(self.url, patience_s=patience_s)

    async def holder(self, client: AsyncClient, task_id: str) -> WorkerInfo:
        """The worker process that holds a task now. Raises LookupError if none does."""
        task = await client.get(task_id)
        for worker in await client.workers():
            if task.status == "running" and worker.worker_id == task.worker:
                return worker
        raise LookupError(f"no worker holds task {task_id}; it is {task.status}")

    def log_tail(self, lines: int = 40) -> str:
        """What it said last."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            await self.kill_all()

    def _environment(self) -> Mapping[str, str]:
        return {f"PERDURE_{name.upper()}": str(value) for name, value in self._settings.items()}


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
