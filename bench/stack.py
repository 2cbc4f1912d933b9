"""A whole Perdure in processes of its own, for a benchmark to lean on; and a client that costs next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from perdure.valkey.embedded import EmbeddedValkey

GRAPHS = Path(__file__).parent / "graphs" / "langgraph.json"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stack:
    """Where the stack is, and what its processes have cost so far."""

    def __init__(self, url: str, store: str, gateway_pid: int, valkey_pid: int) -> None:
        self.url = url
        self.store = store
        self.gateway_pid = gateway_pid
        self.valkey_pid = valkey_pid
        host, _, port = url.removeprefix("http://").partition(":")
        self.host, self.port = host, int(port)

    def cpu_s(self, *pids: int) -> float:
        """CPU seconds of the given processes, or of the whole stack (children included)."""
        return sum(_cpu_s(pid) for pid in pids or (self.gateway_pid, self.valkey_pid, *_children(self.gateway_pid)))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@contextlib.asynccontextmanager
async def stack(workers: int = 2, standby: int = 0, slots: int = 16, **variables: str) -> AsyncIterator[Stack]:
    """Start `perdure dev` over a Valkey of its own with fsync on every write; stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        async with EmbeddedValkey(Path(folder) / "v") as valkey:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "perdure", "dev", "--port", "0", "--config", str(GRAPHS),
                cwd=folder,
                env={
                    **os.environ,
                    "PERDURE_STORE": valkey.url,
                    "PERDURE_WORKERS": str(workers),
                    "PERDURE_STANDBY": str(standby),
                    "PERDURE_SLOTS": str(slots),
                    "PERDURE_LOG_LEVEL": "error",
                    **variables,
                },
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                line = (await asyncio.wait_for(process.stdout.readline(), 120)).decode()
                url = next((word for word in line.split() if word.startswith("http://")), None)
                if url is None:
                    raise RuntimeError(f"perdure dev did not become ready: {line!r}")
                yield Stack(url.rstrip("/"), valkey.url, process.pid, valkey.pid)
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                await process.wait()


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection that sends ready-made requests and reads answers with a Content-Length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> HttpConnection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) >= length:
            self._buffer = body[length:]
            answer, self._answer = self._answer, None
            answer.set_result((int(head[9:12]), body[:length]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError())

    async def send(self, request: bytes) -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def post(path: str, body: Any) -> bytes:
    """A POST request as bytes."""
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


async def load(send: Sequence[Callable[[], Any]], seconds: float) -> tuple[float, list[float]]:
    """Call each of `send` again and again for a while; returns calls per second and the sorted times in ms."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def one(call: Callable[[], Any]) -> None:
        while (start := time.perf_counter()) < until:
            await call()
            times.append((time.perf_counter() - start) * 1000)

    start = time.perf_counter()
    await asyncio.gather(*(one(call) for call in send))
    return len(times) / (time.perf_counter() - start), sorted(times)


def at(times: Sequence[float], share: float) -> float:
    """A percentile of sorted times."""
    return times[min(len(times) - 1, int(len(times) * share))]
