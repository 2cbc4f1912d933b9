"""The analyst's graph: plan, query, reflect (which may send it back), synthesize."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, Literal, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph

from analyst.dataset import ensure_database, schema_text
from analyst.model import chat_model
from analyst.prompts import CANNOT, Outcome, Role, Verdict, prompt, read_verdict, table_csv
from analyst.sql_guard import Cell, Limits, QueryRefused, run_select
from perdure import artifact

ROUNDS_MAX: Final = 3
LIMITS: Final = Limits()


class Artifact(TypedDict):
    """A file that came out of the task; its bytes are kept beside the state, not in it."""

    name: str
    media_type: str
    rows: int


class Question(TypedDict):
    """What a task brings."""

    question: str


class Answer(TypedDict):
    """What a task gives back."""

    answer: str
    sql: str
    columns: list[str]
    rows: list[list[Cell]]
    error: str
    rounds: int
    artifacts: list[Artifact]


class State(TypedDict, total=False):
    """Everything between the question and the answer; plain values only, so that any checkpointer can keep it."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]
    plan: str
    sql: str
    columns: list[str]
    rows: list[list[Cell]]
    truncated: bool
    error: str
    critique: str
    verdict: str
    rounds: int
    answer: str
    artifacts: list[Artifact]


class PlanView(TypedDict, total=False):
    """What the planner's subgraph reads and writes of the state."""

    question: str
    critique: str
    schema: str
    plan: str
    messages: Annotated[list[AnyMessage], add_messages]


class Plan(TypedDict):
    """What the planner's subgraph hands back."""

    plan: str
    messages: Annotated[list[AnyMessage], add_messages]


class CriticView(TypedDict, total=False):
    """What the critic's subgraph reads and writes of the state."""

    question: str
    plan: str
    sql: str
    columns: list[str]
    rows: list[list[Cell]]
    error: str
    critique: str
    rounds: int
    opinion: str
    verdict: str
    messages: Annotated[list[AnyMessage], add_messages]


class Critique(TypedDict):
    """What the critic's subgraph hands back."""

    critique: str
    verdict: str
    rounds: int
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def run_sql(sql: str) -> str:
    """Run one read-only SELECT or WITH statement in DuckDB and return its rows."""
    raise NotImplementedError("The query step runs the statement itself, so that its rows reach the state.")


async def inspect(state: PlanView) -> PlanView:
    """Look at what the database holds; the first call on a machine builds it."""
    return {"schema": await _schema()}


async def planner(state: PlanView) -> PlanView:
    """Say how the question can be answered, or that it cannot."""
    reply = await chat_model().ainvoke(
        prompt(Role.PLANNER, state["question"], state["schema"], critique=state.get("critique", ""))
    )
    return {"plan": reply.text, "messages": [reply]}


async def query(state: State) -> State:
    """Have the plan written as SQL and run it; a refused query is a value that the next step judges."""
    reply = (
        await chat_model()
        .bind_tools([run_sql])
        .ainvoke(
            prompt(
                Role.SQL_WRITER,
                state["question"],
                await _schema(),
                plan=state["plan"],
                outcome=_outcome(state) if state.get("sql") else None,
                critique=state.get("critique", ""),
            )
        )
    )
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    sql = str(calls[0]["args"].get("sql", "")) if calls else ""
    if not calls or not sql:
        return {
            "messages": [reply, *_unanswered(reply, "No SQL was given.")],
            "sql": "",
            "columns": [],
            "rows": [],
            "truncated": False,
            "error": "The model wrote no query: it did not call run_sql with a statement.",
        }
    path = await asyncio.to_thread(ensure_database)
    result = await asyncio.to_thread(run_select, path, sql, LIMITS)
    if isinstance(result, QueryRefused):
        told = f"Refused: {result.reason}"
        columns: list[str] = []
        rows: list[list[Cell]] = []
        error, truncated = result.reason, False
    else:
        columns = list(result.columns)
        rows = [list(row) for row in result.rows]
        error, truncated = "", result.truncated
        told = f"{len(rows)} rows{' (cut off there)' if truncated else ''} in {result.elapsed_s * 1000:.0f} ms"
        told += "\n" + table_csv(columns, rows[:10])
    return {
        "messages": [reply, *_unanswered(reply, told)],
        "sql": sql,
        "columns": columns,
        "rows": rows,
        "truncated": truncated,
        "error": error,
    }


async def critic(state: CriticView) -> CriticView:
    """Judge whether the result answers the question, and say what is wrong with it."""
    outcome = Outcome(state["sql"], state["columns"], state["rows"], state["error"])
    reply = await chat_model().ainvoke(
        prompt(
            Role.CRITIC,
            state["question"],
            await _schema(),
            plan=state["plan"],
            outcome=outcome,
            critique=state.get("critique", ""),
        )
    )
    return {"opinion": reply.text, "messages": [reply]}


def decide(state: CriticView) -> CriticView:
    """Turn the critic's words into what happens next."""
    rounds = state.get("rounds", 0) + 1
    verdict = read_verdict(state["opinion"])
    if verdict is None:
        # A critic that forgets its verdict must not stop a result, and must not wave an error through.
        verdict = Verdict.REVISE if state["error"] else Verdict.ACCEPT
    earlier = state.get("critique", "")
    note = f"Round {rounds}: {state['opinion'].strip()}"
    return {"rounds": rounds, "verdict": verdict.value, "critique": f"{earlier}\n{note}".strip()}


async def synthesize(state: State) -> State:
    """Write the answer, and hand out the whole table as a file."""
    outcome = _outcome(state) if state.get("sql") or state.get("error") else None
    reply = await chat_model().ainvoke(
        prompt(
            Role.WRITER,
            state["question"],
            await _schema(),
            plan=state["plan"],
            outcome=outcome,
            critique=state.get("critique", ""),
        )
    )
    answer = str(reply.text)
    if state.get("truncated"):
        answer += f"\n\nThe table was cut off at {len(state['rows'])} rows."
    if outcome is not None and state.get("verdict") != Verdict.ACCEPT:
        answer += f"\n\nAfter {state.get('rounds', 0)} rounds the critic was still not satisfied; take this with care."
    artifacts: list[Artifact] = []
    if state.get("columns"):
        table = table_csv(state["columns"], state["rows"])
        artifact("answer.csv", table.encode(), "text/csv")
        artifacts.append({"name": "answer.csv", "media_type": "text/csv", "rows": len(state["rows"])})
    return {"messages": [reply], "answer": answer, "artifacts": artifacts}


def after_plan(state: State) -> Literal["query", "synthesize"]:
    """A question that cannot be answered goes straight to an answer that says so."""
    return "synthesize" if state["plan"].lstrip().startswith(CANNOT) else "query"


def after_reflect(state: State) -> Literal["plan", "query", "synthesize"]:
    """Back for another round while the critic objects and rounds are left."""
    if state["verdict"] == Verdict.ACCEPT or state["rounds"] >= ROUNDS_MAX:
        return "synthesize"
    return "plan" if state["verdict"] == Verdict.REPLAN else "query"


def begin(state: State) -> State:
    """Clear what an earlier question on the same thread left behind."""
    return {
        "messages": [HumanMessage(state["question"])],
        "plan": "",
        "sql": "",
        "columns": [],
        "rows": [],
        "truncated": False,
        "error": "",
        "critique": "",
        "verdict": "",
        "rounds": 0,
        "answer": "",
        "artifacts": [],
    }


def build() -> CompiledStateGraph[State, None, Question, Answer]:
    """The compiled graph, without a checkpointer: whoever runs it brings its own."""
    planning = StateGraph(PlanView, output_schema=Plan)
    planning.add_node("inspect", inspect)
    planning.add_node("planner", planner, metadata={"perdure": {"tag": "THOUGHT"}})
    planning.add_edge(START, "inspect")
    planning.add_edge("inspect", "planner")
    planning.add_edge("planner", END)

    reflecting = StateGraph(CriticView, output_schema=Critique)
    reflecting.add_node("critic", critic, metadata={"perdure": {"tag": "CRITIC_EVAL"}})
    reflecting.add_node("decide", decide)
    reflecting.add_edge(START, "critic")
    reflecting.add_edge("critic", "decide")
    reflecting.add_edge("decide", END)

    analyst = StateGraph(State, input_schema=Question, output_schema=Answer)
    analyst.add_node("begin", begin)
    analyst.add_node("plan", planning.compile())
    analyst.add_node("query", query, metadata={"perdure": {"tag": "TOOL_USE"}})
    analyst.add_node("reflect", reflecting.compile())
    analyst.add_node("synthesize", synthesize)
    analyst.add_edge(START, "begin")
    analyst.add_edge("begin", "plan")
    analyst.add_conditional_edges("plan", after_plan)
    analyst.add_edge("query", "reflect")
    analyst.add_conditional_edges("reflect", after_reflect)
    analyst.add_edge("synthesize", END)
    return analyst.compile(name="analyst")


async def _schema() -> str:
    path = await asyncio.to_thread(ensure_database)
    return await asyncio.to_thread(schema_text, path)


def _outcome(state: State) -> Outcome:
    return Outcome(state.get("sql", ""), state.get("columns", []), state.get("rows", []), state.get("error", ""))


def _unanswered(reply: AnyMessage, told: str) -> list[ToolMessage]:
    """A tool message for each call of the reply: providers refuse a history in which a call has no answer."""
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    return [ToolMessage(told, tool_call_id=str(call["id"]), name=call["name"]) for call in calls]


graph = build()
