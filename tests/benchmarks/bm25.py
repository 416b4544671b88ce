"""BM25 for users with 32 generated texts each: calrec's search against bm25s score vectors with their min and max.

The catalogue is synthetic: titles of 5–25 words and brands after Zipf, 200 categories, prices. A user's texts are
32 draws from 14 candidates near the catalogue, most of them from a few, as a model's samples are.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from calrec.config import RetrieveConfig
from calrec.generate.samples import Generation
from calrec.retrieve.bm25 import Index
from calrec.retrieve.candidates import Asked
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.ranking import Ranker
from calrec.retrieve.search import Search
from calrec.textify.words import words

Users = list[tuple[list[str], np.ndarray]]
"""Texts and log-probabilities of each user."""

SMALL, LARGE = 100_000, 500_000
USERS, TEXTS, CANDIDATES, DEPTH = 400, 32, 14, 10
ROUNDS, PEER_USERS, CHECKED = 5, 6, 10
EPSILON = 1 / 5000
SYLLABLES = [a + b for a in "bcdfglmnprst" for b in "aeiou"]


def bm25() -> dict[str, Any]:
    """Check that ordered lists are those of full score vectors, then time.

    Returns:
        ratio (ms per user of bm25s / of ours with 2 threads, median of the rounds), ms_per_user of each path at 100,000
        items, and at 500,000 items ms_per_user, the seconds of the build and the size of the index's files.
    """
    texts = catalogue(SMALL)
    users = generations(texts)
    paths = {"2 threads": ours(index := Index.build(texts), 2), "1 thread": ours(index, 1), "bm25s": peer(texts)}
    check(index, users)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(ROUNDS + 1):  # the first round warms up
        few = users[turn * PEER_USERS : (turn + 1) * PEER_USERS]
        for name, path in paths.items():
            times[name].append(ms_per_user(path, few if name == "bm25s" else users))
    ratios = [b / a for a, b in zip(times["2 threads"][1:], times["bm25s"][1:], strict=True)]
    return {
        "what": f"{SMALL:,} items, {TEXTS} texts per user: {USERS} users' distinct texts searched with 2 threads and "
        "fused, against bm25s get_scores + min/max + fusion for every text; ordered lists those of full score vectors",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ms_per_user": {name: round(statistics.median(many[1:]), 3) for name, many in times.items()},
        "distinct_texts_per_user": round(len({text for user, _ in users for text in user}) / USERS, 1),
        "at_500000_items": large(),
        "rounds": ROUNDS,
    }


def large() -> dict[str, Any]:
    """Figures of a large catalogue, whose index is written, then mapped."""
    texts = catalogue(LARGE)
    users = generations(texts)
    start = time.perf_counter()
    index = Index.build(texts)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="bm25-") as folder:
        index.save(Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        loaded = Index.load(Path(folder))
        check(loaded, users[: CHECKED // 2])
        times = {threads: [ms_per_user(ours(loaded, threads), users) for _ in range(3)] for threads in (2, 1)}
    return {
        "ms_per_user": {
            f"{threads} thread{'s' * (threads > 1)}": round(statistics.median(many), 3)
            for threads, many in times.items()
        },
        "build_seconds": round(seconds, 1),
        "files_mb": round(size / 1e6),
        "dense_rows_mb": round(loaded.dense[1].nbytes / 1e6),
        "words_per_item": round(statistics.mean(len(words(text)) for text in texts[:1000]), 1),
    }


def ours(index: Index, threads: int) -> Callable[[Users], list[list[int]]]:
    """Ordered lists of users as the retrieve step makes them: a new ranker, which has seen no text yet."""
    size = index.size
    every = np.arange(size)
    no_text = [""] * size
    catalogue = Catalogue(
        every, no_text, no_text, no_text, no_text, every, no_text, [[at] for at in range(size)], every
    )
    search, config = Search(index, threads), RetrieveConfig(k=DEPTH, epsilon=EPSILON)

    def lists(users: Users) -> list[list[int]]:
        asked = [Asked(str(at), distinct(texts, logprobs)) for at, (texts, logprobs) in enumerate(users)]
        return [[one.item for one in ranked] for ranked in Ranker(catalogue, search, config)(asked)]

    return lists


def distinct(texts: list[str], logprobs: np.ndarray) -> list[Generation]:
    """Each text once, with its best log-probability, as the generate step gives them."""
    best: dict[str, float] = {}
    for text, logprob in zip(texts, logprobs.tolist(), strict=True):
        best[text] = max(logprob, best.get(text, logprob))
    return [Generation(text, logprob) for text, logprob in best.items()]


def peer(texts: list[str]) -> Callable[[Users], list[list[int]]]:
    """The same with the bm25s library, one score vector for each text of each user."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index([words(text) for text in texts], show_progress=False)
    return lambda users: [fused(map(index.get_scores, map(words, texts)), logprobs) for texts, logprobs in users]


def fused(vectors: Iterable[np.ndarray], logprobs: np.ndarray) -> list[int]:
    """The ordered list of a user from full score vectors."""
    total = 0.0
    for scores, weight in zip(vectors, np.exp(EPSILON * logprobs), strict=True):
        scores = scores.astype(np.float64)
        low, high = scores.min(), scores.max()
        total = np.maximum(total, weight * ((scores - low) / (high - low if high > low else 1)))
    best = np.flatnonzero(total >= np.partition(total, -DEPTH)[-DEPTH])
    return best[np.argsort(-total[best], kind="stable")][:DEPTH].tolist()


def check(index: Index, users: Users) -> None:
    """Ordered lists must be those of full score vectors, which numpy sums."""
    expected = [fused(map(index.scores, texts), logprobs) for texts, logprobs in users[:CHECKED]]
    for threads in (1, 2):
        assert ours(index, threads)(users)[:CHECKED] == expected, f"{threads} threads: other lists than by brute force"


def ms_per_user(path: Callable[[Users], Any], users: Users) -> float:
    """Milliseconds that one user takes."""
    start = time.perf_counter()
    path(users)
    return (time.perf_counter() - start) / len(users) * 1e3


def zipf(size: int, power: float) -> np.ndarray:
    """Shares that fall with the rank."""
    shares = np.arange(1, size + 1) ** -power
    return shares / shares.sum()


def spell(number: int) -> str:
    """The word of a number: two to four syllables."""
    word = ""
    while number or len(word) < 4:
        number, at = divmod(number, len(SYLLABLES))
        word += SYLLABLES[at]
    return word


def catalogue(size: int) -> list[str]:
    """Item texts in the form of calrec."""
    rng = np.random.default_rng(0)
    n_words = min(200_000, max(20_000, size * 6 // 10))
    vocabulary = [spell(i) for i in range(n_words)]
    lengths = np.clip(rng.gamma(6.0, 2.2, size).astype(int) + 2, 5, 25)
    drawn = [vocabulary[i] for i in rng.choice(n_words, lengths.sum(), p=zipf(n_words, 1.0)).tolist()]
    ends = np.cumsum(lengths).tolist()
    brands = [vocabulary[i].capitalize() for i in rng.integers(100, n_words, size // 20)]
    categories = [" ".join(vocabulary[i] for i in rng.integers(20, 2000, rng.integers(2, 5))) for _ in range(200)]
    columns = (
        zip([0, *ends[:-1]], ends, strict=True),
        rng.choice(200, size, p=zipf(200, 0.8)).tolist(),
        rng.choice(len(brands), size, p=zipf(len(brands), 0.9)).tolist(),
        np.exp(rng.normal(3.0, 0.9, size)).tolist(),
    )
    return [
        f"Title: {' '.join(drawn[start:end])}. Category: {categories[c]}. Brand: {brands[b]}. Price: {price:.2f}."
        for (start, end), c, b, price in zip(*columns, strict=True)
    ]


def generations(texts: list[str]) -> Users:
    """What a model might write for each user: some texts of items as they are, some with one to three other words."""
    rng = np.random.default_rng(1)
    popularity, share = zipf(len(texts), 0.8), zipf(CANDIDATES, 1.0)
    users: Users = []
    for _ in range(USERS):
        candidates = [texts[i] for i in rng.choice(len(texts), CANDIDATES, p=popularity)]
        for at in np.flatnonzero(rng.random(CANDIDATES) > 0.6).tolist():
            found = candidates[at].split()
            for place in rng.integers(1, len(found), rng.integers(1, 4)).tolist():
                found[place] = spell(int(rng.zipf(1.3)) % len(texts))
            candidates[at] = " ".join(found)
        drawn = rng.choice(CANDIDATES, TEXTS, p=share).tolist()
        users.append(([candidates[at] for at in drawn], -rng.gamma(2.0, 3.0, TEXTS)))
    return users


if __name__ == "__main__":
    import json

    print(json.dumps(bm25(), indent=1))
