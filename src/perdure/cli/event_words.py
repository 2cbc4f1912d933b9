"""What an event says, in words for people, and the colours of the tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

SHOWN_MAX: Final = 400

STYLES: Final[Mapping[str, str]] = {
    "THOUGHT": "italic bright_black",
    "TOOL_USE": "cyan",
    "TOOL_RESULT": "blue",
    "CRITIC_EVAL": "yellow",
    "ANSWER": "bold green",
    "DRAFT": "green",
    "NODE": "bright_black",
    "CHECKPOINT": "bright_black",
    "INPUT_REQUIRED": "bold magenta",
    "USAGE": "bright_black",
    "ERROR": "bold red",
    "RECOVERY": "bold bright_magenta",
}
"""Tags of an author's own are shown in plain white."""


class Said(NamedTuple):
    """One event for people. `block` is set for a piece of text that goes on where the last one of the block ended."""

    tag: str
    path: str
    text: str
    seq: int
    timestamp_ms: int
    block: tuple[Any, ...] | None = None


class EventWords:
    """Reads one stream's events in order; remembers when each step began, to tell how long it took."""

    def __init__(self) -> None:
        self._began_ms: dict[tuple[str, str], int] = {}

    def said(self, event: Mapping[str, Any]) -> Said | None:
        """None for what only frames other events, and for states, which the checkpoints keep."""
        params: Mapping[str, Any] = event.get("params") or {}
        method, data = event.get("method"), params.get("data", event.get("data"))
        block: tuple[Any, ...] | None = None
        text: str | None
        if not isinstance(data, Mapping):
            text = None if data is None else short(data)
        elif method == "messages":
            if data.get("event") == "content-block-delta":
                text = _piece(data)
                block = (params.get("task_id"), params.get("attempt"), data.get("message_id"), data.get("index"))
            else:
                text = _message(data)
        elif method == "tasks":
            text = self._step(params, data)
        elif method == "lifecycle":
            parts = (data.get("status") or data.get("event"), data.get("reason"), data.get("error"))
            text = " · ".join(str(part) for part in parts if part)
        elif method == "tools":
            text = _tool(data)
        elif method == "input.requested":
            text = f"{short(data.get('payload'))}  (perdure answer {params.get('task_id')} VALUE)"
        elif method in ("values", "updates", "checkpoints"):
            text = None
        elif data.get("name") == "recovery":
            text = recovery(data)
        elif data.get("name") == "artifact" and isinstance(data.get("artifact"), Mapping):
            text = f"keeps {data['artifact'].get('name')}, {data['artifact'].get('size'):,} bytes"
        else:
            text = short(data)
        if text is None:
            return None
        path = "/".join(params.get("path") or ()) or str((data or {}).get("graph_name", "") if data else "")
        tag = str(params.get("tag") or str(method).upper())
        return Said(tag, path, text, int(event.get("seq") or 0), int(params.get("timestamp") or 0), block)

    def _step(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
        key, now = ("|".join(params.get("namespace") or ()), str(data.get("id"))), int(params.get("timestamp") or 0)
        if data.get("status") == "started":
            self._began_ms[key] = now
            return None
        began = self._began_ms.get(key)
        took = "" if began is None else f" after {duration(now - began)}"
        error = f": {data['error']}" if data.get("error") else ""
        return f"{data.get('status')}{took}{error}"


def recovery(data: Mapping[str, Any]) -> str:
    """The take-over of a task by another worker, as one sentence."""
    rehydrated = data.get("rehydrated") or {}
    following = ", ".join(rehydrated.get("next") or ()) or "the first step"
    superseded = data.get("superseded")
    struck = f"; events {superseded[0]} to {superseded[1]} are superseded" if superseded else ""
    return (
        f"{data.get('dead_worker')} died; {data.get('new_worker')} rehydrated {rehydrated.get('channels')} channels "
        f"in {rehydrated.get('ms')} ms and goes on with {following} (attempt {data.get('attempt')}){struck}"
    )


def duration(ms: float) -> str:
    """Milliseconds for people."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def short(value: object, shown_max: int = SHOWN_MAX) -> str:
    """Any JSON value on one line, cut to what a line can show."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = " ".join(text.split())
    return text if len(text) <= shown_max else text[: shown_max - 1] + "…"


def _piece(data: Mapping[str, Any]) -> str | None:
    """The text of a delta. A tool call's arguments come in pieces of JSON; it is told once, when it is whole."""
    delta = data.get("delta") or {}
    return delta.get("text") or delta.get("reasoning")


def _message(data: Mapping[str, Any]) -> str | None:
    content = data.get("content") or {}
    if data.get("event") == "content-block-finish" and content.get("type") in ("tool_call", "server_tool_call"):
        arguments = ", ".join(f"{name}={short(value)}" for name, value in (content.get("args") or {}).items())
        return f"{content.get('name')}({arguments})"
    if data.get("event") == "error":
        return str(data.get("message"))
    return None


def _tool(data: Mapping[str, Any]) -> str | None:
    if data.get("event") == "tool-started":
        return None
    told = data.get("output", data.get("error", data.get("delta")))
    if isinstance(told, Mapping) and "content" in told:
        told = told["content"]
    return f"{data.get('tool_name') or 'tool'} → {short(told)}"
