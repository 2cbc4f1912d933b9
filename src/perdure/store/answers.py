"""Answers to interrupts: which question each answer of a resume is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.errors import Conflict, InvalidRequest
from perdure.lifecycle.task import Task


def answers_to(task: Task, value: Any, responses: Mapping[str, Any] | None) -> dict[str, Any]:
    """The answers of one resume by interrupt id. Raises Conflict (`ambiguous`) or InvalidRequest."""
    open_ids = [question.id for question in task.interrupts if question.id not in task.answers]
    if responses is None:
        if value is msgspec.UNSET:
            return {}
        if len(open_ids) != 1:
            raise Conflict(
                "ambiguous",
                f"{len(open_ids)} interrupts are pending ({', '.join(open_ids)}); answer each by its id in `responses`",
            )
        return {open_ids[0]: value}
    for interrupt_id in responses:
        if interrupt_id not in open_ids:
            raise InvalidRequest(
                ("/responses", f"{interrupt_id!r} is not pending; pending are: {', '.join(open_ids) or 'none'}")
            )
    return dict(responses)


def passed_with(task: Task, answers: Mapping[str, Any]) -> list[str]:
    """The breakpoints that may be walked past once these answers are kept, as `checkpoint_id:node`."""
    passed = list(task.passed)
    for question in task.interrupts:
        if question.breakpoint and question.id in answers:
            passed.append(f"{question.value['checkpoint_id']}:{question.breakpoint}")
    return passed
