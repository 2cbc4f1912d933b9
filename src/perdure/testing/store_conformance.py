"""What every task store must do. Subclass `StoreConformance` and give it a `store` fixture (tests run under AnyIO).

The suite never sleeps: where time must pass it waits until the store itself says that it has.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import orjson
import pytest

from perdure.errors import Conflict, IdempotencyMismatch, InvalidRequest, LeaseLost, NotFound
from perdure.lifecycle.doorbell import Doorbell
from perdure.lifecycle.events import Event
from perdure.lifecycle.ids import DEFAULT_TENANT, TaskId, ThreadId, WorkerId
from perdure.lifecycle.task import Interrupt, Multitask, Priority, TaskError, TaskSpec
from perdure.lifecycle.transitions import Status
from perdure.store.base import Claim, TaskStore, WorkerInfo
from perdure.testing.samples import TENANT_A, make_event, make_spec, ref_of

A, B = WorkerId("worker-a"), WorkerId("worker-b")
TTL_MS = 60_000


async def claimed(store: TaskStore, spec: TaskSpec, worker: WorkerId = A, ttl_ms: int = TTL_MS) -> Claim:
    claim = await store.claim(ref_of(spec), worker, ttl_ms)
    assert claim is not None
    return claim


async def running(store: TaskStore, **fields: object) -> Claim:
    spec = make_spec(**fields)
    await store.create(spec)
    return await claimed(store, spec)


async def rescued(store: TaskStore, spec: TaskSpec) -> Doorbell | None:
    """Wait until the rescuer's look at a thread is due, then look."""
    async with asyncio.timeout(20):
        while True:
            for due in await store.due(1000):
                if due.thread == ref_of(spec).thread:
                    return await store.rescue(due)
            await asyncio.sleep(0.02)  # the store's own clock runs; there is nothing that could tell us


@pytest.mark.anyio
class StoreConformance:
    """Every test's first sentence says what a backend must do."""

    async def test_a_created_task_is_queued_with_its_first_event(self, store: TaskStore) -> None:
        spec = make_spec(metadata={"team": "blue"})
        created = await store.create(spec)
        assert not created.replayed
        assert created.doorbell == Doorbell(ref_of(spec), "cpu", Priority.NORMAL)
        task = await store.get(ref_of(spec))
        assert task == created.task
        assert (task.status, task.attempt, task.spec) == (Status.QUEUED, 0, spec)
        page = await store.events(ref_of(spec).thread, 0)
        assert [event.seq for event in page.events] == [1]
        assert page.events[0].decoded()["params"]["data"]["status"] == "queued"

    async def test_creating_the_same_id_twice_stores_one_task(self, store: TaskStore) -> None:
        spec = make_spec()
        first, second = await asyncio.gather(store.create(spec), store.create(spec))
        assert sorted([first.replayed, second.replayed]) == [False, True]
        assert first.task == second.task
        assert (await store.events(ref_of(spec).thread, 0)).last_seq == 1

    async def test_only_one_of_many_claims_wins(self, store: TaskStore) -> None:
        spec = make_spec()
        await store.create(spec)
        workers = [WorkerId(f"w{n}") for n in range(20)]
        claims = await asyncio.gather(*(store.claim(ref_of(spec), worker, TTL_MS) for worker in workers))
        won = [claim for claim in claims if claim is not None]
        assert len(won) == 1
        assert won[0].task.status is Status.RUNNING
        assert won[0].task.attempt == 1
        assert won[0].lost_worker is None

    async def test_a_task_behind_another_of_its_thread_cannot_be_claimed(self, store: TaskStore) -> None:
        first = make_spec()
        second = make_spec(thread_id=first.thread_id)
        await store.create(first)
        created = await store.create(second)
        assert created.doorbell is None
        assert await store.claim(ref_of(second), A, TTL_MS) is None
        claim = await claimed(store, first)
        assert await store.claim(ref_of(second), B, TTL_MS) is None
        ended = await store.succeed(claim.lease, b'{"ok":true}')
        assert ended.doorbell == Doorbell(ref_of(second), "cpu", Priority.NORMAL)
        assert (await claimed(store, second)).task.task_id == second.task_id

    async def test_success_keeps_the_result_and_ends_the_stream(self, store: TaskStore) -> None:
        claim = await running(store)
        await store.append(claim.lease, [make_event(claim.task.task_id, "one")])
        ended = await store.succeed(claim.lease, b'{"answer":42}', [make_event(claim.task.task_id, "two")])
        assert ended.changed
        assert ended.task.status is Status.SUCCEEDED
        assert bytes(ended.task.result or b"") == b'{"answer":42}'
        assert ended.task.finished_ms
        page = await store.events(ref_of(claim.task.spec).thread, 0)
        told = [event.decoded()["params"]["data"] for event in page.events]
        assert [data.get("status") or data["text"] for data in told] == ["queued", "running", "one", "two", "succeeded"]
        assert [event.seq for event in page.events] == [1, 2, 3, 4, 5]

    async def test_failure_keeps_the_error(self, store: TaskStore) -> None:
        claim = await running(store)
        error = TaskError("ValueError", 'bad "quotes" \\ and\nlines', node="plan")
        ended = await store.fail(claim.lease, error, "graph_error")
        assert ended.task.error == error
        assert ended.task.status is Status.FAILED
        last = (await store.events(ref_of(claim.task.spec).thread, 0)).events[-1].decoded()["params"]
        assert last["data"]["error"] == 'ValueError: bad "quotes" \\ and\nlines'
        assert last["data"]["reason"] == "graph_error"
        assert last["tag"] == "ERROR"

    async def test_no_write_of_a_superseded_holder_is_accepted(self, store: TaskStore) -> None:
        claim = await running(store)
        old = claim.lease
        assert await store.abandon(ref_of(claim.task.spec).thread, A) is not None
        new = await claimed(store, claim.task.spec, B)
        before = await store.events(ref_of(claim.task.spec).thread, 0)
        event = make_event(old.task_id)
        for write in (
            store.append(old, [event]),
            store.succeed(old, b"{}"),
            store.fail(old, TaskError("E", "m"), "graph_error"),
            store.pause(old, [Interrupt("i")], "c"),
            store.give_back(old, "drain"),
            store.put_artifact(old, "a.txt", "text/plain", b"x", 1),
        ):
            with pytest.raises(LeaseLost):
                await write
        assert await store.renew([old, new.lease]) == [False, True]
        after = await store.events(ref_of(claim.task.spec).thread, 0)
        assert after == before
        assert await store.artifacts(ref_of(claim.task.spec)) == []
        assert (await store.get(ref_of(claim.task.spec))).worker == B

    async def test_an_abandoned_task_is_queued_again_and_says_who_was_lost(self, store: TaskStore) -> None:
        claim = await running(store)
        await store.append(claim.lease, [make_event(claim.task.task_id, "half a thought")])
        bell = await store.abandon(ref_of(claim.task.spec).thread, A)
        assert bell == Doorbell(ref_of(claim.task.spec), "cpu", Priority.RECOVERY)
        again = await claimed(store, claim.task.spec, B)
        assert (again.task.attempt, again.task.losses, again.lost_worker) == (2, 1, A)
        assert again.superseded is not None
        page = await store.events(ref_of(claim.task.spec).thread, again.superseded[0] - 1)
        assert any(event.decoded()["params"]["data"].get("text") == "half a thought" for event in page.events)
        assert again.lease.token > claim.lease.token

    async def test_abandoning_for_a_worker_that_holds_nothing_does_nothing(self, store: TaskStore) -> None:
        claim = await running(store)
        assert await store.abandon(ref_of(claim.task.spec).thread, B) is None
        assert await store.renew([claim.lease]) == [True]

    async def test_a_task_that_loses_all_its_workers_is_dead(self, store: TaskStore) -> None:
        spec = make_spec(max_attempts=2)
        await store.create(spec)
        await claimed(store, spec, A)
        assert await store.abandon(ref_of(spec).thread, A) is not None
        await claimed(store, spec, B)
        assert await store.abandon(ref_of(spec).thread, B) is None
        task = await store.get(ref_of(spec))
        assert (task.status, task.losses, task.reason) == (Status.DEAD, 2, "worker_lost")
        assert task.error is not None
        assert "worker-b" in task.error.message

    async def test_a_loss_among_others_is_a_suspicion_and_costs_no_attempt(self, store: TaskStore) -> None:
        spec = make_spec(max_attempts=2)
        await store.create(spec)
        for suspicions in (1, 2, 3):
            await claimed(store, spec, A)
            bell = await store.abandon(ref_of(spec).thread, A, charge=False)
            assert bell == Doorbell(ref_of(spec), "cpu", Priority.RECOVERY)
            task = await store.get(ref_of(spec))
            assert (task.losses, task.suspicions) == (0, suspicions)
        assert (await claimed(store, spec, B)).lost_worker == A

    async def test_a_task_that_may_run_only_once_is_charged_whatever_ran_beside_it(self, store: TaskStore) -> None:
        spec = make_spec(max_attempts=1)
        await store.create(spec)
        await claimed(store, spec, A)
        assert await store.abandon(ref_of(spec).thread, A, charge=False) is None
        assert (await store.get(ref_of(spec))).status is Status.DEAD

    async def test_giving_back_in_the_middle_of_a_step_tells_what_is_superseded(self, store: TaskStore) -> None:
        claim = await running(store)
        last = await store.append(claim.lease, [make_event(claim.task.task_id, "half a thought")])
        await store.give_back(claim.lease, "drain", cut=True)
        again = await claimed(store, claim.task.spec, B)
        assert (again.lost_worker, again.task.losses) == (A, 0)
        assert again.superseded is not None
        assert again.superseded[0] <= last <= again.superseded[1]

    async def test_a_long_queue_is_displaced_whole(self, store: TaskStore) -> None:
        first = make_spec()
        specs = [first, *(make_spec(thread_id=first.thread_id) for _ in range(4_500))]
        for start in range(0, len(specs), 500):
            await asyncio.gather(*(store.create(spec) for spec in specs[start : start + 500]))
        newest = make_spec(thread_id=first.thread_id, multitask=Multitask.INTERRUPT)
        created = await store.create(newest)
        assert len(created.displaced) == len(specs)
        record = await store.thread(ref_of(first).thread)
        assert (record.owner, list(record.waiting)) == (newest.task_id, [])

    async def test_posts_to_a_thread_do_not_put_off_the_rescue_of_its_owner(self, store: TaskStore) -> None:
        spec = make_spec()
        await store.create(spec)
        await claimed(store, spec, A, ttl_ms=500)
        for _ in range(3):
            await store.create(make_spec(thread_id=spec.thread_id))
        async with asyncio.timeout(4):
            while await rescued(store, spec) is None:
                pass
        assert (await store.get(ref_of(spec))).status is Status.QUEUED

    async def test_an_expired_lease_is_taken_away_by_the_rescuer(self, store: TaskStore) -> None:
        spec = make_spec()
        await store.create(spec)
        await claimed(store, spec, A, ttl_ms=50)
        bell = None
        async with asyncio.timeout(20):
            while bell is None:
                bell = await rescued(store, spec)
        assert bell == Doorbell(ref_of(spec), "cpu", Priority.RECOVERY)
        assert (await store.get(ref_of(spec))).status is Status.QUEUED

    async def test_the_rescuer_leaves_a_held_lease_alone(self, store: TaskStore) -> None:
        claim = await running(store)
        for due in await store.due(1000):
            assert await store.rescue(due) is None or due.thread != ref_of(claim.task.spec).thread
        assert await store.renew([claim.lease]) == [True]

    async def test_a_task_that_nobody_took_is_rung_for_again(self, store: TaskStore) -> None:
        spec = make_spec()
        await store.create(spec)
        bell = await rescued(store, spec)
        assert bell is not None
        assert bell.ref == ref_of(spec)

    async def test_a_passed_deadline_ends_any_live_task(self, store: TaskStore) -> None:
        for prepare in ("queued", "running", "interrupted"):
            spec = make_spec(deadline_ms=1)
            await store.create(spec)
            if prepare != "queued":
                claim = await claimed(store, spec)
                if prepare == "interrupted":
                    await store.pause(claim.lease, [Interrupt("i")], "c")
            async with asyncio.timeout(20):
                while (await store.get(ref_of(spec))).status is not Status.FAILED:
                    await rescued(store, spec)
            assert (await store.get(ref_of(spec))).reason == "deadline"

    async def test_a_task_is_not_claimed_before_its_time(self, store: TaskStore) -> None:
        spec = make_spec(not_before_ms=4_000_000_000_000)
        created = await store.create(spec)
        assert created.doorbell is None
        assert await store.claim(ref_of(spec), A, TTL_MS) is None

    async def test_cancel_ends_a_task_in_every_live_state_and_frees_its_thread(self, store: TaskStore) -> None:
        for prepare in ("queued", "running", "interrupted"):
            spec = make_spec()
            behind = make_spec(thread_id=spec.thread_id)
            await store.create(spec)
            await store.create(behind)
            claim = await claimed(store, spec) if prepare != "queued" else None
            if claim and prepare == "interrupted":
                await store.pause(claim.lease, [Interrupt("i")], "c")
            ended = await store.cancel(ref_of(spec))
            assert (ended.changed, ended.task.status, ended.task.reason) == (True, Status.CANCELLED, "requested")
            assert ended.worker == (A if prepare == "running" else None)
            assert ended.doorbell is not None
            assert ended.doorbell.ref == ref_of(behind)
            if claim:
                assert await store.renew([claim.lease]) == [False]

    async def test_cancelling_a_waiting_task_leaves_the_owner_alone(self, store: TaskStore) -> None:
        first = make_spec()
        second = make_spec(thread_id=first.thread_id)
        await store.create(first)
        await store.create(second)
        claim = await claimed(store, first)
        assert (await store.cancel(ref_of(second))).task.status is Status.CANCELLED
        assert await store.renew([claim.lease]) == [True]
        assert (await store.succeed(claim.lease, b"{}")).doorbell is None

    async def test_cancelling_an_ended_task_changes_nothing(self, store: TaskStore) -> None:
        claim = await running(store)
        await store.succeed(claim.lease, b"{}")
        before = await store.get(ref_of(claim.task.spec))
        ended = await store.cancel(ref_of(claim.task.spec))
        assert not ended.changed
        assert await store.get(ref_of(claim.task.spec)) == before

    async def test_multitask_reject_refuses_a_busy_thread(self, store: TaskStore) -> None:
        claim = await running(store)
        with pytest.raises(Conflict) as caught:
            await store.create(make_spec(thread_id=claim.task.thread_id, multitask=Multitask.REJECT))
        assert caught.value.reason == "thread_busy"
        await store.succeed(claim.lease, b"{}")
        await store.create(make_spec(thread_id=claim.task.thread_id, multitask=Multitask.REJECT))

    @pytest.mark.parametrize("strategy", [Multitask.INTERRUPT, Multitask.ROLLBACK])
    async def test_multitask_displaces_all_live_tasks(self, store: TaskStore, strategy: Multitask) -> None:
        claim = await running(store)
        waiting = make_spec(thread_id=claim.task.thread_id)
        await store.create(waiting)
        newest = make_spec(thread_id=claim.task.thread_id, multitask=strategy)
        created = await store.create(newest)
        assert created.doorbell is not None
        assert {(ref.task_id, worker) for ref, worker in created.displaced} == {
            (claim.task.task_id, A),
            (waiting.task_id, None),
        }
        for spec in (claim.task.spec, waiting):
            task = await store.get(ref_of(spec))
            assert (task.status, task.reason) == (Status.CANCELLED, "superseded")
        with pytest.raises(LeaseLost):
            await store.succeed(claim.lease, b"{}")
        assert (await claimed(store, newest, B)).task.status is Status.RUNNING

    @pytest.mark.parametrize("strategy", list(Multitask))
    async def test_many_posts_at_once_leave_one_owner(self, store: TaskStore, strategy: Multitask) -> None:
        thread = make_spec().thread_id
        specs = [make_spec(thread_id=thread, multitask=strategy) for _ in range(50)]
        results = await asyncio.gather(*(store.create(spec) for spec in specs), return_exceptions=True)
        accepted = [spec for spec, result in zip(specs, results, strict=True) if not isinstance(result, Exception)]
        states = [(await store.get(ref_of(spec))).status for spec in accepted]
        record = await store.thread(ref_of(specs[0]).thread)
        assert record.owner is not None
        match strategy:
            case Multitask.ENQUEUE:
                assert states.count(Status.QUEUED) == 50
                assert len(record.waiting) == 49
            case Multitask.REJECT:
                assert len(accepted) == 1
                assert all(isinstance(result, Conflict) for result in results if isinstance(result, Exception))
            case _:
                assert states.count(Status.QUEUED) == 1
                assert states.count(Status.CANCELLED) == 49

    async def test_an_interrupt_holds_no_worker_and_is_answered_once(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        await store.pause(claim.lease, [Interrupt("q1", {"ask": "go?"})], "cp-1")
        task = await store.get(ref)
        assert (task.status, task.checkpoint_id, [i.id for i in task.interrupts]) == (
            Status.INTERRUPTED,
            "cp-1",
            ["q1"],
        )
        with pytest.raises(LeaseLost):
            await store.append(claim.lease, [make_event(ref.task_id)])
        results = await asyncio.gather(*(store.resume(ref, value=n) for n in range(10)), return_exceptions=True)
        won = [n for n, result in enumerate(results) if isinstance(result, Doorbell)]
        assert len(won) == 1
        assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n not in won)
        again = await claimed(store, claim.task.spec, B)
        assert again.task.answers == {"q1": won[0]}
        assert again.task.attempt == 2
        assert again.lost_worker is None

    async def test_several_interrupts_need_their_ids(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        await store.pause(claim.lease, [Interrupt("q1"), Interrupt("q2")], "cp")
        with pytest.raises(Conflict) as caught:
            await store.resume(ref, value=1)
        assert caught.value.reason == "ambiguous"
        with pytest.raises(InvalidRequest):
            await store.resume(ref, responses={"nope": 1})
        assert await store.resume(ref, responses={"q1": "one"}) is None
        assert (await store.get(ref)).status is Status.INTERRUPTED
        assert await store.resume(ref, value="two") is not None
        assert (await claimed(store, claim.task.spec)).task.answers == {"q1": "one", "q2": "two"}

    async def test_an_answered_breakpoint_is_recorded_as_passed(self, store: TaskStore) -> None:
        claim = await running(store)
        question = Interrupt("bp", {"breakpoint": "pay", "checkpoint_id": "cp-7", "when": "before"}, breakpoint="pay")
        await store.pause(claim.lease, [question], "cp-7")
        await store.resume(ref_of(claim.task.spec), value=None)
        assert (await claimed(store, claim.task.spec)).task.passed == ["cp-7:pay"]

    async def test_resume_carries_update_and_goto(self, store: TaskStore) -> None:
        claim = await running(store)
        await store.pause(claim.lease, [Interrupt("q")], "cp")
        await store.resume(ref_of(claim.task.spec), value=1, update=b'{"x":1}', goto=["b"])
        task = (await claimed(store, claim.task.spec)).task
        assert (bytes(task.update or b""), task.goto) == (b'{"x":1}', ["b"])

    async def test_giving_back_keeps_the_thread_and_counts_no_loss(self, store: TaskStore) -> None:
        claim = await running(store)
        waiting = make_spec(thread_id=claim.task.thread_id)
        await store.create(waiting)
        bell = await store.give_back(claim.lease, "drain")
        assert bell.ref == ref_of(claim.task.spec)
        assert await store.claim(ref_of(waiting), B, TTL_MS) is None
        again = await claimed(store, claim.task.spec, B)
        assert (again.task.attempt, again.task.losses, again.lost_worker) == (2, 0, None)

    async def test_a_hand_over_moves_the_tier_and_keeps_the_attempt(self, store: TaskStore) -> None:
        claim = await running(store)
        bell = await store.give_back(claim.lease, "hand_over", tier="gpu")
        assert bell == Doorbell(ref_of(claim.task.spec), "gpu", Priority.NORMAL)
        again = await claimed(store, claim.task.spec, B)
        assert (again.task.tier, again.task.attempt) == ("gpu", 1)

    async def test_requeue_revives_a_failed_task_while_the_thread_is_its_own(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        await store.fail(claim.lease, TaskError("E", "m"), "graph_error")
        bell = await store.requeue(ref)
        assert bell.ref == ref
        again = await claimed(store, claim.task.spec, B)
        assert (again.task.status, again.task.losses) == (Status.RUNNING, 0)
        await store.fail(again.lease, TaskError("E", "m"), "graph_error")
        other = make_spec(thread_id=ref.thread_id)
        await store.create(other)
        with pytest.raises(Conflict) as caught:
            await store.requeue(ref)
        assert caught.value.reason == "thread_moved_on"

    async def test_verbs_refuse_states_that_the_table_forbids(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        for refused in (store.resume(ref, value=1), store.requeue(ref), store.delete_task(ref)):
            with pytest.raises(Conflict) as caught:
                await refused
            assert caught.value.reason == "status"
        await store.succeed(claim.lease, b"{}")
        with pytest.raises(Conflict):
            await store.resume(ref, value=1)
        with pytest.raises(Conflict):
            await store.requeue(ref)

    async def test_what_is_unknown_is_not_found(self, store: TaskStore) -> None:
        ref = ref_of(make_spec())
        for wanted in (
            store.get(ref),
            store.cancel(ref),
            store.resume(ref, value=1),
            store.requeue(ref),
            store.delete_task(ref),
            store.thread(ref.thread),
            store.delete_thread(ref.thread),
            store.events(ref.thread, 0),
            store.artifacts(ref),
            store.artifact(ref, "x"),
        ):
            with pytest.raises(NotFound):
                await wanted
        assert await store.locate(ref.task_id, DEFAULT_TENANT) is None
        assert await store.claim(ref, A, TTL_MS) is None

    async def test_a_task_is_located_by_its_tenant_alone(self, store: TaskStore) -> None:
        spec = make_spec(tenant=TENANT_A)
        await store.create(spec)
        assert await store.locate(spec.task_id, TENANT_A) == ref_of(spec)
        assert await store.locate(spec.task_id, DEFAULT_TENANT) is None

    async def test_two_tenants_may_use_one_thread_id(self, store: TaskStore) -> None:
        ours, theirs = make_spec(), make_spec(tenant=TENANT_A)
        theirs = msgspec.structs.replace(theirs, thread_id=ours.thread_id)
        await store.create(ours)
        assert (await store.create(theirs)).doorbell is not None
        assert (await store.thread(ref_of(ours).thread)).owner == ours.task_id

    async def test_listing_is_newest_first_filtered_and_paged(self, store: TaskStore) -> None:
        thread = make_spec().thread_id
        specs = [make_spec(thread_id=thread, metadata={"n": n % 2}, tenant=TENANT_A) for n in range(7)]
        for spec in specs:
            await store.create(spec)
        seen: list[TaskId] = []
        cursor = None
        while True:
            page, cursor = await store.list_tasks(TENANT_A, thread_id=thread, limit=3, cursor=cursor)
            assert len(page) <= 3
            seen += [task.task_id for task in page]
            if cursor is None:
                break
        assert seen == sorted((spec.task_id for spec in specs), reverse=True)
        odd, _ = await store.list_tasks(TENANT_A, thread_id=thread, metadata={"n": "1"})
        assert [task.task_id for task in odd] == [spec.task_id for spec in reversed(specs) if spec.metadata["n"] == 1]
        newest, _ = await store.list_tasks(TENANT_A, limit=1)
        assert newest[0].task_id == specs[-1].task_id
        assert await store.list_tasks(TENANT_A, thread_id=thread, status=Status.DEAD) == ([], None)
        assert await store.list_tasks(DEFAULT_TENANT, thread_id=thread) == ([], None)

    async def test_threads_are_listed_and_deleted_with_all_they_hold(self, store: TaskStore) -> None:
        claim = await running(store, tenant=TENANT_A)
        ref = ref_of(claim.task.spec)
        with pytest.raises(Conflict):
            await store.delete_thread(ref.thread)
        await store.succeed(claim.lease, b"{}")
        listed, _ = await store.list_threads(TENANT_A, limit=100)
        assert ref.thread_id in [thread.thread_id for thread in listed]
        await store.delete_thread(ref.thread)
        listed, _ = await store.list_threads(TENANT_A, limit=100)
        assert ref.thread_id not in [thread.thread_id for thread in listed]
        assert await store.locate(ref.task_id, TENANT_A) is None
        with pytest.raises(NotFound):
            await store.events(ref.thread, 0)

    async def test_listing_threads_pages_without_gap_or_double(self, store: TaskStore) -> None:
        specs = [make_spec(tenant=TENANT_A, thread_id=ThreadId(f"page-{n}-{make_spec().task_id}")) for n in range(7)]
        for spec in specs:
            await store.create(spec)
        seen: list[str] = []
        cursor = None
        while True:
            page, cursor = await store.list_threads(TENANT_A, limit=3, cursor=cursor)
            seen += [thread.thread_id for thread in page]
            if cursor is None:
                break
        assert len(seen) == len(set(seen))
        assert {spec.thread_id for spec in specs} <= set(seen)

    async def test_an_empty_thread_can_be_made(self, store: TaskStore) -> None:
        ref = ref_of(make_spec()).thread
        made = await store.create_thread(ref, {"user": "ann"})
        assert (made.owner, made.last_seq, made.metadata) == (None, 0, {"user": "ann"})
        assert await store.create_thread(ref, {"user": "bob"}) == made

    async def test_events_page_in_order_without_gap(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        for batch in range(5):
            events = [make_event(ref.task_id, f"{batch}.{n}") for n in range(10)]
            last = await store.append(claim.lease, events)
            assert last == 2 + (batch + 1) * 10
        seen: list[Event] = []
        after = 0
        while True:
            page = await store.events(ref.thread, after, 7)
            if not page.events:
                break
            seen += page.events
            after = page.events[-1].seq
        assert [event.seq for event in seen] == list(range(1, 53))
        assert page.last_seq == 52
        assert page.first_seq == 1
        texts = [event.decoded()["params"]["data"].get("text") for event in seen[2:]]
        assert texts == [f"{batch}.{n}" for batch in range(5) for n in range(10)]
        assert orjson.loads(seen[2].json())["event_id"] == f"{page.epoch}:3"
        assert seen[2].task_id == ref.task_id

    async def test_events_that_are_sent_again_are_stored_once(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        events = [make_event(ref.task_id, str(n)) for n in range(5)]
        sent = [(events[:2], 1), (events[:2], 1), (events[:4], 1), (events[1:3], 2), (events[4:], 5), (events[4:], 5)]
        assert [await store.append(claim.lease, some, first) for some, first in sent] == [4, 4, 6, 6, 7, 7]
        page = await store.events(ref.thread, 2)
        assert [event.decoded()["params"]["data"]["text"] for event in page.events] == list("01234")
        await store.abandon(ref.thread, A)
        again = await claimed(store, claim.task.spec, B)
        assert await store.append(again.lease, events[:1], 1) == 10

    async def test_a_follower_is_woken_by_every_event(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        seen: list[int] = []
        ready = asyncio.Event()

        async def follow() -> None:
            async with store.follow(ref.thread) as feed:
                async for _ in feed:
                    seen.extend(e.seq for e in (await store.events(ref.thread, seen[-1] if seen else 0)).events)
                    ready.set()
                    if len(seen) >= 32:
                        return

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(follow())
            await ready.wait()
            for n in range(30):
                await store.append(claim.lease, [make_event(ref.task_id, str(n))])
        assert seen == list(range(1, len(seen) + 1))

    async def test_artifacts_are_kept_by_id_and_name(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        first = await store.put_artifact(claim.lease, "chart.png", "image/png", b"\x89PNG\x00\xff", 1)
        second = await store.put_artifact(claim.lease, "chart.png", "image/png", b"second", 2)
        assert first.artifact_id != second.artifact_id
        assert await store.artifacts(ref) == [first, second]
        assert await store.artifact(ref, first.artifact_id) == (first, b"\x89PNG\x00\xff")
        assert await store.artifact(ref, "chart.png") == (second, b"second")
        with pytest.raises(NotFound):
            await store.artifact(ref, "other.png")

    async def test_an_idempotency_key_keeps_its_first_answer(self, store: TaskStore) -> None:
        key = make_spec().task_id
        answers = await asyncio.gather(
            *(store.reserve(DEFAULT_TENANT, key, "same", str(n).encode()) for n in range(50))
        )
        assert answers.count(None) == 1
        kept = {answer for answer in answers if answer is not None}
        assert kept == {str(answers.index(None)).encode()}
        with pytest.raises(IdempotencyMismatch):
            await store.reserve(DEFAULT_TENANT, key, "other", b"x")
        assert await store.reserve(TENANT_A, key, "other", b"x") is None

    async def test_an_ended_task_can_be_forgotten(self, store: TaskStore) -> None:
        claim = await running(store)
        ref = ref_of(claim.task.spec)
        await store.put_artifact(claim.lease, "a", "text/plain", b"x", 0)
        await store.succeed(claim.lease, b"{}")
        await store.delete_task(ref)
        with pytest.raises(NotFound):
            await store.get(ref)
        assert await store.locate(ref.task_id, DEFAULT_TENANT) is None
        assert (await store.events(ref.thread, 0)).last_seq == 3

    async def test_the_fleet_is_told_and_forgotten(self, store: TaskStore) -> None:
        info = WorkerInfo(WorkerId(f"w-{make_spec().task_id}"), "host", 1, "cpu", 2, False, "ready", [], ["echo"], 1)
        await store.heartbeat(info, 60_000)
        found = [worker for worker in await store.workers() if worker.worker_id == info.worker_id]
        assert len(found) == 1
        assert found[0].heartbeat_ms > 0
        await store.forget_worker(info.worker_id)
        assert info.worker_id not in [worker.worker_id for worker in await store.workers()]

    async def test_orders_reach_the_worker(self, store: TaskStore) -> None:
        worker, told = WorkerId(f"w-{make_spec().task_id}"), TaskId("t-1")
        async with asyncio.timeout(10), store.orders(worker) as orders:
            heard = asyncio.ensure_future(anext(orders))
            while not heard.done():  # an order may be lost while the subscription is being made
                await store.tell(worker, told)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(heard), 0.05)
            assert await heard == told

    async def test_counts_show_live_tasks_by_tier_and_status(self, store: TaskStore) -> None:
        before = dict(await store.counts())
        spec = make_spec(tier="gpu")
        await store.create(spec)
        assert (await store.counts()).get("gpu/queued", 0) == before.get("gpu/queued", 0) + 1
        await claimed(store, spec)
        assert (await store.counts()).get("gpu/running", 0) == before.get("gpu/running", 0) + 1

    async def test_a_store_says_what_it_can_promise(self, store: TaskStore) -> None:
        assert store.stored in ("fsync", "replicated", "everysec", "memory")
        for finding in await store.check():
            assert finding.detail
            assert finding.ok or finding.mend
        await store.ping()
