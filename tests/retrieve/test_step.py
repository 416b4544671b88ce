"""The retrieve step on a small real model: lists, reasons, and each ablation beyond the paper."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig, TextConfig
from calrec.config.overrides import to_dict
from calrec.model.loading import load_model, load_users
from calrec.retrieve.catalogue import load_catalogue
from calrec.retrieve.evidence import FEATURES, Evidence, Fusion
from calrec.retrieve.following import countable
from calrec.retrieve.step import retrieve

Rows = dict[str, list[dict[str, Any]]]


def generations(
    small: SimpleNamespace, out: Path, texts_of: dict[str, list[tuple[str, float]]], split: str = "test"
) -> Path:
    rows = [
        {"user_id": user, "text": text, "logprob": logprob, "count": 1, "finished": True}
        for user, pairs in texts_of.items()
        for text, logprob in pairs
    ]
    with artifacts.writing(out) as folder:
        artifacts.write_table(folder, "generations.parquet", pa.Table.from_pylist(rows, schema=artifacts.GENERATIONS))
        config = {"domain": "home", "generate": to_dict(GenerateConfig(split=split))}
        inputs = {name: artifacts.read_manifest(getattr(small, at)).digest for name, at in
                  (("texts", "texts"), ("model", "base"))}  # fmt: skip
        artifacts.finish(folder, Manifest("generations", config=config, counts={"users": len(texts_of)}, inputs=inputs))
    return out


def ranked(small: SimpleNamespace, tmp_path: Path, texts_of, **settings) -> Rows:
    made = generations(small, tmp_path / "g", texts_of)
    retrieve(small.texts, made, tmp_path / "r", RetrieveConfig(**settings), small.base, small.tokens)
    users: Rows = {}
    for row in pq.read_table(tmp_path / "r/recommendations.parquet").to_pylist():
        users.setdefault(row["user_id"], []).append(row)
    return users


def test_an_item_text_finds_its_item_and_says_why(small: SimpleNamespace, tmp_path: Path):
    catalogue = load_catalogue(small.texts, "home")
    text = catalogue.group_texts[4]
    top = ranked(small, tmp_path, {"u0": [(text, -3.0), ("Title: nothing known.", -1.0)]})["u0"][0]
    wanted = catalogue.members[4][0]
    assert (top["item_id"], top["rank"]) == (catalogue.item_id[catalogue.at(wanted)], 1)
    assert (top["source"], top["reason"], top["logprob"], top["match"]) == ("generation", text, -3.0, 1.0)
    assert top["score"] == pytest.approx(math.exp(-3 / 5000))


def test_lists_are_unique_full_and_in_order(small: SimpleNamespace, tmp_path: Path):
    users = ranked(small, tmp_path, {"u0": [("red lamp", -1.0)], "u1": [("", -1.0)], "u2": [("日本", -9.0)]}, k=20)
    for rows in users.values():
        assert [r["rank"] for r in rows] == list(range(1, 13))  # the catalogue has 12 items
        assert len({r["item_id"] for r in rows}) == 12
        assert all(a["score"] >= b["score"] for a, b in itertools.pairwise(rows))


def test_a_foreign_or_empty_text_gives_the_most_popular_items(small: SimpleNamespace, tmp_path: Path):
    users = ranked(small, tmp_path, {"u2": [("日本", -9.0)], "u3": [("", -1.0)]})
    catalogue = load_catalogue(small.texts, "home")
    counts = dict(zip(catalogue.item_id, catalogue.train_count.tolist(), strict=True))
    for rows in users.values():
        popularity = [counts[r["item_id"]] for r in rows]
        assert popularity == sorted(popularity, reverse=True)
        assert all((r["source"], r["reason"], r["logprob"], r["score"]) == ("fill", "", None, 0.0) for r in rows)


def history(small: SimpleNamespace, row: int) -> tuple[str, list[int]]:
    users = load_users(small.texts, ["home"])
    return users.user_id[row], users.items[row][: users.test_at[row]].tolist()


@pytest.mark.parametrize("beyond", [{}, {"last_title": 1.0}, {"dense": 3}, {"rerank": 3}, {"dense": 3, "rerank": 2}])
def test_exclude_seen_leaves_out_the_history_alone(small: SimpleNamespace, tmp_path: Path, beyond: dict[str, Any]):
    catalogue, (name, items) = load_catalogue(small.texts, "home"), history(small, 0)
    seen = {catalogue.item_id[catalogue.at(i)] for i in items}
    text = " ".join(catalogue.group_texts)
    shown = {r["item_id"] for r in ranked(small, tmp_path, {name: [(text, -1.0)]}, exclude_seen=True, **beyond)[name]}
    assert shown == set(catalogue.item_id) - seen


def test_generations_of_other_texts_or_another_model_are_refused(small: SimpleNamespace, tmp_path: Path):
    from calrec.model.step import base_model
    from calrec.textify.step import textify

    made = generations(small, tmp_path / "g", {"u0": [("x", -1.0)]})
    textify([small.root / "home"], tmp_path / "other", TextConfig())
    with pytest.raises(ValueError, match="was made from other texts than"):
        retrieve(tmp_path / "other", made, tmp_path / "r", RetrieveConfig())
    base_model(small.texts, tmp_path / "base", tmp_path / "tokens", small.model)
    weights = next((tmp_path / "base").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes())
    other = artifacts.read_manifest(tmp_path / "base")
    assert other.digest == artifacts.read_manifest(small.base).digest  # the same model is no other one
    retrieve(small.texts, made, tmp_path / "r", RetrieveConfig(dense=1), tmp_path / "base", small.tokens)
    with pytest.raises(ValueError, match=r"read the model; give --model and --tokens"):
        retrieve(small.texts, made, tmp_path / "r", RetrieveConfig(rerank=1))


def test_the_last_title_is_one_more_query(small: SimpleNamespace, tmp_path: Path):
    catalogue, (name, items) = load_catalogue(small.texts, "home"), history(small, 3)
    last = catalogue.item_id[catalogue.at(items[-1])]
    foreign = {name: [("日本", -9.0)]}
    top = ranked(small, tmp_path, foreign, last_title=0.5)[name][0]
    assert (top["item_id"], top["source"], top["reason"]) == (last, "last_title", catalogue.text(items[-1]))
    assert (top["score"], top["logprob"], top["match"]) == (0.5, None, 1.0)
    other = next(g for g in range(12) if g != catalogue.group(items[-1]))
    both = ranked(small, tmp_path, {name: [(catalogue.group_texts[other], -1.0)]}, last_title=0.5)[name]
    assert both[0]["source"] == "generation" and last in {r["item_id"] for r in both if r["source"] == "last_title"}


def test_dense_joins_by_reciprocal_ranks(small: SimpleNamespace, tmp_path: Path):
    catalogue, (name, items) = load_catalogue(small.texts, "home"), history(small, 1)
    network, _, cache, _ = load_model(small.base, small.tokens, small.texts)

    def direction(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            states = network.get_decoder()(torch.tensor(ids[None].astype(np.int64))).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0).numpy()

    user = direction(cache.history(items)[0])
    cosines = np.array([user @ direction(cache.target(members[0])) for members in catalogue.members])
    nearest = np.argsort(-cosines, kind="stable")[:5]
    rows = ranked(small, tmp_path, {name: [("日本", -9.0)]}, dense=5)[name]
    assert [r["item_id"] for r in rows[:5]] == [
        catalogue.item_id[catalogue.at(catalogue.members[g][0])] for g in nearest
    ]
    assert [r["score"] for r in rows[:6]] == pytest.approx([*(1 / (61 + place) for place in range(5)), 0.0])
    assert {r["source"] for r in rows[:5]} == {"dense"} and rows[5]["source"] == "fill"
    text = catalogue.group_texts[nearest[0]]
    first = ranked(small, tmp_path, {name: [(text, -1.0)]}, dense=5)[name][0]
    assert first["score"] == pytest.approx(2 / 61) and first["source"] == "generation"


def test_reranking_sorts_the_union_by_exact_log_probability(small: SimpleNamespace, tmp_path: Path):
    catalogue, (name, items) = load_catalogue(small.texts, "home"), history(small, 2)
    network, _, cache, _ = load_model(small.base, small.tokens, small.texts)
    prompt, best = cache.history(items)[0], 3
    rows = ranked(small, tmp_path, {name: [(catalogue.group_texts[7], -2.0)]}, rerank=best)[name]
    exact = {}
    for members in catalogue.members:
        ids = cache.target(members[0])
        with torch.no_grad():
            given = torch.tensor(np.concatenate([prompt, ids])[None].astype(np.int64))
            logp = network(given).logits[0].double().log_softmax(-1)
        at = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
        exact[catalogue.item_id[catalogue.at(members[0])]] = float(logp[at, torch.tensor(ids).long()].sum())
    candidates = [r for r in rows if r["source"] != "fill"]
    assert [r["score"] for r in candidates] == pytest.approx([exact[r["item_id"]] for r in candidates], abs=1e-4)
    assert all(a["score"] >= b["score"] for a, b in itertools.pairwise(candidates))
    assert all(r["logprob"] == r["score"] for r in candidates)
    users = load_users(small.texts, ["home"])
    following = Evidence.of(countable(users, "test"), catalogue, fused=False).following
    after = following.next(catalogue.group(items[-1]))[0][:best].tolist()
    shown = {r["item_id"] for r in candidates}
    assert {catalogue.item_id[catalogue.at(catalogue.members[group][0])] for group in after} <= shown
    assert catalogue.item_id[catalogue.at(catalogue.members[7][0])] in shown
    assert best <= len(shown) <= 3 * best and len(rows) == 12
    assert [r["score"] for r in rows[len(candidates) :]] == [None] * (12 - len(candidates))


def test_a_text_is_searched_once_in_a_run(small: SimpleNamespace, tmp_path: Path):
    texts = {f"u{i}": [("red lamp", -1.0), ("blue chair", -2.0), ("日本", -2.0)] for i in range(9)}
    made = generations(small, tmp_path / "g", texts)
    counts = retrieve(small.texts, made, tmp_path / "r", RetrieveConfig()).counts
    assert (counts["distinct_texts"], counts["texts_without_known_word"], counts["users"]) == (3, 1, 9)
    assert counts["unknown_words_share"] == 0.3333


def test_texts_of_another_language_are_said(small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = generations(small, tmp_path / "g", {"u0": [("赤いランプ", -1.0)], "u1": [("青い椅子", -1.0)]})
    done = retrieve(small.texts, made, tmp_path / "r", RetrieveConfig())
    assert (done.counts["unknown_words_share"], done.counts["filled_share"]) == (1, 1)
    said = capsys.readouterr().out
    assert "retrieve home: warning: 100% of the places are filled with popular items" in said
    assert "warning: 100% of the words that were searched are in no text of the catalogue" in said


def test_learned_fusion_ranks_by_the_weights_it_writes_down(small: SimpleNamespace, tmp_path: Path):
    name, _ = history(small, 3)
    rows = ranked(small, tmp_path, {name: [("red lamp", -2.0)]}, rerank=20, fusion_users=30)[name]
    fusion, counts = Fusion.load(tmp_path / "r"), artifacts.read_manifest(tmp_path / "r").counts
    assert fusion is not None
    assert fusion.users == counts["fusion_users"] > 0
    assert counts["weight_model"] == pytest.approx(fusion.weights["model"], abs=1e-6)
    assert set(fusion.weights) == set(FEATURES)
    shown = [row for row in rows if row["score"] is not None]
    assert all(a["score"] >= b["score"] for a, b in itertools.pairwise(shown))
    assert any(row["score"] != row["logprob"] for row in shown)


def test_ranking_on_validation_users_learns_from_the_others(small: SimpleNamespace, tmp_path: Path):
    users = load_users(small.texts, ["home"])
    able = [user for user, at in zip(users.user_id, users.valid_at.tolist(), strict=True) if at >= 0]
    made = generations(small, tmp_path / "g", {user: [("red lamp", -2.0)] for user in able}, split="valid")
    config = RetrieveConfig(rerank=20, fusion_users=30)
    with pytest.raises(ValueError, match="none is left"):
        retrieve(small.texts, made, tmp_path / "r", config, small.base, small.tokens)
