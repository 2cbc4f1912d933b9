"""Event streams: replay and follow at every cut, filters, heartbeats, gaps, ends, slow readers, shutdown."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import msgspec
import orjson
import pytest

from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable
from perdure.gateway.hub import EventHub
from perdure.lifecycle.doorbell import TaskRef, ThreadRef
from perdure.lifecycle.events import NewEvent
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, WorkerId
from perdure.lifecycle.lease import Lease
from perdure.lifecycle.task import Interrupt, TaskError, TaskSpec
from perdure.store.base import EventPage
from perdure.store.memory import MemoryStore

from .conftest import House, Open

pytestmark = pytest.mark.anyio


async def frames(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """Each frame's fields; a comment under the name `comment`."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line:
            if fields:
                yield fields
            fields = {}
            continue
        name, _, value = line.partition(":")
        fields[name or "comment"] = value.strip()


async def read_all(house: House, path: str, **headers: str) -> list[dict[str, str]]:
    async with house.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        return [frame async for frame in frames(answer)]


def seqs(found: Sequence[dict[str, str]]) -> list[int]:
    return [int(frame["id"].split(":")[1]) for frame in found if "data" in frame and "id" in frame]


async def ended_task(house: House, count: int, **fields: Any) -> dict[str, Any]:
    """A succeeded task with `count` events between `running` and its end."""
    accepted = await house.submit(**fields)
    lease = await house.claim(accepted)
    await house.say(lease, *map(str, range(count)))
    await house.store.succeed(lease, b"{}")
    return accepted


async def test_stream_of_a_finished_task_is_whole_numbered_and_ends(house: House) -> None:
    accepted = await ended_task(house, 5)
    async with house.http.stream("GET", accepted["links"]["events"]) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        found = [frame async for frame in frames(answer)]
    assert found[0] == {"retry": "1000"}
    assert seqs(found) == list(range(1, 9))
    data = orjson.loads(found[3]["data"])
    assert (data["event_id"], data["seq"], data["method"]) == (found[3]["id"], 3, found[3]["event"])
    assert found[-1]["event"] == "end"
    assert orjson.loads(found[-1]["data"]) == {"task_id": accepted["task_id"], "status": "succeeded"}


async def test_stream_resumes_at_every_cut_without_loss_or_doubling(house: House) -> None:
    accepted = await ended_task(house, 20)
    whole = await read_all(house, accepted["links"]["events"])
    for cut in range(1, 23):
        rest = await read_all(house, accepted["links"]["events"], **{"Last-Event-ID": whole[cut]["id"]})
        assert rest[1:] == whole[cut + 1 :]
    over = await house.http.get(accepted["links"]["events"], headers={"Last-Event-ID": whole[23]["id"]})
    assert over.status_code == 204


async def test_reader_that_reconnects_at_random_while_the_worker_speaks_gets_each_event_once(house: House) -> None:
    """Seeded: cuts of 1 to 40 events against bursts of 1 to 30, so that cuts fall into replay, live, and the seam."""
    chance = random.Random(7)
    accepted = await house.submit()
    lease = await house.claim(accepted)

    async def speak() -> None:
        said = 0
        while said < 200:
            burst = min(chance.randint(1, 30), 200 - said)
            await house.say(lease, *(str(n) for n in range(said, said + burst)))
            said += burst
            for _ in range(chance.randint(0, 30)):
                await asyncio.sleep(0)
        await house.store.succeed(lease, b"{}")

    async def follow() -> list[int]:
        got: list[int] = []
        headers: dict[str, str] = {}
        while True:
            left = chance.randint(1, 40)
            async with house.http.stream("GET", accepted["links"]["events"], headers=headers) as answer:
                if answer.status_code == 204:
                    return got
                async for frame in frames(answer):
                    if frame.get("event") == "end":
                        return got
                    if "data" in frame:
                        got += seqs([frame])
                        headers["Last-Event-ID"] = frame["id"]
                        left -= 1
                        if left == 0:
                            break

    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(follow()) for _ in range(4)]
        group.create_task(speak())
    for follower in followers:
        assert follower.result() == list(range(1, 204))


@pytest.mark.parametrize("since", ["0", "-1"])
async def test_since_wins_over_last_event_id(house: House, since: str) -> None:
    accepted = await ended_task(house, 2)
    found = await read_all(house, f"{accepted['links']['events']}?since={since}", **{"Last-Event-ID": "4"})
    assert seqs(found) == [1, 2, 3, 4, 5]
    assert seqs(await read_all(house, f"{accepted['links']['events']}?since=3", **{"Last-Event-ID": "1"})) == [4, 5]


@pytest.mark.parametrize("since", ["x", "1:2:3", "a b:1", "9" * 30, "-2"])
async def test_odd_cursor_is_refused(house: House, since: str) -> None:
    accepted = await house.submit()
    answer = await house.http.get(accepted["links"]["events"], params={"since": since})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/since")


async def test_first_event_is_there_before_a_worker_is(house: House) -> None:
    accepted = await house.submit()
    async with house.http.stream("GET", accepted["links"]["events"]) as answer:
        found = frames(answer)
        assert (await anext(found)) == {"retry": "1000"}
        assert orjson.loads((await anext(found))["data"])["params"]["data"]["status"] == "queued"


async def test_filters_select_by_tag_channel_and_namespace(house: House) -> None:
    accepted = await house.submit()
    lease = await house.claim(accepted)
    await house.say(lease, "a", tag="THOUGHT", namespace=("reflect:1",))
    await house.say(lease, "b", tag="CRITIC_EVAL", namespace=("reflect:1", "critic:2"))
    await house.say(lease, "c", tag="ANSWER")
    await house.say(lease, "d", tag="THOUGHT", namespace=("reflector:1",))
    await house.store.succeed(lease, b"{}")

    async def texts(query: str) -> list[str]:
        found = await read_all(house, f"{accepted['links']['events']}?{query}")
        assert found[-1]["event"] == "end"
        data = [orjson.loads(frame["data"]) for frame in found if "id" in frame]
        return [event["params"]["data"].get("text", event["method"]) for event in data]

    assert await texts("tags=THOUGHT,answer") == ["a", "c", "d"]
    assert await texts("tags=THOUGHT&tags=CRITIC_EVAL&namespaces=reflect") == ["a", "b"]
    assert await texts("namespaces=reflect/critic") == ["b"]
    assert await texts("channels=lifecycle") == ["lifecycle"] * 3
    assert await texts("tags=NOBODY") == []
    odd = await house.http.get(accepted["links"]["events"], params={"channels": "tv"})
    assert (odd.status_code, odd.json()["errors"][0]["pointer"]) == (400, "/channels")


async def test_task_on_a_shared_thread_shows_only_its_own_events(house: House) -> None:
    first = await ended_task(house, 3, thread_id="t")
    second = await ended_task(house, 3, thread_id="t")
    assert seqs(await read_all(house, first["links"]["events"])) == [1, 2, 3, 4, 5, 6]
    found = await read_all(house, second["links"]["events"])
    assert seqs(found) == [7, 8, 9, 10, 11, 12]


async def test_heartbeat_under_a_filter_carries_the_newest_id(opened: Open) -> None:
    async with opened(heartbeat_s=0.02) as house:
        accepted = await house.submit()
        lease = await house.claim(accepted)
        async with house.http.stream("GET", accepted["links"]["events"] + "?tags=ANSWER") as answer:
            found = frames(answer)
            await anext(found)
            assert (await anext(found))["id"].endswith(":2")
            await house.say(lease, "x", tag="THOUGHT")
            while not (frame := await anext(found))["id"].endswith(":3"):
                assert frame["comment"] == "hb"
            assert "data" not in frame


async def test_heartbeat_of_a_text_stream_is_a_lone_newline(opened: Open) -> None:
    """Else a proxy would take a quiet stream for a dead one."""
    async with opened(heartbeat_s=0.02) as house:
        accepted = await house.submit()
        async with house.http.stream("GET", accepted["links"]["events"], headers={"Accept": "text/plain"}) as answer:
            lines = answer.aiter_lines()
            assert "#1" in await anext(lines)
            assert await anext(lines) == ""


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/event-stream"),
        ("application/json;q=0.1, text/event-stream", "text/event-stream"),
        ("text/event-stream;q=0.5, application/json", "application/json"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("text/plain;q=0, */*", "text/event-stream"),
        ("application/*", "application/json"),
        ("TEXT/PLAIN; charset=utf-8, */*;q=0.1", "text/plain"),
        ("image/png", "text/event-stream"),
    ],
)
async def test_form_of_the_events_is_the_one_that_the_client_weighs_most(house: House, accept: str, kind: str) -> None:
    accepted = await ended_task(house, 1)
    answer = await house.http.get(accepted["links"]["events"], headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind


async def test_interrupted_task_stays_open_and_goes_on(house: House) -> None:
    accepted = await house.submit()
    lease = await house.claim(accepted)
    async with house.http.stream("GET", accepted["links"]["events"] + "?channels=lifecycle") as answer:
        found = frames(answer)

        async def status() -> str:
            while True:
                frame = await anext(found)
                if "data" in frame:
                    told: str = orjson.loads(frame["data"])["params"]["data"]["status"]
                    return told

        await house.store.pause(lease, [Interrupt("q", 1)], "c")
        assert [await status() for _ in range(3)] == ["queued", "running", "interrupted"]
        await house.http.post(accepted["links"]["self"] + "/resume", json={"value": 1})
        await house.store.succeed(await house.claim(accepted), b"{}")
        assert [await status() for _ in range(3)] == ["queued", "running", "succeeded"]
        assert (await anext(found))["event"] == "end"


async def test_requeued_task_does_not_end_at_its_first_end(house: House) -> None:
    accepted = await house.submit()
    await house.store.fail(await house.claim(accepted), TaskError("E", "no"), "graph_error")
    await house.http.post(accepted["links"]["self"] + "/requeue")
    await house.store.succeed(await house.claim(accepted), b"{}")
    found = await read_all(house, accepted["links"]["events"])
    assert seqs(found) == [1, 2, 3, 4, 5, 6]
    assert [frame.get("event") for frame in found].count("end") == 1


async def test_thread_stream_starts_at_the_tail_and_stays_open_over_tasks(house: House) -> None:
    await ended_task(house, 1, thread_id="t")
    async with house.http.stream("GET", "/v1/threads/t/events") as answer:
        found = frames(answer)
        await anext(found)
        await ended_task(house, 1, thread_id="t")
        await ended_task(house, 1, thread_id="t")
        assert [seqs([await anext(found)])[0] for _ in range(8)] == list(range(5, 13))


async def test_deleted_thread_ends_its_stream(opened: Open) -> None:
    async with opened(heartbeat_s=0.02) as house:
        await ended_task(house, 1, thread_id="t")
        async with house.http.stream("GET", "/v1/threads/t/events") as answer:
            found = frames(answer)
            await anext(found)
            await house.http.delete("/v1/threads/t")
            hub = house.gateway.services.hub
            for reader in hub._readers.values():
                for subscription in reader.subscriptions:
                    subscription.restart()
            assert all("data" not in frame for frame in [frame async for frame in found])


class TrimmedStore(MemoryStore):
    """A store whose threads forgot all events up to `trimmed`, and whose epoch can be changed."""

    trimmed = 0
    epoch: str | None = None

    async def events(self, thread: ThreadRef, after_seq: int, limit: int = 500) -> EventPage:
        page = await super().events(thread, max(after_seq, self.trimmed), limit)
        events = page.events
        if self.epoch is not None:
            events = [msgspec.structs.replace(event, epoch=self.epoch) for event in events]
        return EventPage(self.epoch or page.epoch, max(page.first_seq, self.trimmed + 1), page.last_seq, events)


async def test_trimmed_cursor_gets_a_gap_the_state_and_what_is_kept(opened: Open) -> None:
    store = TrimmedStore(SystemClock())
    async with opened(store=store) as house:
        accepted = await ended_task(house, 10)
        await house.saver.aput(
            {"configurable": {"thread_id": accepted["thread_id"], "checkpoint_ns": ""}},
            {**_CHECKPOINT, "channel_values": {"n": 3}, "channel_versions": {"n": "1"}},  # type: ignore[typeddict-item]
            {},
            {"n": "1"},
        )
        store.trimmed = 6
        found = await read_all(house, accepted["links"]["events"], **{"Last-Event-ID": "2"})
        assert [frame.get("event") for frame in found[1:3]] == ["gap", "values"]
        gap, values = (orjson.loads(frame["data"])["params"] for frame in found[1:3])
        assert (gap["data"]["requested"].split(":")[1], gap["data"]["first_available"]) == ("2", 7)
        assert gap["namespace"] == values["namespace"] == []
        assert gap["timestamp"] == values["timestamp"] > 0
        assert values["data"] == {"n": 3}
        assert seqs(found[3:]) == list(range(7, 14))
        assert found[-1]["event"] == "end"


async def test_cursor_of_another_epoch_gets_a_gap_also_past_the_end(opened: Open) -> None:
    store = TrimmedStore(SystemClock())
    async with opened(store=store) as house:
        accepted = await ended_task(house, 2)
        store.epoch = "new1"
        for cursor in ("old0:2", "old0:5", "old0:400", "400"):
            found = await read_all(house, accepted["links"]["events"], **{"Last-Event-ID": cursor})
            assert found[1]["event"] == "gap", cursor
            assert seqs(found[2:]) == [1, 2, 3, 4, 5]


_CHECKPOINT = {
    "v": 4,
    "id": "1f0c0000-0000-6000-8000-000000000000",
    "ts": "2026-01-01T00:00:00+00:00",
    "versions_seen": {},
    "updated_channels": None,
}


async def test_page_of_events_goes_on_where_it_says(house: House) -> None:
    accepted = await ended_task(house, 10)
    seen: list[int] = []
    since = "0"
    for _ in range(10):
        page = await house.http.get(
            accepted["links"]["events"], params={"since": since, "limit": "4"}, headers={"Accept": "application/json"}
        )
        body = page.json()
        seen += [event["seq"] for event in body["events"]]
        since = body["next_since"]
        if not body["events"]:
            break
    assert seen == list(range(1, 14))
    assert (body["first_seq"], body["last_seq"]) == (1, 13)


async def test_text_form_is_for_people(house: House) -> None:
    accepted = await house.submit()
    lease = await house.claim(accepted)
    await house.say(lease, "looks\nright", tag="CRITIC_EVAL", namespace=("reflect:1",))
    await house.store.succeed(lease, b"{}")
    answer = await house.http.get(accepted["links"]["events"], headers={"Accept": "text/plain"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "[CRITIC_EVAL] reflect/one step=1 #3 looks right\n" in answer.text
    assert answer.text.endswith("[END] succeeded\n")


async def test_slow_reader_is_replayed_from_the_store_and_misses_nothing() -> None:
    """The buffer holds less than is said while the reader looks away."""
    store = MemoryStore(SystemClock())
    async with asyncio.timeout(20):
        hub, thread = EventHub(store, buffer_max=2_000), ThreadRef(DEFAULT_TENANT, ThreadId("t"))
        lease = await _running(store, "t")
        async with hub.subscribe(thread, 0) as slow, hub.subscribe(thread, 0) as quick:
            got_slow, got_quick = [], []
            for said in range(40):
                await _say(store, lease, 10)
                while len(got_quick) < 2 + (said + 1) * 10:
                    chunk = await quick.next(5)
                    got_quick += [event.seq for event in chunk.events]  # type: ignore[union-attr]
                if said == 0:
                    while len(got_slow) < 12:
                        got_slow += [event.seq for event in (await slow.next(5)).events]  # type: ignore[union-attr]
                    # Looking once more finds nothing, and makes it a live one.
                    assert await slow.next(0.01) is None
            while len(got_slow) < 402:
                got_slow += [event.seq for event in (await slow.next(5)).events]  # type: ignore[union-attr]
            assert slow.overflows == 1
            assert quick.overflows == 0
        assert got_slow == got_quick == list(range(1, 403))
        await hub.aclose()
        assert hub.threads == 0


async def test_connections_of_one_thread_share_one_reader(house: House) -> None:
    accepted = await house.submit()
    hub = house.gateway.services.hub
    async with (
        house.http.stream("GET", accepted["links"]["events"]) as one,
        house.http.stream("GET", accepted["links"]["events"]) as two,
    ):
        first, second = frames(one), frames(two)
        await anext(first), await anext(second), await anext(first), await anext(second)
        assert hub.threads == 1
        assert house.gateway.services.metrics.streams.value() == 2
    async with asyncio.timeout(5):
        while hub.threads:
            await house.http.get("/livez")


async def test_reader_that_stands_still_is_cut_off_and_delays_nobody(opened: Open) -> None:
    """A socket that is never read: once the kernel's buffers are full, writing to it stalls."""
    async with opened(stall_s=0.1) as house:
        accepted = await house.submit()
        lease = await house.claim(accepted)
        host, port = house.url.removeprefix("http://").split(":")
        still = socket.create_connection((host, int(port)))
        still.sendall(f"GET {accepted['links']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        big = "x" * 100_000
        async with house.http.stream("GET", accepted["links"]["events"]) as answer:
            found = frames(answer)
            for n in range(200):
                await house.say(lease, big)
                while seqs([await anext(found)]) != [3 + n]:
                    pass
        metrics = house.gateway.services.metrics
        async with asyncio.timeout(10):
            while metrics.stalled.value() < 1:
                await house.http.get("/livez")
        assert metrics.streams.value() <= 1
        still.close()


async def test_leaving_client_frees_its_stream_at_once(house: House) -> None:
    accepted = await house.submit()
    async with house.http.stream("GET", accepted["links"]["events"]) as answer:
        await anext(frames(answer))
    async with asyncio.timeout(5):
        while house.gateway.services.metrics.streams.value():
            await house.http.get("/livez")


async def test_server_that_stops_closes_its_streams_promptly(opened: Open) -> None:
    async with asyncio.timeout(5), opened() as house:
        accepted = await house.submit()
        async with house.http.stream("GET", accepted["links"]["events"]) as answer:
            found = frames(answer)
            await anext(found)
            house.gateway.drain()
            rest = [frame async for frame in found]
            assert "end" not in [frame.get("event") for frame in rest]
        after = await house.http.get(accepted["links"]["events"])
        assert (after.status_code, after.headers["retry-after"]) == (503, "1")


class FlakyStore(MemoryStore):
    """A store that is away while `away` is set."""

    away = False

    async def events(self, thread: ThreadRef, after_seq: int, limit: int = 500) -> EventPage:
        if self.away:
            raise StoreUnavailable("away")
        return await super().events(thread, after_seq, limit)


async def test_open_stream_outlives_an_absence_of_the_store(opened: Open) -> None:
    store = FlakyStore(SystemClock())
    async with opened(store=store, heartbeat_s=0.02) as house:
        accepted = await house.submit()
        lease = await house.claim(accepted)
        async with house.http.stream("GET", accepted["links"]["events"]) as answer:
            found = frames(answer)
            got: list[int] = []
            while len(got) < 2:
                got += seqs([await anext(found)])
            store.away = True
            await house.say(lease, "a")
            assert "comment" in await anext(found)
            store.away = False
            await house.store.succeed(lease, b"{}")
            got += seqs([frame async for frame in found])
        assert got == [1, 2, 3, 4]


async def _running(store: MemoryStore, thread_id: str) -> Lease:
    ref = TaskRef(DEFAULT_TENANT, ThreadId(thread_id), TaskId("task"))
    await store.create(TaskSpec(ref.task_id, ref.thread_id, "echo", "cpu", 0))
    claim = await store.claim(ref, WorkerId("w"), 60_000)
    assert claim is not None
    return claim.lease


async def _say(store: MemoryStore, lease: Lease, count: int) -> None:
    await store.append(lease, [NewEvent("custom", "ANSWER", "", b'"method":"custom"}' + b" " * 20)] * count)
