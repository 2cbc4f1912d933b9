"""Reads the conditions of a question: comparisons with numbers, and the places, names and times that it gives."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from analyst.offline import lexicon as lx
from analyst.offline.lexicon import Agg, Concept, Kind, Rank, Status, word_set
from analyst.offline.sentence import ARRIVAL_VERBS, COMPARATIVES, COMPARE_WORDS, DELAY_WORDS, UNIT_CONCEPTS, Sentence
from analyst.offline.tokens import ClockHour, Comparator, Days, Hours, Months, Named, Number, Place, Unit, Year

_AIR_WORDS: Final = word_set("air aloft airborne flying flew")
_DAYPART_SQL: Final = (
    "CASE WHEN {t}.hour BETWEEN 5 AND 11 THEN 'morning' WHEN {t}.hour BETWEEN 12 AND 17 THEN 'afternoon' "
    "WHEN {t}.hour BETWEEN 18 AND 21 THEN 'evening' ELSE 'night' END"
)
_DAYPART: Final = Concept(
    "daypart", _DAYPART_SQL, frozenset({"t"}), Kind.GRAIN, (), shows=((_DAYPART_SQL, "daypart"),),
    order="min(({t}.hour + 19) % 24)",
)  # fmt: skip
_WEEKEND_SQL: Final = "CASE WHEN isodow({t}.date) >= 6 THEN 'weekend' ELSE 'weekdays' END"
_WEEKEND: Final = Concept(
    "part_of_week", _WEEKEND_SQL, frozenset({"t"}), Kind.CATEGORY, (), shows=((_WEEKEND_SQL, "part_of_week"),)
)


@dataclass(slots=True)
class Conditions(Sentence):
    """Turns what narrows the rows into filters, and several values side by side into a group."""

    def read_conditions(self) -> None:
        """Read them all; what is read is marked as spent."""
        self._comparisons()
        self._values()

    # Comparisons with numbers.

    def _comparisons(self) -> None:
        for place in range(len(self.tokens)):
            meaning = self.tokens[place].meaning
            if isinstance(meaning, Comparator):
                self._comparison(place, meaning)
            elif self._text(place) == "between":
                self._range(place)
            elif isinstance(meaning, Number) and place not in self.used:
                self._or_more(place, meaning)

    def _comparison(self, place: int, comparator: Comparator) -> None:
        number, at = self._number_at(place + 1)
        if number is None:
            return
        unit_at = at + 1
        marks = {place, *range(place + 1, at + 1)}
        if self._text(unit_at) == "or" and self._text(unit_at + 1) in ("more", "less"):
            unit_at += 2
        self._bind_number(
            place,
            unit_at,
            marks,
            comparator.concept,
            lambda sql, value: f"{sql} {comparator.operator} {value}",
            [number],
        )

    def _number_at(self, place: int) -> tuple[float | None, int]:
        while self._text(place) in ("of", "about", "a", "an", "the") and not isinstance(
            self._unit_after_article(place), Unit
        ):
            place += 1
        token = self.tokens[place] if place < len(self.tokens) else None
        if token is not None and isinstance(token.meaning, Number):
            return token.meaning.value, place
        if token is not None and isinstance(token.meaning, Year):
            return float(token.meaning.number), place
        if token is not None and token.text in ("a", "an", "one"):
            return 1.0, place
        if token is not None and token.text == "half" and self._text(place + 1) == "an":
            return 0.5, place + 1
        return None, place

    def _unit_after_article(self, place: int) -> object:
        if self._text(place) not in ("a", "an"):
            return None
        following = self.tokens[place + 1] if place + 1 < len(self.tokens) else None
        return Unit(following.text) if following is not None and following.text in lx.UNITS else None

    def _range(self, place: int) -> None:
        low, at = self._number_at(place + 1)
        if low is None:
            return
        if self._text(at + 1) != "and" and self._text(at + 2) == "and":
            at += 1
        if self._text(at + 1) != "and":
            return
        high, end = self._number_at(at + 2)
        if high is None:
            return
        built = self._before(place, 1)[:1] in (["built"], ["made"], ["manufactured"])
        self._bind_number(
            place,
            end + 1,
            set(range(place, end + 1)),
            lx.PLANE_YEAR if built else None,
            lambda sql, value: f"{sql} BETWEEN {value}",
            [low, high],
        )

    def _or_more(self, place: int, number: Number) -> None:
        """`60 minutes or more`, `60 or more minutes`, `delayed by 60 minutes`."""
        after = place + 1
        has_unit = self._text(after) in lx.UNITS
        word_at = after + 1 if has_unit else after
        if self._text(word_at) == "or" and self._text(word_at + 1) in (
            "more",
            "longer",
            "later",
            "less",
            "fewer",
            "over",
        ):
            operator = "<=" if self._text(word_at + 1) in ("less", "fewer") else ">="
            unit_at = after if has_unit else word_at + 2
            marks = {place, word_at, word_at + 1}
            self._bind_number(
                place, unit_at, marks, None, lambda sql, value: f"{sql} {operator} {value}", [number.value]
            )
        elif has_unit and self._text(after) not in ("years",) and self._is_amount(place):
            self._bind_number(place, after, {place}, None, lambda sql, value: f"{sql} >= {value}", [number.value])

    def _is_amount(self, place: int) -> bool:
        near = {self._text(i) for i in range(place - 2, place)} | {self._text(i) for i in range(place + 2, place + 4)}
        return bool(near & {"delayed", "late", "delay"})

    def _bind_number(
        self,
        place: int,
        unit_at: int,
        marks: set[int],
        says: Concept | None,
        write: Callable[[str, str], str],
        numbers: list[float],
    ) -> None:
        unit = self._text(unit_at) if self._text(unit_at) in lx.UNITS else ""
        if unit and self._text(unit_at + 1) == "old":
            marks = marks | {unit_at + 1}
        if not unit and (self._text(unit_at) in ("flights", "departures", "times", "readings")):
            self.rows_min = int(numbers[0]) + (1 if write("x", "1").endswith("> 1") else 0)
            self.used |= marks | {unit_at}
            self.needs.add("flights")
            return
        factor, candidates = lx.UNITS[unit] if unit else (1.0, ())
        concept, mark = self._measured(place, unit_at if unit else unit_at - 1, candidates)
        if concept is None:
            concept = self._implied(place, says, candidates, unit)
        if concept is None:
            return
        if concept is lx.PLANE_AGE and says is not None and says.key == "year_built":
            concept = says
        self.used |= marks | mark | ({unit_at} if unit else set())
        values = " AND ".join(
            f"{number * factor:g}" if abs(number * factor) < 1e6 else str(number * factor) for number in numbers
        )
        shown = " ".join(self._text(i) for i in sorted(marks | ({unit_at} if unit else set())))
        sql = concept.sql if " " not in concept.sql else f"({concept.sql})"
        self.compared = self.compared or concept
        self._add(
            place,
            write(sql, values),
            f"{DELAY_WORDS.get(concept.key, concept.key.replace('_', ' '))} {shown}",
            strong=True,
            needs=concept.needs,
        )

    def _measured(self, place: int, end: int, candidates: tuple[Concept, ...]) -> tuple[Concept | None, set[int]]:
        """The column that a number belongs to, by the words around it, and where those words stand."""
        near = range(end + 1, min(end + 5, len(self.tokens)))
        for i in near:
            if isinstance(self.tokens[i].meaning, (Number, Comparator)) or self._text(i) in (
                ",",
                "and",
                "or",
                "by",
                "per",
            ):
                break
            if (concept := self._as_amount(i, place, candidates)) is not None:
                return concept, {i}
            if i > end + 3:
                break
        for i in range(place - 1, max(place - 6, -1), -1):
            if i in self.used:
                break
            if (concept := self._as_amount(i, place, candidates)) is not None:
                return concept, {i}
        return None, set()

    def _as_amount(self, i: int, place: int, candidates: tuple[Concept, ...]) -> Concept | None:
        meaning = self.tokens[i].meaning
        if i in self.used:
            return None
        if isinstance(meaning, Status) and (not candidates or lx.DEP_DELAY in candidates):
            verbs = self._before(place, 3)
            arrives = meaning is lx.LATE_ARRIVAL or any(verb in ARRIVAL_VERBS for verb in verbs)
            return lx.ARR_DELAY if arrives else lx.DEP_DELAY if meaning is lx.DELAYED else None
        if isinstance(meaning, Unit) and meaning.word in ("seats", "engines") and not candidates:
            return UNIT_CONCEPTS[meaning.word]
        if isinstance(meaning, Concept) and meaning.kind is Kind.NUMBER and (not candidates or meaning in candidates):
            if i < place and self._is_measured_elsewhere(i):
                return None
            return meaning
        return None

    def _is_measured_elsewhere(self, i: int) -> bool:
        """An `average departure delay` before a comparison is what is asked, not what is compared."""
        before = self._before(i, 2)
        if any(word in lx.AGG_WORDS or word in lx.RANKS for word in before):
            return True
        return i > 0 and isinstance(self.tokens[i - 1].meaning, (Agg, Rank))

    def _implied(self, place: int, says: Concept | None, candidates: tuple[Concept, ...], unit: str) -> Concept | None:
        if not candidates:
            return says
        if says in candidates:
            return says
        if lx.AIR_TIME in candidates:
            texts = [token.text for token in self.tokens[max(0, place - 4) : place + 6]]
            if says is not lx.DISTANCE and not any(word in _AIR_WORDS for word in texts):
                if any(verb in ARRIVAL_VERBS for verb in self._before(place, 4)):
                    return lx.ARR_DELAY
                if any(isinstance(t.meaning, Status) for t in self.tokens):
                    return lx.DEP_DELAY
            for place_of in texts:
                if place_of in ("air", "aloft"):
                    return lx.AIR_TIME
            return lx.AIR_TIME
        del unit
        return candidates[0]

    # Values: places, airlines, times.

    def _values(self) -> None:
        self._months()
        self._days()
        self._dates()
        self._clock()
        self._named()
        self._place_names()
        for place in self._all(Year):
            meaning = self.tokens[place].meaning
            assert isinstance(meaning, Year)
            self.used.add(place)
            if meaning.number != 2013:
                self._add(place, f"{{t}}.year = {meaning.number}", f"year {meaning.number}", time=True)

    def _months(self) -> None:
        places = self._all(Months)
        if not places:
            return
        self.used |= set(places)
        listed = [self.tokens[place].meaning for place in places]
        numbers = [meaning.numbers for meaning in listed if isinstance(meaning, Months)]
        texts = [self._text(place) for place in places]
        edge = self._before(places[0], 1)
        if len(places) == 2 and self._spans(places) and all(len(n) == 1 for n in numbers):
            low, high = numbers[0][0], numbers[1][0]
            inside = (
                f"{{t}}.month BETWEEN {low} AND {high}"
                if low <= high
                else f"{{t}}.month >= {low} OR {{t}}.month <= {high}"
            )
            self._add(places[0], inside, f"{texts[0]} to {texts[1]}", time=True)
            return
        if len(places) == 1 and edge and edge[0] in ("after", "since", "before", "until") and len(numbers[0]) == 1:
            operator = {"after": ">", "since": ">=", "before": "<", "until": "<="}[edge[0]]
            self._use_word(places[0], edge[0])
            self._add(places[0], f"{{t}}.month {operator} {numbers[0][0]}", f"{edge[0]} {texts[0]}", time=True)
            return
        wanted = sorted({number for group in numbers for number in group})
        negated = self._is_negated(places[0])
        words = " or ".join(texts)
        self._add(places[0], _in("{t}.month", wanted, negated=negated), ("not " if negated else "") + words, time=True)
        if len(places) > 1 and self._separate(places):
            seasons = all(len(group) > 1 for group in numbers)
            quarter = any(text.startswith("q") or "quarter" in text for text in texts)
            self.groups.append(lx.QUARTER if seasons and quarter else lx.SEASON if seasons else lx.MONTH)

    def _days(self) -> None:
        places = self._all(Days)
        weekdays = [
            i
            for i, t in enumerate(self.tokens)
            if t.meaning is lx.WEEKDAY and t.text in ("weekdays", "weekday", "week days")
        ]
        weekend = any(self._text(place).endswith(("weekend", "weekends")) for place in places)
        if weekend and weekdays:
            self.used |= {*places, *weekdays}
            self.groups.append(_WEEKEND)
            return
        if not places:
            # "on weekdays" is a filter; "by weekday" and "which weekday" are groups.
            for place in weekdays:
                if self._before(place, 1)[:1] == ["on"] and self._text(place) == "weekdays":
                    self.used.add(place)
                    self._add(place, "isodow({t}.date) <= 5", "weekdays", time=True)
            return
        self.used |= set(places)
        numbers: set[int] = set()
        for place in places:
            meaning = self.tokens[place].meaning
            if isinstance(meaning, Days):
                numbers |= set(meaning.numbers)
        negated = self._is_negated(places[0])
        words = " or ".join(self._text(place) for place in places)
        sql = _in("isodow({t}.date)", sorted(numbers), negated=negated)
        self._add(places[0], sql, ("not " if negated else "") + words, time=True)
        if len(places) > 1 and self._separate(places):
            self.groups.append(lx.WEEKDAY)

    def _dates(self) -> None:
        places = self._all(datetime.date)
        if not places:
            return
        self.used |= set(places)
        dates = [str(self.tokens[place].meaning) for place in places]
        if len(places) == 2 and self._spans(places):
            self._add(
                places[0], f"{{t}}.date BETWEEN '{dates[0]}' AND '{dates[1]}'", f"{dates[0]} to {dates[1]}", time=True
            )
            return
        edge = self._before(places[0], 1)
        if len(places) == 1 and edge and edge[0] in ("after", "since", "before", "until"):
            operator = {"after": ">", "since": ">=", "before": "<", "until": "<="}[edge[0]]
            self._use_word(places[0], edge[0])
            self._add(places[0], f"{{t}}.date {operator} '{dates[0]}'", f"{edge[0]} {dates[0]}", time=True)
            return
        negated = self._is_negated(places[0])
        self._add(
            places[0],
            _in("{t}.date", dates, negated=negated),
            ("not " if negated else "") + " or ".join(dates),
            time=True,
        )
        if len(places) > 1 and self._separate(places):
            self.groups.append(lx.DATE)

    def _clock(self) -> None:
        hours = self._all(ClockHour)
        values = [m.hour for m in (self.tokens[place].meaning for place in hours) if isinstance(m, ClockHour)]
        self.used |= set(hours)
        if len(hours) == 2 and self._spans(hours):
            low, high = values
            sql = (
                f"{{t}}.hour >= {low} AND {{t}}.hour < {high}"
                if low < high
                else f"{{t}}.hour >= {low} OR {{t}}.hour < {high}"
            )
            self._add(hours[0], sql, f"between {low}:00 and {high}:00", time=True)
        else:
            for place, hour in zip(hours, values, strict=True):
                edge = (self._before(place, 1) or [""])[0]
                operator = {"after": ">=", "since": ">=", "from": ">=", "before": "<", "until": "<", "by": "<"}.get(
                    edge, "="
                )
                if edge in ("after", "before", "since", "until"):
                    self._use_word(place, edge)
                self._add(place, f"{{t}}.hour {operator} {hour}", f"hour {operator} {hour}", time=True)
        parts = self._all(Hours)
        self.used |= set(parts)
        spans = [m for m in (self.tokens[place].meaning for place in parts) if isinstance(m, Hours)]
        if spans:
            sql = " OR ".join(
                f"{{t}}.hour BETWEEN {s.first} AND {s.last}"
                if s.first < s.last
                else f"{{t}}.hour >= {s.first} OR {{t}}.hour <= {s.last}"
                for s in spans
            )
            words = " or ".join(self._text(place) for place in parts)
            self._add(parts[0], sql, words, time=True)
            self.assumptions.append("morning is 5–11 h, afternoon 12–17 h, evening 18–21 h, by scheduled departure")
            if len(spans) > 1:
                self.groups.append(_DAYPART)

    def _named(self) -> None:
        by_field: dict[str, list[int]] = {}
        for place in self._all(Named):
            meaning = self.tokens[place].meaning
            if isinstance(meaning, Named):
                by_field.setdefault(meaning.field, []).append(place)
        concepts = {
            "flights.carrier": lx.AIRLINE,
            "planes.manufacturer": lx.MANUFACTURER,
            "planes.engine": lx.ENGINE_TYPE,
            "planes.type": lx.PLANE_TYPE,
        }
        for name, places in by_field.items():
            concept = concepts[name]
            self.used |= set(places)
            values: set[str] = set()
            for place in places:
                meaning = self.tokens[place].meaning
                if isinstance(meaning, Named):
                    values |= set(meaning.values)
                self._drop_noun(place, (concept, lx.PLANE, lx.AIRLINE) if name.startswith("planes") else (concept,))
            negated = self._is_negated(places[0])
            words = " or ".join(self._text(place) for place in places)
            self._add(
                places[0],
                _in(name, sorted(values), negated=negated),
                ("not " if negated else "") + words,
                needs=concept.needs - {"airlines"},
            )
            if len(places) > 1 and self._separate(places):
                self.groups.append(concept)
                if name == "planes.manufacturer" and len(values) > len(places):
                    self.assumptions.append("a maker is counted under each name that the data has for it")

    def _place_names(self) -> None:
        origins: list[int] = []
        dests: list[int] = []
        for place in self._all(Place):
            meaning = self.tokens[place].meaning
            if not isinstance(meaning, Place):
                continue
            self.used.add(place)
            (origins if self._leaves_from(place, meaning) else dests).append(place)
            self._drop_noun(place, (lx.ORIGIN, lx.DEST))
        for places, name, concept in ((origins, "{t}.origin", lx.ORIGIN), (dests, "flights.dest", lx.DEST)):
            if not places:
                continue
            codes: set[str] = set()
            for place in places:
                meaning = self.tokens[place].meaning
                if isinstance(meaning, Place):
                    codes |= set(meaning.codes)
                    if len(meaning.codes) > 1:
                        self.assumptions.append(f"{self._text(place).title()} is {' and '.join(meaning.codes)}")
            negated = self._is_negated(places[0])
            words = ("from " if concept is lx.ORIGIN else "to ") + " or ".join(
                self._text(p).upper() if len(self._text(p)) == 3 else self._text(p) for p in places
            )
            needs = {"flights"} if concept is lx.DEST else {"t"}
            self._add(
                places[0], _in(name, sorted(codes), negated=negated), ("not " if negated else "") + words, needs=needs
            )
            if len(places) > 1 and self._separate(places):
                self.groups.append(concept)

    def _leaves_from(self, place: int, meaning: Place) -> bool:
        skip = ("the", "airport", "airports", "either", "both", "in", "at")
        before = self._before(place, 3, skip=skip)
        for at, word in enumerate(before):
            if word in ("from", "leaving", "departing", "leave", "out"):
                return True
            if word in (
                "to",
                "into",
                "toward",
                "towards",
                "reach",
                "reached",
                "reaching",
                "destination",
                "arriving",
                "landing",
                "bound",
            ):
                return False
            # A list shares the preposition of its first member.
            if not (word in ("and", "or", "vs", "versus") or isinstance(self._meaning_before(place, at, skip), Place)):
                break
        return meaning.is_origin

    def _meaning_before(self, place: int, at: int, skip: tuple[str, ...]) -> object:
        seen = -1
        for index in range(place - 1, -1, -1):
            if self._text(index) not in skip:
                seen += 1
                if seen == at:
                    return self.tokens[index].meaning
        return None

    def _drop_noun(self, place: int, concepts: tuple[Concept, ...]) -> None:
        """`Delta airlines`, `airport JFK`, `Boeing planes`: the noun beside a value adds nothing."""
        for beside in (place - 1, place + 1):
            if self._free(beside) and self.tokens[beside].meaning in concepts and not self._is_asked(beside):
                self.used.add(beside)

    def _is_asked(self, place: int) -> bool:
        before = self._before(place, 2)
        return before[:1] in (["which"], ["what"], ["many"], ["per"], ["by"], ["each"]) or before[:2] == [
            "of",
            "number",
        ]

    def _spans(self, places: list[int]) -> bool:
        """Whether two values are the ends of a range: `between A and B`, `from A to B`, `A through B`."""
        middle = {self._text(i) for i in range(places[0] + 1, places[1])}
        before = self._before(places[0], 1)
        if before == ["between"] and "and" in middle:
            return not self._has_word(("compare", "difference", "differ"))
        return bool(middle & {"to", "through", "until", "till", "-"})

    def _separate(self, places: list[int]) -> bool:
        """Whether several values of one column are wanted side by side; `or` in a plain count means either."""
        if any(self._is_negated(place) for place in places):
            return False
        if self._has_word(COMPARE_WORDS) or self._has_word(COMPARATIVES):
            return True
        either = any(self._text(i) == "or" for i in range(places[0], places[-1]))
        starts = self._text(0) in ("which", "who", "does", "did", "is", "are", "do", "was", "were")
        return not either or starts


def _in(name: str, values: Iterable[int | str], *, negated: bool) -> str:
    written = [str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'" for value in values]
    if len(written) == 1:
        return f"{name} {'<>' if negated else '='} {written[0]}"
    return f"{name} {'NOT IN' if negated else 'IN'} ({', '.join(written)})"
