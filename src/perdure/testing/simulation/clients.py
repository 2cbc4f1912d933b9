"""Clients: they post, follow with reconnects, answer, cancel and requeue over lines that break, and try again."""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from starlette.types import Message

from perdure.lifecycle.doorbell import TaskRef
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId
from perdure.lifecycle.task import Multitask
from perdure.lifecycle.transitions import Status
from perdure.testing.simulation.gateway import Answer, Broken, GatewayProcess
from perdure.testing.simulation.process import Process
from perdure.testing.simulation.referee import Known, Told
from perdure.testing.simulation.script import GRAPH, Script
from perdure.testing.simulation.weather import CALM_S, Chance

if TYPE_CHECKING:
    from perdure.testing.simulation.world import World

RETRY_S: Final = 0.3
_ID: Final = re.compile(rb"^id: [0-9a-z]+:(\d+)$", re.MULTILINE)


class Plan(msgspec.Struct, frozen=True):
    """What a client means to do with one task."""

    at_s: float
    thread_id: str | None
    script: Script
    multitask: Multitask
    deadline_s: float | None
    max_attempts: int
    keyed: bool
    follows: bool
    cancels_after_s: float | None
    answers: bool
    bare: bool
    """Answers with a bare value, which is for whatever question is open when it arrives: so one client at a time."""
    requeues: int

    @classmethod
    def of(cls, rng: random.Random, storm_s: float) -> Plan:
        def often(part: float) -> bool:
            return rng.random() < part

        strategy = rng.random()
        multitask = (
            Multitask.ENQUEUE
            if strategy < 0.75
            else Multitask.INTERRUPT
            if strategy < 0.85
            else Multitask.ROLLBACK
            if strategy < 0.92
            else Multitask.REJECT
        )
        return cls(
            at_s=rng.random() * storm_s * 0.6,
            thread_id=rng.choice(("t-a", "t-b", None)),
            script=Script.of(rng),
            multitask=multitask,
            deadline_s=rng.uniform(2.0, 20.0) if often(0.08) else None,
            max_attempts=rng.choice((3, 3, 10)),
            keyed=often(0.85),
            follows=often(0.6),
            cancels_after_s=rng.uniform(0.0, 6.0) if often(0.15) else None,
            answers=often(0.92),
            bare=often(0.5),
            requeues=rng.choice((0, 1, 1, 2)),
        )


class Clients:
    """All clients of a run. They live in one process, which never dies: what a client does is not on trial."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: Process = world.process("client")
        self._random = random.Random(f"{world.seed} clients")
        self._chance: Chance = world.chance("client line")
        self._keys = 0
        self._answering: set[TaskId] = set()
        self._plans: dict[TaskId, Plan] = {}
        self.errands: set[asyncio.Task[None]] = set()
        self.followers: dict[asyncio.Task[None], Told] = {}
        self.accepted: list[TaskRef] = []
        world.referee.on_change.append(self._look)

    def begin(self) -> None:
        world = self._world
        for number in range(self._random.randint(1, world.tasks_max)):
            self._send(self._carry(Plan.of(self._random, world.storm_s), number))
        if self._random.random() < 0.3:
            self._follow(f"/v1/threads/{'t-a'}/events", TaskRef(DEFAULT_TENANT, ThreadId("t-a"), TaskId("")))

    def plan_of(self, known: Known) -> Plan | None:
        return self._plans.get(known.ref.task_id)

    def will_answer(self, known: Known) -> bool:
        plan = self.plan_of(known)
        return plan is None or plan.answers

    # --- what they do
    async def _carry(self, plan: Plan, number: int) -> None:
        await asyncio.sleep(plan.at_s)
        asked: dict[str, Any] = {
            "graph": GRAPH,
            "input": orjson.loads(plan.script.as_input()),
            "multitask": plan.multitask,
            "max_attempts": plan.max_attempts,
            "interrupt_before": plan.script.breakpoints,
            "metadata": {"plan": number},
        }
        if plan.thread_id is not None:
            asked["thread_id"] = plan.thread_id
        if plan.deadline_s is not None:
            asked["deadline_s"] = plan.deadline_s
        answer = await self._insist("POST", "/v1/tasks", asked, keyed=plan.keyed)
        if answer is None or answer.status != 202:
            return
        ref = TaskRef(DEFAULT_TENANT, ThreadId(answer.body["thread_id"]), TaskId(answer.body["task_id"]))
        self.accepted.append(ref)
        self._plans[ref.task_id] = plan
        if plan.follows:
            self._follow(f"/v1/tasks/{ref.task_id}/events", ref)
        if plan.cancels_after_s is not None:
            await asyncio.sleep(plan.cancels_after_s)
            await self._insist("POST", f"/v1/tasks/{ref.task_id}/cancel", None, keyed=self._often(0.5))

    def _look(self, known: Known) -> None:
        """A client hears, somehow, that its task waits for it."""
        plan = self.plan_of(known)
        if known.status is Status.INTERRUPTED and self.will_answer(known):
            bare = plan is None or plan.bare
            for _ in range(2 if self._often(0.25) and not bare else 1):
                if not bare or known.ref.task_id not in self._answering:
                    self._send(self._answer_all(known, bare=bare))
        elif known.status in (Status.FAILED, Status.DEAD) and known.revivals < (plan.requeues if plan else 1):
            self._send(self._requeue(known))

    async def _answer_all(self, known: Known, *, bare: bool) -> None:
        self._answering.add(known.ref.task_id)
        path = f"/v1/tasks/{known.ref.task_id}"
        while True:
            await asyncio.sleep(self._random.random() * 2)
            if known.status is not Status.INTERRUPTED:
                self._answering.discard(known.ref.task_id)
                return
            task = await self._insist("GET", path, None, keyed=False)
            if task is None or task.status != 200 or task.body["status"] != Status.INTERRUPTED:
                continue
            pending = [asked["id"] for asked in task.body["interrupts"] if asked["id"] not in known.answers]
            if not pending:
                continue
            if len(pending) == 1 and bare:
                # Only a key makes it safe to repeat an answer that does not say which question it is for.
                await self._insist("POST", f"{path}/resume", {"value": {"for": pending[0]}}, keyed=True)
                continue
            some = pending if self._often(0.6) else pending[:1]
            responses = [{"interrupt_id": asked, "value": {"for": asked}} for asked in some]
            await self._insist("POST", f"{path}/resume", {"responses": responses}, keyed=self._often(0.5))

    async def _requeue(self, known: Known) -> None:
        await asyncio.sleep(self._random.random() * 3)
        await self._insist("POST", f"/v1/tasks/{known.ref.task_id}/requeue", None, keyed=True)

    def _follow(self, path: str, ref: TaskRef) -> None:
        told = Told(path, ref)
        task = self._process.start(self._follow_on(path, told), f"follow {path}")
        self.followers[task] = told

    async def _follow_on(self, path: str, told: Told) -> None:
        """Follow until the end, going on after the last event that was seen."""
        while not told.over:
            gateway = await self._gateway()
            headers = {}
            if told.seqs:
                headers["last-event-id"] = str(told.seqs[-1])
            where = path if told.seqs else f"{path}?since=0" if "/threads/" in path else path
            connection = _Connection(self._chance, self._process, gateway, where, headers)
            status = await connection.run(told)
            if status == 204:
                told.over = True
            if not told.over:
                await asyncio.sleep(RETRY_S)

    # --- the line
    async def _insist(self, method: str, path: str, body: Any, *, keyed: bool) -> Answer | None:
        """Ask until an answer comes. None if it is not known what was done and asking again might do it twice."""
        headers = {}
        if keyed:
            self._keys += 1
            headers["idempotency-key"] = f"key-{self._keys}"
        raw = b"" if body is None else orjson.dumps(body)
        while True:
            try:
                answer = await self._ask(method, path, raw, headers)
            except Broken:
                if not keyed and method == "POST" and path == "/v1/tasks":
                    return None
            else:
                self._world.trace.tell("client", f"{method} {path} -> {answer.status}")
                if answer.status != 503:
                    return answer
                if not keyed and path == "/v1/tasks":
                    return None
            await asyncio.sleep(RETRY_S * (1 + self._random.random()))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        gateway, fate = await self._gateway(), self._chance.fate()
        line: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        gateway.expect(line)

        async def serve() -> None:
            await asyncio.sleep(fate.there_s)
            answer = await gateway.serve(method, path, body, headers)
            await asyncio.sleep(fate.back_s)
            if not line.done() and not fate.lost_reply:
                line.set_result(answer)

        def give_up() -> None:
            if not line.done():
                line.set_exception(Broken("no answer"))

        if not fate.lost_request:
            gateway.process.start(serve(), f"{method} {path}")
        patience_s = fate.patience_s or 15.0
        asyncio.get_running_loop().call_later(patience_s, give_up)
        return await line

    async def _gateway(self) -> GatewayProcess:
        while True:
            alive = [machine.gateway for machine in self._world.gateways if machine.gateway is not None]
            if alive:
                return self._random.choice(alive)
            await asyncio.sleep(RETRY_S)

    def _send(self, errand: Any) -> None:
        task: asyncio.Task[None] = self._process.start(errand, "errand")
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)

    def _often(self, part: float) -> bool:
        return self._random.random() < part


class _Connection:
    """One stream's connection: bytes arrive in order, late, until it is cut."""

    def __init__(
        self, chance: Chance, client: Process, gateway: GatewayProcess, path: str, headers: dict[str, str]
    ) -> None:
        self._chance = chance
        self._client = client
        self._gateway = gateway
        self._path, self._headers = path, headers
        self._pieces: asyncio.Queue[bytes | int | None] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._arrives_at = 0.0

    async def run(self, told: Told) -> int | None:
        """Take what comes; the status of an answer that was no stream, None if the line broke."""
        line: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gateway.expect(line)
        line.add_done_callback(self._on_cut)
        serving = self._gateway.process.start(self._serve(), f"stream {self._path}")
        left = b""
        try:
            while True:
                piece = await self._pieces.get()
                if piece is None or isinstance(piece, int):
                    return piece
                if self._chance.strikes(self._chance.weather.cut_stream):
                    # What is cut is cut anywhere, also in the middle of a frame.
                    left += piece[: self._chance.random.randrange(len(piece) + 1)]
                    _read(left, told)
                    return None
                left = _read(left + piece, told)
                if told.over:
                    return 200
        finally:
            self._gone.set()
            if not line.done():
                line.cancel()
            if self._gateway.process.dead:
                serving.cancel()

    def _on_cut(self, line: asyncio.Future[None]) -> None:
        if not line.cancelled() and line.exception() is not None:
            self._pieces.put_nowait(None)

    async def _serve(self) -> None:
        status = await self._gateway.stream(self._path, self._headers, self._receive, self._send)
        self._put(status if status != 200 else None)

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if body := message.get("body"):
            self._put(body)

    def _put(self, piece: bytes | int | None) -> None:
        loop = asyncio.get_running_loop()
        self._arrives_at = max(self._arrives_at, loop.time()) + self._chance.random.random() * CALM_S
        self._client.call_later(self._arrives_at - loop.time(), self._pieces.put_nowait, piece)


def _read(text: bytes, told: Told) -> bytes:
    """Take the whole frames out of `text`; returns the rest."""
    *frames, rest = text.split(b"\n\n")
    for frame in frames:
        if frame.startswith(b"event: end"):
            told.over = True
        elif b"\ndata: " in frame and (found := _ID.search(frame)):
            told.seqs.append(int(found[1]))
    return rest
