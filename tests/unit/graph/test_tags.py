"""LangGraph's stream parts become tagged events: by recorded parts, and by real runs of fake models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from perdure.graph import plain
from perdure.graph.tags import Delta, Emitted, Tagged, Tagger

META = {"langgraph_node": "speak", "langgraph_checkpoint_ns": "speak:task-1"}


def data_of(event: Tagged) -> Any:
    return plain.plain(event.data.json() if isinstance(event.data, Delta) else event.data)


def part(kind: str, data: Any, ns: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": kind, "ns": ns, "data": data}


def story(*parts: dict[str, Any]) -> list[tuple[str, str, Any]]:
    tagger = Tagger()
    events = [event for p in parts for event in tagger.events(p)] + list(tagger.close())
    return [(event.method, event.tag, data_of(event)) for event in events]


def chunk(content: Any = "", **more: Any) -> AIMessageChunk:
    return AIMessageChunk(content=content, id="m", **more)


def brief(told: list[tuple[str, str, Any]]) -> list[tuple[str, str]]:
    return [(tag, data["event"]) for _, tag, data in told]


def test_streamed_text_at_the_root_is_an_answer_with_a_start_and_an_end() -> None:
    told = story(
        part("messages", (chunk("Hel"), META)),
        part("messages", (chunk("lo"), META)),
        part("messages", (chunk(chunk_position="last"), META)),
    )
    assert [data["event"] for _, _, data in told] == [
        "message-start", "content-block-start", "content-block-delta", "content-block-delta",
        "content-block-finish", "message-finish",
    ]  # fmt: skip
    assert {tag for _, tag, _ in told} == {"ANSWER"}
    assert told[0][2] == {"event": "message-start", "role": "ai", "id": "m", "message_id": "m"}
    assert told[2][2]["delta"] == {"type": "text-delta", "text": "Hel"}
    assert told[4][2]["content"] == {"type": "text", "text": "Hello"}


def test_text_in_a_subgraph_is_a_draft_and_a_nodes_tag_comes_first() -> None:
    assert story(part("messages", (chunk("x", chunk_position="last"), META), ("sub:1",)))[0][1] == "DRAFT"
    tagged = {**META, "perdure": {"tag": "CRITIC_EVAL"}}
    assert story(part("messages", (chunk("x", chunk_position="last"), tagged), ("sub:1",)))[0][1] == "CRITIC_EVAL"


def test_reasoning_is_thought_and_tool_calls_are_tool_use_whatever_the_node_is_tagged() -> None:
    tagged = {**META, "perdure": {"tag": "CRITIC_EVAL"}}
    call = {"type": "tool_call_chunk", "id": "c1", "name": "sql", "args": '{"q"', "index": 2}
    told = story(
        part("messages", (chunk([{"type": "reasoning", "reasoning": "hm", "index": 0}]), tagged)),
        part("messages", (chunk([{"type": "text", "text": "so", "index": 1}]), tagged)),
        part("messages", (chunk("", tool_call_chunks=[call]), tagged)),
        part("messages", (chunk("", tool_call_chunks=[{**call, "id": None, "name": None, "args": ": 1}"}]), tagged)),
        part("messages", (chunk(chunk_position="last"), tagged)),
    )
    deltas = [(tag, data["delta"]) for _, tag, data in told if data["event"] == "content-block-delta"]
    assert deltas == [
        ("THOUGHT", {"type": "reasoning-delta", "reasoning": "hm"}),
        ("CRITIC_EVAL", {"type": "text-delta", "text": "so"}),
        ("TOOL_USE", {"type": "tool-call-delta", "args": '{"q"'}),
        ("TOOL_USE", {"type": "tool-call-delta", "args": ": 1}"}),
    ]
    finished = [data["content"] for _, _, data in told if data["event"] == "content-block-finish"]
    assert finished[2] == {"type": "tool_call", "id": "c1", "name": "sql", "args": {"q": 1}}


def test_reasoning_that_a_provider_sends_beside_the_content_is_thought() -> None:
    told = story(part("messages", (chunk("", additional_kwargs={"reasoning_content": "hm"}), META)))
    assert ("THOUGHT", "content-block-delta") in brief(told)


def test_tool_arguments_that_are_not_json_are_told_as_they_are() -> None:
    call = {"type": "tool_call_chunk", "id": "c1", "name": "sql", "args": '{"q', "index": 0}
    told = story(part("messages", (chunk("", tool_call_chunks=[call], chunk_position="last"), META)))
    content = next(data["content"] for _, _, data in told if data["event"] == "content-block-finish")
    assert (content["type"], content["args"]) == ("invalid_tool_call", '{"q')


def test_what_the_model_cost_is_told_once_at_the_end() -> None:
    usage = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4, "input_token_details": {"cache_read": 2}}
    told = story(
        part("messages", (chunk("a", usage_metadata=usage), META)),
        part("messages", (chunk("b", usage_metadata={**usage, "input_tokens": 0}, chunk_position="last"), META)),
    )
    assert told[-1][1] == "USAGE"
    assert told[-1][2]["usage"]["input_tokens"] == 3
    assert told[-1][2]["usage"]["output_tokens"] == 2
    assert told[-1][2]["usage"]["input_token_details"] == {"cache_read": 4}


def test_a_whole_message_tells_the_same_story_as_a_streamed_one() -> None:
    call = {"name": "sql", "args": {"q": 1}, "id": "c1", "type": "tool_call"}
    told = story(part("messages", (AIMessage("text", id="m", tool_calls=[call]), META)))
    assert brief(told) == [
        ("ANSWER", "message-start"),
        ("ANSWER", "content-block-start"),
        ("ANSWER", "content-block-delta"),
        ("TOOL_USE", "content-block-start"),
        ("ANSWER", "content-block-finish"),
        ("TOOL_USE", "content-block-finish"),
        ("ANSWER", "message-finish"),
    ]
    assert told[5][2]["content"] == call


def test_a_message_that_was_streamed_is_not_told_again_from_the_state() -> None:
    told = story(
        part("messages", (chunk("a", chunk_position="last"), META)),
        part("messages", (AIMessage("a", id="m"), META)),
        part("messages", (AIMessage("a", id="m"), META)),
    )
    assert sum(data["event"] == "message-start" for _, _, data in told) == 1


def test_a_message_in_the_users_name_answers_nobody() -> None:
    told = story(part("messages", (HumanMessage("hi", id="h"), META)))
    assert {tag for _, tag, _ in told} == {"NODE"}
    assert told[0][2]["role"] == "human"


def test_a_message_cut_off_by_its_nodes_failure_ends_with_the_error() -> None:
    failed = {"id": "task-1", "name": "speak", "error": ValueError("bad"), "result": {}, "interrupts": []}
    told = story(part("messages", (chunk("half"), META)), part("tasks", failed))
    assert told[-2][1:] == ("ERROR", {"event": "error", "message_id": "m", "message": "ValueError: bad"})
    assert told[-1][1:] == ("ERROR", {"id": "task-1", "name": "speak", "status": "failed", "error": "ValueError: bad"})


def test_a_tools_output_is_told_once_by_event_or_by_message() -> None:
    by_hand = ToolMessage("42", tool_call_id="c1", name="sql", id="t1")
    told = story(part("messages", (by_hand, META)))
    assert told[0][:2] == ("tools", "TOOL_RESULT")
    assert told[0][2]["output"]["content"] == "42"
    both = story(
        part("tools", {"event": "tool-started", "tool_call_id": "c1", "tool_name": "sql", "input": {"q": 1}}),
        part("tools", {"event": "tool-finished", "tool_call_id": "c1", "output": by_hand}),
        part("messages", (by_hand, META)),
    )
    assert [(method, tag) for method, tag, _ in both] == [("tools", "TOOL_USE"), ("tools", "TOOL_RESULT")]


def test_a_steps_start_carries_no_state_but_what_a_send_handed_over() -> None:
    start = {"id": "1", "name": "a", "input": {"big": "x" * 10_000}, "triggers": ("branch:to:a",)}
    assert story(part("tasks", start))[0][2] == {"id": "1", "name": "a", "status": "started"}
    sent = {**start, "input": {"n": 1}, "triggers": ("__pregel_push",)}
    assert story(part("tasks", sent))[0][2]["input"] == {"n": 1}


def test_a_big_state_is_named_not_told() -> None:
    told = story(part("values", {"small": 1, "rows": ["x" * 100] * 1_000}))
    about = told[0][2]["__perdure__"]
    assert about["omitted"] == "too_large"
    assert about["keys"] == ["small", "rows"]
    assert story(part("values", {"small": 1}))[0][2] == {"small": 1}
    assert story(part("values", {"small": 1}, ("sub:1",))) == []


def test_custom_data_is_told_as_the_author_wrote_it() -> None:
    assert story(part("custom", {"progress": 0.5})) == [("custom", "NODE", {"progress": 0.5})]
    assert story(part("custom", "half")) == [("custom", "NODE", {"payload": "half"})]
    assert story(part("custom", Emitted("PLAN", "a", {"text": "x"}))) == [("custom", "PLAN", {"text": "x"})]


# --- with real runs


class Scripted(BaseChatModel):
    """Says what it was given: streamed in pieces, or at once."""

    says: list[AIMessage]
    streams: bool = True

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.says[self._turn(messages)])])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said = self.says[self._turn(messages)]
        for word in str(said.content).split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))
        for place, call in enumerate(said.tool_calls):
            args = orjson.dumps(call["args"]).decode()
            piece = {"name": call["name"], "args": args, "id": call["id"], "index": place, "type": "tool_call_chunk"}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))

    def _should_stream(self, **kwargs: Any) -> bool:
        return self.streams

    def _turn(self, messages: list[BaseMessage]) -> int:
        return sum(isinstance(message, AIMessage) for message in messages)


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.mark.anyio
@pytest.mark.parametrize("streams", [True, False])
async def test_an_agent_with_a_tool_tells_its_story_once(deploy: Any, streams: bool) -> None:
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c1", "type": "tool_call"}
    model = Scripted(says=[AIMessage("let me add", tool_calls=[call]), AIMessage("it is 3")], streams=streams)

    async def speak(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "speak")
    graph.add_conditional_edges("speak", lambda s: "tools" if s["messages"][-1].tool_calls else "__end__")
    graph.add_edge("tools", "speak")
    house = deploy(agent=graph)
    ref = await house.submit("agent", {"messages": [{"role": "user", "content": "1+2?"}]})
    outcome = await house.attempt(ref)
    final = orjson.loads(outcome.result)["messages"]
    assert [message["type"] for message in final] == ["human", "ai", "tool", "ai"]
    events = await house.events(ref)
    starts = [e for e in events if e.method == "messages" and e.data["event"] == "message-start"]
    assert len(starts) == 2
    ends = [e for e in events if e.method == "messages" and e.data["event"] == "message-finish"]
    assert len(ends) == 2
    finished = [
        e.data["content"] for e in events if e.method == "messages" and e.data["event"] == "content-block-finish"
    ]
    assert [block["type"] for block in finished] == ["text", "tool_call", "text"]
    assert finished[1]["args"] == {"a": 1, "b": 2}
    tools = [(e.tag, e.data["event"]) for e in events if e.method == "tools"]
    assert tools == [("TOOL_USE", "tool-started"), ("TOOL_RESULT", "tool-finished")]
    answer = " ".join(e.data["delta"]["text"] for e in events if e.tag == "ANSWER" and "delta" in e.data)
    assert answer.split() == ["let", "me", "add", "it", "is", "3"]
