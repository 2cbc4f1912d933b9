"""`perdure submit`: hand a task to a graph."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.connect import STREAM_PATIENCE_S, connect, gateway_options

if TYPE_CHECKING:
    from perdure.client import Client


@click.command()
@click.argument("graph")
@click.argument("text", metavar="INPUT")
@click.option("--watch", "-w", is_flag=True, help="Follow it until it ends; exit code 0 only if it succeeded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line, for programs.")
@click.option("--thread", metavar="ID", help="The thread to go on with.  [default: a new one]")
@click.option("--tier", help="The workers that shall run it.  [default: the graph's]")
@click.option("--idempotency-key", metavar="KEY", help="The same key twice makes one task.")
@gateway_options
def submit(
    graph: str,
    text: str,
    watch: bool,
    as_json: bool,
    thread: str | None,
    tier: str | None,
    idempotency_key: str | None,
    url: str,
    api_key: str | None,
) -> None:
    """Hand INPUT to GRAPH as a task. Returns as soon as it is stored.

    INPUT is JSON, or plain text, or `-` to read it from standard input. Plain text goes under the one key that the
    graph's input obviously has: its only key; else `messages`, as a message of the user; else its only key of type
    str. A graph without a declared input gets the text itself.

    \b
    Examples:
      perdure submit analyst "Which carrier has the worst delays?" --watch
      perdure submit analyst '{"question": "How many flights left JFK?"}' --thread my-session
      perdure submit report - --json < input.json
    """
    if text == "-":
        text = sys.stdin.read()
    with connect(url, api_key) as client:
        value = parse_input(client, graph, text)
        task = client.submit(graph, value, thread_id=thread, tier=tier, idempotency_key=idempotency_key)
    if as_json:
        told = {name: getattr(task, name) for name in task.__struct_fields__}
        click.echo(json.dumps(told))
    elif not watch:
        click.echo(f"{task.task_id} is stored ({task.stored}) and queued on thread {task.thread_id}")
        click.echo(f"follow it: perdure watch {task.task_id}", err=True)
    if watch:
        from perdure.cli.watch import follow

        with connect(url, api_key, STREAM_PATIENCE_S) as client:
            follow(client, task.task_id, as_json=as_json)


def parse_input(client: Client, graph: str, text: str) -> Any:
    """JSON as it is; plain text under the graph's one obvious key. Asks the gateway only for plain text."""
    try:
        value = json.loads(text)
    except ValueError:
        if text.lstrip().startswith(("{", "[")):
            _refuse_broken_json(text)
        value = text
    if not isinstance(value, str):
        return value
    about = client.graph(graph).get("graph") or {}
    return place_text(graph, about.get("input"), value)


def place_text(graph: str, keys: Mapping[str, str] | None, text: str) -> Any:
    """`text` under the one of `keys` (name → type) that it is obviously meant for. Raises UsageError if none is."""
    if not keys:
        return text
    if "messages" in keys:
        return {"messages": [{"role": "user", "content": text}]}
    candidates = list(keys) if len(keys) == 1 else [name for name, kind in keys.items() if kind == "str"]
    if len(candidates) != 1:
        example = json.dumps(dict.fromkeys(keys, "…"), ensure_ascii=False)
        raise click.UsageError(
            f"the input of graph {graph!r} has the keys {', '.join(keys)}; plain text does not say which is meant. "
            f"Give JSON: perdure submit {graph} '{example}'"
        )
    return {candidates[0]: text}


def _refuse_broken_json(text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(
            f"INPUT begins like JSON but is none: {error.msg} at line {error.lineno}, column {error.colno}. "
            "In a shell, put JSON between single quotes"
        ) from None
