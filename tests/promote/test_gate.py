"""The gate with numbers: who is promoted, and what a person reads."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from calrec.config import GateConfig
from calrec.evaluate.results import Figure
from calrec.promote.gate import Results, decide

USERS = 400
COST = {
    "stage1": {"seconds": 100.0, "peak_memory_bytes": 2 * 2**30},
    "stage2": {"seconds": 50.0, "peak_memory_bytes": 3 * 2**30},
    "generate": {"seconds": 20.0, "users_per_second": 20.0, "peak_memory_bytes": 2**30},
}


def hits(share: float, first: int = 0) -> np.ndarray:
    """Recall of users of whom this share finds the target, from the user `first` on."""
    gains = np.zeros(USERS)
    gains[first : first + round(share * USERS)] = 1
    return gains


def results(share: float, first: int = 0, **change: Any) -> Results:
    """A model, and floors far below it."""
    whole = Results(
        users=pa.array([f"u{number}" for number in range(USERS)]),
        gains={"recall_at_10": hits(share, first)},
        data="d",
        slices={"target new": np.arange(USERS) >= 200, "target repeat": np.arange(USERS) < 200},
        floors={"popularity": {"recall_at_10": hits(0.05)}, "markov": {"recall_at_10": hits(0.10)}},
        cost=COST,
    )
    return replace(whole, **change)


def unknown() -> dict[str, np.ndarray]:
    return {"recall_at_10": np.where(np.arange(USERS) < 3, np.nan, hits(0.5))}


def champion_of(repeat: int) -> Results:
    """A model that finds the target of so many repeating users, and of half of the new ones."""
    at = np.arange(USERS)
    return results(0, gains={"recall_at_10": ((at < repeat) | (at >= 300)).astype(float)})


def changed(lost: int, won: int) -> Results:
    """Every repeating user is won, and of the new ones some are lost and some won."""
    at = np.arange(USERS)
    found = (at < 200) | ((at >= 200) & (at < 200 + won)) | (at >= 300 + lost)
    return results(0, gains={"recall_at_10": found.astype(float)})


NEW = np.arange(USERS) >= 200
CHAMPION = results(0.30)
RULE = GateConfig()


@pytest.mark.parametrize(
    ("champion", "challenger", "rule", "promote", "said"),
    [
        # floors
        (None, results(0.30), RULE, True, "passed: no champion is in use"),
        (
            None,
            results(0.04),
            RULE,
            False,
            "failed: Recall@10 0.0400 against 0.0500 of the baseline Popularity, −0.0100",
        ),
        (
            None,
            results(0.05),
            RULE,
            False,
            "failed: Recall@10 0.0500 against 0.0500 of the baseline Popularity, 0.0000",
        ),
        (None, results(0.08), GateConfig(beat=("popularity", "markov")), False, "failed: .* baseline Markov"),
        (None, results(0.08), GateConfig(min_gain=0.03), False, "failed: .* more than 0.03 is asked for"),
        (
            None,
            results(0.0825),
            GateConfig(min_gain=0.03),
            True,
            "passed: .*, .0.0325 over 400 users; more than 0.03 is",
        ),
        (None, results(0.30, floors={}), RULE, False, "failed: Recall@10 of the baseline Popularity is missing"),
        (
            None,
            results(0.30, floors={"popularity": unknown()}),
            RULE,
            False,
            "failed: .*Popularity is not a number for 3",
        ),
        (None, results(0.30, floors={}), GateConfig(beat=()), True, "passed: no champion is in use"),
        # the model's own figures
        (None, results(0.30), GateConfig(metric="mrr"), False, "failed: MRR of the model is missing"),
        (
            None,
            results(0.30, gains=unknown()),
            RULE,
            False,
            "failed: Recall@10 of the model is not a number for 3 users",
        ),
        (CHAMPION, results(0.30, gains={}), GateConfig(beat=(), champion=False), False, "of the model is missing"),
        # the champion
        (
            CHAMPION,
            results(0.40),
            RULE,
            True,
            "passed: Recall@10 0.4000 against 0.3000 of the champion, .0.1000 over 400",
        ),
        (CHAMPION, results(0.40), RULE, True, "passed: the 95 % interval of this gain, .* lies above zero"),
        (CHAMPION, results(0.3025), RULE, False, "passed: Recall@10 0.3025 against 0.3000 of the champion"),
        (CHAMPION, results(0.3025), RULE, False, "failed: the 95 % interval of this gain, .* does not lie above zero"),
        (CHAMPION, results(0.3025), GateConfig(significant=False), True, "passed: Recall@10 0.3025 against 0.3000"),
        (CHAMPION, results(0.40), GateConfig(min_gain=0.1), False, "failed: .* of the champion, .0.1000 over"),
        (CHAMPION, CHAMPION, RULE, False, "failed: Recall@10 0.3000 against 0.3000 of the champion, 0.0000"),
        (CHAMPION, CHAMPION, GateConfig(significant=False), False, "failed: Recall@10 0.3000 against 0.3000"),
        (CHAMPION, results(0.20), RULE, False, "failed: Recall@10 0.2000 against 0.3000 of the champion, −0.1000"),
        (CHAMPION, results(0.20), GateConfig(champion=False), True, "passed: the champion is not looked at"),
        (replace(CHAMPION, gains={}), results(0.40), RULE, False, "failed: Recall@10 of the champion is missing"),
        (
            replace(CHAMPION, gains=unknown()),
            results(0.40),
            RULE,
            False,
            "failed: .* of the champion is not a number for 3",
        ),
        # what it was judged by
        (replace(CHAMPION, data="e"), results(0.40), RULE, False, r"failed: .* on other data \(e, the model on d\)"),
        (
            replace(CHAMPION, users=pa.array([f"x{number}" for number in range(USERS)])),
            results(0.40),
            RULE,
            False,
            "failed: .* by other users: 400 are",
        ),
        (
            Results(CHAMPION.users[:-1], {"recall_at_10": hits(0.30)[:-1]}, "d"),
            results(0.40),
            RULE,
            False,
            "failed: .* by other users: 1 are the model's alone and 0 the champion's",
        ),
        (
            CHAMPION,
            Results(CHAMPION.users[:-2], {"recall_at_10": hits(0.40)[:-2]}, "d"),
            GateConfig(beat=()),
            False,
            "failed: .* by other users: 0 are the model's alone and 2 the champion's",
        ),
        # kinds of users: the model finds the targets of the first 160, the champion those of the last 80
        (
            results(0.20, 320),
            results(0.40),
            RULE,
            False,
            r"failed: kinds of users .*: 1 of 2; the worst: target new −0.40",
        ),
        (results(0.20, 320), results(0.40), GateConfig(max_slice_loss=1), True, "passed: kinds of users .*: none of 2"),
        (
            results(0.20, 320),
            results(0.40),
            GateConfig(slice_users=201),
            True,
            "passed: no kind of users has as many as 201",
        ),
        (results(0.20, 320), results(0.40), GateConfig(slice_users=200), False, "failed: kinds of users .*: 1 of 2"),
        (
            results(0.20, 320),
            results(0.40),
            GateConfig(max_slice_loss=0.4),
            True,
            "passed: kinds of users .*: none of 2; the worst: target new −0.4000 over 200 users",
        ),
        (
            results(0.20, 320),
            results(0.40, slices={"target new": NEW & (np.arange(USERS) >= 301), "everybody": np.full(USERS, True)}),
            RULE,
            True,
            "passed: kinds of users .*: none of 1; the worst: everybody .0.2000 over 400 users",
        ),
        # of 200 new users 32 are lost and 20 won, which chance does too; with 40 lost and 20 won it is no chance
        (champion_of(20), changed(32, 20), RULE, True, "none of 2; the worst: target new −0.0600 over 200 users"),
        (champion_of(20), changed(40, 20), RULE, False, "1 of 2; the worst: target new −0.1000 over 200 users"),
        # the budget
        (None, results(0.30), GateConfig(max_seconds=150), True, "passed: training took 150 s; 150 s is the limit"),
        (None, results(0.30), GateConfig(max_seconds=149), False, "failed: training took 150 s; 149 s is the limit"),
        (None, results(0.30), GateConfig(max_seconds_per_user=0.05), True, "passed: generating took 0.05 s per user"),
        (None, results(0.30), GateConfig(max_seconds_per_user=0.04), False, "failed: generating took 0.05 s per user"),
        (None, results(0.30), GateConfig(max_memory_gb=3), True, "passed: the peak of memory was 3 GiB; 3 GiB is"),
        (None, results(0.30), GateConfig(max_memory_gb=2.5), False, "failed: the peak of memory was 3 GiB; 2.5 GiB is"),
        (None, results(0.30, cost={}), RULE, True, "no champion"),
        (
            None,
            results(0.30, cost={}),
            GateConfig(max_seconds=1),
            False,
            "failed: what training took is not known; 1 s",
        ),
        (
            None,
            results(0.30, cost={}),
            GateConfig(max_seconds_per_user=1),
            False,
            "failed: what generating took is not",
        ),
        (
            None,
            results(0.30, cost={}),
            GateConfig(max_memory_gb=1),
            False,
            "failed: what the peak of memory was is not",
        ),
        (
            None,
            results(0.30, cost={**COST, "refit": {"tokens": 5.0}}),
            GateConfig(max_seconds=999),
            False,
            "failed: what training took is not known",
        ),
    ],
)
def test_who_is_promoted_and_why(
    champion: Results | None, challenger: Results, rule: GateConfig, promote: bool, said: str
):
    decision = decide(champion, challenger, rule)
    assert decision.promote is promote
    assert [reason for reason in decision.reasons if re.search(said, reason)], decision.reasons
    assert all(reason.startswith(("passed: ", "failed: ")) for reason in decision.reasons)
    assert promote is not any(reason.startswith("failed: ") for reason in decision.reasons)


def test_every_rule_is_named_with_its_numbers():
    rule = GateConfig(beat=("popularity", "markov"), max_seconds=200, max_seconds_per_user=1, max_memory_gb=4)
    decision = decide(CHAMPION, results(0.40), rule)
    assert len(decision.reasons) == 8
    assert decision.gain is not None
    low, high = decision.gain.low, decision.gain.high
    assert decision.reasons[3] == (
        f"passed: the 95 % interval of this gain, +{low:.4f} to +{high:.4f} (paired bootstrap over 400 users), "
        "lies above zero"
    )


def test_the_interval_is_that_of_a_share():
    """40 of 400 users gain 1 and nobody loses: the number of winners in a resample is binomial."""
    gain = decide(CHAMPION, results(0.40), RULE).gain
    drawn = np.random.default_rng(5).binomial(USERS, 0.1, 200_000) / USERS
    assert gain is not None
    assert gain.mean == pytest.approx(0.1)
    assert (gain.low, gain.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1 / USERS)


def test_each_user_is_compared_with_himself_in_whatever_order_they_come():
    order = np.random.default_rng(0).permutation(USERS)
    shuffled = replace(
        CHAMPION,
        users=CHAMPION.users.take(pa.array(order)),
        gains={"recall_at_10": CHAMPION.gains["recall_at_10"][order]},
    )
    challenger = results(0.40)
    assert decide(shuffled, challenger, RULE) == decide(CHAMPION, challenger, RULE)


def test_a_tie_of_sums_in_another_order_is_no_gain():
    """NDCG of the same ranks at other users: the means differ by rounding alone."""
    gains = np.random.default_rng(1).choice([0, 1, 1 / np.log2(3), 1 / np.log2(7)], USERS)
    one, other = (Results(CHAMPION.users, {"ndcg_at_10": of}, "d") for of in (gains, gains[::-1].copy()))
    rule = GateConfig(metric="ndcg_at_10", beat=(), significant=False)
    assert [decide(a, b, rule).promote for a, b in ((one, other), (other, one))] == [False, False]


def test_the_same_results_are_always_decided_alike():
    assert len({decide(CHAMPION, results(0.325), RULE) for _ in range(5)}) == 1


def test_a_model_that_was_not_compared_has_no_gain():
    assert decide(None, results(0.30), RULE).gain is None
    assert decide(replace(CHAMPION, data="e"), results(0.40), RULE).gain is None
    assert decide(CHAMPION, CHAMPION, RULE).gain == Figure(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_gain": 1.5}, "gate.min_gain is a difference of metrics, -1 to 1; got 1.5"),
        ({"min_gain": float("nan")}, "gate.min_gain is a difference of metrics, -1 to 1; got nan"),
        ({"max_slice_loss": -0.1}, "gate.max_slice_loss is a loss of a metric, 0 to 1, where 1 allows any; got -0.1"),
        ({"slice_users": 0}, "gate.slice_users must be >= 1, got 0"),
        ({"max_seconds": -1}, "gate.max_seconds must be >= 0, 0 for no limit; got -1"),
        ({"max_seconds_per_user": -1}, "gate.max_seconds_per_user must be >= 0, 0 for no limit; got -1"),
        ({"max_memory_gb": -1}, "gate.max_memory_gb must be >= 0, 0 for no limit; got -1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(setting: dict[str, float], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        GateConfig(**setting)  # type: ignore[arg-type]
