"""The base-model step: a name, a folder or "scratch" in; a model folder and the token cache of the item texts out."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import ModelConfig, TextConfig
from calrec.model import checkpoint, scratch
from calrec.settings import from_dict, to_dict
from calrec.textify.tokens import encode_items


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
    item_texts: list[str] = artifacts.read_table(texts, "items.parquet", "texts")["text"].to_pylist()
    network, tokenizer = _network(weights or model.name, model, item_texts, text)
    room = int(getattr(network.config, "max_position_embeddings", 0) or 0)
    needed = text.max_tokens + text.max_item_tokens + 1
    if 0 < room < needed:
        raise ValueError(
            f"text.max_tokens + text.max_item_tokens + 1 = {needed} tokens, but the "
            f"model {model.name} has {room} positions; lower text.max_tokens to {room - text.max_item_tokens - 1}"
        )
    counts = {"parameters": sum(p.numel() for p in network.parameters()), "vocabulary": len(tokenizer)}
    with artifacts.writing(Path(out)) as folder:
        checkpoint.save(network, tokenizer, folder)
        config = {"model": to_dict(model), "stage": "base"}
        of_model = artifacts.finish(
            folder, Manifest("model", config=config, counts=counts, inputs={"texts": source.digest})
        )
    print(f"model {model.name}: {counts['parameters']:,} parameters, vocabulary {counts['vocabulary']:,}", flush=True)
    return of_model, _write_tokens(item_texts, tokenizer, text, of_model, source, Path(tokens))


def _network(name: str, model: ModelConfig, item_texts: list[str], text: TextConfig) -> tuple[Any, Any]:
    if name == "scratch":
        tokenizer = scratch.train_tokenizer(item_texts, model.vocab_size)
        positions = text.max_tokens + 2 * text.max_item_tokens + 1
        return scratch.fresh_model(model.size, tokenizer, max(positions, 1024), model.seed), tokenizer
    if Path(name).exists() or name.startswith(("/", ".", "~")):
        return checkpoint.load(Path(name).expanduser())
    return checkpoint.load_from_hub(name)


def _write_tokens(
    item_texts: list[str], tokenizer: Any, text: TextConfig, of_model: Manifest, of_texts: Manifest, out: Path
) -> Manifest:
    ids, cut, exact, prefix = encode_items(item_texts, tokenizer, text.max_item_tokens)
    mean = sum(len(i) for i in ids) / len(ids)
    counts = {"items": len(ids), "mean_item_tokens": round(mean, 1), "items_cut": cut, "assembled_exact_share": exact}
    print(
        f"tokens: {mean:.1f} per item, {cut} of {len(ids)} cut at {text.max_item_tokens}, "
        f"{exact:.1%} of probed prompts assembled exactly",
        flush=True,
    )
    notes = (
        ()
        if exact == 1
        else (f"assembled ids differ from tokenising the whole text in {1 - exact:.1%} of the prompts",)
    )
    with artifacts.writing(out) as folder:
        artifacts.write_table(folder, "items.parquet", pa.table([pa.array(ids)], schema=artifacts.ITEM_TOKENS))
        return artifacts.finish(
            folder,
            Manifest(
                "tokens",
                config={"text": to_dict(text), "prefix": prefix, "tokenizer": of_model.files["tokenizer.json"]},
                counts=counts,
                notes=notes,
                inputs={"texts": of_texts.digest, "model": of_model.digest},
            ),
        )
