"""`python -m bench [NAME …]`: runs the benchmarks and writes `bench/RESULTS.md` with date, machine and method."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("accept", "tasks", "step", "start", "recovery", "stream", "growth")
RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """What it ran on, in one line."""
    model = "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), model
        )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {system}; load before: {load}"


def main() -> None:
    wanted = sys.argv[1:] or list(NAMES)
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        sys.exit(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    sections = [
        f"# Benchmarks\n\n{time.strftime('%Y-%m-%d %H:%M')} UTC, on {machine()}.\n\n"
        "Every figure stands beside a bare limit measured in the same run, on the same machine, client included. "
        "The machine is shared and noisy: compare within a table. `make bench` repeats all of it.\n"
    ]
    for name in wanted:
        print(f"## {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        if done.returncode != 0:
            sys.exit(f"bench.{name} failed")
        about = (importlib.import_module(f"bench.{name}").__doc__ or "").strip()
        sections.append(f"## {name}\n\n{about}\n\n{done.stdout.strip()}\n")
    if set(wanted) == set(NAMES):
        RESULTS.write_text("\n".join(sections))


if __name__ == "__main__":
    main()
