"""Where no phrase stands between items: a text never begins with the end token, whoever writes or scores it."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from calrec.arrays.ragged import Ragged
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig, StageConfig, TextConfig
from calrec.finetune.step import finetune
from calrec.generate import constrained, hf, shared_prefix
from calrec.generate.samples import Generation
from calrec.generate.scoring import logprobs
from calrec.generate.step import _count, _shares, generate
from calrec.model.loading import load_model
from calrec.model.step import base_model
from calrec.report import manifests
from calrec.retrieve.step import retrieve
from calrec.textify.step import textify
from tests.finetune.networks import VOCABULARY
from tests.generate.exact import END, asked, closed, few_tokens, lively, plain_logits, plain_logprob

CONFIG = GenerateConfig(samples=64, temperature=1.0, max_new_tokens=6)
RNG = np.random.default_rng(3)
ITEMS = [[*RNG.integers(1, VOCABULARY, size), END] for size in (1, 2, 2, 5, 9)]


def barred(prompts: list[Any]) -> list[Any]:
    return [replace(prompt, barred=END) for prompt in prompts]


def expected(network: Any, prompt: Any, tokens: list[int]) -> float:
    """Log-probability of tokens of which the first is any but the end token."""
    ends = plain_logits(network, prompt.ids)[-1].double().softmax(-1)[END].item()
    return plain_logprob(network, prompt.ids, tokens) - np.log1p(-ends)


@pytest.mark.parametrize("sampler", ["merged", "alone", "hf"])
def test_no_sample_is_empty_and_each_has_the_probability_of_its_tokens(sampler: str):
    network, prompts = few_tokens(8), asked((3, 9), vocabulary=8)
    config = replace(CONFIG, merge=sampler == "merged")
    sample = hf.sample if sampler == "hf" else shared_prefix.sample
    free = [one for found in sample(network, prompts, END, config) for one in found]
    assert any(not one.tokens for one in free), "without the rule some are empty"
    for prompt, found in zip(prompts, sample(network, barred(prompts), END, config), strict=True):
        assert sum(one.count for one in found) == 64 and all(one.tokens for one in found)
        for one in found:
            assert one.logprob == pytest.approx(expected(network, prompt, closed(one)), abs=1e-4)


def test_scores_and_beams_agree_with_it():
    network, prompts = lively("llama"), asked()
    rows, every = Ragged.of(ITEMS), [np.arange(len(ITEMS))] * 4
    scores = list(logprobs(network, barred(prompts), every, rows, 1e9))
    beams = constrained.sample(network, barred(prompts), rows, replace(CONFIG, samples=9, trie="beam"))
    for prompt, its, found in zip(prompts, scores, beams, strict=True):
        assert its.tolist() == pytest.approx([expected(network, prompt, row) for row in ITEMS], abs=1e-4)
        of_beam = {one.tokens: one.logprob for one in found}
        assert [of_beam[tuple(row[:-1])] for row in ITEMS] == pytest.approx(its.tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def bare(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of histories without phrases, every item of which it is trained on."""
    root = tmp_path_factory.mktemp("bare")
    textify([small.root / "home"], root / "texts", TextConfig(max_tokens=128, max_item_tokens=32, phrases=False))
    base_model(root / "texts", root / "base", root / "tokens", small.model)
    stage = StageConfig(steps=80, batch_size=16, lr=1e-2, train_on="all", alpha=0, beta=0, valid_every=0, threads=1)
    finetune(root / "texts", root / "tokens", root / "base", root / "model", stage, small.model)
    return SimpleNamespace(root=root, texts=root / "texts", tokens=root / "tokens", model=root / "model")


def test_a_model_without_phrases_begins_and_ends(bare: SimpleNamespace, tmp_path: Path):
    config = GenerateConfig(samples=8, max_new_tokens=32, max_users=30, threads=1)
    made = generate(bare.texts, bare.tokens, bare.model, tmp_path / "g", "home", config)
    assert made.counts["empty_texts"] == made.counts["users_with_mostly_empty_texts"] == 0
    rows = pq.read_table(tmp_path / "g/generations.parquet").to_pylist()
    assert all(row["text"] for row in rows)
    two = sum(row["count"] for row in rows if row["text"].count("Title:") > 1)
    assert two < 0.1 * made.counts["samples"] and made.counts["unfinished_share"] < 0.1


def test_each_place_of_a_row_is_predicted_once(
    bare: SimpleNamespace, small: SimpleNamespace, capsys: Any, tmp_path: Path
):
    stage = StageConfig(steps=1, batch_size=16, train_on="all", valid_every=0, threads=1)
    finetune(bare.texts, bare.tokens, bare.root / "base", tmp_path / "m", stage, small.model)
    (share,) = re.findall(r"(\d+)% of them predicted", capsys.readouterr().out)
    assert int(share) < 100


def test_the_model_scores_what_it_wrote_as_it_wrote_it(bare: SimpleNamespace, tmp_path: Path):
    config = GenerateConfig(trie="beam", samples=6, max_users=10, threads=1)
    generate(bare.texts, bare.tokens, bare.model, tmp_path / "g", "home", config)
    written = {
        (row["user_id"], row["text"]): row["logprob"]
        for row in pq.read_table(tmp_path / "g/generations.parquet").to_pylist()
    }
    retrieve(
        bare.texts, tmp_path / "g", tmp_path / "r", RetrieveConfig(k=6, rerank=6, threads=1), bare.model, bare.tokens
    )
    texts = {row["item_id"]: row["text"] for row in pq.read_table(bare.texts / "items.parquet").to_pylist()}
    ranked = pq.read_table(tmp_path / "r/recommendations.parquet").to_pylist()
    both = [(row["logprob"], written[row["user_id"], texts[row["item_id"]]]) for row in ranked
            if (row["user_id"], texts[row["item_id"]]) in written]  # fmt: skip
    assert len(both) >= 40
    assert [score for score, _ in both] == pytest.approx([logprob for _, logprob in both], abs=1e-4)


def test_only_a_cache_without_phrases_bars_the_end(bare: SimpleNamespace, small: SimpleNamespace):
    assert load_model(small.base, small.tokens, small.texts)[2].barred is None
    _, tokenizer, cache, _ = load_model(bare.model, bare.tokens, bare.texts)
    assert cache.barred == cache.end == tokenizer.eos_token_id


def test_users_whose_texts_are_mostly_empty_are_counted_and_warned_of():
    some, none = Generation("lamp", -1.0, 3), Generation("", -1.0, 1)
    found = [[some, none]] * 98 + [[none, replace(none, finished=False)], [none]]
    counts = _shares(_count(found), 100)
    assert (counts["samples"], counts["empty_texts"], counts["users_with_mostly_empty_texts"]) == (395, 101, 2)
    (said,) = manifests.warnings(Manifest("generations", counts={**counts, "distinct_share": 1.0}))
    assert said.startswith("2% of the users have mostly empty texts") and "generate.trie=sample" in said
