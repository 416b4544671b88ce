"""The generate step: which users, and a row for each of their distinct texts."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.config import GenerateConfig
from calrec.generate.step import generate

CONFIG = GenerateConfig(samples=5, max_new_tokens=12, threads=1)


def test_the_step_writes_distinct_texts_with_counts(small: SimpleNamespace, tmp_path: Path):
    config = replace(CONFIG, samples=6, max_users=7)
    manifest = generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", config)
    rows = pq.read_table(tmp_path / "g/generations.parquet").to_pylist()
    assert len({(r["user_id"], r["text"]) for r in rows}) == len(rows)
    assert sum(r["count"] for r in rows) == 7 * 6 == manifest.counts["samples"]
    assert len({r["user_id"] for r in rows}) == 7
    assert all(r["logprob"] < 0 for r in rows)
    assert manifest.counts["distinct_share"] == pytest.approx(len(rows) / 42, abs=1e-4)


def test_the_sample_of_users_is_fixed_and_a_superset_of_a_smaller_one(small: SimpleNamespace, tmp_path: Path):
    chosen = []
    for users in (5, 9):
        generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", replace(CONFIG, max_users=users))
        chosen.append(set(pq.read_table(tmp_path / "g/generations.parquet")["user_id"].to_pylist()))
    assert chosen[0] < chosen[1] and len(chosen[1]) == 9


def test_the_step_says_what_it_took(small: SimpleNamespace, tmp_path: Path):
    """A model from scratch hardly ever ends a text, so nearly all samples have as many tokens as they may."""
    config = replace(CONFIG, samples=6, max_users=7)
    manifest = generate(small.texts, small.tokens, small.base, tmp_path / "g", "home", config)
    cost = json.loads((tmp_path / "g" / artifacts.RECORD).read_text())["cost"]
    unfinished = round(manifest.counts["unfinished_share"] * 42)
    assert unfinished * 12 <= cost["tokens"] <= 42 * 12 and unfinished > 20
    assert cost["users_per_second"] * cost["seconds"] == pytest.approx(7, rel=0.1)
    assert cost["peak_memory_bytes"] > 0
    again = generate(small.texts, small.tokens, small.base, tmp_path / "h", "home", config)
    assert again == manifest


def test_an_unknown_category_is_refused(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match="unknown category 'cellar'"):
        generate(small.texts, small.tokens, small.base, tmp_path / "g", "cellar", CONFIG)
