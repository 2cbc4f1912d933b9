"""Ids, addresses and doorbells: what may come in, and what comes out again as it went in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import InvalidRequest
from perdure.lifecycle.doorbell import Doorbell, TaskRef
from perdure.lifecycle.ids import ID_PATTERN, TaskId, Tenant, ThreadId, check_id
from perdure.lifecycle.task import Priority
from perdure.valkey import keys

ids = st.from_regex(re.compile(ID_PATTERN[:-1] + r"\Z", re.ASCII), fullmatch=True)


@given(ids)
@settings(deadline=None, database=None)
def test_what_matches_the_pattern_is_an_id_and_stays_as_it_is(text: str) -> None:
    assert check_id(text, "/thread_id") == text


@pytest.mark.parametrize(
    "text",
    ["", "-a", ".a", "a b", "a/b", "../a", "a}b", "{a", "é", "a\n", "a\x00", "a" * 129, "agent session", "١"],
)
def test_odd_characters_paths_and_long_ids_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_id(text, "/thread_id")
    [(pointer, detail)] = refused.value.problems
    assert pointer == "/thread_id"
    assert "is not an id" in detail
    assert len(detail) < 200, "a long id is shortened in the message"


@given(ids, ids, ids, ids, st.sampled_from(Priority))
@settings(deadline=None, database=None)
def test_a_doorbell_comes_back_as_it_was_sent(
    tenant: str, thread_id: str, task_id: str, tier: str, priority: Priority
) -> None:
    bell = Doorbell(TaskRef(Tenant(tenant), ThreadId(thread_id), TaskId(task_id)), tier, priority)
    assert Doorbell.decode(bell.encode()) == bell


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/cpu/urgent", "a/b/c/cpu/high/more"])
def test_what_is_no_doorbell_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Doorbell.decode(text)


@given(ids, ids)
@settings(deadline=None, database=None)
def test_all_keys_of_a_thread_share_its_slot(tenant: str, thread_id: str) -> None:
    ref = TaskRef(Tenant(tenant), ThreadId(thread_id), TaskId("t")).thread
    made = [
        keys.thread(ref),
        keys.task(ref, TaskId("t")),
        keys.tasks(ref),
        keys.queue(ref),
        keys.events(ref),
        keys.bell(ref),
        keys.checkpoint(ref),
        keys.artifacts(ref, TaskId("t")),
    ]
    assert {key[key.index("{") + 1 : key.index("}")] for key in made} == {keys.hash_tag(ref)}
    assert keys.parse_ref(keys.ref_text(ref)) == ref
