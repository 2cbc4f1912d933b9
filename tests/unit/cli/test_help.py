"""Help teaches, names only what exists, and comes at once."""

from __future__ import annotations

import subprocess
import sys

from perdure.cli.app import app

HEAVY = ("langgraph", "langchain_core", "httpx", "rich", "uvloop", "msgspec", "asyncio", "starlette", "pydantic")


def test_help_loads_none_of_the_heavy_packages() -> None:
    """Each of them costs more than a person should wait for a page of help."""
    code = f"import sys, perdure.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_and_option_says_what_it_is_for() -> None:
    for name, command in app.commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)  # type: ignore[attr-defined]
