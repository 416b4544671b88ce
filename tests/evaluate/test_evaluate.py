"""Metrics by hand arithmetic, floors by hand, faults refused."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.config import DataConfig, EvaluateConfig, GenerateConfig, RetrieveConfig, TextConfig, metric_names
from calrec.evaluate import metrics
from calrec.evaluate.floors import floors
from calrec.evaluate.step import evaluate
from calrec.generate.step import generate
from calrec.ingest.step import ingest
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import Catalogue, load_catalogue
from calrec.retrieve.step import retrieve
from calrec.textify.step import textify
from tests.conftest import shared

RANKS = np.array([1, 2, 0, 10, 11])


def test_metrics_by_hand():
    assert metrics.recall(RANKS, 1).mean() == 1 / 5
    assert metrics.recall(RANKS, 10).mean() == 3 / 5
    assert metrics.ndcg(RANKS, 10).mean() == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5)
    assert metrics.reciprocal_rank(RANKS).mean() == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)


def test_metric_names_are_what_is_computed():
    config = EvaluateConfig()
    assert list(metrics.per_user(RANKS, config)) == metric_names(config)
    assert all("@" not in name for name in metric_names(config))  # the tracking server refuses it


def test_rank_of():
    assert [metrics.rank_of(x, [5, 7, 9]) for x in (5, 9, 1)] == [1, 3, 0]


def test_the_interval_covers_the_mean_and_narrows():
    rng = np.random.default_rng(0)
    few, many = (rng.random(n) < 0.3 for n in (50, 5000))
    (a, b), (c, d) = (metrics.interval(v.astype(float), 500, 0) for v in (few, many))
    assert a < few.mean() < b and c < 0.3 < d
    assert (d - c) == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 5000), rel=0.2)


# items 10..14
CATALOGUE = Catalogue(
    items=np.array([10, 11, 12, 13, 14]), item_id=list("abcde"), title=list("ABCDE"), category=[""] * 5,
    group_of=np.arange(5), group_texts=["red tea", "red cup", "blue cup", "tea pot", "lamp"],
    members=[[10], [11], [12], [13], [14]],
    train_count=np.array([3, 2, 1, 1, 0]),
)  # fmt: skip
HISTORIES = [[10, 11, 12], [10, 11], [10, 13]]
CONFIG = RetrieveConfig(k=4)


@pytest.mark.parametrize(
    ("floor", "history", "excluded", "expected"),
    [
        ("popularity", [12], (), [10, 11, 12, 13]),
        ("popularity", [12], (10, 12), [11, 13, 14]),
        ("markov", [12, 10], (), [11, 13, 10, 12]),
        ("markov", [14], (), [10, 11, 12, 13]),
        ("markov", [], (), [10, 11, 12, 13]),
        ("repeat_last", [13, 12, 13], (), [13, 12, 10, 11]),
        ("bm25_last", [14, 10], (), [10, 11, 13, 12]),
        ("bm25_last", [14, 10], (10,), [11, 13, 12, 14]),
    ],
)
def test_floors_by_hand(floor, history, excluded, expected):
    assert floors([floor], HISTORIES, CATALOGUE, CONFIG)[floor](history, excluded) == expected


def test_popularity_and_markov_on_a_known_set(tmp_path: Path):
    """Another program's popularity on this set: Recall@10 .0315, NDCG@10 .0180 with the history left out."""
    source = shared("data", "scientific2018")
    ingest("s", str(source), tmp_path / "s", DataConfig(dedup="none", min_user=0, min_item=0))
    textify([tmp_path / "s"], tmp_path / "texts", TextConfig())
    users, catalogue = load_users(tmp_path / "texts"), load_catalogue(tmp_path / "texts", "s")
    before = [items[:-1].tolist() for items in users.items]
    rank = floors(["popularity"], before, catalogue, RetrieveConfig())["popularity"]
    pairs = zip(users.items, before, strict=True)
    ranks = np.array([metrics.rank_of(int(items[-1]), rank(history, set(history))) for items, history in pairs])
    assert metrics.recall(ranks, 10).mean() == pytest.approx(0.0315, abs=5e-5)
    assert metrics.ndcg(ranks, 10).mean() == pytest.approx(0.0180, abs=5e-5)


@pytest.fixture(scope="module")
def ranked(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("ranked")
    generate(
        small.texts,
        small.tokens,
        small.base,
        root / "g",
        "garden",
        GenerateConfig(samples=3, max_new_tokens=8, threads=1),
    )
    retrieve(small.texts, root / "g", root / "r", RetrieveConfig(k=12))
    return SimpleNamespace(generations=root / "g", recommendations=root / "r")


SMALL = EvaluateConfig(recall_at=(1, 5, 10), bootstrap=50)


def test_the_step_scores_all_methods_on_the_same_users(small: SimpleNamespace, ranked: SimpleNamespace, tmp_path: Path):
    manifest = evaluate(small.texts, ranked.generations, ranked.recommendations, tmp_path / "e", SMALL)
    ranks = pq.read_table(tmp_path / "e/ranks.parquet").to_pylist()
    users = load_users(small.texts, ["garden"])
    assert {r["method"] for r in ranks} == {"calrec", *SMALL.floors}
    assert len(ranks) == len(users) * 5
    ours = np.array([r["rank"] for r in ranks if r["method"] == "calrec"])
    assert manifest.counts["recall_at_10"] == pytest.approx(((ours > 0) & (ours <= 10)).mean())
    document = json.loads((tmp_path / "e/metrics.json").read_text())
    low, high = document["intervals"]["calrec"]["recall_at_10"]
    assert low <= document["results"]["calrec"]["recall_at_10"] <= high


def test_ranks_are_where_the_target_stands(small: SimpleNamespace, ranked: SimpleNamespace, tmp_path: Path):
    evaluate(small.texts, ranked.generations, ranked.recommendations, tmp_path / "e", SMALL)
    items = artifacts.read_table(small.texts, "items.parquet", "texts")["item_id"].to_pylist()
    users = load_users(small.texts, ["garden"])
    target = {u: items[codes[at]] for u, codes, at in zip(users.user_id, users.items, users.test_at, strict=True)}
    place = {
        (r["user_id"], r["item_id"]): r["rank"]
        for r in pq.read_table(ranked.recommendations / "recommendations.parquet").to_pylist()
    }
    for row in pq.read_table(tmp_path / "e/ranks.parquet", filters=[("method", "==", "calrec")]).to_pylist():
        assert row["rank"] == place.get((row["user_id"], target[row["user_id"]]), 0)


def test_the_reports_hold_every_method_and_are_whole(small: SimpleNamespace, ranked: SimpleNamespace, tmp_path: Path):
    evaluate(small.texts, ranked.generations, ranked.recommendations, tmp_path / "e", SMALL)
    page, markdown = (tmp_path / "e/report.html").read_text(), (tmp_path / "e/report.md").read_text()
    for name in ("CALRec", "Popularity", "Markov (last item)", "BM25 on the last item"):
        assert name in page and name in markdown
    assert page.count("<svg") == page.count("</svg>") == 2 and "http" not in page.replace("http-equiv", "")


def altered(ranked: SimpleNamespace, tmp_path: Path, change) -> Path:
    table = pq.read_table(ranked.recommendations / "recommendations.parquet").to_pylist()
    change(table)
    import pyarrow as pa

    manifest = artifacts.read_manifest(ranked.recommendations)
    with artifacts.writing(tmp_path / "r") as folder:
        artifacts.write_table(
            folder, "recommendations.parquet", pa.Table.from_pylist(table, schema=artifacts.RECOMMENDATIONS)
        )
        artifacts.finish(folder, manifest)
    return tmp_path / "r"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[1].update(item_id=t[0]["item_id"]), r"1 faults .*item i\d+ twice in the list of user u"),
        (lambda t: t[0].update(item_id="nope"), "unknown item nope of user u"),
        (lambda t: t[0].update(user_id="nobody"), "unknown user nobody"),
        (lambda t: t.pop(), "has 11 items, expected 12"),
        (lambda t: t.clear(), "no user at all"),
    ],
)
def test_faulty_rankings_are_refused(
    small: SimpleNamespace, ranked: SimpleNamespace, tmp_path: Path, change, message: str
):
    faulty = altered(ranked, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        evaluate(small.texts, ranked.generations, faulty, tmp_path / "e", SMALL)
    assert not (tmp_path / "e").exists()


def test_a_cut_off_deeper_than_the_lists_is_refused(small: SimpleNamespace, ranked: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="looks at rank 20 but .* has 12 items per user; raise retrieve.k"):
        evaluate(small.texts, ranked.generations, ranked.recommendations, tmp_path / "e", EvaluateConfig())
