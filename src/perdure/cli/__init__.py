"""The command line. `main` is what the command `perdure` calls."""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    import sys

    from perdure.cli.app import app
    from perdure.cli.outcome import run

    sys.exit(run(app, sys.argv[1:]))
