"""A network as a decoder: what it reads, and that it is left as it was."""

import copy

import numpy as np
import pytest
import torch

from calrec.config import GenerateConfig
from calrec.finetune.tuning import merge_adapters
from calrec.generate.attention import NAME, Branches
from calrec.generate.decoder import Decoder, bytes_per_token, suits
from calrec.generate.shared_prefix import sample
from tests.finetune.networks import PACKED, UNPACKED, dropping, made
from tests.generate.exact import END, asked, closed, lively, plain_logits, plain_logprob, same, state, with_adapters

PROMPTS = [prompt.ids for prompt in asked()]
CONFIG = GenerateConfig(samples=6, max_new_tokens=8, temperature=1.0)


@pytest.mark.parametrize("family", PACKED)
def test_prefill_gives_the_plain_next_logits_and_mean_states(family: str):
    network = lively(family)
    with Decoder(network) as decoder:
        read, logits, means = decoder.prefill(PROMPTS)
        vectors = decoder.vectors(PROMPTS[::-1])
    assert read.lengths == [1, 20, 33, 7]
    for ids, logits_V, mean_D, vector_D in zip(PROMPTS, logits, means, vectors.flip(0), strict=True):
        with torch.no_grad():
            states = network.get_decoder()(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        assert torch.allclose(logits_V, plain_logits(network, ids)[-1], atol=5e-5)
        assert torch.allclose(mean_D, states.mean(0), atol=1e-5)
        assert torch.allclose(vector_D, states.mean(0), atol=1e-5)


def test_vectors_of_a_network_in_bf16_are_fp32_means():
    network = lively("llama").bfloat16()
    with Decoder(network) as decoder:
        found = decoder.vectors(PROMPTS)
    with torch.no_grad():
        states = [network.get_decoder()(torch.from_numpy(ids.astype(np.int64))[None])[0][0].float() for ids in PROMPTS]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.stack([each.mean(0) for each in states]), atol=0.05)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_adapters_that_are_not_merged_decode_as_the_merged_network(family: str, dora: bool):
    network = with_adapters(family, dora)
    network.train()
    whole = merge_adapters(copy.deepcopy(network)).eval()
    before = state(network)
    ours, theirs = (list(sample(each, asked(), END, CONFIG)) for each in (network, whole))
    assert same(ours, theirs) and state(network) == before
    plain = list(sample(network.get_base_model(), asked(), END, CONFIG))
    assert same(plain, theirs)  # below its wrapper the same network
    for prompt, samples in zip(asked(), ours, strict=True):
        one = samples[0]
        assert one.logprob == pytest.approx(plain_logprob(whole, prompt.ids, closed(one)), abs=1e-4)
    other = lively(family)
    assert not same(list(sample(other, asked(), END, CONFIG)), theirs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", PACKED)
def test_the_network_is_left_as_it_was(family: str, training: bool):
    network = made(family).train(training)
    before, plain = state(network), plain_logits(made(family).eval(), PROMPTS[1])
    with Decoder(network) as decoder:
        assert network.config._attn_implementation == NAME and not network.training
        decoder.prefill(PROMPTS)
    assert state(network) == before
    assert torch.equal(plain_logits(network.eval(), PROMPTS[1]), plain)


def test_the_network_is_left_as_it_was_after_an_error_inside():
    network = made("llama").train()
    before = state(network)
    with pytest.raises(IndexError), Decoder(network) as decoder:
        decoder.prefill([np.array([1, 2, 1000], np.int32)])
    assert state(network) == before
    with pytest.raises(KeyError), Decoder(network):
        raise KeyError
    assert state(network) == before


def test_dropout_is_off_while_a_network_in_training_is_decoded():
    network = dropping()
    calm, wild = (list(sample(network.train(training), asked(), END, CONFIG)) for training in (False, True))
    assert same(calm, wild)


def test_a_second_decoder_may_follow_the_first():
    network = lively("llama")
    for _ in range(2):
        with Decoder(network) as decoder:
            read, logits, _ = decoder.prefill(PROMPTS[1:2])
            found = decoder.extend(Branches(read, torch.tensor([0])), logits.argmax(-1))
        token = int(plain_logits(network, PROMPTS[1])[-1].argmax())
        assert torch.allclose(found[0], plain_logits(network, [*PROMPTS[1], token])[-1], atol=5e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_bf16_is_near_the_plain_pass_in_bf16(family: str):
    network = lively(family).bfloat16()
    assert suits(network) == ""
    for prompt, samples in zip(asked(), sample(network, asked(), END, CONFIG), strict=True):
        for one in samples:
            gap = one.logprob - plain_logprob(network, prompt.ids, closed(one))
            assert abs(gap) < 0.1 * (len(one.tokens) + 1)


@pytest.mark.parametrize("family", PACKED)
def test_every_family_that_can_be_packed_can_share_prompts(family: str):
    network = made(family).eval()
    before = state(network)
    assert suits(network) == "" and state(network) == before


@pytest.mark.parametrize("family", UNPACKED)
def test_what_cannot_share_prompts_is_found_out_and_left_as_it_was(family: str):
    network = lively(family)
    before, plain = state(network), plain_logits(network, PROMPTS[2])
    assert suits(network) and state(network) == before
    assert torch.equal(plain_logits(network, PROMPTS[2]), plain)


def test_a_network_in_training_with_dropout_can_share_prompts():
    network = dropping().train()
    assert suits(network) == "" and network.training


@pytest.mark.parametrize("family", PACKED)
def test_the_memory_of_a_token_is_that_of_its_keys_and_values(family: str):
    network = made(family)
    with Decoder(network) as decoder:
        read, logits, _ = decoder.prefill(PROMPTS)
    kept = [part for of in (read.keys, read.values) for parts in of.values() for part in parts]
    assert bytes_per_token(network).cache == sum(part.numel() * part.itemsize for part in kept) / sum(read.lengths)
    assert bytes_per_token(network).logits == 2 * logits[0].numel() * logits.itemsize
