"""`langgraph.json` is read as it is: every shape of address and factory, and graphs that are broken."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from perdure.errors import ConfigurationError, GraphError, NotFound
from perdure.graph.registry import GraphRegistry

pytestmark = pytest.mark.anyio

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    n: int

def add(state: State) -> State:
    return {"n": state["n"] + 1}

builder = StateGraph(State)
builder.add_node("add", add, metadata={"perdure": {"tier": "gpu", "tag": "TOOL_USE"}})
builder.add_edge(START, "add")
graph = builder.compile()
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Write files into a fresh folder and get the path of its langgraph.json; forget their modules afterwards."""
    modules, path, environment = set(sys.modules), list(sys.path), dict(os.environ)

    def write(config: dict[str, Any] | str, **files: str) -> Path:
        for name, text in files.items():
            file = tmp_path / name.replace("__", "/")
            file = file.with_suffix(".py") if "." not in name else tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        target = tmp_path / "langgraph.json"
        target.write_bytes(config.encode() if isinstance(config, str) else orjson.dumps(config))
        return target

    yield write
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize(
    "entry",
    ["./agent.py:graph", {"path": "./agent.py:graph", "description": "adds"}, "agent:graph", "./agent.py:builder"],
)
async def test_a_graph_is_found_by_file_and_by_module_compiled_or_not(project: Any, entry: Any) -> None:
    path = project({"graphs": {"adder": entry}, "dependencies": ["."], "http": {"ignored": True}}, agent=GRAPH)
    registry = GraphRegistry.from_file(path)
    assert registry.names == ("adder",)
    loaded = await registry.load("adder")
    assert await loaded.graph.ainvoke({"n": 1}) == {"n": 2}
    assert loaded is await registry.load("adder")
    shape = loaded.describe()
    assert shape["nodes"] == [{"name": "add", "tier": "gpu", "tag": "TOOL_USE", "subgraph": None}]
    assert {"source": "add", "target": "__end__"}.items() <= shape["edges"][-1].items()
    assert shape["description"] == (entry["description"] if isinstance(entry, dict) else None)
    orjson.dumps(shape)


async def test_a_file_in_a_package_can_import_its_neighbours(project: Any) -> None:
    path = project(
        {"graphs": {"adder": "./src/my_pkg/agent.py:graph"}, "dependencies": ["."]},
        src__my_pkg____init__="",
        src__my_pkg__parts=GRAPH,
        src__my_pkg__agent="from .parts import graph",
    )
    (path.parent / "src/my_pkg/__init__.py").write_text("")
    loaded = await GraphRegistry.from_file(path).load("adder")
    assert await loaded.graph.ainvoke({"n": 1}) == {"n": 2}


@pytest.mark.parametrize(
    "factory",
    [
        "def make(): return builder",
        "async def make(): return graph",
        "def make(config): return graph",
        "from langchain_core.runnables import RunnableConfig\ndef make(c: RunnableConfig): return builder",
        "async def make(runtime): assert runtime.store is None; return graph",
        "def make(config, runtime): return graph",
        "import contextlib\n@contextlib.asynccontextmanager\nasync def make(): yield graph",
        "import contextlib\n@contextlib.contextmanager\ndef make(config): yield builder",
        "async def make(config):\n    yield graph",
        "def make(limit=3): return graph",
    ],
)
async def test_every_shape_of_factory_is_called(project: Any, factory: str) -> None:
    path = project({"graphs": {"adder": "./agent.py:make"}}, agent=f"{GRAPH}\n{factory}\n")
    loaded = await GraphRegistry.from_file(path).load("adder")
    async with loaded.opened({"configurable": {}}) as graph:
        assert await graph.ainvoke({"n": 1}) == {"n": 2}


async def test_a_factory_that_takes_the_config_is_called_for_every_task(project: Any) -> None:
    source = GRAPH + (
        "seen, closed = [], []\nimport contextlib\n@contextlib.asynccontextmanager\n"
        "async def make(config, runtime):\n"
        "    ert = runtime.execution_runtime\n"
        "    seen.append((config['configurable'].get('user'), ert and ert.context))\n"
        "    yield graph\n    closed.append(1)\n"
    )
    path = project({"graphs": {"adder": "./per_task.py:make"}}, per_task=source)
    loaded = await GraphRegistry.from_file(path).load("adder")
    for user in "ab":
        async with loaded.opened({"configurable": {"user": user}}, context={"of": user}):
            pass
    module = sys.modules["per_task"]
    assert module.seen == [(None, None), ("a", {"of": "a"}), ("b", {"of": "b"})]
    assert len(module.closed) == 3


async def test_a_functional_entrypoint_is_a_graph(project: Any) -> None:
    source = "from langgraph.func import entrypoint\n@entrypoint()\ndef flow(n: int) -> int:\n    return n + 1\n"
    path = project({"graphs": {"flow": "./flow.py:flow"}}, flow=source)
    loaded = await GraphRegistry.from_file(path).load("flow")
    assert await loaded.graph.ainvoke(1) == 2


async def test_a_broken_graph_tells_the_authors_own_traceback_and_nothing_else(project: Any) -> None:
    source = "import json\n\ndef load():\n    return json.loads('not json')\n\ngraph = load()\n"
    path = project({"graphs": {"bad": "./bad.py:graph"}}, bad=source)
    with pytest.raises(GraphError) as caught:
        await GraphRegistry.from_file(path).load("bad")
    told = str(caught.value)
    assert "graph 'bad' (./bad.py:graph) cannot be imported" in told
    assert 'bad.py", line 6, in <module>' in told
    assert "JSONDecodeError" in told
    assert "perdure" not in told.replace(str(path.parent), "")
    assert "importlib" not in told


async def test_a_mended_graph_loads_the_next_time(project: Any) -> None:
    path = project({"graphs": {"adder": "./mended.py:graph"}}, mended="graph = 1 / 0")
    registry = GraphRegistry.from_file(path)
    with pytest.raises(GraphError, match="ZeroDivisionError"):
        await registry.load("adder")
    (path.parent / "mended.py").write_text(GRAPH + "# longer than before\n")
    await registry.load("adder")


@pytest.mark.parametrize(
    ("address", "source", "words"),
    [
        ("./agent.py:nothing", GRAPH, "no 'nothing'; graphs in it: builder, graph"),
        ("./agent.py:State", GRAPH, "not a LangGraph graph"),
        ("./agent.py:make", GRAPH + "def make(user, config): return graph", "its factory wants 'user'"),
        ("./agent.py:make", GRAPH + "def make(): raise SystemExit(3)", "SystemExit"),
        ("./missing.py:graph", GRAPH, "there is no file"),
        ("no_such_module_here:graph", GRAPH, "ModuleNotFoundError"),
    ],
)
async def test_a_graph_that_cannot_be_loaded_says_what_to_mend(
    project: Any, address: str, source: str, words: str
) -> None:
    path = project({"graphs": {"x": address}}, agent=source)
    with pytest.raises(GraphError, match=words):
        await GraphRegistry.from_file(path).load("x")


async def test_an_unknown_graph_is_not_found_and_the_known_ones_are_named(project: Any) -> None:
    registry = GraphRegistry.from_file(project({"graphs": {"adder": "./agent.py:graph"}}, agent=GRAPH))
    with pytest.raises(NotFound, match="served are: adder"):
        await registry.load("other")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ({}, "names no graphs"),
        ({"graphs": {"x": "agent.py"}}, "graph 'x' must be"),
        ({"graphs": {"x": 3}}, "graph 'x' must be"),
        ({"graphs": {"x": "./a.py:g"}, "dependencies": ["./gone"]}, "is no folder"),
        ({"graphs": {"x": "./a.py:g"}, "env": "./gone.env"}, "cannot be read"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(project: Any, config: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GraphRegistry.from_file(project(config))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="perdure init"):
        GraphRegistry.from_file(tmp_path / "langgraph.json")


@pytest.mark.parametrize("form", ["file", "object"])
def test_env_fills_what_is_not_set_and_overrides_nothing(project: Any, form: str) -> None:
    os.environ["PERDURE_TEST_SET"] = "mine"
    (values, env) = ({"PERDURE_TEST_SET": "theirs", "PERDURE_TEST_NEW": "new"}, "./.env")
    path = project({"graphs": {"x": "./a.py:g"}, "env": values if form == "object" else env})
    (path.parent / ".env").write_text("PERDURE_TEST_SET=theirs\nPERDURE_TEST_NEW=new\n")
    GraphRegistry.from_file(path)
    assert (os.environ["PERDURE_TEST_SET"], os.environ["PERDURE_TEST_NEW"]) == ("mine", "new")


def test_the_stores_index_is_handed_on(project: Any) -> None:
    index = {"dims": 3, "embed": "openai:text-embedding-3-small"}
    registry = GraphRegistry.from_file(project({"graphs": {"x": "./a.py:g"}, "store": {"index": index}}))
    assert registry.store_index == index


async def test_the_version_changes_with_the_source(project: Any) -> None:
    path = project({"graphs": {"adder": "./versioned.py:graph"}}, versioned=GRAPH)
    first = (await GraphRegistry.from_file(path).load("adder")).version
    del sys.modules["versioned"]
    (path.parent / "versioned.py").write_text(GRAPH + "\n# changed\n")
    second = (await GraphRegistry.from_file(path).load("adder")).version
    assert first != second


async def test_a_graphs_tier_is_read_from_its_config(project: Any) -> None:
    source = GRAPH + "graph = graph.with_config(metadata={'perdure': {'tier': 'light'}})\n"
    loaded = await GraphRegistry.from_file(project({"graphs": {"x": "./tiered.py:graph"}}, tiered=source)).load("x")
    assert loaded.tier == "light"


async def test_a_broken_graph_does_not_keep_the_others_from_loading(project: Any) -> None:
    path = project(
        {"graphs": {"broken": "./broken.py:graph", "adder": "./agent.py:graph"}}, agent=GRAPH, broken="1 / 0"
    )
    registry = GraphRegistry.from_file(path)
    assert [loaded.name for loaded in await registry.load_all()] == ["adder"]
    assert list(registry.broken) == ["broken"]
    assert "ZeroDivisionError" in str(registry.broken["broken"])
    project({"graphs": {}}, broken=GRAPH)
    await registry.load("broken")
    assert not registry.broken


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GRAPH.replace('"gpu"', '"big gpu"'), "node 'add' has the tier 'big gpu'"),
        (GRAPH.replace('"gpu"', "7 * [1]"), "node 'add' has the tier"),
        (
            GRAPH + 'graph = graph.with_config(metadata={"perdure": {"tier": "/"}})\n',
            "the graph has the tier '/'",
        ),
        (
            GRAPH.replace('"gpu"', '"g/p"') + "outer = StateGraph(State)\nouter.add_node('sub', graph)\n"
            "outer.add_edge(START, 'sub')\ngraph = outer\n",
            "node 'sub/add' has the tier 'g/p'",
        ),
    ],
)
async def test_a_tier_that_is_no_id_is_refused_at_load_and_its_node_named(project: Any, text: str, words: str) -> None:
    registry = GraphRegistry.from_file(project({"graphs": {"adder": "./agent.py:graph"}}, agent=text))
    with pytest.raises(GraphError, match=re.escape(words)):
        await registry.load("adder")


@pytest.mark.parametrize(
    ("allowed", "types"),
    [([["http", "HTTPMethod"]], {("http", "HTTPMethod")}), ([["a", "b", "C"]], {("a.b", "C")}), (None, set())],
)
async def test_langgraphs_own_setting_adds_classes_that_checkpoints_may_hold(
    project: Any, allowed: Any, types: Any
) -> None:
    config = {"graphs": {"adder": "./agent.py:graph"}, "checkpointer": {"serde": {"allowed_msgpack_modules": allowed}}}
    loaded = await GraphRegistry.from_file(project(config, agent=GRAPH)).load("adder")
    assert loaded.types == types


async def test_all_classes_can_be_allowed_and_a_malformed_setting_is_refused(project: Any) -> None:
    graphs = {"graphs": {"adder": "./agent.py:graph"}}
    path = project({**graphs, "checkpointer": {"serde": {"allowed_msgpack_modules": True}}}, agent=GRAPH)
    assert (await GraphRegistry.from_file(path).load("adder")).types is True
    path = project({**graphs, "checkpointer": {"serde": {"allowed_msgpack_modules": ["http.HTTPMethod"]}}})
    with pytest.raises(ConfigurationError, match="allowed_msgpack_modules must be"):
        GraphRegistry.from_file(path)
