"""The offline chat model: the shape of what it streams, and how a model is chosen."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from analyst.dataset import schema_text
from analyst.model import chat_model
from analyst.offline.roles import NOT_A_MODEL
from analyst.offline_model import OfflineChatModel
from analyst.prompts import CANNOT, Outcome, Role, Verdict, prompt, read_verdict
from analyst.questions import DEMO_QUESTIONS, switch_hint
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool

QUESTION = DEMO_QUESTIONS[1]


@tool
def run_sql(sql: str) -> str:
    """Run SQL."""
    return sql


@pytest.fixture
def messages(database: Path) -> list[BaseMessage]:
    return prompt(Role.SQL_WRITER, QUESTION, schema_text(database), plan="Average the delay.")


async def collect(model: OfflineChatModel, messages: list[BaseMessage]) -> list[AIMessageChunk]:
    return [chunk async for chunk in model.bind_tools([run_sql]).astream(messages) if isinstance(chunk, AIMessageChunk)]


@pytest.mark.anyio
async def test_it_streams_reasoning_then_a_tool_call_in_pieces(messages: list[BaseMessage]) -> None:
    """Many small chunks, each one content block of the v1 form, that add up to one whole tool call."""
    chunks = await collect(OfflineChatModel(pace_s=0), messages)
    kinds = [block["type"] for chunk in chunks for block in chunk.content_blocks]
    assert len(chunks) > 40
    assert list(dict.fromkeys(kinds)) == ["reasoning", "tool_call_chunk"]
    assert len({chunk.id for chunk in chunks}) == 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [block["type"] for block in whole.content_blocks] == ["reasoning", "tool_call"]
    (call,) = whole.tool_calls
    assert call["name"] == "run_sql"
    assert call["args"]["sql"].startswith("SELECT flights.dest AS destination")
    usage = whole.usage_metadata
    assert usage is not None
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] == len(chunks) - 1
    json.dumps(whole.content)


@pytest.mark.anyio
async def test_streaming_and_asking_at_once_give_the_same(messages: list[BaseMessage]) -> None:
    """`invoke`, `ainvoke`, `stream` and `astream` end in the same words and the same call."""
    model = OfflineChatModel(pace_s=0).bind_tools([run_sql])
    asked, streamed = model.invoke(messages), None
    for chunk in model.stream(messages):
        streamed = chunk if streamed is None else streamed + chunk
    assert isinstance(streamed, AIMessageChunk)
    awaited = await model.ainvoke(messages)
    assert asked.tool_calls == awaited.tool_calls == streamed.tool_calls
    assert asked.content_blocks == awaited.content_blocks == streamed.content_blocks


def test_without_the_tool_it_calls_none(messages: list[BaseMessage]) -> None:
    """A tool that was not offered is not called."""
    assert OfflineChatModel(pace_s=0).invoke(messages).tool_calls == []


def test_it_says_that_it_is_no_language_model(database: Path) -> None:
    """In the plan's first thought, in the answer, and to whoever talks to it directly."""
    model, schema = OfflineChatModel(pace_s=0), schema_text(database)
    plan = model.invoke(prompt(Role.PLANNER, QUESTION, schema))
    assert NOT_A_MODEL in str(plan.content_blocks[0])
    outcome = Outcome("SELECT count(*) AS flights FROM flights", ["flights"], [[336776]])
    answer = model.invoke(prompt(Role.WRITER, "How many flights?", schema, plan=str(plan.text), outcome=outcome))
    assert str(answer.text).startswith("336,776 flights.")
    assert NOT_A_MODEL in str(answer.text)
    assert NOT_A_MODEL in str(model.invoke([HumanMessage("Hello")]).text)


def test_it_knows_only_what_the_prompt_says(database: Path) -> None:
    """With another schema in the prompt the same question means something else, or nothing."""
    model = OfflineChatModel(pace_s=0)
    full = model.invoke(prompt(Role.PLANNER, "How many flights did Delta operate?", schema_text(database)))
    assert not str(full.text).startswith(CANNOT)
    bare = model.invoke(
        prompt(Role.PLANNER, "How many flights did Delta operate?", "TABLE flights (1 rows): one flight")
    )
    assert str(bare.text).startswith(CANNOT)


@pytest.mark.parametrize(
    ("outcome", "verdict", "word"),
    [
        (Outcome("SELECT x", error="Binder Error: no column x"), Verdict.REVISE, "Binder Error"),
        (Outcome("SELECT a FROM flights WHERE b", ["airline", "flights"], []), Verdict.REPLAN, "each condition"),
        (Outcome("SELECT a FROM flights WHERE b", ["avg_x_min", "flights"], [[None, 0]]), Verdict.REPLAN, "each"),
        (
            Outcome("… GROUP BY 1\nLIMIT 9", ["d", "avg_x_min", "flights"], [["A", 1, 3], ["B", 0, 99]]),
            Verdict.REVISE,
            "at least 30 rows",
        ),
        (Outcome("… GROUP BY 1", ["model", "flights"], [[None, 50], ["B", 40]]), Verdict.REVISE, "NULL"),
        (Outcome("… GROUP BY 1", ["origin", "avg_x_min", "flights"], [["A", 1.0, 31]]), Verdict.ACCEPT, "answer"),
    ],
)  # fmt: skip
def test_the_critic_judges_the_result_it_is_shown(
    outcome: Outcome, verdict: Verdict, word: str, database: Path
) -> None:
    """Errors, empty results, nameless groups and thin samples are seen in the table itself."""
    messages = prompt(Role.CRITIC, "…", schema_text(database), plan="…", outcome=outcome)
    said = str(OfflineChatModel(pace_s=0).invoke(messages).text)
    assert read_verdict(said) is verdict
    assert word in said


def test_a_verdict_is_read_however_it_is_dressed() -> None:
    """Models add stars and second thoughts; the last verdict counts, and none is none."""
    assert read_verdict("Looks fine.\n**VERDICT: ACCEPT**") is Verdict.ACCEPT
    assert read_verdict("VERDICT: ACCEPT … wait.\nVERDICT: **REVISE**") is Verdict.REVISE
    assert read_verdict("I accept.") is None


def test_the_pace_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pace that is no number is refused with its name."""
    monkeypatch.setenv("PERDURE_OFFLINE_PACE_S", "0.5")
    assert OfflineChatModel.from_environment().pace_s == 0.5
    monkeypatch.setenv("PERDURE_OFFLINE_PACE_S", "fast")
    with pytest.raises(ValueError, match="PERDURE_OFFLINE_PACE_S is 'fast'"):
        OfflineChatModel.from_environment()


def test_perdure_model_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it names goes to LangChain, whose own error says which package is missing."""
    chat_model.cache_clear()
    assert isinstance(chat_model(), OfflineChatModel)
    chat_model.cache_clear()
    monkeypatch.setenv("PERDURE_MODEL", "openai:some-model")
    with pytest.raises(ImportError, match="langchain-openai"):
        chat_model()
    chat_model.cache_clear()


def test_the_hint_names_a_model_within_reach() -> None:
    """A key or a local server gives one line; nothing, or a model already chosen, gives none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()
        assert "PERDURE_MODEL=ollama:" in (switch_hint({}, here) or "")
        hint = switch_hint({"ANTHROPIC_API_KEY": "secret"}, here)
        assert hint is not None
        assert "PERDURE_MODEL=anthropic:" in hint
        assert "secret" not in hint
        assert switch_hint({"OPENAI_API_KEY": "x", "PERDURE_MODEL": "openai:y"}, here) is None
    assert switch_hint({}, here) is None
