"""Decoding that can only write items, against every item's own plain forward pass."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from calrec.arrays.ragged import Ragged
from calrec.config import GenerateConfig
from calrec.generate.constrained import sample
from calrec.generate.samples import Prompt
from tests.generate.exact import END, asked, lively, p_value, plain_logits, plain_logprob, same, state

# A common beginning after 5; forced tails; an item that begins another; one that is long and shares nothing.
CATALOGUE = [
    (5, 6), (5, 6, 7), (5, 6, 8), (5, 9, 9, 9, 4), (5, 9, 9, 3), (12,), (12, 13), (40, 41, 42, 43, 44, 45, 46, 47),
    (5, 6, 8, 200, 201), (250,), (12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31),
]  # fmt: skip
FORCED = [(5, 6, 7, 8, *end) for end in [(10, 11, 12), (10, 13), (20, 21, 22, 23, 24, 25, 26, 27), (30,)]]
SAMPLE = GenerateConfig(samples=8, temperature=0.7, trie="sample", max_new_tokens=1)  # 1: shorter than the items
BEAM = replace(SAMPLE, trie="beam", samples=30)


def decoded(network, items=CATALOGUE, config=BEAM, prompts=None):
    rows = Ragged.of([[*item, END] for item in items])
    return list(sample(network, asked() if prompts is None else prompts, rows, config))


def exact(network, prompt: Prompt, items=CATALOGUE) -> dict[tuple[int, ...], float]:
    """Each item's log p, best first."""
    found = {item: plain_logprob(network, prompt.ids, [*item, END]) for item in items}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def shares(network, prompt: Prompt, items, temperature: float) -> dict[tuple[int, ...], float]:
    """Probability that each item is drawn: the product of the softmaxes over the tokens that may follow."""
    rows = [(*item, END) for item in items]
    found = {}
    for row in rows:
        share = 1.0
        for at, token in enumerate(row):
            allowed = sorted({other[at] for other in rows if other[:at] == row[:at] and len(other) > at})
            logits = plain_logits(network, [*prompt.ids, *row[:at]])[-1, allowed].double() / temperature
            share *= float(logits.softmax(-1)[allowed.index(token)])
        found[row[:-1]] = share
    return found


@pytest.mark.parametrize("items", [CATALOGUE, FORCED, [(), *CATALOGUE]], ids=["catalogue", "forced", "empty"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "granite"])
def test_as_many_beams_as_items_give_every_item_in_its_exact_order(family: str, items):
    network = lively(family)
    for prompt, found in zip(asked(), decoded(network, items), strict=True):
        expected = exact(network, prompt, items)
        assert [one.tokens for one in found] == list(expected)
        assert [one.logprob for one in found] == pytest.approx(list(expected.values()), abs=1e-4)
        assert all(one.finished and one.count == 1 for one in found)


def test_a_large_random_catalogue_is_found_whole_by_enough_beams():
    network, rng = lively("llama"), np.random.default_rng(0)
    items = list({tuple(rng.integers(1, 5, size).tolist()) for size in rng.integers(0, 7, 150)})
    prompts = asked((6, 11))
    for prompt, found in zip(prompts, decoded(network, items, replace(BEAM, samples=len(items)), prompts), strict=True):
        expected = exact(network, prompt, items)
        assert {one.tokens for one in found} == set(items) and len(found) == len(items)
        assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)
        assert all(one.logprob == pytest.approx(expected[one.tokens], abs=1e-4) for one in found)


def beam_search(network, prompt: Prompt, items, beams: int) -> list[tuple[int, ...]]:
    """As one writes it down: beginnings as tuples, and a plain pass for each."""
    rows = [(*item, END) for item in items]

    def following(begun: tuple[int, ...]) -> list[int]:
        return sorted({row[len(begun)] for row in rows if row[: len(begun)] == begun and row != begun})

    def forced(begun: tuple[int, ...]) -> tuple[int, ...]:
        while len(following(begun)) == 1:
            begun += (following(begun)[0],)
        return begun

    def score(begun: tuple[int, ...]) -> float:
        return plain_logprob(network, prompt.ids, begun)

    live = [forced(())]
    ended = [row for row in live if row in rows]
    while live := [begun for begun in live if begun not in rows]:
        candidates = [(*begun, token) for begun in live for token in following(begun)]
        kept = sorted(ended + candidates, key=score, reverse=True)[:beams]
        live = [forced(begun) for begun in candidates if begun in kept]
        ended += [row for row in live if row in rows]
    return [row[:-1] for row in sorted(ended, key=score, reverse=True)[:beams]]


@pytest.mark.parametrize("items", [CATALOGUE, FORCED, [(), *CATALOGUE]], ids=["catalogue", "forced", "empty"])
@pytest.mark.parametrize("beams", [1, 2, 3, 5, 8])
def test_fewer_beams_find_what_a_plain_beam_search_finds(beams: int, items):
    network = lively("llama")
    for prompt, found in zip(asked(), decoded(network, items, replace(BEAM, samples=beams)), strict=True):
        assert [one.tokens for one in found] == beam_search(network, prompt, items, beams)
        expected = exact(network, prompt, items)
        assert [one.logprob for one in found] == pytest.approx([expected[one.tokens] for one in found], abs=1e-4)


def test_temperature_and_seed_do_not_matter_to_beams():
    network = lively("llama")
    assert decoded(network) == decoded(network, config=replace(BEAM, temperature=3.0, seed=5))


@pytest.mark.parametrize(
    "items", [CATALOGUE, FORCED, [(), (5,), (5, 6), (7, 8, 9)]], ids=["catalogue", "forced", "empty"]
)
def test_samples_follow_the_product_of_the_softmaxes_over_what_may_follow(items):
    network, prompt = lively("llama"), asked((9,))[0]
    expected = shares(network, prompt, items, 0.7)
    assert sum(expected.values()) == pytest.approx(1)
    prompts = [Prompt(f"user {i}", prompt.ids) for i in range(25)]
    config, counts = replace(SAMPLE, samples=40_000), Counter[tuple[int, ...]]()
    for samples in decoded(network, items, config, prompts):
        assert sum(one.count for one in samples) == 40_000
        counts.update({one.tokens: one.count for one in samples})
    assert p_value([counts[item] for item in expected], list(expected.values())) > 1e-4


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_sampled_items_have_their_exact_log_probabilities(family: str):
    network = lively(family)
    for prompt, samples in zip(asked(), decoded(network, config=replace(SAMPLE, samples=60)), strict=True):
        expected = exact(network, prompt)
        assert sum(one.count for one in samples) == 60 and len({one.tokens for one in samples}) == len(samples)
        assert all(one.finished for one in samples)
        assert all(one.logprob == pytest.approx(expected[one.tokens], abs=1e-4) for one in samples)


@pytest.mark.parametrize("item", [(), (7,), (7, 8, 9, 10, 11)])
@pytest.mark.parametrize("config", [SAMPLE, BEAM], ids=["sample", "beam"])
def test_a_catalogue_of_one_item(config: GenerateConfig, item: tuple[int, ...]):
    network = lively("llama")
    for prompt, (one,) in zip(asked(), decoded(network, [item], config), strict=True):
        assert (one.tokens, one.finished) == (item, True)
        assert one.count == (config.samples if config is SAMPLE else 1)
        assert one.logprob == pytest.approx(plain_logprob(network, prompt.ids, [*item, END]), abs=1e-4)


@pytest.mark.parametrize("config", [SAMPLE, BEAM], ids=["sample", "beam"])
def test_who_else_is_decoded_and_how_much_memory_there_is_changes_nothing(config: GenerateConfig):
    network, prompts = lively("llama"), asked((1, 20, 33, 7, 7, 50, 2))
    together = decoded(network, config=config, prompts=prompts)
    assert same(together, decoded(network, config=replace(config, memory_gb=1e-9), prompts=prompts))
    order = [3, 0, 6, 1, 5, 4, 2]
    assert same([together[i] for i in order], decoded(network, config=config, prompts=[prompts[i] for i in order]))


def test_a_user_draws_by_his_name_and_the_seed():
    network, ids, config = lively("llama"), asked((20,))[0].ids, replace(SAMPLE, samples=200)
    ann, bob, again = decoded(network, config=config, prompts=[Prompt(name, ids) for name in ("ann", "bob", "ann")])
    (other,) = decoded(network, config=replace(config, seed=1), prompts=[Prompt("ann", ids)])
    assert same([ann], [again]) and not same([ann], [bob]) and not same([ann], [other])


@pytest.mark.parametrize("config", [SAMPLE, BEAM], ids=["sample", "beam"])
def test_logits_that_are_not_finite_name_the_user(config: GenerateConfig):
    network = lively("llama-untied").train()
    with torch.no_grad():
        network.get_input_embeddings().weight[99] = math.nan
    before = state(network)
    prompts = [Prompt("ann", np.array([1, 2, 3], np.int32)), Prompt("bob", np.array([1, 99, 3, 4], np.int32))]
    with pytest.raises(FloatingPointError, match="user bob after 4 tokens are not finite"):
        decoded(network, config=config, prompts=prompts)
    with pytest.raises(FloatingPointError, match="user ann after 5 tokens are not finite"):
        decoded(network, [(98, 99)], config, prompts[:1])
    assert state(network) == before


def impossible(tokens) -> torch.nn.Module:
    """A network that gives some tokens the probability 0."""
    network = lively("phi")
    with torch.no_grad():
        network.lm_head.bias[tokens] = -torch.inf
    return network


def test_items_of_probability_0_are_not_drawn():
    network = impossible([6, 12, 250])
    possible = {item for item in CATALOGUE if not {6, 12, 250} & {*item}}
    for samples in decoded(network, config=replace(SAMPLE, samples=300)):
        assert {one.tokens for one in samples} <= possible and sum(one.count for one in samples) == 300
    for prompt, found in zip(asked(), decoded(network), strict=True):
        expected = exact(network, prompt)
        assert [one.tokens for one in found] == [item for item in expected if item in possible]


def test_samples_without_a_possible_item_name_the_user():
    with pytest.raises(FloatingPointError, match="user u[0-3] after"):
        decoded(impossible([5, 12, 40, 250]), config=SAMPLE)
