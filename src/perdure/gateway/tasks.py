"""The task routes: accept, show, list, cancel, answer, requeue, forget, and the files that tasks made."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope

from perdure.errors import BrokerUnavailable, GraphError, InvalidRequest, NotFound, StoreUnavailable
from perdure.gateway.access import Caller, Headers
from perdure.gateway.body import check_json, decode, escaped, read_body
from perdure.gateway.calls import (
    REPLAYED,
    UUID_PATTERN,
    Call,
    Operation,
    answer,
    cursor_of,
    idempotency_key,
    limit_of,
    reserve,
)
from perdure.gateway.hub import Closed, Gap
from perdure.gateway.problems import AcceptanceUnknown
from perdure.gateway.services import Services
from perdure.gateway.settings import Role
from perdure.gateway.state import config_of, served
from perdure.gateway.wire import (
    Accepted,
    ArtifactList,
    ArtifactView,
    Command,
    Config,
    NewTask,
    Resume,
    TaskPage,
    TaskView,
    links_of,
    task_view,
)
from perdure.lifecycle.doorbell import Doorbell, TaskRef
from perdure.lifecycle.ids import TaskId, ThreadId, WorkerId, check_id
from perdure.lifecycle.task import DEFAULT_TIER, Multitask, Priority, Task, TaskSpec
from perdure.lifecycle.transitions import TERMINAL, Status
from perdure.store.base import Created, Ended

PATH: Final = "/v1/tasks"
_NEW: Final = msgspec.json.Decoder(NewTask)
_CONFIG: Final = msgspec.json.Decoder(Config)
_COMMAND: Final = msgspec.json.Decoder(Command)
_RESUME: Final = msgspec.json.Decoder(Resume)
_ENCODER: Final = msgspec.json.Encoder()
_PREFER: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)\"?(?:$|[,;\s])", re.IGNORECASE)
_LOG = logging.getLogger("perdure.gateway")
T = TypeVar("T")
RawHeaders = list[tuple[bytes, bytes]]


class _Ids(msgspec.Struct):
    """What an Idempotency-Key keeps of an accepted task: under these ids it is made, by whoever comes."""

    task_id: str
    thread_id: str


class _Asked(msgspec.Struct):
    """What an Idempotency-Key keeps of an answer: which questions it was for."""

    interrupts: list[str]


class _Stand(msgspec.Struct):
    """What an Idempotency-Key keeps of a requeue: the end that it revived the task from."""

    finished_ms: int | None


class TaskDesk:
    """Accepts tasks and serves them. One for each gateway; it counts those who wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tiers: dict[str, str] = {}
        self._waiting = 0

    def operations(self) -> list[Operation]:
        task = PATH + "/{task_id}"
        return [
            Operation(
                "POST",
                PATH,
                self.accept_call,
                "Submit a task",
                Role.SUBMIT,
                NewTask,
                Accepted,
                202,
                headers=("Prefer",),
                also={200: TaskView},
            ),
            Operation(
                "GET",
                PATH,
                self.list,
                "List tasks, newest first",
                answer=TaskPage,
                query=("status", "thread_id", "graph", "metadata.KEY", "limit", "cursor"),
            ),
            Operation("GET", task, self.get, "One task as it stands", answer=TaskView, headers=("Prefer",)),
            Operation(
                "POST",
                task + "/cancel",
                self.cancel,
                "Cancel a task, in the middle of a step too",
                Role.SUBMIT,
                answer=TaskView,
            ),
            Operation(
                "POST", task + "/resume", self.resume, "Answer a task's interrupts", Role.SUBMIT, Resume, TaskView, 202
            ),
            Operation(
                "POST",
                task + "/requeue",
                self.requeue,
                "Revive a failed or dead task from its last checkpoint",
                Role.OPERATE,
                answer=TaskView,
                status=202,
            ),
            Operation("DELETE", task, self.delete, "Forget a finished task", Role.SUBMIT, status=204),
            Operation("GET", task + "/artifacts", self.artifacts, "The files a task made", answer=ArtifactList),
            Operation(
                "GET",
                task + "/artifacts/{name:path}",
                self.artifact,
                "One file, by id or by name",
                media_type="application/octet-stream",
            ),
        ]

    # --- acceptance -------------------------------------------------------------------------------------------
    async def accept_call(self, call: Call) -> Response:
        """`accept` behind the router; the gateway itself calls `accept` without the detour."""
        request = call.request
        status, body, headers = await self.accept(request.scope, request.receive, call.headers, call.caller)
        response = Response(body, status)
        response.raw_headers = [*headers, (b"content-length", str(len(body)).encode())]
        return response

    async def accept(
        self, scope: Scope, receive: Receive, headers: Headers, caller: Caller
    ) -> tuple[int, bytes, RawHeaders]:
        """Store the task, ring for it, and answer. Returns only after the store has confirmed."""
        services = self._services
        settings, clock = services.settings, services.clock
        body = await read_body(receive, headers, settings.body_max)
        began = clock.monotonic()
        check_json(body, headers, settings)
        asked = decode(_NEW, body)
        problems = list(_faults(asked))
        if problems:
            raise InvalidRequest(*problems)
        if asked.graph not in services.registry.names:
            raise NotFound(f"there is no graph {asked.graph[:128]!r}; GET /v1/graphs lists those that are served")
        wait_s = self._wanted_wait(headers.prefer) if headers.prefer is not None else 0.0
        ids = _Ids(clock.uuid7(), asked.thread_id or clock.uuid7())
        tier = asked.tier or settings.graph_tiers.get(asked.graph) or await self._tier_of(asked.graph)
        replayed = False
        until = asyncio.get_running_loop().time() + settings.accept_timeout_s
        if headers.idempotency_key is not None:
            kept = await _known(reserve(services, caller, headers, PATH, body, _ENCODER.encode(ids)), until)
            if kept is not None:
                ids, replayed = msgspec.json.decode(kept, type=_Ids), True
        spec = _spec(asked, ids, tier, caller, clock.now_ms())
        if asked.checkpoint_id is not None:
            await _known(self._need_checkpoint(caller, ids.thread_id, asked.checkpoint_id), until)
        created, rung = await self._create(spec, until, fresh=asked.thread_id is None and not replayed)
        for ref, worker in created.displaced:
            if worker is not None:
                await tell(services, worker, ref.task_id)
        if not created.replayed:
            services.metrics.accepted.add(spec.graph)
        services.metrics.duration.observe(clock.monotonic() - began)
        told: RawHeaders = [(b"idempotency-replayed", b"true")] if replayed else []
        status = Status.QUEUED
        if wait_s > 0 and self._waiting < settings.waiters_max:
            ref = TaskRef(caller.tenant, created.task.thread_id, spec.task_id)
            ended = await self._wait(ref, created.task, wait_s)
            status = ended.status
            told.append((b"preference-applied", b"wait=%d" % wait_s))
            if ended.status in TERMINAL:
                place = f"{PATH}/{spec.task_id}".encode()
                told += [(b"content-type", b"application/json"), (b"content-location", place)]
                return 200, _ENCODER.encode(task_view(ended, whole=True)), told
        first = created.task.spec
        links = links_of(first.task_id)
        lost: Literal["degraded"] | None = None if rung else "degraded"
        view = Accepted(
            first.task_id, first.thread_id, first.graph, status, first.tier, services.store.stored, links, lost
        )
        told += [(b"content-type", b"application/json"), (b"location", links.self.encode())]
        return 202, _ENCODER.encode(view), told

    async def _create(self, spec: TaskSpec, until: float, *, fresh: bool) -> tuple[Created, bool]:
        """Store the task and ring for it; says whether the ring was confirmed.

        A task on a thread of its own is certain to be rung for, so where order is kept both travel together and cost
        one wait on the disk. If the task cannot be stored, the ring finds nothing to claim.
        """
        services = self._services
        if fresh and spec.not_before_ms is None and services.broker.in_order_with_store:
            bell = Doorbell(TaskRef(spec.tenant, spec.thread_id, spec.task_id), spec.tier, spec.priority)
            return await asyncio.gather(_known(services.store.create(spec), until), ring(services, [bell]))
        created = await _known(services.store.create(spec), until)
        return created, created.doorbell is None or await ring(services, [created.doorbell])

    async def _tier_of(self, graph: str) -> str:
        """The tier that the graph's author named; the default if none, or if the graph cannot be loaded here."""
        tier = self._tiers.get(graph)
        if tier is None:
            try:
                tier = (await self._services.registry.load(graph)).tier or DEFAULT_TIER
            except GraphError as error:
                # The task is taken all the same: its worker may be able to load the graph, or says why not.
                _LOG.warning("graph %s cannot be loaded here, so its tasks go to %s: %s", graph, DEFAULT_TIER, error)
                tier = DEFAULT_TIER
            self._tiers[graph] = tier
        return tier

    async def _need_checkpoint(self, caller: Caller, thread_id: str, checkpoint_id: str) -> None:
        found = await self._services.savers(caller.tenant).aget_tuple(config_of(thread_id, checkpoint_id))
        if found is None:
            raise InvalidRequest(("/checkpoint_id", f"thread {thread_id!r} has no checkpoint {checkpoint_id!r}"))

    # --- waiting ----------------------------------------------------------------------------------------------
    def _wanted_wait(self, prefer: bytes) -> float:
        found = _PREFER.search(prefer.decode("latin-1"))
        return min(float(found[1]), self._services.settings.wait_max_s) if found else 0.0

    async def _wait(self, ref: TaskRef, task: Task, wait_s: float) -> Task:
        """The task as it stood when it ended (or began to wait for an answer), or as it was when the time was over."""
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s), self._services.hub.subscribe(ref.thread, task.last_seq) as place:
                while task.status not in TERMINAL and task.status is not Status.INTERRUPTED:
                    item = await place.next(wait_s)
                    if isinstance(item, Gap) or (item is not None and ref.task_id in item.stops):
                        task = await self._services.store.get(ref)
        except (TimeoutError, Closed):
            pass
        finally:
            self._waiting -= 1
        return task

    # --- one task ---------------------------------------------------------------------------------------------
    async def get(self, call: Call) -> Response:
        ref = await call.task()
        task = await call.services.store.get(ref)
        told: dict[str, str] = {}
        wait_s = self._wanted_wait(call.headers.prefer) if call.headers.prefer is not None else 0.0
        if wait_s > 0 and task.status not in TERMINAL and self._waiting < call.services.settings.waiters_max:
            await self._wait(ref, task, wait_s)
            task = await call.services.store.get(ref)
            told["Preference-Applied"] = f"wait={int(wait_s)}"
        return answer(task_view(task, whole=True), headers=told)

    async def list(self, call: Call) -> Response:
        query = call.query("status", "thread_id", "graph", "limit", "cursor", prefix="metadata.")
        status, thread_id = query.get("status"), query.get("thread_id")
        if status is not None and status not in frozenset(Status):
            raise InvalidRequest(("/status", f"{status[:40]!r} is no status; there are: {', '.join(Status)}"))
        below = cursor_of(query)
        if below is not None and not UUID_PATTERN.match(below):
            raise InvalidRequest(("/cursor", "this is not a cursor of this listing; send what `next_cursor` said"))
        tasks, cursor = await call.services.store.list_tasks(
            call.caller.tenant,
            status=Status(status) if status is not None else None,
            thread_id=ThreadId(check_id(thread_id, "/thread_id")) if thread_id is not None else None,
            graph=query.get("graph"),
            metadata={name[9:]: value for name, value in query.items() if name.startswith("metadata.")} or None,
            limit=limit_of(query),
            cursor=below,
        )
        return answer(TaskPage([task_view(task, whole=False) for task in tasks], cursor))

    async def cancel(self, call: Call) -> Response:
        await call.no_body()
        ref = await call.task()
        replayed = await call.reserve(b"", b"{}") is not None
        ended = await call.services.store.cancel(ref)
        await after_end(call.services, ref, ended)
        return answer(task_view(ended.task, whole=True), headers=REPLAYED if replayed else None)

    async def resume(self, call: Call) -> Response:
        """Answers interrupts. A retry under the same key answers the questions of the first try and no later ones;
        an answer that is kept already may be sent again as it was."""
        asked, raw = await call.body(_RESUME)
        ref = await call.task()
        responses = _responses(asked)
        given = _given(asked.update)
        update = bytes(given) if given is not None else None
        goto = [asked.goto] if isinstance(asked.goto, str) else asked.goto
        store, replayed = call.services.store, False
        task = await store.get(ref)
        if update is not None or goto:
            await _check_command(call.services, task.spec.graph, update, asked.goto)
        if idempotency_key(call.headers) is not None:
            pending = [question.id for question in task.interrupts if question.id not in task.answers]
            meant = list(responses) if responses is not None else pending
            kept = await call.reserve(raw, _ENCODER.encode(_Asked(meant)))
            if kept is not None:
                replayed, meant = True, msgspec.json.decode(kept, type=_Asked).interrupts
                if not set(meant) & set(pending):
                    return answer(task_view(task, whole=True), 202, REPLAYED)
            if responses is None and len(meant) == 1:
                # By its id, so that this try, should it reach the store late, does not answer the next question.
                responses = {meant[0]: asked.value}
        if responses is not None and task.status is Status.INTERRUPTED:
            responses = {name: value for name, value in responses.items() if not _is_kept(task, name, value)}
            if not responses and update is None and not goto:
                return answer(task_view(task, whole=True), 202, REPLAYED if replayed else None)
        value = asked.value if responses is None else msgspec.UNSET
        bell = await store.resume(ref, value=value, responses=responses, update=update, goto=goto)
        if bell is not None:
            await ring(call.services, [bell])
        return answer(task_view(await store.get(ref), whole=True), 202, REPLAYED if replayed else None)

    async def requeue(self, call: Call) -> Response:
        await call.no_body()
        ref = await call.task()
        store = call.services.store
        task = await store.get(ref)
        kept = await call.reserve(b"", _ENCODER.encode(_Stand(task.finished_ms)))
        if kept is not None and msgspec.json.decode(kept, type=_Stand).finished_ms != task.finished_ms:
            return answer(task_view(task, whole=True), 202, REPLAYED)
        await ring(call.services, [await store.requeue(ref)])
        return answer(task_view(await store.get(ref), whole=True), 202, REPLAYED if kept is not None else None)

    async def delete(self, call: Call) -> Response:
        await call.services.store.delete_task(await call.task())
        return Response(status_code=204)

    # --- artifacts --------------------------------------------------------------------------------------------
    async def artifacts(self, call: Call) -> Response:
        ref = await call.task()
        found = await call.services.store.artifacts(ref)
        return answer(
            ArtifactList(
                [
                    ArtifactView(
                        made.artifact_id,
                        made.name,
                        made.media_type,
                        made.size,
                        made.created_ms,
                        made.step,
                        made.attempt,
                        f"{PATH}/{ref.task_id}/artifacts/{quote(made.artifact_id, safe='')}",
                    )
                    for made in found
                ]
            )
        )

    async def artifact(self, call: Call) -> Response:
        """A file that a model's code wrote: always a download, never a page of this origin."""
        ref = await call.task()
        made, data = await call.services.store.artifact(ref, call.request.path_params["name"])
        name = made.name.rsplit("/", 1)[-1]
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cache-Control": "private, no-store",
            "X-Artifact-Id": made.artifact_id,
        }
        kind = made.media_type if re.match(r"[\w.+-]+/[\w.+-]+\Z", made.media_type) else "application/octet-stream"
        response = Response(data, headers=headers)
        response.headers["Content-Type"] = kind
        return response


async def ring(services: Services, bells: Sequence[Doorbell]) -> bool:
    """Ring for tasks. False if the broker is away: the tasks are safe in the store, and the rescuer rings later."""
    try:
        async with asyncio.timeout(services.settings.publish_timeout_s):
            await services.broker.publish(bells)
    except (BrokerUnavailable, TimeoutError) as error:
        _LOG.warning("the broker is away, the rescuer will ring for %d tasks: %s", len(bells), error)
        services.metrics.degraded.add(amount=len(bells))
        return False
    return True


async def tell(services: Services, worker: WorkerId, task_id: TaskId) -> None:
    """Tell a worker to stop. If that fails it stops at its next write, whose fence is gone."""
    try:
        await services.store.tell(worker, task_id)
    except StoreUnavailable as error:
        _LOG.warning("worker %s could not be told to stop task %s: %s", worker, task_id, error)


async def after_end(services: Services, ref: TaskRef, ended: Ended) -> None:
    """What follows a task that was ended from outside: its worker stops, the thread's next task is rung for."""
    if ended.worker is not None:
        await tell(services, ended.worker, ref.task_id)
    if ended.doorbell is not None:
        await ring(services, [ended.doorbell])


async def _known(call: Awaitable[T], until: float) -> T:
    """What the store answers, or AcceptanceUnknown if it has not by `until` on the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            return await call
    except TimeoutError as error:
        raise AcceptanceUnknown("no answer within the time for accepting a task") from error


async def _check_command(services: Services, name: str, update: bytes | None, goto: str | list[str]) -> None:
    """Refuse what LangGraph would pass over in silence: nodes and channels that the graph does not have."""
    graph = await served(services, name)
    value = msgspec.json.decode(update) if update is not None else {}
    if not isinstance(value, dict) and (graph is None or "__root__" not in graph.channels):
        raise InvalidRequest(("/update", "expected `object`: new values by channel"))
    if graph is None:
        return  # Its worker can load it, or says why not.
    found: list[tuple[str, str]] = []
    nodes = sorted(node for node in graph.nodes if not node.startswith("__"))
    for index, node in enumerate([goto] if isinstance(goto, str) else goto):
        if node not in nodes:
            pointer = "/goto" if isinstance(goto, str) else f"/goto/{index}"
            found.append((pointer, f"{node[:128]!r} is no node; there are: {', '.join(nodes)}"))
    channels = sorted(channel for channel in graph.channels if not channel.startswith(("__", "branch:")))
    for channel in value if isinstance(value, dict) and "__root__" not in graph.channels else ():
        if channel not in channels:
            found.append(
                (f"/update/{escaped(channel)}", f"{channel[:128]!r} is no channel; there are: {', '.join(channels)}")
            )
    if found:
        raise InvalidRequest(*found)


def _is_kept(task: Task, interrupt_id: str, value: Any) -> bool:
    """Was this question of the paused task answered with just this value?"""
    if interrupt_id not in task.answers or interrupt_id not in {question.id for question in task.interrupts}:
        return False
    # Compared as JSON, where 1 is not true.
    return msgspec.json.encode(task.answers[interrupt_id], order="sorted") == msgspec.json.encode(value, order="sorted")


def _faults(asked: NewTask) -> Sequence[tuple[str, str]]:
    """What the types cannot say. Ids are checked here, for a message that tells what an id is."""
    found: list[tuple[str, str]] = []
    for pointer, value in (
        ("/thread_id", asked.thread_id),
        ("/tier", asked.tier),
        ("/checkpoint_id", asked.checkpoint_id),
    ):
        if value is not None:
            try:
                check_id(value, pointer)
            except InvalidRequest as error:
                found += error.problems
    if asked.webhook is not msgspec.UNSET:
        found.append(("/webhook", "webhooks are not accepted yet; follow the task's events instead"))
    config, command, context = _given(asked.config), _given(asked.command), _given(asked.context)
    if asked.input is msgspec.UNSET and command is None and asked.checkpoint_id is None:
        found.append(("/input", "this field is required; send null to go on from the thread's state"))
    if asked.input is not msgspec.UNSET and command is not None:
        found.append(("/command", "send either `input` or `command`"))
    if asked.checkpoint_id is not None and asked.thread_id is None:
        found.append(("/checkpoint_id", "name the checkpoint's `thread_id` too"))
    try:
        if config is not None:
            decode(_CONFIG, config, "/config")
        if command is not None:
            decode(_COMMAND, command, "/command")
    except InvalidRequest as error:
        found += error.problems
    if context is not None and not bytes(context).startswith(b"{"):
        found.append(("/context", "expected `object`"))
    return found


def _spec(asked: NewTask, ids: _Ids, tier: str, caller: Caller, now_ms: int) -> TaskSpec:
    before, after = asked.interrupt_before, asked.interrupt_after
    return TaskSpec(
        task_id=TaskId(ids.task_id),
        thread_id=ThreadId(ids.thread_id),
        graph=asked.graph,
        tier=tier,
        created_ms=now_ms,
        tenant=caller.tenant,
        input=_given(asked.input),
        priority=Priority(asked.priority),
        config=_given(asked.config),
        context=_given(asked.context),
        metadata=asked.metadata,
        multitask=Multitask(asked.multitask),
        max_attempts=asked.max_attempts,
        deadline_ms=now_ms + int(asked.deadline_s * 1000) if asked.deadline_s is not None else None,
        not_before_ms=now_ms + int(asked.after_s * 1000) if asked.after_s else None,
        checkpoint_id=asked.checkpoint_id,
        command=_given(asked.command),
        interrupt_before=[before] if isinstance(before, str) else before,
        interrupt_after=[after] if isinstance(after, str) else after,
    )


def _given(raw: msgspec.Raw | msgspec.UnsetType) -> msgspec.Raw | None:
    """What was sent, None for nothing and for null."""
    if isinstance(raw, msgspec.UnsetType) or bytes(raw) == b"null":
        return None
    return raw


def _responses(asked: Resume) -> dict[str, Any] | None:
    """The answers by interrupt id, None for a bare value."""
    if isinstance(asked.responses, msgspec.UnsetType):
        if asked.value is msgspec.UNSET:
            raise InvalidRequest(("/value", "send `value`, or `responses` by interrupt id"))
        return None
    if asked.value is not msgspec.UNSET:
        raise InvalidRequest(("/value", "send either `value` or `responses`"))
    if not asked.responses:
        raise InvalidRequest(("/responses", "this is empty; answer at least one interrupt by its id"))
    found: dict[str, Any] = {}
    for index, response in enumerate(asked.responses):
        if response.interrupt_id in found:
            raise InvalidRequest((f"/responses/{index}/interrupt_id", f"{response.interrupt_id!r} is answered twice"))
        found[response.interrupt_id] = response.value
    return found
