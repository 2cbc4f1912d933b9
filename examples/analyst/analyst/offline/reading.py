"""Reads a question: from tokens to a query, or to the reason why not."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Final

from analyst.offline import lexicon as lx
from analyst.offline.conditions import Conditions
from analyst.offline.lexicon import Agg, Concept, Kind, Rank, Status, word_set
from analyst.offline.query import Anchor, Direction, Filter, Measure, Misunderstood, Query
from analyst.offline.schema import Schema
from analyst.offline.sentence import ARRIVAL_VERBS, COMPARATIVES, COMPARE_WORDS, DELAY_WORDS, UNIT_CONCEPTS, Found
from analyst.offline.tokens import Days, Hours, HowMuch, Months, Named, Number, Place, Unit, tokenize

RANKED_ROWS: Final = 10
_SHARE_WORDS: Final = word_set(
    "share shares percentage percentages percent proportion proportions fraction rate rates ratio probability chance "
    "likelihood odds % likely often"
)
_GROUP_WORDS: Final = word_set("by per each every across for against with on from which what")
_LIST_WORDS: Final = word_set("rank list compare all three find name show")
_BETWEEN_MARK_AND_NOUN: Final = word_set("the a an of and different individual single is are was were our us")
_VERBS: Final = word_set(
    "was were is are that which had has left leave leaves arrive arrived arrives go goes went fly flies flew flown "
    "depart departed took with does did do operated operate land landed get got have"
)
_DELAY_NOUNS: Final = frozenset(("delays", "departure delays", "arrival delays", "late departures", "late arrivals"))
_PUNCTUALITY: Final = frozenset(
    {"punctual", "on time", "punctuality", "early", "late", "arrive late", "arrive on time"}
)
_FLYING: Final = word_set("flight flights flew fly flown flies departures departure used uses operated")
_NEED_A_MARK: Final = frozenset({"plane", "origin", "date", "year", "dest_place"})


def read_question(question: str, schema: Schema) -> Query | Misunderstood:
    """What the question asks for, or the words that stand in the way; nothing in it is passed over in silence."""
    return _Reader(tokenize(question, schema)).read()


@dataclass(slots=True)
class _Reader(Conditions):
    measures: list[Measure] = field(default_factory=list)
    limit: int | None = None
    rank: Rank | None = None
    counts_airports: bool = False
    lists_flights: bool = False

    def read(self) -> Query | Misunderstood:
        self.read_conditions()
        self._ranks()
        self._counts()
        self._statuses()
        self._numbers()
        self._read_groups()
        self._shares()
        self._rank_measures()
        self._fallbacks()
        if strange := self._strange():
            words = ", ".join(f"“{word}”" for word in strange)
            return Misunderstood(f"I do not know what {words} means for this data.")
        if not self.measures:
            return Misunderstood("I cannot tell what to count or measure.")
        return self._query()

    # Ranking words.

    def _ranks(self) -> None:
        for place in self._all(Rank):
            meaning = self.tokens[place].meaning
            assert isinstance(meaning, Rank)
            self.used.add(place)
            # "The top 5 airlines with the worst delays": the later word says more than "top".
            if self.rank is None or (self.rank.concept is None and self._text(place) != "top"):
                self.rank = meaning
            for beside in (place - 1, place + 1):
                number = self.tokens[beside].meaning if self._free(beside) else None
                if isinstance(number, Number) and number.value == int(number.value):
                    self.limit = max(1, min(100, int(number.value)))
                    self.used.add(beside)
            self._count_of_delays(place)
        for place in self._all(Number):
            # "Which 5 airlines …", "list three destinations …"
            number = self.tokens[place].meaning
            following = self.tokens[place + 1].meaning if place + 1 < len(self.tokens) else None
            if isinstance(number, Number) and isinstance(following, Concept) and following.kind is not Kind.NUMBER:
                self.limit = max(1, min(100, int(number.value)))
                self.used.add(place)

    def _count_of_delays(self, place: int) -> None:
        """`The most delays` counts delayed flights; `the highest delays` would measure them."""
        if self._text(place) not in ("most", "fewest", "least"):
            return
        following = place + 1
        if self._text(following) in _DELAY_NOUNS:
            self._count_status(following)

    def _count_status(self, place: int) -> None:
        arrives = "arrival" in self._text(place)
        status = lx.LATE_ARRIVAL if arrives else lx.DELAYED
        self.used.add(place)
        self._measure(Measure(Agg.COUNT, conditions=(Filter(status.sql, status.key),), name=f"{status.key}_flights"))
        self.assumptions.append(status.meaning)
        self.needs.add("flights")

    # Counting.

    def _counts(self) -> None:
        for place in range(len(self.tokens)):
            text = self._text(place)
            asked = (text == "many" and self._text(place - 1) == "how") or (
                text in ("number", "numbers", "count", "counts") and self._text(place + 1) == "of"
            )
            if asked:
                self._count(place + 1 if text == "many" else place + 2)

    def _count(self, place: int) -> None:
        while self._text(place) in (
            "the",
            "different",
            "distinct",
            "unique",
            "of",
            "individual",
            "total",
            "scheduled",
            "all",
            "various",
        ):
            place += 1
        while isinstance(self.tokens[place].meaning if place < len(self.tokens) else None, (Named, Place, Months, Agg)):
            place += 1
        if place >= len(self.tokens):
            return
        token = self.tokens[place]
        meaning = token.meaning
        if isinstance(meaning, Status):
            # "How many cancelled flights": the status becomes a condition later.
            if token.text.endswith("s") or token.text.startswith("cancellation"):
                self._measure(Measure(Agg.COUNT))
            else:
                self._count(place + 1)
            return
        if token.text in _DELAY_NOUNS:
            self._count_status(place)
            return
        if token.text in ("flights", "departures", "readings", "flight", "trips", "arrivals", "records"):
            self._count_flights(token.text)
            return
        if isinstance(meaning, Concept) and meaning.kind is not Kind.NUMBER:
            self._count_distinct(place, meaning)
        elif isinstance(meaning, Unit) and token.text in UNIT_CONCEPTS:
            concept = UNIT_CONCEPTS[token.text]
            if concept.kind is Kind.NUMBER and not (concept is lx.AIR_TIME and self._speaks_of_delay()):
                self.used.add(place)
                self._measure(Measure(self._agg_before(place) or (Agg.SUM if concept.adds_up else Agg.AVG), concept))
                self.needs |= concept.needs
            elif concept is lx.AIR_TIME:
                self.used.add(place)

    def _count_flights(self, text: str) -> None:
        per = [
            i
            for i, t in enumerate(self.tokens)
            if t.text in ("per", "each", "every", "a", "daily") and i + 1 < len(self.tokens)
        ]
        if any(self.tokens[i].meaning is Agg.AVG for i in self._all(Agg)):
            for i in per:
                grain = self.tokens[i + 1].meaning
                if isinstance(grain, Concept) and grain.kind is Kind.GRAIN and (i + 1) not in self.used:
                    self.used |= {i, i + 1, *self._all(Agg)}
                    self._measure(Measure(Agg.PER, grain))
                    self.needs.add("flights")
                    return
        self._measure(Measure(Agg.COUNT))
        self.needs.add("weather" if text == "readings" else "flights")

    def _count_distinct(self, place: int, concept: Concept) -> None:
        self.used.add(place)
        word = self._text(place)
        if concept is lx.ORIGIN and word in ("airport", "airports"):
            if self._has_word(lx.FLIGHT_WORDS - {"departure", "arrival"}) or any(
                "flights" in f.needs for f in self.found
            ):
                concept = lx.DEST
            else:
                self.counts_airports = True
                self._measure(Measure(Agg.COUNT))
                return
        self._measure(Measure(Agg.DISTINCT, concept))
        self.needs |= concept.needs - {"airlines"}

    def _speaks_of_delay(self) -> bool:
        return any(
            token.meaning in (lx.DEP_DELAY, lx.ARR_DELAY) or isinstance(token.meaning, Status)
            for i, token in enumerate(self.tokens)
            if i not in self.used
        )

    # Conditions that one word says.

    def _statuses(self) -> None:
        for place in self._all(Status):
            status = self.tokens[place].meaning
            assert isinstance(status, Status)
            self.used.add(place)
            negated = self._is_negated(place)
            if status is lx.DELAYED and any(verb in ARRIVAL_VERBS for verb in self._before(place, 2)):
                status = lx.LATE_ARRIVAL
            sql = f"NOT ({status.sql})" if negated else status.sql
            self._add(place, sql, ("not " if negated else "") + status.key, strong=True, needs=("flights",))
            if status.meaning not in self.assumptions:
                self.assumptions.append(status.meaning)

    # Columns that can be measured.

    def _numbers(self) -> None:
        for place in self._all(HowMuch):
            meaning = self.tokens[place].meaning
            assert isinstance(meaning, HowMuch)
            self.used.add(place)
            named = self._next_number(place)
            if named is None:
                self._how_much(place, meaning.concept)
        for place in range(len(self.tokens)):
            concept = self._numeric(place)
            if concept is None:
                continue
            self.used.add(place)
            if self._is_axis(place):
                self.groups.append(concept)
                self.needs |= concept.needs
                continue
            for agg in self._aggs(place, concept):
                self._measure(Measure(agg, concept))
            self.needs |= concept.needs

    def _how_much(self, place: int, concept: Concept) -> None:
        if concept is lx.AIR_TIME and any(t.meaning in (lx.DEP_DELAY, lx.ARR_DELAY) for t in self.tokens):
            return
        aggs = [m for m in (self.tokens[i].meaning for i in self._all(Agg)) if isinstance(m, Agg)]
        self.used |= set(self._all(Agg))
        self._measure(Measure(aggs[0] if aggs else Agg.AVG, concept))
        self.needs |= concept.needs
        del place

    def _next_number(self, place: int) -> Concept | None:
        return next(
            (c for c in (self._numeric(i) for i in range(place + 1, min(place + 4, len(self.tokens)))) if c), None
        )

    def _numeric(self, place: int) -> Concept | None:
        if place in self.used:
            return None
        meaning = self.tokens[place].meaning
        if isinstance(meaning, Unit):
            concept = UNIT_CONCEPTS.get(meaning.word)
            # "delay in minutes" names a unit only.
            if concept is lx.AIR_TIME and (self._before(place, 1) == ["in"] or self._speaks_of_delay()):
                self.used.add(place)
                return None
            if concept is not None and concept.kind is Kind.NUMBER and self._before(place, 1) == ["in"]:
                self.used.add(place)
                return None
            return concept if concept is not None and concept.kind is Kind.NUMBER else None
        return meaning if isinstance(meaning, Concept) and meaning.kind is Kind.NUMBER else None

    def _is_axis(self, place: int) -> bool:
        """Whether a numeric column is what to group by: `delay by wind speed`, `how does delay depend on distance`."""
        before = self._before(place, 2, skip=("the", "a"))
        if before[:1] == ["number"] or not before:
            return False
        marks = {"by", "per", "with", "on", "against", "versus", "vs", "across", "each"}
        has_measure = bool(self.measures) or any(f.is_strong for f in self.found)
        return has_measure and self.rank is None and before[0] in marks

    def _aggs(self, place: int, concept: Concept) -> list[Agg]:
        aggs: list[Agg] = []
        at = place - 1
        while at >= 0:
            meaning = self.tokens[at].meaning
            if isinstance(meaning, Agg):
                aggs.append(meaning)
                self.used.add(at)
            elif not (
                self._text(at) in ("and", "or", "the", "of", "in", "flight", "flights", "number", "total")
                or (at in self.used and isinstance(meaning, (Concept, Unit, Place, Named)) and not aggs)
            ):
                break
            at -= 1
        if aggs:
            return aggs[::-1]
        elsewhere = self._all(Agg)
        if elsewhere:
            chosen = self.tokens[elsewhere[0]].meaning
            assert isinstance(chosen, Agg)
            self.used.add(elsewhere[0])
            return [chosen]
        if self.measures and self.measures[-1].concept is not None and self._text(place - 1) == "and":
            return [self.measures[-1].agg]
        return [self._default_agg(place, concept)]

    def _agg_before(self, place: int) -> Agg | None:
        for i in self._all(Agg):
            meaning = self.tokens[i].meaning
            if isinstance(meaning, Agg) and i < place + 6:
                self.used.add(i)
                return meaning
        return None

    def _default_agg(self, place: int, concept: Concept) -> Agg:
        words = self._before(place, 4)
        most = any(word in ("most", "fewest", "least") for word in words)
        if most and concept.adds_up and concept not in (lx.DEP_DELAY, lx.ARR_DELAY):
            return Agg.SUM
        if self.groups or self.rank is None:
            name = DELAY_WORDS.get(concept.key, concept.key.replace("_", " "))
            self.assumptions.append(f"{name} is averaged, as the question names no other way")
        return Agg.AVG

    def _measure(self, measure: Measure) -> None:
        if measure not in self.measures:
            self.measures.append(measure)

    # Groups.

    def _read_groups(self) -> None:
        for place, token in enumerate(self.tokens):
            concept = token.meaning
            if isinstance(concept, Unit) and place not in self.used and token.text in ("hour", "year", "years"):
                concept = lx.HOUR if token.text == "hour" else lx.YEAR
            if place in self.used or not isinstance(concept, Concept) or concept.kind is Kind.NUMBER:
                continue
            self.used.add(place)
            if token.text in ("make", "place", "places", "city", "cities") and not self._is_marked(place):
                continue
            if concept.key in _NEED_A_MARK and not self._is_marked(place):
                continue
            if concept is lx.PLANE and self.groups and isinstance(self.tokens[place - 1].meaning, Rank):
                # "The airline with the largest planes" asks for an airline.
                continue
            if concept in (lx.MONTH, lx.HOUR, lx.DATE, lx.WEEKDAY) and self._is_apposition(place):
                continue
            if concept is lx.ORIGIN and token.text in ("airport", "airports") and self._means_destination(place):
                concept = lx.DEST
            if concept not in self.groups:
                self.groups.append(concept)
                self.needs |= concept.needs

    def _is_marked(self, place: int) -> bool:
        """Whether a word before it makes this noun a group: `which plane`, `by airport`, `the busiest airport`."""
        concept = self.tokens[place].meaning
        if place and isinstance(self.tokens[place - 1].meaning, Concept) and self._text(place - 1) not in _GROUP_WORDS:
            # "The manufacturer's planes" are not told apart.
            return False
        for index in range(place - 1, max(place - 6, -1), -1):
            token = self.tokens[index]
            if token.text in ("with", "on", "for", "from") and concept in (lx.PLANE, lx.YEAR, lx.DATE):
                return token.text == "on" and concept is lx.DATE
            if token.text in _GROUP_WORDS | _LIST_WORDS or isinstance(token.meaning, (Rank, Number)):
                return True
            if token.text not in _BETWEEN_MARK_AND_NOUN and not isinstance(token.meaning, (Concept, Agg, Hours)):
                return False
        return True

    def _is_apposition(self, place: int) -> bool:
        after = self._text(place + 1)
        of_value = (
            after == "of"
            and place + 2 < len(self.tokens)
            and isinstance(self.tokens[place + 2].meaning, (Months, datetime.date, Days))
        )
        return of_value or isinstance(self.tokens[place - 1].meaning if place else None, Months)

    def _means_destination(self, place: int) -> bool:
        texts = [token.text for token in self.tokens]
        from_origin = any(f.condition.sql.startswith("{t}.origin") for f in self.found) and lx.ORIGIN not in self.groups
        before = self._before(place, 3)
        tail = texts[-1] if texts else ""
        return (
            from_origin
            or "to" in before
            or tail == "to"
            or "distance" in {m.concept.key for m in self.measures if m.concept}
        )

    # Shares.

    def _shares(self) -> None:
        words = [i for i, token in enumerate(self.tokens) if token.text in _SHARE_WORDS and i not in self.used]
        words = [i for i in words if self._text(i) not in ("often",) or self._text(i - 1) == "how"]
        if not words:
            return
        self.used |= set(words)
        parts = self._share_parts(words[0])
        if parts:
            self.found = [found for found in self.found if found not in parts]
            conditions = tuple(found.condition for found in parts)
            share = _share(conditions)
            self._drop_shared_groups(parts)
        elif self.groups:
            share = Measure(Agg.SHARE_OF_ALL)
        else:
            return
        # "The percentage of the total": the total is what the share is of.
        self.measures = [share, *(m for m in self.measures if m.agg is Agg.COUNT and not m.conditions)]
        self.used |= set(self._all(Agg))

    def _share_parts(self, word: int) -> list[Found]:
        noun = next(
            (i for i in range(word, len(self.tokens)) if self._text(i) in ("flights", "departures", "arrivals")), -1
        )
        split = next((i for i in range(noun + 1, len(self.tokens)) if self._text(i) in _VERBS), -1) if noun >= 0 else -1
        strong = [found for found in self.found if found.is_strong]
        after = [found for found in self.found if split >= 0 and found.place > split]
        if strong_after := [found for found in after if found.is_strong]:
            return strong_after
        if strong and not (split >= 0 and after):
            return strong
        if not_time := [found for found in after if not found.is_time]:
            return not_time
        return after or strong

    def _drop_shared_groups(self, parts: list[Found]) -> None:
        """A value that makes up the part of a share is not also a group."""
        for part in parts:
            if (
                part.condition.sql.startswith("flights.carrier")
                and lx.AIRLINE in self.groups
                and not self._has_word(("which", "by", "per"))
            ):
                self.groups.remove(lx.AIRLINE)

    # What a ranking or comparing word measures when nothing else is named.

    def _rank_measures(self) -> None:
        rank = self.rank
        if rank is None:
            return
        if any(self._text(i) in lx.RANKS and lx.RANKS[self._text(i)].agg is Agg.COUNT for i in range(len(self.tokens))):
            if not self.measures and self._is_about_punctuality():
                return
            self._measure(Measure(Agg.COUNT))
            return
        if rank.concept is not None and not any(m.concept is not None for m in self.measures):
            self.measures.insert(0, Measure(rank.agg or Agg.AVG, rank.concept))
            self.needs |= rank.concept.needs
        elif not self.measures and self._status_counts():
            return
        elif not self.measures and rank.default is not None:
            self._measure(Measure(Agg.AVG, rank.default))
            self.needs |= rank.default.needs
            self.assumptions.append(f"ranked by {DELAY_WORDS.get(rank.default.key, rank.default.key)}")

    def _is_about_punctuality(self) -> bool:
        """`Which airline is late most often`: how often is a share, or the largest airline would always win."""
        often = any(self._text(i).endswith(("often", "frequently")) for i in range(len(self.tokens)))
        strong = [found for found in self.found if found.is_strong]
        return often and bool(strong) and self._share_of(strong)

    def _status_counts(self) -> bool:
        """`the most cancelled flights`: counted, and named for what is counted."""
        strong = [found for found in self.found if found.is_strong]
        if not strong:
            return False
        if self.rank is not None and self.rank.default is not None:
            return self._share_of(strong)
        punctuality = any(token.text in _PUNCTUALITY for token in self.tokens)
        if punctuality and not self._has_word(("flights", "number", "departures", "arrivals")):
            return self._share_of(strong)
        self._measure(Measure(Agg.COUNT))
        return True

    def _share_of(self, strong: list[Found]) -> bool:
        self.found = [found for found in self.found if found not in strong]
        conditions = tuple(found.condition for found in strong)
        self._measure(_share(conditions))
        return True

    def _fallbacks(self) -> None:
        self._listed_flights()
        if self.rank is not None and not self.groups and self._has_word(("who",)):
            self.groups.append(lx.AIRLINE)
        compares = self._has_word(COMPARE_WORDS) or self._has_word(COMPARATIVES)
        if compares and self.groups:
            self.used |= {i for i, t in enumerate(self.tokens) if t.text in COMPARE_WORDS | COMPARATIVES}
            strong = [found for found in self.found if found.is_strong]
            if not self.measures and self._has_word(("faster", "slower")):
                self._measure(Measure(Agg.AVG, lx.SPEED))
            elif not self.measures and strong:
                self._share_of(strong)
            elif not self.measures and not self._has_word(lx.FLIGHT_WORDS - {"flight"}):
                self._measure(Measure(Agg.COUNT))
                self._measure(Measure(Agg.AVG, lx.DEP_DELAY))
                self.needs.add("flights")
                self.assumptions.append("compared by the number of flights and the average departure delay")
        if (
            not self.measures
            and (self.groups or self.found)
            and self._has_word(("flights", "departures", "arrivals", "flown", "trips"))
        ):
            self._measure(Measure(Agg.COUNT))
        if not self.measures and self.groups and (self.rank is not None or self.limit is not None or self.found):
            self._measure(Measure(Agg.COUNT))
            if self.rank is not None:
                self.assumptions.append("ranked by how many there are")
        # "Flew the most", "in total" and the like leave words whose work is done.
        self.used |= set(self._all(Agg))

    def _listed_flights(self) -> None:
        """`Which flights were delayed more than 15 hours`: the flights themselves are wanted."""
        if self.measures or self.groups or self.compared is None:
            return
        for place in range(1, len(self.tokens)):
            asked = self._before(place, 1, skip=("the", "all", "me", "are", "were"))
            if self._text(place) == "flights" and asked[:1] in (["which"], ["what"], ["list"], ["show"], ["find"]):
                self._measure(Measure(Agg.AVG, self.compared))
                self.lists_flights = True
                return

    def _strange(self) -> list[str]:
        strange: list[str] = []
        for place, token in enumerate(self.tokens):
            if place in self.used or token.is_silent:
                continue
            if isinstance(token.meaning, Unit) and token.text in ("minutes", "minute", "percent", "hours"):
                continue
            strange.append(token.text)
        return strange

    # The whole.

    def _query(self) -> Query | Misunderstood:
        anchor = self._anchor()
        measures = tuple(self.measures)
        if anchor is Anchor.PLANES:
            # Each of its rows is one plane, so they need not be told apart.
            measures = tuple(Measure(Agg.COUNT) if m == Measure(Agg.DISTINCT, lx.PLANE) else m for m in measures)
        if anchor is Anchor.WEATHER and any(group in (lx.AIRLINE, lx.DEST, lx.ROUTE) for group in self.groups):
            anchor = Anchor.FLIGHTS
        first = measures[0]
        lists = (
            not self.groups
            and self.rank is not None
            and first.concept is not None
            and first.agg in (Agg.AVG, Agg.SUM)
            and not self._agg_asked()
        )
        if lists and first.concept is lx.PLANE_AGE and self.needs <= {"planes", "p"}:
            anchor = Anchor.PLANES
        if anchor is Anchor.PLANES and self.groups == [lx.PLANE] and first.concept is not None:
            # A plane is one row of its own table: it is listed, not averaged.
            self.groups.clear()
            lists = True
        lists = lists or self.lists_flights
        direction = self._direction(first)
        limit = self.limit
        if limit is None and self.rank is not None and (self.groups or lists):
            limit = RANKED_ROWS
        if self.limit is not None and direction is None and self.groups:
            direction = Direction.DESC
        if self.rows_min and not self.groups:
            return Misunderstood("A least number of flights makes sense only for groups, such as airlines or routes.")
        if self.rank is not None and not self.groups and not lists and first.agg is Agg.COUNT and first.concept is None:
            return Misunderstood(
                "I cannot tell what should be ranked: name airlines, airports, months or another group."
            )
        return Query(
            anchor, measures, tuple(self.groups), tuple(found.condition for found in self.found), self.rows_min,
            direction, limit, lists, assumptions=tuple(dict.fromkeys(self.assumptions)),
        )  # fmt: skip

    def _agg_asked(self) -> bool:
        return any(isinstance(token.meaning, Agg) for token in self.tokens)

    def _anchor(self) -> Anchor:
        flies = any(token.text in _FLYING for token in self.tokens)
        needs = self.needs | {need for found in self.found for need in found.needs}
        if self.counts_airports or (needs and needs <= {"airports"}):
            return Anchor.AIRPORTS if not flies and needs <= {"airports"} else Anchor.FLIGHTS
        if "weather" in needs and not flies and needs <= {"weather", "t"}:
            return Anchor.WEATHER
        if needs and needs <= {"planes", "p"} and not flies:
            return Anchor.PLANES
        return Anchor.FLIGHTS

    def _direction(self, measure: Measure) -> Direction | None:
        if self.rank is None:
            return None
        match self.rank.direction:
            case lx.Direction.HIGH:
                return Direction.DESC
            case lx.Direction.LOW:
                return Direction.ASC
        bad = measure.concept is not None and measure.concept.high_is_bad
        if measure.conditions:
            bad = not any(
                condition.words in ("on_time", "early", "left_on_time", "left_early")
                for condition in measure.conditions
            )
        worst_first = self.rank.direction is lx.Direction.WORST
        return Direction.DESC if bad == worst_first else Direction.ASC


def _share(conditions: tuple[Filter, ...]) -> Measure:
    """The share of rows that fulfil the conditions; a status gives it its name, a comparison is too long for one."""
    keys = {status.key for status in lx.STATUSES.values()}
    words = [condition.words.replace("not ", "not_") for condition in conditions]
    named = all(word.removeprefix("not_") in keys for word in words)
    return Measure(Agg.SHARE, conditions=conditions, name=f"{'_'.join(words)}_share_percent" if named else "")
