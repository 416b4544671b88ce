"""The champion's lists for the users of a test, and for everybody."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.config import BatchConfig, EvaluateConfig, GenerateConfig, RetrieveConfig
from calrec.evaluate.rankings import of_champion
from calrec.evaluate.step import evaluate
from calrec.exchange import publish
from calrec.generate.step import generate
from calrec.recommend.champion import rank, recommend
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
        rankings=of_champion(tmp_path / "c"),
    )  # fmt: skip
    methods = json.loads((tmp_path / "e/metrics.json").read_text())["methods"]
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
        (lambda folder: (folder / "settings.json").write_text('{"generate": {"tree": 1}}'), "unknown key of generate"),
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
    latest = tmp_path / "out/home" / (tmp_path / "out/home/latest").read_text()
    assert artifacts.read_manifest(latest, "batch") == done
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["home"]
