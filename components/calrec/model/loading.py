"""What a later step opens: the model with the tokens made for its tokenizer, and the users of its categories."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.arrays.ragged import Ragged
from calrec.artifacts import Manifest
from calrec.model import checkpoint
from calrec.textify.encoding import FORMS, TextPrompts, encode_items
from calrec.textify.tokens import TokenCache


@dataclass(frozen=True)
class Users:
    """Sequences of some categories, as arrays by user."""

    user_id: list[str]
    domain: NDArray[Any]
    items: list[NDArray[np.int32]]
    train_end: NDArray[np.int64]
    valid_at: NDArray[np.int64]
    test_at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_id)

    def counted_until(self, split: str) -> NDArray[np.int64]:
        """How many items of each user lie before the held-out one of a split, or before the window it would lie in.

        Before a test these are also the validation items, on which settings were chosen and nothing was trained.
        """
        if split != "test":
            return self.train_end
        return np.where(self.test_at >= 0, self.test_at, [len(items) for items in self.items])

    def trained_until(self, split: str) -> "Users":
        """The same users, to be trained up to the held-out item of a split; before a test nothing is validated."""
        if split != "test":
            return self
        return replace(self, train_end=self.counted_until(split), valid_at=np.full(len(self), -1))


def load_users(texts: Path, domains: Sequence[str] = ()) -> Users:
    """Users of the given categories (all when empty).

    Raises:
        ValueError: a category that the texts do not hold; lists those that they do.
    """
    known = artifacts.read_manifest(texts, "texts").config["domains"]
    for domain in domains:
        if domain not in known:
            raise ValueError(f"unknown category {domain!r}; {texts} holds: {', '.join(known)}")
    table = artifacts.read_table(texts, "sequences.parquet", "texts")
    if domains:
        table = table.filter(pc.is_in(table["domain"], value_set=pa.array(domains)))
    flat = table["items"].combine_chunks()
    codes, offsets = flat.flatten().to_numpy(), np.concatenate([[0], np.cumsum(flat.value_lengths().to_numpy())])
    return Users(
        user_id=table["user_id"].to_pylist(),
        domain=np.array(table["domain"].to_pylist(), dtype=object),
        items=[codes[a:b] for a, b in itertools.pairwise(offsets)],
        **{name: table[name].to_numpy().astype(np.int64) for name in ("train_end", "valid_at", "test_at")},
    )


def saw_validation(of_model: Manifest) -> bool:
    """Whether validation items are among what a model was trained on, now or in a stage before."""
    return of_model.config.get("until") == "test"


def load_model(model: Path, tokens: Path, texts: Path) -> tuple[Any, Any, TokenCache, Manifest]:
    """(network, tokenizer, token cache, manifest of the model).

    Raises:
        ValueError: the token cache was made with another tokenizer, or from other texts.
    """
    manifest = artifacts.read_manifest(model, "model")
    of_tokens = artifacts.read_manifest(tokens, "tokens")
    if of_tokens.config["tokenizer"] != manifest.files["tokenizer.json"]:
        raise ValueError(f"{tokens} was made with another tokenizer than {model} has; run the base-model step again")
    if of_tokens.inputs["texts"] != artifacts.read_manifest(texts, "texts").digest:
        raise ValueError(f"{tokens} was made from other texts than {texts}; run the base-model step again")
    network, tokenizer = checkpoint.load(model)
    return network, tokenizer, _cache(tokens, of_tokens.config, tokenizer, texts), manifest


def _cache(tokens: Path, config: Mapping[str, Any], tokenizer: Any, texts: Path) -> TokenCache:
    """The token cache of a folder; its ids stay in the file until they are read."""
    units = Ragged(*(np.asarray(np.load(Path(tokens) / name, mmap_mode="r")) for name in ("ids.npy", "offsets.npy")))
    end, max_tokens = int(tokenizer.eos_token_id), int(config["text"]["max_tokens"])
    if config["assembly"] == "units":
        return TokenCache(units, end, max_tokens)
    form, limit = FORMS[config["form"]], int(config["text"]["max_item_tokens"])
    item_texts = artifacts.read_table(texts, "items.parquet", "texts")["text"].to_pylist()
    cut = encode_items(item_texts, tokenizer, form, limit).texts
    return TextPrompts(units, end, max_tokens, cut, form, tokenizer)
