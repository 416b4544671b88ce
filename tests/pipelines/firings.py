"""Times of schedules, and which of them fires next."""

from datetime import UTC, datetime, timedelta

from pipelines.kubeflow.recurring import Recurring

NOW = datetime.now(UTC)
# Far from any firing, whenever the tests run: a change waits while one is near.
DAILY, LATER = (f"0 {(NOW + timedelta(hours=hours)):%H} * * *" for hours in (6, 9))
MONTHLY = f"0 0 {(NOW + timedelta(days=15)):%d} * *"


def fire_next(found: list[Recurring], now: datetime = NOW) -> list[Recurring]:
    """Those that fire at the next time that any of them fires."""
    coming = [(one.firings(now)[0], one) for one in found if one.enabled]
    return [one for when, one in coming if when == min(first for first, _ in coming)]
