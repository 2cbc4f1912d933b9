"""`python -m perdure.testing.simulation`: run seeds, one after the other, or replay one with its trace."""

from __future__ import annotations

import itertools
import sys
import time

import click

from perdure.testing.simulation.world import Run, simulate


@click.command()
@click.option("--seed", type=int, help="Replay this seed and print what happened, line by line.")
@click.option("--first", type=int, default=0, show_default=True, help="The first seed to run.")
@click.option("--count", type=int, default=1000, show_default=True, help="How many seeds to run.")
@click.option("--forever", is_flag=True, help="Run seeds until one breaks a promise.")
@click.option("--langgraph/--scripts", default=None, help="Run all on LangGraph, or none; some seeds are else.")
def main(seed: int | None, first: int, count: int, forever: bool, langgraph: bool | None) -> None:
    """Run Perdure's gateway, workers and rescuers in virtual time, on machines that fail as the seed says.

    Ends with 1 at the first seed that breaks a promise.
    """
    if seed is not None:
        run = simulate(seed, langgraph=langgraph, trace=True)
        click.echo("\n".join(run.trace))
        _tell(run)
        sys.exit(0 if run.held else 1)
    began, tasks = time.process_time(), 0
    for number in itertools.count(first) if forever else range(first, first + count):
        run = simulate(number, langgraph=langgraph)
        tasks += run.tasks
        if not run.held:
            _tell(run)
            how = "" if langgraph is None else " --langgraph" if langgraph else " --scripts"
            click.echo(f"replay it: python -m perdure.testing.simulation --seed {number}{how}")
            sys.exit(1)
        if (number - first + 1) % 1000 == 0:
            spent_s = time.process_time() - began
            click.echo(f"{number - first + 1} seeds, {tasks} tasks, {spent_s:.0f} s of CPU: every promise held")
    click.echo(f"{count} seeds, {tasks} tasks: every promise held")


def _tell(run: Run) -> None:
    click.echo(f"seed {run.seed}: {run.tasks} tasks, {run.lasted_s:.1f} virtual seconds, {run.turns} callbacks")
    for violation in run.broken:
        click.echo(str(violation))
    if run.held:
        click.echo("every promise held")


main()
