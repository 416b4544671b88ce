"""Prompt assembly from cached ids, against a fast tokenizer on the whole texts of the same prompts."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ids, Ragged, running
from calrec.textify.encoding import FORMS, choose_form, encode_items, encode_phrases
from calrec.textify.texts import item_text, prompt
from calrec.textify.tokens import TokenCache

ITEMS, PROMPTS, MEAN_ITEMS, VOCABULARY = 20_000, 4_000, 9, 16_000
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokens() -> tuple[Callable[[], Ids], Callable[[], list[list[int]]], str]:
    """4,000 prompts of 20,000 items; a Llama-3-like vocabulary of 16,000 learned from them."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2"}
    rng = np.random.default_rng(0)
    texts = catalogue(rng)
    tokenizer = llama_3_like(texts[:5000])
    form, exact = choose_form(texts, tokenizer, 64)
    items = encode_items(texts, tokenizer, FORMS[form], 64)
    units = TokenCache.units_of(*encode_phrases(tokenizer, FORMS[form]), items.ids)
    cache = TokenCache(units, tokenizer.eos_token_id, max_tokens=1024)
    sizes = 1 + rng.geometric(1 / (MEAN_ITEMS - 1), PROMPTS)
    histories = Ragged((rng.zipf(1.3, sizes.sum()) % ITEMS).astype(np.int32), running(sizes))
    kept = histories.tails(cache.fit(histories)[0])
    whole = [prompt([items.texts[i] for i in row]) for row in kept.rows()]

    def ours() -> Ids:
        return cache.assemble(histories).ids

    def reference() -> list[list[int]]:
        return list(tokenizer(whole, add_special_tokens=False)["input_ids"])

    ids = ours()
    assert exact == 1 and ids.tolist() == [i for row in reference() for i in row]
    return (
        ours,
        reference,
        f"{PROMPTS:,} prompts of {kept.lengths().mean():.1f} items, {len(ids):,} tokens, from cached ids, against the "
        "tokenizer in 2 threads on whole prompts; ids identical",
    )


def catalogue(rng: np.random.Generator) -> list[str]:
    """Item texts with titles of 5 to 25 words of a Zipf vocabulary, 40,000 words long."""
    syllables = np.array([a + b for a in "bcdfglmnprst" for b in "aeiou"])
    words = np.array(["".join(rng.choice(syllables, size=size)) for size in rng.integers(1, 5, size=40_000)])
    words[rng.random(len(words)) < 0.1] = "12 (Pack of 2)"
    texts = []
    for size in rng.integers(5, 26, size=ITEMS):
        title = drawn(words, size + 4, rng)
        row = {"title": " ".join(title[4:]).title(), "category": " ".join(title[:2]), "brand": str(title[2]),
               "price": f"{rng.integers(1, 200)}.{rng.integers(10, 99)}"}  # fmt: skip
        texts.append(item_text(row, ("title", "category", "brand", "price")))
    return texts


def drawn(words: NDArray[Any], size: int, rng: np.random.Generator) -> NDArray[Any]:
    """Words by Zipf's law: log-uniform ranks."""
    return words[(len(words) ** rng.random(size)).astype(np.int64) - 1]


def llama_3_like(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer with the word borders of Llama 3."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((prompt([text]) for text in texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end_of_text|>")
