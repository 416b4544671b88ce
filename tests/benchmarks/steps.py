"""What is timed: for each step our path, its reference, and a sentence; both paths must agree before they are timed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from calrec.config import RetrieveConfig
from tests.benchmarks.gradcache import gradcache
from tests.benchmarks.ingest import ingest
from tests.benchmarks.kcore import kcore
from tests.benchmarks.tokens import tokens
from tests.benchmarks.train import train

Benchmark = tuple[Callable[[], Any], Callable[[], Any], str]
WORDS = [
    f"{a}{b}"
    for a in ("lum", "ter", "ona", "vik", "sol", "mar", "pex", "dri")
    for b in ("a", "eri", "ox", "ul", "is", "et")
]


def _texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1)
    drawn = rng.choice(WORDS, size=(n, 6), p=share / share.sum())
    return [
        f"Title: {' '.join(row[:4])}. Category: {row[4]}. Brand: {row[5]}. Price: {i % 90}.50."
        for i, row in enumerate(drawn)
    ]


def retrieve() -> Benchmark:
    """Fusion from each distinct text's best k, against full score vectors for every text of every user."""
    from calrec.retrieve.catalogue import Bm25
    from calrec.retrieve.fusion import fuse, match, rank

    documents = _texts(20_000)
    config = RetrieveConfig()
    index = Bm25(documents, config)
    members = [[i] for i in range(len(documents))]
    rng = np.random.default_rng(3)
    users = [[documents[i] for i in rng.zipf(1.4, 16) % len(documents)] for _ in range(40)]
    logprobs = [-float(i) for i in range(16)]

    def ours() -> list[list[int]]:
        matches: dict[str, Any] = {}
        for texts in users:
            for text in texts:
                if text not in matches:
                    matches[text] = match(index.scores(text), config.k)
        fused = [fuse([matches[t] for t in texts], logprobs, config.epsilon) for texts in users]
        return [[one.item for one in rank(f, members, config.k)] for f in fused]

    def reference() -> list[list[int]]:
        lists = []
        for texts in users:
            total = np.zeros(len(documents))
            for text, logprob in zip(texts, logprobs, strict=True):
                s = index.scores(text)
                total = np.maximum(total, np.exp(config.epsilon * logprob) * ((s - s.min()) / (s.max() - s.min())))
            lists.append(np.argsort(-total, kind="stable")[: config.k].tolist())
        return lists

    assert ours() == reference()
    return (
        ours,
        reference,
        "40 users x 16 texts, 20,000 items: distinct texts' top lists, against full score vectors; ranking equal",
    )


STEPS: dict[str, Callable[[], Benchmark | dict[str, Any]]] = {
    "ingest": ingest,
    "kcore": kcore,
    "tokens": tokens,
    "train": train,
    "gradcache": gradcache,
    "retrieve": retrieve,
}
"""Step → its paths to be timed in turns, or a function that measures by itself and gives the figures."""
