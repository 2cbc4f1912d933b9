"""What the demo shows: live lanes at a terminal, tagged lines elsewhere, and the answers and the proof at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from perdure.cli.demo_proof import Kill, Proof
from perdure.cli.event_words import STYLES, EventWords, Said, duration, recovery, short

TAIL_MAX: Final = 400
_ENDED: Final = ("succeeded", "failed", "cancelled", "dead")


@dataclass
class Step:
    """One run of one node, at the root of the graph."""

    name: str
    began_ms: int
    took_ms: int | None = None
    cut: bool = False


@dataclass
class Lane:
    """One speaking (sub)agent of a task: how it spoke last, and the end of what it said."""

    path: str
    tag: str = ""
    text: str = ""
    block: tuple[Any, ...] | None = None


@dataclass
class TaskView:
    """One task as it is shown."""

    label: str
    question: str
    status: str = "submitted"
    worker: str = ""
    attempt: int = 1
    steps: dict[str, Step] = field(default_factory=dict)
    lanes: dict[str, Lane] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    words: EventWords = field(default_factory=EventWords)

    def take(self, event: Mapping[str, Any]) -> Said | None:
        """Take in the next event."""
        params = event["params"]
        data = params["data"]
        self.attempt = max(self.attempt, params["attempt"] or 1)
        self.worker = params["worker"] or self.worker
        if event["method"] == "lifecycle":
            self.status = data["status"]
        elif event["method"] == "tasks" and not params["namespace"]:
            self._step(data, params["timestamp"])
        elif event["method"] == "custom" and data.get("name") == "recovery":
            self.notices.append(recovery(data))
            for step in self.steps.values():
                step.cut |= step.took_ms is None
        said = self.words.said(event)
        # What a node says in the user's name is tagged NODE; the question stands in the title.
        if said is not None and event["method"] in ("messages", "tools", "custom") and said.tag != "NODE" and said.path:
            self._speak(said)
        return said

    def _step(self, data: Mapping[str, Any], now_ms: int) -> None:
        if data["status"] == "started":
            self.steps[f"{data['id']}/{self.attempt}"] = Step(data["name"], now_ms)
        else:
            step = self.steps.get(f"{data['id']}/{self.attempt}")
            if step is not None:
                step.took_ms = now_ms - step.began_ms

    def _speak(self, said: Said) -> None:
        # The latest speaker stands last, so that a small screen shows it.
        lane = self.lanes.pop(said.path, None) or Lane(said.path)
        self.lanes[said.path] = lane
        goes_on = said.block is not None and said.block == lane.block and said.tag == lane.tag
        lane.text = (lane.text + said.text if goes_on else said.text)[-TAIL_MAX:]
        lane.tag, lane.block = said.tag, said.block

    def render(self, width: int, lanes_max: int) -> Iterator[Text]:
        """Title, steps with their times, take-overs, and the lanes that spoke last."""
        title = Text(no_wrap=True, overflow="ellipsis")
        title.append(f"{self.label} ", "bold")
        title.append(self.question, "bold white")
        colour = "green" if self.status == "succeeded" else "red" if self.status in _ENDED else "yellow"
        title.append(f"  {self.status}", colour)
        if self.worker:
            title.append(f" on {self.worker}, attempt {self.attempt}", "bright_black")
        yield title
        steps = Text("   ", no_wrap=True, overflow="ellipsis")
        for step in self.steps.values():
            if step.took_ms is not None:
                steps.append(f"✔ {step.name} {duration(step.took_ms)}  ", "green")
            elif step.cut:
                steps.append(f"✂ {step.name}  ", "bold red")
            else:
                steps.append(f"▶ {step.name}  ", "bold yellow")
        yield steps
        for notice in self.notices:
            yield Text(f"   ⚡ {notice}", STYLES["RECOVERY"], no_wrap=True, overflow="ellipsis")
        for lane in list(self.lanes.values())[-lanes_max:]:
            head = f"   {lane.path} [{lane.tag}] "
            room = max(20, width - len(head) - 1)
            line = Text(no_wrap=True, overflow="ellipsis")
            line.append(f"   {lane.path} ", "bold")
            line.append(f"[{lane.tag}] ", STYLES.get(lane.tag, "white"))
            text = " ".join(lane.text.split())
            line.append(text if len(text) <= room else "…" + text[-room + 1 :], STYLES.get(lane.tag, "white"))
            yield line


class DemoView:
    """Everything on the screen while tasks run. At a terminal it redraws; elsewhere each finished text is a line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tasks: dict[str, TaskView] = {}
        self.footer = ""
        self._live: Live | None = None
        self._pending: dict[tuple[str, str], Said] = {}

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the lanes until the end of the block."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=self.lanes, refresh_per_second=12, transient=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def add(self, task_id: str, label: str, question: str) -> None:
        self.tasks[task_id] = TaskView(label, question)

    def take(self, task_id: str, event: Mapping[str, Any]) -> None:
        """Show one event of a task."""
        task = self.tasks[task_id]
        said = task.take(event)
        if said is not None and not self.console.is_terminal:
            self._print(task.label, said)

    def notice(self, text: str) -> None:
        """A line of the demo itself."""
        self.console.print(Text(text, STYLES["RECOVERY"]))

    def lanes(self, height: int | None = None) -> RenderableType:
        """All tasks as they stand, cut to `height` lines (default: the terminal's)."""
        room = (height or self.console.height) - 3
        notices = sum(len(task.notices) for task in self.tasks.values())
        lanes_max = max(1, (room - notices) // max(1, len(self.tasks)) - 2)
        width = self.console.width
        lines: list[RenderableType] = []
        for task in self.tasks.values():
            lines += task.render(width, lanes_max)
        lines.append(Text(self.footer, "bright_black"))
        return Group(*lines)

    def _print(self, label: str, said: Said) -> None:
        """Pieces of a block are collected, and become one line when something else is said there."""
        key = (label, said.path)
        before = self._pending.pop(key, None)
        if before is not None and before.block == said.block:
            self._pending[key] = before._replace(text=before.text + said.text)
            return
        if before is not None:
            self._line(label, before)
        if said.block is not None:
            self._pending[key] = said
        else:
            # A step's end comes after what was said in it.
            for other in [k for k in self._pending if k[0] == label]:
                self._line(label, self._pending.pop(other))
            self._line(label, said)

    def _line(self, label: str, said: Said) -> None:
        self.console.out(f"{label} [{said.tag}] {said.path} #{said.seq} {short(said.text)}", highlight=False)


def answer_panel(label: str, question: str, answer: str, table: str | None, where: str | None) -> RenderableType:
    """One answer with the head of its table."""
    parts: list[RenderableType] = [Text(answer.strip())]
    if table is not None:
        rows = table.splitlines()
        parts.append(_csv(rows[:6]))
        more = f"{len(rows) - 1} rows" if len(rows) > 6 else ""
        parts.append(Text(" · ".join(filter(None, (more, where))), "bright_black"))
    return Panel(Group(*parts), title=Text(f"{label} {question}", "bold"), title_align="left", border_style="green")


def _csv(rows: Sequence[str]) -> Table:
    import csv

    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    head, *body = csv.reader(rows)
    for name in head:
        table.add_column(name)
    for row in body:
        table.add_row(*row)
    return table


def steps_table(proof: Proof, kills: Sequence[Kill]) -> RenderableType:
    """Who was killed, and every step of the tasks that lost their worker."""
    hit = {over.task for over in proof.take_overs}
    table = Table(title="Steps of the tasks that lost their worker", title_style="bold", title_justify="left")
    for name in ("task", "step", "started", "cut off", "finished"):
        table.add_column(name, justify="left" if name in ("task", "step") else "right")
    for count in proof.steps:
        if count.task in hit:
            style = "bold magenta" if count.cut else "" if count.ok else "bold red"
            cut = str(count.cut) if count.cut else ""
            table.add_row(count.task, count.path, str(count.started), cut, str(count.finished), style=style)
    killed = Text("\n".join(f"SIGKILL: {kill.worker_id}, pid {kill.pid}" for kill in kills) + "\n", "bright_black")
    others = [count for count in proof.steps if count.task not in hit]
    if others and all(count.ok and not count.cut for count in others):
        rest = Text(f"The other tasks: {len(others)} steps, each started and finished once.\n", "bright_black")
        return Group(killed, table, rest)
    return Group(killed, table)


def checks_table(proof: Proof) -> RenderableType:
    """What the demo claims, and whether it holds."""
    table = Table(title="The proof, from the event logs and the checkpoints", title_style="bold", title_justify="left")
    for name in ("", "claim", "figures"):
        table.add_column(name, overflow="fold")
    for check in proof.checks:
        mark = Text("✔", "bold green") if check.holds else Text("✘", "bold red")
        table.add_row(mark, check.claim, check.figures)
    return table
