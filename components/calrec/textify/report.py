"""What a person looks at before a model is trained: sizes, three prompts as the model sees them, and histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec.config.checks import iso
from calrec.report.document import Histogram, Section, Text, plain_table
from calrec.system import printing
from calrec.textify.baskets import FEWEST, meaning
from calrec.textify.sequences import Histories, Ints
from calrec.textify.splits import Split
from calrec.textify.texts import prompt

_PREVIEWS, _BINS = 3, 12
_LEGEND = "Test users as the model sees them; what follows -> is the text that it is to answer."


@dataclass(frozen=True)
class Preview:
    """A test user as the model sees it, before the oldest items of a long history are dropped."""

    domain: str
    user_id: str
    prompt: str
    target: str

    @property
    def title(self) -> str:
        """Whose prompt it is."""
        return f"User {self.user_id} of {self.domain}:"


def previews(histories: Histories, split: Split, texts: pa.ChunkedArray, phrases: bool) -> list[Preview]:
    """Three users from the first to the last category, none with a history longer than the median."""
    tested = np.flatnonzero(split.test_at >= 1)
    short = tested[split.test_at[tested] <= np.median(split.test_at[tested])]
    chosen = np.unique(short[np.linspace(0, len(short) - 1, _PREVIEWS).astype(np.int64)])
    found = []
    for user in chosen.tolist():
        first, at = int(histories.offsets[user]), int(split.test_at[user])
        *history, target = texts.take(pa.array(histories.codes[first : first + at + 1])).to_pylist()
        name = histories.domains[histories.category[user]]
        found.append(Preview(name, histories.user_id[user].as_py(), prompt(history, phrases), target))
    return found


def by_category(histories: Histories, split: Split, items: pa.Table, groups: Ints) -> dict[str, dict[str, int]]:
    """Sizes of each category: users by part of the split, items, interactions, text groups.

    Args:
        histories: those that are kept.
        split: theirs.
        items: items table of all categories.
        groups: text group of each item.
    """
    of_items = pc.index_in(items["domain"], value_set=pa.array(histories.domains)).to_numpy()
    shares_text = np.bincount(groups)[groups] > 1
    of_groups = of_items[np.unique(groups, return_index=True)[1]]
    per_user = {
        "users": np.ones(len(histories.lengths), dtype=bool),
        "users_who_train": split.train_end >= 2,
        "users_with_validation": split.valid_at >= 0,
        "users_with_test": split.test_at >= 0,
        "interactions": histories.lengths,
        "interactions_in_training": split.train_end,
        "interactions_unused": histories.lengths - split.used,
    }
    sizes = {
        **{what: histories.per_category(numbers) for what, numbers in per_user.items()},
        **split.facts,
        "items": np.bincount(of_items, minlength=len(histories.domains)),
        "items_with_shared_text": np.bincount(of_items[shares_text], minlength=len(histories.domains)),
        "text_groups": np.bincount(of_groups, minlength=len(histories.domains)),
    }
    return {name: {what: int(n[c]) for what, n in sizes.items()} for c, name in enumerate(histories.domains)}


def tied_share(sizes: Mapping[str, int], part: str) -> float:
    """Share of a category's targets that have the time of the event before; `part` is test or valid."""
    name = {"test": "test", "valid": "validation"}[part]
    return sizes[f"users_with_tied_{name}"] / max(1, sizes[f"users_with_{name}"])


@dataclass(frozen=True)
class Report:
    """What the report says."""

    sizes: Mapping[str, Mapping[str, int]]
    """category → what → number."""
    totals: Mapping[str, Any]
    split: Split
    previews: Sequence[Preview]
    histograms: Mapping[str, Sequence[tuple[str, int]]]

    @property
    def how(self) -> str:
        """The split in a sentence or two."""
        of = self.split
        if of.cuts:
            first = "one item of a user's first basket" if of.unit == "basket" else "a user's first item"
            return (
                f"Training before {iso(of.cuts[0])}, validation from there on, test from {iso(of.cuts[1])} on; "
                f"{first} in a window is its target."
            )
        if of.unit == "basket":
            few = self.totals["users_of_too_few_baskets"]
            return (
                "One item of each user's last basket (the events of one time) is the test target, one of the basket "
                f"before it the validation target; a history ends before the basket. {few:,} of "
                f"{self.totals['users']:,} users have fewer than {FEWEST} baskets and are training only."
            )
        return "The last item of each user is the test target, the one before it the validation target."

    @property
    def warnings(self) -> tuple[str, ...]:
        """By category, what the figures will mean where single events are held out of baskets."""
        shares = {name: tied_share(of, "test") for name, of in self.sizes.items()}
        said = {name: meaning(self.split.unit, share) for name, share in shares.items()}
        return tuple(f"{name}: {text}" for name, text in said.items() if text and self.split.unit == "event")

    @property
    def chars(self) -> str:
        """Length of the item texts in a sentence."""
        mean, median, longest = (self.totals[f"{of}_text_chars"] for of in ("mean", "median", "max"))
        return f"An item text has {mean} characters on average, {median} in the median and {longest} at most."

    @property
    def header(self) -> list[str]:
        """Of the table of sizes."""
        return ["", *self.sizes, "all"]

    @property
    def rows(self) -> list[list[object]]:
        """The sizes, one column per category and their sum."""
        names = list(next(iter(self.sizes.values())))
        return [[w.replace("_", " "), *(of[w] for of in self.sizes.values()), self.totals[w]] for w in names]


def histograms(histories: Histories, texts: pa.ChunkedArray, train_counts: Ints) -> dict[str, list[tuple[str, int]]]:
    """Length of histories and texts, and how often items are trained on."""
    return {
        "Users by number of events": doubling(histories.lengths),
        "Items by characters of their text": even(pc.utf8_length(texts).to_numpy()),
        "Items by number of training events": doubling(train_counts),
    }


def doubling(values: Ints) -> list[tuple[str, int]]:
    """Bins 0, 1, 2, 3 – 4, 5 – 8 and so on, without empty ones at the ends; for numbers that spread over decades."""
    top = max(1, int(values.max(initial=0)))
    return _bars(values, [0, *(2**n for n in range((top - 1).bit_length() + 1))])


def even(values: Ints) -> list[tuple[str, int]]:
    """About a dozen bins of one round width, without empty ones at the ends."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    width = next(w for n in range(19) for w in (10**n, 2 * 10**n, 5 * 10**n) if w * _BINS > high - low)
    return _bars(values, [*range(low // width * width - 1, high + width, width)])


def _bars(values: Ints, upper: Sequence[int]) -> list[tuple[str, int]]:
    """How many values are up to each bound and above the one before it."""
    counts = np.bincount(np.searchsorted(np.array(upper), values), minlength=len(upper)).tolist()
    lower = [upper[0], *(bound + 1 for bound in upper[:-1])]
    bars = [(f"{a:,}" if a == b else f"{a:,} – {b:,}", n) for a, b, n in zip(lower, upper, counts, strict=True)]
    filled = [at for at, (_, n) in enumerate(bars) if n]
    return bars[filled[0] : filled[-1] + 1] if filled else []


def sections(report: Report) -> list[Section]:
    """The report as blocks, with histograms on the page."""
    shown = [
        block
        for one in report.previews
        for block in (
            Text(one.title, "note"),
            Text(f"{printing.safe(one.prompt)}\n-> {printing.safe(one.target)}", "code"),
        )
    ]
    return [
        Section("", [*(Text(one, "warning") for one in report.warnings), Text(f"{report.how} {report.chars}")]),
        Section("Sizes", [plain_table(report.header, report.rows)]),
        Section("In numbers", [Histogram(name, bars) for name, bars in report.histograms.items()]),
        Section("Prompts", [Text(_LEGEND), *shown]),
    ]
