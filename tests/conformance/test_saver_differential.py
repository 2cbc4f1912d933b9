"""Any sequence of a saver's operations gives on Valkey what it gives in memory."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointTuple,
)
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver

from perdure.checkpoint import ValkeySaver
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio
NAMESPACES = ["", "sub:1", "sub:1|deep:2", "sub:10"]
CHANNELS = ["messages", "a|b", "50%", "branch:to:x", "Ünïcode", ""]
VALUES: list[Any] = [None, b"\x00\n|raw", "text\n", {"a": [1, (2, 3)]}, 1.5, {1, 2}, uuid.UUID(int=7), "x" * 3000]


def seen(found: CheckpointTuple | None) -> Any:
    if found is None:
        return None
    config, parent = dict(found.config["configurable"]), found.parent_config
    return (
        {k: config.get(k) for k in ("thread_id", "checkpoint_ns", "checkpoint_id")},
        found.checkpoint,
        found.metadata,
        parent and parent["configurable"],
        found.pending_writes,
    )


class Player:
    """Does the same to any number of savers; the choices come from one seed."""

    def __init__(self, chance: random.Random, savers: list[BaseCheckpointSaver[str]]) -> None:
        self.chance = chance
        self.savers = savers
        self.threads = [f"{uuid.uuid4()}", f"odd/{{{uuid.uuid4()}}} thread", f"{uuid.uuid4()}"]
        self.ids: dict[tuple[str, str], list[str]] = {}
        self.versions: dict[tuple[str, str], ChannelVersions] = {}
        self.number = 0

    def place(self, *, known: bool = False) -> RunnableConfig:
        thread, ns = self.chance.choice(self.threads), self.chance.choice(NAMESPACES)
        config: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": ns}
        ids = self.ids.get((thread, ns), [])
        if ids and (known or self.chance.random() < 0.6):
            config["checkpoint_id"] = ids[-1] if self.chance.random() < 0.7 else self.chance.choice(ids)
        elif known:
            config["checkpoint_id"] = str(uuid6())
        return {"configurable": config}

    async def put(self) -> None:
        config = self.place()
        config["metadata"] = {"run_id": self.chance.choice("rst"), "user": "nul\x00l", "skip": [1]}
        configurable = config["configurable"]
        key = (configurable["thread_id"], configurable["checkpoint_ns"])
        versions: ChannelVersions = dict(self.versions.get(key, {}))
        values: dict[str, Any] = {}
        new: ChannelVersions = {}
        for channel in self.chance.sample(CHANNELS, self.chance.randint(0, 4)):
            self.number += 1
            choices: list[str | int | float] = [f"{self.number:032}.ab|c", self.number, self.number + 0.1]
            new[channel] = self.chance.choice(choices)
            if self.chance.random() < 0.8:
                values[channel] = self.chance.choice(VALUES)
        versions.update(new)
        self.versions[key] = versions
        checkpoint: Any = {
            "v": 4,
            "id": str(uuid6(clock_seq=self.number)),
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"__input__": {}, "node": dict(new)},
            "updated_channels": self.chance.choice([None, ["a"]]),
        }
        metadata: Any = {
            "source": "loop",
            "step": self.number,
            "parents": {"": "x"},
            "odd": self.chance.choice(VALUES),
            "counters": {"a": (1, 2)},
        }
        for saver in self.savers:
            result = await saver.aput(config, checkpoint, metadata, new)
            assert result["configurable"]["checkpoint_id"] == checkpoint["id"]
        self.ids.setdefault(key, []).append(checkpoint["id"])

    async def put_writes(self) -> None:
        config = self.place(known=True)
        if self.chance.random() < 0.3:
            writes = [(channel, self.chance.choice(VALUES)) for channel in self.chance.sample(list(WRITES_IDX_MAP), 2)]
        else:
            count = self.chance.randint(1, 3)
            writes = [(self.chance.choice(CHANNELS), self.chance.choice(VALUES)) for _ in range(count)]
        task_id, path = self.chance.choice(["t1", "t|2", "t3"]), self.chance.choice(["", "~a", "~b|c"])
        for saver in self.savers:
            await saver.aput_writes(config, writes, task_id, path)

    async def get(self) -> None:
        config = self.place()
        ours, theirs = [seen(await saver.aget_tuple(config)) for saver in self.savers]
        assert ours == theirs

    async def list(self) -> None:
        config, before = self.place(), self.place()
        configurable = config["configurable"]
        if self.chance.random() < 0.7:
            configurable.pop("checkpoint_id", None)
        if every := self.chance.random() < 0.3:
            del configurable["checkpoint_ns"]
        arguments: Any = {
            "filter": self.chance.choice([None, None, {"run_id": "r"}, {"run_id": "s", "step": 3}, {"nope": None}]),
            "before": before if self.chance.random() < 0.4 else None,
            "limit": self.chance.choice([None, None, 0, 1, 3]) if not every else None,
        }
        ours, theirs = [[seen(t) async for t in saver.alist(config, **arguments)] for saver in self.savers]
        if every:  # The order of namespaces is each saver's own.
            ours, theirs = [sorted(found, key=lambda t: str(t[0])) for found in (ours, theirs)]
        assert ours == theirs

    async def history(self) -> None:
        config = self.place()
        channels = self.chance.sample(CHANNELS, self.chance.randint(0, 3))
        ours, theirs = [
            await saver.aget_delta_channel_history(config=config, channels=channels) for saver in self.savers
        ]
        assert ours == theirs

    async def delete(self) -> None:
        thread = self.chance.choice(self.threads)
        for saver in self.savers:
            await saver.adelete_thread(thread)
        for ns in NAMESPACES:
            self.ids.pop((thread, ns), None)
            self.versions.pop((thread, ns), None)


@pytest.mark.parametrize("seed", range(12))
async def test_operations_in_any_order(valkey: EmbeddedValkey, seed: int) -> None:
    """Puts, writes, reads, listings, delta histories and deletions, chosen by chance; values of many kinds."""
    chance = random.Random(seed)
    async with ValkeySaver.from_url(valkey.url) as saver:
        player = Player(chance, [saver, InMemorySaver()])
        verbs = [player.put] * 6 + [player.put_writes] * 6 + [player.get, player.list, player.history] * 3
        for _ in range(150):
            await chance.choice([*verbs, player.delete] if chance.random() < 0.1 else verbs)()


def test_versions_grow_and_branches_never_share_one(valkey: EmbeddedValkey) -> None:
    """As strings that sort by number, made from nothing, from an integer or from another saver's version."""
    with ValkeySaver.from_url(valkey.url) as saver:
        first = saver.get_next_version(None, None)
        second, other = (saver.get_next_version(first, None) for _ in range(2))
        assert first < second
        assert second != other
        assert saver.get_next_version(9, None).startswith(f"{10:032}.")
        assert saver.get_next_version(InMemorySaver().get_next_version(second, None), None) > second


def as_checkpoint(values: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        v=1,
        id=str(uuid6()),
        ts="2026-01-01T00:00:00+00:00",
        channel_values=values,
        channel_versions=dict.fromkeys(values, 1),
        versions_seen={},
        updated_channels=None,
    )


async def test_all_threads_are_listed_when_none_is_named(valkey: EmbeddedValkey) -> None:
    """By async and by sync code."""
    run = str(uuid.uuid4())
    async with ValkeySaver.from_url(valkey.url) as saver:
        threads = {str(uuid.uuid4()) for _ in range(5)}
        for thread in threads:
            config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            await saver.aput(config, as_checkpoint({}), {"source": "input", "step": 0, "run_id": run}, {})
        found = [t.config["configurable"]["thread_id"] async for t in saver.alist(None, filter={"run_id": run})]
        assert set(found) == threads
        assert len(found) == 5
        assert len(list(saver.list(None, filter={"run_id": run}, limit=3))) == 3
