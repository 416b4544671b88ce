"""What the scripts of other models read and write is our split, and is taken by the evaluation."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from calrec.model.loading import load_users
from calrec.retrieve.catalogue import load_catalogue
from calrec.retrieve.following import countable
from tests.benchmarks.peers.split import Judge, Split


def test_the_split_is_ours(small: SimpleNamespace):
    split, users = Split.read(small.texts, "garden"), load_users(small.texts, ["garden"])
    catalogue = load_catalogue(small.texts, "garden")
    assert split.item_id == catalogue.item_id
    first = int(catalogue.items[0])
    assert split.user_id == users.user_id
    for every, kind in ((False, "valid"), (True, "test")):
        assert [(items + first).tolist() for items in split.training(every)] == countable(users, kind)
        rows = split.judged(kind)
        at = users.test_at if kind == "test" else users.valid_at
        assert rows.tolist() == np.flatnonzero(at >= 0).tolist()
        for row, history, target in zip(rows, split.histories(kind, rows), split.targets(kind, rows), strict=True):
            assert (history + first).tolist() == users.items[row][: at[row]].tolist()
            assert target + first == users.items[row][at[row]]
    assert split.judged("test", {users.user_id[3], "nobody"}).tolist() == [3]
    with pytest.raises(ValueError, match="unknown category 'desk'; .* holds: garden, home"):
        Split.read(small.texts, "desk")


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_the_best_scores_and_whole(small: SimpleNamespace, exclude_seen: bool, tmp_path: Path):
    """Scores are random; the model does not know the item 2, nor anything about users with an even history."""
    split = Split.read(small.texts, "garden")
    judge, size = Judge(split, exclude_seen), len(split.item_id)

    def scorer(histories):
        rows = [np.random.default_rng(history.tolist()).random(size, np.float32) for history in histories]
        scores = np.array(
            [row if len(h) % 2 else np.full(size, -np.inf) for row, h in zip(rows, histories, strict=True)]
        )
        scores[:, 2] = -np.inf
        return scores.astype(np.float32)

    rows = split.judged("test")
    judge.write(scorer, "test", rows, tmp_path / "r.parquet")
    lists: dict[str, list[tuple[int, str, float]]] = {}
    for row in pq.read_table(tmp_path / "r.parquet").to_pylist():
        lists.setdefault(row["user_id"], []).append((row["rank"], row["item_id"], row["score"]))
    counts = np.bincount(np.concatenate(split.training(every=False)), minlength=size)
    popular = np.argsort(-counts, kind="stable").tolist()
    hits = []
    for row, history in zip(rows.tolist(), split.histories("test", rows), strict=True):
        scores = scorer([history])[0]
        order = sorted(range(size), key=lambda item: (-scores[item], popular.index(item)))
        expected = [item for item in order if not (exclude_seen and item in history)]
        ranks, ids, values = zip(*lists[split.user_id[row]], strict=True)
        assert list(ids) == [split.item_id[item] for item in expected]
        assert list(ranks) == list(range(1, len(expected) + 1))
        assert np.isfinite(values).all() and list(values) == sorted(values, reverse=True)
        target = int(split.targets("test", np.array([row]))[0])
        hits.append(expected.index(target) + 1 if target in expected else 99)
    figures = judge.figures(scorer, "test", rows)
    assert figures["recall_at_10"] == pytest.approx(np.mean([rank <= 10 for rank in hits]))
    assert figures["ndcg_at_10"] == pytest.approx(np.mean([1 / np.log2(r + 1) if r <= 10 else 0 for r in hits]))
