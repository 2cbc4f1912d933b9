"""How checkpoints, values and writes are written down in Valkey: what a person can read is JSON, values are raw bytes.

`docs/reference/stored-format.md` describes it, and golden files in the tests hold it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, PendingWrite, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

_json: Final = msgspec.json.Encoder()
_ESCAPES: Final = str.maketrans({"%": "%25", "|": "%7C"})

# What LangGraph puts into a checkpoint today; looking through all versions at each step would cost as much as the rest.
_ALWAYS_PLAIN: Final = frozenset(
    {"v", "id", "ts", "channel_versions", "versions_seen", "updated_channels", "pending_sends"}
)

Version = str | int | float


class Entry(NamedTuple):
    """A stored checkpoint without its values."""

    structure: dict[str, Any]
    metadata: CheckpointMetadata
    parent_id: str | None


def encode_entry(
    serde: SerializerProtocol, checkpoint: Checkpoint, metadata: CheckpointMetadata, parent_id: str | None
) -> tuple[bytes, bytes]:
    """The two lines of JSON, and what plain JSON cannot hold of them, serialized (empty if there is nothing)."""
    structure: dict[str, Any] = {key: value for key, value in checkpoint.items() if key != "channel_values"}
    odd_structure: dict[str, Any] = {}
    if not structure.keys() <= _ALWAYS_PLAIN or structure.get("pending_sends"):
        structure, odd_structure = _split(structure)
    plain, odd = _split(cast(Mapping[str, Any], metadata))
    structure["parent_id"] = parent_id
    text = _json.encode(structure) + b"\n" + _json.encode(plain)
    extra = encode_blob(serde, [odd_structure, odd]) if odd or odd_structure else b""
    return text, extra


def decode_entry(serde: SerializerProtocol, text: bytes, extra: bytes) -> Entry:
    """The inverse of `encode_entry`."""
    first, _, second = text.partition(b"\n")
    structure: dict[str, Any] = msgspec.json.decode(first)
    metadata: dict[str, Any] = msgspec.json.decode(second)
    if extra:
        odd_structure, odd = decode_blob(serde, extra)
        structure.update(odd_structure)
        metadata.update(odd)
    parent_id = structure.pop("parent_id", None)
    return Entry(structure, cast(CheckpointMetadata, metadata), parent_id)


def blob_field(namespace: str, channel: str, version: Version) -> str:
    """The field under which a channel's value of one version is kept. The same as `blob_field` in `lua/_shared.lua`."""
    text = version.translate(_ESCAPES) if isinstance(version, str) else f"#{version:.17g}"
    return f"{namespace}|{channel.translate(_ESCAPES)}|{text}"


def encode_blob(serde: SerializerProtocol, value: object) -> bytes:
    """The serializer's type, a newline, its bytes."""
    kind, data = serde.dumps_typed(value)
    return kind.encode() + b"\n" + data


def decode_blob(serde: SerializerProtocol, blob: bytes) -> Any:
    """The inverse of `encode_blob`."""
    kind, _, data = blob.partition(b"\n")
    return serde.loads_typed((kind.decode(), data))


def encode_write(serde: SerializerProtocol, task_path: str, channel: str, value: object) -> bytes:
    """A line of JSON `[task path, channel, type]`, then the serializer's bytes."""
    kind, data = serde.dumps_typed(value)
    return _json.encode((task_path, channel, kind)) + b"\n" + data


def decode_writes(serde: SerializerProtocol, flat: Sequence[bytes]) -> list[PendingWrite]:
    """Stored writes (field, value, field, value …) in the order in which live execution applies them."""
    found: list[tuple[tuple[str, str, int], str, str, bytes]] = []
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        task_id, _, index = field.decode().rpartition("|")
        head, _, data = value.partition(b"\n")
        # A fourth element names the blob that the bytes were taken from.
        task_path, channel, kind = msgspec.json.decode(head)[:3]
        found.append((writes_sort_key(task_path, task_id, int(index)), channel, kind, data))
    found.sort(key=lambda write: write[0])
    return [(key[1], channel, serde.loads_typed((kind, data))) for key, channel, kind, data in found]


def _split(mapping: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What JSON gives back as it was, and the rest."""
    plain: dict[str, Any] = {}
    odd: dict[str, Any] = {}
    for key, value in mapping.items():
        (plain if _is_plain(key) and _is_plain(value) else odd)[key] = value
    return plain, odd


def _is_plain(value: object) -> bool:
    kind = type(value)
    if kind is str:
        text = cast(str, value)
        return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
    if value is None or kind is bool:
        return True
    if kind is int:
        return -(2**63) <= cast(int, value) < 2**63
    if kind is float:
        return math.isfinite(cast(float, value))
    if kind is list or kind is tuple:  # LangGraph's own serializer gives tuples back as lists, too.
        return all(_is_plain(item) for item in cast(list[object], value))
    if kind is dict:
        return all(
            type(key) is str and _is_plain(key) and _is_plain(item)
            for key, item in cast(dict[object, object], value).items()
        )
    return False
