"""One task of 10,000 small custom events, followed live by one client, beside LangGraph emitting them to nobody."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import uvloop

from bench.stack import GRAPHS, HttpConnection, post, stack

EVENTS = 10_000

BARE = """
import asyncio, sys, time, uvloop
sys.path.insert(0, sys.argv[1])
from trivial import chatter
async def main():
    for _ in range(2):
        start, cpu, seen = time.perf_counter(), time.process_time(), 0
        async for part in chatter.astream({"text": "x"}, stream_mode=["custom"], subgraphs=True, version="v2"):
            seen += 1
        print(seen / (time.perf_counter() - start), (time.process_time() - cpu) / seen * 1e6)
uvloop.run(main())
"""


def bare() -> tuple[float, float]:
    """Events/s and CPU µs an event of LangGraph alone, warm."""
    command = [sys.executable, "-c", BARE, str(GRAPHS.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate, cost = map(float, done.stdout.split()[-2:])
    return rate, cost


async def main() -> None:
    limit, limit_cost = await asyncio.to_thread(bare)
    print("| run | events/s to the client | frames | CPU µs an event, all processes | bare LangGraph/s | its CPU µs |")
    print("|---|---|---|---|---|---|")
    async with stack(workers=1) as s:
        connection = await HttpConnection.open(s.host, s.port)
        for number in range(4):
            cpu = s.cpu_s()
            status, body = await connection.send(post("/v1/tasks", {"graph": "chatter", "input": {"text": "x"}}))
            assert status == 202, body
            task_id = json.loads(body)["task_id"]
            reader, writer = await asyncio.open_connection(s.host, s.port, limit=1 << 24)
            writer.write(f"GET /v1/tasks/{task_id}/events?channels=custom HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            seen, first, last, rest = 0, 0.0, 0.0, b""
            while seen < EVENTS:
                data = await reader.read(1 << 20)
                assert data, f"the stream ended after {seen} events"
                last = time.perf_counter()
                first = first or (last if b"event: custom" in data else 0.0)
                text = rest + data
                seen += text.count(b"event: custom\n")
                rest = text[-13:] if not text.endswith(b"event: custom\n") else b""
            writer.close()
            cost = (s.cpu_s() - cpu) / EVENTS * 1e6
            if number:  # the first one warms up
                rate = EVENTS / (last - first)
                print(f"| {number} | {rate:.0f} | {seen} | {cost:.0f} | {limit:.0f} | {limit_cost:.0f} |")


if __name__ == "__main__":
    uvloop.run(main())
