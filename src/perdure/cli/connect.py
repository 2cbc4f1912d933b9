"""How a command finds its gateway: `--url` and `--api-key`, or their variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from perdure.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_URL: Final = "http://127.0.0.1:2024"
PATIENCE_S: Final = 3.0
"""A command at a terminal says soon that nobody answers; a stream that is open already tries longer."""
STREAM_PATIENCE_S: Final = 60.0


def gateway_options(command: Command) -> Command:
    """Adds `--url` and `--api-key`."""
    command = click.option(
        "--api-key", envvar="PERDURE_API_KEY", show_envvar=True, metavar="KEY", help="The key, where one is needed."
    )(command)
    return click.option(
        "--url", envvar="PERDURE_URL", show_envvar=True, default=DEFAULT_URL, show_default=True, help="The gateway."
    )(command)


def connect(url: str, api_key: str | None, patience_s: float = PATIENCE_S) -> Client:
    """A client of the gateway at `url`, which need not be there yet."""
    from perdure.client import Client

    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url is {url!r}: it must begin with http:// or https://, as in {DEFAULT_URL}")
    return Client(url, api_key, patience_s=patience_s)
