"""One step of a graph on each saver: milliseconds and bytes written, one small channel changing beside a large one.

The limit is LangGraph with its in-memory saver, which is what a step costs without storing it. Savers take turns in
one run; the figure is the median of the rounds. Bytes are what the store's process sent to the disk, in whole pages.
Valkey and sqlite write to the same disk, Valkey with fsync on every write.
LangGraph's Postgres saver has a column where PostgreSQL is installed or `PERDURE_BENCH_POSTGRES` names one; its bytes
are those of the one process that serves the connection, and its log is written by another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import uvloop
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from bench.postgres import private_postgres
from perdure.checkpoint import ValkeySaver
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey

STEPS = 100
ROUNDS = 5
Saver = BaseCheckpointSaver[Any]


class State(TypedDict):
    big: list[str]
    count: int


class Contender(NamedTuple):
    """A saver and how many bytes its store has written so far (None: it writes none)."""

    name: str
    saver: Saver
    written: Callable[[], Awaitable[int]] | None


class Case(NamedTuple):
    """How large the state is, and whether all of it is written anew at each step."""

    name: str
    size: int
    rewrites: bool


CASES = [Case("10 KB, a small channel changes", 10_000, False), Case("1 MB, a small channel changes", 1_000_000, False)]
CASES += [Case("1 MB, rewritten each step", 1_000_000, True)]


def large(size: int, number: int) -> list[str]:
    return [f"{number} {n} ".ljust(100, "x") for n in range(size // 100)]


def graph_on(saver: Saver, case: Case) -> Any:
    def step(state: State) -> dict[str, Any]:
        count = state["count"] + 1
        return {"count": count, "big": large(case.size, count)} if case.rewrites else {"count": count}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["count"] < STEPS else END, ["step", END])
    return builder.compile(checkpointer=saver)


async def ms_a_step(contender: Contender, case: Case) -> tuple[float, float]:
    """Milliseconds and bytes written, a step."""
    graph = graph_on(contender.saver, case)
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}, "recursion_limit": STEPS + 5}
    before = await contender.written() if contender.written else 0
    start = time.perf_counter()
    await graph.ainvoke({"big": large(case.size, 0), "count": 0}, config, durability="sync")
    took = time.perf_counter() - start
    written = (await contender.written() if contender.written else 0) - before
    await contender.saver.adelete_thread(config["configurable"]["thread_id"])
    return took * 1000 / STEPS, written / STEPS


def written_by(pid: int) -> Callable[[], Awaitable[int]] | None:
    """Bytes that a process sent to the disk so far, as Linux counts them; None elsewhere."""
    account = Path(f"/proc/{pid}/io")
    if not account.exists():
        return None

    def read() -> int:
        return next(int(line.split()[1]) for line in account.read_text().splitlines() if line.startswith("write_b"))

    return lambda: asyncio.to_thread(read)


@contextlib.asynccontextmanager
async def postgres(url: str) -> AsyncIterator[Contender]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()

        async def written() -> int:
            async with saver._cursor() as cursor:
                await cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS bytes")
                row = await cursor.fetchone()
                return int(row["bytes"]) if row else 0

        yield Contender("postgres", saver, written)


async def filled(saver: ValkeySaver, count: int) -> RunnableConfig:
    """A thread with `count` checkpoints."""
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4()), "checkpoint_ns": ""}}
    place: RunnableConfig = config
    for step in range(count):
        checkpoint: Any = {
            "v": 4,
            "id": f"{step:032}",
            "ts": "",
            "channel_values": {"a": "x" * 100},
            "channel_versions": {"a": step},
            "versions_seen": {},
            "updated_channels": None,
        }
        place = await saver.aput(place, checkpoint, {"step": step}, {"a": step})
    return config


async def loading(saver: ValkeySaver, configs: Sequence[RunnableConfig]) -> Sequence[float]:
    """Microseconds to load the newest checkpoint of each thread, taking turns."""
    times: list[list[float]] = [[] for _ in configs]
    for _ in range(1000):
        for config, taken in zip(configs, times, strict=True):
            start = time.perf_counter()
            await saver.aget_tuple(config)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e6 for taken in times]


async def main(rounds: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-bench-")))
        server = await stack.enter_async_context(EmbeddedValkey(folder / "valkey"))
        client = await stack.enter_async_context(Client(server.url))
        saver = ValkeySaver(client)
        sqlite = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(folder / "sqlite.db")))

        contenders = [
            Contender("memory", InMemorySaver(), None),
            Contender("perdure", saver, written_by(server.pid)),
            Contender("sqlite", sqlite, written_by(os.getpid())),
        ]
        if url := os.environ.get("PERDURE_BENCH_POSTGRES") or stack.enter_context(private_postgres()):
            contenders.append(await stack.enter_async_context(postgres(url)))

        print(f"ms a step, KB written a step ({STEPS} steps, median of {rounds} rounds, durability=sync)\n")
        print("| state | " + " | ".join(c.name for c in contenders) + " |")
        print("|---|" + "---|" * len(contenders))
        for case in CASES:
            results: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contenders}
            for _ in range(rounds):
                for contender in contenders:
                    results[contender.name].append(await ms_a_step(contender, case))
            cells = []
            for contender in contenders:
                ms, written = (statistics.median(column) for column in zip(*results[contender.name], strict=True))
                cells.append(f"{ms:.2f} ms" + (f", {written / 1000:.1f} KB" if contender.written else ""))
            print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
        few, many = await loading(saver, [await filled(saver, 10), await filled(saver, 5000)])
        print(f"\nloading the newest checkpoint: {few:.0f} µs of 10, {many:.0f} µs of 5,000")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    uvloop.run(main(parser.parse_args().rounds))
