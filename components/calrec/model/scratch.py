"""A fresh base model: a byte-level BPE tokenizer learned from the item texts and a small Llama-style network."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from calrec.textify.texts import LABELS, NEXT, OPENING

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


def fresh_model(size: str, tokenizer: Any, max_positions: int, seed: int) -> Any:
    """A Llama-style causal LM with random weights and tied embeddings, fit for sequences of `max_positions` tokens."""
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
        return LlamaForCausalLM(config)
