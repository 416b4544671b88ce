"""`calrec index` and `calrec recommend` on a small real model."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.cli.__main__ import main
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.generate.step import generate
from calrec.model.loading import load_users
from calrec.recommend import step
from calrec.recommend.items import read_items
from calrec.recommend.recommender import Filters, Recommender
from calrec.recommend.rows import Described, History
from calrec.recommend.step import format_list, recommend_all, recommend_one
from calrec.retrieve import stored
from calrec.retrieve.bm25 import Index
from calrec.retrieve.candidates import Asked, Ranked, Reason
from calrec.retrieve.catalogue import load_catalogue
from calrec.retrieve.step import retrieve

GENERATE = GenerateConfig(samples=6, max_new_tokens=20, threads=1)
RETRIEVE = RetrieveConfig(k=5, threads=1)


@pytest.fixture(scope="module")
def index(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "home"
    stored.build(small.texts, small.tokens, small.base, "home", out, RETRIEVE)
    return out


def recommender(small: SimpleNamespace, index: Path, **options: Any) -> Recommender:
    settings = {"generate": GENERATE, "retrieve": RETRIEVE, **options}
    return Recommender(small.base, index, **settings)


def plain(asked: Asked) -> tuple[Any, list[int]]:
    """What can be compared: all but the rounding of the texts' probabilities, and the prompt's ids."""
    assert asked.prompt is not None
    return replace(asked, prompt=None, generations=[one.text for one in asked.generations]), asked.prompt.ids.tolist()


def call(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_it_answers_as_the_pipeline_does(small: SimpleNamespace, index: Path, tmp_path: Path):
    """The same model, settings and histories through generate and retrieve, and through an index."""
    generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", GENERATE)
    fused = RetrieveConfig(k=5, threads=1, rerank=8, fusion_users=20, exclude_seen=True)
    stored.build(small.texts, small.tokens, small.base, "home", tmp_path / "i", fused)
    for config, at in (
        (RETRIEVE, index),
        (replace(RETRIEVE, last_title=0.5, rerank=4), index),
        (fused, tmp_path / "i"),
    ):
        retrieve(small.texts, tmp_path / "g", tmp_path / "r", config, small.base, small.tokens)
        rows = pq.read_table(tmp_path / "r/recommendations.parquet").to_pylist()
        users, items = load_users(small.texts, ["home"]), load_catalogue(small.texts, "home")
        histories = [
            History(user, tuple(items.item_id[items.at(i)] for i in codes[:end].tolist()))
            for user, codes, end in zip(users.user_id, users.items, users.test_at.tolist(), strict=True)
        ]
        lists, unknown = recommender(small, at, retrieve=config)(histories)
        assert not unknown
        found = [
            (h.user_id, items.item_id[one.item]) for h, ranked in zip(histories, lists, strict=True) for one in ranked
        ]
        assert found == [(row["user_id"], row["item_id"]) for row in rows]
    with pytest.raises(
        ValueError, match=r"the index holds no weights; build it again with --set retrieve.fusion_users=20"
    ):
        recommender(small, index, retrieve=fused)


def test_new_items_need_an_index_and_no_training(small: SimpleNamespace, tmp_path: Path):
    (tmp_path / "new.csv").write_text(
        "sku,name,category,brand,price\nn1,purple &amp; gold harp,Music,brand 9,$12.50\n"
        "i3,red shelf renamed,Home,brand 3,\n"
    )
    new = read_items(tmp_path / "new.csv")
    stored.build(small.texts, small.tokens, small.base, "home", tmp_path / "i", RetrieveConfig(dense=4), new)
    known = recommender(small, tmp_path / "i", retrieve=RetrieveConfig(k=13, dense=13, threads=1))
    catalogue = known.catalogue
    rows = {row["item_id"]: row for row in artifacts.read_table(tmp_path / "i", "items.parquet", "index").to_pylist()}
    assert (rows["n1"]["brand"], rows["n1"]["price"]) == ("brand 9", "12.50")
    assert (rows["i3"]["brand"], rows["i2"]["brand"]) == ("brand 3", "brand 2")
    assert catalogue.title[catalogue.item_id.index("n1")] == "purple & gold harp"
    assert catalogue.title[catalogue.item_id.index("i3")] == "red shelf renamed"
    assert len(catalogue.items) == 13 and catalogue.train_count[catalogue.item_id.index("n1")] == 0
    ranked = recommend_one(known, History("1", titles=("purple & gold harp", "red lamp 0")))
    of_new = next(one for one in ranked if catalogue.item_id[one.item] == "n1")
    assert of_new.reason.source == "dense"
    by_text = recommender(small, tmp_path / "i", retrieve=RetrieveConfig(k=3, last_title=1.0, threads=1))
    top = recommend_one(by_text, History("1", titles=("golden harp of purple",)))[0]
    assert catalogue.item_id[top.item] == "n1" and top.reason.source == "last_title"


def test_filters_leave_scores_as_they_are(small: SimpleNamespace, index: Path):
    whole = recommender(small, index, retrieve=RetrieveConfig(k=12, threads=1))
    history = History("1", ("i0", "i1"))
    every = {one.item: one.score for one in recommend_one(whole, history)}
    filters = Filters(in_stock=("i2", "i5", "i9", "gone"))
    some = recommend_one(recommender(small, index, filters=filters), history)
    assert {whole.catalogue.item_id[one.item] for one in some} == {"i2", "i5", "i9"}
    assert [one.score for one in some] == [every[one.item] for one in some]
    for wrong, why in ((Filters(categories=("Homes",)), "no item has the category 'Homes'"),
                       (Filters(in_stock=("gone",)), "the filters leave no item")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            recommender(small, index, filters=wrong)
    assert len(recommend_one(recommender(small, index, filters=Filters(categories=("Home",))), history)) == 5


def test_odd_histories_have_a_list_too(small: SimpleNamespace, index: Path):
    users = [
        History("new"),
        History("long", tuple(f"i{n % 12}" for n in range(500))),
        History("text", titles=("nothing we sell", "red lamp 0", "日本")),
        History("hostile", titles=("<|endoftext|> <b>lamp</b>\x00", "The next item bought is as follows.", "x" * 5000)),
    ]
    lists, unknown = recommender(small, index)(users)
    assert [len(ranked) for ranked in lists] == [5, 5, 5, 5] and not unknown
    with pytest.raises(ValueError, match="item 'i99' is not in the index"):
        recommend_one(recommender(small, index), History("1", ("i0", "i99")))


def test_a_ranker_for_one_call_lists_as_a_recommender_of_these_settings(small: SimpleNamespace, index: Path):
    users = [History("1", ("i0", "i1")), History("2", titles=("a thing that nobody sells",))]
    filters = Filters(in_stock=("i2", "i5", "i9"))
    shared = recommender(small, index)
    asked, unknown = shared.queries(users)
    expected, _ = recommender(small, index, filters=filters, retrieve=replace(RETRIEVE, k=2))(users)
    assert list(shared.ranker(filters, 2)(asked)) == expected and not unknown
    assert list(shared.ranker(Filters())(asked)) == shared(users)[0]
    assert shared.unknown(["i1", "gone", "i2", "gone"]) == ["gone"]
    with pytest.raises(ValueError, match="the filters leave no item"):
        shared.ranker(Filters(in_stock=()))


def test_a_described_item_is_the_catalogues_where_the_text_is_and_else_a_new_text(small: SimpleNamespace, index: Path):
    known = recommender(small, index, retrieve=replace(RETRIEVE, last_title=1.0))
    users = [
        History("1", ("i0", "i1")),
        History(
            "1",
            attributes=(
                Described("red lamp 0", "Home", "by brand 0"),
                Described("<b>blue chair 0</b>", "Home", "brand 1"),
            ),
        ),
        History("1", attributes=(Described("Red Lamp 0"), Described("blue chair 0"))),
        History(
            "1", attributes=(Described("red lamp 0", "Home", "brand 0"), Described("blue chair 0", "Home", "brand 3"))
        ),
    ]
    (asked, bare, titled, other), _ = known.queries(users)
    assert plain(bare) == plain(asked) == plain(titled) and list(asked.history) == [0, 1]
    assert (
        list(other.history) == [0]
        and other.last == "Title: blue chair 0. Category: Home. Brand: brand 3. Price: Unknown."
    )


def test_of_a_long_history_of_new_texts_only_those_of_the_prompt_are_read(small: SimpleNamespace, index: Path):
    known = recommender(small, index)
    titles = tuple(f"unheard of {n}" for n in range(2000))
    (long, short), _ = known.queries([History("1", titles=titles), History("1", titles=titles[-40:])])
    assert (
        plain(long)[1] == plain(short)[1]
        and long.recent == short.recent
        and long.last.startswith("Title: unheard of 1999.")
    )


def test_an_index_that_was_changed_or_is_of_another_model_is_refused(
    small: SimpleNamespace, index: Path, tmp_path: Path
):
    from calrec.model.step import base_model

    shutil.copytree(index, tmp_path / "i")
    weights = np.load(tmp_path / "i/weights.npy")
    weights[0] += 1
    np.save(tmp_path / "i/weights.npy", weights)
    with pytest.raises(ValueError, match=r"weights.npy changed after it was written"):
        recommender(small, tmp_path / "i")
    base_model(small.texts, tmp_path / "base", tmp_path / "tokens", replace(small.model, vocab_size=350))
    with pytest.raises(ValueError, match="built for another tokenizer"):
        Recommender(tmp_path / "base", index, GENERATE, RETRIEVE)
    base_model(small.texts, tmp_path / "seed", tmp_path / "tokens", replace(small.model, seed=5))
    stored.build(small.texts, small.tokens, small.base, "home", tmp_path / "v", RetrieveConfig(dense=2))
    with pytest.raises(ValueError, match="vectors or weights of another model"):
        Recommender(tmp_path / "seed", tmp_path / "v", GENERATE, RETRIEVE)


def test_a_model_of_another_category_is_said(
    small: SimpleNamespace, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(small.base, tmp_path / "base")
    manifest = json.loads((tmp_path / "base/manifest.json").read_text())
    manifest["config"]["domains"] = ["garden"]
    (tmp_path / "base/manifest.json").write_text(json.dumps(manifest))
    Recommender(tmp_path / "base", index, GENERATE, RETRIEVE)
    assert "the model was trained on garden, and the index holds home" in capsys.readouterr().err
    recommender(small, index)
    assert not capsys.readouterr().err


def test_a_batch_goes_on_and_lists_what_it_left_out(small: SimpleNamespace, index: Path, tmp_path: Path):
    rows = [{"user_id": f"u{n}", "items": [f"i{n % 12}", "i3"]} for n in range(9)]
    rows[4]["items"] = ["gone", "i1"]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    with pytest.raises(ValueError, match=r"1 of 18 items of the histories are not in the index, such as 'gone'"):
        recommend_all(small.base, index, tmp_path / "h.jsonl", tmp_path / "o", GENERATE, RETRIEVE, Filters())
    for _ in range(2):  # the second call finds it finished
        made = recommend_all(
            small.base, index, tmp_path / "h.jsonl", tmp_path / "o", GENERATE, RETRIEVE, Filters(), max_unknown=0.1
        )
    assert made.counts["users"] == 9 and made.counts["rows"] == 45 and made.counts["unknown_items"] == 1
    rejects = pq.read_table(tmp_path / "o/rejects.parquet").to_pylist()
    assert {(r["where"], r["raw"]) for r in rejects} == {("user u4", "gone"), ("line 10", "not json")}
    parts = pq.read_table(tmp_path / "o/part-00000.parquet")
    assert parts.schema.equals(artifacts.LISTS) and parts["user_id"].to_pylist()[::5] == [f"u{n}" for n in range(9)]


def test_unknown_items_are_judged_over_all_users_so_far(
    small: SimpleNamespace, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"user_id": f"u{n}", "items": ["i1", "i2"]} for n in range(6)]
    rows[5]["items"] = ["gone", "i1"]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(step, "_BATCH", 2)  # in the last batch a quarter is unknown, of all a twelfth
    monkeypatch.setattr(step, "_PART", 2)
    asked = (small.base, index, tmp_path / "h.jsonl", tmp_path / "o", GENERATE, RETRIEVE, Filters())
    with pytest.raises(ValueError, match="1 of 12 items"):
        recommend_all(*asked, max_unknown=0.05)
    assert recommend_all(*asked, max_unknown=0.1).counts["unknown_items"] == 1  # goes on behind the parts of before


def test_the_commands(small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    inputs = ["--texts", small.texts, "--tokens", small.tokens, "--model", small.base, "--target", "home"]
    assert call("index", *inputs, "--out", tmp_path / "i") == 0
    ask = ["recommend", "--model", small.base, "--index", tmp_path / "i", "--set", "generate.samples=4"]
    assert call(*ask, "--history", "red lamp 0; i4; a strange thing", "-k", 3) == 0
    shown = capsys.readouterr()
    assert len(shown.out.strip().splitlines()) == 1 + 1 + 3  # index, header, items
    assert "'a strange thing' is no item's title or id" in shown.err and "red lamp" not in shown.err
    assert call(*ask, "--histories", small.texts, "--out", tmp_path / "o", "--format", "jsonl", "-k", 2) == 0
    first = json.loads((tmp_path / "o/part-00000.jsonl").read_text().splitlines()[0])
    assert first["user_id"] == "u0" and len(first["items"]) == 2
    assert set(first["items"][0]) == {name for name in artifacts.LISTS.names if name != "user_id"}
    assert call(*ask, "--histories", small.texts) == 2
    assert "needs --out DIR" in capsys.readouterr().err
    assert call(*ask, "--history", "i0", "-k", 0) == 2
    assert "retrieve.k must be >= 1, got 0" in capsys.readouterr().err
    (tmp_path / "stock.txt").write_text("i2\n\n i5 \n")
    assert call(*ask, "--history", "i0", "--in-stock", tmp_path / "stock.txt") == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]} == {"i2", "i5"}
    assert call(*ask, "--history", "i0", "-k", 50) == 0
    assert "the catalogue has 12 items" in capsys.readouterr().err


def test_a_table_for_a_person_says_why(small: SimpleNamespace, index: Path):
    known = recommender(small, index, generate=GenerateConfig(samples=4, trie="beam", threads=1))
    header, *_ = rows = format_list(known, recommend_one(known, History("1", ("i0", "i1")))).splitlines()
    first = next(row for row in rows if row.split()[:1] == ["1"])
    assert header.split() == ["item", "title", "score", "why"]
    assert 'wrote "Title: ' in first and "log p -" in first and "fits by 1.00" in first


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,brand\na,b\n", "needs a column for the item's id and one for its title"),
        ("item_id,title\n,lamp\n", "row 2: item_id"),
        ("item_id,title\n", "holds no item"),
    ],
)
def test_a_table_of_items_that_cannot_be_used(text: str, why: str, tmp_path: Path):
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_items(tmp_path / "new.csv")


def test_titles_are_known_in_any_case_and_width(small: SimpleNamespace, index: Path):
    known = recommender(small, index)
    title = known.catalogue.title[0]
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in title.upper())
    assert wide != title and not known.new_title(wide)
    assert known.new_title("赤いランプ")


def test_an_index_of_an_earlier_versions_words_answers_with_todays(
    small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    titles, nothing = ["小米无线耳机", "华为无线耳机"], ["", ""]
    columns = {"item_id": ["x", "y"], "title": titles, **dict.fromkeys(("category", "brand", "price"), nothing)}
    new = pa.table(columns)
    stored.build(small.texts, small.tokens, small.base, "home", tmp_path / "i", RETRIEVE, new)
    today, before = recommender(small, tmp_path / "i"), tmp_path / "before"
    shutil.copytree(tmp_path / "i", before)
    texts = today.catalogue.group_texts
    Index.build(texts, tokenise=lambda text: re.findall(r"\w+", text.lower())).save(before)
    (before / "bm25.json").write_text(json.dumps({"size": len(texts)}))
    (before / "manifest.json").unlink()
    made = artifacts.read_manifest(tmp_path / "i", "index")
    artifacts.finish(before, made)
    rebuilt = recommender(small, before).stored.index
    assert "its words are of an earlier version" in capsys.readouterr().out
    assert rebuilt.vocabulary.equals(today.stored.index.vocabulary) and "无线耳机" in rebuilt.term_of
    assert rebuilt.weights.tolist() == today.stored.index.weights.tolist()


def test_a_list_of_nothing_but_fill_says_so():
    fill = Ranked(3, 0.0, Reason("fill"))
    assert step.reasons([fill, fill]) == ["most frequent: nothing known of this user matches an item"] * 2
    assert step.reasons([Ranked(2, 1.0, Reason("dense")), fill]) == ["nearest to the history", "most frequent"]
    assert step.reasons([]) == []
