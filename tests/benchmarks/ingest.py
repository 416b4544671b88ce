"""Reading .json.gz into Parquet: MB/s of raw JSON and peak memory, each engine in a process of its own."""

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEMBER = 100_000_000  # bytes of raw JSON in one gzip member; a file is the same member several times
FIELDS = {"reviewerID": pa.string(), "asin": pa.string(), "overall": pa.float32(), "unixReviewTime": pa.int64()}


def ingest(members: int = 10, rounds: int = 3) -> dict[str, Any]:
    """Our reader against pandas in chunks and gzip + json, on 1 GB of reviews in turns; and on 3 GB for its memory."""
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        raw = Path(folder) / "reviews.json.gz"
        compressed = gzip.compress(_reviews(MEMBER), 6)
        _write(raw, compressed, members)
        names = ("ours", "pandas", "gzip_json")
        seen: dict[str, list[dict[str, float]]] = {name: [_run(name, raw) for _ in range(1)] for name in names}
        for _ in range(rounds - 1):
            for name in names:
                seen[name].append(_run(name, raw))
        _write(raw, compressed, 3 * members)
        large = _run("ours", raw)
    rows = {name: runs[0]["rows"] for name, runs in seen.items()}
    assert len(set(rows.values())) == 1 and large["rows"] == 3 * rows["ours"], (
        f"engines read other rows: {rows}, {large}"
    )
    best = {name: min(run["seconds"] for run in runs) for name, runs in seen.items()}
    size = members * MEMBER / 1e6
    return {
        "what": f"{size:,.0f} MB of raw JSON lines in .json.gz → Parquet; best of {rounds} rounds in turns",
        "ratio": best["pandas"] / best["ours"],
        "ratio_gzip_json": best["gzip_json"] / best["ours"],
        "rows": rows["ours"],
        **{f"{name}_mb_per_s": round(size / seconds, 1) for name, seconds in best.items()},
        **{f"{name}_rss_mb": max(run["rss_mb"] for run in runs) for name, runs in seen.items()},
        "ours_3x_mb_per_s": round(3 * size / large["seconds"], 1),
        "ours_3x_rss_mb": large["rss_mb"],
    }


def _scratch() -> str:
    Path("build/bench").mkdir(parents=True, exist_ok=True)
    return "build/bench"


def _reviews(size: int) -> bytes:
    """About `size` bytes of reviews as Amazon 2018 writes them, their words drawn from 3,000."""
    rng = np.random.default_rng(0)
    vocabulary = np.array(["".join(rng.choice(list("abcdefghilmnoprstu"), n)) for n in rng.integers(2, 10, 3000)])
    words = rng.choice(vocabulary, 6_000_000)
    lines, total, at = [], 0, 0
    while total < size:
        n = 3 + int(rng.exponential(45))
        at = (at + n) % (len(words) - 500)
        user, item = rng.integers(10**6), int(rng.zipf(1.3)) % 10**5
        record = {
            "overall": float(rng.integers(1, 6)), "verified": bool(rng.random() < 0.8), "reviewTime": "05 3, 2014",
            "reviewerID": f"A{user:012X}", "asin": f"B{item:09X}", "style": {"Size:": " Large", "Color:": " Black"},
            "reviewerName": str(words[at]).capitalize(), "reviewText": " ".join(words[at : at + n]),
            "summary": " ".join(words[at : at + 4]), "unixReviewTime": int(rng.integers(1.2e9, 1.54e9)),
        }  # fmt: skip
        lines.append(json.dumps(record))
        total += len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode()[:size].rpartition(b"\n")[0].ljust(size - 1) + b"\n"


def _write(path: Path, member: bytes, times: int) -> None:
    with path.open("wb") as stream:
        for _ in range(times):
            stream.write(member)


def _run(engine: str, raw: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.ingest", engine, str(raw)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- one engine, in its own process -----------------------------------------------------------------------------


def ours(raw: Path, out: Path) -> int:
    """The product's reader."""
    from calrec.config import DataConfig
    from calrec.reading.plan import plan
    from calrec.reading.records import read_events
    from calrec.storage import files

    (file, layout), *_ = plan(str(raw), files.local(str(raw)), DataConfig(format="amazon2018")).events
    return read_events(file, layout, out).counts.rows


def pandas(raw: Path, out: Path) -> int:
    """pandas.read_json in chunks."""
    import pandas as pd

    rows = 0
    with pq.ParquetWriter(out / "events.parquet", pa.schema(FIELDS), compression="zstd") as writer:
        for chunk in pd.read_json(raw, lines=True, chunksize=100_000, compression="gzip"):
            writer.write_table(pa.Table.from_pandas(chunk[list(FIELDS)], pa.schema(FIELDS), preserve_index=False))
            rows += len(chunk)
    return rows


def gzip_json(raw: Path, out: Path) -> int:
    """The standard library."""
    rows, waiting = 0, []
    schema = pa.schema(FIELDS)
    with pq.ParquetWriter(out / "events.parquet", schema, compression="zstd") as writer, gzip.open(raw, "rb") as stream:
        for line in stream:
            record = json.loads(line)
            waiting.append({name: record[name] for name in FIELDS})
            if len(waiting) == 1 << 18:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                rows, waiting = rows + len(waiting), []
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
    return rows + len(waiting)


ENGINES: dict[str, Callable[[Path, Path], int]] = {"ours": ours, "pandas": pandas, "gzip_json": gzip_json}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=_scratch()) as made:
        started = time.perf_counter()
        count = ENGINES[sys.argv[1]](Path(sys.argv[2]), Path(made))
        seconds = time.perf_counter() - started
    # Not getrusage: its maximum begins with that of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rss = int(status["VmHWM"].split()[0]) / 1e3
    print(json.dumps({"rows": count, "seconds": seconds, "rss_mb": round(rss)}))
