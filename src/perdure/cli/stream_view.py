"""Prints a stream's events as they come: live text in colour at a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from perdure.cli.event_words import STYLES, EventWords, Said, duration, short

if TYPE_CHECKING:
    from perdure.client import TaskInfo


class StreamView:
    """Call `show` for each event in order, then `close`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._words = EventWords()
        self._open: tuple[Any, ...] | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        said = self._words.said(event)
        if said is None:
            return
        style = STYLES.get(said.tag, "white")
        if said.block is None or said.block != self._open:
            self.close()
            self._print(_head(said), end="")
        self._print(Text(said.text, style), end="")
        self._open = said.block
        if said.block is None:
            self._print(Text(""))

    def close(self) -> None:
        """End the line that is still open."""
        if self._open is not None:
            self._open = None
            self._print(Text(""))

    def tell_end(self, task: TaskInfo) -> None:
        """The last line: how the task ended, and its result."""
        took = duration((task.finished_ms or task.updated_ms) - task.created_ms)
        style = "bold green" if task.status == "succeeded" else "bold red"
        self._print(Text(f"[END] {task.status} after {took}, {task.step} steps, attempt {task.attempt}", style))
        if task.result is not None:
            self._print(Text(short(task.result, 2_000)))

    def _print(self, text: Text, end: str = "\n") -> None:
        self._console.print(text, end=end)
        self._console.file.flush()


def _head(said: Said) -> Text:
    head = Text()
    head.append(f"[{said.tag}] ", STYLES.get(said.tag, "white"))
    head.append(f"{said.path or '-'} ", "bold")
    head.append(f"#{said.seq} ", "bright_black")
    return head
