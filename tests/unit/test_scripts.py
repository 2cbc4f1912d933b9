"""The scripts that `make` leans on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOUNDED = [sys.executable, str(ROOT / "scripts" / "bounded.py")]
# Says that it and a child of its own are there, then waits for ever.
HANGS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
child.wait()
"""


def test_a_command_within_its_limit_gives_its_own_exit_code() -> None:
    assert subprocess.run([*BOUNDED, "1m", sys.executable, "-c", "raise SystemExit(7)"], check=False).returncode == 7


def test_a_command_past_its_limit_ends_with_all_its_children() -> None:
    done = subprocess.run(
        [*BOUNDED, "1s", sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 124
    assert "cut off after 1s" in done.stderr
    child = int(done.stdout)
    gone = subprocess.run(["ps", "-p", str(child), "-o", "stat="], capture_output=True, text=True, check=False).stdout
    assert gone.strip() in ("", "Z"), "it has ended; whoever inherited it may still have to collect it"


def test_ctrl_c_reaches_the_command() -> None:
    code = "import signal; print('up', flush=True); signal.pause()"
    with subprocess.Popen(
        [*BOUNDED, "1m", sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) != 0


def test_bootstrap_does_nothing_when_nothing_has_changed(tmp_path: Path) -> None:
    """A fresh environment is recognised by its stamp, without starting Python, uv or pip."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", "scripts/bootstrap.sh"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/perdure").touch(mode=0o755)
    script = ["bash", str(folder / "scripts/bootstrap.sh")]
    only_coreutils = {"PATH": "/usr/bin:/bin", "PERDURE_PYTHON": "/nonexistent"}
    stamp = subprocess.run(
        [
            "bash",
            "-c",
            "{ pwd -P; cat requirements.lock pyproject.toml scripts/bootstrap.sh; } | "
            "{ sha256sum 2>/dev/null || shasum -a 256; }",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (folder / ".venv/.perdure-bootstrap").write_text(stamp)
    done = subprocess.run(script, env=only_coreutils, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
