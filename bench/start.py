"""How soon something happens: accept → first event, and accept → first node running, on an idle deployment.

Both are taken from the client's clock: the time from sending the POST until the event's frame has arrived on a stream
that is opened right after the answer.
"""

from __future__ import annotations

import asyncio
import json
import time

import uvloop

from bench.stack import HttpConnection, Stack, at, post, stack

ROUNDS = 100


async def first_times(s: Stack, connection: HttpConnection) -> tuple[float, float]:
    start = time.perf_counter()
    status, body = await connection.send(post("/v1/tasks", {"graph": "trivial", "input": {"text": "hello"}}))
    assert status == 202, body
    task_id = json.loads(body)["task_id"]
    reader, writer = await asyncio.open_connection(s.host, s.port)
    writer.write(f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    first_event = first_node = 0.0
    seen = b""
    while not first_node:
        data = await reader.read(65536)
        assert data, seen
        seen += data
        now = (time.perf_counter() - start) * 1000
        if not first_event and b"\nid: " in seen:
            first_event = now
        if b'"status":"started","' in seen or (b'"method":"tasks"' in seen and b'"started"' in seen):
            first_node = now
    writer.close()
    return first_event, first_node


async def main() -> None:
    async with stack(workers=2) as s:
        connection = await HttpConnection.open(s.host, s.port)
        for _ in range(10):
            await first_times(s, connection)
        pairs = []
        for _ in range(ROUNDS):
            pairs.append(await first_times(s, connection))
            await asyncio.sleep(0.05)
    print("| accept → | p50 ms | p99 ms |")
    print("|---|---|---|")
    for name, times in (("first event", [a for a, _ in pairs]), ("first node running", [b for _, b in pairs])):
        print(f"| {name} | {at(sorted(times), 0.5):.1f} | {at(sorted(times), 0.99):.1f} |")


if __name__ == "__main__":
    uvloop.run(main())
