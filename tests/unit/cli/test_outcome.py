"""Every end of a command is one clear message and the right exit code, never a traceback."""

from __future__ import annotations

import click
import pytest

from perdure.cli.outcome import Failed, run
from perdure.client import Unreachable
from perdure.errors import ConfigurationError, StoreUnavailable


def command_that_raises(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Failed("there is no file; make one"), 1, "Error: there is no file; make one\n"),
        (ConfigurationError("port is 99999"), 1, "Error: port is 99999\n"),
        (Unreachable("no gateway answered"), 1, "Error: no gateway answered\n"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "Error: No such file or directory: x.json\n"),
        (click.UsageError("--port: not a number"), 2, "Error: --port: not a number"),
        (ExceptionGroup("", [StoreUnavailable("gone"), ExceptionGroup("", [StoreUnavailable("gone")])]), 1, "gone"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_told_once_with_its_exit_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command_that_raises(error), []) == code
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert told.count(words) == 1 or not words


def test_a_fault_of_ours_says_so_and_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_that_raises(ZeroDivisionError("oh")), []) == 1
    assert "ZeroDivisionError: oh" in (told := capsys.readouterr().err)
    assert "Traceback" not in told
    assert run(command_that_raises(ZeroDivisionError("oh")), ["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
