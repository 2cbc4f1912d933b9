"""The offline rules answer questions as SQL written by hand does, on the real data."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from analyst.dataset import schema_text
from analyst.offline.query import Misunderstood, Query, diagnosis_sql, to_sql
from analyst.offline.reading import read_question
from analyst.offline.schema import read_schema
from analyst.sql_guard import Cell, QueryResult, run_select

AIRLINE = "FROM flights f JOIN airlines a ON a.carrier = f.carrier"
PLANES = "FROM flights f LEFT JOIN planes p ON p.tailnum = f.tailnum"
WEATHER = "FROM flights f LEFT JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour"

# A question, and SQL by another hand. Its rows must be the answer's first rows, its cells among the answer's cells in
# their order; without a LIMIT the answer must have no further rows.
ANSWERS = [
    # Counting and filtering.
    ("How many flights left from JFK?", "SELECT count(*) FROM flights WHERE origin = 'JFK'"),
    ("total number of flights", "SELECT count(*) FROM flights"),
    (
        "How many flights did United operate in March?",
        "SELECT count(*) FROM flights WHERE carrier = 'UA' AND month = 3",
    ),
    (
        "How many flights left JFK for LAX in July?",
        "SELECT count(*) FROM flights WHERE origin = 'JFK' AND dest = 'LAX' AND month = 7",
    ),
    ("How many flights were there on 2013-12-24?", "SELECT count(*) FROM flights WHERE month = 12 AND day = 24"),
    ("How many flights were there on July 4th?", "SELECT count(*) FROM flights WHERE month = 7 AND day = 4"),
    ("How many flights were delayed by more than 2 hours?", "SELECT count(*) FROM flights WHERE dep_delay > 120"),
    ("How many flights had an arrival delay >= 3 hours?", "SELECT count(*) FROM flights WHERE arr_delay >= 180"),
    ("How many flights arrived more than 30 minutes late?", "SELECT count(*) FROM flights WHERE arr_delay > 30"),
    ("How many flights were longer than 1,000 miles?", "SELECT count(*) FROM flights WHERE distance > 1000"),
    (
        "How many flights between 500 and 1000 miles were cancelled?",
        "SELECT count(*) FROM flights WHERE distance >= 500 AND distance <= 1000 AND dep_time IS NULL",
    ),
    (
        "How many flights between June and August were cancelled?",
        "SELECT count(*) FROM flights WHERE month IN (6, 7, 8) AND dep_delay IS NULL",
    ),
    ("How many flights weren't cancelled?", "SELECT count(dep_time) FROM flights"),
    (
        "How many flights did not depart from JFK or LGA in July?",
        "SELECT count(*) FROM flights WHERE origin = 'EWR' AND month = 7",
    ),
    (
        "How many flights to Boston left in the morning?",
        "SELECT count(*) FROM flights WHERE dest = 'BOS' AND hour >= 5 AND hour < 12",
    ),
    ("How many flights departed between 6 and 9 am?", "SELECT count(*) FROM flights WHERE hour IN (6, 7, 8)"),
    ("How many flights departed after 6 pm?", "SELECT count(*) FROM flights WHERE hour > 17"),
    (
        "On weekends, how many flights leave Newark?",
        "SELECT count(*) FROM flights WHERE origin = 'EWR' AND dayofweek(date) IN (0, 6)",
    ),
    (
        "How many flights did Delta have to Atlanta in the first quarter?",
        "SELECT count(*) FROM flights WHERE carrier = 'DL' AND dest = 'ATL' AND month < 4",
    ),
    ("How many flights in June or July?", "SELECT count(*) FROM flights WHERE month BETWEEN 6 AND 7"),
    ("How many flights arrived early?", "SELECT count(*) FROM flights WHERE arr_delay <= -1"),
    # Counting what is different.
    ("How many airlines are there?", "SELECT count(*) FROM airlines"),
    (
        "How many different destinations does Southwest fly to?",
        "SELECT count(*) FROM (SELECT dest FROM flights WHERE carrier = 'WN' GROUP BY dest)",
    ),
    (
        "How many planes does each airline use?",
        f"SELECT a.name, count(DISTINCT f.tailnum) AS n {AIRLINE} GROUP BY 1 ORDER BY n DESC, 1",
    ),
    (
        "How many carriers serve each destination?",
        "SELECT dest, count(DISTINCT carrier) FROM flights GROUP BY 1 ORDER BY 2 DESC, 1",
    ),
    ("How many airports are above 5000 feet?", "SELECT count(*) FROM airports WHERE alt > 5000"),
    ("How many Boeing planes are there?", "SELECT count(*) FROM planes WHERE manufacturer = 'BOEING'"),
    (
        "How many planes were built between 1990 and 2000?",
        "SELECT count(*) FROM planes WHERE year >= 1990 AND year <= 2000",
    ),
    # One figure.
    ("What is the maximum departure delay?", "SELECT max(dep_delay) FROM flights"),
    ("What is the total distance flown by Delta?", "SELECT sum(distance) FROM flights WHERE carrier = 'DL'"),
    (
        "How many miles did JetBlue fly in December?",
        "SELECT sum(distance) FROM flights WHERE carrier = 'B6' AND month = 12",
    ),
    (
        "What was the median arrival delay of JetBlue flights?",
        "SELECT quantile_cont(arr_delay, 0.5) FROM flights WHERE carrier = 'B6'",
    ),
    (
        "minimum, maximum and average distance",
        "SELECT min(distance), max(distance), sum(distance) / count(*) FROM flights",
    ),
    (
        "What was the average departure delay on Christmas Eve?",
        "SELECT avg(dep_delay) FROM flights WHERE date = DATE '2013-12-24'",
    ),
    (
        "What is the average departure delay on Mondays?",
        "SELECT avg(dep_delay) FROM flights WHERE strftime(date, '%A') = 'Monday'",
    ),
    (
        "average arrival delay of flights that left more than 60 minutes late",
        "SELECT avg(arr_delay) FROM flights WHERE dep_delay > 60",
    ),
    (
        "On average, how long does a flight from JFK to Honolulu take?",
        "SELECT avg(air_time) FROM flights WHERE origin = 'JFK' AND dest = 'HNL'",
    ),
    ("how many flights per day on average?", "SELECT count(*) / 365.0 FROM flights"),
    ("Average delay excluding JFK", "SELECT avg(dep_delay) FROM flights WHERE origin IN ('EWR', 'LGA')"),
    # Other tables through their keys.
    (
        "Average departure delay when visibility is below 2 miles",
        f"SELECT avg(f.dep_delay) {WEATHER} WHERE w.visib < 2",
    ),
    (
        "What is the average departure delay in rain of more than 0.1 inches?",
        f"SELECT avg(f.dep_delay) {WEATHER} WHERE w.precip > 0.1",
    ),
    ("How many flights used planes built before 1990?", f"SELECT count(*) {PLANES} WHERE p.year < 1990"),
    (
        "average arrival delay for planes with more than 300 seats",
        f"SELECT avg(f.arr_delay) {PLANES} WHERE p.seats > 300",
    ),
    (
        "What is the average age of the planes flown by American Airlines?",
        f"SELECT 2013 - avg(p.year) {PLANES} WHERE f.carrier = 'AA'",
    ),
    (
        "What is the average wind speed by month at LaGuardia?",
        "SELECT month, avg(wind_speed) FROM weather WHERE origin = 'LGA' GROUP BY 1 ORDER BY 1",
    ),
    ("total precipitation per month", "SELECT month, sum(precip) FROM weather GROUP BY 1 ORDER BY 1"),
    ("average humidity in summer", "SELECT avg(humid) FROM weather WHERE month IN (6, 7, 8)"),
    (
        "average number of seats by manufacturer",
        "SELECT manufacturer, avg(seats) FROM planes GROUP BY 1 ORDER BY 2 DESC, 1",
    ),
    (
        "average departure delay by wind speed",
        f"SELECT 5 * trunc(w.wind_speed / 5)::INT, avg(f.dep_delay) {WEATHER} GROUP BY 1 ORDER BY 1 NULLS LAST",
    ),
    # Ranking.
    (
        "Which airline had the worst average departure delay from JFK in July?",
        f"SELECT name, avg(dep_delay) {AIRLINE} WHERE origin = 'JFK' AND month = 7 GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    (
        "Which airline had the best arrival delay in 2013?",
        f"SELECT a.name, avg(arr_delay) {AIRLINE} GROUP BY 1 ORDER BY 2 LIMIT 3",
    ),
    (
        "Top 5 destinations from LGA",
        "SELECT dest, count(*) FROM flights WHERE origin = 'LGA' GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    ("5 least popular destinations", "SELECT dest, count(*) FROM flights GROUP BY 1 ORDER BY 2, 1 LIMIT 5"),
    (
        "Which route is the busiest?",
        "SELECT origin, dest, count(*) FROM flights GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 4",
    ),
    (
        "Which month had the most cancelled flights?",
        "SELECT month, count(*) FROM flights WHERE dep_time IS NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    (
        "Which carrier has the highest cancellation rate?",
        f"SELECT a.name, 100 * avg((dep_time IS NULL)::INT) {AIRLINE} GROUP BY 1 ORDER BY 2 DESC LIMIT 4",
    ),
    (
        "Which airline is the most punctual?",
        f"SELECT a.name, 100 * avg(coalesce(arr_delay < 15, false)::INT) {AIRLINE} GROUP BY 1 ORDER BY 2 DESC LIMIT 3",
    ),
    (
        "Which carriers have at least 10000 flights and the lowest average delay?",
        f"SELECT a.name, avg(dep_delay) {AIRLINE} GROUP BY 1 HAVING count(dep_delay) >= 10000 ORDER BY 2 LIMIT 5",
    ),
    (
        "Which airline flies fastest?",
        f"SELECT a.name, avg(60.0 * distance / air_time) {AIRLINE} GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    (
        "Which airline made up the most time in the air?",
        f"SELECT a.name, avg(dep_delay - arr_delay) {AIRLINE} GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    (
        "Which hour of the day has the longest delays?",
        "SELECT hour, avg(dep_delay) FROM flights GROUP BY 1 ORDER BY 2 DESC NULLS LAST LIMIT 3",
    ),
    (
        "Which flight had the longest departure delay?",
        f"SELECT f.date, a.name, f.flight, f.dep_delay {AIRLINE} ORDER BY f.dep_delay DESC NULLS LAST LIMIT 3",
    ),
    (
        "What is the oldest plane?",
        "SELECT tailnum, year FROM planes WHERE year IS NOT NULL ORDER BY year LIMIT 1",
    ),
    (
        "What was the hottest day?",
        "SELECT date, avg(temp) FROM weather GROUP BY 1 ORDER BY 2 DESC NULLS LAST LIMIT 2",
    ),
    (
        "Which tail number flew the most miles?",
        "SELECT tailnum, sum(distance) FROM flights GROUP BY 1 ORDER BY 2 DESC LIMIT 3",
    ),
    # Comparing.
    (
        "Compare the average arrival delay of United and Delta",
        f"SELECT a.name, avg(arr_delay) {AIRLINE} WHERE f.carrier IN ('UA', 'DL') GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "What's the difference in average arrival delay between JetBlue and Southwest?",
        f"SELECT a.name, avg(arr_delay) {AIRLINE} WHERE f.carrier IN ('B6', 'WN') GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "Compare the share of cancelled flights at JFK, LGA and EWR",
        "SELECT origin, 100 * avg((dep_time IS NULL)::INT) FROM flights GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "Did flights to Chicago have longer delays in winter than in summer?",
        "SELECT s, avg(dep_delay) FROM (SELECT dep_delay, CASE WHEN month IN (12, 1, 2) THEN 'winter' ELSE 'summer' END"
        " AS s FROM flights WHERE month IN (12, 1, 2, 6, 7, 8) AND dest IN ('ORD', 'MDW')) GROUP BY 1 ORDER BY 1 DESC",
    ),
    (
        "What's the average delay on weekends vs weekdays?",
        "SELECT avg(dep_delay) FROM flights GROUP BY dayofweek(date) IN (0, 6) ORDER BY 1 DESC",
    ),
    # Shares.
    (
        "What percentage of flights from Newark were delayed more than 60 minutes?",
        "SELECT 100.0 * sum((dep_delay > 60)::INT) / count(*) FROM flights WHERE origin = 'EWR'",
    ),
    ("What percentage of flights went to Los Angeles?", "SELECT 100 * avg((dest = 'LAX')::INT) FROM flights"),
    (
        "What share of flights from JFK does JetBlue operate?",
        "SELECT 100 * avg((carrier = 'B6')::INT) FROM flights WHERE origin = 'JFK'",
    ),
    (
        "What percentage of flights arrived on time in December?",
        "SELECT 100 * avg(coalesce(arr_delay < 15, false)::INT) FROM flights WHERE month = 12",
    ),
    (
        "share of flights by origin",
        "SELECT origin, 100.0 * count(*) / (SELECT count(*) FROM flights) FROM flights GROUP BY 1 ORDER BY 2 DESC",
    ),
    # Over time and several groups.
    (
        "Number of flights per month from LaGuardia",
        "SELECT month, count(*) FROM flights WHERE origin = 'LGA' GROUP BY 1 ORDER BY 1",
    ),
    ("Average departure delay per hour of the day", "SELECT hour, avg(dep_delay) FROM flights GROUP BY 1 ORDER BY 1"),
    (
        "average departure delay by month and origin",
        "SELECT month, origin, avg(dep_delay) FROM flights GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    (
        "average departure and arrival delay by origin",
        "SELECT origin, avg(dep_delay), avg(arr_delay) FROM flights GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "Show me the number of cancelled flights by airline and origin",
        f"SELECT a.name, f.origin, count(*) {AIRLINE} WHERE dep_time IS NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    ),
    (
        "How many flights were there per weekday?",
        "SELECT dayname(date), count(*) FROM flights GROUP BY 1 ORDER BY min(isodow(date))",
    ),
]  # fmt: skip

STRANGE = [
    ("How many passengers flew in July?", "passengers"),
    ("What is the average ticket price by airline?", "ticket"),
    ("What is the capital of France?", "capital"),
    ("Tell me a joke", "joke"),
    ("DROP TABLE flights", "drop"),
    ("how many flights were cancelled because of a strike?", "because"),
    ("How many flights were neither cancelled nor delayed?", "neither"),
    ("asdf qwer", "asdf"),
    ("flights", "count or measure"),
    ("", "count or measure"),
    ("¿Cuántos vuelos?", "vuelos"),
]  # fmt: skip


def read(question: str, database: Path) -> Query | Misunderstood:
    return read_question(question, read_schema(schema_text(database)))


@pytest.mark.parametrize(("question", "by_hand"), ANSWERS, ids=[question for question, _ in ANSWERS])
def test_a_question_is_answered_as_by_hand(question: str, by_hand: str, database: Path) -> None:
    """The rows that the rules' SQL gives are those of SQL that was written without them."""
    query = read(question, database)
    assert isinstance(query, Query), query
    answer, truth = run_select(database, to_sql(query)), run_select(database, by_hand)
    assert isinstance(answer, QueryResult), answer
    assert isinstance(truth, QueryResult), truth
    assert truth.rows
    if "LIMIT" not in by_hand:
        assert len(answer.rows) == len(truth.rows)
    for got, wanted in zip(answer.rows, truth.rows, strict=False):
        assert is_within(wanted, got), f"{wanted} is not in {got}"


@pytest.mark.parametrize(("question", "word"), STRANGE, ids=[question for question, _ in STRANGE])
def test_a_question_with_unknown_words_is_not_guessed_at(question: str, word: str, database: Path) -> None:
    """A word that means nothing here is named, never passed over, as the answer to another question would be wrong."""
    query = read(question, database)
    assert isinstance(query, Misunderstood)
    assert word in query.reason


def test_every_column_of_the_schema_that_can_be_measured_can_be_named(database: Path) -> None:
    """Averages work over each numeric column that carries meaning, in each of the tables."""
    named = [
        "departure delay", "arrival delay", "air time", "distance", "seats", "engines", "cruising speed", "temperature",
        "dew point", "humidity", "wind speed", "wind gust", "wind direction", "precipitation", "pressure", "visibility",
        "altitude", "latitude", "longitude",
    ]  # fmt: skip
    for name in named:
        query = read(f"What is the average {name}?", database)
        assert isinstance(query, Query), name
        result = run_select(database, to_sql(query))
        assert isinstance(result, QueryResult), (name, result)
        assert result.rows[0][0] is not None, name


def test_no_jumble_of_words_breaks_the_rules(database: Path) -> None:
    """Whatever words come in whatever order: the rules refuse, or give SQL that runs."""
    dice = random.Random(20130101)
    words = [word for question, _ in ANSWERS for word in question.split()]
    for _ in range(500):
        question = " ".join(dice.choices(words, k=dice.randint(1, 9)))
        query = read(question, database)
        if isinstance(query, Query) and dice.random() < 0.3:
            for sql in (to_sql(query), diagnosis_sql(query)):
                assert isinstance(run_select(database, sql), QueryResult), (question, sql)


def is_within(wanted: tuple[Cell, ...], got: tuple[Cell, ...]) -> bool:
    """Whether the wanted cells stand among the cells in their order; figures may differ by rounding."""
    cells = iter(got)
    return all(any(is_same(want, cell) for cell in cells) for want in wanted)


def is_same(want: Cell, cell: Cell) -> bool:
    if isinstance(want, (int, float)) and isinstance(cell, (int, float)):
        return math.isclose(want, cell, abs_tol=0.0051)
    return want == cell
