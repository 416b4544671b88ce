"""Base models: made from scratch, loaded, or refused."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from calrec import artifacts
from calrec.config import ModelConfig, TextConfig
from calrec.model import checkpoint, scratch
from calrec.model.loading import load_model, load_users
from calrec.model.step import base_model, histogram
from calrec.textify.step import textify
from calrec.textify.texts import LABELS, NEXT
from tests.conftest import shared

TEXTS = [f"Title: thing number {i}. Category: stuff." for i in range(50)]


def test_a_scratch_model_is_the_same_for_the_same_seed(small: SimpleNamespace, tmp_path: Path):
    base_model(small.texts, tmp_path / "again", tmp_path / "tokens", small.model)
    assert artifacts.read_manifest(tmp_path / "again").digest == artifacts.read_manifest(small.base).digest
    base_model(small.texts, tmp_path / "other", tmp_path / "tokens", ModelConfig(size="tiny", vocab_size=400, seed=1))
    assert artifacts.read_manifest(tmp_path / "other").digest != artifacts.read_manifest(small.base).digest


def test_a_scratch_tokenizer_round_trips_and_has_the_phrases_as_single_tokens():
    tokenizer = scratch.train_tokenizer(TEXTS, 400)
    text = " Title: thing – 日本. Category: stuff."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for phrase in (NEXT, *LABELS):
        assert len(tokenizer(f" {phrase}")["input_ids"]) == 1
    assert len(tokenizer) <= 400


def test_saved_models_carry_no_decoding_options(small: SimpleNamespace):
    assert not (small.base / "generation_config.json").exists()
    assert [p.name for p in small.base.glob("*.safetensors")] == ["model.safetensors"]


def test_the_toy_checkpoint_becomes_a_base_model(small: SimpleNamespace, tmp_path: Path):
    folder = shared("models", "aidreams-260k")
    textify([small.root / "home"], tmp_path / "texts", TextConfig(max_tokens=80, max_item_tokens=40))
    made, tokens = base_model(tmp_path / "texts", tmp_path / "m", tmp_path / "t", ModelConfig(name=str(folder)))
    assert made.counts["vocabulary"] == 512
    assert tokens.counts["assembled_exact_share"] == 1.0


def test_a_model_with_too_few_positions_is_refused_with_the_limit(small: SimpleNamespace, tmp_path: Path):
    folder = shared("models", "aidreams-260k")
    with pytest.raises(ValueError, match=r"= 161 tokens, but .* has 128 positions; lower text.max_tokens to 95"):
        base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(name=str(folder)))


def test_a_local_folder_is_loaded_as_it_is(small: SimpleNamespace, tmp_path: Path):
    made, _ = base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(name=str(small.base)))
    ours, theirs = checkpoint.load(tmp_path / "m")[0], checkpoint.load(small.base)[0]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert made.counts["parameters"] == sum(p.numel() for p in theirs.parameters())


def copy_of(small: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.base, tmp_path / "model"))


def test_pickle_weights_are_refused(small: SimpleNamespace, tmp_path: Path):
    folder = copy_of(small, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"must be safetensors, found only pickle weights \(pytorch_model.bin\)"):
        checkpoint.load(folder)


def test_code_of_its_own_is_refused(small: SimpleNamespace, tmp_path: Path):
    folder = copy_of(small, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ValueError, match="auto_map"):
        checkpoint.load(folder)


def test_a_tokenizer_without_end_token_is_refused(small: SimpleNamespace, tmp_path: Path):
    folder = copy_of(small, tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no end-of-text token"):
        checkpoint.load(folder)


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checkpoint.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        checkpoint.load(tmp_path / "empty")


def test_a_name_that_cannot_be_fetched_says_what_may_be_given(
    small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="model.name='nobody/nothing' is neither a local folder nor a model that can be"
    ):
        base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(name="nobody/nothing"))


def test_what_is_cut_and_lost_is_counted(small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    textify([small.root / "home"], tmp_path / "texts", TextConfig(max_tokens=40, max_item_tokens=10))
    _, made = base_model(tmp_path / "texts", tmp_path / "m", tmp_path / "t", small.model)
    _, tokenizer, cache, _ = load_model(tmp_path / "m", tmp_path / "t", tmp_path / "texts")
    texts = artifacts.read_table(tmp_path / "texts", "items.parquet", "texts")["text"].to_pylist()
    users = load_users(tmp_path / "texts")
    counts = made.counts
    assert counts["items_cut"] == sum(len(tokenizer(f" {text}")["input_ids"]) > 10 for text in texts) > 0
    kept = [cache.history(items[:at])[2] for items, at in zip(users.items, users.test_at, strict=True)]
    lost = users.test_at - np.array(kept)
    assert (counts["prompts"], counts["prompts_cut"]) == (len(users), (lost > 0).sum())
    assert counts["prompt_items_dropped"] == lost.sum() > 0
    lengths = [len(cache.history(items[:at])[0]) for items, at in zip(users.items, users.test_at, strict=True)]
    assert (counts["prompt_tokens_min"], counts["prompt_tokens_max"]) == (min(lengths), max(lengths))
    assert sum(count for _, count in counts["prompt_tokens_histogram"]) == len(users)
    assert sum(count for _, count in counts["item_tokens_histogram"]) == len(texts)
    assert f"{counts['items_cut']} of {len(texts)} cut at 10" in capsys.readouterr().out


def test_a_histogram_has_buckets_that_double():
    assert histogram(np.array([3, 4, 5, 8, 17])) == [["3-4", 2], ["5-8", 2], ["9-16", 0], ["17-32", 1]]
    assert histogram(np.array([0, 1, 2])) == [["0-1", 2], ["2", 1]]


def test_tokens_of_another_tokenizer_are_refused(small: SimpleNamespace, tmp_path: Path):
    base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(size="tiny", vocab_size=350))
    with pytest.raises(ValueError, match="was made with another tokenizer"):
        load_model(small.base, tmp_path / "t", small.texts)


def test_tokens_of_other_texts_are_refused(small: SimpleNamespace, tmp_path: Path):
    textify([small.root / "home"], tmp_path / "texts", TextConfig())
    with pytest.raises(ValueError, match="was made from other texts than"):
        load_model(small.base, small.tokens, tmp_path / "texts")


def test_whole_texts_are_single_tokens_when_they_are_frequent(small: SimpleNamespace, tmp_path: Path):
    items = artifacts.read_table(small.texts, "items.parquet", "texts").to_pylist()
    bound = max(item["train_count"] for item in items) - 1
    model = ModelConfig(size="tiny", vocab_size=400, whole_texts=bound)
    made, tokens = base_model(small.texts, tmp_path / "m", tmp_path / "t", model)
    _, tokenizer, cache, _ = load_model(tmp_path / "m", tmp_path / "t", small.texts)
    whole = {item["text"] for item in items if item["train_count"] >= bound}
    frequent = [item["text"] in whole for item in items]
    assert any(frequent) and not all(frequent)
    for code, item in enumerate(items):
        assert (len(cache.target(code)) == 2) == frequent[code], item["text"]  # the text and the end token
        assert tokenizer.decode(cache.target(code)[:-1]).strip() == item["text"]
    assert made.counts["vocabulary"] <= 400 + len(whole)
    assert tokens.counts["assembled_exact_share"] == 1.0


def test_a_whole_text_that_begins_another_is_told_apart():
    tokenizer = scratch.train_tokenizer(TEXTS, 400, ["Title: Reload.", "Title: Reload. Again.", "Title: Re."])
    for text in (" Title: Reload.", " Title: Reload. Again.", " Title: Re."):
        assert len(tokenizer(text)["input_ids"]) == 1 and tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" Title: Reloaded.")["input_ids"]) > 1


def test_directions_are_a_truncated_singular_value_decomposition():
    """Against numpy's decomposition of the weighed words, and of what few words leave."""
    texts = [f"{a} {b} lamp{n}" for n, (a, b) in enumerate(itertools.product(["red", "blue", "old"], ["tea", "cup"]))]
    found = scratch.directions(texts, 3, seed=0)
    vocabulary = ["red", "blue", "old", "tea", "cup"]  # lamp0 … lamp5 are in one text each
    matrix = np.array(
        [[(w in t.split()) * np.log(6 / sum(w in u.split() for u in texts)) for w in vocabulary] for t in texts]
    )
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    left, singular, _ = np.linalg.svd(matrix)
    expected = (left[:, :3] * singular[:3]) @ (left[:, :3] * singular[:3]).T
    lengths = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(found @ found.T, expected / np.outer(lengths, lengths), atol=1e-6)
    np.testing.assert_array_equal(found, scratch.directions(texts, 3, seed=0))


def test_texts_that_share_no_word_have_no_direction():
    assert not scratch.directions(["red lamp", "blue chair", "old pot"], 8, seed=0).any()


def test_whole_texts_begin_where_their_words_point():
    texts = [
        "Title: red tea lamp.",
        "Title: red tea pot.",
        "Title: blue cup.",
        "Title: blue cup again.",
        "Title: alone.",
    ]
    tokenizer = scratch.train_tokenizer(texts, 300, texts)
    plain, told = (scratch.fresh_model("tiny", tokenizer, 64, 0, whole) for whole in ([], texts))
    before, after = (network.get_input_embeddings().weight.detach() for network in (plain, told))
    assert torch.equal(before[:-5], after[:-5]) and not torch.equal(before[-5:], after[-5:])
    assert torch.equal(before[-1], after[-1])  # no word of it is another's
    unit = torch.nn.functional.normalize(after[-5:-1], dim=1)
    assert unit[0] @ unit[1] > 0.5 > abs(unit[0] @ unit[2])
