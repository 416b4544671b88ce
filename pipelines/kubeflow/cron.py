"""Cron as Kubeflow Pipelines reads it: six fields, seconds first, in the server's time zone (UTC by default).

The rules are those of robfig/cron 1.2, which the server uses, and stricter. What it would take and read otherwise than
it was meant is refused here: of five fields it takes the first one for seconds, a `*` there starts a run each second,
and 31 February lets its controller look for ever.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

MACROS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEK = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of each month, in a leap year
_HORIZON_DAYS = 5 * 366  # as far as the server looks


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # from `low` on


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEK),
)
_ORDER = ", ".join(field.name for field in _FIELDS)


@dataclass(frozen=True)
class Cron:
    """When a schedule fires.

    Attributes:
        text: six fields, as they are sent: names in capitals, `*` for `?`.
        values: of each field, what it takes.
        both_days: a day must fit day of month and day of week; else one of them is enough. So it is when one has a `*`.
    """

    text: str
    values: tuple[tuple[int, ...], ...]
    both_days: bool

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times later than `moment`, in order, for five years."""
        seconds, minutes, hours, *_ = self.values
        clock = [time(h, m, s, tzinfo=UTC) for h in hours for m in minutes for s in seconds]
        first = moment.astimezone(UTC)
        for day in (first.date() + timedelta(days=n) for n in range(_HORIZON_DAYS)):
            if self._fits(day):
                yield from (one for one in (datetime.combine(day, t) for t in clock) if one > first)

    def next(self, moment: datetime, count: int = 3) -> list[datetime]:
        """The first `count` times later than `moment`."""
        return list(islice(self.after(moment), count))

    def _fits(self, day: date) -> bool:
        *_, days, months, weekdays = self.values
        if day.month not in months:
            return False
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        return of_month and of_week if self.both_days else of_month or of_week


def parse_cron(text: str) -> Cron:
    """A cron expression of five or six fields, or one of `MACROS`.

    Raises:
        ValueError: not one, or one that the server would read otherwise, with what to write.
    """
    try:
        fields = _split(text)
        values = tuple(_values(part, field) for part, field in zip(fields, _FIELDS, strict=True))
        if len(values[0]) > 1:
            raise ValueError(
                f"seconds must be one number, got {fields[0]!r}, which starts up to {len(values[0])} runs a minute; "
                "write 0 there, or leave it out (five fields)"
            )
        both = "*" in fields[3] or "*" in fields[5]
        if both and not any(day <= _LONGEST[month - 1] for day in values[3] for month in values[4]):
            raise ValueError(
                f"no month of {fields[4]!r} has a day {fields[3]!r}, so it would never fire; give another day"
            )
    except ValueError as error:
        raise ValueError(f"cron {text!r}: {error}") from None
    return Cron(" ".join(fields), values, both)


def _split(text: str) -> list[str]:
    """The six fields, in capitals."""
    if text.strip().lower().startswith("@every"):
        raise ValueError("@every counts from when the schedule was made; write the times, such as 0 */6 * * *")
    if text.strip().startswith("@"):
        if text.strip().lower() not in MACROS:
            raise ValueError(f"unknown name; write fields, or one of {', '.join(MACROS)}")
        text = MACROS[text.strip().lower()]
    fields = text.upper().replace("?", "*").split()
    if fields and "TZ=" in fields[0]:
        raise ValueError("the time zone is the server's; leave it out, and give the times in that zone (mostly UTC)")
    if len(fields) not in (5, 6):
        raise ValueError(
            f"must have six fields ({_ORDER}) or five (without the second), got {len(fields)}; "
            "for example 0 3 * * * for each night at three"
        )
    return fields if len(fields) == 6 else ["0", *fields]


def _values(text: str, field: _Field) -> tuple[int, ...]:
    taken: set[int] = set()
    for part in text.split(","):
        shape = re.fullmatch(r"(\*|[0-9A-Z]+)(?:-([0-9A-Z]+))?(?:/([0-9]+))?", part)
        if not shape or (shape[1] == "*" and shape[2]):
            kinds = "numbers and names" if field.names else "numbers"
            raise ValueError(
                f"{field.name} takes {kinds}, a-b, */n, a-b/n, commas between them; got {part!r} in {text!r}"
            )
        start, end, step = shape.groups()
        first = field.low if start == "*" else _number(start, field)
        last = _number(end, field) if end else field.high if start == "*" or step else first
        if first > last:
            wrapped = f"{start}-{field.high},{field.low}-{end}"
            raise ValueError(f"{field.name} must go upwards, got {part!r}; write both parts, as {wrapped}")
        if step and not 1 <= int(step) <= last - first:
            most = f"a step of {field.name} must be 1 to {last - first} in {part!r}"
            raise ValueError(f"{most}, as each one counts anew from {first}; list the values instead")
        taken.update(range(first, last + 1, int(step or 1)))
    return tuple(sorted(taken))


def _number(text: str, field: _Field) -> int:
    if text in field.names:
        return field.low + field.names.index(text)
    if text.isdecimal() and field.low <= int(text) <= field.high:
        return int(text)
    names = f" or {', '.join(field.names)}" if field.names else ""
    sunday = "; Sunday is 0" if text == "7" and field.names == _WEEK else ""
    wanted = f"{field.name} must be {field.low} to {field.high}{names}"
    raise ValueError(f"{wanted}, got {text!r}{sunday} (fields: {_ORDER})")
