"""`perdure answer`: answer the question that a task waits with."""

from __future__ import annotations

import json

import click

from perdure.cli.connect import connect, gateway_options


@click.command()
@click.argument("task")
@click.argument("value")
@click.option("--interrupt", metavar="ID", help="Which question, where the task waits with more than one.")
@gateway_options
def answer(task: str, value: str, interrupt: str | None, url: str, api_key: str | None) -> None:
    """Answer the question that TASK waits with, so that it goes on.

    VALUE is JSON, or plain text where it is none: `true` and `42` are JSON, `ship it` is text.
    """
    try:
        given = json.loads(value)
    except ValueError:
        given = value
    with connect(url, api_key) as client:
        after = client.answer(task, given) if interrupt is None else client.answer(task, responses={interrupt: given})
    click.echo(f"{task} is {after.status}")
