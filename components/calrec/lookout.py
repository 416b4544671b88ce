"""What there is now: the version of each source's data, and the model in use of each category.

A registry that does not answer has no models, which is said; tracking can be required (calrec.tracking).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calrec import code, registry, storage, tracking
from calrec.config import Source
from calrec.registry import Version
from calrec.settings import from_dict
from calrec.watch.step import Decision, decide, resolved


@dataclass(frozen=True)
class Seen:
    """Plain values, as they pass between the steps of a pipeline."""

    decision: Decision
    sources: list[dict[str, str]]
    champions: dict[str, str]


@dataclass(frozen=True)
class Found:
    """Plain values, as they pass between the steps of a pipeline."""

    sources: list[dict[str, str]]
    champions: dict[str, str]


def look(
    sources: Sequence[Mapping[str, Any]], targets: Sequence[str], sections: Mapping[str, Any], only_new: bool
) -> Seen:
    """Look before a training; see :func:`calrec.watch.step.decide`.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: of a source, see :func:`calrec.storage.files`.
    """
    found = now(sources)
    newest = _registered(registry.newest, targets)
    entered = {target: newest[target].tags.get(registry.STATE) if target in newest else None for target in targets}
    decision = decide(found, sections, code.identity(), entered, only_new)
    print(f"watch: {decision.decision}; {'; '.join(decision.reasons)}", flush=True)
    return Seen(decision, [asdict(one) for one in found], _champions(targets))


def find(sources: Sequence[Mapping[str, Any]]) -> Found:
    """Look before a batch.

    Raises:
        ValueError: a category has no champion; and as :func:`look`.
    """
    found = now(sources)
    champions = _champions([one.domain for one in found])
    missing = [one.domain for one in found if one.domain not in champions]
    if missing:
        raise ValueError(
            f"no champion of {', '.join(missing)}: train them first, or leave their sources out (--source); a model "
            "that failed the gate becomes the champion by hand: calrec promote --target NAME --version N"
        )
    return Found([asdict(one) for one in found], champions)


def now(sources: Sequence[Mapping[str, Any]]) -> list[Source]:
    """The sources with the version of their data at this moment, where none is given."""
    named = [from_dict(Source, one) for one in sources]
    return resolved(named, ["" if one.snapshot else storage.snapshot(one.uri) for one in named])


def _champions(targets: Sequence[str]) -> dict[str, str]:
    return {target: version.uri for target, version in _registered(registry.champion, targets).items()}


def _registered(which: Callable[[str], Version | None], targets: Sequence[str]) -> dict[str, Version]:
    if not registry.available():
        return {}
    try:
        found = {target: which(target) for target in targets}
    except ValueError:
        raise
    except Exception as error:
        tracking.warn(error)
        return {}
    return {target: version for target, version in found.items() if version}
