"""The whole step: by hand in a small shop, and on what the real steps before it made."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.cli.__main__ import main
from calrec.config import EvaluateConfig, GenerateConfig, RetrieveConfig, StageConfig, metric_names
from calrec.evaluate.examples import choose_users, table
from calrec.evaluate.report.drift import NOTHING
from calrec.evaluate.results import Evaluation, Figure, Method, means
from calrec.evaluate.step import evaluate, headline
from calrec.finetune.step import finetune
from calrec.generate.step import generate
from calrec.model.loading import load_users
from calrec.recommend.drift import profile
from calrec.retrieve.step import retrieve
from tests.evaluate import world

CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=100, baselines=("popularity", "repeat_last"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("judged")
    shop = world.shop(root)
    (root / "theirs.csv").write_text("user_id,rank,item_id\n" + "".join(
        f"{row['user_id']},{row['rank']},{row['item_id']}\n" for row in world.rows_of(world.LISTS)
    ))  # fmt: skip
    rankings = {"theirs": root / "theirs.csv"}
    manifest = evaluate(shop.texts, shop.generations, shop.recommendations, root / "e", CONFIG, rankings=rankings)
    document = json.loads((root / "e/metrics.json").read_text())
    return SimpleNamespace(**vars(shop), root=root, out=root / "e", manifest=manifest, document=document)


def test_the_models_figures_by_hand(judged: SimpleNamespace):
    """Ranks 1, 2, 0, 3, 0; the text of u3's target is at 1."""
    ours = judged.document["methods"]["calrec"]
    expected = {
        "recall_at_1": 1 / 5,
        "recall_at_3": 3 / 5,
        "ndcg_at_3": (1 + 1 / math.log2(3) + 1 / 2) / 5,
        "mrr": (1 + 1 / 2 + 1 / 3) / 5,
    }
    assert {name: figure["mean"] for name, figure in ours["figures"].items()} == pytest.approx(expected)
    assert all(figure["low"] <= figure["mean"] <= figure["high"] for figure in ours["figures"].values())
    assert ours["on_texts"] == pytest.approx({name: value + 1 / 5 for name, value in expected.items()})
    assert ours["ties"]["recall_at_1"] == pytest.approx({"best": 2 / 5, "mean": (1 + 1 / 3) / 5, "worst": 1 / 5})
    assert ours["ties"]["recall_at_3"] == pytest.approx(dict.fromkeys(("best", "mean", "worst"), 3 / 5))


def test_coverage_and_novelty_by_hand(judged: SimpleNamespace):
    """a, b, c, d, f are listed 5, 4, 3, 2 and 1 times; of ten training events a has 6, b 2, c and f 1, d none."""
    ours = judged.document["methods"]["calrec"]
    assert ours["coverage"] == pytest.approx(5 / 6)
    shares = {"a": (5, 0.6), "b": (4, 0.2), "c": (3, 0.1), "d": (2, 0.05), "f": (1, 0.1)}
    assert ours["novelty"] == pytest.approx(sum(-n * math.log2(share) for n, share in shares.values()) / 15)


def test_ranks_are_written_for_every_user_and_method(judged: SimpleNamespace):
    table = artifacts.read_table(judged.out, "ranks.parquet", "evaluation")
    rows = table.to_pylist()
    assert [row["method"] for row in rows[::5]] == ["calrec", "theirs", "popularity", "repeat_last"]
    assert [tuple(list(row.values())[2:]) for row in rows[:5]] == [
        (1, 1, 1, 1), (2, 2, 3, 2), (0, 0, 0, 1), (3, 1, 3, 3), (0, 0, 0, 0),
    ]  # fmt: skip
    assert {row["user_id"] for row in rows} == set(world.JUDGED)


def test_facts_are_written_for_every_user(judged: SimpleNamespace):
    rows = {row["user_id"]: row for row in artifacts.read_table(judged.out, "users.parquet", "evaluation").to_pylist()}
    assert rows["u1"] == {
        "user_id": "u1", "target": "a", "target_category": "Tea", "target_price": 1.0, "target_train_count": 6,
        "target_in_history": True, "history_length": 3, "samples": 4, "distinct_share": 0.5,
        "exact_match_share": 0.75, "match": 0.5,
    }  # fmt: skip
    assert rows["u2"]["target_price"] == 4.0 and rows["u3"]["target_price"] is None
    assert [row["target_train_count"] for row in rows.values()] == [6, 0, 0, 2, 1]
    assert [row["target_in_history"] for row in rows.values()] == [True, False, False, True, False]


def test_slices_by_hand_add_up_to_all_users(judged: SimpleNamespace):
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for one in judged.document["slices"]:
        assert list(one["figures"]) == ["calrec", "theirs", "popularity", "repeat_last"]
        its = one["users"], one["figures"]["calrec"]["recall_at_3"]["mean"]
        found.setdefault(one["by"], {})[one["value"]] = its
    assert found == {
        "target frequency": {"0 (cold)": (2, 1 / 2), "1-5": (2, 1 / 2), "6-20": (1, 1.0)},
        "history length": {"under 5": (5, 3 / 5)},
        "target": {"new": (3, pytest.approx(1 / 3)), "repeat": (2, 1.0)},
        "category": {"Cups": (2, 1 / 2), "Lamps": (1, 0.0), "Pots": (1, 1.0), "Tea": (1, 1.0)},
        "price": {
            "up to 1.00": (1, 1.0), "over 1.00 to 2.00": (1, 1.0), "over 2.00 to 3.00": (1, 0.0),
            "over 3.00": (1, 1.0), "no price": (1, 0.0),
        },
    }  # fmt: skip


def test_prices_divide_the_users_although_no_text_names_them(tmp_path: Path, judged: SimpleNamespace):
    texts = world.texts(tmp_path, attributes=("title",))
    generations = world.generations(tmp_path, texts)
    ranked = world.recommendations(tmp_path, texts, generations, world.rows_of(world.LISTS))
    evaluate(texts, generations, ranked, tmp_path / "e", CONFIG)
    found = json.loads((tmp_path / "e/metrics.json").read_text())["slices"]
    by_price = [(one["value"], one["users"]) for one in found if one["by"] == "price"]
    assert by_price == [(one["value"], one["users"]) for one in judged.document["slices"] if one["by"] == "price"]
    assert len(by_price) == 5


def test_the_model_is_tested_against_every_other_method(judged: SimpleNamespace):
    methods = judged.document["methods"]
    assert methods["calrec"]["against"] == {}
    same = methods["theirs"]["against"]
    assert {(one["mean"], one["p"], one["p_holm"], one["wins"]) for one in same.values()} == {(0.0, 1.0, 1.0, 0)}
    # Popularity lists a, b and then c (u1, u3, u4 alike): u1 1, u4 2, u5 3 by c before f.
    popular = methods["popularity"]
    assert popular["figures"]["mrr"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 5)
    against = popular["against"]["recall_at_3"]
    assert (against["mean"], against["wins"], against["losses"]) == (0.0, 1, 1)


def test_what_else_the_document_says(judged: SimpleNamespace):
    document = judged.document
    sizes = {"users": 5, "eligible": 6, "items": 6, "k": 3}
    assert {name: document[name] for name in sizes} == sizes
    assert (document["domain"], document["split"], document["exclude_seen"]) == ("shop", "test", False)
    assert document["explanations"] == {
        "distinct_texts_per_sample": 0.5, "generations_that_are_an_item_text": 0.75, "targets_in_the_history": 0.4,
        "bm25_margin": 0.25,
    }  # fmt: skip
    of_texts = artifacts.read_manifest(judged.texts)
    assert document["data"]["texts"] == of_texts.digest and document["data"]["interactions"] == 22
    assert set(document["config"]) == {"text", "split", "generate", "retrieve", "evaluate"}
    assert document["config"]["evaluate"]["recall_at"] == [1, 3]
    assert document["curves"] == {} and document["cost"] == {} and document["drift"] is None


def test_the_manifest_counts_the_models_figures(judged: SimpleNamespace):
    counts = judged.manifest.counts
    ours = judged.document["methods"]["calrec"]
    assert {name: counts[name] for name in metric_names(CONFIG)} == means(judged.document)["calrec"]
    assert {name: counts[f"{name}_text"] for name in metric_names(CONFIG)} == ours["on_texts"]
    assert counts["catalogue_coverage"] == 0.8333 and counts["bm25_margin"] == 0.25
    assert all(isinstance(value, float) for value in counts.values())
    assert judged.manifest.config["domain"] == "shop"


def test_the_headline_is_the_metrics_and_no_junk(judged: SimpleNamespace):
    assert headline(judged.manifest) == means(judged.document)["calrec"]
    moved = replace(judged.manifest, counts={**judged.manifest.counts, "drift_category_shift": 0.5})
    assert headline(moved) == {**headline(judged.manifest), "drift_category_shift": 0.5}


def test_without_a_champion_no_drift_is_counted_and_the_profile_is_there_for_the_next_run(judged: SimpleNamespace):
    assert not [name for name in judged.manifest.counts if name.startswith("drift_")] and judged.manifest.notes == ()
    assert NOTHING in (judged.out / "report.md").read_text()
    assert json.loads((judged.out / "profile.json").read_text()) == profile(judged.texts, "shop")


def test_the_figures_are_files(judged: SimpleNamespace):
    assert {path.name for path in (judged.out / "figures").iterdir()} == {"recall_at_3.svg", "ndcg_at_3.svg"}
    root = ElementTree.parse(judged.out / "figures/recall_at_3.svg").getroot()
    assert root.attrib["aria-label"].startswith("Recall@3: CALRec 0.6000, ")


def test_examples_are_a_table_too(judged: SimpleNamespace):
    rows = {row["user_id"]: row for row in table(judged.out)}
    assert set(rows) == set(world.JUDGED)
    assert rows["u2"] == {
        "user_id": "u2", "history": "red tea → blue cup", "target": "tea pot", "rank": 2,
        "recommended": "1. a · 2. d · 3. c", "generated": f"{world.TEXT_A} ×3 · Title: nonsense. ×1",
    }  # fmt: skip


def test_examples_are_hits_and_misses_in_turns(judged: SimpleNamespace):
    examples = judged.document["examples"]
    assert {one["user_id"]: one["rank"] for one in examples} == world.RANKS
    assert [one["rank"] > 0 for one in examples] == [True, False, True, False, True]
    (first,) = (one for one in examples if one["user_id"] == "u2")
    assert first == {
        "user_id": "u2", "history": ["red tea", "blue cup"], "target": "tea pot", "rank": 2,
        "recommended": ["a", "d", "c"], "generated": [[world.TEXT_A, 3], ["Title: nonsense.", 1]],
    }  # fmt: skip


def test_examples_do_not_depend_on_the_order_of_users():
    users = [f"user{i}" for i in range(300)]
    ranks = np.array([i % 7 == 0 for i in range(300)]).astype(np.int32)
    found = [users[at] for at in choose_users(users, ranks)]
    order = np.random.default_rng(0).permutation(300)
    shuffled = [users[at] for at in order]
    assert [shuffled[at] for at in choose_users(shuffled, ranks[order])] == found
    assert sum(int(user[4:]) % 7 == 0 for user in found) == 5 and len(set(found)) == 10
    assert max(int(user[4:]) for user in found) > 100  # not the first ones


@pytest.mark.parametrize(
    ("hits", "misses", "shown"), [(0, 20, (0, 10)), (20, 0, (10, 0)), (2, 20, (2, 8)), (20, 3, (7, 3)), (2, 3, (2, 3))]
)
def test_examples_where_one_kind_is_rare(hits: int, misses: int, shown: tuple[int, int]):
    ranks = np.array([1] * hits + [0] * misses, np.int32)
    found = choose_users([str(i) for i in range(len(ranks))], ranks)
    assert (sum(at < hits for at in found), sum(at >= hits for at in found)) == shown


def test_folders_that_do_not_belong_together(judged: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    others = world.generations(tmp_path, judged.texts, users=("u1", "u2"))
    with pytest.raises(ValueError, match="recommendations was not made from .*generations; give the generations that"):
        evaluate(judged.texts, others, judged.recommendations, tmp_path / "e", CONFIG)
    with pytest.raises(ValueError, match="recommendations was not made from .*texts"):
        evaluate(small.texts, judged.generations, judged.recommendations, tmp_path / "e", CONFIG)
    with pytest.raises(ValueError, match="generations was not made from .*base; give the model"):
        evaluate(judged.texts, judged.generations, judged.recommendations, tmp_path / "e", CONFIG, [small.base])


def test_a_cut_off_deeper_than_the_lists_is_refused(judged: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="looks at rank 20 but .* has 3 items per user; raise retrieve.k"):
        evaluate(judged.texts, judged.generations, judged.recommendations, tmp_path / "e", EvaluateConfig())


def test_the_document_holds_what_an_evaluation_is():
    method = Method({"mrr": Figure(0.5, 0.4, 0.6)}, {}, {}, 0.1, 2.0)
    made = Evaluation("d", "test", 1, 1, 2, 3, False, {"calrec": method}, [], {}, [], {}, {}, {}, {})
    assert made.metrics == ["mrr"] and means(json.loads(json.dumps(asdict(made)))) == {"calrec": {"mrr": 0.5}}


# --- behind the real steps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("real")
    stage = StageConfig(steps=2, batch_size=4, valid_every=2, valid_users=4, checkpoint_every=2, threads=1)
    finetune(small.texts, small.tokens, small.base, root / "joint", stage, small.model)
    finetune(
        small.texts, small.tokens, root / "joint", root / "model", stage, small.model, "stage2", domains=["garden"]
    )
    few = GenerateConfig(samples=3, max_new_tokens=8, threads=1)
    generate(small.texts, small.tokens, root / "model", root / "g", "garden", few)
    retrieve(small.texts, root / "g", root / "r", RetrieveConfig(k=12))
    return SimpleNamespace(texts=small.texts, root=root)


SMALL = EvaluateConfig(recall_at=(1, 5, 10), ndcg_at=(10,), bootstrap=50)


def test_all_methods_on_the_same_users(real: SimpleNamespace, tmp_path: Path):
    manifest = evaluate(real.texts, real.root / "g", real.root / "r", tmp_path / "e", SMALL)
    ranks = pq.read_table(tmp_path / "e/ranks.parquet").to_pylist()
    users = load_users(real.texts, ["garden"])
    assert [row["method"] for row in ranks[:: len(users)]] == ["calrec", *SMALL.baselines]
    assert len(ranks) == len(users) * 9
    ours = np.array([row["rank"] for row in ranks if row["method"] == "calrec"])
    assert manifest.counts["recall_at_10"] == pytest.approx(((ours > 0) & (ours <= 10)).mean())
    assert all(row["rank_best"] <= row["rank"] <= row["rank_worst"] for row in ranks)


def test_ranks_are_where_the_target_stands(real: SimpleNamespace, tmp_path: Path):
    evaluate(real.texts, real.root / "g", real.root / "r", tmp_path / "e", SMALL)
    items = artifacts.read_table(real.texts, "items.parquet", "texts")["item_id"].to_pylist()
    users = load_users(real.texts, ["garden"])
    target = {u: items[codes[at]] for u, codes, at in zip(users.user_id, users.items, users.test_at, strict=True)}
    listed = pq.read_table(real.root / "r/recommendations.parquet").to_pylist()
    place = {(row["user_id"], row["item_id"]): row["rank"] for row in listed}
    for row in pq.read_table(tmp_path / "e/ranks.parquet", filters=[("method", "==", "calrec")]).to_pylist():
        assert row["rank"] == place.get((row["user_id"], target[row["user_id"]]), 0)


def test_the_command_takes_models_and_rankings(real: SimpleNamespace, tmp_path: Path, capsys: Any):
    listed = pq.read_table(real.root / "r/recommendations.parquet", columns=["user_id", "rank", "item_id"])
    pq.write_table(listed, tmp_path / "ours.parquet")
    folders = {
        "texts": real.texts, "generations": real.root / "g", "recommendations": real.root / "r",
        "out": tmp_path / "e",
    }  # fmt: skip
    arguments = ["evaluate", *(part for name, path in folders.items() for part in (f"--{name}", str(path)))]
    arguments += ["--models", str(real.root / "joint"), str(real.root / "model")]
    settings = ("gate.beat=markov", "evaluate.baselines=markov", "evaluate.recall_at=[1,10]", "evaluate.ndcg_at=[10]")
    arguments += [part for setting in settings for part in ("--set", setting)]
    assert main([*arguments, "--rankings", f"again={tmp_path / 'ours.parquet'}"]) == 0
    assert "Markov (last item)" in capsys.readouterr().out
    document = json.loads((tmp_path / "e/metrics.json").read_text())
    found = means(document)
    assert list(found) == ["calrec", "again", "markov"] and found["again"] == found["calrec"]
    assert list(document["config"]) == [
        "text",
        "split",
        "stage1",
        "model",
        "stage2",
        "generate",
        "retrieve",
        "evaluate",
    ]
    assert {stage: rows[-1]["step"] for stage, rows in document["curves"].items()} == {"stage1": 2, "stage2": 2}
    assert document["cost"]["stage2"]["tokens"] > 0
    for given in ("again", "=x", "again="):
        assert main([*arguments, "--rankings", given]) == 2
        assert f"--rankings takes NAME=FILE, got {given!r}" in capsys.readouterr().err
    assert main([*arguments, "--rankings", "a=x", "--rankings", "a=y"]) == 2
    assert "two files one name" in capsys.readouterr().err
