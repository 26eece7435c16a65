"""The times of an expression, held against a slow reading of the rules and against clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import BadRequest
from schedules.cron import gap_s, next_run

NOW = datetime(2026, 11, 27, 5, 0, 30, tzinfo=UTC)
NEW_YORK = "America/New_York"


def local(expression: str, zone: str, after: datetime, times: int = 1) -> list[str]:
    """The next times, as the clock of the zone shows them."""
    found = []
    for _ in range(times):
        after = next_run(expression, zone, after)
        found.append(after.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", "2026-11-27 05:01"),
        ("0 5 * * *", "2026-11-28 05:00"),
        ("*/15 * * * *", "2026-11-27 05:15"),
        ("50/5 * * * *", "2026-11-27 05:50"),
        ("0 9 * * MON-FRI", "2026-11-27 09:00"),
        ("0 9 * * sat,Sun", "2026-11-28 09:00"),
        ("0 0 1 JAN *", "2027-01-01 00:00"),
        ("0 0 ? * 0", "2026-11-29 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("? ? ? ? ?", "2026-11-27 05:01"),
        (" 0  0   1 * * ", "2026-12-01 00:00"),
        # Both day fields restricted: either is enough.
        ("0 0 30 * 0", "2026-11-29 00:00"),
        ("0 0 30 2 1", "2027-02-01 00:00"),
        ("0 0 */10 * 2", "2026-12-01 00:00"),
        # A step of one restricts nothing.
        ("0 0 */1 * 2", "2026-12-01 00:00"),
    ],
)
def test_the_next_time(expression: str, expected: str):
    assert local(expression, "UTC", NOW) == [expected]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "0 * * * * *",
        "0 0 1 1 * 2027",
        "@daily",
        "@every 5m",
        "TZ=UTC 0 0 * * *",
        "CRON_TZ=UTC 0 0 * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 7",
        "-1 * * * *",
        "5-1 * * * *",
        "* * * * FRI-MON",
        "*/0 * * * *",
        "*/ * * * *",
        "1, * * * *",
        "*-5 * * * *",
        "1.5 * * * *",
        "١ * * * *",
        "* * L * *",
        "* * * * 5#2",
        "* * 15W * *",
        "H * * * *",
        "MON * * * *",
        "* * * * JAN",
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "0 0 31 4 ?",
        ",".join(["1"] * 100) + " * * * *",
    ],
)
def test_what_is_no_expression(expression: str):
    with pytest.raises(BadRequest, match=r"^invalid cron expression$"):
        next_run(expression, "UTC", NOW)
    assert gap_s(expression, "UTC", NOW) == 0


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Olympus", "UTC+2", "../UTC", "/etc/localtime", "utc\x00", "Local", "localtime", "Factory"],
)
def test_what_is_no_time_zone(zone: str):
    with pytest.raises(BadRequest, match=r"^invalid timezone: "):
        next_run("* * * * *", zone, NOW)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Etc/GMT+5"])
def test_a_time_zone_is_that_of_its_clock(zone: str):
    assert local("30 7 * * *", zone, NOW)[0].endswith("07:30")


def test_what_the_clock_skips_does_not_come():
    before = datetime(2026, 3, 7, 12, tzinfo=UTC)  # the clock goes from 2 to 3 on the 8th
    assert local("30 2 * * *", NEW_YORK, before, 2) == ["2026-03-09 02:30", "2026-03-10 02:30"]
    night = datetime(2026, 3, 8, 6, 30, tzinfo=UTC)  # 1:30
    assert local("0 * * * *", NEW_YORK, night, 2) == ["2026-03-08 03:00", "2026-03-08 04:00"]


def test_what_the_clock_repeats_comes_once():
    before = datetime(2026, 10, 31, 12, tzinfo=UTC)  # the clock goes from 2 to 1 on 1 November
    assert local("30 1 * * *", NEW_YORK, before, 2) == ["2026-11-01 01:30", "2026-11-02 01:30"]
    first = next_run("30 1 * * *", NEW_YORK, before)
    assert first == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)  # the first pass
    second_pass = datetime(2026, 11, 1, 6, 10, tzinfo=UTC)
    assert local("30 1 * * *", NEW_YORK, second_pass) == ["2026-11-02 01:30"]
    assert local("*/20 * * * *", NEW_YORK, second_pass) == ["2026-11-01 02:00"]


def test_a_shift_of_half_an_hour_and_a_day_that_never_was():
    before = datetime(2026, 10, 3, 12, tzinfo=UTC)  # Lord Howe goes from 2:00 to 2:30 on the 4th
    assert local("15 2 * * *", "Australia/Lord_Howe", before) == ["2026-10-05 02:15"]
    samoa = datetime(2011, 12, 29, 20, tzinfo=UTC)  # Samoa had no 30 December 2011
    assert local("0 12 * * *", "Pacific/Apia", samoa, 2) == ["2011-12-29 12:00", "2011-12-31 12:00"]


def test_the_longest_wait_there_is():
    assert local("0 0 29 2 *", "UTC", datetime(2096, 3, 1, tzinfo=UTC)) == ["2104-02-29 00:00"]


def test_a_gap_is_the_time_between_the_next_two():
    assert gap_s("*/5 * * * *", "UTC", NOW) == 300
    assert gap_s("0 0 * * 1", "UTC", NOW) == 7 * 86_400


# --- A slow reading of the rules: every minute is asked


def numbers(lowest: int, highest: int) -> st.SearchStrategy[str]:
    value = st.integers(lowest, highest)
    ranges = st.tuples(value, value).map(lambda two: f"{min(two)}-{max(two)}")
    stepped = st.tuples(st.one_of(st.just("*"), ranges), st.integers(1, 40)).map(
        lambda two: f"{two[0]}/{two[1]}"
    )
    items = st.one_of(value.map(str), ranges, stepped)
    return st.one_of(st.sampled_from(["*", "?"]), st.lists(items, min_size=1, max_size=3).map(",".join))


EXPRESSIONS = st.tuples(
    numbers(0, 59), numbers(0, 23), numbers(1, 28), st.just("*"), numbers(0, 6)
).map(" ".join)  # fmt: skip


def names(field: str, value: int, lowest: int, highest: int) -> bool:
    for item in field.split(","):
        base, _, step = item.partition("/")
        start, end = (lowest, highest) if base in "*?" else map(int, (base.split("-") * 2)[:2])
        if start <= value <= end and (value - start) % int(step or 1) == 0:
            return True
    return False


def is_open(field: str) -> bool:
    return any(item in {"*", "?", "*/1"} for item in field.split(","))


def matches(expression: str, wall: datetime) -> bool:
    minute, hour, day, _, weekday = expression.split()
    if not (names(minute, wall.minute, 0, 59) and names(hour, wall.hour, 0, 23)):
        return False
    by_day, by_weekday = names(day, wall.day, 1, 31), names(weekday, (wall.weekday() + 1) % 7, 0, 6)
    if is_open(day) or is_open(weekday):
        return by_day and by_weekday
    return by_day or by_weekday


def slow_next(expression: str, zone: str, after: datetime, most: timedelta) -> datetime | None:
    moment = after.replace(second=0, microsecond=0)
    end = moment + most
    while moment < end:
        moment += timedelta(minutes=1)
        wall = moment.astimezone(ZoneInfo(zone))
        if wall.fold == 0 and matches(expression, wall.replace(tzinfo=None)):
            return moment
    return None


MOMENTS = st.one_of(
    st.datetimes(datetime(2026, 3, 7), datetime(2026, 3, 9)),
    st.datetimes(datetime(2026, 10, 24), datetime(2026, 11, 2)),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.sampled_from(["UTC", NEW_YORK, "Europe/Berlin", "Australia/Lord_Howe"]), MOMENTS)
def test_the_next_time_is_the_first_minute_that_the_rules_name(expression: str, zone: str, moment: datetime):
    after = moment.replace(tzinfo=UTC)
    found = next_run(expression, zone, after)
    assert found > after
    slow = slow_next(expression, zone, after, timedelta(days=3))
    assert slow == found if slow else found > after + timedelta(days=3) - timedelta(minutes=1)
