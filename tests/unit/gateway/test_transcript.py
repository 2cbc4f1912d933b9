"""Events as people read them."""

from __future__ import annotations

from typing import Any

from perdure.gateway.transcript import Transcript
from perdure.lifecycle.events import Event, Method, encode_body
from perdure.lifecycle.ids import TaskId


def event(
    seq: int, data: dict[str, Any], *, method: str = Method.MESSAGES, tag: str = "ANSWER", node: str = "write"
) -> Event:
    body = encode_body(
        method=method,
        tag=tag,
        namespace=("plan:1",),
        timestamp_ms=0,
        task_id=TaskId("t"),
        step=2,
        attempt=1,
        worker="w",
        data=data,
        node=node,
    )
    return Event("e", seq, method, tag, "plan:1", TaskId("t"), body)


def delta(seq: int, text: str, *, index: int = 0, kind: str = "text", tag: str = "ANSWER") -> Event:
    body = {"event": "content-block-delta", "index": index, "delta": {"type": f"{kind}-delta", kind: text}}
    return event(seq, body, tag=tag)


def test_deltas_of_one_block_stand_on_one_line_also_over_several_pieces() -> None:
    transcript = Transcript()
    text = transcript.text([event(1, {"event": "message-start"}), delta(2, "Hel"), delta(3, "lo ")])
    text += transcript.text([delta(4, "you"), delta(5, "hm", index=1, kind="reasoning", tag="THOUGHT")])
    text += transcript.text([event(6, {"event": "message-finish"})])
    text += transcript.text([event(7, {"name": "sql", "rows": 3}, method=Method.CUSTOM, tag="TOOL_USE")])
    text += transcript.close("succeeded")
    assert text.decode().splitlines() == [
        "[ANSWER] plan/write step=2 #2 Hello you",
        "[THOUGHT] plan/write step=2 #5 hm",
        '[TOOL_USE] plan/write step=2 #7 {"name":"sql","rows":3}',
        "[END] succeeded",
    ]


def test_long_values_are_cut_and_lines_stay_lines() -> None:
    text = Transcript().text([event(1, {"text": "a\nb" + "x" * 1000}, method=Method.CUSTOM)]).decode()
    assert text.count("\n") == 1
    assert text.startswith("[ANSWER] plan/write step=2 #1 a b")
    assert len(text) < 500
