"""What there is now: the version of each source's data, and the model in use of each category.

A registry that does not answer is asked again, target by target; what it still does not say is not known, which is
another thing than none. Tracking can be required (calrec.tracking.runs): then it is an error.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calrec.artifacts import NOT_KNOWN
from calrec.config import Source
from calrec.config.overrides import from_dict
from calrec.storage import uris
from calrec.system import code_version
from calrec.system.printing import safe
from calrec.tracking import mlflow_client, registry, runs
from calrec.tracking.registry import Version
from calrec.watch.step import Decision, decide, fill_snapshots

_ENOUGH = 3  # targets without an answer, after which the others are not asked at that time


@dataclass(frozen=True)
class Seen:
    """What the watch step tells a training: train or skip, sources with their snapshots, today's champions."""

    decision: Decision
    sources: list[dict[str, str]]
    champions: dict[str, str]
    """Target → the URI of its champion, or NOT_KNOWN; a target without one is left out."""


@dataclass(frozen=True)
class Found:
    """What the watch step tells a batch: sources with their snapshots, and the champions to recommend with."""

    sources: list[dict[str, str]]
    champions: dict[str, str]


def look_up(
    sources: Sequence[Mapping[str, Any]], targets: Sequence[str], sections: Mapping[str, Any], only_new: bool
) -> Seen:
    """Look before a training; see :func:`calrec.watch.step.decide`.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: see
            :func:`calrec.storage.uris.files`.
    """
    found = snapshots(sources)
    registered, failure = _registered(targets)
    if failure:
        runs.warn(failure)
    entered = {target: _state(registered[target]) if target in registered else NOT_KNOWN for target in targets}
    decision = decide(found, sections, code_version.identity(), entered, only_new)
    print(f"watch: {decision.decision}; {safe('; '.join(decision.reasons))}", flush=True)
    champions = {target: _uri(registered[target]) if target in registered else NOT_KNOWN for target in targets}
    return Seen(decision, [asdict(one) for one in found], {target: uri for target, uri in champions.items() if uri})


def find_champions(sources: Sequence[Mapping[str, Any]]) -> Found:
    """Look before a batch.

    Raises:
        ValueError: a category has no champion; and as :func:`look`.
        ConnectionError: the registry did not answer.
    """
    found = snapshots(sources)
    registered, failure = _registered([one.domain for one in found])
    if failure:
        unknown = ", ".join(one.domain for one in found if one.domain not in registered)
        raise ConnectionError(
            f"which model of {unknown} is in use is not known: {mlflow_client.words(failure)}"
        ) from None
    champions = {target: uri for target, of in registered.items() if (uri := _uri(of))}
    missing = [one.domain for one in found if one.domain not in champions]
    if missing:
        raise ValueError(
            f"no champion of {', '.join(missing)}: train them first, or leave their sources out (--source); a model "
            "that failed the gate becomes the champion by hand: calrec promote --target NAME --version N"
        )
    return Found([asdict(one) for one in found], champions)


def snapshots(sources: Sequence[Mapping[str, Any]]) -> list[Source]:
    """The sources with the version of their data at this moment, where none is given."""
    named = [from_dict(Source, one) for one in sources]
    return fill_snapshots(named, ["" if one.snapshot else uris.snapshot(one.uri) for one in named])


def champion_of(target: str, champions: Mapping[str, str]) -> str:
    """URI of the champion that a model is to be compared with; empty when there is none.

    What was not known when the run began is asked for again, and is NOT_KNOWN when no answer comes.

    Args:
        target: the category.
        champions: see :class:`Seen`.
    """
    if champions.get(target) != NOT_KNOWN:
        return champions.get(target, "")
    registered, failure = _registered([target])
    if failure:
        runs.warn(failure)
        return NOT_KNOWN
    return _uri(registered[target])


_Registered = tuple[Version | None, Version | None]
"""The newest version of a target, and the one in use."""


def _state(of: _Registered) -> str | None:
    return of[0].tags.get(registry.STATE, "") if of[0] else None


def _uri(of: _Registered) -> str:
    return of[1].uri if of[1] else ""


def _registered(targets: Sequence[str]) -> tuple[dict[str, _Registered], Exception | None]:
    """What the registry has of the targets that it answered for, and why it did not answer for all of them."""
    found: dict[str, _Registered] = {}
    if not registry.available():
        return dict.fromkeys(targets, (None, None)), None
    for pause in (0.0, *mlflow_client.PAUSES):
        time.sleep(pause)
        failures: list[Exception] = []
        for target in (one for one in targets if one not in found):
            if len(failures) == _ENOUGH:
                break
            try:
                found[target] = registry.newest(target), registry.champion(target)
            except ValueError:
                raise
            except Exception as error:
                failures.append(error)
        if not any(map(mlflow_client.may_pass, failures)):
            break
    return found, failures[-1] if failures else None
