"""Every setting of a deployment: a flag, else a `PERDURE_*` variable, else `perdure.toml`, else the default here."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.errors import ConfigurationError

SECRETS: Final = frozenset({"store", "broker", "api_keys"})
"""Settings that may hold a password: also read from the file that `PERDURE_<NAME>_FILE` names, and never shown."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deployment's settings. Units are in the names; `docs/reference/settings.md` is made from this class.

    `workers` counts worker processes, of which the last `standby` only take over tasks that lost their worker.
    """

    store: str | None = None
    """Where the store is: valkey[s]://, redis[s]:// or unix:///path. Only `dev` and `demo` can do without."""
    broker: str | None = None
    """Where doorbells ring. Default: the store itself."""
    config: str = "langgraph.json"
    """The file that names the graphs, as LangGraph's own command line reads it."""
    data_dir: str = ".perdure"
    """Where `dev` keeps the embedded Valkey's data."""
    host: str = "127.0.0.1"
    """The address that the gateway listens on. Any but the loopback needs `api_keys`."""
    port: int = 2024
    """The gateway's port; 0 takes a free one."""
    workers: int = 3
    """Worker processes."""
    standby: int = 1
    """How many of `workers` only take over tasks that lost theirs. 0 where there is one worker."""
    slots: int = 4
    """Tasks that one worker process runs at once."""
    tier: str = "cpu"
    """The tier that these workers serve."""
    lease_ttl_s: float = 10.0
    """A lost host's tasks go on elsewhere after this time. At least 1."""
    drain_timeout_s: float = 20.0
    """How long a draining worker lets its running steps finish."""
    rescuer: bool = True
    """Whether this worker's supervisor also runs a rescuer. Any number may run."""
    api_keys: str | None = None
    """Keys that may call: `KEY` or `TENANT:ROLE+ROLE:KEY`, apart by commas."""
    insecure: bool = False
    """Listen on any address without keys."""
    hosts: list[str] = []
    """Names that the `Host` header may have besides the loopback's, where no keys are set."""
    origins: list[str] = []
    """Web origins whose pages may call, besides the gateway's own."""
    chaos: bool = False
    """Allow holders of the role `chaos` to kill workers."""
    unsafe_store: bool = False
    """Start although the store's check says that accepted tasks could be lost."""
    health_port: int | None = None
    """A port on which a worker's supervisor answers /livez, /readyz and /metrics."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_json: bool = False
    """One JSON object a line instead of text."""
    graphs: dict[str, dict[str, str]] = {}
    """In `perdure.toml`: `[graphs.NAME] tier = "gpu"`, the tier of a graph's tasks where the request names none."""

    def __post_init__(self) -> None:
        for name, ok, mend in (
            ("workers", self.workers >= 1, "at least 1"),
            ("standby", self.standby >= 0, "0 or more"),
            ("slots", 1 <= self.slots <= 1024, "1 to 1024"),
            ("port", 0 <= self.port <= 65535, "0 to 65535"),
            ("lease_ttl_s", self.lease_ttl_s >= 1, "at least 1 second"),
            ("drain_timeout_s", self.drain_timeout_s >= 0, "0 or more seconds"),
            ("log_level", self.log_level in ("debug", "info", "warning", "error"), "debug, info, warning or error"),
        ):
            if not ok:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: it must be {mend}")

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What a log line or a traceback may show: a secret only as being set."""
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, "***" if name in SECRETS and value is not None else value) for name, value in values]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    @property
    def working(self) -> int:
        """Worker processes that take new tasks: all but the standbys, and at least one."""
        return max(1, self.workers - self.standby)

    @property
    def lease_ttl_ms(self) -> int:
        return int(self.lease_ttl_s * 1000)

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> Settings:
        """Raises ConfigurationError that names the setting, where it came from, its fault and the mend.

        `flags` are those that were given; None values count as not given. `file` defaults to ./perdure.toml.
        """
        environ = os.environ if environ is None else environ
        chosen: dict[str, object] = dict(_from_file(file or Path("perdure.toml"), required=file is not None))
        chosen.update(_from_environment(environ))
        chosen.update({name: value for name, value in (flags or {}).items() if value is not None})
        try:
            return msgspec.convert(chosen, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"settings: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in Settings.__struct_fields__:
        if name == "graphs":
            continue
        variable = f"PERDURE_{name.upper()}"
        text = environ.get(variable)
        if name in SECRETS and (path := environ.get(f"{variable}_FILE")):
            if text is not None:
                raise ConfigurationError(f"both {variable} and {variable}_FILE are set; keep one")
            try:
                text = Path(path).read_text().strip()
            except OSError as error:
                raise ConfigurationError(f"{variable}_FILE: cannot read {path}: {error.strerror}") from error
        if text is None or text == "":
            continue
        found[name] = _parse(name, variable, text)
    return found


def _parse(name: str, variable: str, text: str) -> Any:
    if name in ("hosts", "origins"):
        return [part.strip() for part in text.split(",") if part.strip()]
    kind = next(field.type for field in msgspec.structs.fields(Settings) if field.name == name)
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        shown = "its value" if name in SECRETS else repr(text)
        raise ConfigurationError(f"{variable}: {shown} is wrong: {error}") from error


def _from_file(path: Path, *, required: bool) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"there is no settings file {path}") from None
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    unknown = sorted(set(content) - set(Settings.__struct_fields__))
    if unknown:
        raise ConfigurationError(f"{path}: unknown setting {unknown[0]!r}")
    return content
