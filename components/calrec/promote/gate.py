"""The gate: a pure function of what two models are worth to the same users."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.config import GateConfig
from calrec.evaluate import statistics
from calrec.evaluate.report.words import format_signed, many, metric_title, name
from calrec.evaluate.results import Figure

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Costs = Mapping[str, Mapping[str, float]]

_SEED = 0  # of the resamples: the same results are always decided alike
_ALIKE = 1e-12  # sums of the same gains in another order differ by less
_NAMED = 3  # kinds of users that are worse


@dataclass(frozen=True, eq=False)
class Results:
    """What a model is worth, user by user: every array is in the order of `users`."""

    users: pa.Array
    """Their ids, each once."""
    gains: Mapping[str, Floats]
    """By metric."""
    data: str
    """Hash of what was asked: held-out items, catalogue, length of the lists, whether the history may come again."""
    slices: Mapping[str, Flags] = field(default_factory=dict)
    """Kind of users, such as "target new" → who is of it."""
    floors: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """Baseline → the same as `gains`."""
    cost: Costs = field(default_factory=dict)
    """Stage, or generate → seconds, peak_memory_bytes, users_per_second, as far as known."""


@dataclass(frozen=True)
class Decision:
    """Whether the model may be used, and why."""

    promote: bool
    reasons: tuple[str, ...]
    """Each begins with "passed: " or "failed: "."""
    gain: Figure | None = None
    """The metric less the champion's, with its paired interval; None when the two were not compared."""


@dataclass(frozen=True)
class _Reason:
    passed: bool
    text: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'failed'}: {self.text}"


def decide(champion: Results | None, challenger: Results, rule: GateConfig) -> Decision:
    """Hold a model against its floors, the champion and the budget; all must pass.

    Args:
        champion: the model in use; None when there is none.
        challenger: the model that may take its place.
        rule: what is asked for.

    Returns:
        the same decision for the same results; whatever is missing, not a number or of other data is a reason not to
        promote.
    """
    if fault := _fault("the model", challenger.gains, rule.metric):
        return Decision(False, (str(_Reason(False, fault)),))
    reasons, gain = [_floor(challenger, one, rule) for one in rule.beat], None
    if champion is None:
        reasons.append(_Reason(True, "no champion is in use, so the floors and the budget alone decide"))
    elif not rule.champion:
        reasons.append(_Reason(True, "the champion is not looked at, as gate.champion is false"))
    elif fault := _incomparable(champion, challenger, rule.metric):
        reasons.append(_Reason(False, fault))
    else:
        differences = _differences(champion, challenger, rule.metric)
        gain = _figure(differences)
        reasons += _against_champion(champion, challenger, gain, rule)
        reasons.append(_slices(differences, challenger.slices, rule))
    reasons += _budget(challenger.cost, rule)
    return Decision(all(one.passed for one in reasons), tuple(map(str, reasons)), gain)


def _fault(whose: str, gains: Mapping[str, Floats], metric: str) -> str:
    """Why there is no mean; empty when there is one."""
    found = gains.get(metric, np.empty(0))
    if not len(found):
        return f"{metric_title(metric)} of {whose} is missing"
    unknown = int((~np.isfinite(found)).sum())
    return f"{metric_title(metric)} of {whose} is not a number for {many(unknown, 'user')}" if unknown else ""


def _floor(challenger: Results, baseline: str, rule: GateConfig) -> _Reason:
    gains = challenger.floors.get(baseline, {})
    if fault := _fault(f"the baseline {name(baseline)}", gains, rule.metric):
        return _Reason(False, fault)
    return _gain(f"the baseline {name(baseline)}", challenger.gains[rule.metric], gains[rule.metric], rule)


def _gain(whose: str, ours: Floats, theirs: Floats, rule: GateConfig) -> _Reason:
    gain = float(ours.mean() - theirs.mean())
    return _Reason(
        gain > rule.min_gain + _ALIKE,
        f"{metric_title(rule.metric)} {ours.mean():.4f} against {theirs.mean():.4f} of {whose}, "
        f"{format_signed(gain)} over {many(len(ours), 'user')}; more than {rule.min_gain:g} is asked for",
    )


def _incomparable(champion: Results, challenger: Results, metric: str) -> str:
    """Why the two cannot be compared; empty when they can."""
    ours, theirs = (
        pc.index_in(a.users, value_set=b.users).null_count for a, b in ((challenger, champion), (champion, challenger))
    )
    if ours or theirs:
        return (
            f"the champion was judged by other users: {ours:,} are the model's alone and {theirs:,} the champion's; "
            "evaluate both with the same sample"
        )
    if champion.data != challenger.data:
        return (
            f"the champion was judged on other data ({champion.data}, the model on {challenger.data}); evaluate both "
            "with the same texts and the same settings of retrieve.k and retrieve.exclude_seen"
        )
    return _fault("the champion", champion.gains, metric)


def _differences(champion: Results, challenger: Results, metric: str) -> Floats:
    """The model's gain less the champion's, each user with himself, in the order of the model's users."""
    at = pc.index_in(challenger.users, value_set=champion.users).to_numpy()
    differences: Floats = challenger.gains[metric] - champion.gains[metric][at]
    return differences


def _figure(differences: Floats) -> Figure:
    values, users = np.unique(differences, return_counts=True)
    resampled = statistics.bootstrap(values[:, None], users, statistics.TEST_RESAMPLES, _SEED)
    low, high = statistics.interval(resampled)
    return Figure(float(differences.mean()), float(low[0]), float(high[0]))


def _against_champion(champion: Results, challenger: Results, gain: Figure, rule: GateConfig) -> list[_Reason]:
    reasons = [_gain("the champion", challenger.gains[rule.metric], champion.gains[rule.metric], rule)]
    if rule.significant:
        above = gain.low > _ALIKE
        reasons.append(
            _Reason(
                above,
                f"the 95 % interval of this gain, {format_signed(gain.low)} to {format_signed(gain.high)} "
                f"(paired bootstrap over {many(len(challenger.users), 'user')}), "
                f"{'lies' if above else 'does not lie'} above zero",
            )
        )
    return reasons


def _slices(differences: Floats, slices: Mapping[str, Flags], rule: GateConfig) -> _Reason:
    """Whether the model keeps up with the champion among the users of every kind."""
    means = {kind: float(differences[of].mean()) for kind, of in slices.items() if of.sum() >= rule.slice_users}
    if not means:
        return _Reason(True, f"no kind of users has as many as {rule.slice_users:,}, so none is looked at by itself")
    order = sorted(means, key=lambda kind: (means[kind], kind))
    lower = [kind for kind in order if means[kind] < -rule.max_slice_loss - _ALIKE]
    worse = [kind for kind in lower if _figure(differences[slices[kind]]).high < 0]  # and not by chance
    shown = [
        f"{kind} {format_signed(means[kind])} over {many(int(slices[kind].sum()), 'user')}"
        for kind in (worse[:_NAMED] or order[:1])
    ]
    return _Reason(
        not worse,
        f"kinds of users (of {rule.slice_users:,} or more) that lose more than {rule.max_slice_loss:g} of "
        f"{metric_title(rule.metric)} to the champion: {len(worse) or 'none'} of {len(means)}; "
        f"the worst: {'; '.join(shown)}",
    )


def _budget(cost: Costs, rule: GateConfig) -> list[_Reason]:
    """Whether each limit is kept, of those that are set."""
    stages = {stage: of for stage, of in cost.items() if stage != "generate"}
    rate = cost.get("generate", {}).get("users_per_second")
    limits: list[tuple[str, float, float | None, str]] = [
        ("training took", rule.max_seconds, _all(stages, "seconds", sum), "s"),
        ("generating took", rule.max_seconds_per_user, 1 / rate if rate else None, "s per user"),
        ("the peak of memory was", rule.max_memory_gb, _all(cost, "peak_memory_bytes", max, 2**30), "GiB"),
    ]
    return [_limit(*one) for one in limits if one[1]]


def _all(cost: Costs, what: str, of: Callable[[list[float]], float], unit: float = 1) -> float | None:
    """A figure of all steps together; None when one of them, or every one, lacks it."""
    found = [step.get(what) for step in cost.values()]
    known = [value for value in found if value is not None and np.isfinite(value)]
    return of(known) / unit if known and len(known) == len(found) else None


def _limit(what: str, most: float, value: float | None, unit: str) -> _Reason:
    if value is None:
        return _Reason(False, f"what {what} is not known; {most:g} {unit} is the limit")
    return _Reason(value <= most, f"{what} {value:,.4g} {unit}; {most:g} {unit} is the limit")
