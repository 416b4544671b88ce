"""The watch step: sources and what was trained on in; whether to train out. A pure function of plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calrec import artifacts
from calrec.artifacts import NOT_KNOWN
from calrec.config import Source
from calrec.config.overrides import to_dict
from calrec.system.printing import markdown, redact

TRAIN, NOTHING_NEW = "train", "no new data"
SHAPING = ("data", "split", "text", "model", "stage1", "stage2", "refit", "generate", "retrieve")
"""Sections of the configuration that shape a model."""


@dataclass(frozen=True)
class Decision:
    """What a run of the training pipeline will do."""

    decision: str
    """TRAIN or NOTHING_NEW; the pipeline compares with it."""
    state: str
    """Which data, settings and code the models are made from."""
    reasons: tuple[str, ...]


def decide(
    sources: Sequence[Source],
    sections: Mapping[str, Any],
    code: str,
    entered: Mapping[str, str | None],
    only_new: bool,
) -> Decision:
    """Train, unless only new data are wanted and every target's newest model was made from all this.

    Args:
        sources: with the snapshot of each.
        sections: those of SHAPING, by name.
        code: which code this is, see :func:`calrec.system.code_version.identity`.
        entered: target → state of its newest registered model; empty: it was not judged; None: there is none;
            NOT_KNOWN.
        only_new: whether the same data are a reason to stop.
    """
    data = [f"{one.domain} {redact(one.uri)} at {one.snapshot}" for one in sources]  # another password is nothing new
    seen = (*data, f"code: {code}")
    state = artifacts.short_hash([data, {name: to_dict(one) for name, one in sections.items()}, code])
    stale = [target for target, of in entered.items() if of != state]
    if not only_new:
        return Decision(TRAIN, state, ("this run trains whether the data are new or not", *seen))
    if not stale:
        models = ", ".join(entered)
        return Decision(
            NOTHING_NEW, state, (f"the newest models of {models} were made from these data by this code", *seen)
        )
    why = {
        None: "no model yet",
        "": "its newest model was never held against the champion",
        NOT_KNOWN: "the registry did not say which data its newest model is of",
    }
    changed = "data, settings or code have changed"
    return Decision(TRAIN, state, (*(f"{target}: {why.get(entered[target], changed)}" for target in stale), *seen))


def fill_snapshots(sources: Sequence[Source], snapshots: Sequence[str]) -> list[Source]:
    """The sources with the version of what lies behind them now, where the configuration does not say which."""
    return [replace(one, snapshot=one.snapshot or now) for one, now in zip(sources, snapshots, strict=True)]


def report(decision: Decision) -> str:
    """The decision for a person to read."""
    return "\n".join([f"**{decision.decision}**", "", *(f"- {markdown(reason)}" for reason in decision.reasons), ""])
