"""What a graph's author may call inside a node: `emit`, `artifact`, `idempotency_key`."""

from __future__ import annotations

import mimetypes
from collections import Counter
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import uuid_utils
from langchain_core.runnables.config import var_child_runnable_config

from perdure.graph.tags import Emitted, is_tag

ARTIFACT_BYTES_MAX: Final = 64 * 1024 * 1024
_CONFIGURABLE: Final = "configurable"


class NewArtifact(NamedTuple):
    """A file that a node made and that is not stored yet."""

    name: str
    media_type: str
    data: bytes


class Attempt:
    """What the author's calls know of the attempt they run in, and what they leave for it."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.artifacts: list[NewArtifact] = []
        self.calls: Counter[tuple[str, int]] = Counter()


# Nodes run in copies of the runner's context, in threads as well, so this reaches them and no other task.
current_attempt: ContextVar[Attempt | None] = ContextVar("perdure_attempt", default=None)


def emit(tag: str, text: str | None = None, /, **data: Any) -> None:
    """Put an event with this tag on the task's stream; `text` becomes `data["text"]`.

    For sync and async nodes. Outside of a task, under plain LangGraph or in a test, nothing happens. A tag has 1 to
    32 characters out of A-Z 0-9 _; another raises ValueError, outside of a task as well.
    """
    if not is_tag(tag):
        raise ValueError(f"{tag!r} is not a tag: 1 to 32 characters out of A-Z 0-9 _, such as CRITIC_EVAL")
    config = var_child_runnable_config.get()
    if current_attempt.get() is None or config is None:
        return
    runtime = config.get(_CONFIGURABLE, {}).get("__pregel_runtime")
    if runtime is not None:
        told = data if text is None else {"text": text, **data}
        runtime.stream_writer(Emitted(tag, config.get("metadata", {}).get("langgraph_node"), told))


def artifact(name: str, data: bytes | str, media_type: str | None = None) -> None:
    """Keep a file that this step made; it is stored before the step's checkpoint is.

    `name` need not be unique; text is stored as UTF-8; without `media_type` it is guessed from the name. At most
    64 MiB, else ValueError. A step that is tried again keeps its files again, under new ids. Outside of a task nothing
    is kept.
    """
    encoded = data.encode() if isinstance(data, str) else bytes(data)
    if len(encoded) > ARTIFACT_BYTES_MAX:
        raise ValueError(
            f"artifact {name!r} has {len(encoded):,} bytes; at most {ARTIFACT_BYTES_MAX:,} (64 MiB) are kept: "
            "split it, or store it elsewhere and keep its address"
        )
    attempt = current_attempt.get()
    if attempt is None:
        return
    fallback = "text/plain" if isinstance(data, str) else "application/octet-stream"
    kind = media_type or mimetypes.guess_type(name)[0] or fallback
    attempt.artifacts.append(NewArtifact(name, kind, encoded))


def idempotency_key() -> str:
    """A key for a side effect of this step: the same in every attempt of the step, different for each call in it.

    So a payment service that is handed it pays once, though a crash made the step run twice. It holds as long as the
    step's calls come in the same order. Outside of a task every call gives a fresh key, which promises nothing.
    """
    attempt = current_attempt.get()
    config = var_child_runnable_config.get()
    runtime = (config or {}).get(_CONFIGURABLE, {}).get("__pregel_runtime")
    if attempt is None or runtime is None or runtime.execution_info is None:
        return str(uuid_utils.uuid7())
    info = runtime.execution_info
    # A node that LangGraph's retry policy runs again starts counting anew, as a new attempt of the task does.
    place = (info.task_id, info.node_attempt)
    attempt.calls[place] += 1
    return f"{attempt.task_id}:{info.task_id}:{attempt.calls[place]}"
