"""A small agent: reads a text, looks at it from two sides at once, and reports. An ordinary LangGraph graph."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from perdure import artifact, emit


class Input(TypedDict):
    """What a task brings: perdure submit agent "some text"."""

    text: str


class Output(TypedDict):
    """What a task gives back."""

    report: str


class State(TypedDict, total=False):
    """What the steps share. Each finished step is checkpointed: after a crash it is not run again."""

    text: str
    words: dict[str, int]
    longest_sentence: str
    report: str


def count_words(state: State) -> State:
    """One of two steps that run side by side."""
    words = [word.strip(".,;:!?()\"'").lower() for word in state["text"].split()]
    counted = Counter(word for word in words if len(word) > 3)
    emit("THOUGHT", f"{len(words)} words, {len(counted)} different ones of more than three letters")
    return {"words": dict(counted.most_common(10))}


def find_longest(state: State) -> State:
    """The other one."""
    sentences = state["text"].replace("!", ".").replace("?", ".").split(".")
    longest = max((sentence.strip() for sentence in sentences), key=len)
    emit("THOUGHT", f"the longest of {len(sentences)} sentences has {len(longest)} characters")
    return {"longest_sentence": longest}


def write(state: State) -> State:
    """Put both together. To have a model write instead, call any LangChain chat model here; its tokens are streamed:

    from langchain.chat_models import init_chat_model
    reply = init_chat_model("openai:gpt-5-mini").invoke(f"Summarise: {state['text']}")
    """
    table = "\n".join(f"{word},{count}" for word, count in state["words"].items())
    artifact("words.csv", f"word,count\n{table}\n", "text/csv")
    top = ", ".join(f"{word} ({count})" for word, count in list(state["words"].items())[:3]) or "no long words"
    report = f"Most frequent: {top}. Longest sentence: {state['longest_sentence']!r}."
    emit("ANSWER", report)
    return {"report": report}


builder = StateGraph(State, input_schema=Input, output_schema=Output)
builder.add_node("count_words", count_words)
builder.add_node("find_longest", find_longest)
builder.add_node("write", write)
builder.add_edge(START, "count_words")
builder.add_edge(START, "find_longest")
builder.add_edge(["count_words", "find_longest"], "write")
builder.add_edge("write", END)

graph = builder.compile()
