"""Runs a command with a limit on its time, and ends its whole process group when the limit is reached.

macOS has no `timeout`, and `timeout` ends only the one process, which leaves the servers of a hung test running.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

SECONDS = {"s": 1, "m": 60, "h": 3600}


def main() -> int:
    """The command's exit code, or 124 when it was cut off."""
    found = re.fullmatch(r"(\d+)([smh])", sys.argv[1])
    if found is None or len(sys.argv) < 3:
        sys.stderr.write("usage: bounded.py LIMIT COMMAND…, where LIMIT is like 90s or 15m\n")
        return 2
    limit_s = int(found[1]) * SECONDS[found[2]]
    process = subprocess.Popen(sys.argv[2:], start_new_session=True)

    def pass_on(number: int, _frame: object) -> None:
        os.killpg(process.pid, number)

    # The command has a process group of its own, so Ctrl-C at the terminal reaches only us.
    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        sys.stderr.write(f"bounded: cut off after {sys.argv[1]}: {' '.join(sys.argv[2:])}\n")
        return 124


if __name__ == "__main__":
    sys.exit(main())
