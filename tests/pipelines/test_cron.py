from datetime import UTC, datetime, timedelta

import pytest
from huey import crontab
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kubeflow.cron import parse_cron

NOW = datetime(2026, 11, 28, 13, 18, 27, tzinfo=UTC)  # a Saturday


def times(text: str, count: int = 3) -> list[str]:
    return [one.strftime("%Y-%m-%d %H:%M:%S") for one in parse_cron(text).next(NOW, count)]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("0 3 * * *", "0 0 3 * * *"),
        ("30 0 3 ? * mon-Fri", "30 0 3 * * MON-FRI"),
        ("  0   3 * jan,JUL  1 ", "0 0 3 * JAN,JUL 1"),
        ("@daily", "0 0 0 * * *"),
        ("@Weekly", "0 0 0 * * 0"),
        ("*/15 8-18/2 * * *", "0 */15 8-18/2 * * *"),
    ],
)
def test_what_is_sent(text: str, sent: str) -> None:
    assert parse_cron(text).text == sent
    assert parse_cron(sent) == parse_cron(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * *", ["2026-11-29 03:00:00", "2026-11-30 03:00:00", "2026-12-01 03:00:00"]),
        ("15 30 2 * * SUN", ["2026-11-29 02:30:15", "2026-12-06 02:30:15", "2026-12-13 02:30:15"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00"]),
        ("0 0 31 * *", ["2026-12-31 00:00:00", "2027-01-31 00:00:00", "2027-03-31 00:00:00"]),
        ("18 13 * * *", ["2026-11-29 13:18:00", "2026-11-30 13:18:00", "2026-12-01 13:18:00"]),
        ("27 18 13 * * *", ["2026-11-29 13:18:27", "2026-11-30 13:18:27", "2026-12-01 13:18:27"]),
        ("28 18 13 28 11 *", ["2026-11-28 13:18:28", "2027-11-28 13:18:28", "2028-11-28 13:18:28"]),
        ("50/5 23 31 12 *", ["2026-12-31 23:50:00", "2026-12-31 23:55:00", "2027-12-31 23:50:00"]),
    ],
)
def test_next_times(text: str, expected: list[str]) -> None:
    assert times(text, len(expected)) == expected


# The examples that robfig/cron 1.2 documents for its two day fields: one is enough, unless one of them has a star.
@pytest.mark.parametrize(
    ("day", "text", "fires"),
    [
        ((2012, 7, 15), "0 * * 1,15 * SUN", True),
        ((2012, 6, 15), "0 * * 1,15 * SUN", True),
        ((2012, 8, 1), "0 * * 1,15 * SUN", True),
        ((2012, 7, 15), "0 * * */10 * SUN", False),
        ((2012, 7, 15), "0 * * * * MON", False),
        ((2012, 7, 9), "0 * * 1,15 * *", False),
        ((2012, 7, 15), "0 * * 1,15 * *", True),
        ((2012, 7, 15), "0 * * */2 * SUN", True),
    ],
)
def test_days_of_month_and_week(day: tuple[int, int, int], text: str, fires: bool) -> None:
    midnight = datetime(*day, tzinfo=UTC)
    assert (parse_cron(text).next(midnight - timedelta(seconds=1), 1) == [midnight]) is fires


def _numbers(low: int, high: int, steps: bool = True) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(lambda two: f"{min(two)}-{max(two)}")
    one = st.one_of(number.map(str), pair)
    parts = st.lists(one, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), parts, *[st.integers(1, high - low).map(lambda n: f"*/{n}")] * steps)


@given(
    minute=_numbers(0, 59), hour=_numbers(0, 23), day=_numbers(1, 28), month=_numbers(1, 12),
    week=_numbers(0, 6, False), which=st.booleans(), start=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),
)  # fmt: skip
def test_agrees_with_another_reader(
    minute: str, hour: str, day: str, month: str, week: str, which: bool, start: datetime
) -> None:
    """huey, which wants both day fields to fit: as here when one of them is a star."""
    day, week = ("*", week) if which else (day, "*")
    found = parse_cron(f"{minute} {hour} {day} {month} {week}").next(start.replace(tzinfo=UTC), 3)
    fits = crontab(minute, hour, day, month, week, strict=True)
    assert found and all(fits(one) for one in found)
    assert found == sorted(set(found))
    moment = start.replace(second=0, microsecond=0, tzinfo=UTC) + timedelta(minutes=1)
    for _ in range(2000):  # none is left out
        if moment > found[0]:
            break
        assert fits(moment) is (moment == found[0])
        moment += timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "six fields"),
        ("0 3 * *", "got 4"),
        ("0 0 3 * * * 2027", "got 7"),
        ("60 3 * * *", "minute must be 0 to 59, got '60'"),
        ("0 24 * * *", "hour must be 0 to 23, got '24'"),
        ("0 3 0 * *", "day of month must be 1 to 31, got '0'"),
        ("0 3 * 13 *", "month must be 1 to 12 or JAN"),
        ("0 3 * * 7", "Sunday is 0"),
        ("0 3 * * MONDAY", "day of week must be 0 to 6 or SUN"),
        ("0 3 * * * 2027", "day of week must be 0 to 6"),
        ("0 -3 * * *", "got '-3'"),
        ("0 3,,4 * * *", "got '' in '3,,4'"),
        ("0 3, * * *", "got '' in '3,'"),
        ("0 *-5 * * *", "got '*-5'"),
        ("0 3 L * *", "got 'L'"),
        ("0 3 * * 5#2", "got '5#2'"),
        ("0 22-3 * * *", "write both parts, as 22-23,0-3"),
        ("*/90 * * * *", "step of minute must be 1 to 59"),
        ("*/0 * * * *", "step of minute must be 1 to 59"),
        ("0 3 * * MON/9", "step of day of week must be 1 to 5"),
        ("0 ٣ * * *", "got '٣'"),
        ("* 0 3 * * *", "seconds must be one number, got '*'"),
        ("*/30 0 3 * * *", "up to 2 runs a minute"),
        ("0 3 31 2 *", "would never fire"),
        ("0 3 31 4,6,9,NOV *", "would never fire"),
        ("0 3 30-31 2 ?", "would never fire"),
        ("@every 6h", "write the times, such as 0 */6 * * *"),
        ("@reboot", "one of @yearly"),
        ("TZ=Europe/Berlin 0 3 * * *", "the time zone is the server's"),
    ],
)
def test_refuses_with_the_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_cron(text)
    assert said in str(error.value)
    assert repr(text) in str(error.value)


def test_an_impossible_day_of_month_is_fine_where_a_day_of_week_is_enough() -> None:
    assert times("0 3 31 2 MON", 1) == ["2027-02-01 03:00:00"]
