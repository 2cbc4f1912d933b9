"""The demo's proof, computed from the event logs and the checkpoints of its tasks; pure.

Nothing here knows what the demo did except the kill itself: who was killed, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Event = Mapping[str, Any]


class Kill(NamedTuple):
    """A worker process that was sent SIGKILL, and the task whose step it was meant to cut. `at_ms`: wall clock."""

    worker_id: str
    pid: int
    at_ms: float
    task_id: str


@dataclass
class Followed:
    """One task as a client saw it (`seen`, over `cuts` forced reconnects) and as the store keeps it."""

    label: str
    task_id: str
    status: str = ""
    seen: list[int] = field(default_factory=list)
    cuts: int = 0
    log: Sequence[Event] = ()
    checkpoints: Sequence[Mapping[str, Any]] = ()
    """Its thread's history: mappings with `step` and `task_id`."""


class StepCount(NamedTuple):
    """How often one step of one task was started and finished. `cut` is how many executions a kill ended."""

    task: str
    path: str
    started: int
    finished: int
    cut: int

    @property
    def ok(self) -> bool:
        """Finished once, and started again only where it had been cut off."""
        return self.finished == 1 and self.started == 1 + self.cut


class TakeOver(NamedTuple):
    """A task's way from a killed worker to another one. `ms` is from the kill to the first step there."""

    task: str
    dead_worker: str
    new_worker: str
    on_standby: bool
    ms: float
    cut_steps: Sequence[str]
    recovery: Mapping[str, Any]


class Check(NamedTuple):
    """One claim, whether it holds, and the figures it was decided by."""

    claim: str
    holds: bool
    figures: str


class Proof(NamedTuple):
    """Everything that the demo shows at its end."""

    steps: Sequence[StepCount]
    take_overs: Sequence[TakeOver]
    checks: Sequence[Check]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def prove(tasks: Sequence[Followed], kills: Sequence[Kill], standbys: frozenset[str]) -> Proof:
    """Decide every claim of the demo."""
    steps = [count for task in tasks for count in count_steps(task)]
    overs = [over for task in tasks for over in take_overs(task, kills, standbys)]
    return Proof(
        steps,
        overs,
        [
            _all_succeeded(tasks),
            _finished_once(steps),
            _cut_in_the_middle(overs, tasks, kills),
            _checkpoints_once(tasks),
            _gone_on(overs, kills),
            _stream_whole(tasks),
        ],
    )


def count_steps(task: Followed) -> list[StepCount]:
    """The steps in the order of their first start. A step is one node's run in one place of the graph: a second round
    of a loop is another step."""
    struck = _superseded(task.log)
    started: dict[tuple[str, str], list[Event]] = {}
    finished: dict[tuple[str, str], list[Event]] = {}
    for event in task.log:
        if event["method"] == "tasks":
            params = event["params"]
            key = ("|".join(params["namespace"]), params["data"]["id"])
            part = started if params["data"]["status"] == "started" else finished
            part.setdefault(key, []).append(event)
    counts = []
    for key, starts in started.items():
        ends = finished.get(key, [])
        if len(ends) > 1:
            # An end whose checkpoint did not reach the store before the kill is no end: it was announced, and struck.
            ends = [event for event in ends if not any(low <= event["seq"] <= high for low, high in struck)]
        ended_in = {event["params"]["attempt"] for event in ends}
        cut = sum(event["params"]["attempt"] not in ended_in for event in starts)
        path = "/".join(starts[0]["params"]["path"])
        counts.append(StepCount(task.label, path, len(starts), len(ends), cut))
    return counts


def take_overs(task: Followed, kills: Sequence[Kill], standbys: frozenset[str]) -> list[TakeOver]:
    """One for each kill that this task survived."""
    found = []
    killed = {kill.worker_id: kill for kill in kills}
    for event in task.log:
        data = event["params"]["data"]
        if event["method"] != "custom" or not isinstance(data, Mapping) or data.get("name") != "recovery":
            continue
        kill = killed.get(data["dead_worker"])
        first = next((e for e in task.log if e["seq"] > event["seq"] and e["method"] == "tasks"), None)
        if kill is None or first is None:
            continue
        found.append(
            TakeOver(
                task.label,
                kill.worker_id,
                data["new_worker"],
                data["new_worker"] in standbys,
                first["params"]["timestamp"] - kill.at_ms,
                _open_at(task.log, event["seq"]),
                data,
            )
        )
    return found


def _open_at(log: Sequence[Event], seq: int) -> list[str]:
    """The innermost steps that were started before `seq` and had not finished."""
    running: dict[tuple[str, str], str] = {}
    for event in log:
        if event["seq"] >= seq:
            break
        if event["method"] == "tasks":
            params = event["params"]
            key = ("|".join(params["namespace"]), params["data"]["id"])
            if params["data"]["status"] == "started":
                running[key] = "/".join(params["path"])
            else:
                running.pop(key, None)
    paths = list(running.values())
    return [path for path in paths if not any(other.startswith(path + "/") for other in paths)]


def _superseded(log: Sequence[Event]) -> list[tuple[int, int]]:
    ranges = []
    for event in log:
        data = event["params"]["data"]
        if event["method"] == "custom" and isinstance(data, Mapping) and data.get("superseded"):
            ranges.append((data["superseded"][0], data["superseded"][1]))
    return ranges


def _all_succeeded(tasks: Sequence[Followed]) -> Check:
    ended = [f"{task.label} {task.status}" for task in tasks if task.status != "succeeded"]
    figures = ", ".join(ended) if ended else f"{len(tasks)} of {len(tasks)} tasks succeeded"
    return Check("Every accepted task was answered", not ended, figures)


def _finished_once(steps: Sequence[StepCount]) -> Check:
    wrong = [f"{s.task} {s.path}: {s.started} starts, {s.finished} ends, {s.cut} cut" for s in steps if not s.ok]
    again = sum(step.cut > 0 for step in steps)
    figures = "; ".join(wrong) if wrong else f"{len(steps)} steps finished once each, {again} of them after a cut"
    return Check("No finished step ran twice", bool(steps) and not wrong, figures)


def _cut_in_the_middle(overs: Sequence[TakeOver], tasks: Sequence[Followed], kills: Sequence[Kill]) -> Check:
    """The first kill is the demo's own and must hit; those that somebody asked for with a key come when they come."""
    cuts = [_cut_of(kill, overs, tasks) for kill in kills]
    if not cuts or cuts[0] is None:
        figures = "it was between two steps, or its task was not taken over" if cuts else "no worker was killed"
        return Check("A worker was killed in the middle of a step", False, figures)
    return Check("A worker was killed in the middle of a step", True, "; ".join(cut for cut in cuts if cut))


def _cut_of(kill: Kill, overs: Sequence[TakeOver], tasks: Sequence[Followed]) -> str | None:
    """What the kill cut off in the task it was meant for."""
    label = next(task.label for task in tasks if task.task_id == kill.task_id)
    for over in overs:
        if over.dead_worker == kill.worker_id and over.task == label and over.cut_steps:
            return f"{label} in {' and '.join(over.cut_steps)}"
    return None


def _checkpoints_once(tasks: Sequence[Followed]) -> Check:
    wrong = []
    count = 0
    for task in tasks:
        steps = sorted(point["step"] for point in task.checkpoints if point["task_id"] == task.task_id)
        count += len(steps)
        if not steps or steps != list(range(steps[0], steps[0] + len(steps))):
            wrong.append(f"{task.label}: steps {steps}")
    figures = "; ".join(wrong) if wrong else f"{count} checkpoints, one for each step"
    return Check("The checkpoints have no hole and no double", not wrong, figures)


def _gone_on(overs: Sequence[TakeOver], kills: Sequence[Kill]) -> Check:
    """After the first kill the standby is the only one that is free; after another one, any worker may be right."""
    figures = ", ".join(
        f"{over.task} after {over.ms:.0f} ms on {'the standby ' if over.on_standby else ''}{over.new_worker}"
        for over in overs
    )
    first = [over for over in overs if kills and over.dead_worker == kills[0].worker_id]
    holds = bool(first) and all(over.on_standby for over in first)
    return Check("The standby went on", holds, figures or "no task was taken over")


def _stream_whole(tasks: Sequence[Followed]) -> Check:
    wrong = []
    for task in tasks:
        kept = [event["seq"] for event in task.log]
        if kept != list(range(1, len(kept) + 1)):
            wrong.append(f"{task.label}: the log itself has a hole or a double")
        elif task.seen != kept:
            missing, double = set(kept) - set(task.seen), len(task.seen) - len(set(task.seen))
            wrong.append(f"{task.label}: {len(missing)} missing, {double} double")
    events, cuts = sum(len(task.seen) for task in tasks), sum(task.cuts for task in tasks)
    figures = "; ".join(wrong) if wrong else f"{events} events over {cuts} forced reconnects, each once and in order"
    return Check("The stream had no gap and no double", not wrong and events > 0, figures)
