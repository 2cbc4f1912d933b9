"""Which events a reader wants: by tag, by method, by namespace, and by task."""

from __future__ import annotations

import msgspec
from starlette.datastructures import QueryParams

from perdure.errors import InvalidRequest
from perdure.lifecycle.events import Event, Method, path_of
from perdure.lifecycle.ids import TaskId


class EventFilter(msgspec.Struct, frozen=True):
    """Every part that is set must match. `namespaces` match as prefixes of the readable names."""

    task_id: TaskId | None = None
    tags: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    namespaces: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def from_query(cls, query: QueryParams, task_id: TaskId | None) -> EventFilter:
        """`?tags=THOUGHT,ANSWER&channels=messages&namespaces=reflect/critic`; a parameter may also be repeated."""
        channels = frozenset(_words(query, "channels"))
        for channel in channels - frozenset(Method):
            raise InvalidRequest(("/channels", f"{channel[:40]!r} is no channel; there are: {', '.join(Method)}"))
        return cls(
            task_id,
            frozenset(word.upper() for word in _words(query, "tags")),
            channels,
            tuple(tuple(word.replace("|", "/").split("/")) for word in _words(query, "namespaces")),
        )

    @property
    def only_task(self) -> bool:
        """Is nothing asked but to whom the events belong?"""
        return not (self.tags or self.channels or self.namespaces)

    def passes(self, event: Event) -> bool:
        if self.task_id is not None and event.task_id != self.task_id:
            return False
        if self.tags and event.tag not in self.tags:
            return False
        if self.channels and event.method not in self.channels:
            return False
        if not self.namespaces:
            return True
        names = tuple(path_of(event.namespace.split("|"), None)) if event.namespace else ()
        return any(names[: len(wanted)] == wanted for wanted in self.namespaces)


def _words(query: QueryParams, name: str) -> list[str]:
    return [word for value in query.getlist(name) for word in value.split(",") if word]
