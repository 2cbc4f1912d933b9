"""Classes that a graph in the tests keeps in its state; at a module's top, where checkpoints find them again."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, NewType, TypedDict

from pydantic import BaseModel


class Colour(enum.Enum):
    RED = "red"


class Level(enum.StrEnum):
    HIGH = "high"


class Spot(NamedTuple):
    x: int
    colour: Colour


@dataclasses.dataclass
class Leaf:
    level: Level


@dataclasses.dataclass
class Tree:
    leaves: Mapping[str, Sequence[Leaf]]
    spot: Spot | None = None


class Part(BaseModel):
    n: int


class Machine(BaseModel):
    parts: list[Part]
    main: Part | None = None


Fleet = NewType("Fleet", list[Machine])


class Everything(TypedDict, total=False):
    tree: Tree | None
    trees: dict[str, tuple[Tree, ...]]
    fleet: Fleet
    loose: object
    status: HTTPStatus
