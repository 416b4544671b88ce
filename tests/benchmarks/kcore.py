"""First purchases, 5-core and order of a large log: the ingest rules in memory and in files, against polars.

Each engine runs in a process of its own, from a Parquet file of string ids to a Parquet file sorted by user and time.
"""

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

CORE = 5
DAY = 86_400_000
FILES_MEMORY = 400 << 20  # what the events may take when they go to files
ENGINES = ("memory", "files", "polars")
THREADS = "2"


def kcore(rows: int = 50_000_000, rounds: int = 1, folder: Path | None = None) -> dict[str, Any]:
    """Make the log, run the engines in turns, check that all give the same rows, and delete what was written.

    Returns:
        ratio (seconds of polars / seconds in memory, median of the rounds), ratio_files, and per engine: seconds,
        cpu_seconds (of all its threads), peak_gb (resident memory of the whole process), rows and checksum.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="kcore-") as name:
        small, log = Path(name) / "small.parquet", Path(name) / "log.parquet"
        make(small, 100_000)
        run("memory", small, Path(name))  # compiles, once
        make(log, rows)
        runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
        for _ in range(rounds):
            for engine in ENGINES:
                runs[engine].append(run(engine, log, Path(name)))
    assert len({one["checksum"] for many in runs.values() for one in many}) == 1, f"rows differ: {runs}"
    assert len({one["in_order"] for engine in ("memory", "files") for one in runs[engine]}) == 1, (
        f"order differs: {runs}"
    )
    ratios = {
        engine: statistics.median(
            p["seconds"] / o["seconds"] for p, o in zip(runs["polars"], runs[engine], strict=True)
        )
        for engine in ("memory", "files")
    }
    engines = {
        engine: {
            "seconds": round(statistics.median(one["seconds"] for one in many), 1),
            "cpu_seconds": round(statistics.median(one["cpu_seconds"] for one in many), 1),
            "peak_gb": round(max(one["peak_gb"] for one in many), 2),
            "rows": many[0]["rows"],
            "checksum": many[0]["checksum"],
        }
        for engine, many in runs.items()
    }
    what = (
        f"{rows:,} events → first purchases, {CORE}-core, sorted, in memory; against polars; same rows from every path"
    )
    return {"what": what, "rows": rows, "ratio": ratios["memory"], "ratio_files": ratios["files"], "engines": engines}


def make(path: Path, rows: int, seed: int = 0) -> None:
    """A log of `rows` events, rows / 6 users and rows / 30 items with skewed shares, days as times, weights of 1."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, 1 << 20):
            n = min(1 << 20, rows - start)
            user = (rows // 6 * rng.random(n) ** 1.6).astype(np.int64) * 2_654_435_761 % 2**31
            item = (rows // 30 * rng.random(n) ** 2.2).astype(np.int64) * 40_503 % 2**31
            day = rng.integers(10_000, 18_000, n) * DAY
            writer.write_table(pa.table([_ids("A", user, 13), _ids("B", item, 10), day], schema=schema))


def _ids(letter: str, numbers: NDArray[np.int64], digits: int) -> pa.Array:
    return pc.binary_join_element_wise(letter, pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), digits, "0"), "")


def run(engine: str, log: Path, folder: Path) -> dict[str, Any]:
    """Seconds and memory of one engine in a process of its own, and the checksums of what it wrote."""
    out = folder / "out.parquet"
    command = [sys.executable, "-m", "tests.benchmarks.kcore", engine, str(log), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"POLARS_MAX_THREADS": THREADS})
    if done.returncode:
        raise RuntimeError(f"{engine} failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures |= checksums(out)
    out.unlink()
    print(engine, figures, flush=True)
    return figures


def checksums(path: Path) -> dict[str, int]:
    """Rows, a checksum that does not depend on their order, and one that does."""
    rows = unordered = ordered = 0
    for batch in pq.ParquetFile(path).iter_batches(1 << 20):
        user, item = (
            pc.cast(pc.utf8_slice_codeunits(batch[name], 1), pa.int64()).to_numpy().astype(np.uint64)
            for name in ("user_id", "item_id")
        )
        mixed = (user * np.uint64(0x9E3779B97F4A7C15)) ^ (item * np.uint64(0xC4CEB9FE1A85EC53))
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ batch["timestamp"].to_numpy().view(np.uint64)) * np.uint64(
            0xFF51AFD7ED558CCD
        )
        mixed ^= mixed >> np.uint64(32)
        place = np.arange(rows, rows + len(mixed), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        unordered = (unordered + int(mixed.sum())) % 2**64
        ordered = (ordered + int((mixed * place).sum())) % 2**64
        rows += len(mixed)
    return {"rows": rows, "checksum": unordered, "in_order": ordered}


# --- the engines ------------------------------------------------------------------------------------------------


def ours(log: Path, out: Path, memory: int) -> None:
    """The ingest rules, as the ingest step calls them."""
    from calrec.arrays.vocabulary import Vocabulary
    from calrec.config import DataConfig
    from calrec.ingest.rules import EventLog

    users, items = Vocabulary(), Vocabulary()
    scratch = out.parent / "scratch"
    events = EventLog(scratch, memory)
    for batch in pq.ParquetFile(log, pre_buffer=False).iter_batches(1 << 18):
        user, item = users.encode(batch["user_id"]), items.encode(batch["item_id"])
        events.add(user, item, batch["timestamp"].to_numpy(), np.ones(len(user), np.float32))
    data = DataConfig(dedup="first", min_user=CORE, min_item=CORE)
    cleaned = events.clean(data, items.strings(), np.ones(len(items), bool), len(users))
    schema = pq.read_schema(log)
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for user, item, moment, _ in cleaned:
            writer.write_table(pa.table([users.take(user), items.take(item), moment], schema=schema))
    shutil.rmtree(scratch, ignore_errors=True)


def polars(log: Path, out: Path) -> None:
    """The usual way: group, filter over windows until stable, sort. Ties in order of the item id."""
    import polars as pl

    frame = pl.scan_parquet(log).group_by("user_id", "item_id").agg(pl.col("timestamp").min()).collect()
    while True:
        before = len(frame)
        for column in ("user_id", "item_id"):
            frame = frame.lazy().filter(pl.len().over(column) >= CORE).collect()
        if len(frame) == before:
            break
    frame.lazy().sort("user_id", "timestamp", "item_id").sink_parquet(out, compression="zstd")


def main(engine: str, log: str, out: str) -> None:
    """Run one engine, and print its seconds (imports left out) and its peak memory."""
    importlib.import_module("polars" if engine == "polars" else "calrec.ingest.rules")

    pa.set_cpu_count(int(THREADS))
    engines: dict[str, Callable[[], None]] = {
        "memory": lambda: ours(Path(log), Path(out), 1 << 40),
        "files": lambda: ours(Path(log), Path(out), FILES_MEMORY),
        "polars": lambda: polars(Path(log), Path(out)),
    }
    start, cpu = time.perf_counter(), time.process_time()
    engines[engine]()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9  # of this process alone; ru_maxrss has its parent's
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_gb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
