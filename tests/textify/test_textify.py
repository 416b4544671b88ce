"""Splits, text groups and token assembly."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec import artifacts
from calrec.model import checkpoint
from calrec.model.loading import load_model, load_users
from calrec.textify import sequences
from calrec.textify.step import textify
from calrec.textify.texts import prompt
from calrec.textify.tokens import TokenCache, encode_items, encode_phrases
from tests.conftest import shared


def test_leave_last_out_holds_out_the_last_two():
    train_end, valid_at, test_at = sequences.leave_last_out(np.array([3, 5]))
    assert (train_end.tolist(), valid_at.tolist(), test_at.tolist()) == ([1, 3], [1, 3], [2, 4])


def test_no_held_out_event_is_in_training(small: SimpleNamespace):
    users = load_users(small.texts)
    for items, end, valid, test in zip(users.items, users.train_end, users.valid_at, users.test_at, strict=True):
        assert end == valid < test == len(items) - 1


def test_train_counts_leave_out_what_is_held_out():
    histories = [np.array([0, 1, 1, 2], np.int32), np.array([2, 0, 1], np.int32)]
    assert sequences.train_counts(histories, np.array([2, 1]), 3).tolist() == [1, 1, 1]


def test_groups_are_numbered_by_frequency_then_text_inside_a_domain():
    groups = sequences.text_groups(
        ["b", "a", "b", "c", "b"], ["x", "x", "x", "x", "y"], np.array([1, 2, 2, 2, 9])
    )  # fmt: skip
    assert groups.tolist() == [0, 1, 0, 2, 3]  # b has 3 in x; a and c tie at 2; y comes after x


def test_sequences_keep_every_interaction_in_order(small: SimpleNamespace):
    items = artifacts.read_table(small.texts, "items.parquet", "texts")["item_id"].to_pylist()
    users = load_users(small.texts, ["home"])
    log = artifacts.read_table(small.root / "home", "interactions.parquet", "interactions")
    read = [(user, items[code]) for user, codes in zip(users.user_id, users.items, strict=True) for code in codes]
    assert read == list(zip(log["user_id"].to_pylist(), log["item_id"].to_pylist(), strict=True))


def test_a_category_given_twice_is_refused(small: SimpleNamespace, tmp_path: Path):
    from calrec.config import TextConfig

    with pytest.raises(ValueError, match="a category comes twice: home, home"):
        textify([small.root / "home", small.root / "home"], tmp_path / "x", TextConfig())


def test_an_unknown_category_lists_the_known(small: SimpleNamespace):
    with pytest.raises(ValueError, match="unknown category 'cellar'; .* holds: garden, home"):
        load_users(small.texts, ["cellar"])


def test_assembled_prompts_equal_tokenised_texts(small: SimpleNamespace):
    _, tokenizer, cache, _ = load_model(small.base, small.tokens, small.texts)
    texts = artifacts.read_table(small.texts, "items.parquet", "texts")["text"].to_pylist()
    for history in ([0], [3, 1, 2], []):
        whole = tokenizer(prompt([texts[i] for i in history]), add_special_tokens=False)["input_ids"]
        assert cache.history(history)[0].tolist() == whole


def test_assembled_prompts_of_a_sentencepiece_checkpoint_are_exact():
    folder = shared("models", "aidreams-260k")
    _, tokenizer = checkpoint.load(folder)
    texts = [f"Title: Thing {i}. Price: {i}.50." for i in range(30)]
    ids, _, exact, prefix = encode_items(texts, tokenizer, 64)
    opening, following = encode_phrases(tokenizer, prefix)
    assembled = [*opening.tolist(), *ids[3].tolist(), *following.tolist()]
    assert exact == 1.0
    assert assembled == tokenizer(prompt([texts[3]]))["input_ids"]


def cache_of(lengths: list[int], max_tokens: int) -> TokenCache:
    items = [np.full(n, 10 + i, np.int32) for i, n in enumerate(lengths)]
    return TokenCache(np.array([1, 2], np.int32), np.array([3], np.int32), items, end=0, max_tokens=max_tokens)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(2, 40), st.data())
def test_a_long_history_loses_whole_oldest_items(lengths: list[int], max_tokens: int, data: st.DataObject):
    cache = cache_of(lengths, max_tokens)
    history = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    ids, ends, kept = cache.history(history)
    newest = history[len(history) - kept :]
    expected = [1, 2]
    for item in newest:
        expected += [10 + item] * lengths[item] + [3]
    assert ids.tolist() == expected
    assert len(ids) <= max(max_tokens, 2)
    assert [ids[end] for end in ends] == [10 + item for item in newest]
    if kept < len(history):  # one more would not have fitted
        assert len(ids) + lengths[history[-kept - 1]] + 1 > max_tokens


def test_a_target_ends_with_the_end_token():
    assert cache_of([3], 99).target(0).tolist() == [10, 10, 10, 0]
