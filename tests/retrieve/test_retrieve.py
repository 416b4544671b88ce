"""BM25 and fusion against brute force."""

import itertools
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import Bm25, load_catalogue
from calrec.retrieve.fusion import fuse, match, rank
from calrec.retrieve.step import retrieve
from calrec.settings import to_dict
from calrec.textify.texts import words

WORDS = ["red", "blue", "tea", "cup", "oz", "12"]
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=0, max_size=5).map(" ".join), min_size=1, max_size=9)


def brute_bm25(documents: list[str], query: str, k1: float, b: float) -> list[float]:
    docs = [words(d) for d in documents]
    mean = sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        tf, score = Counter(doc), 0.0
        for word in words(query):
            df = sum(word in other for other in docs)
            idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
            score += idf * tf[word] / (tf[word] + k1 * (1 - b + b * len(doc) / mean)) if tf[word] else 0.0
        scores.append(score)
    return scores


@settings(max_examples=150, deadline=None)
@given(
    texts,
    st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=5),
    st.sampled_from([0.9, 1.5]),
    st.sampled_from([0.0, 0.75, 1.0]),
)
def test_bm25_is_the_lucene_formula(documents: list[str], query: list[str], k1: float, b: float):
    config = RetrieveConfig(k1=k1, b=b)
    if not any(words(d) for d in documents):
        with pytest.raises(ValueError, match="not a single word|has a single word"):
            Bm25(documents, config)
        return
    expected = brute_bm25(documents, " ".join(query), k1, b)
    np.testing.assert_allclose(Bm25(documents, config).scores(" ".join(query)), expected, rtol=1e-9, atol=1e-12)


def brute_ranking(
    scores: list[np.ndarray], logprobs: list[float], epsilon: float, members, k: int, excluded
) -> list[int]:
    """The whole score vector of every group, then a sort."""
    fused = np.zeros(len(members))
    for s, logprob in zip(scores, logprobs, strict=True):
        if s.max() > s.min():
            fused = np.maximum(fused, math.exp(epsilon * logprob) * ((s - s.min()) / (s.max() - s.min())))
    order = sorted(range(len(members)), key=lambda g: (-fused[g], g))
    return [item for g in order for item in members[g] if item not in excluded][:k]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fusion_of_top_lists_equals_brute_force_over_all_scores(data: st.DataObject):
    n = data.draw(st.integers(1, 15))
    scores = [
        np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.7, 3.0]), min_size=n, max_size=n)))
        for _ in range(data.draw(st.integers(0, 6)))
    ]
    logprobs = [data.draw(st.floats(-200, 0)) for _ in scores]
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    members = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    members = [m.tolist() for m in members]
    k = data.draw(st.integers(1, 12))
    excluded = data.draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=4))
    fused = fuse([match(s, k + len(excluded)) for s in scores], logprobs, 1 / 5000)
    ranked = [one.item for one in rank(fused, members, k, excluded)]
    assert ranked == brute_ranking(scores, logprobs, 1 / 5000, members, k, excluded)
    assert len(set(ranked)) == len(ranked) == min(k, sum(sizes) - len(excluded))


def test_the_score_is_the_formula_and_names_its_text():
    first, second = np.array([0.0, 2.0, 1.0]), np.array([4.0, 0.0, 3.0])
    fused = fuse([match(first, 3), match(second, 3)], [-10.0, -20.0], 1 / 5000)
    assert fused[1] == (pytest.approx(math.exp(-10 / 5000)), 0)
    assert fused[0] == (pytest.approx(math.exp(-20 / 5000)), 1)
    assert fused[2] == (pytest.approx(math.exp(-20 / 5000) * 3 / 4), 1)


def test_texts_that_tell_nothing_leave_the_list_to_the_order_of_groups():
    ranked = rank(fuse([match(np.zeros(4), 2)], [-1.0], 1 / 5000), [[7], [3, 5], [1], [0]], 3)
    assert [(one.item, one.score, one.text) for one in ranked] == [(7, 0.0, None), (3, 0.0, None), (5, 0.0, None)]


# --- the step ---------------------------------------------------------------------------------------------------


def generations(small: SimpleNamespace, out: Path, texts_of: dict[str, list[tuple[str, float]]]) -> Path:
    rows = [
        {"user_id": user, "text": text, "logprob": logprob, "count": 1, "finished": True}
        for user, pairs in texts_of.items()
        for text, logprob in pairs
    ]
    with artifacts.writing(out) as folder:
        artifacts.write_table(folder, "generations.parquet", pa.Table.from_pylist(rows, schema=artifacts.GENERATIONS))
        config = {"domain": "home", "generate": to_dict(GenerateConfig())}
        digest = artifacts.read_manifest(small.texts).digest
        artifacts.finish(folder, Manifest("generations", config=config, inputs={"texts": digest}))
    return out


def ranked(small: SimpleNamespace, tmp_path: Path, texts_of, **settings) -> dict[str, list[dict]]:
    retrieve(small.texts, generations(small, tmp_path / "g", texts_of), tmp_path / "r", RetrieveConfig(**settings))
    users: dict[str, list[dict]] = {}
    for row in pq.read_table(tmp_path / "r/recommendations.parquet").to_pylist():
        users.setdefault(row["user_id"], []).append(row)
    return users


def test_an_item_text_finds_its_item_and_says_why(small: SimpleNamespace, tmp_path: Path):
    catalogue = load_catalogue(small.texts, "home")
    text = catalogue.group_texts[4]
    top = ranked(small, tmp_path, {"u0": [(text, -3.0), ("Title: nothing known.", -1.0)]})["u0"][0]
    wanted = catalogue.members[4][0]
    assert (top["item_id"], top["rank"], top["reason"]) == (catalogue.item_id[catalogue.at(wanted)], 1, text)
    assert top["score"] == pytest.approx(math.exp(-3 / 5000))


def test_lists_are_unique_full_and_in_order(small: SimpleNamespace, tmp_path: Path):
    users = ranked(small, tmp_path, {"u0": [("red lamp", -1.0)], "u1": [("", -1.0)], "u2": [("日本", -9.0)]}, k=20)
    for rows in users.values():
        assert [r["rank"] for r in rows] == list(range(1, 13))  # the catalogue has 12 items
        assert len({r["item_id"] for r in rows}) == 12
        assert all(a["score"] >= b["score"] for a, b in itertools.pairwise(rows))


def test_a_foreign_text_gives_the_most_popular_items(small: SimpleNamespace, tmp_path: Path):
    rows = ranked(small, tmp_path, {"u2": [("日本", -9.0)]})["u2"]
    catalogue = load_catalogue(small.texts, "home")
    counts = dict(zip(catalogue.item_id, catalogue.train_count.tolist(), strict=True))
    popularity = [counts[r["item_id"]] for r in rows]
    assert popularity == sorted(popularity, reverse=True) and not any(r["reason"] for r in rows)


def test_exclude_seen_leaves_out_the_history_alone(small: SimpleNamespace, tmp_path: Path):
    users, catalogue = load_users(small.texts, ["home"]), load_catalogue(small.texts, "home")
    history = {catalogue.item_id[catalogue.at(i)] for i in users.items[0][: users.test_at[0]].tolist()}
    name = users.user_id[0]
    text = " ".join(catalogue.group_texts)
    shown = {r["item_id"] for r in ranked(small, tmp_path, {name: [(text, -1.0)]}, exclude_seen=True)[name]}
    assert shown == set(catalogue.item_id) - history


def test_generations_of_other_texts_are_refused(small: SimpleNamespace, tmp_path: Path):
    from calrec.config import TextConfig
    from calrec.textify.step import textify

    textify([small.root / "home"], tmp_path / "other", TextConfig())
    with pytest.raises(ValueError, match="was made from other texts than"):
        retrieve(
            tmp_path / "other",
            generations(small, tmp_path / "g", {"u0": [("x", -1.0)]}),
            tmp_path / "r",
            RetrieveConfig(),
        )
