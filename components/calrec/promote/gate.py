"""The gate: a pure function of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from calrec.config import GateConfig
from calrec.evaluate.results import CHAMPION


@dataclass(frozen=True)
class Decision:
    """Whether the model may be used, and why."""

    promote: bool
    reasons: tuple[str, ...]


def decide(results: Mapping[str, Mapping[str, float]], rule: GateConfig, method: str = "calrec") -> Decision:
    """Compare the model's metric with that of each baseline that it must beat, and with the champion's.

    Args:
        results: method → metric → mean, over the same users; the champion is among them when there is one.
        rule: metric, baselines, minimal gain, and whether the champion counts.
        method: the model's name in `results`.

    Returns:
        promote only if every one of them is beaten by more than `rule.min_gain`; a missing figure is a reason not to.
    """
    ours = results.get(method, {}).get(rule.metric)
    if ours is None:
        return Decision(False, (f"no {rule.metric} of {method}",))
    reasons, passed = [], True
    rivals = [*rule.beat, *([CHAMPION] if rule.champion and CHAMPION in results else [])]
    for name in rivals:
        theirs = results.get(name, {}).get(rule.metric)
        beaten = theirs is not None and ours - theirs > rule.min_gain
        passed &= beaten
        shown = "missing" if theirs is None else f"{theirs:.4f}"
        reasons.append(f"{rule.metric} {ours:.4f} against {name} {shown}: {'passed' if beaten else 'failed'}")
    return Decision(passed, tuple(reasons))
