"""One schedule per name, out of Kubeflow's recurring runs, which may share a name and have no call that changes one.

A change makes a new one and deletes the old one; no single call does both, so killed between them two would fire at the
next time, or, in the other order, none ever. Therefore the newest of a name is the schedule and is never deleted, and
the successor of one that fires is first made with a start time at that one's next firing: until the old one is deleted
it alone fires next (left so, both would the time after), and afterwards the new one alone does. Then the final one,
without a start time, takes its place so that no firing is lost; and the next apply, of this process or another, goes on
from what the server has.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.kubeflow import recurring
from pipelines.kubeflow.connection import Kubeflow
from pipelines.kubeflow.recurring import Recurring, Wanted

# A change waits while a firing is near: the server looks every 10 s, and only then starts the run.
BEFORE, AFTER = timedelta(seconds=15), timedelta(seconds=20)
_PREDECESSORS = 5  # whose runs are still shown
_LOOKS = 50


@dataclass(frozen=True)
class Create:
    """Make the next one of a name."""

    number: int
    enabled: bool = True
    start: datetime | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delete:
    """Delete one that another one has replaced."""

    id: str


def next_step(found: list[Recurring], wanted: Wanted, now: datetime, made: bool = False) -> Create | Delete | None:
    """What to do next with all recurring runs of a name; None when the one that is wanted is left.

    Args:
        found: the newest last.
        wanted: what shall be.
        now: the time.
        made: this apply has already made one.

    Raises:
        RuntimeError: made, and the newest is another one after all.
    """
    if not found:
        return Create(1)
    *older, newest = found
    if older:
        return Delete(older[0].id)
    different, fires = differences(newest, wanted), wanted.cron.next(now, 1)[0]
    if not different:
        held_back = newest.start and fires <= newest.start
        return Create(newest.number + 1, newest.enabled, None, _line(newest)) if held_back else None
    if made:
        raise RuntimeError(
            f"schedule {wanted.name} is not as it was asked for ({'; '.join(different)}): another apply changed it "
            "meanwhile; see `schedule list`, and run this one again if it is the right one"
        )
    coming = newest.firings(now) if newest.enabled else []
    start = coming[0] if coming and fires <= coming[0] else None
    return Create(newest.number + 1, newest.enabled, start, _line(newest))


def _line(newest: Recurring) -> tuple[str, ...]:
    return (newest.id, *newest.after)[:_PREDECESSORS]


def differences(found: Recurring, wanted: Wanted) -> list[str]:
    """What would change, in words."""
    pairs = [
        ("cron", found.cron, wanted.cron.text),
        ("experiment", found.experiment_id, wanted.experiment_id),
        ("service account", found.account or "default", wanted.service_account or "default"),
    ]
    words = [f"{what} {before or 'none'} → {after}" for what, before, after in pairs if before != after]
    if found.version_id != wanted.version.version_id:
        words.append(f"pipeline version → {wanted.version.name}")
    changed = [
        f"{path} {before} → {after}"
        for path, before, after in _changed("", dict(found.parameters), dict(wanted.parameters))
    ]
    more = [f"{len(changed) - 5} more parameters"] if len(changed) > 5 else []
    return [*words, *changed[:5], *more, *([] if found.alone else ["one run at a time, no catching up"])]


def _changed(path: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """Where two documents differ. The server gives numbers back as doubles, which are equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _changed(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif before != after:
        short = [text if len(text := json.dumps(value)) <= 60 else f"{text[:59]}…" for value in (before, after)]
        yield path, short[0], short[1]


def near(found: Recurring, wanted: Wanted, now: datetime) -> datetime | None:
    """Until when a change should wait, because the old or the new one fires now; None: it need not."""
    firings = [*found.firings(now - AFTER), *wanted.cron.next(now - AFTER, 1)]
    return max((one + AFTER for one in firings if one <= now + BEFORE), default=None)


def apply(
    kubeflow: Kubeflow, wanted: Wanted, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Recurring:
    """Make the schedule what is wanted; paused stays paused. Doing so again changes nothing.

    Raises:
        ValueError: there is one of this name that `apply` has not made.
        RuntimeError: another apply with another wish was faster.
    """
    mark, made, waited, done = uuid.uuid4().hex[:12], False, False, False
    for _ in range(_LOOKS):
        found, now = recurring.of_name(kubeflow, wanted.name), datetime.now(UTC)
        _refuse_foreign(found)
        step = next_step(found, wanted, now, made)
        if step is None:
            if not done:
                say("nothing to do")
            return found[-1]
        if isinstance(step, Delete):
            say(f"deleting recurring run {step.id}, which another one has replaced")
            recurring.delete(kubeflow, step.id)
            done = True
            continue
        until = near(found[-1], wanted, now) if found and found[-1].enabled and not made else None
        if until and not waited:
            say(f"waiting until {until:%H:%M:%S} UTC: a firing is near, and must be neither lost nor doubled")
            sleep((until - now).total_seconds())
            waited = True
            continue
        if found and not made:
            say(f"changing {'; '.join(differences(found[-1], wanted)) or 'nothing; finishing a change'}")
        recurring.create(kubeflow, wanted, mark, step.number, step.enabled, step.start, step.after)
        made = done = True
    raise RuntimeError(f"schedule {wanted.name} changes all the time; look who else applies it, and run this again")


def _refuse_foreign(found: list[Recurring]) -> None:
    for one in found:
        if not one.number:
            raise ValueError(
                f"there is a schedule {one.name!r} (recurring run {one.id}) that `schedule apply` has not made; "
                f"take another name, or delete it with `schedule delete {one.name}`"
            )
