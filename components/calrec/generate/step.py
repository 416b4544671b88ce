"""The generate step: a model and histories in, sampled item texts with their log-probabilities out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec import artifacts
from calrec.arrays.ragged import Ints, Ragged
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig
from calrec.config.overrides import to_dict
from calrec.generate.samples import Generation, Prompt
from calrec.model.device import keep_memory, peak_memory, place_network, use_threads
from calrec.model.loading import Users, load_model, load_users, saw_validation
from calrec.report.progress import Progress

_USERS = 512  # whose texts are in memory at once


@artifacts.making("generations", "texts", "tokens", "model")
def generate(texts: Path, tokens: Path, model: Path, out: Path, domain: str, config: GenerateConfig) -> Manifest:
    """Sample next-item texts for the held-out users of one category.

    Args:
        texts: folder of the textify step.
        tokens: token cache of the base-model step.
        model: model folder, usually of stage 2.
        out: the folder to make; one row per user and distinct text.
        domain: the target category.
        config: samples, temperature, which users.

    Raises:
        ValueError: unknown category; a model and a token cache that do not belong together; validation items that the
            model was trained on.
        FloatingPointError: the model's logits are not finite; names the user.
    """
    from calrec.generate.texts import Generator

    use_threads(config.threads)
    users = load_users(texts, [domain])
    chosen, cut_at = choose_users(users, config)
    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    keep_memory(network)
    if config.split == "valid" and saw_validation(of_model):
        raise ValueError(
            f"{model} was trained on the validation items (until = test), so generate.split=valid would judge what it "
            "knows; take the model before its refit, or generate.split=test"
        )
    generator = Generator(place_network(network), tokenizer, cache.end, config, cache.targets(text_rows(texts, domain)))
    _, lengths = cache.fit(Ragged.of([users.items[u][:at] for u, at in zip(chosen, cut_at, strict=True)]))
    print(
        f"generate {domain}: {len(chosen):,} of {len(users):,} users, {config.samples} samples each at temperature "
        f"{config.temperature} ({generator.backend}), prompts of {lengths.mean():.0f} tokens",
        flush=True,
    )
    progress, counts = Progress(f"generate {domain}", len(chosen)), Counter[str]()
    with artifacts.writing(Path(out)) as folder:
        with artifacts.table_writer(folder, "generations.parquet", "generations") as writer:
            for start in range(0, len(chosen), _USERS):
                part = list(zip(chosen[start : start + _USERS], cut_at[start : start + _USERS], strict=True))
                prompts = [
                    Prompt(users.user_id[user], ids, cache.barred)
                    for (user, _), ids in zip(
                        part, cache.assemble([users.items[u][:at] for u, at in part]).rows(), strict=True
                    )
                ]
                found: list[list[Generation]] = []
                for batch in generator.batches(prompts):
                    found += generator(batch)
                    progress.add(len(batch))
                counts += _count(found)
                writer.write_table(_table([prompt.user for prompt in prompts], found))
        progress.end()
        cost = {"seconds": round(progress.seconds, 3), "tokens": generator.tokens}
        cost |= {"users_per_second": round(progress.rate, 2), "peak_memory_bytes": peak_memory()}
        artifacts.write_record(folder, cost)
        return artifacts.finish(
            folder,
            Manifest(
                "generations",
                config={"domain": domain, "generate": to_dict(config)},
                counts=_shares(counts, len(chosen)),
                inputs={"texts": artifacts.read_manifest(texts).digest, "model": of_model.digest},
            ),
        )


def choose_users(users: Users, config: GenerateConfig) -> tuple[list[int], list[int]]:
    """The users to predict for, and where each history ends; a fixed random sample when `max_users` says so.

    Raises:
        ValueError: no user has a held-out item in this split.
    """
    at = users.test_at if config.split == "test" else users.valid_at
    able = np.flatnonzero(at >= 1)
    if not len(able):
        raise ValueError(f"no user has a {config.split} item; look at the split with calrec inspect")
    if config.max_users:
        able = np.sort(np.random.default_rng(config.seed).permutation(able)[: config.max_users])
    return able.tolist(), at[able].tolist()


def text_rows(texts: Path, domain: str) -> Ints:
    """One item code for each distinct text of a category."""
    table = artifacts.read_table(texts, "items.parquet", "texts")
    codes = np.flatnonzero(pc.equal(table["domain"], domain).to_numpy())
    _, first = np.unique(table["group"].to_numpy()[codes], return_index=True)
    rows: Ints = codes[first].astype(np.int64)
    return rows


def _table(users: Sequence[str], found: Sequence[Sequence[Generation]]) -> pa.Table:
    rows = [
        {"user_id": user, **asdict(one)} for user, generations in zip(users, found, strict=True) for one in generations
    ]
    return pa.Table.from_pylist(rows, schema=artifacts.GENERATIONS)


def _count(found: Sequence[Sequence[Generation]]) -> Counter[str]:
    counts = Counter[str]()
    for generations in found:
        samples = sum(one.count for one in generations)
        empty = sum(one.count for one in generations if not one.text)
        unfinished = sum(one.count for one in generations if not one.finished)
        mostly_empty = int(2 * empty > samples)
        counts.update(samples=samples, texts=len(generations), unfinished=unfinished, empty=empty, silent=mostly_empty)
    return counts


def _shares(counts: Counter[str], users: int) -> dict[str, float]:
    return {
        "users": users,
        "samples": counts["samples"],
        "distinct_share": round(counts["texts"] / counts["samples"], 4),
        "empty_texts": counts["empty"],
        "users_with_mostly_empty_texts": counts["silent"],
        "unfinished_share": round(counts["unfinished"] / counts["samples"], 4),
    }
