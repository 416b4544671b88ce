"""Histories, text groups, counts and the report; the step against a plain loop over rows."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from calrec import artifacts
from calrec.config import TextConfig
from calrec.model.loading import load_users
from calrec.textify import sequences
from calrec.textify.report import doubling, even
from calrec.textify.splits import leave_last_out
from calrec.textify.step import textify
from calrec.textify.texts import item_text, item_texts, prompt
from tests.textify.test_splits import CASES, Log, histories_of, write_log


def test_leave_last_out_holds_out_the_last_two():
    train_end, valid_at, test_at = leave_last_out(np.array([3, 5]))
    assert (train_end.tolist(), valid_at.tolist(), test_at.tolist()) == ([1, 3], [1, 3], [2, 4])


def test_no_held_out_event_is_in_training(small: SimpleNamespace):
    users = load_users(small.texts)
    for items, end, valid, test in zip(users.items, users.train_end, users.valid_at, users.test_at, strict=True):
        assert end == valid < test == len(items) - 1


def test_train_counts_leave_out_what_is_held_out():
    log: Log = {"x": {"u": [("a", 0), ("b", 1), ("b", 2), ("c", 3)], "v": [("c", 0), ("a", 1), ("b", 2)]}}
    assert sequences.train_counts(histories_of(log)[0], np.array([2, 1]), 3).tolist() == [1, 1, 1]


def test_groups_are_numbered_by_frequency_then_text_inside_a_domain():
    texts, domains = pa.chunked_array([["b", "a", "b"], ["c", "b"]]), pa.chunked_array([["x"] * 4 + ["y"]])
    groups = sequences.text_groups(texts, domains, np.array([1, 2, 2, 2, 9]))
    assert groups.tolist() == [0, 1, 0, 2, 3]  # b has 3 in x; a and c tie at 2; y comes after x


# --- the step -----------------------------------------------------------------------------------------------------

words = st.text(st.sampled_from("aZ é"), max_size=2)
logs = st.dictionaries(
    st.sampled_from(["x", "Y", "é"]),
    st.dictionaries(words, st.lists(st.tuples(words, st.integers(0, 9)), min_size=3, max_size=9), min_size=1),
    min_size=1,
)


@settings(deadline=None, max_examples=60)
@given(logs, st.integers(1, 5), st.sampled_from(["Thing", "é"]))
def test_the_tables_are_those_of_a_plain_loop(tmp_path_factory, log: Log, batch: int, title: str):
    root = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_BATCH", batch)  # users are cut apart by the borders of batches
        # items of one category alone: an event that two share would be refused
        log = {d: {u: [(f"{d}{i}", t) for i, t in events] for u, events in users.items()} for d, users in log.items()}
        textify(write_log(root, log, title=title), root / "texts", TextConfig(attributes=("title", "brand")))
    items, codes, counts = [], {}, {}
    for domain in sorted(log):
        for item in sorted({i for events in log[domain].values() for i, _ in events}):
            codes[domain, item] = len(items)
            text = item_text({"title": f"{title} {item}", "brand": ""}, ("title", "brand"))
            nothing = dict.fromkeys(("category", "brand", "price"), "")
            items.append({"item_id": item, "domain": domain, "title": f"{title} {item}", **nothing, "text": text})
    rows = []
    for domain in sorted(log):
        for user, events in log[domain].items():
            history, end = [codes[domain, i] for i, _ in events], len(events) - 2
            rows.append({"user_id": user, "domain": domain, "items": history, "train_end": end, "valid_at": end,
                         "test_at": end + 1})  # fmt: skip
            for code in history[:end]:
                counts[code] = counts.get(code, 0) + 1
    order = sorted(range(len(items)), key=lambda c: (items[c]["domain"], -counts.get(c, 0), items[c]["text"]))
    for code, item in enumerate(items):
        item |= {"group": order.index(code), "train_count": counts.get(code, 0)}  # every text is another one here
    assert pq.read_table(root / "texts/sequences.parquet").to_pylist() == rows
    assert pq.read_table(root / "texts/items.parquet").to_pylist() == items


def test_sequences_keep_every_interaction_in_order(small: SimpleNamespace):
    items = artifacts.read_table(small.texts, "items.parquet", "texts")["item_id"].to_pylist()
    users = load_users(small.texts, ["home"])
    log = artifacts.read_table(small.root / "home", "interactions.parquet", "interactions")
    read = [(user, items[code]) for user, codes in zip(users.user_id, users.items, strict=True) for code in codes]
    assert read == list(zip(log["user_id"].to_pylist(), log["item_id"].to_pylist(), strict=True))


def test_a_category_given_twice_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="a category comes twice: home, home"):
        textify([small.root / "home", small.root / "home"], tmp_path / "x", TextConfig())


def test_an_unknown_category_lists_the_known(small: SimpleNamespace):
    with pytest.raises(ValueError, match="unknown category 'cellar'; .* holds: garden, home"):
        load_users(small.texts, ["cellar"])


def test_a_category_without_any_title_is_refused(tmp_path: Path):
    folders = write_log(tmp_path, {"x": CASES}) + write_log(tmp_path, {"y": CASES}, title="")
    with pytest.raises(ValueError, match="y: none of its 6 items has a title, .* give the metadata .* or leave y out"):
        textify(folders, tmp_path / "t", TextConfig())
    with pytest.raises(ValueError, match="none of its 6 items has a brand or price"):
        textify(folders[:1], tmp_path / "t", TextConfig(attributes=("brand", "price")))


ATTRIBUTES = ("title", "category", "brand", "price")
rows_of_items = st.lists(st.tuples(*[st.sampled_from(["", None, "a", "é b.", "Unknown"])] * 4), max_size=4)


@given(rows_of_items, st.permutations(ATTRIBUTES), st.integers(1, 4))
def test_texts_of_a_table_are_those_of_its_rows(values: list[tuple[str, ...]], order: list[str], n: int):
    rows = [dict(zip(ATTRIBUTES, row, strict=True)) for row in values]
    table = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in ATTRIBUTES]))
    assert item_texts(table, order[:n]).to_pylist() == [item_text(row, order[:n]) for row in rows]


# --- what a person sees -------------------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_data(small: SimpleNamespace):
    counts = artifacts.read_manifest(small.texts).counts
    items = artifacts.read_table(small.texts, "items.parquet", "texts").to_pylist()
    chars = [len(item["text"]) for item in items]
    assert counts["mean_text_chars"] == round(float(np.mean(chars)), 1)
    assert (counts["median_text_chars"], counts["max_text_chars"]) == (sorted(chars)[(len(chars) - 1) // 2], max(chars))
    for domain in ("home", "garden"):
        users, of = load_users(small.texts, [domain]), counts["by_category"][domain]
        texts = [item["text"] for item in items if item["domain"] == domain]
        assert (of["items"], of["text_groups"]) == (len(texts), len(set(texts)))
        assert of["items_with_shared_text"] == sum(texts.count(text) > 1 for text in texts)
        assert of["users"] == of["users_with_test"] == of["users_with_validation"] == len(users)
        assert of["users_who_train"] == sum(end >= 2 for end in users.train_end)
        assert of["interactions"] == sum(map(len, users.items))
        assert of["interactions_in_training"] == users.train_end.sum() and of["interactions_unused"] == 0


def test_the_report_shows_whole_prompts_of_real_users(small: SimpleNamespace):
    texts = artifacts.read_table(small.texts, "items.parquet", "texts")["text"].to_pylist()
    users = load_users(small.texts)
    all_of_them = {
        f"    {prompt([texts[i] for i in items[:at]])}\n    -> {texts[items[at]]}\n"
        for items, at in zip(users.items, users.test_at, strict=True)
    }
    report = (small.texts / "report.md").read_text()
    shown = [one for one in all_of_them if one in report]
    assert len(shown) == 3 == report.count("\n    -> ")
    page = (small.texts / "report.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 3 and "http" not in page
    assert all(escape(line.strip().removeprefix("-> ")) in page for one in shown for line in one.splitlines())


@given(st.lists(st.integers(0, 5000)), st.sampled_from([doubling, even]))
def test_bins_hold_every_value_once(values: list[int], bins):
    bars = [
        ([int(n.replace(",", "")) for n in label.split(" – ")], count) for label, count in bins(np.array(values, int))
    ]
    assert len(bars) <= 15 and sum(count for _, count in bars) == len(values)
    for bounds, count in bars:
        assert count == sum(bounds[0] <= value <= bounds[-1] for value in values)
