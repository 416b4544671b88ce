"""Exact log-probabilities of given items against one plain forward pass for each."""

import math

import numpy as np
import pytest
import torch

from calrec.arrays.ragged import Ragged
from calrec.generate.samples import Prompt
from calrec.generate.scoring import logprobs
from tests.finetune.networks import PACKED, VOCABULARY, dropping
from tests.generate.exact import END, asked, lively, plain_logprob, state

RNG = np.random.default_rng(5)
ROWS = [[*RNG.integers(1, VOCABULARY, size), END] for size in [0, 1, 1, 2, 3, 5, 8, 13, 21, 30]]
ITEMS = Ragged.of(ROWS)
WANTED = [np.array([3, 0, 9]), RNG.integers(0, 10, 25), np.arange(10), np.array([8])]
LOTS = 1e9


@pytest.mark.parametrize("family", PACKED)
def test_scores_are_those_of_a_plain_pass(family: str):
    network = lively(family)
    for prompt, wanted, found in zip(asked(), WANTED, logprobs(network, asked(), WANTED, ITEMS, LOTS), strict=True):
        assert found.dtype == np.float64
        expected = [plain_logprob(network, prompt.ids, ROWS[item]) for item in wanted]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("memory", [1.0, 2e4, 1e5, 4e5])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_little_memory_means_more_passes_and_the_same_scores(family: str, memory: float):
    network = lively(family)
    little, lots = (list(logprobs(network, asked(), WANTED, ITEMS, each)) for each in (memory, LOTS))
    for a, b in zip(little, lots, strict=True):
        assert np.abs(a - b).max() < 1e-4


def test_candidates_in_another_order_and_twice_have_the_same_scores():
    network, wanted = lively("llama"), np.array([7, 2, 7, 0, 5, 2, 2])
    (found,) = logprobs(network, asked((12,)), [wanted], ITEMS, LOTS)
    (sorted_,) = logprobs(network, asked((12,)), [np.arange(10)], ITEMS, LOTS)
    assert found.tolist() == pytest.approx(sorted_[wanted].tolist(), abs=1e-5)


def test_no_candidates_have_no_scores():
    network, nothing = lively("llama"), np.empty(0, np.int64)
    prompts = asked((4, 5, 6))
    found = list(logprobs(network, prompts, [nothing, np.array([1]), nothing], ITEMS, LOTS))
    assert [len(each) for each in found] == [0, 1, 0]
    assert list(logprobs(network, [], [], ITEMS, LOTS)) == []


def test_an_item_of_a_single_token():
    network, prompt = lively("llama"), asked((12,))[0]
    (found,) = logprobs(network, [prompt], [np.array([0, 0])], ITEMS, 1.0)
    assert found.tolist() == pytest.approx([plain_logprob(network, prompt.ids, [END])] * 2, abs=1e-5)


def test_the_probabilities_of_all_texts_of_one_token_and_their_rest_sum_to_1():
    network = lively("llama")
    items = Ragged.of([[token] for token in range(VOCABULARY)])
    for found in logprobs(network, asked(), [np.arange(VOCABULARY)] * 4, items, LOTS):
        assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_as_it_was_between_users(training: bool):
    network = dropping().train(training)
    before = state(network)
    found = []
    for each in logprobs(network, asked(), WANTED, ITEMS, LOTS):
        found.append(each)
        assert state(network) == before
    calm = list(logprobs(network.eval(), asked(), WANTED, ITEMS, LOTS))
    assert all(np.array_equal(a, b) for a, b in zip(found, calm, strict=True))


def test_logits_that_are_not_finite_name_the_user():
    network = lively("llama-untied").train()
    with torch.no_grad():
        network.get_input_embeddings().weight[9] = math.nan
    before = state(network)
    items = Ragged.of([[5, 6, END], [5, 9, END], [9, END], [END]])
    prompts = [Prompt("ann", np.array([1, 2], np.int32)), Prompt("bob", np.array([9, 3], np.int32))]
    found = logprobs(network, prompts, [np.array([0, 3]), np.array([3])], items, LOTS)
    assert np.isfinite(next(found)).all()
    with pytest.raises(FloatingPointError, match="user bob after 2 tokens are not finite"):
        next(found)
    with pytest.raises(FloatingPointError, match="user ann"):
        next(logprobs(network, prompts[:1], [np.array([0, 1])], items, LOTS))
    assert state(network) == before


def test_prompts_and_candidates_must_be_as_many():
    with pytest.raises(ValueError, match="zip"):
        list(logprobs(lively("llama"), asked(), WANTED[:2], ITEMS, LOTS))
