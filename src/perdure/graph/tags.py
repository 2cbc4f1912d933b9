"""Turns LangGraph's stream parts into tagged events; pure: no clock, no network, no author's code.

The tag is the first that matches: what `emit` says; the node's metadata (`{"perdure": {"tag": …}}`, for that node's
message text alone); reasoning → THOUGHT; a tool's call and its output → TOOL_USE and TOOL_RESULT; other text → ANSWER
at the root, DRAFT in a subgraph; the graph's own doings → NODE, CHECKPOINT, INPUT_REQUIRED, USAGE, ERROR.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, RemoveMessage, ToolMessage

from perdure.graph import plain
from perdure.lifecycle.events import Method, Tag

# A whole state or update goes on the stream only while it is small: the log is kept for replay, one entry a step, and
# the state itself can always be read from the checkpoint that the neighbouring event names.
STATE_BYTES_MAX: Final = 64 * 1024
# What a `Send` handed to its node tells branches of a fan-out apart; more than this is state again.
INPUT_BYTES_MAX: Final = 2 * 1024

_TAG: Final = re.compile(r"[A-Z0-9_]{1,32}\Z")
_DELTA_FIELD: Final = {"text": "text", "reasoning": "reasoning", "tool-call": "args"}
_SEND_TRIGGER: Final = "__pregel_push"
_INTERRUPT: Final = "__interrupt__"


class Delta(NamedTuple):
    """A piece of a content block. Pieces in a row of the same block may be joined into one."""

    message_id: str
    block: int
    kind: str
    text: str

    def json(self) -> dict[str, object]:
        """The protocol's `content-block-delta`; `message_id` tells parallel speakers apart, which it cannot."""
        return {
            "event": "content-block-delta",
            "message_id": self.message_id,
            "index": self.block,
            "delta": {"type": f"{self.kind}-delta", _DELTA_FIELD[self.kind]: self.text},
        }


class Tagged(NamedTuple):
    """One event before it is numbered and stamped. `data` is JSON-ready, a Delta, or what `plain.encode` takes."""

    method: str
    tag: str
    namespace: tuple[str, ...]
    node: str | None
    data: object


class Emitted(NamedTuple):
    """What `perdure.emit` puts on LangGraph's custom stream."""

    tag: str
    node: str | None
    data: Mapping[str, object]


class Tagger:
    """Reads the parts of one attempt in order. It remembers the messages that are being streamed, nothing else."""

    def __init__(self) -> None:
        self._open: dict[str, _Message] = {}
        self._told: set[str] = set()
        self._tools_done: set[str] = set()
        self._asked: set[str] = set()

    def events(self, part: Mapping[str, Any]) -> Sequence[Tagged]:
        """The events of one part of `astream(version="v2", subgraphs=True)`."""
        kind: str = part["type"]
        namespace: tuple[str, ...] = part["ns"]
        data = part["data"]
        if kind == "custom":
            return (_custom(namespace, data),)
        if kind == "messages":
            return self._message(namespace, *data)
        if kind == "tasks":
            return self._task(namespace, data)
        if kind == "updates":
            return self._updates(namespace, data)
        if kind == "checkpoints":
            return (_checkpoint(namespace, data),)
        if kind == "tools":
            return self._tool(namespace, data)
        if kind == "values" and not namespace:
            # A subgraph's values are told by its updates, and by its parent's values when it ends.
            return (Tagged(Method.VALUES, Tag.NODE, namespace, None, _bounded(data)),)
        return ()

    def close(self) -> Sequence[Tagged]:
        """End what is still open, when no more parts come."""
        return [event for message in list(self._open.values()) for event in self._finish(message)]

    # --- messages
    def _message(
        self, namespace: tuple[str, ...], message: BaseMessage, metadata: Mapping[str, Any]
    ) -> Sequence[Tagged]:
        if isinstance(message, AIMessageChunk):
            return self._chunk(namespace, message, metadata)
        if isinstance(message, RemoveMessage) or (message.id and message.id in self._told):
            return ()
        if isinstance(message, ToolMessage):
            return self._tool_message(namespace, message, metadata)
        open_ = _Message(message, namespace, metadata)
        return [*open_.take(message), *self._finish(open_)]

    def _chunk(self, namespace: tuple[str, ...], chunk: AIMessageChunk, metadata: Mapping[str, Any]) -> list[Tagged]:
        message = self._open.get(chunk.id or "")
        if message is None:
            if chunk.id in self._told:
                return []
            message = self._open[chunk.id or ""] = _Message(chunk, namespace, metadata)
        events = message.take(chunk)
        if chunk.chunk_position == "last":
            events += self._finish(message)
        return events

    def _finish(self, message: _Message, error: str | None = None) -> list[Tagged]:
        self._open.pop(message.id, None)
        self._told.add(message.id)
        return message.finish() if error is None else [message.failed(error)]

    # --- tools
    def _tool_message(
        self, namespace: tuple[str, ...], message: ToolMessage, metadata: Mapping[str, Any]
    ) -> Sequence[Tagged]:
        """A tool's answer that no tool event told: an author built it by hand."""
        self._told.add(message.id or "")
        if message.tool_call_id in self._tools_done:
            return ()
        self._tools_done.add(message.tool_call_id)
        data: dict[str, object] = {"event": "tool-finished", "tool_call_id": message.tool_call_id}
        data["output"] = _bounded(message)
        if message.name:
            data["tool_name"] = message.name
        return (Tagged(Method.TOOLS, Tag.TOOL_RESULT, namespace, metadata.get("langgraph_node"), data),)

    def _tool(self, namespace: tuple[str, ...], data: Mapping[str, Any]) -> Sequence[Tagged]:
        event = data["event"]
        if event in ("tool-finished", "tool-error"):
            self._tools_done.add(data["tool_call_id"])
        tag = Tag.TOOL_USE if event == "tool-started" else Tag.TOOL_RESULT
        told = {key: _bounded(value) if key in ("input", "output", "delta") else value for key, value in data.items()}
        return (Tagged(Method.TOOLS, tag, namespace, None, told),)

    # --- the graph's own doings
    def _task(self, namespace: tuple[str, ...], task: Mapping[str, Any]) -> Sequence[Tagged]:
        name, task_id = task["name"], task["id"]
        if "result" not in task:
            started: dict[str, object] = {"id": task_id, "name": name, "status": "started"}
            if _SEND_TRIGGER in task["triggers"]:
                started["input"] = _bounded(task["input"], INPUT_BYTES_MAX)
            return (Tagged(Method.TASKS, Tag.NODE, namespace, name, started),)
        error = task.get("error")
        told = None if error is None else _error(error)
        events = [
            event
            for message in [m for m in self._open.values() if m.lg_task_id == task_id]
            for event in self._finish(message, told)
        ]
        done: dict[str, object] = {"id": task_id, "name": name, "status": "finished"}
        tag = Tag.NODE
        if told is not None:
            done.update(status="failed", error=told)
            tag = Tag.ERROR
        elif task.get("interrupts"):
            done.update(status="interrupted")
        events.append(Tagged(Method.TASKS, tag, namespace, name, done))
        return events

    def _updates(self, namespace: tuple[str, ...], update: Mapping[str, Any]) -> Sequence[Tagged]:
        if _INTERRUPT in update:
            return [
                Tagged(
                    Method.INPUT_REQUESTED,
                    Tag.INPUT_REQUIRED,
                    namespace,
                    None,
                    {"interrupt_id": asked.id, "payload": _bounded(asked.value)},
                )
                for asked in self._unasked(update[_INTERRUPT])
            ]
        node = next(iter(update), None) if len(update) == 1 else None
        return (Tagged(Method.UPDATES, Tag.NODE, namespace, node, _bounded(update)),)

    def _unasked(self, interrupts: Iterable[Any]) -> list[Any]:
        """A question asked in a subgraph comes again from each graph around it: the innermost, first one counts."""
        fresh = [asked for asked in interrupts if asked.id not in self._asked]
        self._asked.update(asked.id for asked in fresh)
        return fresh


class _Block:
    """One content block of a message that is being streamed."""

    __slots__ = ("content", "index", "pieces", "tag")

    def __init__(self, index: int, tag: str, content: dict[str, Any]) -> None:
        self.index = index
        self.tag = tag
        self.content = content
        self.pieces: list[str] = []


class _Message:
    """A message while its pieces come in."""

    def __init__(self, first: BaseMessage, namespace: tuple[str, ...], metadata: Mapping[str, Any]) -> None:
        self.id = first.id or ""
        self.namespace = namespace
        self.node: str | None = metadata.get("langgraph_node")
        self.lg_task_id = str(metadata.get("langgraph_checkpoint_ns", "")).rpartition(":")[2]
        self._text_tag = _text_tag(first, namespace, metadata)
        self._blocks: dict[object, _Block] = {}
        self._started = False
        self._usage: dict[str, Any] | None = None

    def take(self, message: BaseMessage) -> list[Tagged]:
        """The events of the next piece, or of a whole message."""
        events: list[Tagged] = []
        if not self._started:
            self._started = True
            events.append(self._start(message))
        if _is_text_alone(message):
            if message.content:
                self._piece(events, "text", "text", str(message.content), {"type": "text"})
        else:
            for key, block in _blocks(message):
                self._block(events, key, block)
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if usage:
            self._usage = _added(self._usage, usage)
        return events

    def finish(self) -> list[Tagged]:
        """The ends of all blocks, then of the message; with the tokens it cost, if the model said so."""
        events = [
            self._told(
                block.tag,
                {
                    "event": "content-block-finish",
                    "message_id": self.id,
                    "index": block.index,
                    "content": _finished(block),
                },
            )
            for block in self._blocks.values()
        ]
        end: dict[str, object] = {"event": "message-finish", "message_id": self.id}
        if self._usage:
            end["usage"] = self._usage
        events.append(self._told(Tag.USAGE if self._usage else self._text_tag, end))
        return events

    def failed(self, error: str) -> Tagged:
        """The end of a message that its node's failure cut off."""
        return self._told(Tag.ERROR, {"event": "error", "message_id": self.id, "message": error})

    def _start(self, message: BaseMessage) -> Tagged:
        role = "ai" if isinstance(message, AIMessage) else message.type
        data: dict[str, object] = {"event": "message-start", "role": role, "id": self.id, "message_id": self.id}
        about = message.response_metadata
        metadata = {
            key: about[given]
            for key, given in (("provider", "model_provider"), ("model", "model_name"))
            if about.get(given)
        }
        if metadata:
            data["metadata"] = metadata
        return self._told(self._text_tag, data)

    def _block(self, events: list[Tagged], key: object, block: Mapping[str, Any]) -> None:
        kind = block.get("type")
        if kind == "text":
            self._piece(events, key, "text", block.get("text") or "", block)
        elif kind == "reasoning":
            self._piece(events, key, "reasoning", block.get("reasoning") or "", block)
        elif kind in ("tool_call_chunk", "server_tool_call_chunk"):
            self._piece(events, key, "tool-call", block.get("args") or "", block)
        else:
            # Whole at once: an image, a file, a finished tool call. Its content comes with the finish alone.
            self._open(events, key, block, heavy=dict(block))

    def _piece(self, events: list[Tagged], key: object, kind: str, text: str, block: Mapping[str, Any]) -> None:
        opened = self._blocks.get(key)
        if opened is None:
            opened = self._open(events, key, block, heavy=None)
        elif kind == "tool-call":
            opened.content.update({k: block[k] for k in ("id", "name") if block.get(k)})
        elif len(block) > 2:
            # What a provider sends late, such as annotations or a signature, belongs to the finished block.
            opened.content.update({k: v for k, v in block.items() if k not in ("text", "reasoning") and v is not None})
        if text:
            opened.pieces.append(text)
            events.append(self._told(opened.tag, Delta(self.id, opened.index, kind, text)))

    def _open(
        self, events: list[Tagged], key: object, block: Mapping[str, Any], heavy: dict[str, Any] | None
    ) -> _Block:
        light = {k: v for k, v in block.items() if k not in _HEAVY and v is not None}
        kind = block.get("type")
        tag = Tag.THOUGHT if kind == "reasoning" else Tag.TOOL_USE if "tool_call" in str(kind) else self._text_tag
        opened = self._blocks[key] = _Block(len(self._blocks), tag, heavy or dict(light))
        empty = _EMPTY.get(str(kind), {})
        start = {
            "event": "content-block-start",
            "message_id": self.id,
            "index": opened.index,
            "content": {**light, **empty},
        }
        events.append(self._told(tag, start))
        return opened

    def _told(self, tag: str, data: object) -> Tagged:
        return Tagged(Method.MESSAGES, tag, self.namespace, self.node, data)


_CALLS: Final = frozenset(("tool_call", "tool_call_chunk", "invalid_tool_call"))
_HEAVY: Final = frozenset(("text", "reasoning", "args", "data", "base64", "output", "transcript", "value", "index"))
_EMPTY: Final[Mapping[str, Mapping[str, object]]] = {
    "text": {"text": ""},
    "reasoning": {"reasoning": ""},
    "tool_call_chunk": {"args": ""},
    "server_tool_call_chunk": {"args": ""},
    "tool_call": {"args": {}},
    "server_tool_call": {"args": {}},
    "non_standard": {"value": {}},
}


def is_tag(text: str) -> bool:
    """May an author use this as a tag?"""
    return _TAG.match(text) is not None


def _text_tag(message: BaseMessage, namespace: tuple[str, ...], metadata: Mapping[str, Any]) -> str:
    about = metadata.get("perdure")
    wanted = about.get("tag") if isinstance(about, Mapping) else None
    if isinstance(wanted, str) and is_tag(wanted):
        return wanted
    if not isinstance(message, AIMessage):
        # What a node says in the user's or the system's name answers nobody.
        return Tag.NODE
    return Tag.DRAFT if namespace else Tag.ANSWER


def _is_text_alone(message: BaseMessage) -> bool:
    """Nearly every chunk is a piece of text; those need not go through the providers' translators."""
    if not isinstance(message.content, str):
        return False
    if isinstance(message, AIMessageChunk):
        return not message.tool_call_chunks and "reasoning_content" not in message.additional_kwargs
    return not (
        isinstance(message, AIMessage)
        and (message.tool_calls or message.invalid_tool_calls or message.additional_kwargs.get("reasoning_content"))
    )


def _blocks(message: BaseMessage) -> list[tuple[object, Mapping[str, Any]]]:
    """A message's standard content blocks, each with the key that is the same in all its chunks."""
    try:
        blocks: list[Any] = list(message.content_blocks)
    except Exception:  # noqa: BLE001 - a provider's odd content must not end the task; its text still counts
        blocks = [{"type": "text", "text": str(message.text)}]
    if isinstance(message, AIMessageChunk):
        # On the last chunk LangChain shows a call's last piece as a finished call; the pieces themselves are reliable.
        blocks = [block for block in blocks if block.get("type") not in _CALLS]
        blocks += [{**piece, "type": "tool_call_chunk"} for piece in message.tool_call_chunks]
    elif isinstance(message, AIMessage):
        blocks += [{**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls]
    keyed: list[tuple[object, Mapping[str, Any]]] = []
    for place, block in enumerate(blocks):
        index, kind = block.get("index"), block.get("type")
        if index is None:
            # Without numbers, one block of a kind comes at a time, and a call comes whole.
            index = block.get("id") if kind in _CALLS else None
        key: object = (kind, index) if index is not None else "text" if kind == "text" and place == 0 else (kind, place)
        keyed.append((key, block))
    return keyed


def _finished(block: _Block) -> dict[str, Any]:
    content = {k: v for k, v in block.content.items() if k != "index"}
    kind = content.get("type")
    text = "".join(block.pieces)
    if kind == "text":
        content["text"] = text
    elif kind == "reasoning":
        content["reasoning"] = text
    elif kind in ("tool_call_chunk", "server_tool_call_chunk"):
        try:
            content.update(type=str(kind).removesuffix("_chunk"), args=orjson.loads(text or "{}"))
        except ValueError:
            content.update(type="invalid_tool_call", args=text, error="the arguments are not JSON")
    return content


def _added(before: dict[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Usage comes in pieces too: numbers add up."""
    total = dict(before or {})
    for key, value in more.items():
        if isinstance(value, int):
            total[key] = total.get(key, 0) + value
        elif isinstance(value, Mapping):
            total[key] = _added(total.get(key), value)
    return total


def _custom(namespace: tuple[str, ...], data: object) -> Tagged:
    if isinstance(data, Emitted):
        return Tagged(Method.CUSTOM, data.tag, namespace, data.node, data.data)
    told = data if isinstance(data, dict) else {"payload": data}
    return Tagged(Method.CUSTOM, Tag.NODE, namespace, None, told)


def _checkpoint(namespace: tuple[str, ...], data: Mapping[str, Any]) -> Tagged:
    metadata = data["metadata"]
    told = {
        "checkpoint_id": data["config"]["configurable"]["checkpoint_id"],
        "parent": ((data.get("parent_config") or {}).get("configurable") or {}).get("checkpoint_id"),
        "step": metadata.get("step"),
        "next": data["next"],
        "source": metadata.get("source"),
    }
    return Tagged(Method.CHECKPOINTS, Tag.CHECKPOINT, namespace, None, told)


def _error(error: object) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)


def _bounded(value: object, bytes_max: int = STATE_BYTES_MAX) -> object:
    """The value in JSON, or what it was and how big, if that is too much for the log."""
    encoded = plain.encode(value)
    if len(encoded) <= bytes_max:
        return orjson.Fragment(encoded)
    about: dict[str, object] = {"omitted": "too_large", "bytes": len(encoded), "bytes_max": bytes_max}
    if isinstance(value, Mapping):
        about["keys"] = [str(key)[:100] for key in list(value)[:100]]
    return {"__perdure__": about}
