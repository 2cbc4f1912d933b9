"""The whole graph: from a question to an answer, back when the critic objects, and out when the rounds are used up."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import analyst.graph
import pytest
from analyst.graph import ROUNDS_MAX, graph
from analyst.offline.roles import EXAMPLES, NOT_A_MODEL
from analyst.questions import DEMO_QUESTIONS
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

pytestmark = pytest.mark.anyio


class Scripted(GenericFakeChatModel):
    """Says what it was given, in order, as a model from outside would."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files that the graph hands out."""
    files: dict[str, bytes] = {}
    monkeypatch.setattr(analyst.graph, "artifact", lambda name, data, media_type: files.update({name: data}))
    return files


async def nodes(question: str) -> AsyncIterator[tuple[str, ...]]:
    async for part in graph.astream({"question": question}, version="v2", subgraphs=True, stream_mode="updates"):
        outer = tuple(piece.split(":")[0] for piece in part["ns"])
        for name in part["data"]:
            yield (*outer, name)


async def test_the_steps_come_in_order_and_nest(database: Path) -> None:
    """Plan, query, reflect, synthesize; planner and critic speak from namespaces of their own."""
    seen = [step async for step in nodes(DEMO_QUESTIONS[0])]
    assert seen == [
        ("begin",), ("plan", "inspect"), ("plan", "planner"), ("plan",), ("query",), ("reflect", "critic"),
        ("reflect", "decide"), ("reflect",), ("synthesize",),
    ]  # fmt: skip


async def test_a_thin_sample_sends_it_back_to_the_query(database: Path) -> None:
    """One flight to Lexington must not lead a ranking of averages, and the second query leaves it out."""
    out = await graph.ainvoke({"question": DEMO_QUESTIONS[1]})
    assert out["rounds"] == 2
    assert "HAVING count(flights.arr_delay) >= 30" in out["sql"]
    assert out["rows"][0][0] == "SNA"
    assert all(row[-1] >= 30 for row in out["rows"])
    assert "fewer than 30 rows" in out["answer"]


async def test_a_nameless_group_sends_it_back_to_the_query(database: Path) -> None:
    """Flights of unknown aircraft make a group without a name that the second query leaves out."""
    out = await graph.ainvoke({"question": "Which aircraft model is used the most?"})
    assert out["rounds"] == 2
    assert out["rows"][0][:2] == ["AIRBUS", "A320-232"]


async def test_nothing_found_sends_it_back_to_the_plan(database: Path) -> None:
    """No flight leaves Chicago here, so the second plan finds out which condition is at fault."""
    seen = [step async for step in nodes("How many flights from Chicago were there in July?")]
    assert seen.count(("plan",)) == 2
    out = await graph.ainvoke({"question": "How many flights from Chicago were there in July?"})
    assert out["rounds"] == 2
    assert out["rows"] == [[336776, 29425, 0, 0]]
    assert "Nothing in the data fits" in out["answer"]
    assert "29,425 fulfil “july”" in out["answer"]


async def test_a_question_that_is_not_understood_ends_well(database: Path) -> None:
    """It says so, says what it can do and gives three examples, all of which it understands."""
    assert [step[-1] async for step in nodes("How many passengers flew?")][-1] == "synthesize"
    out = await graph.ainvoke({"question": "How many passengers flew?"})
    assert out["answer"].startswith("I could not understand this question.")
    assert "passengers" in out["answer"]
    assert all(example in out["answer"] for example in EXAMPLES)
    assert (out["rounds"], out["artifacts"], out["sql"]) == (0, [], "")
    for example in EXAMPLES:
        assert (await graph.ainvoke({"question": example}))["rows"]


async def test_the_whole_table_is_handed_out(database: Path, kept: dict[str, bytes]) -> None:
    """`answer.csv` holds every row, not only those that the answer names."""
    out = await graph.ainvoke({"question": "average arrival delay by destination"})
    rows = list(csv.reader(io.StringIO(kept["answer.csv"].decode())))
    assert rows[0] == out["columns"]
    assert len(rows) == 1 + len(out["rows"]) == 106
    assert out["artifacts"] == [{"name": "answer.csv", "media_type": "text/csv", "rows": 105}]


@pytest.mark.parametrize("question", DEMO_QUESTIONS)
async def test_a_demo_question_is_answered_quickly(question: str, database: Path) -> None:
    """Without pauses between the tokens each costs under a second of CPU, and the answer says who gave it."""
    await graph.ainvoke({"question": question})
    started = time.process_time()
    out = await graph.ainvoke({"question": question})
    assert time.process_time() - started < 1.0
    assert NOT_A_MODEL in out["answer"]
    assert not out["error"]


async def test_a_thread_keeps_its_state_and_takes_another_question(database: Path) -> None:
    """On one thread the second question starts clean, while the messages of both are kept."""
    saved = graph.builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    first = await saved.ainvoke({"question": DEMO_QUESTIONS[1]}, config)
    second = await saved.ainvoke({"question": "How many airlines are there?"}, config)
    assert (first["rounds"], second["rounds"]) == (2, 1)
    assert second["rows"] == [[16]]
    state = (await saved.aget_state(config)).values
    assert "fewer" not in state["critique"]
    asked = [message for message in state["messages"] if message.type == "human"]
    assert [message.text for message in asked] == [DEMO_QUESTIONS[1], "How many airlines are there?"]


async def test_the_state_is_plain(database: Path) -> None:
    """Everything but the messages is JSON, and all of it survives the allow-listed serializer."""
    saved = graph.builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    await saved.ainvoke({"question": "Which flight had the longest departure delay?"}, config)
    state = (await saved.aget_state(config)).values
    json.dumps({key: value for key, value in state.items() if key != "messages"}, allow_nan=False)
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    back = serde.loads_typed(serde.dumps_typed(state))
    assert [message.content for message in back["messages"]] == [message.content for message in state["messages"]]
    ids = [message.id for message in state["messages"]]
    assert len(set(ids)) == len(ids)


async def test_an_interrupted_run_goes_on_where_it_stopped(database: Path) -> None:
    """Stopped before the critic, another run on the same thread plans and queries nothing again."""
    saved = graph.builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    await saved.ainvoke({"question": DEMO_QUESTIONS[0]}, config, interrupt_before=["reflect"])
    ran = [name async for part in saved.astream(None, config, stream_mode="updates") for name in part]
    assert ran == ["reflect", "synthesize"]


def says(*replies: AIMessage | str) -> Iterator[AIMessage]:
    return iter([reply if isinstance(reply, AIMessage) else AIMessage(reply) for reply in replies])


def calls(sql: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "run_sql", "args": {"sql": sql}, "id": "c1"}])


async def test_a_refused_query_is_an_error_that_the_critic_sees(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that reaches for a file is told no and tries again; the task goes on."""
    model = Scripted(
        messages=says(
            "Read a file.",
            calls("SELECT * FROM read_csv('/etc/passwd')"),
            "Not allowed.\nVERDICT: REVISE",
            calls("SELECT count(*) AS airlines FROM airlines"),
            "VERDICT: ACCEPT",
            "There are 16.",
        )
    )
    monkeypatch.setattr(analyst.graph, "chat_model", lambda: model)
    saved = graph.builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    out = await saved.ainvoke({"question": "How many airlines?"}, config)
    assert (out["answer"], out["rows"], out["error"], out["rounds"]) == ("There are 16.", [[16]], "", 2)
    told = [m.text for m in (await saved.aget_state(config)).values["messages"] if m.type == "tool"]
    assert "read_csv is not allowed" in told[0]


async def test_rounds_are_bounded_and_the_end_is_honest(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never calls the tool, under a critic that never agrees, ends after three rounds and says so."""
    rounds = ["I would rather not.", "No query.\nVERDICT: REVISE"] * ROUNDS_MAX
    model = Scripted(messages=says("A plan.", *rounds, "I could not answer."))
    monkeypatch.setattr(analyst.graph, "chat_model", lambda: model)
    out = await graph.ainvoke({"question": "How many airlines?"})
    assert out["rounds"] == ROUNDS_MAX
    assert "wrote no query" in out["error"]
    assert out["answer"].startswith("I could not answer.")
    assert "the critic was still not satisfied" in out["answer"]
    assert out["artifacts"] == []


def test_langgraph_json_names_this_graph() -> None:
    """The file that LangGraph's own command line reads points at the compiled graph, and tags are set."""
    folder = Path(analyst.graph.__file__).parents[1]
    named = json.loads((folder / "langgraph.json").read_text())["graphs"]["analyst"]
    path, _, attribute = named.partition(":")
    assert (folder / path).samefile(analyst.graph.__file__)
    assert getattr(analyst.graph, attribute) is graph
    critic = graph.builder.nodes["reflect"].runnable.builder.nodes["critic"]
    assert critic.metadata == {"perdure": {"tag": "CRITIC_EVAL"}}
