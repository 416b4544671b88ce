"""Which sampler writes, and texts that read alike."""

import importlib.util
import itertools
from dataclasses import replace

import numpy as np
import pytest

from calrec.arrays.ragged import Ragged
from calrec.config import GenerateConfig
from calrec.generate import constrained, hf, shared_prefix, vllm
from calrec.generate.samples import Generation
from calrec.generate.texts import Generator
from tests.finetune.networks import UNPACKED
from tests.generate.exact import END, asked, lively, plain_logprob

CONFIG = GenerateConfig(samples=40, max_new_tokens=3, temperature=1.0)
ITEMS = Ragged.of([[5, 6, END], [5, 7, END], [8, END], [5, 6, END]])  # the last one is equal to the first


class Words:
    """A tokenizer whose tokens read as words, three of them always alike: spaces come in between them and around."""

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["  ".join(f" w{token // 3} " for token in row) for row in rows]


def generator(network, config=CONFIG):
    return Generator(network, Words(), END, config, ITEMS)


def text(tokens) -> str:
    return " ".join(f"w{token // 3}" for token in tokens)


@pytest.mark.parametrize("backend", ["shared_prefix", "hf"])
def test_texts_that_read_alike_are_one_with_the_best_log_probability(backend: str):
    network, config = lively("llama"), replace(CONFIG, backend=backend, samples=200, max_new_tokens=1)
    chosen = generator(network, config)
    assert chosen.backend == backend
    sampler = {"hf": hf, "shared_prefix": shared_prefix}[backend]
    plain = sampler.sample(network, asked(), END, config)
    for generations, samples in zip(chosen(asked()), plain, strict=True):
        assert len(generations) < len(samples)
        alike = {text(one.tokens): [] for one in samples}  # in the order of first occurrence
        for one in samples:
            alike[text(one.tokens)].append(one)
        best = [max(each, key=lambda one: one.logprob) for each in alike.values()]
        expected = [
            Generation(words, one.logprob, sum(each.count for each in of), one.finished)
            for (words, of), one in zip(alike.items(), best, strict=True)
        ]
        assert generations == expected and sum(one.count for one in generations) == 200


@pytest.mark.parametrize("family", UNPACKED)
def test_the_reference_takes_over_with_a_warning(family: str, capsys: pytest.CaptureFixture[str]):
    network = lively(family)
    chosen = generator(network)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert chosen.backend == "hf" and line.startswith("generate: warning: prompts cannot be shared (")
    assert list(chosen(asked())) == list(generator(network, replace(CONFIG, backend="hf"))(asked()))


def test_no_warning_where_prompts_can_be_shared(capsys: pytest.CaptureFixture[str]):
    assert generator(lively("llama")).backend == "shared_prefix"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("family", "trie"), itertools.product(UNPACKED, ("sample", "beam")))
def test_a_trie_without_shared_prompts_is_refused(family: str, trie: str):
    network = lively(family)
    with pytest.raises(ValueError, match=rf"generate.trie={trie} needs shared prompts.*set generate.trie=off"):
        generator(network, replace(CONFIG, trie=trie))


@pytest.mark.parametrize("trie", ["sample", "beam"])
def test_a_trie_writes_items_and_each_text_of_the_catalogue_once(trie: str):
    network, config = lively("llama"), replace(CONFIG, trie=trie)
    distinct = Ragged.of(ITEMS.rows()[:3])
    expected = constrained.sample(network, asked(), distinct, config)
    for prompt, generations, samples in zip(asked(), generator(network, config)(asked()), expected, strict=True):
        # w1 w2 is both 5 6 and 5 7 … read alike, w2 is 8
        assert {one.text for one in generations} == {"w1 w2", "w2"}
        assert sum(one.count for one in generations) == sum(one.count for one in samples)
        scores = {tuple(row[:-1]): plain_logprob(network, prompt.ids, row) for row in distinct.rows()}
        best = {"w1 w2": max(scores[5, 6], scores[5, 7]), "w2": scores[(8,)]}
        for one in generations:
            assert one.logprob == pytest.approx(best[one.text], abs=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_a_users_mistake():
    network = lively("llama")
    with pytest.raises(ValueError, match="needs the package vllm.*pip install vllm"):
        next(vllm.sample(network, asked(), END, CONFIG))
    with pytest.raises(ValueError, match="needs the package vllm"):
        list(generator(network, replace(CONFIG, backend="vllm"))(asked()))


def test_no_prompts_give_nothing():
    for backend in ("shared_prefix", "hf"):
        assert list(generator(lively("llama"), replace(CONFIG, backend=backend))([])) == []
    assert list(generator(lively("llama"), replace(CONFIG, trie="beam"))([])) == []


def test_the_empty_text_is_a_text():
    network = lively("llama")
    (generations,) = Generator(network, Words(), END, replace(CONFIG, trie="beam"), Ragged.of([[END], [5, END]]))(
        asked((4,))
    )
    assert {one.text for one in generations} == {"", "w1"} and all(np.isfinite(one.logprob) for one in generations)
