"""How a command ends: its exit code, and one clear message instead of a traceback.

0    done
1    it could not be done; the message on standard error says why and what to do
2    it was asked for in a way that makes no sense (a flag, an argument)
130  stopped by Ctrl-C
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

import click

DEBUG_FLAG: Final = "--debug"


class Failed(click.ClickException):
    """A command could not do what it was asked for; the message says why and how to mend it."""

    exit_code = 1


def run(app: click.Command, arguments: Sequence[str]) -> int:
    """Run `app` and return its exit code. With `--debug` anywhere, an error shows its traceback as well."""
    debug = DEBUG_FLAG in arguments
    try:
        code = app.main([a for a in arguments if a != DEBUG_FLAG], prog_name="perdure", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; Python must not try to flush into it at the end.
        sys.stdout = None
        return 1
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        error.show()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told; nothing is swallowed
        if debug:
            traceback.print_exc()
        for line in _messages(error):
            click.echo(f"Error: {line}", err=True)
        return 1


def _messages(error: BaseException) -> Iterator[str]:
    """What a person needs to know of an error: our own ones speak for themselves, others name their type."""
    from perdure.client import ClientError
    from perdure.errors import PerdureError

    told: set[str] = set()
    for leaf in _leaves(error):
        if isinstance(leaf, PerdureError | ClientError):
            text = str(leaf)
        elif isinstance(leaf, OSError):
            text = f"{leaf.strerror or leaf}{f': {leaf.filename}' if leaf.filename else ''}"
        else:
            text = f"{type(leaf).__name__}: {leaf}\nThis is a fault in Perdure; {DEBUG_FLAG} shows where"
        if text not in told:
            told.add(text)
            yield text


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
