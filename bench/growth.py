"""Does the house slow down as it fills? CPU per task with 1,000 and with 200,000 finished tasks in the store.

Two stacks, one filled by writing finished tasks straight through the store's own verbs, are measured in turns.
Loading the newest checkpoint of a thread with 10 and with 5,000 checkpoints likewise.
"""

from __future__ import annotations

import asyncio
import os
import time

import uvloop
from langgraph.checkpoint.base import empty_checkpoint

from bench.stack import Stack, stack
from bench.tasks import measure
from perdure.checkpoint import ValkeySaver
from perdure.clock import SystemClock
from perdure.lifecycle.ids import WorkerId
from perdure.store.valkey import ValkeyStore
from perdure.testing.samples import make_spec, ref_of
from perdure.valkey.connection import Client

FEW, MANY = 1_000, int(os.environ.get("PERDURE_BENCH_MANY", "200000"))
ROUNDS, TASKS = 5, 400


async def fill(s: Stack, count: int) -> None:
    """Create, claim and finish tasks through the store alone."""
    async with Client(s.store) as client:
        store = await ValkeyStore.open(client, SystemClock())

        async def one() -> None:
            spec = make_spec(graph="trivial", tier="filled")
            await store.create(spec)
            claim = await store.claim(ref_of(spec), WorkerId("filler"), 60_000)
            assert claim is not None
            await store.succeed(claim.lease, b'{"text":"hello","trail":["a","b","c"]}')

        for _ in range(0, count, 500):
            await asyncio.gather(*(one() for _ in range(500)))
        await store.aclose()


async def load_times(s: Stack) -> list[float]:
    """µs to load the newest of 10 and of 5,000 checkpoints, in turns."""
    async with Client(s.store) as client:
        saver = ValkeySaver(client)
        for thread, count in (("short", 10), ("long", 5000)):
            config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            for step in range(count):
                checkpoint = empty_checkpoint()
                checkpoint["channel_values"] = {"n": step, "text": "x" * 200}
                versions = {"n": f"{step:08}", "text": "00000001"}
                checkpoint["channel_versions"] = versions
                config = await saver.aput(
                    config, checkpoint, {"source": "loop", "step": step}, {"n": f"{step:08}"} if step else versions
                )
        times: dict[str, list[float]] = {"short": [], "long": []}
        for _ in range(300):
            for thread, seen in times.items():
                start = time.perf_counter()
                found = await saver.aget_tuple({"configurable": {"thread_id": thread}})
                seen.append((time.perf_counter() - start) * 1e6)
                assert found is not None
        return [sorted(seen)[len(seen) // 2] for seen in times.values()]


async def main() -> None:
    async with stack(workers=2, slots=8) as small, stack(workers=2, slots=8) as large:
        await asyncio.gather(fill(small, FEW), fill(large, MANY))
        costs: dict[str, list[float]] = {"small": [], "large": []}
        for _ in range(ROUNDS):
            for name, s in (("small", small), ("large", large)):
                costs[name].append((await measure(s, TASKS))[1])
        few, many = (sorted(costs[name])[ROUNDS // 2] for name in ("small", "large"))
        short, long = await load_times(small)
    print("| | little | much | ratio |")
    print("|---|---|---|---|")
    print(f"| CPU ms a task, {FEW} and {MANY} finished tasks kept | {few:.2f} | {many:.2f} | {many / few:.3f} |")
    print(f"| µs to load the newest of 10 and of 5000 checkpoints | {short:.0f} | {long:.0f} | {long / short:.3f} |")


if __name__ == "__main__":
    uvloop.run(main())
