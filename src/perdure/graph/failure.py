"""Tells a task's failure as its author needs it: which node, which key, and the author's own lines of the traceback."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import os
import re
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import langchain_core
import langgraph.pregel

import perdure
from perdure.graph import plain
from perdure.graph.exits import AuthorExit
from perdure.lifecycle.task import TaskError

TRACEBACK_MAX: Final = 16_000
MESSAGE_MAX: Final = 4_000
_DURING: Final = re.compile(r"During task with name '(.*)' and id '[^']*'\Z", re.DOTALL)


def _folder(file: str | None, up: int = 0) -> str:
    return str(Path(file or "/nowhere/at/all").resolve().parents[up]) + os.sep


# The frames of these are ours, LangGraph's or the interpreter's way to the author's code, and say nothing about it.
_MACHINERY: Final = (
    _folder(perdure.__file__),
    _folder(langgraph.pregel.__file__, 1),
    _folder(langchain_core.__file__),
    _folder(asyncio.__file__),
    _folder(concurrent.futures.__file__),
    _folder(importlib.__file__),
    str(Path(threading.__file__).resolve()),
    str(Path(contextlib.__file__).resolve()),
    "<frozen ",
)
# The example agent ships inside the package, and yet it is an author's graph.
_EXAMPLES: Final = _folder(perdure.__file__) + "examples" + os.sep


def author_traceback(error: BaseException) -> str:
    """The traceback of an error and its causes, without the frames of the machinery around the author's code."""
    told = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    level: traceback.TracebackException | None = told
    while level is not None and id(level) not in seen:
        seen.add(id(level))
        own = [frame for frame in level.stack if not _is_machinery(frame.filename)]
        level.stack = traceback.StackSummary.from_list(own)
        # LangGraph's note names the node, which the error names itself.
        notes = [note for note in getattr(level, "__notes__", None) or () if not _DURING.match(note)]
        level.__notes__ = notes
        level = level.__cause__ or (None if level.__suppress_context__ else level.__context__)
    text = plain.well_formed("".join(told.format()))
    return text if len(text) <= TRACEBACK_MAX else text[:1_000] + "\n…\n" + text[-(TRACEBACK_MAX - 1_003) :]


def node_of(error: BaseException) -> str | None:
    """The node that raised, by LangGraph's notes: `critic`, or `reflect/critic` inside a subgraph."""
    names = [match.group(1) for note in getattr(error, "__notes__", ()) if (match := _DURING.match(note))]
    return plain.well_formed("/".join(reversed(names))) or None


def task_error(error: BaseException, *, nodes: Iterable[str] = ()) -> TaskError:
    """The error as the task's record keeps it. `nodes`: who may have caused it, if LangGraph does not say."""
    if isinstance(error, AuthorExit):
        # Its cause is what the author raised.
        kind, shown = type(error.__cause__).__name__, error.__cause__ or error
    else:
        kind, shown = type(error).__name__, error
    message = plain.well_formed(str(error))
    return TaskError(
        type=kind,
        message=message if len(message) <= MESSAGE_MAX else message[: MESSAGE_MAX - 1] + "…",
        node=node_of(error) or ", ".join(nodes) or None,
        traceback=author_traceback(shown),
    )


def _is_machinery(filename: str) -> bool:
    return filename.startswith(_MACHINERY) and not filename.startswith(_EXAMPLES)
