"""The gate with numbers."""

import pytest

from calrec.config import GateConfig
from calrec.promote.gate import decide


@pytest.mark.parametrize(
    ("ours", "popularity", "markov", "gain", "promote"),
    [
        (0.30, 0.20, 0.25, 0.0, True),
        (0.30, 0.20, 0.35, 0.0, False),  # one floor is not beaten
        (0.20, 0.20, 0.10, 0.0, False),  # a tie is no gain
        (0.30, 0.20, 0.25, 0.1, False),  # a gain below the minimum
        (None, 0.20, 0.25, 0.0, False),  # a missing metric
        (0.30, None, 0.25, 0.0, False),
        (float("nan"), 0.20, 0.25, 0.0, False),
    ],
)
def test_decide(ours, popularity, markov, gain, promote):
    figures = {"calrec": ours, "popularity": popularity, "markov": markov}
    results = {name: {"recall_at_10": value} for name, value in figures.items() if value is not None}
    decision = decide(results, GateConfig(beat=("popularity", "markov"), min_gain=gain))
    assert decision.promote is promote
    assert decision.reasons


@pytest.mark.parametrize(
    ("ours", "champion", "rule", "promote", "reasons"),
    [
        (0.30, None, GateConfig(), True, 1),  # the first model: floors alone
        (0.30, 0.25, GateConfig(), True, 2),
        (0.30, 0.35, GateConfig(), False, 2),
        (0.30, 0.30, GateConfig(), False, 2),  # a tie: the champion stays
        (0.30, 0.25, GateConfig(min_gain=0.1), False, 2),
        (0.30, 0.35, GateConfig(champion=False), True, 1),
    ],
)
def test_the_champion_counts_like_a_baseline(ours, champion, rule, promote, reasons):
    figures = {"calrec": ours, "popularity": 0.1} | ({} if champion is None else {"champion": champion})
    decision = decide({name: {"recall_at_10": value} for name, value in figures.items()}, rule)
    assert (decision.promote, len(decision.reasons)) == (promote, reasons)
