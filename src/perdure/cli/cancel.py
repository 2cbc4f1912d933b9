"""`perdure cancel`: end a task."""

from __future__ import annotations

import click

from perdure.cli.connect import connect, gateway_options


@click.command()
@click.argument("task")
@gateway_options
def cancel(task: str, url: str, api_key: str | None) -> None:
    """End TASK now, in the middle of a step too. A task that has ended stays as it is."""
    with connect(url, api_key) as client:
        ended = client.cancel(task)
    click.echo(f"{task} is {ended.status}")
