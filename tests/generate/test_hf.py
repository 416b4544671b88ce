"""The reference sampler: right log-probabilities, no hidden options, nothing lost; and the other sampler against it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calrec.arrays.ragged import Ragged
from calrec.config import GenerateConfig
from calrec.generate import hf, shared_prefix
from calrec.generate.samples import Prompt, Sample
from calrec.generate.scoring import logprobs
from tests.finetune.networks import UNPACKED
from tests.generate.exact import (
    END,
    always,
    asked,
    closed,
    drawn,
    few_tokens,
    lively,
    p_value_two,
    plain_logits,
    plain_logprob,
    uniform,
    with_adapters,
)

CONFIG = GenerateConfig(backend="hf", samples=5, max_new_tokens=12, temperature=1.0)


def sampled(network, prompts=None, config=CONFIG):
    return list(hf.sample(network, asked() if prompts is None else prompts, END, config))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", *UNPACKED])
def test_log_probabilities_equal_a_teacher_forced_pass(family: str):
    network = lively(family)
    for prompt, samples in zip(asked(), sampled(network, config=replace(CONFIG, temperature=2.0)), strict=True):
        assert sum(one.count for one in samples) == 5
        for one in samples:
            assert one.finished or len(one.tokens) == 12
            assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-4)


def test_the_end_token_is_part_of_the_log_probability():
    network, each = uniform(), -math.log(300)
    found = sampled(network, config=replace(CONFIG, samples=60, max_new_tokens=100))
    for one in (one for samples in found for one in samples):
        assert one.logprob == pytest.approx(each * (len(one.tokens) + one.finished), rel=1e-5)
    assert 40 < sum(one.finished for samples in found for one in samples) < 110


def test_a_model_that_always_ends_at_once_and_one_that_never_does():
    assert sampled(always(END)) == [[Sample((), 0.0, True, 5)]] * 4
    assert sampled(always(7)) == [[Sample((7,) * 12, 0.0, False, 5)]] * 4


def test_a_user_draws_by_his_name_and_the_seed():
    network, ids = lively("llama"), asked((20,))[0].ids
    ann, bob, again = sampled(network, [Prompt(name, ids) for name in ("ann", "bob", "ann")])
    assert drawn(ann) == drawn(again) != drawn(bob)
    (other,) = sampled(network, [Prompt("ann", ids)], replace(CONFIG, seed=1))
    assert drawn(ann) != drawn(other)


def test_the_callers_random_numbers_are_left_alone():
    network = lively("llama")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sampled(network)
    assert torch.equal(torch.rand(4), expected)


def test_options_stored_with_a_model_do_not_leak_in():
    expected = sampled(lively("llama"))
    network = lively("llama")
    for name, value in {"top_k": 1, "repetition_penalty": 9.0, "max_new_tokens": 1, "eos_token_id": 17}.items():
        setattr(network.generation_config, name, value)
    network.generation_config.suppress_tokens = list(range(1, 300))
    assert sampled(network) == expected


def test_a_network_under_adapters_is_sampled_without_its_dropout_and_stored_options():
    network = with_adapters("llama").train()
    for inner in (network, network.get_base_model()):
        inner.generation_config.top_k = inner.generation_config.max_new_tokens = 1
    found = sampled(network)
    assert max(len(one.tokens) for samples in found for one in samples) == 12
    for prompt, samples in zip(asked(), found, strict=True):
        assert len(samples) > 1
        for one in samples:
            assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-4)


def test_a_low_temperature_finds_the_greedy_text():
    network = lively("llama")
    for prompt, samples in zip(asked(), sampled(network, config=replace(CONFIG, temperature=1e-3)), strict=True):
        first = int(plain_logits(network, prompt.ids)[-1].argmax())
        assert {one.tokens[:1] for one in samples} == ({(first,)} if first != END else {()})


def test_one_sample_of_one_token():
    network = lively("llama")
    found = sampled(network, config=replace(CONFIG, samples=1, max_new_tokens=1))
    for prompt, (one,) in zip(asked(), found, strict=True):
        assert len(closed(one)) == one.count == 1
        assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-5)


def test_prefilling_once_draws_what_plain_generate_draws():
    network, prompt = lively("llama"), asked((20,))[0]
    (samples,) = sampled(network, [prompt])
    torch.manual_seed(int(hf.stream(CONFIG.seed, prompt.user).integers(2**63)))
    ids = torch.from_numpy(prompt.ids.astype(np.int64))[None].repeat(5, 1)
    plain = network.generate(ids, attention_mask=torch.ones_like(ids), generation_config=network.generation_config)
    expected = {tuple(row[:12]) for row in plain[:, 20:].tolist()}
    assert {(*one.tokens, *([END] * (12 - len(one.tokens)))) for one in samples} == expected


@pytest.mark.parametrize("at", [1, 3])
def test_logits_that_are_not_finite_name_the_user(at: int):
    network = lively("llama-untied")
    with torch.no_grad():
        network.get_input_embeddings().weight[9] = math.nan
    ids = np.array([1, 2, 3, 4], np.int32)
    ids[at] = 9
    found = hf.sample(network, [Prompt("ann", np.array([1, 2, 3], np.int32)), Prompt("bob", ids)], END, CONFIG)
    assert sum(one.count for one in next(found)) == 5
    with pytest.raises(FloatingPointError, match="user bob after 4 tokens are not finite"):
        next(found)


def test_the_samplers_give_the_same_log_probabilities():
    network, prompts = few_tokens(9), asked((1, 12, 30), vocabulary=9)
    config = replace(CONFIG, samples=300, max_new_tokens=3)
    both = zip(sampled(network, prompts, config), shared_prefix.sample(network, prompts, END, config), strict=True)
    for reference, ours in both:
        known = {(one.tokens, one.finished): one.logprob for one in reference}
        shared = [one for one in ours if (one.tokens, one.finished) in known]
        assert len(shared) > 20
        assert all(one.logprob == pytest.approx(known[one.tokens, one.finished], abs=1e-4) for one in shared)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_shared_prompts_score_the_references_samples_alike(family: str):
    network = lively(family)
    found = sampled(network, config=replace(CONFIG, samples=40, max_new_tokens=30))
    texts = [[one for one in samples if one.tokens] for samples in found]
    items = Ragged.of([closed(one) for samples in texts for one in samples])
    starts = np.cumsum([0, *map(len, texts)])
    wanted = [np.arange(a, b) for a, b in itertools.pairwise(starts.tolist())]
    for samples, scores in zip(texts, logprobs(network, asked(), wanted, items, memory=1e9), strict=True):
        assert np.abs(scores - [one.logprob for one in samples]).max() < 1e-4


def test_the_samplers_draw_from_one_distribution():
    network, (prompt,) = few_tokens(9), asked((12,), vocabulary=9)
    config = replace(CONFIG, samples=20_000, max_new_tokens=2, temperature=0.8)
    counts = []
    for sampler in (hf, shared_prefix):
        (samples,) = sampler.sample(network, [prompt], END, config)
        table = np.zeros(81)
        for one in samples:
            first, second = (*one.tokens, END, END)[:2]
            table[first * 9 + second] += one.count
        counts.append(table)
    firsts = [table.reshape(9, 9).sum(1) for table in counts]
    assert p_value_two(*firsts) > 1e-4
    often = np.sum(counts, 0) > 40
    rest = [np.append(table[often], table[~often].sum()) for table in counts]
    assert p_value_two(*(each[each.sum() > 0 and np.sum(rest, 0) > 40] for each in rest)) > 1e-4
