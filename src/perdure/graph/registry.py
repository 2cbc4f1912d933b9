"""Reads a `langgraph.json` as it is and loads the graphs it names."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias, get_type_hints

import msgspec
import orjson
from dotenv import dotenv_values
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from perdure.checkpoint.strict import StoredTypes, bind_types
from perdure.errors import ConfigurationError, GraphError, InvalidRequest, NotFound
from perdure.graph.failure import author_traceback
from perdure.graph.state_types import state_types
from perdure.lifecycle.ids import check_id

AnyGraph: TypeAlias = "Pregel[Any, Any, Any, Any]"


class GraphSpec(msgspec.Struct, frozen=True):
    """One entry of `graphs`: where the graph is. `source` is a file's path or a module's dotted name."""

    name: str
    source: str
    attribute: str
    description: str | None = None

    @property
    def is_file(self) -> bool:
        return "/" in self.source or self.source.endswith(".py")


@dataclasses.dataclass(frozen=True)
class LoadedGraph:
    """A graph that is ready to run. `graph` is the author's own object, or what a factory gave: never change it.

    `version` changes when the author's source or LangGraph's version does. `types` are the author's classes that its
    checkpoints may hold.
    """

    name: str
    graph: AnyGraph
    tier: str | None
    version: str
    description: str | None
    types: StoredTypes = frozenset()
    _factory: _Factory | None = None

    def bind(self, saver: BaseCheckpointSaver[Any], graph: AnyGraph | None = None) -> BaseCheckpointSaver[Any]:
        """The saver for this graph's checkpoints: it reads the author's classes back as what they were, and raises
        UndeclaredType on writing one that it could not read back. `graph` is what `opened` gave, if it may differ."""
        if self.types is True or graph is None or graph is self.graph:
            return bind_types(saver, self.types)
        return bind_types(saver, self.types | state_types(graph))

    @contextlib.asynccontextmanager
    async def opened(
        self, config: RunnableConfig, store: BaseStore | None = None, context: object = None
    ) -> AsyncIterator[AnyGraph]:
        """The graph for one task. A factory that wants the task's config or runtime, or that is a context manager, is
        called for each; whatever else was loaded once is shared."""
        if self._factory is None:
            yield self.graph
            return
        async with self._factory.made(config, store, context, running=True) as graph:
            yield graph

    def describe(self) -> dict[str, Any]:
        """Nodes with tier and tag, edges and subgraphs, JSON-ready; calls no code of the author's."""
        return {
            "name": self.name,
            "description": self.description,
            "tier": self.tier,
            "version": self.version,
            "input": _input_keys(self.graph),
            **_shape(self.graph),
        }


class GraphRegistry:
    """The graphs of one deployment, each imported at most once."""

    def __init__(
        self,
        specs: Sequence[GraphSpec],
        *,
        base: Path,
        store_index: Mapping[str, Any] | None = None,
        types: StoredTypes = frozenset(),
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._base = base
        self._types = types
        self._broken: dict[str, GraphError] = {}
        self._loaded: dict[str, LoadedGraph] = {}
        # One import at a time: authors' modules import one another, and Python's import locks can deadlock.
        self._importing = asyncio.Lock()
        self.store_index = store_index

    @classmethod
    def from_file(cls, path: Path) -> GraphRegistry:
        """Read the file, put its dependencies on the import path and its `env` into the environment.

        Loads nothing yet. Keys that are not about graphs are left to LangGraph's own tools. Raises ConfigurationError.
        """
        path = path.resolve()
        settings = _settings(path)
        base = path.parent
        for folder in reversed(_import_folders(settings, base, path)):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        for key, value in _environment(settings, base, path).items():
            os.environ.setdefault(key, value)
        store = settings.get("store")
        index = store.get("index") if isinstance(store, dict) else None
        return cls(_graph_specs(settings, path), base=base, store_index=index, types=_stored_types(settings, path))

    @classmethod
    def of(cls, graphs: Mapping[str, AnyGraph | StateGraph[Any, Any, Any, Any]]) -> GraphRegistry:
        """Serve graphs that are in memory already; for tests and for embedding. They have no version."""
        registry = cls([GraphSpec(name, "memory", name) for name in graphs], base=Path())
        for name, made in graphs.items():
            graph = _compiled(made, f"graph {name!r}")
            tier = _tier(graph, f"graph {name!r}")
            registry._loaded[name] = LoadedGraph(name, graph, tier, "", None, state_types(graph))
        return registry

    @property
    def names(self) -> tuple[str, ...]:
        """The graphs that the file names, loaded or not, in its order."""
        return tuple(self._specs)

    async def load(self, name: str) -> LoadedGraph:
        """Import a graph, or return it if it is loaded. Raises NotFound for an unknown name and GraphError, with the
        author's own traceback, for a graph that cannot be loaded; a later call tries again."""
        loaded = self._loaded.get(name)
        if loaded is not None:
            return loaded
        spec = self._specs.get(name)
        if spec is None:
            raise NotFound(f"no graph is named {name!r}; served are: {', '.join(self._specs) or 'none'}")
        async with self._importing:
            if name not in self._loaded:
                try:
                    self._loaded[name] = await self._load(spec)
                except GraphError as error:
                    self._broken[name] = error
                    raise
                self._broken.pop(name, None)
        return self._loaded[name]

    async def load_all(self) -> Sequence[LoadedGraph]:
        """Load every graph that can be loaded; `broken` tells of the others."""
        loaded = []
        for name in self._specs:
            with contextlib.suppress(GraphError):
                loaded.append(await self.load(name))
        return loaded

    @property
    def broken(self) -> Mapping[str, GraphError]:
        """The graphs whose last load failed, each with its error. They are not given up: the next `load` tries anew."""
        return dict(self._broken)

    async def _load(self, spec: GraphSpec) -> LoadedGraph:
        where = f"graph {spec.name!r} ({spec.source}:{spec.attribute})"
        try:
            module = await asyncio.to_thread(_import, spec, self._base)
        except GraphError:
            raise
        except (Exception, SystemExit) as error:
            raise GraphError(f"{where} cannot be imported:\n{author_traceback(error)}") from error
        found = getattr(module, spec.attribute, None)
        if found is None:
            names = [key for key, value in vars(module).items() if isinstance(value, Pregel | StateGraph)]
            raise GraphError(
                f"{where}: {module.__name__} has no {spec.attribute!r}; "
                f"graphs in it: {', '.join(names) or 'none'}; mend the entry in langgraph.json"
            )
        factory = None
        try:
            if callable(found) and not isinstance(found, Pregel | StateGraph | type):
                factory = _Factory(found, where)
                async with factory.made({"configurable": {}}, None, None, running=False) as made:
                    graph = made
            else:
                graph = _compiled(found, where)
        except GraphError:
            raise
        except (Exception, SystemExit) as error:
            raise GraphError(f"{where} cannot be made:\n{author_traceback(error)}") from error
        return LoadedGraph(
            name=spec.name,
            graph=graph,
            tier=_tier(graph, where),
            version=await asyncio.to_thread(_version, module),
            description=spec.description,
            types=True if self._types is True else self._types | state_types(graph, [module]),
            _factory=factory if factory is not None and factory.per_task else None,
        )


class _Factory:
    """An author's function that makes the graph, in any of the shapes that LangGraph's own server accepts."""

    def __init__(self, function: Callable[..., Any], where: str) -> None:
        self._function = function
        self._where = where
        self._wants = [_wanted(parameter, where) for parameter in _required(function)]
        inner = inspect.unwrap(function)
        is_context = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
        self.per_task = bool(self._wants) or is_context

    @contextlib.asynccontextmanager
    async def made(
        self, config: RunnableConfig, store: BaseStore | None, context: object, *, running: bool
    ) -> AsyncIterator[AnyGraph]:
        given: dict[str, object] = {"config": config, "runtime": _server_runtime(store, context, running=running)}
        arguments = {name: given[kind] for name, kind in self._wants}
        made = self._function(**arguments)
        if inspect.isasyncgen(made):
            made = contextlib.asynccontextmanager(self._function)(**arguments)
        elif inspect.isgenerator(made):
            made = contextlib.contextmanager(self._function)(**arguments)
        if inspect.isawaitable(made):
            made = await made
        async with contextlib.AsyncExitStack() as stack:
            # A compiled graph is no context manager, so these can be told apart by their type alone.
            if isinstance(made, AbstractAsyncContextManager):
                made = await stack.enter_async_context(made)
            elif isinstance(made, AbstractContextManager):
                made = stack.enter_context(made)
            yield _compiled(made, self._where)


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and (parameter.default is inspect.Parameter.empty or _kind(parameter) is not None)
    ]


def _wanted(parameter: inspect.Parameter, where: str) -> tuple[str, str]:
    kind = _kind(parameter)
    if kind is None:
        raise GraphError(
            f"{where}: its factory wants {parameter.name!r}; it may take nothing, `config: RunnableConfig`, "
            "`runtime: ServerRuntime`, or both"
        )
    return parameter.name, kind


def _kind(parameter: inspect.Parameter) -> str | None:
    annotation = str(parameter.annotation)
    if parameter.name == "runtime" or "Runtime" in annotation:
        return "runtime"
    if parameter.name == "config" or "RunnableConfig" in annotation:
        return "config"
    return None


def _server_runtime(store: BaseStore | None, context: object, *, running: bool) -> object:
    """What LangGraph's server hands to factories: with `execution_runtime` only when a task is going to run."""
    from langgraph_sdk import runtime as sdk

    if running:
        return sdk._ExecutionRuntime(access_context="threads.create_run", store=store, context=context)  # type: ignore[arg-type]
    return sdk._ReadRuntime(access_context="assistants.read", store=store)  # type: ignore[arg-type]


def _compiled(made: object, where: str) -> AnyGraph:
    if isinstance(made, Pregel):
        return made
    if isinstance(made, StateGraph):
        return made.compile()
    raise GraphError(f"{where} is a {type(made).__name__}, not a LangGraph graph, nor a function that makes one")


# --- the file


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); name the file with --config, or make one with `perdure init`"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f'{path} must hold an object with "graphs"')
    return settings


def _graph_specs(settings: Mapping[str, Any], path: Path) -> list[GraphSpec]:
    graphs = settings.get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        raise ConfigurationError(f'{path} names no graphs; add "graphs": {{"agent": "./agent.py:graph"}}')
    specs = []
    for name, entry in graphs.items():
        address = entry.get("path") if isinstance(entry, dict) else entry
        if not isinstance(address, str) or not re.fullmatch(r".+:[A-Za-z_]\w*", address):
            raise ConfigurationError(
                f'{path}: graph {name!r} must be "./folder/file.py:name" or "package.module:name", not {address!r}'
            )
        source, _, attribute = address.rpartition(":")
        about = entry.get("description") if isinstance(entry, dict) else None
        specs.append(GraphSpec(name, source, attribute, about))
    return specs


def _import_folders(settings: Mapping[str, Any], base: Path, path: Path) -> list[str]:
    """Local dependencies, with their `src` where they have one. Packages by name are there or are missed on import."""
    folders = []
    for dependency in settings.get("dependencies") or ["."]:
        if not isinstance(dependency, str):
            raise ConfigurationError(f"{path}: dependencies must be texts, not {dependency!r}")
        if not dependency.startswith((".", "/")):
            continue
        folder = (base / dependency).resolve()
        if not folder.is_dir():
            raise ConfigurationError(f"{path}: dependency {dependency!r} is no folder ({folder})")
        folders.append(str(folder))
        if (folder / "src").is_dir():
            folders.append(str(folder / "src"))
    return folders


def _environment(settings: Mapping[str, Any], base: Path, path: Path) -> dict[str, str]:
    env = settings.get("env")
    if not env:
        return {}
    if isinstance(env, dict):
        return {str(key): str(value) for key, value in env.items()}
    if not isinstance(env, str):
        raise ConfigurationError(f'{path}: "env" must be the path of a file or an object of variables')
    file = base / env
    try:
        text = file.read_text()
    except OSError as error:
        raise ConfigurationError(f"{path}: env file {file} cannot be read ({error.strerror})") from error
    return {key: value for key, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def _stored_types(settings: Mapping[str, Any], path: Path) -> StoredTypes:
    """The classes that LangGraph's own setting lets checkpoints hold beside those that the graphs declare."""
    checkpointer = settings.get("checkpointer")
    serde = checkpointer.get("serde") if isinstance(checkpointer, dict) else None
    allowed = serde.get("allowed_msgpack_modules") if isinstance(serde, dict) else None
    if allowed is None or allowed is True:
        return allowed or frozenset()
    if not isinstance(allowed, list) or not all(
        isinstance(entry, list) and len(entry) > 1 and all(isinstance(part, str) for part in entry) for entry in allowed
    ):
        raise ConfigurationError(
            f"{path}: checkpointer.serde.allowed_msgpack_modules must be true or a list of "
            f'["package.module", "Class"], not {allowed!r}'
        )
    return frozenset((".".join(entry[:-1]), entry[-1]) for entry in allowed)


# --- the author's modules


def _import(spec: GraphSpec, base: Path) -> ModuleType:
    if not spec.is_file:
        return importlib.import_module(spec.source)
    file = (base / spec.source).resolve()
    if not file.is_file():
        raise GraphError(f"graph {spec.name!r}: there is no file {file}; mend the entry in langgraph.json")
    dotted = _package_name(file)
    if dotted is not None:
        # Inside a package, so that its relative imports work.
        root = str(file.parents[dotted.count(".")])
        if root not in sys.path:
            sys.path.append(root)
        module = importlib.import_module(dotted)
        if Path(module.__file__ or "").resolve() == file:
            return module
    return _import_file(file, base)


def _package_name(file: Path) -> str | None:
    parts = [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) if len(parts) > 1 and all(part.isidentifier() for part in parts) else None


def _import_file(file: Path, base: Path) -> ModuleType:
    # Checkpoints name the classes they hold by their module, so the name must be the same in every worker.
    relative = os.path.relpath(file, base).removesuffix(".py")
    name = re.sub(r"\W+", "__", relative).strip("_") or file.stem
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == file:
        return loaded
    if loaded is not None or name in sys.stdlib_module_names:
        name = f"{name}__{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise GraphError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _version(module: ModuleType) -> str:
    """A digest of the module's package, or of its file, and of LangGraph's version."""
    digest = hashlib.sha256(importlib.metadata.version("langgraph").encode())
    top = sys.modules.get(module.__name__.partition(".")[0])
    package = Path(top.__file__).parent if top is not None and top.__file__ and hasattr(top, "__path__") else None
    files = sorted(package.rglob("*.py")) if package else [Path(module.__file__)] if module.__file__ else []
    for file in files:
        digest.update(str(file.relative_to(package) if package else file.name).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# --- the graph's shape

_HIDDEN: Final = frozenset(("__start__", "__end__"))


def _perdure(holder: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The author's `{"perdure": {…}}` in a config's or a node's metadata."""
    about = ((holder or {}).get("metadata") or {}).get("perdure")
    return about if isinstance(about, Mapping) else {}


def _tier(graph: AnyGraph, where: str) -> str | None:
    """The graph's own tier. Raises GraphError if it, or that of a node of the graph or of a subgraph, is not an id."""
    named = [("the graph", _perdure(graph.config).get("tier"))]
    for path, inner in [("", graph), *graph.get_subgraphs(recurse=True)]:
        for name, node in inner.nodes.items() if isinstance(inner, Pregel) else ():
            place = f"{path}|{name}".strip("|").replace("|", "/")
            named.append((f"node {place!r}", _perdure({"metadata": node.metadata}).get("tier")))
    for who, tier in named:
        if tier is None:
            continue
        try:
            check_id(tier if isinstance(tier, str) else repr(tier), "")
        except InvalidRequest:
            raise GraphError(
                f"{where}: {who} has the tier {tier!r} in its metadata; a tier is 1 to 128 characters out of "
                "A-Z a-z 0-9 _ . : @ -, the first a letter or a digit"
            ) from None
    own = named[0][1]
    return own if isinstance(own, str) else None


def _shape(graph: AnyGraph) -> dict[str, Any]:
    subgraphs = dict(graph.get_subgraphs())
    nodes = []
    for name, node in graph.nodes.items():
        if name in _HIDDEN:
            continue
        about = _perdure({"metadata": node.metadata})
        inner = subgraphs.get(name)
        nodes.append(
            {
                "name": name,
                "tier": about.get("tier"),
                "tag": about.get("tag"),
                "subgraph": _shape(inner) if isinstance(inner, Pregel) else None,
            }
        )
    drawn = graph.get_graph()
    edges = [
        {"source": edge.source, "target": edge.target, "conditional": edge.conditional, "label": edge.data}
        for edge in drawn.edges
    ]
    return {"nodes": nodes, "edges": orjson.loads(orjson.dumps(edges, default=str))}


def _input_keys(graph: AnyGraph) -> dict[str, str] | None:
    """The keys that a graph's input may have, each with its type as text. None where the graph does not say.

    Not JSON Schema: pydantic makes none of a plain TypedDict on Python 3.11, which is what most graphs declare.
    """
    schema = getattr(getattr(graph, "builder", None), "input_schema", None)
    try:
        hints = get_type_hints(schema) if isinstance(schema, type) else {}
    except (NameError, TypeError):
        return None
    return {name: getattr(hint, "__name__", str(hint)) for name, hint in hints.items()} or None
