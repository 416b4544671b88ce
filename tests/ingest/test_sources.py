"""The same log, wherever it lies: one step alone, from local folders, buckets and the web, gives the same folder."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.cli.__main__ import main
from calrec.storage import http
from tests.conftest import Store, write_lines
from tests.web import Web

EVENTS = [
    {"CustomerID": f"c{u}", "sku": f"s{(u * 7 + d) % 11}", "when": 86_400 * d, "kind": "buy" if u % 5 else "view"}
    for u in range(60)
    for d in range(9)
]
ITEMS = [{"sku": f"s{n}", "name": f"lamp {n}", "maker": "Acme"} for n in range(11)]
SET = ("data.columns.user=CustomerID", "data.columns.time=when", "data.columns.brand=maker", "data.filters=kind=buy")


def run(source: str, out: Path, *more: str) -> artifacts.Manifest:
    settings = [word for text in SET for word in ("--set", text)]
    assert main(["ingest", "--source", source, "--out", str(out), "--domain", "lamps", *settings, *more]) == 0
    return artifacts.read_manifest(out)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two days of events and the items, as JSON lines."""
    write_lines(tmp_path / "logs/day1.jsonl.gz", EVENTS[:300])
    write_lines(tmp_path / "logs/day2.jsonl.gz", EVENTS[300:])
    write_lines(tmp_path / "logs/items.jsonl.gz", ITEMS)
    return tmp_path / "logs"


@pytest.fixture
def expected(logs: Path, tmp_path: Path) -> dict[str, str]:
    """Hashes of the tables that the local folder gives."""
    manifest = run(str(logs), tmp_path / "expected")
    assert manifest.counts["users"] == 48
    return tables(manifest)


def tables(manifest: artifacts.Manifest) -> dict[str, str]:
    return {name: manifest.files[name] for name in ("interactions.parquet", "items.parquet", "rejects.parquet")}


def test_a_bucket_gives_the_same_folder(logs: Path, expected: dict[str, str], store: Store, tmp_path: Path):
    for path in logs.iterdir():
        store.put(f"shop/2026/{path.name}", path.read_bytes())
    assert tables(run(f"{store.root}/shop/2026", tmp_path / "out")) == expected
    assert tables(run(f"{store.root}/shop/*/*.gz", tmp_path / "out")) == expected


def test_parquet_in_a_bucket_gives_the_same_folder(logs: Path, expected: dict[str, str], store: Store, tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(EVENTS), tmp_path / "events.parquet", row_group_size=100)
    store.put("lake/events.parquet", (tmp_path / "events.parquet").read_bytes())
    source = f"{store.root}/lake/events.parquet,{logs / 'items.jsonl.gz'}"
    assert tables(run(source, tmp_path / "out")) == expected


def test_the_web_gives_the_same_folder_though_it_breaks_off(
    logs: Path, expected: dict[str, str], web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)
    web.files = {f"/{path.name}": path.read_bytes() for path in logs.iterdir()}
    web.cuts = [100, 700, 50]
    source = ",".join(f"{web.url}/{path.name}" for path in sorted(logs.iterdir()))
    assert tables(run(source, tmp_path / "out")) == expected


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("ftp://shop/logs", 2, "ftp:// is not supported; use a local path, gs://, s3:// or https://"),
        ("gs://nobucket/logs", 2, "gs://nobucket/logs: "),
        ("s3://nobucket/logs", 2, "s3://nobucket/logs: NO_SUCH_BUCKET"),
        ("nowhere", 2, "source nowhere does not exist"),
        ("http://127.0.0.1:9/x.csv", 1, "http://127.0.0.1:9/x.csv"),
    ],
)
def test_what_cannot_be_reached_is_said_in_a_line(
    source: str,
    code: int,
    message: str,
    bucket: Any,
    s3: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)
    assert main(["ingest", "--source", source, "--out", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
