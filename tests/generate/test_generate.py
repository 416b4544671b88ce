"""The reference sampler: right log-probabilities, no hidden options, nothing lost."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from calrec.config import GenerateConfig
from calrec.generate import sampler
from calrec.generate.sampler import sample
from calrec.generate.step import generate
from calrec.model.loading import load_model

CONFIG = GenerateConfig(samples=5, max_new_tokens=12, batch_users=2, threads=1)


def sampled(small: SimpleNamespace, config: GenerateConfig = CONFIG, histories=((0, 1, 2), (5,), (3, 3, 4))):
    network, _, cache, _ = load_model(small.base, small.tokens, small.texts)
    prompts = [cache.history(list(history))[0] for history in histories]
    return network, prompts, cache, list(sample(network, prompts, cache.end, config))


def test_log_probabilities_equal_a_teacher_forced_pass(small: SimpleNamespace):
    network, prompts, cache, users = sampled(small, replace(CONFIG, temperature=2.0))
    assert [len(u) for u in users] == [5, 5, 5]
    finished = 0
    for prompt, samples in zip(prompts, users, strict=True):
        for one in samples:
            tokens = [*one.tokens, *([cache.end] if one.finished else [])]
            finished += one.finished
            with torch.no_grad():
                logp = network(torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(-1)
            by_hand = sum(logp[len(prompt) - 1 + i, t].item() for i, t in enumerate(tokens))
            assert one.logprob == pytest.approx(by_hand, abs=1e-4)
    assert any(not one.finished for u in users for one in u)


def test_the_end_token_is_part_of_the_log_probability(small: SimpleNamespace):
    network, prompts, cache, _ = sampled(small)
    with torch.no_grad():  # a model that always ends at once
        network.get_output_embeddings().weight = torch.nn.Parameter(
            torch.zeros_like(network.get_output_embeddings().weight)
        )
        network.get_output_embeddings().weight[cache.end] = 0
    uniform = -torch.log(torch.tensor(float(network.config.vocab_size))).item()
    for samples in sample(network, prompts, cache.end, replace(CONFIG, max_new_tokens=400, samples=20)):
        for one in samples:
            assert one.logprob == pytest.approx(uniform * (len(one.tokens) + one.finished), rel=1e-5)
    assert any(one.finished for samples in [samples] for one in samples)


def test_the_same_seed_gives_the_same_samples(small: SimpleNamespace):
    one, same, other = (sampled(small, replace(CONFIG, seed=seed))[3] for seed in (7, 7, 8))
    assert one == same != other


def test_options_stored_with_a_model_do_not_leak_in(small: SimpleNamespace):
    network, prompts, cache, expected = sampled(small)
    network.generation_config.top_k = 1
    network.generation_config.repetition_penalty = 9.0
    network.generation_config.max_new_tokens = 1
    assert list(sample(network, prompts, cache.end, CONFIG)) == expected


def test_a_low_temperature_finds_the_greedy_text(small: SimpleNamespace):
    network, prompts, _, users = sampled(small, replace(CONFIG, temperature=1e-3))
    with torch.no_grad():
        first = network(torch.tensor(prompts[0][None].astype("int64"))).logits[0, -1].argmax().item()
    assert {one.tokens[:1] for one in users[0]} <= {(first,), ()}


def test_the_step_writes_distinct_texts_with_counts(small: SimpleNamespace, tmp_path: Path):
    config = replace(CONFIG, samples=6, max_users=7)
    manifest = generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", config)
    rows = pq.read_table(tmp_path / "g/generations.parquet").to_pylist()
    assert len({(r["user_id"], r["text"]) for r in rows}) == len(rows)
    assert sum(r["count"] for r in rows) == 7 * 6 == manifest.counts["samples"]
    assert len({r["user_id"] for r in rows}) == 7
    assert all(r["logprob"] < 0 for r in rows)
    assert manifest.counts["distinct_share"] == pytest.approx(len(rows) / 42, abs=1e-4)


def test_the_sample_of_users_is_fixed_and_a_superset_of_a_smaller_one(small: SimpleNamespace, tmp_path: Path):
    chosen = []
    for users in (5, 9):
        generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", replace(CONFIG, max_users=users))
        chosen.append(set(pq.read_table(tmp_path / "g/generations.parquet")["user_id"].to_pylist()))
    assert chosen[0] < chosen[1] and len(chosen[1]) == 9


def test_an_unknown_category_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="unknown category 'cellar'"):
        generate(small.texts, small.tokens, small.base, tmp_path / "g", "cellar", CONFIG)


def test_prefilling_once_draws_what_plain_generate_draws(small: SimpleNamespace):
    network, prompts, cache, users = sampled(small)
    ids, mask = sampler._left_padded(prompts[:2], cache.end)
    options = network.generation_config
    options.num_return_sequences = CONFIG.samples
    torch.manual_seed(CONFIG.seed)
    plain = network.generate(ids, attention_mask=mask, generation_config=options)[:, ids.shape[1] :]
    ours = [one for samples in users[:2] for one in samples]
    for row, one in zip(plain.tolist(), ours, strict=True):
        assert row[: len(one.tokens)] == list(one.tokens)


def test_an_empty_history_is_sampled_for_too(small: SimpleNamespace):
    *_, users = sampled(small, histories=((), ()))
    assert [len(samples) for samples in users] == [5, 5]
