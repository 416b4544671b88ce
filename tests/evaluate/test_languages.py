"""The language of the titles makes no difference: Recall of "BM25 on the history" on one set of purchases."""

from pathlib import Path

import pytest

from tests.conftest import shared
from tests.evaluate.languages import DEPTHS, WORDS, recalls, table

LEAST = 0.9
"""Of the Recall in English."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    return table()


@pytest.mark.parametrize("language", [name for name in WORDS if name != "English"])
def test_titles_of_any_language_are_found_as_english_ones_are(language: str, found: dict[str, list[float]]):
    for depth, ours, english in zip(DEPTHS, found[language], found["English"], strict=True):
        assert ours >= LEAST * english, f"Recall@{depth} is {ours:.3f}, in English {english:.3f}"


@pytest.mark.parametrize("language", ["zh", "th"])
def test_titles_of_the_shared_shop_are_found_as_its_english_ones_are(language: str, tmp_path: Path):
    folder = shared("cases", "ingest", "lang")
    ours, english = (recalls(folder / name, tmp_path / name) for name in (language, "en"))
    assert all(a >= LEAST * b for a, b in zip(ours, english, strict=True)), (ours, english)
