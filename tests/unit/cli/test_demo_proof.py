"""The demo's proof must fail when what it claims is not so; these logs are lies of every kind it has to see through."""

from __future__ import annotations

from typing import Any

from perdure.cli.demo_proof import Followed, Kill, Proof, count_steps, prove

STANDBYS = frozenset({"w-standby"})


class Log:
    """Writes an event log as the gateway shows it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.attempt = 1
        self.worker = "w-first"
        self.now_ms = 1_000

    def add(self, method: str, data: object, path: str = "", namespace: tuple[str, ...] = ()) -> int:
        seq = len(self.events) + 1
        self.now_ms += 10
        params = {
            "namespace": list(namespace),
            "path": path.split("/") if path else [],
            "timestamp": self.now_ms,
            "attempt": self.attempt,
            "worker": self.worker,
            "data": data,
        }
        self.events.append({"seq": seq, "event_id": f"e:{seq}", "method": method, "params": params})
        return seq

    def step(self, path: str, status: str, step_id: str | None = None) -> int:
        namespace = tuple(f"{part}:x" for part in path.split("/")[:-1])
        return self.add("tasks", {"id": step_id or path, "name": path, "status": status}, path, namespace)

    def whole(self, path: str, step_id: str | None = None) -> None:
        self.step(path, "started", step_id)
        self.step(path, "finished", step_id)

    def take_over(self, superseded: tuple[int, int] | None, worker: str = "w-standby") -> None:
        dead, self.worker, self.attempt = self.worker, worker, self.attempt + 1
        data = {"name": "recovery", "dead_worker": dead, "new_worker": worker, "attempt": self.attempt}
        self.add("custom", {**data, "superseded": list(superseded) if superseded else None, "rehydrated": {}})


def good_log() -> Log:
    """plan finishes, query is cut off, the standby runs it again."""
    log = Log()
    log.whole("plan")
    first = log.step("query", "started")
    log.take_over((first, first))
    log.whole("query")
    log.whole("answer")
    return log


def proof_of(log: Log, **changes: Any) -> Proof:
    steps = [{"step": step, "task_id": "t"} for step in range(-1, 4)]
    task = Followed("Q1", "t", "succeeded", [e["seq"] for e in log.events], 2, log.events, steps)
    for name, value in changes.items():
        setattr(task, name, value)
    return prove([task], [Kill("w-first", 7, 1_032.0, "t")], STANDBYS)


def claim(proof: Proof, words: str) -> bool:
    return next(check.holds for check in proof.checks if words in check.claim)


def test_everything_holds_where_everything_was_right() -> None:
    proof = proof_of(good_log())
    assert proof.holds, [check for check in proof.checks if not check.holds]


def test_the_time_of_the_take_over_is_from_the_kill_to_the_first_step_elsewhere() -> None:
    (over,) = proof_of(good_log()).take_overs
    assert (over.ms, over.on_standby, list(over.cut_steps)) == (1_050 - 1_032, True, ["query"])


def test_a_finished_step_that_ran_again_is_seen() -> None:
    log = good_log()
    log.whole("plan")
    assert not claim(proof_of(log), "No finished step ran twice")


def test_a_step_that_started_again_without_having_been_cut_off_is_seen() -> None:
    log = Log()
    log.step("plan", "started")
    log.step("plan", "started")
    log.step("plan", "finished")
    (count,) = count_steps(Followed("Q1", "t", log=log.events))
    assert not count.ok


def test_a_step_that_never_finished_is_seen() -> None:
    log = good_log()
    log.step("late", "started")
    assert not claim(proof_of(log), "No finished step ran twice")


def test_an_end_that_was_announced_but_not_checkpointed_is_no_end() -> None:
    """The events of a step reach the log before its checkpoint; a kill in between makes it run again, rightly."""
    log = Log()
    first = log.step("query", "started")
    last = log.step("query", "finished")
    log.take_over((first, last))
    log.whole("query")
    (count,) = count_steps(Followed("Q1", "t", log=log.events))
    assert count.ok
    assert (count.started, count.finished, count.cut) == (2, 1, 1)


def test_a_second_round_of_a_loop_is_another_step() -> None:
    log = Log()
    log.whole("query", "first")
    log.whole("query", "second")
    assert [count.ok for count in count_steps(Followed("Q1", "t", log=log.events))] == [True, True]


def test_a_step_inside_a_subgraph_that_was_checkpointed_counts_although_its_events_were_struck() -> None:
    log = Log()
    first = log.step("plan", "started")
    log.whole("plan/inspect")
    log.step("plan/planner", "started")
    log.take_over((first, len(log.events)))
    log.step("plan", "started")
    log.whole("plan/planner")
    log.step("plan", "finished")
    assert all(count.ok for count in count_steps(Followed("Q1", "t", log=log.events)))


def test_a_kill_between_two_steps_proves_nothing_about_the_middle_of_one() -> None:
    log = Log()
    log.whole("plan")
    log.take_over(None)
    log.whole("query")
    assert not claim(proof_of(log), "middle of a step")


def test_without_a_kill_nothing_is_proven() -> None:
    log = Log()
    log.whole("plan")
    task = Followed("Q1", "t", "succeeded", [1, 2], 0, log.events, [{"step": 0, "task_id": "t"}])
    assert not prove([task], [], STANDBYS).holds


def test_a_take_over_by_another_than_the_standby_is_seen() -> None:
    log = Log()
    log.whole("plan")
    first = log.step("query", "started")
    log.take_over((first, first), worker="w-busy")
    log.whole("query")
    assert not claim(proof_of(log), "The standby went on")


def test_a_task_that_failed_is_seen() -> None:
    assert not claim(proof_of(good_log(), status="failed"), "Every accepted task")


def test_a_missing_a_double_and_a_misplaced_event_are_seen() -> None:
    seen = [event["seq"] for event in good_log().events]
    for wrong in (seen[:-1], [seen[0], *seen], [seen[1], seen[0], *seen[2:]]):
        assert not claim(proof_of(good_log(), seen=wrong), "no gap and no double")


def test_a_hole_in_the_log_itself_is_seen() -> None:
    log = good_log()
    log.events[-1]["seq"] += 1
    assert not claim(proof_of(log), "no gap and no double")


def test_a_missing_and_a_double_checkpoint_are_seen() -> None:
    for steps in ([-1, 0, 2], [-1, 0, 0, 1], []):
        points = [{"step": step, "task_id": "t"} for step in steps]
        assert not claim(proof_of(good_log(), checkpoints=points), "checkpoints")


def test_a_kill_that_somebody_asked_for_may_come_between_two_steps() -> None:
    log = good_log()
    log.take_over(None, worker="w-third")
    log.whole("epilogue")
    steps = [{"step": step, "task_id": "t"} for step in range(5)]
    task = Followed("Q1", "t", "succeeded", [e["seq"] for e in log.events], 0, log.events, steps)
    kills = [Kill("w-first", 7, 1_032.0, "t"), Kill("w-standby", 8, 1_090.0, "t")]
    assert prove([task], kills, STANDBYS).holds
