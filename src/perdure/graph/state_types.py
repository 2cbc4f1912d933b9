"""Finds the author's classes that a graph's checkpoints may hold: those it declares, and those beside its nodes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from langgraph.pregel import Pregel
from pydantic import BaseModel
from typing_extensions import is_typeddict

from perdure.checkpoint.strict import TypeKey


def state_types(graph: Pregel[Any, Any, Any, Any], modules: Iterable[ModuleType] = ()) -> frozenset[TypeKey]:
    """The classes in the schemas and channels of a graph and its subgraphs, and the data classes that `modules` and
    the modules of its nodes define: dataclasses, pydantic models, enums, named tuples, and what is in their fields.

    What is defined where the nodes are may be returned by them without a declaration, above all by an `@task`.
    """
    found = _Found()
    homes = {module.__name__ for module in modules}
    graphs = [graph, *(inner for _, inner in graph.get_subgraphs(recurse=True) if isinstance(inner, Pregel))]
    for each in graphs:
        for declared in _declared(each):
            found.add(declared)
        for node in each.nodes.values():
            homes.update(_homes(node.bound))
    for name in homes:
        for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
            if isinstance(value, type) and value.__module__ == name and _is_data(value):
                found.add(value)
    return frozenset(found.keys)


class _Found:
    def __init__(self) -> None:
        self.keys: set[TypeKey] = set()
        # By identity, and kept alive: not every annotation can be hashed.
        self._seen: dict[int, object] = {}

    def add(self, declared: Any) -> None:
        if id(declared) in self._seen:
            return
        self._seen[id(declared)] = declared
        if isinstance(declared, TypeVar):
            self.add(declared.__bound__)
            return
        for alias in ("__supertype__", "__value__"):  # NewType, and `type X = …`
            if not isinstance(declared, type) and hasattr(declared, alias):
                self.add(getattr(declared, alias))
        if get_origin(declared) is Literal:
            for value in get_args(declared):
                self.add(type(value))
            return
        # Of a generic class, as of lists, unions and Annotated: itself and what is in its brackets.
        for part in (get_origin(declared), *get_args(declared)):
            self.add(part)
        if get_origin(declared) is not None or not isinstance(declared, type):
            return
        if _is_data(declared):
            self.keys.add((declared.__module__, declared.__name__))
        if (_is_data(declared) and not issubclass(declared, Enum)) or is_typeddict(declared):
            for field in _fields(declared):
                self.add(field)


def _is_data(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind)
        or (issubclass(kind, BaseModel) and kind is not BaseModel)
        or (issubclass(kind, Enum) and kind.__module__ != "enum")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _fields(kind: type) -> list[Any]:
    try:
        return list(get_type_hints(kind, include_extras=True).values())
    except (NameError, TypeError, AttributeError):
        # One name that exists only for type checkers must not hide the other fields.
        if issubclass(kind, BaseModel):
            return [field.annotation for field in kind.model_fields.values()]
        return list(getattr(kind, "__annotations__", {}).values())


def _declared(graph: Pregel[Any, Any, Any, Any]) -> Iterator[Any]:
    for channel in graph.channels.values():
        for side in ("ValueType", "UpdateType"):
            yield getattr(channel, side, None)
    builder = getattr(graph, "builder", None)
    if builder is None:
        return
    yield from (builder.state_schema, builder.input_schema, builder.output_schema)
    for node in builder.nodes.values():
        yield node.input_schema
    for branches in builder.branches.values():
        for branch in branches.values():
            yield branch.input_schema


def _homes(bound: object) -> Iterator[str]:
    """The modules of the functions in a node."""
    for step in getattr(bound, "steps", None) or (bound,):
        for function in (getattr(step, "func", None), getattr(step, "afunc", None)):
            while isinstance(function, functools.partial):
                function = function.func
            if function is not None:
                home = getattr(inspect.unwrap(function), "__module__", None)
                if isinstance(home, str):
                    yield home
