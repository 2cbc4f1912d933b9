"""One run of the demo, from what it downloads to what it proves."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console, RenderableType
from rich.text import Text

from perdure.cli.demo_house import House, example, install, missing_packages, needed, questions
from perdure.cli.demo_proof import Followed, Kill, Proof, prove
from perdure.cli.demo_view import DemoView, answer_panel, checks_table, steps_table
from perdure.cli.event_words import recovery
from perdure.client import AsyncClient, ClientError, TaskInfo

GRAPH: Final = "analyst"
CUT_EVERY: Final = 60
"""The follower drops its connection after so many events, and goes on from the last one with a new connection."""
RIPE_STEPS: Final = 2
RIPE_PIECES: Final = 6
"""A worker is killed once its task has finished so many steps and the running one has said so many pieces."""
ATTEMPTS: Final = 20
"""Whoever likes the key `k` shall not use a task's attempts up."""
PATIENCE_S: Final = 180.0
PICTURE_LANES: Final = 3
"""The picture is taken when a task that was taken over has had so many speakers."""


class DemoRun:
    """`run` does everything and returns the exit code."""

    def __init__(self, data_dir: Path, question: str | None, *, keep: bool, picture: Path | None) -> None:
        self._folder = data_dir / "demo"
        self._packages = data_dir / "demo-packages"
        self._question = question
        self._keep = keep
        self._picture = picture
        self._console = Console(highlight=False)
        self._view = DemoView(self._console)
        self._tasks: dict[str, Followed] = {}
        self._threads: dict[str, str] = {}
        self._ripeness: dict[str, _Ripeness] = {}
        self._kills: list[Kill] = []
        self._pids: dict[str, int] = {}
        self._standbys: frozenset[str] = frozenset()
        self._snapshot: RenderableType | None = None

    async def run(self) -> int:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(self._run(stopped))

        def on_signal() -> None:
            # The first one ends what --keep left running, the next one, or one before that, ends everything.
            if self._keep and self._asked and not stopped.is_set():
                stopped.set()
            else:
                work.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        try:
            return await work
        except asyncio.CancelledError:
            return 130

    @property
    def _asked(self) -> bool:
        return bool(self._tasks) and all(task.status for task in self._tasks.values())

    async def _run(self, stopped: asyncio.Event) -> int:
        folder = example(GRAPH)
        about = questions(folder)
        asked = [self._question] if self._question else list(about["DEMO_QUESTIONS"])
        self._introduce(about["switch_hint"]())
        # So many slots that all tasks run at once and no worker but the standby is free when one is killed.
        slots = max(1, len(asked) // 2)
        workers = 3 if len(asked) > 1 else 2
        began = time.monotonic()
        house = House(self._folder, folder / "langgraph.json", self._packages, workers=workers, slots=slots)
        async with house:
            self._say(
                f"perdure dev is ready at {house.url} after {time.monotonic() - began:.1f} s: a Valkey with fsync on "
                f"every write, gateway, {workers - 1} worker{'s' if workers > 2 else ''}, 1 standby, rescuer"
            )
            async with AsyncClient(house.url) as client:
                await self._learn_fleet(client)
                with self._keys(client):
                    await self._ask(client, asked)
                    proof = await self._conclude(client)
                    self._close(house.url, asked[0])
                    if self._keep:
                        self._say(f"Still running at {house.url}; its log is {house.log}. Ctrl-C ends it.")
                        await stopped.wait()
        return 0 if proof.holds else 1

    def _introduce(self, hint: str | None) -> None:
        missing = missing_packages(self._packages)
        if missing:
            self._say(f"Downloading into {self._packages} (once): {needed(missing)}")
            install(missing, self._packages)
        else:
            self._say("Nothing to download: the flights and the database engine are here.")
        model = os.environ.get("PERDURE_MODEL")
        if model:
            self._say(f"The agent talks to {model}.")
        else:
            self._say("The agent works by rules over the question and the schema, offline; it is no language model.")
            if hint:
                self._say(hint)

    # --- asking
    async def _ask(self, client: AsyncClient, asked: Sequence[str]) -> None:
        for number, question in enumerate(asked, start=1):
            handle = await client.submit(GRAPH, {"question": question}, max_attempts=ATTEMPTS)
            label = f"Q{number}"
            self._tasks[handle.task_id] = Followed(label, handle.task_id)
            self._threads[handle.task_id] = handle.thread_id
            self._ripeness[handle.task_id] = _Ripeness()
            self._view.add(handle.task_id, label, question)
        with self._view.live():
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for task_id in self._tasks:
                    group.create_task(self._follow(client, task_id))

    async def _follow(self, client: AsyncClient, task_id: str) -> None:
        task = self._tasks[task_id]
        cursor: str | None = None
        while True:
            left_early = False
            async with aclosing(_taken(client.stream(task_id, since=cursor))) as events:
                async for count, event in events:
                    task.seen.append(event["seq"])
                    cursor = event["event_id"]
                    self._on_event(task_id, event)
                    if count == CUT_EVERY:
                        left_early = True
                        break
            if not left_early:
                return
            task.cuts += 1

    def _on_event(self, task_id: str, event: Mapping[str, Any]) -> None:
        self._view.take(task_id, event)
        ripe = self._ripeness[task_id]
        ripe.take(event)
        if not self._kills and ripe.reached:
            self._kill(task_id)
        events, cuts = sum(len(t.seen) for t in self._tasks.values()), sum(t.cuts for t in self._tasks.values())
        keys = " · k kills the working worker" if self._console.is_terminal and sys.stdin.isatty() else ""
        self._view.footer = f"   {events} events over {cuts} forced reconnects{keys}"
        shown = self._view.tasks[task_id]
        if self._picture and self._snapshot is None and shown.notices and len(shown.lanes) >= PICTURE_LANES:
            self._snapshot = self._view.lanes(height=30)

    def _kill(self, task_id: str) -> None:
        """SIGKILL the worker that holds the task."""
        worker = self._view.tasks[task_id].worker
        pid = self._pids.get(worker)
        if pid is None or any(kill.worker_id == worker for kill in self._kills):
            return
        os.kill(pid, signal.SIGKILL)
        self._kills.append(Kill(worker, pid, time.time() * 1000, task_id))
        self._view.notice(
            f"⚡ SIGKILL to worker {worker}, pid {pid}, in the middle of a step of {self._label(task_id)}"
        )

    def _label(self, task_id: str) -> str:
        return self._tasks[task_id].label

    async def _kill_again(self, client: AsyncClient) -> None:
        """SIGKILL a worker that holds a task now; it may be one that took an earlier one's place."""
        with contextlib.suppress(ClientError):
            await self._learn_fleet(client)
        for task_id, view in self._view.tasks.items():
            if view.status == "running":
                self._kill(task_id)
                return

    async def _learn_fleet(self, client: AsyncClient) -> None:
        fleet = await client.workers()
        self._pids.update({worker.worker_id: worker.pid for worker in fleet})
        self._standbys |= {worker.worker_id for worker in fleet if worker.standby}

    @contextlib.contextmanager
    def _keys(self, client: AsyncClient) -> Iterator[None]:
        """`k` kills the worker of a running task. Only at a terminal; its settings are put back at the end."""
        if not (sys.stdin.isatty() and self._console.is_terminal):
            yield
            return
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        loop = asyncio.get_running_loop()

        kills: set[asyncio.Task[None]] = set()

        def on_key() -> None:
            if os.read(descriptor, 32).lower().startswith(b"k"):
                kill = asyncio.ensure_future(self._kill_again(client))
                kills.add(kill)
                kill.add_done_callback(kills.discard)

        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, on_key)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    # --- telling
    async def _conclude(self, client: AsyncClient) -> Proof:
        files = self._folder / "artifacts"
        files.mkdir(parents=True, exist_ok=True)
        for task_id, task in self._tasks.items():
            info = await client.get(task_id)
            task.status = info.status
            # From the first event on, over one connection, for comparison with what was seen while it ran.
            task.log = [event async for event in client.stream(task_id)]
            history = await client.checkpoints(self._threads[task_id], limit=100)
            task.checkpoints = history["checkpoints"]
            await self._show_answer(client, info, files)
        proof = prove(list(self._tasks.values()), self._kills, self._standbys)
        for over in proof.take_overs:
            self._say(f"⚡ {over.task}: {recovery(over.recovery)}")
        self._show(steps_table(proof, self._kills))
        self._show(checks_table(proof))
        if self._picture:
            self._save_picture(self._picture, proof)
        return proof

    async def _show_answer(self, client: AsyncClient, info: TaskInfo, files: Path) -> None:
        view = self._view.tasks[info.task_id]
        table, where = None, None
        for made in await client.artifacts(info.task_id):
            data = await client.artifact(info.task_id, made.artifact_id)
            path = files / f"{view.label}-{made.artifact_id}-{Path(made.name).name}"
            path.write_bytes(data)
            if made.media_type.startswith("text/csv"):
                table, where = data.decode(), str(path)
        result = info.result if isinstance(info.result, dict) else {}
        failure = f"{info.error.type}: {info.error.message}" if info.error else f"the task is {info.status}"
        self._show(answer_panel(view.label, view.question, str(result.get("answer") or failure), table, where))

    def _close(self, url: str, question: str) -> None:
        """How to do the same by hand, and with a project of one's own."""
        command = "perdure" if shutil.which("perdure") else str(Path(sys.argv[0]).absolute())
        at, task_id = (url, next(iter(self._tasks))) if self._keep else ("$URL", "TASK_ID")
        where = "" if self._keep else f", with the URL that `{command} demo --keep` leaves running"
        body = orjson.dumps({"graph": GRAPH, "input": {"question": question}}).decode()
        self._show(
            Text.assemble(
                (f"\nBy hand{where}\n", "bold"),
                f"  curl -X POST {at}/v1/tasks -H 'content-type: application/json' -d {shlex.quote(body)}\n",
                f"  curl -N {at}/v1/tasks/{task_id}/events -H 'accept: text/plain'\n",
                f"  curl {at}/v1/tasks/{task_id}\n",
                ("In your own LangGraph project, beside its langgraph.json\n", "bold"),
                f"  {command} dev\n",
                f'  {command} submit YOUR_GRAPH "a question" --watch\n',
            )
        )

    def _say(self, text: str) -> None:
        self._show(Text(text))

    def _show(self, what: RenderableType) -> None:
        self._console.print(what, soft_wrap=isinstance(what, Text))

    def _save_picture(self, path: Path, proof: Proof) -> None:
        """The lanes as they stood after the take-over, and the proof, as one SVG."""
        canvas = Console(record=True, file=io.StringIO(), width=120, force_terminal=True, highlight=False)
        canvas.print(Text("$ make demo", "bold"))
        if self._snapshot is not None:
            canvas.print(self._snapshot)
        canvas.print(checks_table(proof))
        path.parent.mkdir(parents=True, exist_ok=True)
        # The fonts that rich links to lie on another host; a picture in a README should load nothing.
        svg = re.sub(r"@font-face\s*{.*?}\s*", "", canvas.export_svg(title="perdure demo"), flags=re.DOTALL)
        path.write_text(svg, encoding="utf-8")


class _Ripeness:
    """Has a task come so far that a kill now hits the middle of a step, with finished steps behind it?"""

    def __init__(self) -> None:
        self._finished = 0
        self._running: dict[str, str] = {}
        self._pieces = 0

    def take(self, event: Mapping[str, Any]) -> None:
        params = event["params"]
        if event["method"] == "tasks":
            self._pieces = 0
            if params["data"]["status"] == "started":
                self._running[params["data"]["id"]] = params["data"]["name"]
            else:
                self._running.pop(params["data"]["id"], None)
                self._finished += not params["namespace"]
        elif event["method"] == "messages":
            self._pieces += 1

    @property
    def reached(self) -> bool:
        return self._finished >= RIPE_STEPS and self._pieces >= RIPE_PIECES and bool(self._running)


async def _taken(events: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
    """The events of one connection, counted from 1."""
    count = 0
    try:
        async for event in events:
            count += 1
            yield count, event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
