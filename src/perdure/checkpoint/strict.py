"""A serializer that refuses to store what could only be read back as something else."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Any, Literal, TypeAlias

import ormsgpack
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer, _msgpack_default, _option
from langgraph.types import Interrupt, Send

TypeKey: TypeAlias = tuple[str, str]
"""A class by its module and its name, as LangGraph writes it into checkpoints."""
StoredTypes: TypeAlias = "frozenset[TypeKey] | Literal[True]"
"""Which classes may be read back from checkpoints, beside those that LangGraph always reads; True for any."""


class UndeclaredType(TypeError):
    """A value of a class that would come back from a checkpoint as plain data."""


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer, never with pickle, that reads `types` and raises UndeclaredType for others on writing.

    Without that, a value of another class turns into a dict or a text at the next interrupt or take-over, and only
    then. The payloads of questions are excepted: nobody gets them back from a checkpoint as objects.
    """

    def __init__(self, types: StoredTypes) -> None:
        super().__init__(pickle_fallback=False, allowed_msgpack_modules=types or None)
        self._types = types
        self._verdicts: dict[type, str | None] = {}

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or isinstance(obj, bytes | bytearray):
            return super().dumps_typed(obj)
        faults: list[str] = []

        def default(value: Any) -> Any:
            kind = type(value)
            if kind not in self._verdicts:
                self._verdicts[kind] = self._fault(kind)
            fault = self._verdicts[kind]
            if fault is not None:
                faults.append(fault)
            # LangGraph writes what is inside by itself, and never tells of it.
            if (inside := _inside(value)) is not None:
                ormsgpack.packb(inside, default=default, option=_option)
            return _msgpack_default(value)

        data = ormsgpack.packb(obj, default=default, option=_option)
        if faults:
            raise UndeclaredType(faults[0])
        return "msgpack", data

    def _fault(self, kind: type) -> str | None:
        """Why values of this class would not come back as they were; None if they do."""
        key = (kind.__module__, kind.__name__)
        if key in SAFE_MSGPACK_TYPES or kind is re.Pattern or not _is_written_by_name(kind):
            return None
        name = f"{kind.__module__}.{kind.__qualname__}"
        if issubclass(kind, datetime):
            return f"{name} comes back from a checkpoint as a text; store a plain datetime instead"
        if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
            return f"{name} cannot be found again by its name; define the class at the top of its module"
        if self._types is True or key in self._types:
            return None
        return (
            f"{name} would come back from a checkpoint as plain data; declare it in the state's schema, "
            f'or add ["{key[0]}", "{key[1]}"] to checkpointer.serde.allowed_msgpack_modules in langgraph.json'
        )


def bind_types(saver: BaseCheckpointSaver[Any], types: StoredTypes) -> BaseCheckpointSaver[Any]:
    """A copy of the saver that reads and writes these classes, and refuses others. A saver with a serializer of its
    own keeps that: it only learns which classes are allowed."""
    if type(saver.serde) is not JsonPlusSerializer or saver.serde._allowed_msgpack_modules is True:
        return saver if types is True else saver.with_allowlist(types)
    bound = copy.copy(saver)
    bound.serde = StrictSerializer(types)
    return bound


def _is_written_by_name(kind: type) -> bool:
    """Does LangGraph write the class's name, to make it anew? Not of exceptions, which become texts."""
    if issubclass(kind, BaseException):
        return False
    return (
        dataclasses.is_dataclass(kind)
        or issubclass(kind, Enum | datetime | set | frozenset | deque)
        or any(hasattr(kind, name) for name in ("model_dump", "get_secret_value", "dict", "_asdict"))
    )


def _inside(value: object) -> Iterable[object] | None:
    if isinstance(value, set | frozenset | deque | tuple):
        return list(value)
    if isinstance(value, Send):
        return [value.arg]
    if isinstance(value, Interrupt | type) or hasattr(value, "model_dump"):
        # A model is made anew out of its fields, which its own annotations turn into what they were.
        return None
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return None
