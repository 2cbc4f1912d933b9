"""Acceptance: POST /v1/tasks with fsync on every write, beside its two limits.

Limit 1 is the same stored function called directly with batching (no HTTP); limit 2 a bare Starlette route that
answers 202 under the same server. All three run after one another in one run, against the same Valkey.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from bench.stack import HttpConnection, at, load, post, stack
from perdure.broker.valkey import ValkeyBroker
from perdure.clock import SystemClock
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import make_spec
from perdure.valkey.connection import Client

SECONDS = 4.0
BODY = {"graph": "trivial", "input": {"text": "hello"}, "tier": "parked", "metadata": {"user": "ann"}}

BARE = """
import socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def accept(request):
    await request.json()
    return JSONResponse({"task_id": "x" * 36, "status": "queued"}, status_code=202)
app = Starlette(routes=[Route("/v1/tasks", accept, methods=["POST"])])
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(4096)
print(s.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[s])
"""


async def over_http(host: str, port: int, clients: int) -> tuple[float, list[float]]:
    connections = [await HttpConnection.open(host, port) for _ in range(clients)]
    request = post("/v1/tasks", BODY)

    def caller(connection: HttpConnection):  # type: ignore[no-untyped-def]
        async def call() -> None:
            status, body = await connection.send(request)
            assert status == 202, (status, body)

        return call

    try:
        return await load([caller(connection) for connection in connections], SECONDS)
    finally:
        for connection in connections:
            connection.close()


async def directly(url: str, callers: int) -> tuple[float, list[float]]:
    async with Client(url) as client:
        store, broker = await ValkeyStore.open(client, SystemClock()), ValkeyBroker(client)

        async def call() -> None:
            created = await store.create(make_spec(graph="trivial", tier="parked"))
            assert created.doorbell is not None
            await broker.publish([created.doorbell])

        result = await load([call] * callers, SECONDS)
        await store.aclose()
        return result


async def main() -> None:
    print(
        "| clients | accept/s | p50 ms | p99 ms | gateway CPU µs | Valkey CPU µs | limit 1: script /s | "
        "limit 2: bare route /s | of the lower limit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    async with stack(workers=1) as s:
        bare = await asyncio.create_subprocess_exec(sys.executable, "-c", BARE, stdout=asyncio.subprocess.PIPE)
        assert bare.stdout is not None
        bare_port = int(await bare.stdout.readline())
        await over_http(s.host, s.port, 8)  # warm
        for clients in (1, 32, 128):
            before = s.cpu_s(s.gateway_pid), s.cpu_s(s.valkey_pid)
            rate, times = await over_http(s.host, s.port, clients)
            cost = [
                (after - earlier) / len(times) * 1e6
                for after, earlier in zip((s.cpu_s(s.gateway_pid), s.cpu_s(s.valkey_pid)), before, strict=True)
            ]
            script, _ = await directly(s.store, clients)
            route, _ = await over_http("127.0.0.1", bare_port, clients)
            print(
                f"| {clients} | {rate:.0f} | {at(times, 0.5):.1f} | {at(times, 0.99):.1f} | {cost[0]:.0f} | "
                f"{cost[1]:.0f} | {script:.0f} | {route:.0f} | {rate / min(script, route):.0%} |"
            )
        bare.terminate()
        await bare.wait()


if __name__ == "__main__":
    uvloop.run(main())
