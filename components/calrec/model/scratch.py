"""A fresh base model: a byte-level BPE tokenizer learned from the item texts and a small Llama-style network."""

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.textify.texts import LABELS, NEXT, OPENING
from calrec.textify.words import words

END = "<|endoftext|>"
PAD = "<|pad|>"

# Parameters without embeddings: tiny 0.1M, small 0.6M, base 4.7M.
SIZES = MappingProxyType(
    {
        "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 172},
        "small": {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 344},
        "base": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 688},
    }
)


def train_tokenizer(texts: Sequence[str], vocab_size: int, whole: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer of at most `vocab_size` entries, and one more for each of the `whole` texts.

    The phrases of the template are single tokens, which halves the length of a grocery history: they carry no
    information, and the model would have to be paid for reading each of their words. The same holds, at the price of
    what its words have in common with others', for a whole item text that is frequent.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    phrases = [OPENING, f" {NEXT}", *(f" {label}" for label in LABELS)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(phrases),
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
    phrases += [f" {text}" for text in dict.fromkeys(whole)]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def fresh_model(size: str, tokenizer: Any, max_positions: int, seed: int, whole: Sequence[str] = ()) -> Any:
    """A Llama-style causal LM with random weights and tied embeddings, fit for sequences of `max_positions` tokens.

    The embeddings of `whole` texts, which the tokenizer has as single tokens, begin as :func:`directions` of their
    words, so that what is alike in words is alike before anything is learned. Their length of 1, several times that of
    random ones, lets the last item through to the output from the start.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, int] = SIZES[size]
    config = LlamaConfig(
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        vocab_size=len(tokenizer),
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config)
    if len(distinct := list(dict.fromkeys(whole))) > 1:
        with torch.no_grad():
            found = torch.from_numpy(directions(distinct, config.hidden_size, seed)).float()
            weight = network.get_input_embeddings().weight
            for token, row in zip(
                tokenizer.convert_tokens_to_ids([f" {text}" for text in distinct]), found, strict=True
            ):
                if row.any():
                    weight[token, : len(row)] = row
    return network


def directions(texts: Sequence[str], size: int, seed: int) -> NDArray[np.float64]:
    """Unit vectors of texts by latent semantic analysis (Deerwester et al., 1990): the leading singular directions of
    the texts' words, each weighed (1 + log count) · log(texts / texts with it); 0 for a text without a shared word.

    Args:
        texts: at least 2.
        size: of a vector; fewer columns come back where there are fewer texts or words.
        seed: of the solver's first vector.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    bags = [Counter(words(text)) for text in texts]
    texts_with = Counter(word for bag in bags for word in bag)
    shared = {word: at for at, word in enumerate(word for word, n in texts_with.items() if 1 < n <= len(texts) / 2)}
    cells = [
        (row, shared[word], (1 + np.log(count)) * np.log(len(texts) / texts_with[word]))
        for row, bag in enumerate(bags)
        for word, count in bag.items()
        if word in shared
    ]
    rank = min(size, len(texts) - 1, len(shared) - 1)
    if rank < 1:
        return np.zeros((len(texts), 1))
    row, column, value = zip(*cells, strict=True)
    matrix = csr_matrix((value, (row, column)), shape=(len(texts), len(shared)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)))
    matrix = csr_matrix(matrix.multiply(1 / np.maximum(lengths, 1e-12)))
    left, singular, _ = svds(matrix, rank, random_state=seed)
    found = left * singular
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(found, norms, out=np.zeros_like(found), where=norms > 1e-9)
    return unit
