"""The routes besides acceptance: tasks, threads, artifacts, graphs, workers, health, and the document about them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from perdure.lifecycle.ids import WorkerId
from perdure.lifecycle.task import Interrupt, TaskError
from perdure.store.base import WorkerInfo

from .conftest import JSON, House, Open, counting_graph

pytestmark = pytest.mark.anyio


async def test_cancel_before_during_and_after(house: House) -> None:
    queued = await house.submit()
    assert (await house.http.post(queued["links"]["cancel"])).json()["status"] == "cancelled"
    running = await house.submit()
    await house.claim(running)
    async with house.store.orders(WorkerId("w-test")) as orders:
        assert (await house.http.post(running["links"]["cancel"])).json()["status"] == "cancelled"
        assert await anext(orders) == running["task_id"]
    done = await house.submit()
    await house.store.succeed(await house.claim(done), b"1")
    answer = await house.http.post(done["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_cancel_rings_for_the_next_task_of_the_thread(house: House) -> None:
    first = await house.submit(thread_id="t")
    await house.submit(thread_id="t", tier="gpu")
    assert await house.broker.depth("gpu") == 0
    await house.http.post(first["links"]["cancel"])
    assert await house.broker.depth("gpu") == 1


async def paused(house: House, *ids: str, graph: str = "echo") -> dict[str, Any]:
    accepted = await house.submit(graph=graph)
    lease = await house.claim(accepted)
    await house.store.pause(lease, [Interrupt(name, {"ask": name}) for name in ids], "c1")
    return accepted


async def test_resume_twice_at_once_one_wins(house: House) -> None:
    accepted = await paused(house, "q1")
    path = accepted["links"]["self"] + "/resume"
    answers = await asyncio.gather(*(house.http.post(path, json={"value": n}) for n in range(2)))
    assert sorted(answer.status_code for answer in answers) == [202, 409]


async def test_bare_value_with_two_questions_is_409_that_lists_them(house: House) -> None:
    accepted = await paused(house, "q1", "q2")
    path = accepted["links"]["self"] + "/resume"
    answer = await house.http.post(path, json={"value": 1})
    assert (answer.status_code, answer.json()["reason"]) == (409, "ambiguous")
    assert "q1" in answer.json()["detail"]
    both = [{"interrupt_id": "q1", "value": 1}, {"interrupt_id": "q2", "value": None}]
    assert (await house.http.post(path, json={"responses": both})).json()["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/value"),
        ({"value": 1, "responses": []}, "/value"),
        ({"responses": []}, "/responses"),
        ({"value": 1, "goto": "three"}, "/goto"),
        ({"value": 1, "goto": ["one", "__start__"]}, "/goto/1"),
        ({"value": 1, "update": [1]}, "/update"),
        ({"value": 1, "update": {"n": 1, "m/": 2}}, "/update/m~1"),
        ({"responses": [{"interrupt_id": "nope", "value": 1}]}, "/responses"),
        ({"responses": [{"interrupt_id": "q1"}]}, "/responses/0/value"),
        (
            {"responses": [{"interrupt_id": "q1", "value": 1}, {"interrupt_id": "q1", "value": 2}]},
            "/responses/1/interrupt_id",
        ),
    ],
)
async def test_resume_names_what_is_wrong(house: House, body: dict[str, Any], pointer: str) -> None:
    accepted = await paused(house, "q1")
    answer = await house.http.post(accepted["links"]["self"] + "/resume", json=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_update_and_goto_that_the_graph_knows_are_taken(house: House) -> None:
    accepted = await paused(house, "q1")
    body = {"value": 1, "update": {"n": 5}, "goto": "two"}
    assert (await house.http.post(accepted["links"]["self"] + "/resume", json=body)).status_code == 202


async def test_graph_that_does_not_load_here_leaves_the_check_to_its_worker(house: House) -> None:
    accepted = await paused(house, "q1", graph="broken")
    body = {"value": 1, "update": {"n": 5}, "goto": "anywhere"}
    assert (await house.http.post(accepted["links"]["self"] + "/resume", json=body)).status_code == 202


async def test_answered_questions_are_hidden_and_may_be_answered_again_only_alike(house: House) -> None:
    accepted = await paused(house, "q1", "q2", "q3")
    path = accepted["links"]["self"]

    async def answer(interrupt_id: str, value: Any) -> int:
        body = {"responses": [{"interrupt_id": interrupt_id, "value": value}]}
        return (await house.http.post(path + "/resume", json=body)).status_code

    assert await answer("q1", {"b": 1, "a": 2}) == 202
    assert [question["id"] for question in (await house.http.get(path)).json()["interrupts"]] == ["q2", "q3"]
    ambiguous = (await house.http.post(path + "/resume", json={"value": 1})).json()["detail"]
    assert ("q1" in ambiguous, "q2" in ambiguous) == (False, True)
    assert await answer("q1", {"a": 2, "b": 1}) == 202
    assert await answer("q1", {"a": 2, "b": True}) == 400
    both = [{"interrupt_id": "q1", "value": {"b": 1, "a": 2}}, {"interrupt_id": "q2", "value": 2}]
    assert (await house.http.post(path + "/resume", json={"responses": both})).status_code == 202
    assert [question["id"] for question in (await house.http.get(path)).json()["interrupts"]] == ["q3"]
    assert await answer("q3", None) == 202
    assert (await house.http.get(path)).json()["status"] == "queued"


async def test_repeated_answer_under_one_key_does_not_answer_a_later_question(house: House) -> None:
    accepted = await paused(house, "q1")
    path, key = accepted["links"]["self"] + "/resume", {"Idempotency-Key": "a"}
    assert (await house.http.post(path, json={"value": "yes"}, headers=key)).status_code == 202
    await house.store.pause(await house.claim(accepted), [Interrupt("q2", None)], "c2")
    again = await house.http.post(path, json={"value": "yes"}, headers=key)
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["status"] == "interrupted"


async def test_requeue_revives_a_failed_task_once_for_each_key(house: House) -> None:
    accepted = await house.submit()
    await house.store.fail(await house.claim(accepted), TaskError("ValueError", "no"), "graph_error")
    path, key = accepted["links"]["self"] + "/requeue", {"Idempotency-Key": "r"}
    assert (await house.http.post(path, headers=key)).json()["status"] == "queued"
    await house.store.succeed(await house.claim(accepted), b"1")
    again = await house.http.post(path, headers=key)
    assert (again.status_code, again.json()["status"]) == (202, "succeeded")
    assert (await house.http.post(path)).status_code == 409


async def test_delete_forgets_a_finished_task_and_keeps_a_live_one(house: House) -> None:
    accepted = await house.submit()
    path = accepted["links"]["self"]
    assert (await house.http.delete(path)).status_code == 409
    await house.http.post(path + "/cancel")
    assert (await house.http.delete(path)).status_code == 204
    assert (await house.http.get(path)).status_code == 404


async def test_list_filters_and_pages(house: House) -> None:
    made = [(await house.submit(metadata={"user": str(n % 2)}))["task_id"] for n in range(5)]
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = (await house.http.get("/v1/tasks", params=query)).json()
        seen += [task["task_id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == made[::-1]
    mine = (await house.http.get("/v1/tasks", params={"metadata.user": "1", "status": "queued"})).json()["tasks"]
    assert [task["task_id"] for task in mine] == [made[3], made[1]]
    assert "input" not in mine[0]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"status": "asleep"}, "/status"),
        ({"limit": "0"}, "/limit"),
        ({"limit": "x"}, "/limit"),
        ({"state": "queued"}, "/state"),
        ({"cursor": "a b"}, "/cursor"),
        ({"cursor": "zz"}, "/cursor"),
        ({"a/b": "1"}, "/a~1b"),
        ({"thread_id": "../x"}, "/thread_id"),
    ],
)
async def test_list_names_the_query_parameter_that_is_wrong(house: House, query: dict[str, str], pointer: str) -> None:
    answer = await house.http.get("/v1/tasks", params=query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("path", "status"), [("a%7Db", 400), ("x" * 200, 400), ("..%2f..%2fetc", 404), ("a%00b", 400), ("nobody", 404)]
)
async def test_odd_ids_in_paths_are_refused(house: House, path: str, status: int) -> None:
    assert (await house.http.get(f"/v1/tasks/{path}")).status_code == status


async def test_artifacts_are_downloads_in_a_sandbox(house: House) -> None:
    accepted = await house.submit()
    lease = await house.claim(accepted)
    await house.store.put_artifact(lease, "chart.png", "image/png", b"one", 1)
    await house.store.put_artifact(lease, "chart.png", "text/html\r\nX-Evil: 1", b"two", 2)
    path = accepted["links"]["self"] + "/artifacts"
    listed = (await house.http.get(path)).json()["artifacts"]
    assert [(made["name"], made["step"]) for made in listed] == [("chart.png", 1), ("chart.png", 2)]
    first = await house.http.get(listed[0]["href"])
    assert (first.content, first.headers["content-type"]) == (b"one", "image/png")
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in first.headers["content-security-policy"]
    newest = await house.http.get(f"{path}/chart.png")
    assert (newest.content, newest.headers["content-type"]) == (b"two", "application/octet-stream")
    assert (await house.http.get(f"{path}/none")).status_code == 404


async def test_thread_is_made_shown_listed_and_deleted(house: House) -> None:
    made = await house.http.post("/v1/threads", json={"thread_id": "t1", "metadata": {"a": 1}, "graph": "echo"})
    assert (made.status_code, made.headers["location"]) == (201, "/v1/threads/t1")
    assert (await house.http.get("/v1/threads/t1")).json()["metadata"] == {"a": 1}
    assert [thread["thread_id"] for thread in (await house.http.get("/v1/threads")).json()["threads"]] == ["t1"]
    assert (await house.http.delete("/v1/threads/t1")).status_code == 204
    for path in ("/v1/threads/t1", "/v1/threads/t1/state", "/v1/threads/t1/events", "/v1/threads/t1/checkpoints"):
        assert (await house.http.get(path)).status_code == 404
    assert (await house.http.post("/v1/threads", json={"graph": "nope"})).status_code == 400


async def with_state(house: House) -> str:
    await house.http.post("/v1/threads", json={"thread_id": "t", "graph": "echo"})
    graph = counting_graph().copy(update={"checkpointer": house.saver})
    await graph.ainvoke({"n": 0}, {"configurable": {"thread_id": "t"}})
    return "/v1/threads/t"


async def test_thread_that_is_there_is_shown_if_it_is_the_same_and_else_refused(house: House) -> None:
    same = {"thread_id": "t1", "metadata": {"a": 1}, "graph": "echo"}
    key = {"Idempotency-Key": "k"}
    assert (await house.http.post("/v1/threads", json=same, headers=key)).status_code == 201
    assert (await house.http.post("/v1/threads", json=same)).status_code == 200
    assert (await house.http.post("/v1/threads", json=same, headers=key)).status_code == 201
    for other in ({"metadata": {"a": 2}}, {"graph": "train"}):
        answer = await house.http.post("/v1/threads", json={**same, **other})
        assert (answer.status_code, answer.json()["reason"]) == (409, "thread_exists")
    assert (await house.http.get("/v1/threads/t1")).json()["metadata"] == {"a": 1}


async def test_correction_at_an_unknown_checkpoint_is_404_and_leaves_the_state(house: House) -> None:
    path = await with_state(house)
    body = {"values": {"n": 1}, "as_node": "one", "checkpoint_id": "1efd0000-0000-6000-8000-000000000000"}
    assert (await house.http.post(path + "/state", json=body)).status_code == 404
    assert (await house.http.get(path + "/state")).json()["values"] == {"n": 11}


@pytest.mark.parametrize(
    ("path", "query", "pointer"),
    [("/v1/threads", {"cursor": "zz"}, "/cursor"), ("/v1/threads/t/checkpoints", {"before": "zz"}, "/before")],
)
async def test_bad_cursors_are_refused(house: House, path: str, query: dict[str, str], pointer: str) -> None:
    await with_state(house)
    answer = await house.http.get(path, params=query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_state_history_and_time_travel(house: House) -> None:
    path = await with_state(house)
    state = (await house.http.get(path + "/state")).json()
    assert (state["values"], state["next"]) == ({"n": 11}, [])
    first = (await house.http.get(path + "/checkpoints", params={"limit": "2"})).json()
    rest = (await house.http.get(path + "/checkpoints", params={"before": first["next_before"]})).json()
    steps = [point["step"] for point in (*first["checkpoints"], *rest["checkpoints"])]
    assert steps == [2, 1, 0, -1]
    assert rest["next_before"] is None
    middle = first["checkpoints"][1]["checkpoint_id"]
    earlier = (await house.http.get(f"{path}/checkpoints/{middle}")).json()
    assert (earlier["values"], earlier["next"]) == ({"n": 1}, ["two"])
    assert (await house.http.get(f"{path}/checkpoints/none")).status_code == 404


async def test_state_is_corrected_once_for_each_key_and_never_under_a_live_task(house: House) -> None:
    path, key = await with_state(house), {"Idempotency-Key": "s"}
    fix = {"values": {"n": 100}, "as_node": "one"}
    first = await house.http.post(path + "/state", json=fix, headers=key)
    again = await house.http.post(path + "/state", json=fix, headers=key)
    assert first.json() == again.json()
    assert (await house.http.get(path + "/state")).json()["values"] == {"n": 100}
    odd = await house.http.post(path + "/state", json={"values": {"n": 1}, "as_node": "three"})
    assert odd.json()["errors"][0]["pointer"] == "/as_node"
    assert (await house.http.post(path + "/state", json={"values": 7, "as_node": "one"})).status_code == 400
    await house.submit(thread_id="t")
    assert (await house.http.post(path + "/state", json=fix)).status_code == 409


async def test_fork_copies_the_state_at_a_checkpoint(house: House) -> None:
    path = await with_state(house)
    points = (await house.http.get(path + "/checkpoints")).json()["checkpoints"]
    at = points[1]["checkpoint_id"]
    made = await house.http.post(path + "/fork", json={"checkpoint_id": at, "thread_id": "t2"})
    assert (made.status_code, made.json()["checkpoint_id"]) == (201, at)
    state = (await house.http.get("/v1/threads/t2/state")).json()
    assert (state["values"], state["next"]) == ({"n": 1}, ["two"])
    whole = await house.http.post(path + "/fork", json={})
    assert (await house.http.get(f"/v1/threads/{whole.json()['thread_id']}/state")).json()["values"] == {"n": 11}
    assert (await house.http.post(path + "/fork", json={"thread_id": "t2"})).status_code == 409
    assert (await house.http.post(path + "/fork", json={"checkpoint_id": "none"})).status_code == 404


async def test_graphs_are_shown_and_a_broken_one_says_why(house: House) -> None:
    assert (await house.http.get("/v1/graphs")).json()["graphs"] == ["broken", "echo", "train"]
    shown = (await house.http.get("/v1/graphs/train")).json()
    assert (shown["tier"], "one" in shown["graph"]["nodes"]) == ("gpu", True)
    assert "ZeroDivisionError" in (await house.http.get("/v1/graphs/broken")).json()["error"]
    assert (await house.http.get("/v1/graphs/none")).status_code == 404


def worker(pid: int, host: str | None = None) -> WorkerInfo:
    return WorkerInfo(
        WorkerId("w-1"),
        host or socket.gethostname(),
        pid,
        "cpu",
        1,
        False,
        "ready",
        ["t"],
        ["echo"],
        0,  # type: ignore[list-item]
    )


async def test_worker_is_killed_only_where_chaos_is_allowed(opened: Open) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        async with opened() as house:
            await house.store.heartbeat(worker(child.pid), 60_000)
            assert (await house.http.get("/v1/workers")).json()["workers"][0]["pid"] == child.pid
            assert (await house.http.post("/v1/workers/w-1/kill")).status_code == 404
        async with opened(chaos=True) as house:
            await house.store.heartbeat(worker(child.pid, "elsewhere"), 60_000)
            assert (await house.http.post("/v1/workers/w-1/kill")).status_code == 409
            await house.store.heartbeat(worker(os.getpid()), 60_000)
            assert (await house.http.post("/v1/workers/w-1/kill")).status_code == 409
            await house.store.heartbeat(worker(child.pid), 60_000)
            assert (await house.http.post("/v1/workers/w-1/kill")).json()["held"] == ["t"]
            assert await child.wait() == -signal.SIGKILL
            assert (await house.http.post("/v1/workers/none/kill")).status_code == 404
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_health_and_metrics(house: House) -> None:
    await house.submit()
    for path in ("/livez", "/healthz", "/readyz"):
        assert (await house.http.get(path)).json()["status"] == "ok"
    text = (await house.http.get("/metrics")).text
    assert 'perdure_tasks_accepted_total{graph="echo"} 1' in text
    assert 'perdure_tasks_live{tier="cpu",status="queued"} 1' in text
    assert 'perdure_accept_seconds_bucket{le="+Inf"} 1' in text
    house.gateway.drain()
    assert (await house.http.get("/readyz")).status_code == 503
    assert (await house.http.get("/livez")).status_code == 200


async def test_unknown_paths_and_methods_are_problems(house: House) -> None:
    missing = await house.http.get("/v1/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    wrong = await house.http.put("/v1/tasks/x/cancel")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["detail"] == "PUT is not possible here; use POST"
    assert wrong.headers["content-type"] == "application/problem+json"


async def test_what_nobody_foresaw_is_500_without_its_inside(house: House) -> None:
    async def bug(*_: object, **__: object) -> None:
        raise RuntimeError("the password is hunter2")

    house.store.list_threads = bug  # type: ignore[assignment, method-assign]
    answer = await house.http.get("/v1/threads")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text


async def test_every_operation_of_the_document_is_reachable_and_every_reference_resolves(house: House) -> None:
    document = (await house.http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in schemas
    ids = [what["operationId"] for methods in document["paths"].values() for what in methods.values()]
    assert len(ids) == len(set(ids))
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            assert set(re.findall(r"{(\w+)}", path)) == {
                parameter["name"] for parameter in what.get("parameters", []) if parameter["in"] == "path"
            }
            answer = await house.http.request(
                method, re.sub(r"{\w+}", "nobody", path), content=b"{}" if method == "post" else None, headers=JSON
            )
            assert answer.status_code != 405, path
            if answer.status_code == 404:
                assert "no route" not in answer.json()["detail"], path


async def test_document_tells_the_headers_the_forms_of_a_stream_and_that_a_limit_is_a_number(house: House) -> None:
    paths = (await house.http.get("/openapi.json")).json()["paths"]

    def parameters(path: str, method: str) -> dict[str, Any]:
        return {parameter["name"]: parameter["schema"] for parameter in paths[path][method]["parameters"]}

    assert set(parameters("/v1/tasks", "post")) == {"Prefer", "Idempotency-Key"}
    assert "Prefer" in parameters("/v1/tasks/{task_id}", "get")
    for path in ("/v1/tasks/{task_id}/events", "/v1/threads/{thread_id}/events"):
        assert "Last-Event-ID" in parameters(path, "get")
        assert parameters(path, "get")["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000}
        content = paths[path]["get"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream", "text/plain"}
        assert content["text/event-stream"]["schema"]["type"] == "string"
    assert parameters("/v1/tasks", "get")["limit"]["maximum"] == 100
    for path, method, status in (
        ("/v1/tasks", "post", "200"),
        ("/v1/threads", "post", "200"),
        ("/v1/tasks/{task_id}/events", "get", "204"),
    ):
        assert status in paths[path][method]["responses"]


async def test_docs_page_needs_no_download(house: House) -> None:
    page = await house.http.get("/docs")
    assert "/v1/tasks/{task_id}/resume" in page.text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
