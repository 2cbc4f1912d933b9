"""What `POST /v1/tasks` takes, refuses and promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable
from perdure.gateway.body import depth
from perdure.gateway.settings import GatewaySettings
from perdure.graph.plain import DEPTH_MAX
from perdure.lifecycle.ids import Tenant
from perdure.lifecycle.task import Interrupt, TaskSpec
from perdure.store.base import Created
from perdure.store.memory import MemoryStore

from .conftest import JSON, House, Open

pytestmark = pytest.mark.anyio


async def test_accepted_task_is_stored_rung_for_and_located(house: House) -> None:
    answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": {"n": 1}, "thread_id": "session_992"})
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == body["links"]["self"] == f"/v1/tasks/{body['task_id']}"
    assert (body["thread_id"], body["status"], body["tier"], body["stored"]) == (
        "session_992",
        "queued",
        "cpu",
        "memory",
    )
    assert "broker" not in body
    assert await house.broker.depth("cpu") == 1
    shown = (await house.http.get(answer.headers["location"])).json()
    assert shown["input"] == {"n": 1}


async def test_tier_is_the_requests_then_the_deployments_then_the_graphs_then_cpu(opened: Open) -> None:
    async with opened(graph_tiers={"echo": "light"}) as house:
        assert (await house.submit(tier="mine"))["tier"] == "mine"
        assert (await house.submit())["tier"] == "light"
        assert (await house.submit(graph="train"))["tier"] == "gpu"
        assert (await house.submit(graph="broken"))["tier"] == "cpu"


REFUSED = [
    pytest.param(b"{not json", 400, "", id="not JSON"),
    pytest.param(b"", 400, "", id="empty"),
    pytest.param(b"[1]", 400, "", id="not an object"),
    pytest.param(b'{"graph":"echo","input":NaN}', 400, "/input", id="NaN"),
    pytest.param(b'{"graph":"echo","input":"\xff"}', 400, "", id="not UTF-8"),
    pytest.param(b'{"graph":"echo","input":"\\ud800"}', 400, "", id="half a surrogate pair"),
    pytest.param(b'{"graph":1,"input":1}', 400, "/graph", id="wrong type"),
    pytest.param(b'{"input":1}', 400, "/graph", id="missing field"),
    pytest.param(b'{"graph":"echo","input":1,"grpah":2}', 400, "/grpah", id="unknown field"),
    pytest.param(b'{"graph":"echo"}', 400, "/input", id="no input"),
    pytest.param(b'{"graph":"echo","input":1,"command":{"goto":"x"}}', 400, "/command", id="input and command"),
    pytest.param(b'{"graph":"echo","command":{"jump":"x"}}', 400, "/command/jump", id="unknown field of command"),
    pytest.param(
        b'{"graph":"echo","input":1,"config":{"recursion_limit":"x"}}', 400, "/config/recursion_limit", id="nested"
    ),
    pytest.param(b'{"graph":"echo","input":1,"interrupt_before":[1]}', 400, "/interrupt_before/0", id="in a list"),
    pytest.param(b'{"graph":"echo","input":1,"context":[]}', 400, "/context", id="context no object"),
    pytest.param(b'{"graph":"echo","input":1,"priority":"recovery"}', 400, "/priority", id="reserved priority"),
    pytest.param(b'{"graph":"echo","input":1,"multitask":"fight"}', 400, "/multitask", id="no such multitask"),
    pytest.param(b'{"graph":"echo","input":1,"max_attempts":0}', 400, "/max_attempts", id="no attempts"),
    pytest.param(b'{"graph":"echo","input":1,"deadline_s":-1}', 400, "/deadline_s", id="deadline past"),
    pytest.param(b'{"graph":"echo","input":1,"after_s":1e300}', 400, "/after_s", id="after the end of days"),
    pytest.param(b'{"graph":"echo","input":1,"webhook":"http://x"}', 400, "/webhook", id="webhook"),
    pytest.param(b'{"graph":"echo","input":1,"thread_id":"a}b"}', 400, "/thread_id", id="odd id"),
    pytest.param(b'{"graph":"echo","input":1,"thread_id":"a\\n"}', 400, "/thread_id", id="id with newline"),
    pytest.param(b'{"graph":"echo","input":1,"thread_id":"../../etc"}', 400, "/thread_id", id="path-like id"),
    pytest.param(b'{"graph":"echo","input":1,"thread_id":"%s"}' % (b"x" * 129), 400, "/thread_id", id="long id"),
    pytest.param(b'{"graph":"echo","input":1,"thread_id":""}', 400, "/thread_id", id="empty id"),
    pytest.param(b'{"graph":"echo","input":1,"tier":"a/b"}', 400, "/tier", id="odd tier"),
    pytest.param(
        b'{"graph":"echo","input":1,"checkpoint_id":"c"}', 400, "/checkpoint_id", id="checkpoint of no thread"
    ),
    pytest.param(
        b'{"graph":"echo","thread_id":"t","checkpoint_id":"c"}',
        400,
        "/checkpoint_id",
        id="checkpoint that is not there",
    ),
    pytest.param(b'{"graph":"echo","input":{"a/b":[0,1e999]}}', 400, "/input/a~1b/1", id="number out of range"),
    pytest.param(b'{"graph":"echo","input":-1%s}' % (b"0" * 400), 400, "/input", id="400 digits"),
    pytest.param(b'{"graph":"echo","input":18446744073709551616}', 400, "/input", id="more than 64 bits"),
    pytest.param(b'{"graph":"echo","input":1,"metadata":{"n":-9223372036854775809}}', 400, "/metadata/n", id="below"),
    pytest.param(b'{"graph":"echo","input":1,"a/b~c":2}', 400, "/a~1b~0c", id="field with signs of a pointer"),
    pytest.param(
        b'{"graph":"echo","input":1,"config":{"max_concurrency":0}}', 400, "/config/max_concurrency", id="no work"
    ),
    pytest.param(b'{"graph":"echo","command":null}', 400, "/input", id="neither input nor command"),
    pytest.param(b'{"graph":"nope","input":1}', 404, None, id="unknown graph"),
]


@pytest.mark.parametrize(("body", "status", "pointer"), REFUSED)
async def test_bad_input_is_refused_with_the_fields_name_and_nothing_is_stored(
    house: House, body: bytes, status: int, pointer: str | None
) -> None:
    answer = await house.http.post("/v1/tasks", content=body, headers=JSON)
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"].startswith("https://perdure.dev/problems/")
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer
        assert problem["errors"][0]["detail"]
    assert (await house.http.get("/v1/tasks")).json()["tasks"] == []


@pytest.mark.parametrize("opener", [b"[", b'{"a":'])
async def test_deep_json_is_refused_without_being_parsed(house: House, opener: bytes) -> None:
    closer = b"]" if opener == b"[" else b"}"
    deep = opener * 100_000 + b"1" + closer * 100_000
    answer = await house.http.post("/v1/tasks", content=b'{"graph":"echo","input":' + deep + b"}", headers=JSON)
    assert answer.status_code == 400
    assert "200 levels" in answer.json()["detail"]


async def test_many_brackets_that_are_not_deep_are_taken(house: House) -> None:
    await house.submit(input={"rows": [[["]}[{" * 3]]] * 300})


@pytest.mark.parametrize(
    "number", [b"18446744073709551615", b"-9223372036854775808", b"1e300", b"1e-999", b"0.12345678901234567890123"]
)
async def test_numbers_that_can_be_kept_are_taken_and_so_are_digits_in_text(house: House, number: bytes) -> None:
    body = b'{"graph":"echo","input":{"n":%s,"text":"NaN 1e999 99999999999999999999999"}}' % number
    answer = await house.http.post("/v1/tasks", content=body, headers=JSON)
    assert answer.status_code == 202, answer.text


def test_events_and_results_may_be_as_deep_as_what_is_taken() -> None:
    assert GatewaySettings().depth_max < DEPTH_MAX


async def test_null_is_as_good_as_absent(house: House) -> None:
    accepted = await house.submit(config=None, context=None, command=None)
    assert (await house.http.get(accepted["links"]["self"])).json()["input"] == {"n": 1}


def test_depth_does_not_count_brackets_in_strings() -> None:
    assert depth(rb'{"a":["\"[[[[","\\",[1]]}') == 3


async def test_body_must_say_that_it_is_json(house: House) -> None:
    answer = await house.http.post(
        "/v1/tasks", content=b'{"graph":"echo","input":1}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 415
    taken = await house.http.post(
        "/v1/tasks", content=b'{"graph":"echo","input":1}', headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert taken.status_code == 202


async def test_large_body_is_refused_by_its_announced_length(opened: Open) -> None:
    async with opened(body_max=1000) as house:
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": "x" * 2000})
        assert answer.status_code == 413


async def test_large_body_without_a_length_is_refused_while_it_comes_and_never_read_whole(opened: Open) -> None:
    """The body has no end; only a gateway that stops reading can answer."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"graph":"echo","input":"'
        while sent < 64 * 1024 * 1024:
            sent += 65_536
            yield b"x" * 65_536

    async with opened(body_max=100_000) as house:
        # The server answers and cuts the line while the client still writes, who may see either first.
        with contextlib.suppress(httpx.NetworkError):
            answer = await house.http.post("/v1/tasks", content=endless(), headers=JSON)
            assert answer.status_code == 413
        assert sent < 64 * 1024 * 1024
        assert (await house.http.get("/v1/tasks")).json()["tasks"] == []


async def test_fifty_equal_posts_with_one_key_make_one_task(house: House) -> None:
    async def post(quoted: bool) -> Any:
        key = '"k-1"' if quoted else "k-1"
        return await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Idempotency-Key": key})

    answers = await asyncio.gather(*(post(bool(n % 2)) for n in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len((await house.http.get("/v1/tasks")).json()["tasks"]) == 1


async def test_one_key_with_another_body_is_422(house: House) -> None:
    headers = {"Idempotency-Key": "k"}
    await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers=headers)
    answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 2}, headers=headers)
    assert answer.status_code == 422
    bad = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Idempotency-Key": "a b"})
    assert bad.status_code == 400


async def test_reservation_whose_maker_died_before_storing_is_finished_by_the_retry(house: House) -> None:
    """A gateway that dies between the reservation and the task leaves ids that the next try fills."""
    body = {"graph": "echo", "input": 1}
    original = house.store.create

    async def dies(spec: TaskSpec) -> Created:
        raise StoreUnavailable("cut off")

    house.store.create = dies  # type: ignore[method-assign]
    first = await house.http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "k"})
    house.store.create = original  # type: ignore[method-assign]
    second = await house.http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "k"})
    assert (first.status_code, second.status_code) == (503, 202)
    assert (await house.http.get(second.json()["links"]["self"])).status_code == 200


class AwayStore(MemoryStore):
    """A store whose server stopped: reserving or creating fails."""

    async def create(self, spec: TaskSpec) -> Created:
        raise StoreUnavailable("connect to 10.0.0.5:6379 with password hunter2 failed")


async def test_store_away_is_503_with_retry_after_and_tells_no_secret(opened: Open) -> None:
    async with opened(store=AwayStore(SystemClock())) as house:
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "hunter2" not in answer.text
        assert (await house.http.get("/v1/tasks")).json()["tasks"] == []


class HangingStore(MemoryStore):
    """A store whose answers do not come, though the task may be stored; or whose reservations do not."""

    deaf = ""

    async def create(self, spec: TaskSpec) -> Created:
        created = await super().create(spec)
        if self.deaf == "create":
            await asyncio.Event().wait()
        return created

    async def reserve(self, tenant: Tenant, key: str, fingerprint: str, answer: bytes) -> bytes | None:
        if self.deaf == "reserve":
            await asyncio.Event().wait()
        return await super().reserve(tenant, key, fingerprint, answer)


@pytest.mark.parametrize("deaf", ["create", "reserve"])
async def test_store_that_hangs_is_503_in_time_and_the_same_key_makes_the_retry_safe(opened: Open, deaf: str) -> None:
    store = HangingStore(SystemClock())
    async with opened(store=store, accept_timeout_s=0.05) as house:
        body, key = {"graph": "echo", "input": 1}, {"Idempotency-Key": "k"}
        store.deaf = deaf
        first = await house.http.post("/v1/tasks", json=body, headers=key)
        assert (first.status_code, first.headers["retry-after"]) == (503, "1")
        assert first.json()["type"].endswith("/acceptance-unknown")
        assert "Idempotency-Key" in first.json()["detail"]
        store.deaf = ""
        again = await house.http.post("/v1/tasks", json=body, headers=key)
        tasks = (await house.http.get("/v1/tasks")).json()["tasks"]
        assert [task["task_id"] for task in tasks] == [again.json()["task_id"]]


async def test_broker_away_is_still_202_and_says_so(house: House) -> None:
    house.broker.away = True
    answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1})
    assert answer.status_code == 202
    assert answer.json()["broker"] == "degraded"


async def test_busy_thread_under_reject_is_409_with_its_reason(house: House) -> None:
    await house.submit(thread_id="t")
    answer = await house.http.post(
        "/v1/tasks", json={"graph": "echo", "input": 1, "thread_id": "t", "multitask": "reject"}
    )
    assert answer.status_code == 409
    assert answer.json()["reason"] == "thread_busy"


async def test_displaced_holder_is_told_to_stop(house: House) -> None:
    await house.claim(await house.submit(thread_id="t"))
    async with house.store.orders("w-test") as orders:  # type: ignore[arg-type]
        displaced = (await house.http.get("/v1/tasks")).json()["tasks"][0]["task_id"]
        await house.submit(thread_id="t", multitask="interrupt")
        assert await anext(orders) == displaced


async def test_deadline_and_delay_become_points_in_time(house: House) -> None:
    accepted = await house.submit(deadline_s=60, after_s=30)
    shown = (await house.http.get(accepted["links"]["self"])).json()
    assert shown["not_before_ms"] - shown["created_ms"] == 30_000
    assert shown["deadline_ms"] - shown["created_ms"] == 60_000
    assert await house.broker.depth("cpu") == 0


async def test_prefer_wait_answers_with_the_finished_task(house: House) -> None:
    async def work() -> None:
        while not (tasks := (await house.http.get("/v1/tasks")).json()["tasks"]):
            pass
        lease = await house.claim(tasks[0])
        await house.store.succeed(lease, b'{"n":12}')

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Prefer": "wait=20"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["result"] == {"n": 12}
    assert answer.headers["content-location"].endswith(answer.json()["task_id"])


async def test_prefer_wait_gives_the_202_when_the_time_is_over_and_is_clamped(opened: Open) -> None:
    async with opened(wait_max_s=0.05) as house:
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Prefer": "wait=9999"})
        assert answer.status_code == 202
        shown = await house.http.get(answer.headers["location"], headers={"Prefer": "respond-async, wait=5"})
        assert shown.json()["status"] == "queued"


async def test_wait_longer_than_the_bound_is_clamped_whatever_its_digits(opened: Open) -> None:
    async with opened(wait_max_s=0.05) as house:
        for digits in ("1234567", "9" * 400):
            answer = await house.http.post(
                "/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Prefer": f"wait={digits}"}
            )
            assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")


async def test_prefer_wait_answers_at_once_when_the_task_asks_back(house: House) -> None:
    async def ask() -> None:
        while not (tasks := (await house.http.get("/v1/tasks")).json()["tasks"]):
            pass
        await house.store.pause(await house.claim(tasks[0]), [Interrupt("q1", None)], "c1")

    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        group.create_task(ask())
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["status"]) == (202, "interrupted")


async def test_waiters_are_bounded(opened: Open) -> None:
    async with opened(waiters_max=0) as house:
        answer = await house.http.post("/v1/tasks", json={"graph": "echo", "input": 1}, headers={"Prefer": "wait=20"})
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
