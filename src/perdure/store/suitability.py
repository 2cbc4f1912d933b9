"""Can this server keep Perdure's promises? Version, persistence, eviction, rights; in words that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perdure.lifecycle.doorbell import ThreadRef
from perdure.lifecycle.ids import DEFAULT_TENANT, ThreadId
from perdure.store.base import Finding
from perdure.valkey import keys
from perdure.valkey.connection import Client, ValkeyReplyError

MIN_VALKEY: Final = (7, 2)
MIN_REDIS: Final = (7, 0)


async def durability_of(client: Client) -> str:
    """What an accepted task survives on this server: `fsync`, `everysec` or `memory`."""
    settings = await _settings(client)
    if settings.get("appendonly") != "yes":
        return "memory"
    return {"always": "fsync", "everysec": "everysec"}.get(settings.get("appendfsync", ""), "memory")


async def findings(client: Client) -> list[Finding]:
    """Everything that the start-up check and `perdure doctor` say about the server."""
    info = _info(await client.call("INFO"))
    settings = await _settings(client)
    return [
        _version(info),
        _persistence(info, settings),
        _eviction(info, settings),
        _role(info),
        _disk(info),
        await _functions(client),
        await _channels(client),
    ]


def _version(info: Mapping[str, str]) -> Finding:
    valkey = "valkey_version" in info
    text = info.get("valkey_version") or info.get("redis_version", "0")
    name, least = ("Valkey", MIN_VALKEY) if valkey else ("Redis", MIN_REDIS)
    number = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    ok = number >= least
    wanted = f"{least[0]}.{least[1]}"
    return Finding("version", ok, f"{name} {text}", "" if ok else f"use {name} {wanted} or newer", fatal=not ok)


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Finding:
    if not settings:
        return Finding(
            "persistence",
            info.get("aof_enabled") == "1",
            "CONFIG is not allowed here; the append-only file is "
            + ("on" if info.get("aof_enabled") == "1" else "off or unknown"),
            "make sure that the provider keeps an append-only file",
        )
    if settings.get("appendonly") != "yes":
        return Finding(
            "persistence",
            False,
            "appendonly is off: accepted tasks are lost when the server ends",
            "CONFIG SET appendonly yes, appendfsync always (and in the configuration file)",
            fatal=True,
        )
    fsync = settings.get("appendfsync")
    if fsync != "always":
        lost = "up to a second of accepted tasks" if fsync == "everysec" else "what the system has not written yet"
        return Finding(
            "persistence",
            True,
            f"appendfsync {fsync}: {lost} is lost with the machine",
            "CONFIG SET appendfsync always, for tasks that survive a crash of the machine",
        )
    return Finding("persistence", True, "append-only file, fsync on every write")


def _eviction(info: Mapping[str, str], settings: Mapping[str, str]) -> Finding:
    policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy", "noeviction")
    bounded = info.get("maxmemory", "0") != "0"
    ok = policy == "noeviction"
    return Finding(
        "eviction",
        ok,
        f"maxmemory-policy {policy}" + ("" if bounded else ", no memory bound"),
        "" if ok else "CONFIG SET maxmemory-policy noeviction: any other policy silently deletes tasks",
        fatal=not ok and bounded,
    )


def _role(info: Mapping[str, str]) -> Finding:
    ok = info.get("role") == "master"
    return Finding("role", ok, f"role {info.get('role')}", "" if ok else "connect to the primary", fatal=not ok)


def _disk(info: Mapping[str, str]) -> Finding:
    ok = info.get("aof_last_write_status", "ok") == "ok" and info.get("rdb_last_bgsave_status", "ok") == "ok"
    return Finding(
        "disk",
        ok,
        "last write to disk went well" if ok else "the last write to disk failed",
        "" if ok else "free space",
    )


async def _functions(client: Client) -> Finding:
    try:
        await client.call("FUNCTION", "STATS")
    except ValkeyReplyError as error:
        return Finding(
            "functions",
            False,
            f"server-side functions are not allowed: {error.text}",
            "allow the commands FUNCTION and FCALL for this user",
            fatal=True,
        )
    return Finding("functions", True, "server-side functions work")


async def _channels(client: Client) -> Finding:
    try:
        await client.call("SPUBLISH", keys.bell(ThreadRef(DEFAULT_TENANT, ThreadId("check"))), "")
    except ValkeyReplyError as error:
        return Finding(
            "channels",
            False,
            f"publishing is not allowed, so nobody is told of new events: {error.text}",
            "allow this user the channels `thread:*` and `worker:*` (ACL SETUSER … allchannels)",
            fatal=True,
        )
    return Finding("channels", True, "channels work")


async def _settings(client: Client) -> dict[str, str]:
    """The settings that matter; empty where the provider forbids CONFIG."""
    try:
        reply = await client.call("CONFIG", "GET", "appendonly", "appendfsync", "maxmemory-policy")
    except ValkeyReplyError:
        return {}
    return {name.decode(): value.decode() for name, value in reply.items()}


def _info(text: object) -> dict[str, str]:
    raw = text.decode() if isinstance(text, bytes) else str(text)
    return dict(line.split(":", 1) for line in raw.splitlines() if ":" in line)
