"""The task's record: a spec is stored as JSON and comes back as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.lifecycle.ids import TaskId, Tenant, ThreadId
from perdure.lifecycle.task import Multitask, Priority, TaskSpec, decode_spec

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
raw = st.none() | json_values.map(orjson.dumps).map(msgspec.Raw)
times = st.none() | st.integers(0, 2**53)
names = st.text(min_size=1)


@given(
    fields=st.fixed_dictionaries(
        {
            "graph": names,
            "tier": names,
            "created_ms": st.integers(0, 2**53),
            "input": raw,
            "config": raw,
            "context": raw,
            "command": raw,
            "metadata": st.dictionaries(st.text(), json_values, max_size=3),
            "priority": st.sampled_from(Priority),
            "multitask": st.sampled_from(Multitask),
            "max_attempts": st.integers(1, 100),
            "deadline_ms": times,
            "not_before_ms": times,
            "checkpoint_id": st.none() | names,
            "interrupt_before": st.lists(names, max_size=3),
            "interrupt_after": st.lists(names, max_size=3),
        }
    )
)
@settings(deadline=None, database=None)
def test_a_spec_survives_its_stored_form(fields: dict[str, Any]) -> None:
    spec = TaskSpec(task_id=TaskId("t"), thread_id=ThreadId("s"), tenant=Tenant("acme"), **fields)
    assert decode_spec(msgspec.json.encode(spec)) == spec


def test_a_null_input_is_not_the_same_as_none_given() -> None:
    base: dict[str, Any] = {
        "task_id": TaskId("t"),
        "thread_id": ThreadId("s"),
        "graph": "g",
        "tier": "cpu",
        "created_ms": 0,
    }
    null = decode_spec(msgspec.json.encode(TaskSpec(**base, input=msgspec.Raw(b"null"))))
    assert null.input is not None
    assert bytes(null.input) == b"null"
    assert decode_spec(msgspec.json.encode(TaskSpec(**base))).input is None


def test_a_spec_of_a_newer_version_can_still_be_read() -> None:
    """A rolling upgrade: an older worker meets fields that it does not know."""
    text = b'{"task_id":"t","thread_id":"s","graph":"g","tier":"cpu","created_ms":0,"invented_later":[1]}'
    assert decode_spec(text).graph == "g"
