"""A PostgreSQL of our own for comparison, where its programs are installed; with its usual fsync on every commit."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _programs() -> Path | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb") or ""]
    return Path(found[-1]).parent if found[-1] else None


@contextlib.contextmanager
def private_postgres() -> Iterator[str | None]:
    """Yields its URL, or None where PostgreSQL is not installed. It refuses to run as root, so root lends it a user."""
    programs = _programs()
    if programs is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="perdure-pg-") as folder:
        before: list[str] = []
        if os.geteuid() == 0:
            user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
            if user is None:
                yield None
                return
            shutil.chown(folder, user)
            before = ["runuser", "-u", user, "--"]
        data = f"{folder}/data"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "check": True}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        subprocess.run([*before, programs / "initdb", "-D", data, "-U", "bench", "-A", "trust"], **quiet)  # type: ignore[call-overload]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        subprocess.run([*before, programs / "pg_ctl", "-D", data, "-o", options, "-w", "start"], **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*before, programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"], **quiet)  # type: ignore[call-overload]


def _exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return True
    return False
