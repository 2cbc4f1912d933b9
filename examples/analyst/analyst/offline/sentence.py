"""A question under reading: its tokens, which of them are spent, and what was found so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from analyst.offline import lexicon as lx
from analyst.offline.lexicon import Concept, word_set
from analyst.offline.query import Filter
from analyst.offline.tokens import Token

COMPARE_WORDS: Final = word_set("compare compared comparison vs versus difference differ differs v than")
COMPARATIVES: Final = word_set(
    "more less longer shorter higher lower better worse later greater fewer faster slower larger smaller older newer "
    "busier"
)
ARRIVAL_VERBS: Final = word_set("arrived arrive arrives arriving landed land lands landing")
UNIT_CONCEPTS: Final = {
    "miles": lx.DISTANCE, "mile": lx.DISTANCE, "km": lx.DISTANCE, "minutes": lx.AIR_TIME, "hours": lx.AIR_TIME,
    "seats": lx.SEATS, "degrees": lx.TEMP, "years": lx.YEAR, "engines": lx.ENGINES, "minute": lx.AIR_TIME,
    "inches": lx.PRECIP, "feet": lx.ALTITUDE, "hour": lx.HOUR, "year": lx.YEAR,
}  # fmt: skip
DELAY_WORDS: Final = {"dep_delay": "departure delay", "arr_delay": "arrival delay"}
_AFTER_NOT: Final = word_set(
    "the from to in for on by at depart departed leave leaving left fly flying flown go going operated arrive operate "
    "including include airport"
)
_NEGATIONS: Final = word_set("not except excluding outside without besides exclude")


@dataclass(frozen=True, slots=True)
class Found:
    """A condition with its place in the question; a strong one (a status, a comparison) makes a share's part."""

    place: int
    condition: Filter
    is_strong: bool = False
    is_time: bool = False
    needs: frozenset[str] = frozenset()


@dataclass(slots=True)
class Sentence:
    """What the reader of every part shares: a look around, and the marks on tokens that are spent."""

    tokens: list[Token]
    used: set[int] = field(default_factory=set)
    found: list[Found] = field(default_factory=list)
    groups: list[Concept] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    rows_min: int = 0
    compared: Concept | None = None

    def _text(self, place: int) -> str:
        return self.tokens[place].text if 0 <= place < len(self.tokens) else ""

    def _free(self, place: int) -> bool:
        return 0 <= place < len(self.tokens) and place not in self.used

    def _before(self, place: int, reach: int, *, skip: Iterable[str] = ()) -> list[str]:
        """The words before, nearest first; `skip` does not count against the reach."""
        words: list[str] = []
        place -= 1
        while place >= 0 and len(words) < reach:
            if self._text(place) not in skip:
                words.append(self._text(place))
            place -= 1
        return words

    def _is_negated(self, place: int) -> bool:
        before = self._before(place, 2, skip=_AFTER_NOT)
        if before and before[0] in _NEGATIONS:
            self._use_word(place, before[0])
            return True
        if before[:2] in (["than", "other"], ["from", "apart"]) or before[:1] == ["non"]:
            self._use_word(place, before[0])
            self._use_word(place, before[1] if len(before) > 1 else "")
            return True
        return False

    def _use_word(self, place: int, word: str) -> None:
        for index in range(place - 1, -1, -1):
            if self._text(index) == word:
                self.used.add(index)
                return

    def _all(self, kind: type) -> list[int]:
        return [i for i, token in enumerate(self.tokens) if isinstance(token.meaning, kind) and i not in self.used]

    def _has_word(self, words: Iterable[str]) -> bool:
        texts = {token.text for token in self.tokens}
        return any(word in texts for word in words)

    def _add(
        self,
        place: int,
        sql: str,
        words: str,
        *,
        strong: bool = False,
        time: bool = False,
        needs: Iterable[str] = (),
    ) -> None:
        self.found.append(Found(place, Filter(sql, words), strong, time, frozenset(needs)))
        self.needs |= {*needs, "t"} if time else set(needs)
