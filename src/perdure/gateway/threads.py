"""The thread routes: make, show, list, delete, state and its correction, history, fork."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.responses import Response

from perdure.errors import Conflict, InvalidRequest, NotFound
from perdure.gateway import state
from perdure.gateway.calls import REPLAYED, UUID_PATTERN, Call, Operation, answer, cursor_of, idempotency_key, limit_of
from perdure.gateway.settings import Role
from perdure.gateway.wire import (
    CheckpointPage,
    CheckpointRef,
    Fork,
    NewThread,
    StateUpdate,
    StateView,
    ThreadPage,
    ThreadView,
)
from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import ThreadId, check_id
from perdure.store.base import Thread

PATH: Final = "/v1/threads"
MARK: Final = "perdure_idempotency"
_NEW: Final = msgspec.json.Decoder(NewThread)
_UPDATE: Final = msgspec.json.Decoder(StateUpdate)
_FORK: Final = msgspec.json.Decoder(Fork)


class _Made(msgspec.Struct):
    """What an Idempotency-Key keeps of a new thread: under this id it is made, by whoever comes."""

    thread_id: str
    status: int = 201


def operations() -> list[Operation]:
    one = PATH + "/{thread_id}"
    return [
        Operation(
            "POST",
            PATH,
            create,
            "Make an empty thread",
            Role.SUBMIT,
            NewThread,
            ThreadView,
            201,
            also={200: ThreadView},
        ),
        Operation("GET", PATH, list_all, "List threads, newest first", answer=ThreadPage, query=("limit", "cursor")),
        Operation("GET", one, get, "One thread as it stands", answer=ThreadView),
        Operation("DELETE", one, delete, "Forget a thread with all that is its own", Role.SUBMIT, status=204),
        Operation("GET", one + "/state", get_state, "The thread's newest state", answer=StateView),
        Operation(
            "POST", one + "/state", update, "Correct the thread's state", Role.SUBMIT, StateUpdate, CheckpointRef
        ),
        Operation(
            "GET",
            one + "/checkpoints",
            history,
            "The thread's history, newest first",
            answer=CheckpointPage,
            query=("limit", "before"),
        ),
        Operation(
            "GET", one + "/checkpoints/{checkpoint_id}", get_checkpoint, "The state at one checkpoint", answer=StateView
        ),
        Operation(
            "POST", one + "/fork", fork, "Copy the state into a new thread", Role.SUBMIT, Fork, CheckpointRef, 201
        ),
    ]


async def create(call: Call) -> Response:
    asked, raw = await call.body(_NEW)
    names = call.services.registry.names
    if asked.graph is not None and asked.graph not in names:
        raise InvalidRequest(("/graph", f"there is no graph {asked.graph[:128]!r}; GET /v1/graphs lists them"))
    wanted = check_id(asked.thread_id, "/thread_id") if asked.thread_id is not None else call.services.clock.uuid7()
    there = asked.thread_id is not None and await _exists(call, ThreadRef(call.caller.tenant, ThreadId(wanted)))
    mine = _Made(wanted, 200 if there else 201)
    kept = await call.reserve(raw, msgspec.json.encode(mine))
    if kept is not None:
        mine = msgspec.json.decode(kept, type=_Made)
    ref = ThreadRef(call.caller.tenant, ThreadId(mine.thread_id))
    made = await call.services.store.create_thread(ref, asked.metadata, asked.graph)
    if made.metadata != asked.metadata or (asked.graph is not None and made.graph != asked.graph):
        raise Conflict(
            "thread_exists",
            f"thread {ref.thread_id!r} is there already with other metadata or another graph; "
            "choose a new id, or delete that thread first",
        )
    headers = {"Location": f"{PATH}/{mine.thread_id}", **(REPLAYED if kept is not None else {})}
    return answer(_view(made), mine.status, headers)


async def list_all(call: Call) -> Response:
    query = call.query("limit", "cursor")
    threads, cursor = await call.services.store.list_threads(
        call.caller.tenant, limit=limit_of(query), cursor=cursor_of(query)
    )
    return answer(ThreadPage([_view(thread) for thread in threads], cursor))


async def get(call: Call) -> Response:
    return answer(_view(await call.services.store.thread(call.thread)))


async def delete(call: Call) -> Response:
    thread = call.thread
    await call.services.store.delete_thread(thread)
    # Where the saver keeps its checkpoints beside the store's own keys this is what removes them.
    await call.services.savers(thread.tenant).adelete_thread(thread.thread_id)
    return Response(status_code=204)


async def get_state(call: Call) -> Response:
    return answer(await state.state(call.services, call.thread, None))


async def get_checkpoint(call: Call) -> Response:
    thread, checkpoint_id = call.thread, call.id("checkpoint_id")
    await call.services.store.thread(thread)
    return answer(await state.state(call.services, thread, checkpoint_id))


async def update(call: Call) -> Response:
    """Corrects the state. A retry under the same key finds the first correction by the mark in its checkpoint."""
    asked, raw = await call.body(_UPDATE)
    thread = call.thread
    if asked.checkpoint_id is not None:
        check_id(asked.checkpoint_id, "/checkpoint_id")
    key = idempotency_key(call.headers)
    mark = {MARK: key} if key is not None else {}
    if await call.reserve(raw, b"{}") is not None:
        done = await state.marked(call.services, thread, mark)
        if done is not None:
            return answer(CheckpointRef(thread.thread_id, done), headers=REPLAYED)
    made = await state.correct(call.services, thread, asked.values, asked.as_node, asked.checkpoint_id, mark)
    return answer(CheckpointRef(thread.thread_id, made))


async def history(call: Call) -> Response:
    query = call.query("limit", "before")
    thread = call.thread
    await call.services.store.thread(thread)
    before = query.get("before")
    if before is not None and not UUID_PATTERN.match(before):
        raise InvalidRequest(("/before", "this is not a checkpoint's id; send what `next_before` said"))
    found, more = await state.history(call.services, thread, limit_of(query), before)
    return answer(CheckpointPage(found, more))


async def fork(call: Call) -> Response:
    """Copies the state; the new thread starts with no tasks and no events of its own."""
    asked, raw = await call.body(_FORK)
    source = call.thread
    if asked.checkpoint_id is not None:
        check_id(asked.checkpoint_id, "/checkpoint_id")
    wanted = check_id(asked.thread_id, "/thread_id") if asked.thread_id is not None else call.services.clock.uuid7()
    origin = await call.services.store.thread(source)
    at = await state.point(call.services, source, asked.checkpoint_id)
    kept = await call.reserve(raw, msgspec.json.encode(_Made(wanted)))
    thread_id = wanted if kept is None else msgspec.json.decode(kept, type=_Made).thread_id
    target = ThreadRef(call.caller.tenant, ThreadId(thread_id))
    if kept is None and await _exists(call, target):
        raise Conflict("thread_exists", f"thread {target.thread_id!r} is there already; a fork needs a new id")
    metadata = {"forked_from": source.thread_id, "forked_at": at}
    await call.services.store.create_thread(target, metadata, origin.graph)
    if at is not None:
        await state.copy(call.services, source, target, asked.checkpoint_id)
    headers = {"Location": f"{PATH}/{thread_id}", **(REPLAYED if kept is not None else {})}
    return answer(CheckpointRef(thread_id, at), 201, headers)


async def _exists(call: Call, thread: ThreadRef) -> bool:
    try:
        await call.services.store.thread(thread)
    except NotFound:
        return False
    return True


def _view(thread: Thread) -> ThreadView:
    return ThreadView(
        thread.thread_id,
        thread.created_ms,
        thread.updated_ms,
        thread.epoch,
        thread.last_seq,
        thread.graph,
        thread.owner,
        thread.waiting,
        dict(thread.metadata),
        thread.checkpoint_id,
        thread.last_task,
    )
