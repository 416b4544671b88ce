"""The generate step: a model and histories in, sampled item texts with their log-probabilities out."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig
from calrec.model.device import device, use_threads
from calrec.model.loading import Users, load_model, load_users
from calrec.settings import to_dict

REPORT_SECONDS = 5.0


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
        ValueError: unknown category; a model and a token cache that do not belong together.
    """
    from calrec.generate.sampler import Sample, sample

    use_threads(config.threads)
    users = load_users(texts, [domain])
    chosen, cut_at = held_out(users, config)
    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    network = network.to(device())
    prompts = cache.assemble([users.items[u][:at] for u, at in zip(chosen, cut_at, strict=True)])
    print(
        f"generate {domain}: {len(prompts):,} of {len(users):,} users, {config.samples} samples each at temperature "
        f"{config.temperature}, prompts of {prompts.lengths.mean():.0f} tokens",
        flush=True,
    )
    rows: list[dict[str, Any]] = []
    texts_seen = empty = 0
    sampled = sample(network, prompts.rows(), cache.end, config)
    for user, samples in zip(chosen, _with_progress(sampled, len(prompts), f"generate {domain}"), strict=True):
        merged: dict[str, Sample] = {}
        count: dict[str, int] = {}
        for text, one in zip(_decode(tokenizer, samples), samples, strict=True):
            count[text] = count.get(text, 0) + 1
            if text not in merged or one.logprob > merged[text].logprob:
                merged[text] = one
        empty += count.get("", 0)
        texts_seen += len(merged)
        rows += [
            {
                "user_id": users.user_id[user],
                "text": text,
                "logprob": s.logprob,
                "count": count[text],
                "finished": s.finished,
            }
            for text, s in merged.items()
        ]
    table = pa.Table.from_pylist(rows, schema=artifacts.GENERATIONS)
    total = len(prompts) * config.samples
    counts = {
        "users": len(prompts),
        "samples": total,
        "distinct_share": round(texts_seen / total, 4),
        "empty_texts": empty,
        "unfinished_share": round(
            1 - float(np.average(table["finished"].to_numpy(), weights=table["count"].to_numpy())), 4
        ),
    }
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "generations.parquet", table)
        return artifacts.finish(
            folder,
            Manifest(
                "generations",
                config={"domain": domain, "generate": to_dict(config)},
                counts=counts,
                inputs={"texts": artifacts.read_manifest(texts).digest, "model": of_model.digest},
            ),
        )


def held_out(users: Users, config: GenerateConfig) -> tuple[list[int], list[int]]:
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


def _decode(tokenizer: Any, samples: Sequence[Any]) -> list[str]:
    decoded = tokenizer.batch_decode([list(s.tokens) for s in samples], skip_special_tokens=True)
    return [" ".join(text.split()) for text in decoded]


def _with_progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    started = last = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        if time.perf_counter() - last >= REPORT_SECONDS or done == total:
            last = time.perf_counter()
            rate = done / (last - started)
            print(f"{label}: {done}/{total} users, {rate:.1f} users/s, ETA {(total - done) / rate:.0f} s", flush=True)
