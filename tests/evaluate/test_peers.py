"""Our metrics against figures that others computed: published ones of other models' lists, and trec_eval's."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from numpy.typing import NDArray

from calrec.config import EvaluateConfig, metric_names
from calrec.evaluate.lists import Lists
from calrec.evaluate.metrics import Scores, Target, worth
from calrec.retrieve.catalogue import Catalogue
from tests.conftest import shared

DEEP = EvaluateConfig(recall_at=(1, 5, 10, 20, 100), ndcg_at=(10, 20))


def catalogue_of(size: int) -> Catalogue:
    every, ids = np.arange(size), [str(item) for item in range(size)]
    return Catalogue(every, ids, ids, ids, ids, every, ids, [[item] for item in range(size)], np.ones(size, np.int64))


def ranks(lists: Lists, targets: NDArray[np.int64], size: int) -> NDArray[np.int32]:
    """Per user, as the step finds them: in blocks."""
    scores = Scores(Target(targets, targets), catalogue_of(size), lists.items.shape[1])
    for some in np.array_split(np.arange(len(lists)), 3):
        scores.add(some, Lists(lists.items[some], lists.scores[some]))
    return scores.rank


@pytest.fixture(scope="module")
def games() -> tuple[dict[str, int], int]:
    """The last item of each user, and how many items there are; ids are numbers from 0."""
    folder = shared("data", "games2018")
    with gzip.open(folder / "sequences.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    with gzip.open(folder / "items.jsonl.gz", "rt") as stream:
        assert [json.loads(line)["item_id"] for line in stream] == [str(n) for n in range(16_859)]
    return {row["user_id"]: int(row["items"][-1]) for row in rows}, 16_859


def read(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Users and their 100 items, from lines of "user TAB items"."""
    with gzip.open(path, "rt") as stream:
        rows = [line.split("\t") for line in stream]
    return [user for user, _ in rows], np.array([items.split() for _, items in rows], np.int64)


# SASRec's first three are published with the lists; the others were computed by another program, which uses none of
# ours, when this test was written.
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("sasrec", {"recall_at_1": 0.0133, "recall_at_10": 0.0982, "ndcg_at_10": 0.0493, "recall_at_100": 0.3235}),
        ("gru4rec", {"recall_at_1": 0.0117, "recall_at_10": 0.0852, "ndcg_at_10": 0.0425, "recall_at_100": 0.3077}),
        ("bpr", {"recall_at_1": 0.0055, "recall_at_10": 0.0547, "ndcg_at_10": 0.0257, "recall_at_100": 0.2262}),
        ("bm25", {"recall_at_1": 0.0013, "recall_at_10": 0.0210, "ndcg_at_10": 0.0093, "recall_at_100": 0.1068}),
        ("pop", {"recall_at_1": 0.0005, "recall_at_10": 0.0093, "ndcg_at_10": 0.0038, "recall_at_100": 0.0847}),
    ],
)
def test_published_lists_give_the_published_figures(games: tuple[dict[str, int], int], model: str, expected):
    last, size = games
    users, items = read(shared("data", "games2018", "peer-top100", f"Games-6k.{model}.gz"))
    assert items.shape == (6000, 100)
    targets = np.array([last[user] for user in users])
    lists = Lists(items, np.full(items.shape, np.nan))
    means = dict(zip(metric_names(DEEP), worth(ranks(lists, targets, size), DEEP).mean(axis=0), strict=True))
    assert {name: round(means[name], 4) for name in expected} == expected


def test_trec_eval_agrees_user_by_user_on_random_rankings():
    """Targets stand anywhere in lists of 20 of 60 items, or not at all; lists may end early."""
    rng = np.random.default_rng(0)
    users, size, k = 500, 60, 20
    lists = Lists.empty(users, k)
    for user, length in enumerate(rng.integers(0, k + 1, users).tolist()):
        lists.items[user, :length] = rng.permutation(size)[:length]
        lists.scores[user, :length] = np.sort(rng.random(length))[::-1]
    targets = rng.integers(0, size, users)
    config = EvaluateConfig(recall_at=(1, 5, 10, 20), ndcg_at=(1, 5, 10, 20))
    found = worth(ranks(lists, targets, size), config)
    theirs = {f"recall_at_{at}": f"recall_{at}" for at in config.recall_at}
    theirs |= {f"ndcg_at_{at}": f"ndcg_cut_{at}" for at in config.ndcg_at} | {"mrr": "recip_rank"}
    evaluator = pytrec_eval.RelevanceEvaluator(
        {str(user): {str(item): 1} for user, item in enumerate(targets.tolist())},
        {"recall.1,5,10,20", "ndcg_cut.1,5,10,20", "recip_rank"},
    )
    rows = list(zip(lists.items.tolist(), lists.scores.tolist(), strict=True))
    run = {
        str(user): {str(item): score for item, score in zip(items, scores, strict=True) if item >= 0}
        for user, (items, scores) in enumerate(rows)
    }
    judged = evaluator.evaluate(run)
    for user in range(users):
        its = judged[str(user)] if run[str(user)] else dict.fromkeys(theirs.values(), 0.0)
        assert [its[theirs[name]] for name in metric_names(config)] == pytest.approx(found[user].tolist(), abs=1e-12)
    assert 50 < (found[:, metric_names(config).index("mrr")] > 0).sum() < 200
