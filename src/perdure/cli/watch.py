"""`perdure watch`: follow a task's tagged stream."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from perdure.cli.connect import STREAM_PATIENCE_S, connect, gateway_options

if TYPE_CHECKING:
    from perdure.client import Client


@click.command()
@click.argument("task")
@click.option("--since", metavar="SEQ", help="Go on after this event.  [default: from the first]")
@click.option("--tags", metavar="TAG,…", help="Only these, for instance THOUGHT,ANSWER.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as they are, one JSON object a line.")
@gateway_options
def watch(task: str, since: str | None, tags: str | None, as_json: bool, url: str, api_key: str | None) -> None:
    """Follow TASK until it ends: who speaks, how ([THOUGHT], [TOOL_USE], …), and what.

    It may be started before, while or after the task runs, as often as wanted, and reconnects by itself. Colour and
    live text at a terminal, plain lines elsewhere. The exit code is 0 only if the task succeeded.
    """
    with connect(url, api_key, STREAM_PATIENCE_S) as client:
        follow(client, task, since=since, tags=tags, as_json=as_json)


def follow(
    client: Client, task_id: str, *, since: str | None = None, tags: str | None = None, as_json: bool = False
) -> None:
    """Print a task's events until it ends. Ends the command with code 1 if the task did not succeed."""
    from perdure.cli.stream_view import StreamView

    events = client.stream(task_id, since=since, tags=tags)
    if as_json:
        for event in events:
            click.echo(json.dumps(event, ensure_ascii=False))
            sys.stdout.flush()
    else:
        view = StreamView()
        for event in events:
            view.show(event)
        view.close()
    task = client.get(task_id)
    if as_json:
        click.echo(json.dumps({"type": "end", "task_id": task_id, "status": task.status, "result": task.result}))
    else:
        view.tell_end(task)
    if task.status != "succeeded":
        raise click.exceptions.Exit(1)
