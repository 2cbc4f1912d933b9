"""The table of transitions: what it allows, what it refuses, and that everything else is made from it."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from perdure.errors import Conflict
from perdure.lifecycle.transitions import LIVE, TERMINAL, TRANSITIONS, Status, Verb, mermaid, next_status, require
from perdure.valkey.connection import Client
from perdure.valkey.embedded import EmbeddedValkey
from perdure.valkey.functions import FunctionLibrary

ALLOWED = {
    "queued": {"claim": "running", "cancel": "cancelled", "supersede": "cancelled", "expire": "failed"},
    "running": {
        "succeed": "succeeded",
        "fail": "failed",
        "pause": "interrupted",
        "give_back": "queued",
        "lose": "queued",
        "bury": "dead",
        "cancel": "cancelled",
        "supersede": "cancelled",
        "expire": "failed",
    },
    "interrupted": {"resume": "queued", "cancel": "cancelled", "supersede": "cancelled", "expire": "failed"},
    "succeeded": {},
    "failed": {"requeue": "queued"},
    "cancelled": {},
    "dead": {"requeue": "queued"},
}
PAIRS = list(itertools.product(Status, Verb))


@pytest.mark.parametrize(("status", "verb"), PAIRS, ids=[f"{status}-{verb}" for status, verb in PAIRS])
def test_every_pair_is_allowed_or_refused_as_the_design_says(status: Status, verb: Verb) -> None:
    after = ALLOWED[status].get(verb)
    assert next_status(status, verb) == after
    if after is not None:
        assert require(status, verb) == after
        return
    with pytest.raises(Conflict) as refused:
        require(status, verb)
    assert refused.value.reason == "status"
    assert f"is {status}" in str(refused.value)
    for source in (name for name, verbs in ALLOWED.items() if verb in verbs):
        assert source in str(refused.value), "the refusal says when it would be possible"


def test_a_status_is_live_or_terminal_and_only_failures_come_back() -> None:
    assert set(Status) == LIVE | TERMINAL
    assert not LIVE & TERMINAL
    revived = {(status, verb) for status, verb in TRANSITIONS if status in TERMINAL}
    assert revived == {(Status.FAILED, Verb.REQUEUE), (Status.DEAD, Verb.REQUEUE)}


def test_every_status_can_be_reached_and_every_live_one_can_be_left() -> None:
    assert {Status.QUEUED, *TRANSITIONS.values()} == set(Status)
    for status in LIVE:
        ends = {after for (before, _), after in TRANSITIONS.items() if before is status}
        assert ends & TERMINAL, f"a task that is {status} can always be ended"


def test_the_diagram_draws_every_transition_once() -> None:
    drawn: dict[tuple[str, str], str] = {}
    for line in mermaid().splitlines()[2:]:
        before, _, rest = line.strip().partition(" --> ")
        after, _, verb = rest.partition(": ")
        if after != "[*]":
            for word in verb.split(", "):
                assert (before, word) not in drawn
                drawn[before, word] = after
    assert drawn == {(status, verb): after for status, verbs in ALLOWED.items() for verb, after in verbs.items()}


@pytest.mark.anyio
async def test_the_server_side_functions_hold_the_same_table(valkey: EmbeddedValkey) -> None:
    """Lua's tables, read back from a function on a real server, equal Python's."""
    library = FunctionLibrary("table_probe", {"read": "return { cjson.encode(TRANSITIONS), cjson.encode(LIVE) }"})
    async with Client(valkey.url) as client:
        table, live = await client.fcall(library, "read", [])
    rows = msgspec.json.decode(table)
    assert {status: verbs or {} for status, verbs in rows.items()} == ALLOWED
    assert msgspec.json.decode(live) == {status.value: True for status in LIVE}
