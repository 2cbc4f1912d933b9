"""The words of the rules: which phrases name which column, and what comparing and ranking words mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from analyst.offline.schema import Schema


class Kind(Enum):
    """What can be done with a concept: measure it, group by it, or group by it in its own order."""

    NUMBER = "number"
    CATEGORY = "category"
    GRAIN = "grain"


@dataclass(frozen=True, slots=True)
class Concept:
    """Something that a question can name.

    `sql` may hold `{t}` (the table that is asked), `{a}` (the airports as seen from it) and `{p}` (its tail number).
    `needs` names the tables it draws on. `shows` are the result columns when it is a group, `order` its own order.
    """

    key: str
    sql: str
    needs: frozenset[str]
    kind: Kind
    phrases: tuple[str, ...]
    unit: str = ""
    shows: tuple[tuple[str, str], ...] = ()
    order: str = ""
    bucket: float = 0.0
    plural: str = ""
    high_is_bad: bool = False
    adds_up: bool = False


def _number(
    key: str,
    sql: str,
    needs: str,
    unit: str,
    phrases: str,
    *,
    bucket: float = 0.0,
    high_is_bad: bool = False,
    adds_up: bool = False,
) -> Concept:
    return Concept(
        key,
        sql,
        frozenset(needs.split()),
        Kind.NUMBER,
        _split(phrases),
        unit,
        bucket=bucket,
        high_is_bad=high_is_bad,
        adds_up=adds_up,
    )


def _group(
    key: str,
    sql: str,
    needs: str,
    phrases: str,
    *,
    plural: str,
    shows: tuple[tuple[str, str], ...] = (),
    order: str = "",
) -> Concept:
    kind = Kind.GRAIN if order else Kind.CATEGORY
    return Concept(key, sql, frozenset(needs.split()), kind, _split(phrases), shows=shows, order=order, plural=plural)


def word_set(text: str) -> frozenset[str]:
    """The words of a text that lists them."""
    return frozenset(text.split())


def _split(phrases: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in phrases.split(","))


DEP_DELAY: Final = _number(
    "dep_delay",
    "flights.dep_delay",
    "flights",
    "min",
    "departure delay, departure delays, dep delay, delay at departure, delay on departure, delays on departure, delay, "
    "delays, delays at departure, departing delay, lateness, late departures, dep_delay, waiting time",
    bucket=30,
    high_is_bad=True,
    adds_up=True,
)
ARR_DELAY: Final = _number(
    "arr_delay",
    "flights.arr_delay",
    "flights",
    "min",
    "arrival delay, arrival delays, arr delay, delay at arrival, delay on arrival, delays on arrival, landing delay, "
    "arr_delay, delays at arrival, late arrivals",
    bucket=30,
    high_is_bad=True,
    adds_up=True,
)
DISTANCE: Final = _number(
    "distance",
    "flights.distance",
    "flights",
    "miles",
    "distance, distances, distance flown, flight distance, miles, mileage, length, flight length, range, km",
    bucket=500,
    adds_up=True,
)
AIR_TIME: Final = _number(
    "air_time",
    "flights.air_time",
    "flights",
    "min",
    "air time, airtime, time in the air, flight time, flying time, flight duration, duration, hours in the air, "
    "minutes in the air, air_time, flight times, travel time, time aloft, hours, minutes",
    bucket=60,
    adds_up=True,
)
SPEED: Final = _number(
    "speed",
    "flights.distance / (flights.air_time / 60.0)",
    "flights",
    "mph",
    "speed, flight speed, speeds, air speed, flying speed, ground speed",
    bucket=50,
)
GAIN: Final = _number(
    "gain",
    "flights.dep_delay - flights.arr_delay",
    "flights",
    "min",
    "time made up, time gained, time made up in the air, gain, time caught up, minutes made up, made up time",
    bucket=15,
)
PLANE_YEAR: Final = _number(
    "year_built",
    "planes.year",
    "planes",
    "",
    "year of manufacture, manufacturing year, year built, build year, construction year, year of construction, "
    "model year, manufacture year",
)
PLANE_AGE: Final = _number(
    "plane_age",
    "2013 - planes.year",
    "planes",
    "years",
    "aircraft age, plane age, age, age of aircraft, age of planes, age of the aircraft, age of the planes, fleet age, "
    "age of the fleet, fleet, fleets, age of their planes, age of its planes",
    bucket=5,
    high_is_bad=True,
)
SEATS: Final = _number(
    "seats", "planes.seats", "planes", "", "seats, seat count, seating capacity", bucket=50, adds_up=True
)
SEATS_PER_PLANE: Final = _number(
    "seats",
    "planes.seats",
    "planes",
    "",
    "seats per plane, seats per aircraft, seats per flight, seats a plane",
    bucket=50,
)
ENGINES: Final = _number(
    "engines", "planes.engines", "planes", "", "engines, number of engines, engine count", bucket=1
)
CRUISE_SPEED: Final = _number(
    "cruise_speed", "planes.speed", "planes", "mph", "cruising speed, cruise speed", bucket=50
)
TEMP: Final = _number(
    "temp", "weather.temp", "weather", "f", "temperature, temperatures, temp, degrees, heat", bucket=10
)
DEWP: Final = _number("dewp", "weather.dewp", "weather", "f", "dew point, dewpoint, dewp", bucket=10)
HUMID: Final = _number("humid", "weather.humid", "weather", "percent", "humidity, relative humidity, humid", bucket=10)
WIND: Final = _number(
    "wind_speed",
    "weather.wind_speed",
    "weather",
    "mph",
    "wind speed, wind speeds, wind, winds, wind_speed",
    bucket=5,
    high_is_bad=True,
)
GUST: Final = _number(
    "wind_gust",
    "weather.wind_gust",
    "weather",
    "mph",
    "wind gust, wind gusts, gusts, gust, gust speed",
    bucket=5,
    high_is_bad=True,
)
WIND_DIR: Final = _number("wind_dir", "weather.wind_dir", "weather", "degrees", "wind direction", bucket=45)
PRECIP: Final = _number(
    "precip",
    "weather.precip",
    "weather",
    "inches",
    "precipitation, precip, rain, rainfall, inches of rain, snow",
    bucket=0.1,
    high_is_bad=True,
    adds_up=True,
)
PRESSURE: Final = _number(
    "pressure", "weather.pressure", "weather", "mbar", "pressure, air pressure, sea level pressure", bucket=5
)
VISIB: Final = _number("visib", "weather.visib", "weather", "miles", "visibility, visib", bucket=1)
ALTITUDE: Final = _number(
    "altitude",
    "{a}.alt",
    "airports",
    "ft",
    "altitude, elevation, alt, altitude of the destination, destination altitude",
    bucket=1000,
)
LATITUDE: Final = _number("latitude", "{a}.lat", "airports", "deg", "latitude, lat", bucket=5)
LONGITUDE: Final = _number("longitude", "{a}.lon", "airports", "deg", "longitude, lon", bucket=10)

AIRLINE: Final = _group(
    "airline",
    "flights.carrier",
    "flights airlines",
    "airline, airlines, carrier, carriers, air carrier, air carriers, company, companies, airline company, operator, "
    "operators, airline name, airline names, airliner, airliners",
    plural="airlines",
    shows=(("airlines.name", "airline"),),
)
ORIGIN: Final = _group(
    "origin",
    "{t}.origin",
    "t",
    "origin, origins, origin airport, origin airports, departure airport, departure airports, airport of departure, "
    "airport, airports, new york airport, new york airports, nyc airport, nyc airports, starting airport",
    plural="origins",
    shows=(("{t}.origin", "origin"),),
)
DEST: Final = _group(
    "dest",
    "flights.dest",
    "flights",
    "destination, destinations, dest, destination airport, destination airports, arrival airport, arrival airports, "
    "airport of arrival, city, cities, target airport, place, places",
    plural="destinations",
    shows=(("flights.dest", "destination"), ("any_value({a}.name)", "airport")),
)
ROUTE: Final = _group(
    "route",
    "flights.origin || '-' || flights.dest",
    "flights",
    "route, routes, connection, connections, airport pair, airport pairs",
    plural="routes",
    shows=(("flights.origin", "origin"), ("flights.dest", "destination")),
)
PLANE: Final = _group(
    "plane",
    "{p}.tailnum",
    "p",
    "plane, planes, aircraft, aircrafts, airplane, airplanes, tail number, tail numbers, tailnum, jet, jets, "
    "individual plane, individual aircraft, single plane, machine",
    plural="planes",
    shows=(("{p}.tailnum", "tail_number"),),
)
MANUFACTURER: Final = _group(
    "manufacturer",
    "planes.manufacturer",
    "planes",
    "manufacturer, manufacturers, aircraft manufacturer, aircraft manufacturers, plane manufacturer, "
    "plane manufacturers, maker, makers, aircraft maker, plane maker, aircraft makers, plane makers, builder, "
    "builders, airplane manufacturer, airplane manufacturers, plane brand, make",
    plural="manufacturers",
    shows=(("planes.manufacturer", "manufacturer"),),
)
MODEL: Final = _group(
    "model",
    "planes.model",
    "planes",
    "model, models, aircraft model, aircraft models, plane model, plane models, kind of plane, airplane model, "
    "airplane models",
    plural="models",
    shows=(("planes.manufacturer", "manufacturer"), ("planes.model", "model")),
)
ENGINE_TYPE: Final = _group(
    "engine",
    "planes.engine",
    "planes",
    "engine type, engine types, type of engine, types of engine, kind of engine, engine, kinds of engine",
    plural="engine_types",
    shows=(("planes.engine", "engine"),),
)
PLANE_TYPE: Final = _group(
    "type",
    "planes.type",
    "planes",
    "aircraft type, aircraft types, plane type, plane types, type of aircraft, type of plane, types of aircraft, "
    "airplane type, types of plane, kind of aircraft",
    plural="aircraft_types",
    shows=(("planes.type", "aircraft_type"),),
)
TIME_ZONE: Final = _group(
    "time_zone",
    "{a}.tzone",
    "airports",
    "time zone, time zones, timezone, timezones, tzone, destination time zone, time zone of the destination",
    plural="time_zones",
    shows=(("{a}.tzone", "time_zone"),),
)
FLIGHT_NUMBER: Final = _group(
    "flight_number",
    "flights.carrier || flights.flight",
    "flights",
    "flight number, flight numbers",
    plural="flight_numbers",
    shows=(("flights.carrier", "carrier"), ("flights.flight", "flight_number")),
)

DATE: Final = _group(
    "date",
    "{t}.date",
    "t",
    "date, dates, day, days, calendar day, calendar date, day of the year, daily, calendar days",
    plural="days",
    shows=(("{t}.date", "date"),),
    order="{t}.date",
)
MONTH: Final = _group(
    "month",
    "{t}.month",
    "t",
    "month, months, calendar month, month of the year, monthly",
    plural="months",
    shows=(("{t}.month", "month"),),
    order="{t}.month",
)
WEEK: Final = _group(
    "week",
    "week({t}.date)",
    "t",
    "week, weeks, calendar week, calendar weeks, weekly",
    plural="weeks",
    shows=(("week({t}.date)", "week"),),
    order="week({t}.date)",
)
QUARTER: Final = _group(
    "quarter",
    "quarter({t}.date)",
    "t",
    "quarter, quarters, quarter of the year, quarterly",
    plural="quarters",
    shows=(("quarter({t}.date)", "quarter"),),
    order="quarter({t}.date)",
)
SEASON_SQL: Final = (
    "CASE WHEN {t}.month IN (12, 1, 2) THEN 'winter' WHEN {t}.month <= 5 THEN 'spring' "
    "WHEN {t}.month <= 8 THEN 'summer' ELSE 'autumn' END"
)
SEASON: Final = _group(
    "season",
    SEASON_SQL,
    "t",
    "season, seasons, season of the year, time of year, time of the year",
    plural="seasons",
    shows=((SEASON_SQL, "season"),),
    order="min({t}.month % 12)",
)
WEEKDAY: Final = _group(
    "weekday",
    "isodow({t}.date)",
    "t",
    "weekday, weekdays, day of the week, day of week, days of the week, week day, week days",
    plural="weekdays",
    shows=(("dayname({t}.date)", "weekday"),),
    order="isodow({t}.date)",
)
HOUR: Final = _group(
    "hour",
    "{t}.hour",
    "t",
    "hour, hour of the day, hour of day, time of day, time of the day, departure hour, scheduled hour, hourly, "
    "departure time, hours of the day",
    plural="hours",
    shows=(("{t}.hour", "hour"),),
    order="{t}.hour",
)
DAY_OF_MONTH: Final = _group(
    "day_of_month",
    "{t}.day",
    "t",
    "day of the month, day of month",
    plural="days_of_month",
    shows=(("{t}.day", "day_of_month"),),
    order="{t}.day",
)
YEAR: Final = _group(
    "year", "{t}.year", "t", "year, years", plural="years", shows=(("{t}.year", "year"),), order="{t}.year"
)

CONCEPTS: Final = (
    DEP_DELAY, ARR_DELAY, DISTANCE, AIR_TIME, SPEED, GAIN, PLANE_YEAR, PLANE_AGE, SEATS, SEATS_PER_PLANE, ENGINES,
    CRUISE_SPEED, TEMP, DEWP, HUMID, WIND, GUST, WIND_DIR, PRECIP, PRESSURE, VISIB, ALTITUDE, LATITUDE, LONGITUDE,
    AIRLINE, ORIGIN, DEST, ROUTE, PLANE, MANUFACTURER, MODEL, ENGINE_TYPE, PLANE_TYPE, TIME_ZONE, FLIGHT_NUMBER,
    DATE, MONTH, WEEK, QUARTER, SEASON, WEEKDAY, HOUR, DAY_OF_MONTH, YEAR,
)  # fmt: skip


class Agg(Enum):
    """How many values become one."""

    COUNT = "count"
    DISTINCT = "count distinct"
    AVG = "average"
    SUM = "sum"
    MIN = "minimum"
    MAX = "maximum"
    MEDIAN = "median"
    STDDEV = "standard deviation"
    SHARE = "share"
    SHARE_OF_ALL = "share of all"
    PER = "count per"


AGG_WORDS: Final[Mapping[str, Agg]] = {
    **dict.fromkeys(("average", "mean", "avg", "typical", "on average", "averages", "usual", "expected"), Agg.AVG),
    **dict.fromkeys(("median",), Agg.MEDIAN),
    **dict.fromkeys(("total", "sum of", "sum", "combined", "altogether", "in total", "overall", "cumulative"), Agg.SUM),
    **dict.fromkeys(("maximum", "max"), Agg.MAX),
    **dict.fromkeys(("minimum", "min"), Agg.MIN),
    **dict.fromkeys(("standard deviation", "spread", "variability", "stddev"), Agg.STDDEV),
}


class Direction(Enum):
    """Where the first row of a ranking lies; `WORST` and `BEST` depend on what is measured."""

    HIGH = "high"
    LOW = "low"
    WORST = "worst"
    BEST = "best"


@dataclass(frozen=True, slots=True)
class Rank:
    """A ranking word: its direction, and what it measures when it says so by itself."""

    direction: Direction
    concept: Concept | None = None
    agg: Agg | None = None
    default: Concept | None = None


_HIGH, _LOW = Direction.HIGH, Direction.LOW

RANKS: Final[Mapping[str, Rank]] = {
    **dict.fromkeys(("most", "highest", "largest", "greatest", "biggest", "top"), Rank(_HIGH)),
    **dict.fromkeys(("least", "fewest", "lowest", "smallest", "bottom"), Rank(_LOW)),
    "worst": Rank(Direction.WORST, default=DEP_DELAY),
    "best": Rank(Direction.BEST, default=DEP_DELAY),
    **dict.fromkeys(
        ("busiest", "most popular", "most common", "most frequent", "most used", "most served", "most visited",
         "most often", "most frequently", "most flown", "most active", "most traffic"),
        Rank(_HIGH, agg=Agg.COUNT),
    ),
    **dict.fromkeys(
        ("quietest", "least busy", "least popular", "least common", "rarest", "least frequent", "least used", "calmest",
         "slowest day", "least often", "least frequently"),
        Rank(_LOW, agg=Agg.COUNT),
    ),
    **dict.fromkeys(("most delayed", "latest", "most late", "tardiest", "least punctual"), Rank(_HIGH, DEP_DELAY)),
    **dict.fromkeys(("least delayed", "least late"), Rank(_LOW, DEP_DELAY)),
    "longest": Rank(_HIGH, default=DISTANCE),
    "shortest": Rank(_LOW, default=DISTANCE),
    **dict.fromkeys(("farthest", "furthest", "most distant", "most remote"), Rank(_HIGH, DISTANCE)),
    **dict.fromkeys(("nearest", "closest"), Rank(_LOW, DISTANCE)),
    **dict.fromkeys(("largest planes", "biggest planes", "largest aircraft", "largest plane"), Rank(_HIGH, SEATS)),
    **dict.fromkeys(("smallest planes", "smallest aircraft", "smallest plane"), Rank(_LOW, SEATS)),
    "fastest": Rank(_HIGH, SPEED),
    "slowest": Rank(_LOW, SPEED),
    "oldest": Rank(_HIGH, PLANE_AGE),
    **dict.fromkeys(("newest", "youngest"), Rank(_LOW, PLANE_AGE)),
    **dict.fromkeys(("hottest", "warmest"), Rank(_HIGH, TEMP)),
    **dict.fromkeys(("coldest", "coolest"), Rank(_LOW, TEMP)),
    **dict.fromkeys(
        ("made up the most time in the air", "made up most time in the air", "makes up the most time in the air",
         "made up the most time", "makes up the most time", "make up the most time", "makes up most time",
         "make up the most time in the air", "gains the most time in the air"),
        Rank(_HIGH, GAIN),
    ),
    "windiest": Rank(_HIGH, WIND),
    **dict.fromkeys(("wettest", "rainiest"), Rank(_HIGH, PRECIP, Agg.SUM)),
    "driest": Rank(_LOW, PRECIP, Agg.SUM),
    "foggiest": Rank(_LOW, VISIB),
    "most humid": Rank(_HIGH, HUMID),
}  # fmt: skip

HOW_ADJECTIVES: Final[Mapping[str, Concept]] = {
    "how late": DEP_DELAY, "how delayed": DEP_DELAY, "how long": AIR_TIME, "how far": DISTANCE, "how fast": SPEED,
    "how old": PLANE_AGE, "how hot": TEMP, "how warm": TEMP, "how cold": TEMP, "how windy": WIND, "how humid": HUMID,
    "how much later": DEP_DELAY, "how much delay": DEP_DELAY, "how high": ALTITUDE, "how big": SEATS,
}  # fmt: skip

# Comparing words, by the operator they stand for, and the concept that some of them say by themselves.
COMPARATORS: Final[Mapping[str, tuple[str, Concept | None]]] = {
    **dict.fromkeys(
        ("more than", "over", "above", "greater than", "higher than", "exceeding", "exceeds", "exceed", "larger than",
         "bigger than", "exceeded", "beyond", ">", "stronger than", "in excess of", "of more than", "by more than",
         "of over", "by over", "was over", "is over"),
        (">", None),
    ),
    **dict.fromkeys(
        ("at least", "no less than", "not less than", "minimum of", ">=", "of at least", "by at least", "from at least",
         "a minimum of"),
        (">=", None),
    ),
    **dict.fromkeys(
        ("less than", "under", "below", "fewer than", "lower than", "smaller than", "<", "by less than", "of less than",
         "weaker than", "of under", "by under"),
        ("<", None),
    ),
    **dict.fromkeys(("at most", "no more than", "not more than", "up to", "maximum of", "<="), ("<=", None)),
    **dict.fromkeys(("exactly", "equal to", "=", "equals"), ("=", None)),
    "longer than": (">", DISTANCE),
    "farther than": (">", DISTANCE),
    "further than": (">", DISTANCE),
    "shorter than": ("<", DISTANCE),
    "later than": (">", DEP_DELAY),
    "faster than": (">", SPEED),
    "slower than": ("<", SPEED),
    "older than": (">", PLANE_AGE),
    "newer than": ("<", PLANE_AGE),
    "younger than": ("<", PLANE_AGE),
    "hotter than": (">", TEMP),
    "warmer than": (">", TEMP),
    "colder than": ("<", TEMP),
    "cooler than": ("<", TEMP),
    "built before": ("<", PLANE_YEAR),
    "made before": ("<", PLANE_YEAR),
    "manufactured before": ("<", PLANE_YEAR),
    "built after": (">", PLANE_YEAR),
    "made after": (">", PLANE_YEAR),
    "manufactured after": (">", PLANE_YEAR),
    "built since": (">=", PLANE_YEAR),
    "built in": ("=", PLANE_YEAR),
    "made in": ("=", PLANE_YEAR),
    "manufactured in": ("=", PLANE_YEAR),
}  # fmt: skip

# Units: the factor to the column's own unit, and the concepts they may belong to, the likeliest first.
UNITS: Final[Mapping[str, tuple[float, tuple[Concept, ...]]]] = {
    **dict.fromkeys(("minutes", "minute", "min", "mins"), (1.0, (DEP_DELAY, ARR_DELAY, AIR_TIME, GAIN))),
    **dict.fromkeys(("hours", "hour", "h", "hrs", "hr"), (60.0, (DEP_DELAY, ARR_DELAY, AIR_TIME, GAIN))),
    **dict.fromkeys(("miles", "mile", "mi"), (1.0, (DISTANCE, VISIB))),
    **dict.fromkeys(("km", "kilometers", "kilometres", "kilometer", "kilometre"), (0.621371, (DISTANCE, VISIB))),
    **dict.fromkeys(("mph", "miles per hour", "miles an hour"), (1.0, (WIND, GUST, SPEED, CRUISE_SPEED))),
    **dict.fromkeys(("knots", "knot", "kt"), (1.150779, (WIND, GUST, SPEED))),
    **dict.fromkeys(("degrees", "degree", "fahrenheit", "degrees fahrenheit", "degrees f", "°f"), (1.0, (TEMP, DEWP))),
    **dict.fromkeys(("inches", "inch"), (1.0, (PRECIP,))),
    **dict.fromkeys(("percent", "%"), (1.0, (HUMID,))),
    **dict.fromkeys(("millibars", "mbar", "hpa", "millibar"), (1.0, (PRESSURE,))),
    **dict.fromkeys(("feet", "ft", "foot"), (1.0, (ALTITUDE,))),
    **dict.fromkeys(("seats", "seat"), (1.0, (SEATS,))),
    **dict.fromkeys(("engines",), (1.0, (ENGINES,))),
    **dict.fromkeys(("years", "years old", "year"), (1.0, (PLANE_AGE,))),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Status:
    """A condition on a flight that one word says."""

    key: str
    sql: str
    meaning: str


CANCELLED: Final = Status("cancelled", "flights.dep_time IS NULL", "cancelled means that it never departed")
DELAYED: Final = Status("delayed", "flights.dep_delay >= 15", "delayed means that it left at least 15 minutes late")
LATE_ARRIVAL: Final = Status(
    "late_arrival", "flights.arr_delay >= 15", "late at arrival means at least 15 minutes late"
)
ON_TIME: Final = Status("on_time", "flights.arr_delay < 15", "on time means that it arrived less than 15 minutes late")
LEFT_ON_TIME: Final = Status("left_on_time", "flights.dep_delay < 15", "it left less than 15 minutes late")
EARLY: Final = Status("early", "flights.arr_delay < 0", "early means that it arrived before its scheduled time")
LEFT_EARLY: Final = Status("left_early", "flights.dep_delay < 0", "it left before its scheduled time")
DIVERTED: Final = Status(
    "not_arrived",
    "flights.dep_time IS NOT NULL AND flights.arr_delay IS NULL",
    "diverted means that it departed and has no arrival delay",
)

STATUSES: Final[Mapping[str, Status]] = {
    **dict.fromkeys(
        ("cancelled", "canceled", "cancellation", "cancellations", "cancelations", "never departed", "cancel",
         "never left", "were cancelled", "cancels", "cancelling"),
        CANCELLED,
    ),
    **dict.fromkeys(("delayed", "late", "left late", "departed late", "leave late", "depart late"), DELAYED),
    **dict.fromkeys(
        ("arrived late", "arrive late", "late on arrival", "landed late", "late arrival", "arriving late",
         "arrives late", "delayed on arrival"),
        LATE_ARRIVAL,
    ),
    **dict.fromkeys(("on time", "punctual", "punctuality", "arrived on time", "arrive on time"), ON_TIME),
    **dict.fromkeys(("left on time", "departed on time", "depart on time", "leave on time"), LEFT_ON_TIME),
    **dict.fromkeys(("early", "arrived early", "arrive early", "ahead of schedule", "landed early"), EARLY),
    **dict.fromkeys(("left early", "departed early", "depart early", "leave early"), LEFT_EARLY),
    **dict.fromkeys(("diverted", "diversion", "diversions"), DIVERTED),
}  # fmt: skip

MONTHS: Final[Mapping[str, int]] = {
    name: number
    for number, names in enumerate(
        ("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sep sept", "october oct", "november nov", "december dec"),
        start=1,
    )
    for name in names.split()
}  # fmt: skip

WEEKDAYS: Final[Mapping[str, tuple[int, ...]]] = {
    **{
        form: (number,)
        for number, day in enumerate(
            ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), start=1
        )
        for form in (day, day + "s")
    },
    **dict.fromkeys(("weekend", "weekends", "the weekend"), (6, 7)),
    **dict.fromkeys(("working days", "workdays", "business days"), (1, 2, 3, 4, 5)),
}

SEASONS: Final[Mapping[str, tuple[int, ...]]] = {
    "winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11), "fall": (9, 10, 11),
    "first quarter": (1, 2, 3), "second quarter": (4, 5, 6), "third quarter": (7, 8, 9), "fourth quarter": (10, 11, 12),
    "last quarter": (10, 11, 12), "q1": (1, 2, 3), "q2": (4, 5, 6), "q3": (7, 8, 9), "q4": (10, 11, 12),
    "first half of the year": (1, 2, 3, 4, 5, 6), "second half of the year": (7, 8, 9, 10, 11, 12),
}  # fmt: skip

DAYTIMES: Final[Mapping[str, tuple[int, int]]] = {
    "morning": (5, 11), "mornings": (5, 11), "afternoon": (12, 17), "afternoons": (12, 17),
    "evening": (18, 21), "evenings": (18, 21),
}  # fmt: skip

HOLIDAYS: Final[Mapping[str, tuple[int, int]]] = {
    "christmas": (12, 25), "christmas day": (12, 25), "christmas eve": (12, 24), "new year's day": (1, 1),
    "new years day": (1, 1), "new year's eve": (12, 31), "new years eve": (12, 31), "independence day": (7, 4),
    "thanksgiving": (11, 28), "thanksgiving day": (11, 28), "halloween": (10, 31), "valentine's day": (2, 14),
    "the fourth of july": (7, 4), "fourth of july": (7, 4), "labor day": (9, 2), "memorial day": (5, 27),
}  # fmt: skip

# Cities whose airports do not carry the city's name.
CITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "boston": ("BOS",), "houston": ("IAH", "HOU"), "las vegas": ("LAS",), "vegas": ("LAS",), "san juan": ("SJU",),
    "puerto rico": ("SJU", "BQN", "PSE"), "milwaukee": ("MKE",), "oklahoma city": ("OKC",), "knoxville": ("TYS",),
    "madison": ("MSN",), "providence": ("PVD",), "omaha": ("OMA",), "grand rapids": ("GRR",), "greensboro": ("GSO",),
    "lexington": ("LEX",), "fort myers": ("RSW",), "hartford": ("BDL",), "bozeman": ("BZN",), "burbank": ("BUR",),
    "charleston": ("CHS", "CRW"), "washington": ("DCA", "IAD"), "chicago": ("ORD", "MDW"), "o'hare": ("ORD",),
    "saint louis": ("STL",), "st thomas": ("STT",), "ponce": ("PSE",), "aguadilla": ("BQN",), "hawaii": ("HNL",),
    "washington dc": ("DCA", "IAD"), "logan": ("BOS",), "dulles": ("IAD",), "la": ("LAX",), "portland": ("PDX", "PWM"),
    "newark": ("EWR",), "kennedy": ("JFK",), "laguardia": ("LGA",), "la guardia": ("LGA",), "john f kennedy": ("JFK",),
    "santa ana": ("SNA",), "anchorage": ("ANC",), "dallas": ("DFW",), "san jose": ("SJC",), "columbia": ("CAE",),
    "columbus": ("CMH",), "jackson": ("JAC",), "vail": ("EGE",), "eagle": ("EGE",), "san diego": ("SAN",),
}  # fmt: skip

FLIGHT_WORDS: Final = word_set(
    """flight flights departure departures arrival arrivals fly flies flew flown flying depart departs departed
    departing arrive arrives arrived arriving land landed landing took"""
)

# Words that carry no condition of their own, so that leaving them out changes nothing.
SILENT: Final = word_set(
    """a an the of did do does done is are was were be been being has have had having will would can could should
    may might must shall there here it its it's they them their theirs we us our i me my you your this that
    these those which what who whose how when where why show list give tell find get please rank compute
    calculate want know see let display report name count from to into in on at by for with within between among
    across during per each every and or but as so if then through throughout until till about around leave
    leaves left leaving go goes going went gone operate operates operated operating serve serves served serving
    run runs ran use used uses using make made makes suffer suffers suffered experience experiences experienced
    face faced compare comparison compared versus vs difference differ differs ranking ranked sorted sort order
    ordered ascending descending grouped group broken breakdown split distribution all any some one ones only
    just also both either nyc new york city united-states usa data dataset database table record records
    recorded row rows number numbers many much time times happen happened occur occurred take takes taken taking
    value values figure figures amount question answer according based same given overall general generally ever
    actually exactly really typically usually mostly normally owned schedule scheduled planned actual kind type
    various different distinct unique individual entire whole full year's 2013 terms respect regard regarding
    change changes changed vary varies varied depend depends like look looks reach reached plus well against
    performance perform performs performed built manufactured produced measured observed traffic travel travels
    traveled travelled trip trips reading readings hourly air lines inc corporation co airline's carrier's
    passenger-carrying commercial domestic gets got carry carries carried set per-flight visit visited offer
    offers offered respectively together separately rather exist exists hold holds contain contains included
    include includes bound headed heading toward towards while come comes came coming whether related relate
    pass passed ourselves gain gained lose lost wait waited expect keep kept stand stood start starts started
    begin cover covers covered weather"""
)

GENERIC_NAME_WORDS: Final = word_set(
    """intl international airport regional rgnl natl fld field afld arpt co metro metropolitan mem afb world state
    jetport sunport muni municipal"""
)

# Single words of airport names that mean something else, or nothing, when they stand alone.
WEAK_NAME_WORDS: Final = word_set(
    """san new west st los fort salt lake city key palm long beach south bend north northern general john james george
    william will bob hope blue grass mc eagle hole cherry capital grand port sky harbor green martha's orange louis
    edward lawrence francis theodore wayne ford gerald norman ronald p y m r f a rogers mitchell hilton head des
    southwest delta american united virgin mineta springs st. kentucky stevens ted ponce regional rock long tyson
    ghee cox gallatin valley yampa dane truax bush hobby bradley lambert worth jackson moines antonio diego francisco
    jose juan angeles orleans myrtle cities florida northwest arkansas nw intercontinental armstrong reagan logan
    thomas yeager albemarle piedmont triad"""
)

AIRLINE_SUFFIXES: Final = frozenset({"air", "lines", "airlines", "airways", "inc", "co", "corporation", "line"})


def concepts_in(schema: Schema) -> tuple[Concept, ...]:
    """The concepts that this schema can serve: those of the list, and each column that the list does not know."""
    known = [concept for concept in CONCEPTS if _serves(schema, concept)]
    phrases = {phrase for concept in CONCEPTS for phrase in concept.phrases}
    for table, columns in schema.tables.items():
        for column in columns.values():
            names = {column.name.replace("_", " "), column.name} - phrases
            if table in ("flights", "planes", "weather") and names and " " in column.name.replace("_", " "):
                known.append(
                    Concept(
                        column.name,
                        f"{table}.{column.name}",
                        frozenset({table}),
                        Kind.NUMBER if column.is_numeric else Kind.CATEGORY,
                        tuple(sorted(names)),
                        shows=() if column.is_numeric else ((f"{table}.{column.name}", column.name),),
                    )
                )
                phrases |= names
    return tuple(known)


def _serves(schema: Schema, concept: Concept) -> bool:
    return all(table in schema.tables for table in concept.needs if table not in ("t", "p"))
