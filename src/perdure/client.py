"""Client and AsyncClient: submit tasks to a gateway, follow them, answer them.

Both do the same; `AsyncClient` awaits. Calls that may be repeated safely are repeated when the gateway is away for a
moment (a submission carries an Idempotency-Key, so it is never doubled), and `stream` reconnects by itself, so that a
proxy that cuts long requests, or a restart of the gateway, neither loses nor doubles an event.

Errors:

    ClientError
    ├── ProblemError       the gateway refused; holds the fields of its problem document
    │   ├── BadRequest     400, 413, 415, 422: something in the request is wrong; `errors` says what
    │   ├── AccessDenied   401, 403: the key is missing, unknown, or lacks a role
    │   ├── Missing        404
    │   ├── Refused        409: the present state forbids it; `reason` says why
    │   └── Unavailable    429 and 5xx: later may be better
    ├── Unreachable        no gateway answered, for as long as the client was told to try
    └── WaitedTooLong      the task did not end within the time given
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import orjson

T = TypeVar("T")

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "dead"})
WAIT_S: Final = 25
# A stream that has been silent for three heartbeats is dead, whatever TCP says.
SILENT_S: Final = 16.0
Event = dict[str, Any]


class ClientError(Exception):
    """Root of what the clients raise."""


class ProblemError(ClientError):
    """The gateway refused. The fields are those of its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.type: str = str(problem.get("type", "about:blank"))
        self.title: str = str(problem.get("title", ""))
        self.detail: str = str(problem.get("detail", ""))
        self.reason: str | None = problem.get("reason")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors", ())
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.title}: {self.detail}")


class BadRequest(ProblemError):
    """Something in the request is wrong."""


class AccessDenied(ProblemError):
    """The key is missing, unknown, or lacks a role."""


class Missing(ProblemError):
    """There is no such thing, or it is another tenant's."""


class Refused(ProblemError):
    """The present state forbids it."""


class Unavailable(ProblemError):
    """The gateway cannot do it now."""


class Unreachable(ClientError):
    """No gateway answered."""


class WaitedTooLong(ClientError, TimeoutError):
    """The task did not end within the time given. `task` is how it stood."""

    def __init__(self, task: TaskInfo | None, timeout: float) -> None:
        self.task = task
        where = f"is {task.status}" if task else "could not be read"
        super().__init__(f"the task {where} after {timeout:g} s")


class TaskHandle(msgspec.Struct, frozen=True):
    """An accepted task. `stored` says what it survives."""

    task_id: str
    thread_id: str
    graph: str
    tier: str
    status: str
    stored: str
    broker: str | None = None


class Question(msgspec.Struct, frozen=True):
    """An interrupt that waits for an answer."""

    id: str
    value: Any = None
    namespace: list[str] = []
    breakpoint: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a task failed, died or is tried again."""

    type: str
    message: str
    node: str | None = None
    traceback: str | None = None
    worker: str | None = None


class TaskInfo(msgspec.Struct, frozen=True):
    """A task as it stands. `input` and `result` are None in lists."""

    task_id: str
    thread_id: str
    graph: str
    status: str
    tier: str
    attempt: int
    losses: int
    step: int
    created_ms: int
    updated_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None
    worker: str | None = None
    reason: str | None = None
    checkpoint_id: str | None = None
    error: Failure | None = None
    interrupts: list[Question] = []
    metadata: dict[str, Any] = {}
    input: Any = None
    result: Any = None

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, newest first. `next_cursor` is None at the end."""

    tasks: list[TaskInfo]
    next_cursor: str | None


class ArtifactInfo(msgspec.Struct, frozen=True):
    """A file that a task made. `artifact_id` is unique in the task, `name` need not be."""

    artifact_id: str
    name: str
    media_type: str
    size: int
    created_ms: int
    step: int
    attempt: int


class ThreadInfo(msgspec.Struct, frozen=True):
    """A thread as it stands."""

    thread_id: str
    created_ms: int
    updated_ms: int
    epoch: str
    last_seq: int
    graph: str | None
    owner: str | None
    waiting: list[str]
    metadata: dict[str, Any]
    checkpoint_id: str | None
    last_task: str | None


class ThreadPage(msgspec.Struct, frozen=True):
    """Threads, newest first. `next_cursor` is None at the end."""

    threads: list[ThreadInfo]
    next_cursor: str | None


class WorkerInfo(msgspec.Struct, frozen=True):
    """One worker of the fleet."""

    worker_id: str
    host: str
    pid: int
    tier: str
    slots: int
    standby: bool
    state: str
    held: list[str]
    graphs: list[str]
    started_ms: int
    heartbeat_ms: int
    version: str


class _Artifacts(msgspec.Struct):
    artifacts: list[ArtifactInfo]


class _Workers(msgspec.Struct):
    workers: list[WorkerInfo]


class _Graphs(msgspec.Struct):
    graphs: list[str]


class _Request(msgspec.Struct, Generic[T]):
    """One call, before it is sent. `repeatable` ones are sent again when the gateway was away."""

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    repeatable: bool = True
    timeout_s: float = 30.0


class _Api:
    """Every call of the API as a value: what both clients share."""

    @staticmethod
    def submit(graph: str, input: Any, fields: Mapping[str, Any], idempotency_key: str | None) -> _Request[TaskHandle]:
        body = {"graph": graph, **{name: value for name, value in fields.items() if value is not None}}
        if input is not None or "command" not in body:
            body["input"] = input
        return _Request("POST", "/v1/tasks", _typed(TaskHandle), body, headers=_key(idempotency_key))

    @staticmethod
    def get(task_id: str, wait_s: int = 0) -> _Request[TaskInfo]:
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return _Request("GET", _task(task_id), _typed(TaskInfo), headers=headers, timeout_s=wait_s + 30.0)

    @staticmethod
    def list_tasks(query: Mapping[str, Any], metadata: Mapping[str, str] | None) -> _Request[TaskPage]:
        asked = {name: str(value) for name, value in query.items() if value is not None}
        asked |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
        return _Request("GET", "/v1/tasks", _typed(TaskPage), query=asked)

    @staticmethod
    def cancel(task_id: str) -> _Request[TaskInfo]:
        return _Request("POST", _task(task_id, "cancel"), _typed(TaskInfo))

    @staticmethod
    def answer(
        task_id: str,
        value: Any,
        responses: Mapping[str, Any] | None,
        update: Mapping[str, Any] | None,
        goto: str | Sequence[str],
    ) -> _Request[TaskInfo]:
        body: dict[str, Any] = {}
        if responses is None:
            body["value"] = value
        else:
            body["responses"] = [{"interrupt_id": name, "value": given} for name, given in responses.items()]
        if update is not None:
            body["update"] = update
        if goto:
            body["goto"] = goto
        return _Request("POST", _task(task_id, "resume"), _typed(TaskInfo), body, headers=_key(None))

    @staticmethod
    def requeue(task_id: str) -> _Request[TaskInfo]:
        return _Request("POST", _task(task_id, "requeue"), _typed(TaskInfo), headers=_key(None))

    @staticmethod
    def delete(task_id: str) -> _Request[None]:
        return _Request("DELETE", _task(task_id), _nothing, repeatable=False)

    @staticmethod
    def artifacts(task_id: str) -> _Request[list[ArtifactInfo]]:
        return _Request("GET", _task(task_id, "artifacts"), lambda raw: _typed(_Artifacts)(raw).artifacts)

    @staticmethod
    def artifact(task_id: str, name: str) -> _Request[bytes]:
        return _Request("GET", _task(task_id, "artifacts", name), bytes)

    @staticmethod
    def threads(limit: int, cursor: str | None) -> _Request[ThreadPage]:
        query = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        return _Request("GET", "/v1/threads", _typed(ThreadPage), query=query)

    @staticmethod
    def thread(thread_id: str) -> _Request[ThreadInfo]:
        return _Request("GET", _thread(thread_id), _typed(ThreadInfo))

    @staticmethod
    def create_thread(
        thread_id: str | None, metadata: Mapping[str, Any] | None, graph: str | None
    ) -> _Request[ThreadInfo]:
        asked = {"thread_id": thread_id, "metadata": metadata, "graph": graph}
        body = {name: value for name, value in asked.items() if value is not None}
        return _Request("POST", "/v1/threads", _typed(ThreadInfo), body, headers=_key(None))

    @staticmethod
    def delete_thread(thread_id: str) -> _Request[None]:
        return _Request("DELETE", _thread(thread_id), _nothing, repeatable=False)

    @staticmethod
    def state(thread_id: str, checkpoint_id: str | None) -> _Request[dict[str, Any]]:
        parts = ("checkpoints", checkpoint_id) if checkpoint_id else ("state",)
        return _Request("GET", _thread(thread_id, *parts), orjson.loads)

    @staticmethod
    def update_state(
        thread_id: str, values: Any, as_node: str | None, checkpoint_id: str | None
    ) -> _Request[dict[str, Any]]:
        asked = {"values": values, "as_node": as_node, "checkpoint_id": checkpoint_id}
        body = {name: value for name, value in asked.items() if value is not None or name == "values"}
        return _Request("POST", _thread(thread_id, "state"), orjson.loads, body, headers=_key(None))

    @staticmethod
    def checkpoints(thread_id: str, limit: int, before: str | None) -> _Request[dict[str, Any]]:
        query = {"limit": str(limit), **({"before": before} if before else {})}
        return _Request("GET", _thread(thread_id, "checkpoints"), orjson.loads, query=query)

    @staticmethod
    def fork(thread_id: str, checkpoint_id: str | None, new_thread_id: str | None) -> _Request[dict[str, Any]]:
        asked = {"checkpoint_id": checkpoint_id, "thread_id": new_thread_id}
        body = {name: value for name, value in asked.items() if value is not None}
        return _Request("POST", _thread(thread_id, "fork"), orjson.loads, body, headers=_key(None))

    @staticmethod
    def graphs() -> _Request[list[str]]:
        return _Request("GET", "/v1/graphs", lambda raw: _typed(_Graphs)(raw).graphs)

    @staticmethod
    def graph(name: str) -> _Request[dict[str, Any]]:
        return _Request("GET", f"/v1/graphs/{quote(name, safe='')}", orjson.loads)

    @staticmethod
    def workers() -> _Request[list[WorkerInfo]]:
        return _Request("GET", "/v1/workers", lambda raw: _typed(_Workers)(raw).workers)

    @staticmethod
    def kill_worker(worker_id: str) -> _Request[dict[str, Any]]:
        return _Request("POST", f"/v1/workers/{quote(worker_id, safe='')}/kill", orjson.loads, repeatable=False)


class _Frames:
    """Server-Sent Events out of pieces of bytes that end anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """`(id, event, data)` of each whole frame, empty where a frame has none."""
        if b"\r" in piece:
            piece = piece.replace(b"\r", b"")
        frames = (self._rest + piece).split(b"\n\n")
        self._rest = frames.pop()
        for frame in frames:
            event_id = event = data = b""
            for line in frame.split(b"\n"):
                if line.startswith(b"data: "):
                    data = line[6:] if not data else data + b"\n" + line[6:]
                elif line.startswith(b"id: "):
                    event_id = line[4:]
                elif line.startswith(b"event: "):
                    event = line[7:]
            yield event_id, event, data


class _Place:
    """Where a follower stands in a stream, and how it goes on after a cut."""

    def __init__(
        self,
        path: str,
        since: int | str | None,
        filters: Mapping[str, str | Iterable[str] | None],
        patience_s: float,
        jitter: Callable[[], float],
    ) -> None:
        self.path = path
        self.ended = False
        self._since = str(since) if since is not None else None
        self._query = {name: _joined(value) for name, value in filters.items() if value is not None}
        self._patience_s = patience_s
        self._jitter = jitter
        self._epoch, self._seq = "", 0
        self._last_id: str | None = None
        self._frames = _Frames()
        self._failures = 0
        self._away_since: float | None = None

    def query(self) -> dict[str, str]:
        if self._last_id is None and self._since is not None:
            return {**self._query, "since": self._since}
        return self._query

    def headers(self) -> dict[str, str]:
        last = {"Last-Event-ID": self._last_id} if self._last_id is not None else {}
        return {"Accept": "text/event-stream", **last}

    def opened(self) -> None:
        """A connection stands: frames begin anew."""
        self._frames = _Frames()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The new events in a piece of the stream."""
        self._failures, self._away_since = 0, None
        for event_id, event, data in self._frames.feed(piece):
            if event == b"end":
                self.ended = True
                return
            decoded: Event | None = orjson.loads(data) if data else None
            if event_id and not self._advance(event_id.decode(), decoded is not None and "seq" in decoded):
                continue
            if decoded is not None:
                yield decoded

    def delay_s(self, now: float, cause: Exception | None) -> float:
        """How long to wait before the next try. The first comes at once: a proxy's cut is no failure.

        Raises Unreachable when no gateway has answered for as long as the follower has patience.
        """
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since > self._patience_s:
            raise Unreachable(f"{self.path}: no gateway for {self._patience_s:g} s: {cause}") from cause
        self._failures += 1
        if self._failures == 1:
            return 0.0
        return float(min(0.1 * 2**self._failures, 5.0) * (0.5 + self._jitter() / 2))

    def _advance(self, event_id: str, numbered: bool) -> bool:
        """Move on to an id. False for an event that was seen before."""
        epoch, _, number = event_id.rpartition(":")
        seq = int(number)
        if numbered and epoch == self._epoch and seq <= self._seq:
            return False
        self._epoch, self._seq, self._last_id = epoch, seq, event_id
        return True


class AsyncClient:
    """A gateway, for asyncio programs. An async context manager; or call `aclose` at the end.

    `patience_s` bounds how long a call or a stream tries to reach a gateway that is away.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:2024",
        api_key: str | None = None,
        *,
        patience_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._patience_s, self._jitter = patience_s, jitter
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=_auth(api_key),
            transport=transport,
            limits=_LIMITS,
            trust_env=_is_remote(base_url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release all connections. Safe to repeat."""
        await self._http.aclose()

    async def submit(
        self,
        graph: str,
        input: Any = None,
        *,
        thread_id: str | None = None,
        tier: str | None = None,
        priority: Literal["high", "normal", "low"] | None = None,
        config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        multitask: Literal["enqueue", "reject", "interrupt", "rollback"] | None = None,
        max_attempts: int | None = None,
        deadline_s: float | None = None,
        after_s: float | None = None,
        checkpoint_id: str | None = None,
        command: Mapping[str, Any] | None = None,
        interrupt_before: Sequence[str] | Literal["*"] | None = None,
        interrupt_after: Sequence[str] | Literal["*"] | None = None,
        idempotency_key: str | None = None,
    ) -> TaskHandle:
        """Have a graph run on a thread (a new one by default). Returns once the task is stored."""
        fields = _fields(locals())
        return await self._call(_Api.submit(graph, input, fields, idempotency_key))

    async def get(self, task_id: str) -> TaskInfo:
        """The task as it stands."""
        return await self._call(_Api.get(task_id))

    async def wait(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """The task once it has ended, or waits for an answer (`interrupted`). Raises WaitedTooLong."""
        until = time.monotonic() + timeout if timeout is not None else None
        task: TaskInfo | None = None
        while True:
            left = until - time.monotonic() if until is not None else float(WAIT_S)
            if left <= 0:
                raise WaitedTooLong(task, timeout or 0)
            task = await self._call(_Api.get(task_id, _whole(left)))
            if task.ended or task.status == "interrupted":
                return task

    async def stream(
        self,
        task_id: str,
        *,
        since: int | str | None = None,
        tags: str | Iterable[str] | None = None,
        channels: str | Iterable[str] | None = None,
        namespaces: str | Iterable[str] | None = None,
    ) -> AsyncIterator[Event]:
        """The task's events, each once and in order, until the task ends; `since` is the last one already seen.

        After a gap (see the events' reference) an event of method `gap` comes, then the state, then what is kept.
        """
        filters = {"tags": tags, "channels": channels, "namespaces": namespaces}
        async for event in self._follow(
            _Place(_task(task_id, "events"), since, filters, self._patience_s, self._jitter)
        ):
            yield event

    async def stream_thread(
        self,
        thread_id: str,
        *,
        since: int | str | None = None,
        tags: str | Iterable[str] | None = None,
        channels: str | Iterable[str] | None = None,
        namespaces: str | Iterable[str] | None = None,
    ) -> AsyncIterator[Event]:
        """A thread's events over all its tasks, from now on unless `since` says otherwise. Does not end by itself."""
        filters = {"tags": tags, "channels": channels, "namespaces": namespaces}
        path = _thread(thread_id, "events")
        async for event in self._follow(_Place(path, since, filters, self._patience_s, self._jitter)):
            yield event

    async def answer(
        self,
        task_id: str,
        value: Any = None,
        *,
        responses: Mapping[str, Any] | None = None,
        update: Mapping[str, Any] | None = None,
        goto: str | Sequence[str] = (),
    ) -> TaskInfo:
        """Answer the one pending interrupt with `value`, or several by id with `responses`."""
        return await self._call(_Api.answer(task_id, value, responses, update, goto))

    async def cancel(self, task_id: str) -> TaskInfo:
        """End a task, in the middle of a step too. A finished one stays as it is."""
        return await self._call(_Api.cancel(task_id))

    async def requeue(self, task_id: str) -> TaskInfo:
        """Revive a failed or dead task from its last checkpoint."""
        return await self._call(_Api.requeue(task_id))

    async def delete(self, task_id: str) -> None:
        """Forget a finished task."""
        await self._call(_Api.delete(task_id))

    async def list(
        self,
        *,
        status: str | None = None,
        thread_id: str | None = None,
        graph: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks, newest first."""
        query = {"status": status, "thread_id": thread_id, "graph": graph, "limit": limit, "cursor": cursor}
        return await self._call(_Api.list_tasks(query, metadata))

    async def artifacts(self, task_id: str) -> Sequence[ArtifactInfo]:
        """The files that a task made."""
        return await self._call(_Api.artifacts(task_id))

    async def artifact(self, task_id: str, name: str) -> bytes:
        """One file, by id or by name."""
        return await self._call(_Api.artifact(task_id, name))

    async def threads(self, *, limit: int = 20, cursor: str | None = None) -> ThreadPage:
        """Threads, newest first."""
        return await self._call(_Api.threads(limit, cursor))

    async def thread(self, thread_id: str) -> ThreadInfo:
        """The thread as it stands."""
        return await self._call(_Api.thread(thread_id))

    async def create_thread(
        self, thread_id: str | None = None, *, metadata: Mapping[str, Any] | None = None, graph: str | None = None
    ) -> ThreadInfo:
        """Make an empty thread."""
        return await self._call(_Api.create_thread(thread_id, metadata, graph))

    async def delete_thread(self, thread_id: str) -> None:
        """Forget a thread with all that is its own."""
        await self._call(_Api.delete_thread(thread_id))

    async def state(self, thread_id: str, checkpoint_id: str | None = None) -> dict[str, Any]:
        """The thread's state, now or at a checkpoint."""
        return await self._call(_Api.state(thread_id, checkpoint_id))

    async def update_state(
        self, thread_id: str, values: Any, *, as_node: str | None = None, checkpoint_id: str | None = None
    ) -> dict[str, Any]:
        """Correct the thread's state."""
        return await self._call(_Api.update_state(thread_id, values, as_node, checkpoint_id))

    async def checkpoints(self, thread_id: str, *, limit: int = 20, before: str | None = None) -> dict[str, Any]:
        """The thread's history, newest first."""
        return await self._call(_Api.checkpoints(thread_id, limit, before))

    async def fork(
        self, thread_id: str, *, checkpoint_id: str | None = None, new_thread_id: str | None = None
    ) -> dict[str, Any]:
        """Copy a thread's state into a new thread."""
        return await self._call(_Api.fork(thread_id, checkpoint_id, new_thread_id))

    async def graphs(self) -> Sequence[str]:
        """The graphs that are served."""
        return await self._call(_Api.graphs())

    async def graph(self, name: str) -> dict[str, Any]:
        """One graph: nodes, edges, tiers and tags; or why it cannot be loaded."""
        return await self._call(_Api.graph(name))

    async def workers(self) -> Sequence[WorkerInfo]:
        """The fleet."""
        return await self._call(_Api.workers())

    async def kill_worker(self, worker_id: str) -> dict[str, Any]:
        """SIGKILL a worker process of the gateway's machine, where the deployment allows that."""
        return await self._call(_Api.kill_worker(worker_id))

    async def _call(self, request: _Request[T]) -> T:
        began, tries = time.monotonic(), 0
        while True:
            try:
                response = await self._http.request(**_sent(request))
                return _answered(response, response.content, request.decode)
            except (httpx.TransportError, Unavailable) as error:
                tries += 1
                delay = _again_in_s(request, error, tries, time.monotonic() - began, self._patience_s, self._jitter)
            await asyncio.sleep(delay)

    async def _follow(self, place: _Place) -> AsyncIterator[Event]:
        while True:
            cause: Exception | None = None
            try:
                async with self._http.stream(
                    "GET", place.path, params=place.query(), headers=place.headers(), timeout=_STREAM_TIMEOUT
                ) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code != 200:
                        _answered(response, await response.aread(), _nothing)
                    place.opened()
                    async for piece in response.aiter_bytes():
                        for event in place.feed(piece):
                            yield event
                        if place.ended:
                            return
            except (httpx.TransportError, Unavailable) as error:
                cause = error
            await asyncio.sleep(place.delay_s(time.monotonic(), cause))


class Client:
    """A gateway, for programs without asyncio. A context manager; or call `close` at the end.

    `patience_s` bounds how long a call or a stream tries to reach a gateway that is away.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:2024",
        api_key: str | None = None,
        *,
        patience_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._patience_s, self._jitter = patience_s, jitter
        self._http = httpx.Client(
            base_url=base_url,
            headers=_auth(api_key),
            transport=transport,
            limits=_LIMITS,
            trust_env=_is_remote(base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release all connections. Safe to repeat."""
        self._http.close()

    def submit(
        self,
        graph: str,
        input: Any = None,
        *,
        thread_id: str | None = None,
        tier: str | None = None,
        priority: Literal["high", "normal", "low"] | None = None,
        config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        multitask: Literal["enqueue", "reject", "interrupt", "rollback"] | None = None,
        max_attempts: int | None = None,
        deadline_s: float | None = None,
        after_s: float | None = None,
        checkpoint_id: str | None = None,
        command: Mapping[str, Any] | None = None,
        interrupt_before: Sequence[str] | Literal["*"] | None = None,
        interrupt_after: Sequence[str] | Literal["*"] | None = None,
        idempotency_key: str | None = None,
    ) -> TaskHandle:
        """Have a graph run on a thread (a new one by default). Returns once the task is stored."""
        fields = _fields(locals())
        return self._call(_Api.submit(graph, input, fields, idempotency_key))

    def get(self, task_id: str) -> TaskInfo:
        """The task as it stands."""
        return self._call(_Api.get(task_id))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """The task once it has ended, or waits for an answer (`interrupted`). Raises WaitedTooLong."""
        until = time.monotonic() + timeout if timeout is not None else None
        task: TaskInfo | None = None
        while True:
            left = until - time.monotonic() if until is not None else float(WAIT_S)
            if left <= 0:
                raise WaitedTooLong(task, timeout or 0)
            task = self._call(_Api.get(task_id, _whole(left)))
            if task.ended or task.status == "interrupted":
                return task

    def stream(
        self,
        task_id: str,
        *,
        since: int | str | None = None,
        tags: str | Iterable[str] | None = None,
        channels: str | Iterable[str] | None = None,
        namespaces: str | Iterable[str] | None = None,
    ) -> Iterator[Event]:
        """The task's events, each once and in order, until the task ends; `since` is the last one already seen.

        After a gap (see the events' reference) an event of method `gap` comes, then the state, then what is kept.
        """
        filters = {"tags": tags, "channels": channels, "namespaces": namespaces}
        yield from self._follow(_Place(_task(task_id, "events"), since, filters, self._patience_s, self._jitter))

    def stream_thread(
        self,
        thread_id: str,
        *,
        since: int | str | None = None,
        tags: str | Iterable[str] | None = None,
        channels: str | Iterable[str] | None = None,
        namespaces: str | Iterable[str] | None = None,
    ) -> Iterator[Event]:
        """A thread's events over all its tasks, from now on unless `since` says otherwise. Does not end by itself."""
        filters = {"tags": tags, "channels": channels, "namespaces": namespaces}
        yield from self._follow(_Place(_thread(thread_id, "events"), since, filters, self._patience_s, self._jitter))

    def answer(
        self,
        task_id: str,
        value: Any = None,
        *,
        responses: Mapping[str, Any] | None = None,
        update: Mapping[str, Any] | None = None,
        goto: str | Sequence[str] = (),
    ) -> TaskInfo:
        """Answer the one pending interrupt with `value`, or several by id with `responses`."""
        return self._call(_Api.answer(task_id, value, responses, update, goto))

    def cancel(self, task_id: str) -> TaskInfo:
        """End a task, in the middle of a step too. A finished one stays as it is."""
        return self._call(_Api.cancel(task_id))

    def requeue(self, task_id: str) -> TaskInfo:
        """Revive a failed or dead task from its last checkpoint."""
        return self._call(_Api.requeue(task_id))

    def delete(self, task_id: str) -> None:
        """Forget a finished task."""
        self._call(_Api.delete(task_id))

    def list(
        self,
        *,
        status: str | None = None,
        thread_id: str | None = None,
        graph: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks, newest first."""
        query = {"status": status, "thread_id": thread_id, "graph": graph, "limit": limit, "cursor": cursor}
        return self._call(_Api.list_tasks(query, metadata))

    def artifacts(self, task_id: str) -> Sequence[ArtifactInfo]:
        """The files that a task made."""
        return self._call(_Api.artifacts(task_id))

    def artifact(self, task_id: str, name: str) -> bytes:
        """One file, by id or by name."""
        return self._call(_Api.artifact(task_id, name))

    def threads(self, *, limit: int = 20, cursor: str | None = None) -> ThreadPage:
        """Threads, newest first."""
        return self._call(_Api.threads(limit, cursor))

    def thread(self, thread_id: str) -> ThreadInfo:
        """The thread as it stands."""
        return self._call(_Api.thread(thread_id))

    def create_thread(
        self, thread_id: str | None = None, *, metadata: Mapping[str, Any] | None = None, graph: str | None = None
    ) -> ThreadInfo:
        """Make an empty thread."""
        return self._call(_Api.create_thread(thread_id, metadata, graph))

    def delete_thread(self, thread_id: str) -> None:
        """Forget a thread with all that is its own."""
        self._call(_Api.delete_thread(thread_id))

    def state(self, thread_id: str, checkpoint_id: str | None = None) -> dict[str, Any]:
        """The thread's state, now or at a checkpoint."""
        return self._call(_Api.state(thread_id, checkpoint_id))

    def update_state(
        self, thread_id: str, values: Any, *, as_node: str | None = None, checkpoint_id: str | None = None
    ) -> dict[str, Any]:
        """Correct the thread's state."""
        return self._call(_Api.update_state(thread_id, values, as_node, checkpoint_id))

    def checkpoints(self, thread_id: str, *, limit: int = 20, before: str | None = None) -> dict[str, Any]:
        """The thread's history, newest first."""
        return self._call(_Api.checkpoints(thread_id, limit, before))

    def fork(
        self, thread_id: str, *, checkpoint_id: str | None = None, new_thread_id: str | None = None
    ) -> dict[str, Any]:
        """Copy a thread's state into a new thread."""
        return self._call(_Api.fork(thread_id, checkpoint_id, new_thread_id))

    def graphs(self) -> Sequence[str]:
        """The graphs that are served."""
        return self._call(_Api.graphs())

    def graph(self, name: str) -> dict[str, Any]:
        """One graph: nodes, edges, tiers and tags; or why it cannot be loaded."""
        return self._call(_Api.graph(name))

    def workers(self) -> Sequence[WorkerInfo]:
        """The fleet."""
        return self._call(_Api.workers())

    def kill_worker(self, worker_id: str) -> dict[str, Any]:
        """SIGKILL a worker process of the gateway's machine, where the deployment allows that."""
        return self._call(_Api.kill_worker(worker_id))

    def _call(self, request: _Request[T]) -> T:
        began, tries = time.monotonic(), 0
        while True:
            try:
                response = self._http.request(**_sent(request))
                return _answered(response, response.content, request.decode)
            except (httpx.TransportError, Unavailable) as error:
                tries += 1
                delay = _again_in_s(request, error, tries, time.monotonic() - began, self._patience_s, self._jitter)
            time.sleep(delay)

    def _follow(self, place: _Place) -> Iterator[Event]:
        while True:
            cause: Exception | None = None
            try:
                with self._http.stream(
                    "GET", place.path, params=place.query(), headers=place.headers(), timeout=_STREAM_TIMEOUT
                ) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code != 200:
                        _answered(response, response.read(), _nothing)
                    place.opened()
                    for piece in response.iter_bytes():
                        yield from place.feed(piece)
                        if place.ended:
                            return
            except (httpx.TransportError, Unavailable) as error:
                cause = error
            time.sleep(place.delay_s(time.monotonic(), cause))


_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=100)
_STREAM_TIMEOUT: Final = httpx.Timeout(10.0, read=SILENT_S)
_KINDS: Final[Mapping[int, type[ProblemError]]] = {
    400: BadRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: Missing,
    409: Refused,
    413: BadRequest,
    415: BadRequest,
    422: BadRequest,
    429: Unavailable,
}


def _answered(response: httpx.Response, content: bytes, decode: Callable[[bytes], T]) -> T:
    """The decoded body, or the problem as an error."""
    status = response.status_code
    if status < 300:
        return decode(content)
    try:
        problem = orjson.loads(content)
    except orjson.JSONDecodeError:
        # A proxy speaks, not the gateway.
        problem = {"title": response.reason_phrase, "detail": content[:200].decode("utf-8", "replace")}
    kind = _KINDS.get(status, Unavailable if status >= 500 else ProblemError)
    after = response.headers.get("retry-after", "")
    raise kind(status, problem if isinstance(problem, dict) else {}, float(after) if after.isdigit() else None)


def _again_in_s(
    request: _Request[T],
    error: httpx.TransportError | Unavailable,
    tries: int,
    spent_s: float,
    patience_s: float,
    jitter: Callable[[], float],
) -> float:
    """How long to wait before the next try. Raises what has to be told instead."""
    broken = isinstance(error, Unavailable) and error.status in (500, 501)
    if not request.repeatable or broken or spent_s > patience_s:
        if isinstance(error, Unavailable):
            raise error
        raise Unreachable(f"{request.method} {request.path}: no gateway answered: {error}") from error
    asked = error.retry_after_s if isinstance(error, Unavailable) else None
    return min(0.1 * float(2**tries), 5.0) * (0.5 + jitter() / 2) if asked is None else asked + jitter() / 2


def _sent(request: _Request[T]) -> dict[str, Any]:
    sent: dict[str, Any] = {
        "method": request.method,
        "url": request.path,
        "params": request.query,
        "headers": dict(request.headers),
        "timeout": httpx.Timeout(request.timeout_s, connect=5.0),
    }
    if request.body is not None:
        sent["content"] = orjson.dumps(request.body, option=orjson.OPT_NON_STR_KEYS)
        sent["headers"]["Content-Type"] = "application/json"
    return sent


def _typed(kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(kind)
    return decoder.decode


def _nothing(_: bytes) -> None:
    return None


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A submission's optional fields out of its arguments."""
    return {name: given[name] for name in given if name not in ("self", "graph", "input", "idempotency_key")}


def _key(given: str | None) -> dict[str, str]:
    return {"Idempotency-Key": given or str(uuid.uuid4())}


def _auth(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _task(task_id: str, *parts: str) -> str:
    return "/".join(("/v1/tasks", quote(task_id, safe=""), *(quote(part, safe="") for part in parts)))


def _thread(thread_id: str, *parts: str) -> str:
    return "/".join(("/v1/threads", quote(thread_id, safe=""), *(quote(part, safe="") for part in parts)))


def _joined(value: str | Iterable[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _whole(left_s: float) -> int:
    return max(1, min(WAIT_S, int(left_s)))


def _is_remote(base_url: str) -> bool:
    """Proxies of the environment are for the world, not for this machine."""
    return urlsplit(base_url).hostname not in ("127.0.0.1", "localhost", "::1")
