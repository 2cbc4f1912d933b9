"""SIGKILL of the process that holds a task, in the middle of a step → the next event of that step on the standby.

From the moment of the kill until the stream brings a `tasks` event of the new attempt, by the client's clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import httpx
import uvloop

from bench.stack import Stack, at, stack

KILLS = int(os.environ.get("PERDURE_BENCH_KILLS", "20"))


async def one_kill(s: Stack, http: httpx.AsyncClient) -> float:
    answer = await http.post("/v1/tasks", json={"graph": "slow", "input": {"text": "hello"}})
    task_id = answer.json()["task_id"]
    killed_at = 0.0
    async with http.stream("GET", f"/v1/tasks/{task_id}/events") as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line[6:])
            params = event.get("params", {})
            if event.get("method") != "tasks" or params["data"].get("status") != "started":
                continue
            if not killed_at and params["step"] == 2:
                fleet = (await http.get("/v1/workers")).json()
                holder = next(w for w in fleet["workers"] if w["worker_id"] == params["worker"])
                killed_at = time.perf_counter()
                os.kill(holder["pid"], signal.SIGKILL)
            elif killed_at and params["attempt"] == 2:
                took = (time.perf_counter() - killed_at) * 1000
                await http.post(f"/v1/tasks/{task_id}/cancel", json={})
                return took
    raise RuntimeError(f"task {task_id} ended before it was taken over")


async def main() -> None:
    times = []
    async with (
        stack(workers=3, standby=1) as s,
        httpx.AsyncClient(base_url=s.url, headers={"host": "127.0.0.1"}, timeout=60) as http,
    ):
        for _ in range(KILLS):
            times.append(await one_kill(s, http))
            # The fleet is in other processes, which tell nobody here.
            while sum(w["state"] == "ready" for w in (await http.get("/v1/workers")).json()["workers"]) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    times.sort()
    print("| kills | p50 ms | p90 ms | max ms |")
    print("|---|---|---|---|")
    print(f"| {KILLS} | {at(times, 0.5):.0f} | {at(times, 0.9):.0f} | {times[-1]:.0f} |")


if __name__ == "__main__":
    uvloop.run(main())
