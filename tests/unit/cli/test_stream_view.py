"""What people see of a stream."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from perdure.cli.stream_view import StreamView


def event(seq: int, method: str, tag: str, data: object, path: str = "plan", **params: Any) -> dict[str, Any]:
    about = {"namespace": [], "timestamp": seq * 100, "tag": tag, "path": path.split("/"), "task_id": "t", "attempt": 1}
    return {"seq": seq, "method": method, "params": {**about, "data": data, **params}}


def delta(seq: int, text: str, message: str = "m", tag: str = "THOUGHT") -> dict[str, Any]:
    piece = {"type": "text-delta", "text": text}
    data = {"event": "content-block-delta", "message_id": message, "index": 0, "delta": piece}
    return event(seq, "messages", tag, data, "plan/planner")


def shown(*events: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    view = StreamView(Console(file=out, highlight=False, soft_wrap=True))
    for one in events:
        view.show(one)
    view.close()
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_pieces_of_one_block_are_one_line_and_another_speaker_begins_a_new_one() -> None:
    assert shown(
        delta(1, "I "), delta(2, "think"), delta(3, "No", message="other"), delta(4, "!", message="other")
    ) == [
        "[THOUGHT] plan/planner #1 I think",
        "[THOUGHT] plan/planner #3 No!",
    ]


def test_a_step_is_told_when_it_ends_with_the_time_it_took() -> None:
    started = {"id": "x", "name": "plan", "status": "started"}
    assert shown(event(1, "tasks", "NODE", started), event(4, "tasks", "NODE", {**started, "status": "finished"})) == [
        "[NODE] plan #4 finished after 300 ms"
    ]


def test_a_tool_call_is_told_once_when_it_is_whole() -> None:
    content = {"type": "tool_call", "name": "run_sql", "args": {"sql": "SELECT 1"}}
    piece = {"event": "content-block-delta", "index": 0, "delta": {"type": "tool-call-delta", "args": '{"sq'}}
    assert shown(
        event(1, "messages", "TOOL_USE", piece),
        event(2, "messages", "TOOL_USE", {"event": "content-block-finish", "index": 0, "content": content}),
    ) == ["[TOOL_USE] plan #2 run_sql(sql=SELECT 1)"]


def test_a_take_over_is_one_sentence() -> None:
    data = {
        "name": "recovery",
        "attempt": 2,
        "superseded": [5, 9],
        "dead_worker": "w-a",
        "new_worker": "w-b",
        "rehydrated": {"next": ["query"], "channels": 7, "ms": 3.5},
    }
    assert shown(event(10, "custom", "RECOVERY", data, "plan")) == [
        "[RECOVERY] plan #10 w-a died; w-b rehydrated 7 channels in 3.5 ms and goes on with query (attempt 2); "
        "events 5 to 9 are superseded"
    ]


def test_a_question_says_how_to_answer_it() -> None:
    asked = event(3, "input.requested", "INPUT_REQUIRED", {"interrupt_id": "i", "payload": "Ship it?"})
    assert shown(asked) == ["[INPUT_REQUIRED] plan #3 Ship it?  (perdure answer t VALUE)"]


def test_states_and_frames_of_messages_are_left_out() -> None:
    assert (
        shown(
            event(1, "values", "NODE", {"big": "state"}),
            event(2, "updates", "NODE", {"plan": {}}),
            event(3, "checkpoints", "CHECKPOINT", {"checkpoint_id": "c"}),
            event(4, "messages", "ANSWER", {"event": "message-start", "role": "ai"}),
        )
        == []
    )


def test_an_event_of_an_authors_own_shape_is_shown_as_it_is() -> None:
    assert shown(event(1, "custom", "PROGRESS", {"done": 3, "of": 9})) == ['[PROGRESS] plan #1 {"done":3,"of":9}']
