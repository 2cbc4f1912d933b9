"""Events as people read them: `[CRITIC_EVAL] reflect/critic step=3 #4217 text…`, deltas of one block on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from perdure.lifecycle.events import Event, Method

SHOWN_MAX: Final = 400


class Transcript:
    """Turns one reader's events into text; remembers which block the open line belongs to."""

    def __init__(self) -> None:
        self._open: tuple[Any, ...] | None = None

    def text(self, events: Sequence[Event]) -> bytes:
        """The text of these events; the last line may stay open for deltas that follow."""
        parts: list[str] = []
        for event in events:
            self._add(event, parts)
        return "".join(parts).encode("utf-8", "replace")

    def close(self, word: str) -> bytes:
        """The last line."""
        return f"{self._newline()}[END] {word}\n".encode()

    def pause(self) -> bytes:
        """A line's end that says that the connection lives; what follows names its speaker anew."""
        self._open = None
        return b"\n"

    def note(self, tag: str, words: str) -> bytes:
        """A line that is no event."""
        return f"{self._newline()}[{tag}] {words}\n".encode()

    def _add(self, event: Event, parts: list[str]) -> None:
        params = event.decoded()["params"]
        data = params.get("data")
        delta = _delta(data) if event.method == Method.MESSAGES and isinstance(data, dict) else None
        if delta is not None:
            block = (event.task_id, event.namespace, params.get("node"), event.tag, data.get("index"))
            if block != self._open:
                parts.append(f"{self._newline()}{_head(event, params)} ")
                self._open = block
            parts.append(delta)
            return
        words = _words(event, data)
        if words is not None:
            parts.append(f"{self._newline()}{_head(event, params)} {words}\n")

    def _newline(self) -> str:
        was_open, self._open = self._open is not None, None
        return "\n" if was_open else ""


def _head(event: Event, params: Mapping[str, Any]) -> str:
    who = "/".join(params.get("path") or ()) or "-"
    return f"[{event.tag}] {who} step={params.get('step')} #{event.seq}"


def _delta(data: Mapping[str, Any]) -> str | None:
    """The piece of text that a content-block-delta brings; None for every other event."""
    if data.get("event") != "content-block-delta":
        return None
    delta = data.get("delta") or {}
    fields = delta.get("fields") or {}
    return str(delta.get("text") or delta.get("reasoning") or delta.get("args") or fields.get("args") or "")


def _words(event: Event, data: Any) -> str | None:
    """One line for an event that is no delta; None for what only frames the deltas."""
    if not isinstance(data, dict):
        return _short(data)
    if event.method == Method.MESSAGES and data.get("event") in (
        "message-start",
        "content-block-start",
        "content-block-finish",
        "message-finish",
    ):
        return None
    if event.method == Method.LIFECYCLE:
        words = [
            str(data.get("status") or data.get("event")),
            str(data.get("reason") or ""),
            str(data.get("error") or ""),
        ]
        return " ".join(word for word in words if word)
    return _short(data)


def _short(data: Any) -> str:
    if isinstance(data, str):
        text = data
    elif isinstance(data, dict) and isinstance(data.get("text"), str):
        text = data["text"]
    else:
        text = orjson.dumps(data).decode()
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
