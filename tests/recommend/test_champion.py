"""The champion's lists for the users of a test, and for everybody."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import BatchConfig, EvaluateConfig, GenerateConfig, RetrieveConfig
from calrec.evaluate.rankings import drift_of, of_champion
from calrec.evaluate.report.drift import warnings
from calrec.evaluate.step import evaluate, headline
from calrec.generate.step import generate
from calrec.launch.shared_folder import publish
from calrec.recommend.champion import rank, recommend
from calrec.recommend.drift import profile
from calrec.retrieve import stored
from calrec.retrieve.step import retrieve

GENERATE = GenerateConfig(samples=6, max_new_tokens=20, max_users=15, threads=1)
RETRIEVE = RetrieveConfig(k=5, threads=1)


def version(folder: Path, small: SimpleNamespace, generate_: GenerateConfig = GENERATE, **index: Any) -> Path:
    """The folder of a registered version, as the registry keeps it."""
    stored.build(small.texts, small.tokens, small.base, "home", folder / "index", RETRIEVE, **index)
    shutil.copytree(small.base, folder / "model")
    settings = {"generate": asdict(generate_), "retrieve": asdict(RETRIEVE)}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "profile.json").write_text(json.dumps(profile(small.texts, "home")))
    (folder / "card.md").write_text("# home\n")
    artifacts.finish(folder, Manifest("version"))
    return folder


@pytest.fixture(scope="module")
def made(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("champion")
    generate(small.texts, small.tokens, small.base, root / "g", "home", GENERATE)
    retrieve(small.texts, root / "g", root / "r", RETRIEVE, small.base, small.tokens)
    other = replace(GENERATE, temperature=0.9)
    return SimpleNamespace(
        root=root, generations=root / "g", lists=root / "r", champion=version(root / "v", small, other)
    )


def ranked(
    made: SimpleNamespace, small: SimpleNamespace, out: Path, folder: Path | None, config: RetrieveConfig = RETRIEVE
):
    return rank(folder, small.texts, made.generations, out, config)


def test_it_is_ranked_as_it_is_used_for_the_same_users_before_their_test_item(
    made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path
):
    """With its own settings through generate and retrieve the same lists come out."""
    done = ranked(made, small, tmp_path / "c", made.champion)
    assert done.counts == {"users": 15} and done.notes == ("ranked for 15 users",)
    generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", replace(GENERATE, temperature=0.9))
    retrieve(small.texts, tmp_path / "g", tmp_path / "r", RETRIEVE, small.base, small.tokens)
    expected = pq.read_table(tmp_path / "r/recommendations.parquet", columns=["user_id", "rank", "item_id"])
    found, order = pq.read_table(tmp_path / "c/rankings.parquet"), [("user_id", "ascending"), ("rank", "ascending")]
    assert found.sort_by(order) == expected.sort_by(order)
    evaluate(
        small.texts, made.generations, made.lists, tmp_path / "e", EvaluateConfig(recall_at=(1, 5), ndcg_at=(5,)),
        champion=tmp_path / "c",
    )  # fmt: skip
    document = json.loads((tmp_path / "e/metrics.json").read_text())
    assert len(document["drift"]["figures"]) == 6 and set(document["drift"]["figures"].values()) == {0.0}
    methods = document["methods"]
    assert list(methods)[:2] == ["calrec", "champion"]
    assert set(methods["champion"]["against"]) == {"recall_at_1", "recall_at_5", "ndcg_at_5", "mrr"}
    assert "| Champion" in (tmp_path / "e/report.md").read_text()


def test_the_challengers_filter_and_length_hold_for_both(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    ranked(made, small, tmp_path / "c", made.champion, RetrieveConfig(k=1, exclude_seen=True, threads=1))
    assert set(pq.read_table(tmp_path / "c/rankings.parquet")["rank"].to_pylist()) == {1}


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda folder: None, "there is no champion yet"),
        (lambda folder: (folder / "settings.json").unlink(), "cannot be ranked.*settings.json"),
        (lambda folder: (folder / "settings.json").write_text("{}"), "cannot be ranked.*settings.json changed"),
        (lambda folder: unknown(folder), "unknown key of generate"),
        (lambda folder: (folder / "index" / "bm25.json").write_text("{}"), "cannot be ranked.*bm25.json changed"),
        (lambda folder: shutil.rmtree(folder / "model"), "cannot be ranked"),
    ],
)  # fmt: skip
def test_one_that_cannot_be_ranked_is_a_note_and_no_method(
    made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path, damage: Any, note: str
):
    folder = tmp_path / "v"
    shutil.copytree(made.champion, folder)
    absent = damage(folder) is None and note.startswith("there")
    done = ranked(made, small, tmp_path / "c", None if absent else folder)
    assert done.counts == {"users": 0} and of_champion(tmp_path / "c") == {}
    assert re.search(note, done.notes[0]), done.notes
    assert len(done.notes) == 1 and (drift_of(tmp_path / "c") is None) == absent  # its index tells of its data


def unknown(folder: Path) -> None:
    """Settings of another version of calrec, registered as they are."""
    (folder / "settings.json").write_text('{"generate": {"tree": 1}}')
    (folder / "manifest.json").unlink()
    artifacts.finish(folder, Manifest("version"))


def test_one_without_an_index_tells_nothing_of_its_data(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    shutil.copytree(made.champion, tmp_path / "v")
    shutil.rmtree(tmp_path / "v/index")
    done = ranked(made, small, tmp_path / "c", tmp_path / "v")
    assert "cannot be ranked" in done.notes[0] and "moved from the champion's is not known" in done.notes[1]
    assert drift_of(tmp_path / "c") is None


def test_the_data_that_came_after_the_champion_are_drift(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    """A champion of before an item was sold; the figures go from its step to metrics, notes and report."""
    folder = tmp_path / "v"
    shutil.copytree(made.champion, folder)
    items = pq.read_table(folder / "index/items.parquet")
    artifacts.write_table(folder / "index", "items.parquet", items.filter(pc.not_equal(items["item_id"], "i0")))
    ranked(made, small, tmp_path / "c", folder)
    log = pq.read_table(small.root / "home/interactions.parquet")
    bought = pc.mean(pc.equal(log["item_id"], "i0").cast("float64")).as_py()
    found = drift_of(tmp_path / "c")
    assert found.figures["new_items_share"] == pytest.approx(1 / 12)
    assert found.figures["new_items_event_share"] == pytest.approx(bought)
    config = EvaluateConfig(recall_at=(5,), ndcg_at=(5,), baselines=())
    done = evaluate(small.texts, made.generations, made.lists, tmp_path / "e", config, champion=tmp_path / "c")
    assert json.loads((tmp_path / "e/metrics.json").read_text())["drift"]["figures"] == found.figures
    assert headline(done)["drift_new_items_event_share"] == round(bought, 4)
    assert "| New items in the catalogue | 8.3 % |" in (tmp_path / "e/report.md").read_text()
    assert list(done.notes) == warnings(found)


def test_too_few_shared_items_are_a_note(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    done = ranked(made, small, tmp_path / "c", made.champion, RetrieveConfig(k=5, exclude_seen=True, threads=1))
    assert "too few for lists of 5" in done.notes[0] and of_champion(tmp_path / "c") == {}


def test_the_champion_itself_is_not_compared_with_itself(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    done = ranked(made, small, tmp_path / "c", version(tmp_path / "v", small))
    assert done.notes == ("the model is the champion",) and of_champion(tmp_path / "c") == {}


def test_a_batch_is_for_every_user_of_a_log(made: SimpleNamespace, small: SimpleNamespace, tmp_path: Path):
    done = recommend(made.champion, small.root / "home", tmp_path / "b", BatchConfig(k=3))
    log = artifacts.read_manifest(small.root / "home")
    assert done.counts["users"] == log.counts["users"] == 40
    assert done.counts["rows"] == 3 * 40 and done.counts["unknown_items"] == 0
    publish(tmp_path / "b", str(tmp_path / "out"), "home")
    publish(tmp_path / "b", "", "home")
    of_target = tmp_path / "out/target=home"
    latest = of_target / (of_target / "_latest").read_text()
    assert (latest / "_manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()
    table = pq.read_table(tmp_path / "out")  # the whole of it is one table
    assert len(table) == 3 * 40 and pc.unique(table["target"]).to_pylist() == ["home"]
    assert pc.unique(table["content"]).to_pylist() == [done.digest]
