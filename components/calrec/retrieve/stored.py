"""A catalogue as a folder that recommends with a model: items, BM25, token ids, and what followed what.

New items need no training: an index that is built with them recommends them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec import artifacts
from calrec.arrays.ragged import Ragged
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig, TextConfig
from calrec.config.overrides import from_dict, to_dict
from calrec.model.loading import load_users
from calrec.retrieve.bm25 import Index, same_words
from calrec.retrieve.catalogue import Catalogue, load_catalogue, of_table
from calrec.retrieve.evidence import Evidence, Fusion
from calrec.retrieve.following import countable
from calrec.retrieve.learning import learn_with_model
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Search
from calrec.textify.encoding import FORMS, TextPrompts, encode_items, encode_phrases
from calrec.textify.sequences import text_groups
from calrec.textify.texts import item_texts
from calrec.textify.tokens import TokenCache


@dataclass(frozen=True)
class Stored:
    """An opened index; item codes are rows of its items table."""

    manifest: Manifest
    catalogue: Catalogue
    index: Index
    cache: TokenCache
    evidence: Evidence
    vectors: Any
    """Of the groups, float32 [G, D], when the index was built with retrieve.dense; else None."""
    fusion: Fusion | None
    """When the index was built with retrieve.fusion_users."""

    @property
    def domain(self) -> str:
        """The category."""
        return str(self.manifest.config["domain"])


@artifacts.making("index", "texts", "tokens", "model", "learner")
def build(
    texts: Path,
    tokens: Path,
    model: Path,
    domain: str,
    out: Path,
    config: RetrieveConfig,
    new_items: pa.Table | None = None,
    sampling: GenerateConfig | None = None,
    learner: Path | None = None,
) -> Manifest:
    """Build the index of a category.

    Args:
        texts: folder of the textify step: the items, and the histories that co-occurrence is counted in.
        tokens: token cache of the base-model step: how a text becomes tokens.
        model: the model that will recommend; its tokenizer, with `config.dense` its vectors, and with
            `config.fusion_users` what its probability weighs.
        domain: the category.
        out: the folder to make.
        config: k1, b, dense, fusion_users.
        new_items: items beside those of the texts, or other attributes of these; columns as artifacts.ITEMS, without
            domain.
        sampling: how the model will write texts, for `config.fusion_users`; None: the defaults.
        learner: the model before its refit, for `config.fusion_users`; None: `model`.

    Raises:
        ValueError: an unknown category; tokens, texts and model that do not belong together.
    """
    from calrec.model.loading import load_model

    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    of_tokens, of_texts = artifacts.read_manifest(tokens, "tokens"), artifacts.read_manifest(texts, "texts")
    text = from_dict(TextConfig, of_texts.config["text"])
    table, rows = _items(texts, domain, new_items, text)
    form = FORMS[of_tokens.config["form"]]
    encoded = encode_items(table["text"].to_pylist(), tokenizer, form, text.max_item_tokens)
    units = TokenCache.units_of(*encode_phrases(tokenizer, form, text.phrases), encoded.ids)
    how = {"assembly": of_tokens.config["assembly"], "form": of_tokens.config["form"]}
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "items.parquet", table)
        catalogue = of_table(table, np.arange(len(table)))
        Index.build(catalogue.group_texts, config.k1, config.b).save(folder)
        np.save(folder / "ids.npy", units.flat)
        np.save(folder / "token_offsets.npy", units.offsets)
        users = load_users(texts, [domain])
        histories = [rows[np.array(items, dtype=np.int64)] for items in countable(users, "test")]
        Evidence.of(histories, catalogue, config.fusion_users > 0).save(folder)
        if config.dense:
            targets = TokenCache(units, cache.end, text.max_tokens).targets(catalogue.first)
            np.save(folder / "vectors.npy", _reader(network, targets, config).group_vectors)
        if config.fusion_users:
            known = load_catalogue(texts, domain)
            search = Search(Index.build(known.group_texts, config.k1, config.b), config.threads)
            sampling = sampling or GenerateConfig()
            learn_with_model(learner or model, tokens, texts, users, known, search, config, sampling).save(folder)
        counts = {
            "items": len(table),
            "text_groups": len(catalogue.members),
            "new_items": len(table) - int((rows >= 0).sum()),
            "untrained_items": int((table["train_count"].to_numpy() == 0).sum()),
            "items_cut": encoded.cut,
        }
        print(f"index {domain}: {', '.join(f'{name} {value:,}' for name, value in counts.items())}", flush=True)
        of = {"domain": domain, "text": to_dict(text), "tokenizer": of_model.files["tokenizer.json"], **how}
        inputs = {"texts": of_texts.digest, "tokens": of_tokens.digest}
        inputs |= {"model": of_model.digest} if config.dense or config.fusion_users else {}
        return artifacts.finish(
            folder, Manifest("index", config={**of, "retrieve": to_dict(config)}, counts=counts, inputs=inputs)
        )


def load(folder: Path, tokenizer: Any, of_model: Manifest) -> Stored:
    """Open an index for a model; its arrays stay in their files.

    Args:
        folder: made by :func:`build`.
        tokenizer: the model's.
        of_model: the model's manifest.

    Raises:
        ValueError: a file was changed, or the index was built for another tokenizer, or its vectors by another model.
    """
    manifest = artifacts.read_verified(folder, "index")
    config = manifest.config
    if config["tokenizer"] != of_model.files["tokenizer.json"]:
        raise ValueError(f"{folder} was built for another tokenizer than the model's; run calrec index with this model")
    vectors = None
    if "model" in manifest.inputs:
        if manifest.inputs["model"] != of_model.digest:
            raise ValueError(f"{folder} holds vectors or weights of another model; run calrec index with this model")
        if (folder / "vectors.npy").is_file():
            vectors = np.load(folder / "vectors.npy")
    table = artifacts.read_table(folder, "items.parquet", "index")
    catalogue = of_table(table, np.arange(len(table)))
    units = Ragged(*(np.asarray(np.load(folder / name, mmap_mode="r")) for name in ("ids.npy", "token_offsets.npy")))
    return Stored(
        manifest=manifest,
        catalogue=catalogue,
        index=load_bm25(folder, manifest, catalogue.group_texts),
        cache=_cache(units, config, table, tokenizer),
        evidence=Evidence.load(folder),
        vectors=vectors,
        fusion=Fusion.load(folder),
    )


def load_bm25(folder: Path, manifest: Manifest, texts: Sequence[str]) -> Index:
    """The BM25 index in a folder; one of an earlier version's words is built again in memory from its own texts.

    Args:
        folder: made by :func:`build`.
        manifest: of the folder.
        texts: of its groups.
    """
    if same_words(folder, texts):
        return Index.load(folder)
    print(f"{folder}: its words are of an earlier version, so they are made again; calrec index saves that", flush=True)
    how = manifest.config["retrieve"]
    return Index.build(texts, how["k1"], how["b"])


def _items(texts: Path, domain: str, new: pa.Table | None, text: TextConfig) -> tuple[pa.Table, Any]:
    """The items of the index, and for each item code of the texts its row, -1 for another category's."""
    every = artifacts.read_table(texts, "items.parquet", "texts")
    chosen = pc.equal(every["domain"], domain).to_numpy()
    if not chosen.any():
        known = artifacts.read_manifest(texts).config["domains"]
        raise ValueError(f"unknown category {domain!r}; {texts} holds: {', '.join(known)}")
    rows = np.where(chosen, np.cumsum(chosen) - 1, -1)
    columns = ["item_id", "title", "category", "brand", "price", "text", "train_count"]
    table = every.filter(pa.array(chosen)).select(columns)
    if new is not None:
        table = _with_new(table, new, text)
    domains = pa.chunked_array([pa.array([domain] * len(table))])
    groups = text_groups(table["text"], domains, table["train_count"].to_numpy())
    table = table.add_column(6, "group", pa.array(groups, pa.int32()))
    return table.cast(artifacts.INDEX_ITEMS), rows


def _with_new(table: pa.Table, new: pa.Table, text: TextConfig) -> pa.Table:
    """New items behind the known ones; of a known id the new attributes count, and its place and counts stay."""
    known = new.select([name for name in table.column_names if name in new.column_names])
    added = known.append_column("text", item_texts(new, text.attributes))
    place = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    at = [place.get(item, -1) for item in added["item_id"].to_pylist()]
    source = np.arange(len(table))
    for row, old in enumerate(at):
        if old >= 0:
            source[old] = len(table) + row
    both = pa.concat_tables([table.drop_columns(["train_count"]), added])
    fresh = np.flatnonzero(np.array(at) < 0) + len(table)
    counts = np.append(table["train_count"].to_numpy(), np.zeros(len(fresh), np.int32))
    return both.take(pa.array(np.append(source, fresh))).append_column("train_count", pa.array(counts, pa.int32()))


def _reader(network: Any, targets: Ragged, config: RetrieveConfig) -> Reader:
    from calrec.model.device import place_network

    return Reader(place_network(network), targets, config.memory_gb * 1e9)


def _cache(units: Ragged, config: Mapping[str, Any], table: pa.Table, tokenizer: Any) -> TokenCache:
    text = from_dict(TextConfig, config["text"])
    end = int(tokenizer.eos_token_id)
    if config["assembly"] == "units":
        return TokenCache(units, end, text.max_tokens)
    form = FORMS[config["form"]]
    cut = encode_items(table["text"].to_pylist(), tokenizer, form, text.max_item_tokens).texts
    return TextPrompts(units, end, text.max_tokens, cut, form, tokenizer)
