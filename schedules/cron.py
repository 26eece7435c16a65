"""When a schedule runs: five fields in a time zone, and the next time they name.

The libraries for this differ from the rules in what they accept (seconds, macros, `L`, `#`), in how two
restricted day fields combine, and at changes of the clock; docs/decisions/0011-cron-rules.md. Pure. Source:
docs/reference/schedules.md, Times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from config.errors import BadRequest

MAX_CHARS = 128
HORIZON_DAYS = 366 * 9  # from 29 February 2096 to that of 2104
LONGEST = dict.fromkeys(range(1, 13), 31) | dict.fromkeys((4, 6, 9, 11), 30) | {2: 29}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM = re.compile(r"(?:([*?])|([0-9]{1,3}|[a-z]{3})(?:-([0-9]{1,3}|[a-z]{3}))?)(?:/([0-9]{1,3}))?")


class InvalidCron(BadRequest):
    def __init__(self) -> None:
        super().__init__("invalid cron expression")


@dataclass(frozen=True)
class Field:
    """The values one field names. An open one restricts nothing: `*` or `?` without a step."""

    values: tuple[int, ...]
    is_open: bool


@dataclass(frozen=True)
class Cron:
    """The times of an expression, as a clock on the wall shows them."""

    minutes: Field
    hours: Field
    days: Field
    months: Field
    weekdays: Field

    def falls_on(self, day: date) -> bool:
        """Of two restricted day fields one is enough."""
        if day.month not in self.months.values:
            return False
        by_day = day.day in self.days.values
        by_weekday = day.isoweekday() % 7 in self.weekdays.values
        if self.days.is_open or self.weekdays.is_open:
            return by_day and by_weekday
        return by_day or by_weekday

    def walls(self, start: datetime) -> Iterator[datetime]:
        """The times from the minute of `start` on, in order, for as long as any may still come."""
        first = start.replace(second=0, microsecond=0)
        for offset in range(HORIZON_DAYS):
            day = first.date() + timedelta(days=offset)
            if not self.falls_on(day):
                continue
            for hour in self.hours.values:
                for minute in self.minutes.values:
                    wall = datetime(day.year, day.month, day.day, hour, minute)
                    if wall >= first:
                        yield wall

    @property
    def comes(self) -> bool:
        """Whether there is any such day: 30 February alone is none."""
        if not self.weekdays.is_open:
            return True
        return any(self.days.values[0] <= LONGEST[month] for month in self.months.values)


def next_run(expression: str, timezone: str, after: datetime) -> datetime:
    """The first time after `after`, in UTC. What the clock skips does not come; what it repeats comes once.

    Raises BadRequest: `invalid timezone: …`, `invalid cron expression`.
    """
    zone = _zone(timezone)
    for wall in _cron(expression).walls(after.astimezone(zone).replace(tzinfo=None)):
        moment = wall.replace(tzinfo=zone).astimezone(UTC)  # of a repeated hour, its first pass
        is_skipped = moment.astimezone(zone).replace(tzinfo=None) != wall
        if moment > after and not is_skipped:
            return moment
    raise InvalidCron


def gap_s(expression: str, timezone: str, after: datetime) -> int:
    """Seconds between the next two times; 0 when nobody can tell."""
    try:
        first = next_run(expression, timezone, after)
        return int((next_run(expression, timezone, first) - first).total_seconds())
    except BadRequest:
        return 0


@cache
def _zones() -> frozenset[str]:
    """Places, and UTC: `localtime` is wherever the server stands, `Factory` nowhere."""
    return frozenset(available_timezones()) - {"localtime", "Factory", "posixrules"}


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise BadRequest(f"invalid timezone: {name[:64]}")
    return ZoneInfo(name)


@lru_cache(maxsize=1024)
def _cron(expression: str) -> Cron:
    fields = expression.lower().split()
    if len(fields) != 5 or len(expression) > MAX_CHARS:
        raise InvalidCron
    minute, hour, day, month, weekday = fields
    cron = Cron(
        minutes=_field(minute, 0, 59),
        hours=_field(hour, 0, 23),
        days=_field(day, 1, 31),
        months=_field(month, 1, 12, _MONTHS),
        weekdays=_field(weekday, 0, 6, _WEEKDAYS),
    )
    if not cron.comes:
        raise InvalidCron
    return cron


def _field(text: str, lowest: int, highest: int, names: Sequence[str] = ()) -> Field:
    values: set[int] = set()
    is_open = False
    for item in text.split(","):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise InvalidCron
        star, first, last, step = found.groups()
        stride = int(step) if step else 1
        start = lowest if star else _value(first, lowest, names)
        # `5/15` goes on to the end, as `5-59/15` does.
        end = _value(last, lowest, names) if last else (highest if star or step else start)
        if not lowest <= start <= end <= highest or not stride:
            raise InvalidCron
        values.update(range(start, end + 1, stride))
        is_open = is_open or (bool(star) and stride == 1)
    return Field(tuple(sorted(values)), is_open)


def _value(text: str, lowest: int, names: Sequence[str]) -> int:
    """A number, or a name by its place."""
    if text.isdigit():
        return int(text)
    if text not in names:
        raise InvalidCron
    return names.index(text) + lowest
