"""Evaluation of 100,000 users with 10 items each, without baselines, against users one by one; memory at 1,000,000.

The folders are synthetic: 20,000 items after Zipf, histories of 4 to 15 items, two in three targets somewhere in the
list, scores that tie now and then, 32 samples per user in about six texts. Each size runs in a process of its own.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.arrays.ragged import running
from calrec.artifacts import Manifest
from calrec.config import EvaluateConfig, GenerateConfig, RetrieveConfig, SplitConfig, TextConfig
from calrec.config.overrides import to_dict

USERS, LARGE, ITEMS, K = 100_000, 1_000_000, 20_000, 10
ROUNDS = 3
CONFIG = EvaluateConfig(recall_at=(1, 5, 10), ndcg_at=(10,), baselines=())
FREQUENCIES = {"0 (cold)": 0, "1-5": 5, "6-20": 20, "over 20": math.inf}
LENGTHS = {"under 5": 4, "5-9": 9, "10-19": 19}
_PART = 100_000  # users that are made at a time


def evaluate() -> dict[str, Any]:
    """Check that ranks, metrics and slices are those of the plain way, then time; peak memory of ten times the users.

    Returns:
        ratio (seconds of the plain way / of the step), seconds of both, of the step at 1,000,000 users, and the peak
        resident memory of the step's process in MB at both sizes, beside what it takes to import it.
    """
    with tempfile.TemporaryDirectory(prefix="evaluate-") as name:
        folder = Path(name)
        make(folder / "small", USERS)
        measured(folder / "small")
        start = time.perf_counter()
        expected = plain(folder / "small")
        reference = time.perf_counter() - start
        check(folder / "small", expected)
        runs = [measured(folder / "small") for _ in range(ROUNDS)]
        make(folder / "large", LARGE)
        large = measured(folder / "large")
    seconds = sorted(one["seconds"] for one in runs)[ROUNDS // 2]
    return {
        "what": f"{USERS:,} users x {K} items read, checked, scored, with bootstrap intervals in "
        "every slice and the reports, against users one by one in Python with numpy's resampling in "
        f"{len(expected['slices'])} slices; ranks, ties, metrics and users of slices are the same",
        "ratio": reference / seconds,
        "seconds": round(seconds, 2),
        "reference_seconds": round(reference, 2),
        "peak_mb": runs[0]["peak_mb"],
        f"at_{LARGE}_users": large,
        "imports_mb": runs[0]["imports_mb"],
    }


# --- the data ---------------------------------------------------------------------------------------------------


def make(root: Path, users: int, seed: int = 0) -> None:
    """Write the folders texts, generations and recommendations of so many users."""
    rng = np.random.default_rng(seed)
    ids = pa.array([f"item{i:06d}" for i in range(ITEMS)])
    prices = rng.lognormal(2, 1, ITEMS).round(2)
    texts = [
        f"Title: thing {i} of kind {i % 97}. Category: kind {i % 41}. Brand: Unknown. Price: {price:.2f}."
        for i, price in enumerate(prices.tolist())
    ]
    with artifacts.writing(root / "texts") as folder:
        counts = np.zeros(ITEMS, np.int64)
        with artifacts.table_writer(folder, "sequences.parquet", "texts") as writer:
            for start in range(0, users, _PART):
                table, part = _sequences(rng, start, min(_PART, users - start))
                counts += part
                writer.write_table(table)
        group = np.empty(ITEMS, np.int64)
        group[np.lexsort((np.arange(ITEMS), -counts))] = np.arange(ITEMS)
        kinds = [f"kind {i % 41}" for i in range(ITEMS)]
        titles = [f"thing {i} of kind {i % 97}" for i in range(ITEMS)]
        nothing = [""] * ITEMS
        numbers = [pa.array(each, pa.int32()) for each in (group, counts)]
        columns = [ids, ["d"] * ITEMS, titles, kinds, nothing, nothing, texts, *numbers]
        artifacts.write_table(folder, "items.parquet", pa.table(columns, schema=artifacts.ITEM_TEXTS))
        for name in ("report.md", "report.html"):
            (folder / name).write_text("")
        sizes = {"users": users, "users_with_test": users, "users_with_tied_test": 0}
        config = {"domains": ["d"], "text": to_dict(TextConfig()), "split": to_dict(SplitConfig())}
        made = artifacts.finish(folder, Manifest("texts", config, {"by_category": {"d": sizes}}))
    _generated_and_ranked(rng, root, users, ids, texts, made)


def _sequences(rng: np.random.Generator, start: int, users: int) -> tuple[pa.Table, Any]:
    sizes = rng.integers(5, 17, users)
    offsets = running(sizes)
    items = (ITEMS * rng.random(offsets[-1]) ** 3).astype(np.int32)
    names = [f"user{start + i:08d}" for i in range(users)]
    training = np.ones(len(items), np.bool_)
    training[offsets[1:] - 1] = training[offsets[1:] - 2] = False
    ends = [pa.array(sizes - back, pa.int32()) for back in (2, 2, 1)]
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items))
    table = pa.table([names, pa.repeat("d", users), lists, *ends], schema=artifacts.SEQUENCES)
    return table, np.bincount(items[training], minlength=ITEMS)


def _generated_and_ranked(
    rng: np.random.Generator, root: Path, users: int, ids: pa.Array, texts: list[str], made: Manifest
) -> None:
    config = {"domain": "d", "generate": to_dict(GenerateConfig())}
    sequences = pq.ParquetFile(root / "texts/sequences.parquet")
    with (
        artifacts.writing(root / "generations") as generations,
        artifacts.table_writer(generations, "generations.parquet", "generations") as writer,
    ):
        for start in range(0, users, _PART):
            writer.write_table(_generations(rng, start, min(_PART, users - start), pa.array(texts)))
        writer.close()
        of = artifacts.finish(generations, Manifest("generations", config, inputs={"texts": made.digest}))
    with (
        artifacts.writing(root / "recommendations") as ranked,
        artifacts.table_writer(ranked, "recommendations.parquet", "recommendations") as writer,
    ):
        for batch in sequences.iter_batches(_PART):
            writer.write_table(_recommendations(rng, batch, ids))
        writer.close()
        inputs = {"texts": made.digest, "generations": of.digest}
        config |= {"retrieve": to_dict(RetrieveConfig(k=K))}
        artifacts.finish(ranked, Manifest("recommendations", config, {"bm25_margin": 0.1}, inputs=inputs))


def _generations(rng: np.random.Generator, start: int, users: int, texts: pa.Array) -> pa.Table:
    sizes = rng.integers(3, 10, users)
    rows = int(sizes.sum())
    user = pa.array([f"user{start + i:08d}" for i in range(users)]).take(pa.array(np.repeat(np.arange(users), sizes)))
    text = texts.take(pa.array(rng.integers(0, ITEMS, rows)))
    text = pc.if_else(pa.array(rng.random(rows) < 0.9), text, "Title: something else.")
    count = pa.array(rng.integers(1, 8, rows), pa.int32())
    return pa.table(
        [user, text, pa.array(rng.random(rows)), count, pa.repeat(True, rows)], schema=artifacts.GENERATIONS
    )


def _recommendations(rng: np.random.Generator, batch: pa.RecordBatch, ids: pa.Array) -> pa.Table:
    """Lists of items that lie apart by 1 to 50; two in three targets are put in at some place."""
    users = len(batch)
    target = batch["items"].flatten().to_numpy()[np.cumsum(batch["items"].value_lengths().to_numpy()) - 1]
    items = (rng.integers(0, ITEMS, users)[:, None] + np.cumsum(rng.integers(1, 50, (users, K)), axis=1)) % ITEMS
    place = rng.integers(0, 15, users)
    put = (place < K) & ~(items == target[:, None]).any(axis=1)
    items[put, place[put]] = target[put]
    scores = -np.cumsum(rng.random((users, K)) < 0.8, axis=1) + 20.0
    rows = users * K
    columns = [
        batch["user_id"].take(pa.array(np.repeat(np.arange(users), K))),
        pa.array(np.tile(np.arange(1, K + 1), users), pa.int32()),
        ids.take(pa.array(items.ravel())),
        pa.repeat("a title", rows),
        scores.ravel(),
        pa.repeat("generation", rows),
        pa.repeat("a text", rows),
        pa.array(rng.random(rows)),
        pa.array(rng.random(rows)),
    ]
    return pa.table(columns, schema=artifacts.RECOMMENDATIONS)


# --- the two ways -------------------------------------------------------------------------------------------------


def measured(root: Path) -> dict[str, Any]:
    """Seconds and peak memory of the step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.evaluate", str(root)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(root: Path) -> None:
    """Run the step once, and print its seconds without imports and its peak memory."""
    from calrec.evaluate.step import evaluate as step

    imports = peak_mb()
    start = time.perf_counter()
    step(root / "texts", root / "generations", root / "recommendations", root / "evaluation", CONFIG)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": peak_mb(), "imports_mb": imports}))


def peak_mb() -> int:
    """Of this process alone; ru_maxrss has its parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


def plain(root: Path) -> dict[str, Any]:
    """The same figures user by user: lists in dictionaries, ranks by search, resampling by numpy."""
    item_table = pq.read_table(root / "texts/items.parquet").to_pylist()
    target, history = {}, {}
    for row in pq.read_table(root / "texts/sequences.parquet").to_pylist():
        target[row["user_id"]] = item_table[row["items"][row["test_at"]]]
        history[row["user_id"]] = [item_table[code]["item_id"] for code in row["items"][: row["test_at"]]]
    lists: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in pq.read_table(root / "recommendations/recommendations.parquet").to_pylist():
        lists[row["user_id"]].append((row["item_id"], row["score"]))
    ranks, sizes, members = {}, {}, defaultdict(list)
    for user, ranking in lists.items():
        wanted = target[user]["item_id"]
        rank = next((place for place, (item, _) in enumerate(ranking, 1) if item == wanted), 0)
        tied = [place for place, (_, score) in enumerate(ranking, 1) if rank and score == ranking[rank - 1][1]]
        ranks[user] = (rank, min(tied, default=0), max(tied, default=0))
        members["target frequency", _band(target[user]["train_count"], FREQUENCIES)].append(user)
        members["history length", _band(len(history[user]), LENGTHS)].append(user)
        members["target", "repeat" if wanted in history[user] else "new"].append(user)
    figures = {"": _plain_figures([ranks[user][0] for user in ranks])}
    for key, users in members.items():
        sizes[key] = len(users)
        figures[key] = _plain_figures([ranks[user][0] for user in users])
    return {"ranks": ranks, "slices": sizes, "figures": figures}


def _band(value: int, bands: dict[str, float]) -> str:
    return next(name for name, highest in bands.items() if value <= highest)


def _plain_figures(ranks: list[int]) -> dict[str, tuple[float, float, float]]:
    values = {f"recall_at_{k}": [float(0 < rank <= k) for rank in ranks] for k in CONFIG.recall_at}
    values |= {f"ndcg_at_{k}": [1 / math.log2(r + 1) if 0 < r <= k else 0.0 for r in ranks] for k in CONFIG.ndcg_at}
    values["mrr"] = [1 / rank if rank else 0.0 for rank in ranks]
    found = {}
    for name, its in values.items():
        array, rng = np.array(its), np.random.default_rng(CONFIG.seed)
        means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(CONFIG.bootstrap)]
        found[name] = (float(array.mean()), *np.percentile(means, [2.5, 97.5]).tolist())
    return found


def check(root: Path, expected: dict[str, Any]) -> None:
    """That ranks, ties, means and slices are the same, and intervals as near as another seed brings them."""
    rows = pq.read_table(root / "evaluation/ranks.parquet").to_pylist()
    assert {row["user_id"]: (row["rank"], row["rank_best"], row["rank_worst"]) for row in rows} == expected["ranks"]
    document = json.loads((root / "evaluation/metrics.json").read_text())
    found = {(one["by"], one["value"]): one for one in document["slices"]}
    figures = {key: one["figures"]["calrec"] for key, one in found.items()}
    figures[""] = document["methods"]["calrec"]["figures"]
    assert expected["slices"] == {key: found[key]["users"] for key in expected["slices"]}
    for key, its in expected["figures"].items():
        for name, (mean, low, high) in its.items():
            one = figures[key][name]
            assert math.isclose(one["mean"], mean, rel_tol=1e-9), (key, name, one, mean)
            width = max(high - low, 1e-9)
            assert abs(one["low"] - low) < 0.15 * width and abs(one["high"] - high) < 0.15 * width, (key, name, one)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
