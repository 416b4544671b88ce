"""The sampler that reads each prompt once: plain log-probabilities, the exact distribution, users apart."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calrec.config import GenerateConfig
from calrec.generate.samples import Prompt, Sample, merge_samples
from calrec.generate.shared_prefix import sample
from tests.finetune.networks import PACKED
from tests.generate.exact import (
    END,
    always,
    asked,
    closed,
    few_tokens,
    lively,
    p_value,
    plain_logits,
    plain_logprob,
    same,
    sequences,
    state,
    uniform,
)

CONFIG = GenerateConfig(samples=9, max_new_tokens=24, temperature=0.5)


def sampled(network, prompts=None, config=CONFIG):
    return list(sample(network, asked() if prompts is None else prompts, END, config))


@pytest.mark.parametrize("family", PACKED)
def test_log_probabilities_are_those_of_a_plain_pass_and_merging_changes_nothing(family: str):
    network = lively(family)
    found = sampled(network)
    for prompt, samples in zip(asked(), found, strict=True):
        assert sum(one.count for one in samples) == 9
        for one in samples:
            assert one.finished or len(one.tokens) == 24
            assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-4)
    assert same(found, sampled(network, config=replace(CONFIG, merge=False)))


def test_merging_changes_nothing_when_many_samples_begin_alike():
    network, prompts = few_tokens(6), asked((3, 8, 1), vocabulary=6)
    config = replace(CONFIG, samples=400, max_new_tokens=6)
    found = sampled(network, prompts, config)
    assert same(found, sampled(network, prompts, replace(config, merge=False)))
    for prompt, samples in zip(prompts, found, strict=True):
        assert max(one.count for one in samples) > 9 and any(not one.finished for one in samples)
        assert len({(one.tokens, one.finished) for one in samples}) == len(samples)
        for one in samples:
            assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_who_else_is_decoded_and_how_much_memory_there_is_changes_nothing(family: str):
    network, prompts = lively(family), asked((1, 20, 33, 7, 7, 50, 2, 20, 12))
    together = sampled(network, prompts)
    assert same(together, sampled(network, prompts, replace(CONFIG, memory_gb=1e-9)))  # one user at a time
    assert same(together, sampled(network, prompts, replace(CONFIG, memory_gb=3e-4)))
    order = np.random.default_rng(0).permutation(len(prompts)).tolist()
    assert same([together[i] for i in order], sampled(network, [prompts[i] for i in order]))
    assert same(together[3:4], sampled(network, prompts[3:4]))


def test_more_users_than_a_window_come_in_their_order():
    network, rng = lively("llama"), np.random.default_rng(0)
    prompts = asked(rng.integers(1, 9, 600).tolist())
    config = replace(CONFIG, samples=1, max_new_tokens=2)
    found = sampled(network, prompts, config)
    assert len(found) == 600
    for i in (0, 17, 511, 512, 599):
        assert same(found[i : i + 1], sampled(network, prompts[i : i + 1], config))


@pytest.mark.parametrize(("temperature", "users"), [(0.7, 25), (1.5, 5)])
def test_samples_follow_the_exact_distribution_over_sequences(temperature: float, users: int):
    network = few_tokens(6)
    ids = asked((5,), vocabulary=6)[0].ids
    cells = dict(sequences(network, ids, temperature, steps=2))
    assert len(cells) == 31 and sum(cells.values()) == pytest.approx(1)
    prompts = [Prompt(f"user {i}", ids) for i in range(users)]
    config = GenerateConfig(samples=40_000, max_new_tokens=2, temperature=temperature, memory_gb=0.05)
    counts = dict.fromkeys(cells, 0)
    for samples in sample(network, prompts, END, config):
        assert sum(one.count for one in samples) == 40_000
        for one in samples:
            counts[one.tokens, one.finished] += one.count
    assert sum(counts.values()) == users * 40_000
    assert p_value(list(counts.values()), list(cells.values())) > 1e-4


def test_a_user_draws_by_his_name_and_the_seed():
    network, ids = lively("llama"), asked((20,))[0].ids
    ann, bob, again = sampled(network, [Prompt(name, ids) for name in ("ann", "bob", "ann")])
    assert same([ann], [again]) and not same([ann], [bob])
    (alone,) = sampled(network, [Prompt("ann", ids)])
    (other,) = sampled(network, [Prompt("ann", ids)], replace(CONFIG, seed=1))
    assert same([alone], [ann]) and not same([alone], [other])


def test_more_samples_begin_with_those_of_fewer_steps():
    network = lively("llama")
    short = sampled(network, config=replace(CONFIG, max_new_tokens=1, merge=False))
    long = sampled(network, config=replace(CONFIG, max_new_tokens=5))
    for a, b in zip(short, long, strict=True):
        begun = merge_samples([replace(one, tokens=one.tokens[:1], finished=not one.tokens, logprob=0.0) for one in b])
        assert same([[replace(one, logprob=0.0) for one in a]], [begun])


def test_the_temperature_changes_what_is_drawn_and_not_its_log_probability():
    network = lively("llama")
    for prompt, (one, *others) in zip(asked(), sampled(network, config=replace(CONFIG, temperature=1e-3)), strict=True):
        greedy = list(prompt.ids)
        for _ in range(24):
            greedy.append(int(plain_logits(network, greedy)[-1].argmax()))
        assert not others and one.count == 9 and END not in greedy[len(prompt.ids) :]
        assert list(one.tokens) == greedy[len(prompt.ids) :]
        assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-4)


def test_one_sample_of_one_token():
    network = lively("llama")
    found = sampled(network, config=GenerateConfig(samples=1, max_new_tokens=1))
    for prompt, (one,) in zip(asked(), found, strict=True):
        assert one.count == 1 and len(closed(one)) == 1
        assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, closed(one)), abs=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_a_model_that_always_ends_at_once(merge: bool):
    expected = [[Sample((), 0.0, True, 9)]] * 4
    assert sampled(always(END), config=replace(CONFIG, merge=merge)) == expected


@pytest.mark.parametrize("merge", [True, False])
def test_a_model_that_never_ends_is_cut(merge: bool):
    found = sampled(always(END, never=True), config=replace(CONFIG, merge=merge))
    assert all(not one.finished and len(one.tokens) == 24 and END not in one.tokens for u in found for one in u)
    assert all(math.isfinite(one.logprob) for u in found for one in u)
    repeated = sampled(always(7), config=replace(CONFIG, merge=merge))
    assert repeated == [[Sample((7,) * 24, 0.0, False, 9)]] * 4


def test_the_end_token_is_part_of_the_log_probability():
    network, each = uniform(), -math.log(300)
    ended = 0
    for samples in sampled(network, config=replace(CONFIG, samples=60, max_new_tokens=100)):
        for one in samples:
            assert one.logprob == pytest.approx(each * (len(one.tokens) + one.finished), rel=1e-5)
            ended += one.finished
    assert 40 < ended < 110  # of 240 about 1 - (299/300)^100 = 28%


def test_no_prompts_give_nothing():
    assert sampled(lively("llama"), []) == []


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_as_it_was_whenever_samples_are_given(training: bool):
    network = lively("llama").train(training)
    before, seen = state(network), 0
    for _ in sample(network, asked((5,) * 9), END, replace(CONFIG, memory_gb=1e-9)):
        seen += 1
        assert state(network) == before
    assert seen == 9
    given_up = sample(network, asked(), END, CONFIG)
    next(given_up)
    given_up.close()
    assert state(network) == before


def damaged(tokens) -> torch.nn.Module:
    """A network that cannot read some tokens."""
    network = lively("llama-untied")
    with torch.no_grad():
        network.get_input_embeddings().weight[tokens] = math.nan
    return network


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("memory", [1.0, 1e-9])
def test_logits_that_are_not_finite_name_the_user(memory: float, merge: bool):
    prompts = [Prompt("bob", np.array([1, 9, 3, 4], np.int32)), Prompt("ann", np.array([1, 2, 3], np.int32))]
    network = damaged([9]).train()
    before = state(network)
    with pytest.raises(FloatingPointError, match="user bob after 4 tokens are not finite"):
        sampled(network, prompts, replace(CONFIG, memory_gb=memory, merge=merge))
    assert state(network) == before


def test_logits_that_are_not_finite_later_name_the_user_and_the_place():
    prompts = [Prompt("cy", np.array([1, 2, 3], np.int32))]
    with pytest.raises(FloatingPointError, match="user cy after 4 tokens are not finite"):
        sampled(damaged(slice(4, None)), prompts)


def test_equal_samples_are_merged_in_the_order_of_their_first_occurrence():
    one, cut, other = Sample((1,), -1.0, True), Sample((1,), -0.5, False), Sample((2,), -2.0, True, 3)
    assert merge_samples([other, one, cut, one, other]) == [replace(other, count=6), replace(one, count=2), cut]
