"""End to end: 2,000 trivial three-node tasks through gateway, workers and store, beside bare LangGraph.

The limit is the same graph run by LangGraph alone with its in-memory saver and the same stream modes, in two processes
on both cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import uvloop

from bench.stack import GRAPHS, HttpConnection, Stack, post, stack
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId
from perdure.lifecycle.transitions import TERMINAL
from perdure.valkey import keys
from perdure.valkey.connection import Client

TASKS = 2000
CLIENTS = 16

BARE = """
import asyncio, sys, time, uvloop
sys.path.insert(0, sys.argv[1])
from langgraph.checkpoint.memory import InMemorySaver
from trivial import chain
MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints"]
async def main(count):
    graph = chain("abc").compile(checkpointer=InMemorySaver())
    async def one(n):
        config = {"configurable": {"thread_id": str(n)}}
        how = {"stream_mode": MODES, "subgraphs": True, "version": "v2", "durability": "sync"}
        async for _ in graph.astream({"text": "hello"}, config, **how):
            pass
    await one(-1)
    start, cpu = time.perf_counter(), time.process_time()
    for n in range(0, count, 8):
        await asyncio.gather(*(one(n + i) for i in range(8)))
    print(count / (time.perf_counter() - start), (time.process_time() - cpu) / count * 1000)
uvloop.run(main(int(sys.argv[2])))
"""


@contextlib.asynccontextmanager
async def clients(s: Stack, count: int) -> AsyncIterator[list[HttpConnection]]:
    """Some open connections to the gateway."""
    connections = [await HttpConnection.open(s.host, s.port) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def submit(s: Stack, count: int) -> list[tuple[ThreadRef, TaskId]]:
    """Post `count` tasks and return where they are."""
    made: list[tuple[ThreadRef, TaskId]] = []
    request = post("/v1/tasks", {"graph": "trivial", "input": {"text": "hello"}})

    async def one(connection: HttpConnection) -> None:
        while len(made) < count:
            made.append((ThreadRef(DEFAULT_TENANT, ThreadId("")), TaskId("")))
            place = len(made) - 1
            status, body = await connection.send(request)
            assert status == 202, body
            answer = json.loads(body)
            made[place] = (ThreadRef(DEFAULT_TENANT, ThreadId(answer["thread_id"])), TaskId(answer["task_id"]))

    async with clients(s, CLIENTS) as connections:
        await asyncio.gather(*(one(connection) for connection in connections))
    return made


async def wait_ended(client: Client, tasks: list[tuple[ThreadRef, TaskId]]) -> None:
    """Return when all tasks have ended; asks the store itself, a few at a time from the end of the line."""
    left = list(tasks)
    while left:
        tail = left[-32:]
        statuses = await client.calls([("HGET", keys.task(thread, task_id), "status") for thread, task_id in tail])
        ended = {place for place, status in enumerate(statuses) if status.decode() in TERMINAL}
        if len(ended) == len(tail):
            del left[-32:]
        else:
            await asyncio.sleep(0.02)


def bare(count: int) -> tuple[float, float]:
    """Runs/s on both cores and CPU ms a run of LangGraph alone."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, str(GRAPHS.parent), str(count // 2)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    lines = [process.communicate()[0].split() for process in running]
    return sum(float(line[0]) for line in lines), sum(float(line[1]) for line in lines) / 2


async def measure(s: Stack, count: int) -> tuple[float, float]:
    """Tasks/s from the first POST to the last end, and CPU ms a task of gateway, workers and store together."""
    async with Client(s.store) as client:
        cpu, start = s.cpu_s(), time.perf_counter()
        tasks = await submit(s, count)
        await wait_ended(client, tasks)
        return count / (time.perf_counter() - start), (s.cpu_s() - cpu) / count * 1000


async def main() -> None:
    async with stack(workers=2, slots=8) as s:
        await measure(s, 100)
        rate, cost = await measure(s, TASKS)
    limit, limit_cost = await asyncio.to_thread(bare, TASKS)
    print("| tasks | tasks/s | CPU ms a task, all processes | bare LangGraph runs/s | its CPU ms a run | share |")
    print("|---|---|---|---|---|---|")
    print(f"| {TASKS} | {rate:.0f} | {cost:.1f} | {limit:.0f} | {limit_cost:.1f} | {rate / limit:.2f} |")


if __name__ == "__main__":
    uvloop.run(main())
