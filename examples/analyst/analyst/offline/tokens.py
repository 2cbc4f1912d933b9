"""Cuts a question into tokens that already know what they name: a column, a value, a comparing or ranking word."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from analyst.offline.lexicon import (
    AGG_WORDS,
    AIRLINE_SUFFIXES,
    CITIES,
    COMPARATORS,
    DAYTIMES,
    FLIGHT_WORDS,
    GENERIC_NAME_WORDS,
    HOLIDAYS,
    HOW_ADJECTIVES,
    MONTHS,
    RANKS,
    SEASONS,
    SILENT,
    STATUSES,
    UNITS,
    WEAK_NAME_WORDS,
    WEEKDAYS,
    Agg,
    Concept,
    Rank,
    Status,
    concepts_in,
)
from analyst.offline.schema import Schema


@dataclass(frozen=True, slots=True)
class Place:
    """One or several airports that a word may mean."""

    codes: tuple[str, ...]
    is_origin: bool


@dataclass(frozen=True, slots=True)
class Named:
    """Values of a text column: an airline, a manufacturer, a kind of engine."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Months:
    """Months by number, from a name or a season."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Days:
    """Days of the week by ISO number."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of the day, both ends included; the night wraps round midnight."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ClockHour:
    """One hour that a clock time such as `6 pm` names."""

    hour: int


@dataclass(frozen=True, slots=True)
class Year:
    """A calendar year."""

    number: int


@dataclass(frozen=True, slots=True)
class Number:
    """A bare number."""

    value: float


@dataclass(frozen=True, slots=True)
class Comparator:
    """A comparing word with its operator."""

    operator: str
    concept: Concept | None


@dataclass(frozen=True, slots=True)
class HowMuch:
    """`how late`, `how far`: asks for the size of a concept."""

    concept: Concept


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with its word; what it measures depends on its neighbours."""

    word: str


Meaning: TypeAlias = (
    Concept | Place | Named | Months | Days | Hours | ClockHour | Year | Number | Comparator | HowMuch | Unit | Rank
    | Status | Agg | datetime.date
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase of the question, lower case, with what it names, if anything."""

    text: str
    meaning: Meaning | None = None

    @property
    def is_silent(self) -> bool:
        """Whether leaving it out changes nothing."""
        return self.meaning is None and (self.text in SILENT or self.text in FLIGHT_WORDS)


_WORD: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}|\d+:\d{2}|\d+(?:\.\d+)?(?:st|nd|rd|th)\b|\d+(?:\.\d+)?|[a-z°][a-z0-9'°.-]*[a-z0-9°]|[a-z]|>=|<=|>|<|=|%"
)
_CODE: Final = re.compile(r"\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]{2,3}\b")
_NUMBERS: Final = {
    word: number
    for number, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=1
    )
    if word != "one"
} | {"twenty": 20, "fifty": 50, "hundred": 100, "a hundred": 100, "a thousand": 1000, "half an": 0.5, "a dozen": 12}
_ORDINAL: Final = re.compile(r"^(\d{1,2})(?:st|nd|rd|th)$")


def tokenize(question: str, schema: Schema) -> list[Token]:
    """The tokens of the question, longest phrases first; dates and clock times are put together."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", question.replace("’", "'").replace("‘", "'"))
    text = re.sub(r"\b(\d+)\+", r"at least \1", text)
    text = re.sub(r"(?<=\d)(?=(?:am|pm|km|min|mph|ft|h)\b)", " ", text)
    # A code is a code only in capitals: "as" is a word and "AS" an airline. A shouted question has no codes.
    codes = set() if text.upper() == text else set(_CODE.findall(text))
    may = {m.start() for m in re.finditer(r"\bMay\b", text) if m.start() > 0}
    lowered = (
        text.lower().replace("on-time", "on time").replace("turbofan", "turbo-fan").replace("turboprop", "turbo-prop")
    )
    lowered = re.sub(r"n't\b", " not", lowered)
    lowered = re.sub(r"(?<=[a-z])-(?=based\b)|'s\b(?! (?:day|eve|vineyard))", " ", lowered)
    lowered = re.sub(
        r"\b(departure|dep|arrival|arr) (and|or|vs|versus) (departure|arrival|dep|arr) (delays?)\b",
        r"\1 \4 \2 \3 \4",
        lowered,
    )
    words = _WORD.findall(lowered)
    tokens = list(_phrases(words, _lookup(schema), codes, has_may=bool(may)))
    return _compose(tokens)


def _phrases(words: list[str], lookup: Mapping[str, Meaning], codes: set[str], *, has_may: bool) -> Iterator[Token]:
    place = 0
    while place < len(words):
        for size in range(min(8, len(words) - place), 0, -1):
            phrase = " ".join(words[place : place + size])
            meaning = _meaning(phrase, lookup, codes, words[place - 1] if place else "", has_may=has_may)
            if meaning is not None or size == 1:
                yield Token(phrase, meaning)
                place += size
                break


def _meaning(
    phrase: str, lookup: Mapping[str, Meaning], codes: set[str], before: str, *, has_may: bool
) -> Meaning | None:
    if phrase.upper() in codes and phrase.upper() in lookup:
        return lookup[phrase.upper()]
    if phrase == "may" and not has_may and before not in ("in", "of", "during", "and", "to"):
        return None
    if phrase == "us airways":
        return lookup.get(phrase)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", phrase):
        try:
            return datetime.date.fromisoformat(phrase)
        except ValueError:
            return None
    if re.fullmatch(r"\d+(?:\.\d+)?", phrase):
        return Number(float(phrase))
    if phrase in _NUMBERS:
        return Number(float(_NUMBERS[phrase]))
    return lookup.get(phrase) if not phrase.isupper() else None


def _compose(tokens: list[Token]) -> list[Token]:
    """Put together what spans tokens: `December 24`, `24th of December`, `6 pm`, `18:00`, `in 2012`."""
    out: list[Token] = []
    place = 0
    while place < len(tokens):
        made, used = _date(tokens, place)
        if made is None:
            made, used = _clock(tokens, place)
        if made is None and _is_year(tokens, place, out):
            made, used = Token(tokens[place].text, Year(int(tokens[place].text))), 1
        out.append(made or tokens[place])
        place += max(used, 1)
    return out


def _date(tokens: list[Token], place: int) -> tuple[Token | None, int]:
    first = tokens[place]
    following = tokens[place + 1 : place + 4]
    if isinstance(first.meaning, Months) and first.text in MONTHS and following:
        skip = 1 if following[0].text == "the" and len(following) > 1 else 0
        day = _day(following[skip])
        # "July 4" is a date, but "in July 20 flights" is not likely to be asked; "July 2013" has no day.
        if day is not None:
            used = 2 + skip
            used += 1 if place + used < len(tokens) and tokens[place + used].text == "2013" else 0
            return _dated(2013, first.meaning.numbers[0], day, first.text), used
    day = _day(first)
    if day is not None and following:
        skip = 1 if following[0].text == "of" and len(following) > 1 else 0
        month = following[skip]
        if isinstance(month.meaning, Months) and month.text in MONTHS:
            used = 2 + skip
            used += 1 if place + used < len(tokens) and tokens[place + used].text == "2013" else 0
            return _dated(2013, month.meaning.numbers[0], day, month.text), used
    return None, 0


def _dated(year: int, month: int, day: int, text: str) -> Token:
    try:
        return Token(f"{text} {day}", datetime.date(year, month, day))
    except ValueError:
        return Token(f"{text} {day}")


def _day(token: Token) -> int | None:
    if ordinal := _ORDINAL.match(token.text):
        return int(ordinal[1])
    if isinstance(token.meaning, Number) and token.text.isdigit() and 1 <= token.meaning.value <= 31:
        return int(token.meaning.value)
    return None


def _clock(tokens: list[Token], place: int) -> tuple[Token | None, int]:
    text = tokens[place].text
    if time := re.fullmatch(r"(\d{1,2}):00", text):
        return Token(text, ClockHour(int(time[1]))), 1
    half = tokens[place + 1].text if place + 1 < len(tokens) else ""
    if half in ("am", "pm", "a.m", "p.m", "o'clock") and text.isdigit() and 0 <= int(text) <= 24:
        hour = int(text) % 12 + (12 if half.startswith("p") else 0) if half != "o'clock" else int(text)
        return Token(f"{text} {half}", ClockHour(hour)), 2
    if text.isdigit() and half in ("and", "to") and place + 3 < len(tokens):
        # "Between 6 and 9 am": the half of the day is said once for both.
        other, ends = tokens[place + 2].text, tokens[place + 3].text
        if other.isdigit() and ends in ("am", "pm", "a.m", "p.m") and int(text) <= 12:
            return Token(text, ClockHour(int(text) % 12 + (12 if ends.startswith("p") else 0))), 1
    if text in ("noon", "midday"):
        return Token(text, ClockHour(12)), 1
    if text == "midnight":
        return Token(text, ClockHour(0)), 1
    return None, 0


def _is_year(tokens: list[Token], place: int, before: list[Token]) -> bool:
    token = tokens[place]
    if not (isinstance(token.meaning, Number) and re.fullmatch(r"(19|20)\d\d", token.text)):
        return False
    previous = before[-1] if before else None
    # Beside a comparing word or a unit it is a plain number: "built before 1990", "2000 miles".
    if previous is not None and isinstance(previous.meaning, (Comparator, Number)):
        return False
    return not (place + 1 < len(tokens) and isinstance(tokens[place + 1].meaning, Unit))


@lru_cache(maxsize=8)
def _lookup(schema: Schema) -> Mapping[str, Meaning]:
    """Phrase to meaning; what is put in later wins over what was there."""
    found: dict[str, Meaning] = {}
    found.update({word: Unit(word) for word in UNITS if word not in ("f", "h", "min", "=")})
    for concept in concepts_in(schema):
        found.update(dict.fromkeys(concept.phrases, concept))
    found.update(_places(schema))
    found.update(_names(schema))
    found.update({word: Months((number,)) for word, number in MONTHS.items()})
    found.update({word: Months(numbers) for word, numbers in SEASONS.items()})
    found.update({word: Days(numbers) for word, numbers in WEEKDAYS.items()})
    found.update({word: Hours(*ends) for word, ends in DAYTIMES.items()})
    found.update(dict.fromkeys(("at night", "during the night", "nights", "night"), Hours(22, 4)))
    found.update({word: datetime.date(2013, *date) for word, date in HOLIDAYS.items()})
    found.update(STATUSES)
    found.update(AGG_WORDS)
    found.update(RANKS)
    found.update({word: HowMuch(concept) for word, concept in HOW_ADJECTIVES.items()})
    found.update({word: Comparator(*meaning) for word, meaning in COMPARATORS.items()})
    # These are units beside a number and columns elsewhere; the reader tells which.
    found.update(
        {word: Unit(word) for word in ("minutes", "hours", "miles", "seats", "degrees", "years", "engines", "km")}
    )
    found.update({word: Unit(word) for word in ("minute", "mile", "feet", "inches", "percent")})
    del found["percent"]
    return found


def _places(schema: Schema) -> dict[str, Meaning]:
    origin, dest = schema.column("flights", "origin"), schema.column("flights", "dest")
    origins = dict(origin.values) if origin else {}
    destinations = dict(dest.values) if dest else {}
    by_phrase: dict[str, set[str]] = {}
    for code, label in {**destinations, **origins}.items():
        words = re.findall(r"[a-z']+", label.lower().replace("\\", ""))
        core = [word for word in words if word not in GENERIC_NAME_WORDS]
        for size in range(1, len(core) + 1):
            for start in range(len(core) - size + 1):
                part = core[start : start + size]
                if size == 1 and (part[0] in WEAK_NAME_WORDS or len(part[0]) < 4):
                    continue
                by_phrase.setdefault(" ".join(part), set()).add(code)
        by_phrase.setdefault(" ".join(words), set()).add(code)
    for city, codes in CITIES.items():
        if known := {code for code in codes if code in destinations or code in origins}:
            by_phrase[city] = known
    found: dict[str, Meaning] = {}
    for phrase, matched in by_phrase.items():
        found[phrase] = Place(tuple(sorted(matched)), is_origin=matched <= set(origins))
        found[f"{phrase} airport"] = found[phrase]
    for code in {**destinations, **origins}:
        found[code] = Place((code,), is_origin=code in origins)
        found[f"{code.lower()} airport"] = found[code]
    # In small letters a code is taken only where it is no word of its own.
    for code in (*origins, "LAX", "ORD", "ATL", "SFO", "BOS", "MCO", "MIA", "CLT", "FLL", "DCA", "DFW", "IAH"):
        if code in destinations or code in origins:
            found[code.lower()] = Place((code,), is_origin=code in origins)
    return found


def _names(schema: Schema) -> dict[str, Meaning]:
    found: dict[str, Meaning] = {}
    carrier = schema.column("flights", "carrier")
    for code, label in (carrier.values if carrier else {}).items():
        words = re.findall(r"[a-z]+", label.lower())
        core = [word for word in words if word not in AIRLINE_SUFFIXES] or words
        if core == ["us"]:
            core = ["us", "airways"]
        value = Named("flights.carrier", (code,))
        heads = {" ".join(core), " ".join(words), core[0] if core[0] != "us" else "us airways"}
        for head in heads:
            for tail in ("", " airlines", " air lines", " airways", " air", " america"):
                found[f"{head}{tail}"] = value
        if code != "US":
            found[code] = value
    for name in ("manufacturer", "engine", "type"):
        column = schema.column("planes", name)
        by_word: dict[str, set[str]] = {}
        for value_text in column.values if column else ():
            lowered = value_text.lower()
            by_word.setdefault(lowered, set()).add(value_text)
            if name == "manufacturer":
                words = lowered.split()
                by_word.setdefault(words[0], set()).add(value_text)
                by_word.setdefault(" ".join(words[:2]), set()).add(value_text)
        if name == "manufacturer":
            # A surname of a private builder is not worth a common word.
            for word in ("american", "stewart", "john", "pair", "robinson", "bell", "marz", "lambert", "barker"):
                by_word.pop(word, None)
            by_word["airbus"] = {
                value_text for value_text in (column.values if column else ()) if "AIRBUS" in value_text
            }
        for phrase, values in by_word.items():
            named = Named(f"planes.{name}", tuple(sorted(values)))
            found[phrase] = named
            if name == "engine":
                found[f"{phrase} engines"] = named
                found[f"{phrase} engine"] = named
            if name == "manufacturer":
                found[f"{phrase}s"] = named
    return found
