"""The base-model step: a name, a folder or "scratch" in; a model folder and the token cache of the item texts out."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.arrays.ragged import Ragged
from calrec.artifacts import Manifest
from calrec.config import ModelConfig, TextConfig
from calrec.config.overrides import from_dict, to_dict
from calrec.model import checkpoint, scratch
from calrec.model.loading import Users, load_users
from calrec.report import manifests
from calrec.textify.encoding import FORMS, choose_form, encode_items, encode_phrases
from calrec.textify.tokens import TokenCache


@artifacts.making("model", "texts", "tokens", "weights")
@artifacts.making("tokens", "texts", "out", "weights", out="tokens")
def base_model(
    texts: Path, out: Path, tokens: Path, model: ModelConfig, weights: str = ""
) -> tuple[Manifest, Manifest]:
    """Make or load the base model, and tokenise every item text once with its tokenizer.

    Args:
        texts: folder of the textify step.
        out: the model folder to make.
        tokens: the token-cache folder to make.
        model: what to load; `model.name` is scratch, a Hugging Face name, a local folder or a URI.
        weights: the local folder when `model.name` is a URI; else empty, or the name again.

    Returns:
        manifests of the model and of the token cache.
    """
    source = artifacts.read_manifest(texts, "texts")
    text = from_dict(TextConfig, source.config["text"])
    items = artifacts.read_table(texts, "items.parquet", "texts")
    item_texts: list[str] = items["text"].to_pylist()
    frequent = items.filter(pc.field("train_count") >= (model.whole_texts or np.iinfo(np.int32).max))
    network, tokenizer = _network(weights or model.name, model, item_texts, frequent["text"].to_pylist(), text)
    room = int(getattr(network.config, "max_position_embeddings", 0) or 0)
    needed = text.max_tokens + text.max_item_tokens + 1
    if 0 < room < needed:
        raise ValueError(
            f"text.max_tokens + text.max_item_tokens + 1 = {needed} tokens, but the "
            f"model {model.name} has {room} positions; lower text.max_tokens to {room - text.max_item_tokens - 1}"
        )
    cache, how, figures = _tokens(item_texts, load_users(texts), tokenizer, text)
    counts = {"parameters": sum(p.numel() for p in network.parameters()), "vocabulary": len(tokenizer)}
    with artifacts.writing(Path(out)) as folder:
        checkpoint.save(network, tokenizer, folder)
        config = {"model": to_dict(model), "stage": "base"}
        of_model = artifacts.finish(
            folder, Manifest("model", config=config, counts=counts, inputs={"texts": source.digest})
        )
    print(f"model {model.name}: {counts['parameters']:,} parameters, vocabulary {counts['vocabulary']:,}", flush=True)
    notes = _notes(how, figures)
    _print_tokens(figures, notes, text)
    with artifacts.writing(Path(tokens)) as folder:
        np.save(folder / "ids.npy", cache.units.flat)
        np.save(folder / "offsets.npy", cache.units.offsets)
        config = {"text": to_dict(text), "tokenizer": of_model.files["tokenizer.json"], **how}
        inputs = {"texts": source.digest, "model": of_model.digest}
        of_tokens = Manifest("tokens", config, figures, notes=notes, inputs=inputs)
        manifests.write_report(folder, f"Tokens of {model.name}", of_tokens)
        of_tokens = artifacts.finish(folder, of_tokens)
    return of_model, of_tokens


def _network(
    name: str, model: ModelConfig, item_texts: list[str], whole: list[str], text: TextConfig
) -> tuple[Any, Any]:
    if name == "scratch":
        tokenizer = scratch.train_tokenizer(item_texts, model.vocab_size, whole)
        positions = text.max_tokens + 2 * text.max_item_tokens + 1
        return scratch.fresh_model(model.size, tokenizer, max(positions, 1024), model.seed, whole), tokenizer
    if Path(name).exists() or name.startswith(("/", ".", "~")):
        return checkpoint.load(Path(name).expanduser())
    return checkpoint.load_from_hub(name)


# --- tokens -----------------------------------------------------------------------------------------------------


def _tokens(
    item_texts: list[str], users: Users, tokenizer: Any, text: TextConfig
) -> tuple[TokenCache, dict[str, Any], dict[str, Any]]:
    """The token cache, how prompts are made from it, and what there is to count."""
    name, exact = choose_form(item_texts, tokenizer, text.max_item_tokens, text.phrases)
    items = encode_items(item_texts, tokenizer, FORMS[name], text.max_item_tokens)
    opening, following = encode_phrases(tokenizer, FORMS[name], text.phrases)
    cache = TokenCache(TokenCache.units_of(opening, following, items.ids), tokenizer.eos_token_id, text.max_tokens)
    config = {"assembly": "units" if exact == 1 else "text", "form": name}
    lengths = np.array([len(ids) for ids in items.ids])
    counts = {"items": len(lengths), "mean_item_tokens": round(float(lengths.mean()), 1), "items_cut": items.cut}
    return cache, config, counts | {"assembled_exact_share": exact} | _statistics(cache, lengths, users)


def _statistics(cache: TokenCache, item_lengths: NDArray[np.int64], users: Users) -> dict[str, Any]:
    """Token lengths of items, and of the longest prompt that each user is given; what the prompts lose."""
    ends = np.maximum.reduce([users.test_at, users.valid_at, users.train_end - 1, np.zeros_like(users.train_end)])
    histories = Ragged.of([items[:end] for items, end in zip(users.items, ends.tolist(), strict=True)])
    kept, prompt_lengths = cache.fit(histories)
    lost = histories.lengths() - kept
    counts: dict[str, Any] = {
        "prompts": len(kept),
        "prompts_cut": int((lost > 0).sum()),
        "prompt_items_dropped": int(lost.sum()),
    }
    for name, lengths in (("item_tokens", item_lengths), ("prompt_tokens", prompt_lengths)):
        quantiles = np.quantile(lengths, (0, 0.5, 0.95, 1), method="lower").tolist()
        counts |= {f"{name}_{q}": int(n) for q, n in zip(("min", "median", "p95", "max"), quantiles, strict=True)}
        counts[f"{name}_histogram"] = histogram(lengths)
    return counts


def histogram(lengths: NDArray[np.int64]) -> list[list[Any]]:
    """[label, count] of buckets that double: 0-1, 2, 3-4, 5-8, …, from the first filled one to the last."""
    bucket = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    labels = ["0-1", "2", *(f"{2 ** (b - 1) + 1}-{2**b}" for b in range(2, int(bucket.max()) + 1))]
    count = np.bincount(bucket).tolist()
    return [[labels[b], count[b]] for b in range(int(bucket.min()), len(count))]


def _notes(how: dict[str, Any], figures: dict[str, Any]) -> tuple[str, ...]:
    if how["assembly"] == "units":
        return ()
    return (
        f"assembled from units ({how['form']}), only {figures['assembled_exact_share']:.1%} of the probed prompts have "
        "the ids of their text, so prompts are tokenised as whole texts when they are needed, which is slower",
    )


def _print_tokens(counts: dict[str, Any], notes: tuple[str, ...], text: TextConfig) -> None:
    def spread(name: str) -> str:
        return " / ".join(f"{counts[f'{name}_{q}']:,}" for q in ("min", "median", "p95", "max"))

    print(
        f"tokens (min / median / p95 / max): {spread('item_tokens')} per item, {counts['items_cut']:,} of "
        f"{counts['items']:,} cut at {text.max_item_tokens}; {spread('prompt_tokens')} per prompt, "
        f"{counts['prompts_cut']:,} of {counts['prompts']:,} lose {counts['prompt_items_dropped']:,} oldest items at "
        f"{text.max_tokens}; {counts['assembled_exact_share']:.1%} of probed prompts assembled exactly",
        *(f"tokens: warning: {note}" for note in notes),
        sep="\n",
        flush=True,
    )
