"""How far the data of today lie from those of the model in use: new items, category mix, lengths, and words.

It stands here and not with the evaluation because the champion's folder is at hand where it is ranked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.model.loading import Users, load_users
from calrec.textify.words import find_pairs, words

Ints = NDArray[np.int64]
FILE, PROFILE = "drift.json", "profile.json"
_MOVED = 5  # categories that are named


@dataclass(frozen=True)
class Drift:
    """The data of today against those of the champion, as plain values."""

    figures: Mapping[str, float]
    """Shares and distances from 0, the same, to 1; one that the champion's folder cannot tell is left out."""
    data: str
    """Digest of the texts that the champion's index was built from."""
    sizes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """users, events, items, median_length → (the champion's, today's)."""
    moved: Sequence[Sequence[Any]] = ()
    """(category, share of the champion's events, share of today's): what moved most comes first."""


@dataclass(frozen=True, eq=False)
class _Log:
    """One category of the texts."""

    items: pa.Table
    users: Users
    codes: Ints
    """The item of every event, as a row of `items`."""

    @staticmethod
    def of(texts: Path, domain: str) -> "_Log":
        users, every = load_users(texts, [domain]), artifacts.read_table(texts, "items.parquet", "texts")
        chosen = pc.equal(every["domain"], domain).to_numpy()
        codes = (np.cumsum(chosen) - 1)[np.concatenate([np.empty(0, np.int64), *users.items]).astype(np.int64)]
        return _Log(every.filter(pa.array(chosen)), users, codes)

    def targets(self, split: str) -> Ints:
        """The held-out item of every user who has one, as a row of `items`."""
        at = self.users.test_at if split == "test" else self.users.valid_at
        sizes = np.array([len(items) for items in self.users.items], np.int64)
        found: Ints = self.codes[(np.cumsum(sizes) - sizes + at)[at >= 0]]
        return found


def profile(texts: Path, domain: str) -> dict[str, Any]:
    """What a later run must know of the data of a category to say how far its own have moved: all events count.

    Args:
        texts: folder of the textify step.
        domain: the category.

    Raises:
        ValueError: the texts hold no such category.
    """
    return _profile(_Log.of(texts, domain), artifacts.read_manifest(texts, "texts").digest)


def _profile(log: _Log, digest: str) -> dict[str, Any]:
    names = log.items["category"].take(pa.array(log.codes)).value_counts().to_pylist()
    lengths, users = np.unique([len(items) for items in log.users.items], return_counts=True)
    return {
        "texts": digest,
        "users": len(log.users),
        "events": len(log.codes),
        "items": len(log.items),
        "events_of_category": {one["values"]: one["counts"] for one in sorted(names, key=lambda one: one["values"])},
        "users_of_length": {str(length): int(count) for length, count in zip(lengths, users, strict=True)},
    }


def drift(champion: Path, texts: Path, domain: str, split: str) -> Drift:
    """Compare a category's texts with the data of its champion.

    Args:
        champion: folder of a version; one without profile.json tells of items and words alone.
        texts: folder of the textify step.
        domain: the category.
        split: whose held-out items are the newest events: test or valid.

    Raises:
        FileNotFoundError, ValueError: the champion's index or its profile cannot be read.
    """
    index, log = Path(champion) / "index", _Log.of(texts, domain)
    of_index = artifacts.read_manifest(index, "index")
    known = artifacts.read_table(index, "items.parquet", "index")
    new = pc.invert(pc.is_in(log.items["item_id"], value_set=known["item_id"])).to_numpy()
    its_texts = known["text"].unique().to_pylist()
    shares = {
        "new_items_share": new,
        "new_items_event_share": new[log.codes],
        "new_items_target_share": new[log.targets(split)],
    }
    figures = {name: float(which.mean()) for name, which in shares.items() if len(which)}
    figures["new_words_share"] = _new_words(log, its_texts)
    then = _stored(Path(champion) / PROFILE)
    if then is None:
        return Drift(figures, of_index.inputs["texts"])
    now = _profile(log, "")
    before, after = _shares(then["events_of_category"]), _shares(now["events_of_category"])
    lengths = [{int(length): users for length, users in of["users_of_length"].items()} for of in (then, now)]
    figures |= {"category_shift": variation(before, after), "length_shift": furthest(*lengths)}
    sizes = {name: (then[name], now[name]) for name in ("users", "events", "items")}
    medians = {"median_length": (median(lengths[0]), median(lengths[1]))}
    return Drift(figures, of_index.inputs["texts"], sizes | medians, most_changed(before, after))


def _stored(path: Path) -> dict[str, Any] | None:
    """The champion's profile; None when its folder is of before there were any."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or (missing := {"events_of_category", "users_of_length"} - found.keys()):
        raise ValueError(f"{path}: not a profile of data{f', it lacks {missing}' if isinstance(found, dict) else ''}")
    return found


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def variation(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Total variation distance of two distributions: by how much of the whole they differ."""
    return sum(abs(after.get(name, 0.0) - before.get(name, 0.0)) for name in before.keys() | after.keys()) / 2


def most_changed(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(name, before, after) of the five whose share changed most, and of none that did not change."""
    changes = [(name, before.get(name, 0.0), after.get(name, 0.0)) for name in before.keys() | after.keys()]
    changes.sort(key=lambda change: (-abs(change[2] - change[1]), change[0]))
    return [change for change in changes[:_MOVED] if change[1] != change[2]]


def furthest(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """Kolmogorov–Smirnov distance of two samples of whole numbers, each given as number → how often."""
    numbers = sorted(before.keys() | after.keys())
    sums = [np.cumsum([of.get(number, 0) for number in numbers]) for of in (before, after)]
    return float(np.abs(sums[0] / sums[0][-1] - sums[1] / sums[1][-1]).max())


def median(of: Mapping[int, int]) -> float:
    """The median of a sample of whole numbers, given as number → how often."""
    return float(np.median(np.repeat(list(of.keys()), list(of.values()))))


def _new_words(log: _Log, texts: Sequence[str]) -> float:
    """Share of the words in the texts of all events that are in none of these; one that is said twice counts twice."""
    joined = find_pairs(texts)
    known = set(words("\n".join(texts), joined))
    events = np.bincount(log.codes, minlength=len(log.items))
    bought = np.flatnonzero(events)
    said = unknown = 0
    for text, times in zip(log.items["text"].take(pa.array(bought)).to_pylist(), events[bought].tolist(), strict=True):
        found = words(text, joined)
        said += times * len(found)
        unknown += times * sum(word not in known for word in found)
    return unknown / max(1, said)
