"""Durable LangGraph agents: what a graph's author and a client of Perdure import.

Everything is loaded when it is first used, so that `import perdure` costs nothing in a command or a graph.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from perdure.client import AsyncClient, Client
    from perdure.graph.author import artifact, emit, idempotency_key

    __version__: str

__all__ = ["AsyncClient", "Client", "__version__", "artifact", "emit", "idempotency_key"]

_HOMES: Final = {
    "AsyncClient": "perdure.client",
    "Client": "perdure.client",
    "artifact": "perdure.graph.author",
    "emit": "perdure.graph.author",
    "idempotency_key": "perdure.graph.author",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        # Reading the version of an installed package takes longer than `perdure --help` may.
        return import_module("importlib.metadata").version("perdure")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    return getattr(import_module(home), name)
