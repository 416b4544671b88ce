"""A step of decoding inside the catalogue: a draw from the trie's children, against a mask over the whole vocabulary.

The mask is transformers' own logits processor. The rows walk the same paths in all variants, drawn once beforehand; the
reference gets its allowed tokens from the trie and need not look for the next node: its time is a lower bound.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from calrec.arrays.ragged import Ragged
from calrec.generate.trie import ROOT, Trie

ITEMS, VOCABULARY, WORDS, ROWS, STEPS, ROUNDS = 100_000, 16_384, 40_000, 256, 24, 5
TEMPERATURE = 0.5
END, COLON, DOT, LABELS, CENTS, FIRST_WORD = 0, 1, 2, (3, 4, 5, 6), 100, 400
Run = Callable[[], Any]


def trie() -> dict[str, Any]:
    """Median milliseconds per step of 256 rows for each variant, in turns, one thread, and the trie's own figures."""
    torch.set_num_threads(1)
    items = catalogue(np.random.default_rng(0))
    built, build_seconds = timed(lambda: Trie.build(items))
    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    every, choices = (Path(built, logits, skip_forced) for skip_forced in (False, True))
    for path in (every, choices):
        check(built, logits, path)
    found = in_turns(variants(built, logits, every, choices))
    length, draws = items.lengths().mean(), steps_with_choice(built, items)

    def ratio(ours: str, reference: str, of: Callable[[list[float]], float] = statistics.median) -> float:
        return of([b / a for a, b in zip(found[ours], found[reference], strict=True)])

    return {
        "what": f"a constrained step of {ROWS} rows, {ITEMS:,} items, vocabulary {VOCABULARY:,}, 1 thread: a draw from "
        "the trie's children, against transformers' mask, softmax and multinomial; probabilities equal",
        "ratio": ratio("draw", "mask"),
        "ratio_min": ratio("draw", "mask", min),
        "ratio_with_full_logsumexp": ratio("draw_and_logsumexp", "mask_and_logsumexp"),
        "ratio_at_choices": ratio("draw_at_choices", "mask_at_choices"),
        "ratio_to_unconstrained": ratio("draw", "unconstrained"),
        "ratio_to_unconstrained_with_full_logsumexp": ratio("draw_and_logsumexp", "unconstrained_and_logsumexp"),
        "ms_per_step": {name: 1e3 * statistics.median(times) / STEPS for name, times in found.items()},
        "children_per_row": every.children,
        "children_per_row_at_choices": choices.children,
        "build_seconds": build_seconds,
        "nodes": len(built),
        "bytes": built.nbytes,
        "tokens_per_item": length,
        "steps_with_a_choice_per_item": draws,
        "forced_share": 1 - draws / length,
        "rounds": ROUNDS,
    }


class Path:
    """Where each row is at each of 24 steps, and what may follow; a row that has come to an item begins again."""

    def __init__(self, built: Trie, logits: torch.Tensor, skip_forced: bool):
        rng, nodes = np.random.default_rng(2), np.full(ROWS, ROOT, np.int32)
        self.nodes: list[Any] = []
        for _ in range(STEPS):
            nodes = np.where(built.leaf_group[nodes] >= 0, ROOT, nodes)
            nodes = built.skip_forced(nodes)[1] if skip_forced else nodes
            self.nodes.append(nodes)
            nodes = built.draw(logits.numpy(), nodes, np.arange(ROWS), rng.random(ROWS), TEMPERATURE)
            nodes = built.skip_forced(nodes)[1] if skip_forced else nodes
        self.allowed = [[tokens_after(built, node) for node in step] for step in self.nodes]
        self.children = statistics.mean(len(tokens) for step in self.allowed for tokens in step)


def variants(built: Trie, logits: torch.Tensor, every: Path, choices: Path) -> dict[str, Run]:
    """What is timed: each walks 24 steps; at choices: as a decoder does that draws no forced token."""
    flat, rows, rng = logits.numpy(), np.arange(ROWS), np.random.default_rng(1)

    def draw(path: Path) -> None:
        for nodes in path.nodes:
            built.draw(flat, nodes, rows, rng.random(ROWS), TEMPERATURE)

    def mask(path: Path) -> None:
        for allowed in path.allowed:
            torch.multinomial(torch.softmax(masked(logits, allowed) / TEMPERATURE, -1), 1)

    def unconstrained() -> None:
        for _ in range(STEPS):
            torch.multinomial(torch.softmax(logits / TEMPERATURE, -1), 1)

    def logsumexp() -> None:
        for _ in range(STEPS):
            torch.logsumexp(logits, -1)

    return {
        "draw": lambda: draw(every),
        "mask": lambda: mask(every),
        "unconstrained": unconstrained,
        "draw_and_logsumexp": lambda: (draw(every), logsumexp()),
        "mask_and_logsumexp": lambda: (mask(every), logsumexp()),
        "unconstrained_and_logsumexp": lambda: (unconstrained(), logsumexp()),
        "draw_at_choices": lambda: draw(choices),
        "mask_at_choices": lambda: mask(choices),
    }


def masked(logits: torch.Tensor, allowed: list[torch.Tensor]) -> torch.Tensor:
    """Logits with -inf but for each row's allowed tokens, by transformers."""
    from transformers import PrefixConstrainedLogitsProcessor

    processor = PrefixConstrainedLogitsProcessor(lambda row, _: allowed[row], 1)
    return processor(torch.empty(len(logits), 0, dtype=torch.long), logits)


def in_turns(runs: dict[str, Run]) -> dict[str, list[float]]:
    """Seconds of each run in each round; the first round, which warms up, left out."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            found[name].append(timed(run)[1])
    return {name: times[1:] for name, times in found.items()}


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its seconds."""
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


def tokens_after(built: Trie, node: int) -> torch.Tensor:
    """Tokens that may follow a node."""
    return torch.from_numpy(built.token[built.offsets[node] : built.offsets[node + 1]].astype(np.int64))


def check(built: Trie, logits: torch.Tensor, path: Path, samples: int = 64) -> None:
    """Every draw is the one that the masked softmax's own running sums ask for, to 1e-6; in every fifth step."""
    rng, row_of = np.random.default_rng(3), np.repeat(np.arange(ROWS), samples)
    for nodes, allowed in list(zip(path.nodes, path.allowed, strict=True))[::5]:
        share = torch.softmax(masked(logits, allowed).double() / TEMPERATURE, -1)
        u = rng.random(len(row_of))
        drawn = built.token[built.draw(logits.numpy(), nodes, row_of, u, TEMPERATURE)]
        upto = share.cumsum(-1).numpy()[row_of, drawn]
        assert (u <= upto + 1e-6).all() and (u >= upto - share.numpy()[row_of, drawn] - 1e-6).all()


def steps_with_choice(built: Trie, items: Ragged) -> float:
    """Steps of an average item at which more than one token may follow: the draws that its text takes."""
    parent, choice = np.empty(len(built), np.int64), np.diff(built.offsets) > 1
    parent[0] = -1
    parent[1:] = np.repeat(np.arange(len(built)), np.diff(built.offsets))
    node, draws = np.flatnonzero(built.leaf_group >= 0), 0
    while len(node):
        node = parent[node]
        node = node[node >= 0]
        draws += int(choice[node].sum())
    return draws / len(items)


def catalogue(rng: np.random.Generator) -> Ragged:
    """Distinct items of about 24 tokens: labelled title, category, brand and price; words by Zipf's law."""
    spelled = list(words(rng))
    categories = [zipf(rng, spelled, size) for size in rng.integers(2, 4, 200)]
    brands = [zipf(rng, spelled, 1) for _ in range(ITEMS // 20)]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < ITEMS:
        title, item = zipf(rng, spelled, int(rng.integers(3, 9))), SimpleNamespace()
        item.category, item.brand = (some[rank(rng, len(some))] for some in (categories, brands))
        price = [CENTS + int(rng.integers(1, 200)), DOT, CENTS + int(rng.integers(0, 100))]
        fields = zip(LABELS, (title, item.category, item.brand, price), strict=True)
        found[(*(token for label, field in fields for token in (label, COLON, *field)), END)] = None
    return Ragged.of(list(found))


def words(rng: np.random.Generator) -> Iterator[list[int]]:
    """Tokens of each word: frequent words have one of their own, rare ones two or three."""
    for word in range(WORDS):
        if FIRST_WORD + word < VOCABULARY:
            yield [FIRST_WORD + word]
        else:
            yield rng.integers(FIRST_WORD, VOCABULARY, int(rng.integers(2, 4))).tolist()


def rank(rng: np.random.Generator, size: int) -> int:
    """A rank by Zipf's law: log-uniform."""
    return int(size ** rng.random()) - 1


def zipf(rng: np.random.Generator, spelled: list[list[int]], size: int) -> list[int]:
    """Tokens of so many words."""
    return [token for _ in range(size) for token in spelled[rank(rng, WORDS)]]
