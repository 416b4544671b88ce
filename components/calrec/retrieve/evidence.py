"""Learned fusion: what speaks for an item beside the model's probability, and how much each of it weighs.

A log-linear model of which candidate is bought next, p(c) ∝ exp(w · x_c), as in conditional logit (McFadden, 1974); its
weights are learned from users whose next item is known and which nothing of the evidence has seen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.following import Following
from calrec.retrieve.neighbours import decayed_counts, similarities

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FEATURES = (
    "model",  # log p(text | history) among the candidates, smoothed, see smoothed()
    "similar",  # sum of cosines with the history's items, decayed by age
    "log_similar",  # the same on a log scale, where 0 is log .01
    "last_title",  # BM25 with the text of the last item
    "recent_titles",  # BM25 with the texts of the newest three
    "followed",  # log(1 + how often it came next after the last item)
    "popular",  # log(1 + events)
    "bought",  # log(1 + how often the user himself bought it)
    "bought_lately",  # 1 / how many events ago, 0 if never
    "model_place",  # 1 / place among the candidates by the model
    "similar_place",  # the same by similarity
    "title_place",  # the same by BM25 with the text of the last item
)
RECENT = 3
"""Items whose texts make the query of recent_titles; better than 1 and 20 on validation users of scientific2018."""
_UNIFORM = 0.01
_RIDGE = 1e-3  # on the square of the weight of a feature of variance 1


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was counted in the histories of a category, by text group."""

    following: Following
    similar: Any
    """Cosines, a sparse matrix [groups, groups]; None where nothing is fused."""
    events: Ints
    """Of each group."""

    @staticmethod
    def of(histories: Sequence[Any], catalogue: Catalogue, fused: bool) -> "Evidence":
        """Count.

        Args:
            histories: item codes of the catalogue, oldest first, see :func:`calrec.retrieve.following.countable`.
            catalogue: the items.
            fused: whether features will be wanted; without, only what followed what.
        """
        rows = Ragged.of(histories)
        by_group = Ragged(catalogue.groups(rows.flat).astype(np.int32), rows.offsets)
        size = len(catalogue.members)
        events = np.bincount(by_group.flat, minlength=size)
        return Evidence(Following.of(by_group), similarities(by_group, size) if fused else None, events)

    def near(self, histories: Sequence[Ints]) -> Any:
        """How similar every group is to each history of groups: a sparse matrix [users, groups]."""
        return decayed_counts(Ragged.of(histories), len(self.events)) @ self.similar

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        from scipy.sparse import save_npz

        self.following.save(folder / "following.npz")
        if self.similar is not None:
            save_npz(folder / "similar.npz", self.similar)
        np.save(folder / "events.npy", self.events)

    @staticmethod
    def load(folder: Path) -> "Evidence":
        """Read what :meth:`save` wrote."""
        from scipy.sparse import load_npz

        similar = load_npz(path) if (path := folder / "similar.npz").is_file() else None
        return Evidence(Following.load(folder / "following.npz"), similar, np.load(folder / "events.npy"))

    def features(
        self, groups: Ints, logprobs: Floats, history: Ints, near: Floats, last_title: Floats, recent_titles: Floats
    ) -> Floats:
        """What speaks for some groups, [groups, FEATURES].

        Args:
            groups: the candidates.
            logprobs: of each candidate's text, by the model.
            history: the user's groups, oldest first.
            near: of each candidate, see :meth:`near`.
            last_title: BM25 scores of each candidate.
            recent_titles: likewise.
        """
        size = len(self.events)
        after, count = self.following.next(int(history[-1])) if len(history) else (history, history)
        followed = np.bincount(after, count, size)[groups]
        times = np.bincount(history, minlength=size)[groups]
        newest = np.full(size, np.inf)
        newest[history] = np.arange(len(history), 0, -1)  # the last of several assignments counts: the newest event
        columns = [smooth(logprobs), near, np.log(near + 0.01), last_title, recent_titles]
        columns += [np.log1p(followed), np.log1p(self.events[groups]), np.log1p(times), 1 / newest[groups]]
        columns += [places(groups, scores) for scores in (logprobs, near, last_title)]
        return np.stack(columns, axis=1)


def places(groups: Ints, scores: Floats) -> Floats:
    """1 / place of each group by falling score, ties by group."""
    found = np.empty(len(groups))
    found[np.lexsort((groups, -scores))] = 1 / np.arange(1, len(groups) + 1)
    return found


def smooth(logprobs: Floats) -> Floats:
    """log(.99 p + .01 / n) of n candidates, p: the model's probability among them.

    A model knows nothing of a text that it was not trained on: where it is spelled out, it is a hundred nats below the
    others, and the few such texts that are bought all the same would teach that the model's word is worth nothing.
    """
    if not len(logprobs):
        return logprobs
    among = logprobs - np.logaddexp.reduce(logprobs)
    found: Floats = np.logaddexp(np.log1p(-_UNIFORM) + among, np.log(_UNIFORM / len(logprobs)))
    return found


@dataclass(frozen=True)
class Fusion:
    """Weights of FEATURES, and what they were learned from."""

    weights: Mapping[str, float]
    users: int
    """Users whose next item was among the candidates."""
    without: int
    """Users whose next item was not, who teach nothing."""

    def scores(self, features: Floats) -> Floats:
        """The sum w · x of each candidate."""
        found: Floats = features @ np.array([self.weights[name] for name in FEATURES])
        return found

    @staticmethod
    def learn(features: Sequence[Floats], bought: Sequence[int]) -> "Fusion":
        """The weights that make what was bought most likely, with a little ridge; a convex problem, solved by L-BFGS.

        Args:
            features: of each user's candidates, [candidates, FEATURES].
            bought: place of the next item among them, −1 where it is not.

        Raises:
            ValueError: nobody's next item is among the candidates.
        """
        from scipy.optimize import minimize

        able = [user for user, place in enumerate(bought) if place >= 0]
        if not able:
            raise ValueError(
                f"retrieve.fusion_users: of {len(bought)} validation users none has the next item among the "
                "candidates, so no weights can be learned; raise retrieve.rerank or fusion_users, or set fusion_users=0"
            )
        x = np.concatenate([features[user] for user in able])
        starts = np.cumsum([0, *(len(features[user]) for user in able)])[:-1]
        rows = np.repeat(np.arange(len(able)), np.diff([*starts, len(x)]))
        scale = x.std(axis=0)
        scale[scale == 0] = np.inf  # what never differs weighs nothing
        x = x / scale
        places = starts + np.array([bought[user] for user in able])
        chosen = x[places].mean(axis=0)

        def loss(weights: Floats) -> tuple[float, Floats]:
            scores = x @ weights
            scores -= np.maximum.reduceat(scores, starts)[rows]
            shares = np.exp(scores)
            sums = np.add.reduceat(shares, starts)
            shares /= sums[rows]
            value = (np.log(sums) - scores[places]).mean() + _RIDGE * weights @ weights
            return float(value), shares @ x / len(able) - chosen + 2 * _RIDGE * weights

        found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
        weights = dict(zip(FEATURES, (found.x / scale).tolist(), strict=True))
        return Fusion(weights, len(able), len(bought) - len(able))

    def save(self, folder: Path) -> None:
        """Write it as fusion.json."""
        (folder / "fusion.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(folder: Path) -> "Fusion | None":
        """Read what :meth:`save` wrote; None where it was not, a ValueError where another version wrote it."""
        path = folder / "fusion.json"
        if not path.is_file():
            return None
        fusion = Fusion(**json.loads(path.read_text()))
        if set(fusion.weights) != set(FEATURES):
            raise ValueError(f"{path} weighs {', '.join(fusion.weights)}, not what this version does; build it again")
        return fusion

    def counts(self) -> dict[str, float]:
        """For the manifest: weights, and the users that they come from."""
        weights = {f"weight_{name}": round(weight, 6) for name, weight in self.weights.items()}
        return {"fusion_users": self.users, "fusion_users_without": self.without, **weights}
