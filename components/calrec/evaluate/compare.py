"""Two evaluations over the users that they share: whether one model is really better than the other."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec import artifacts
from calrec.artifacts import places, sealed
from calrec.config import EvaluateConfig
from calrec.config.checks import check
from calrec.evaluate.figures import correct_holm, differences, figures
from calrec.evaluate.results import METHOD, Difference, Figure
from calrec.report import tables
from calrec.system import printing

_TITLE = ": B against A"
LEVEL = 0.05  # of a difference that is said to be there
DESPITE = ("exclude_seen", "catalogue")
"""What may differ between two evaluations when a person says so."""


@dataclass(frozen=True)
class Side:
    """One method of one evaluation, over the shared users."""

    folder: str
    method: str
    figures: Mapping[str, Figure]
    more_users: int
    """Users that only this evaluation has."""


@dataclass(frozen=True)
class Comparison:
    """b against a."""

    domain: str
    split: str
    users: int
    """That both have."""
    k: int
    """Length of the lists; of two lengths the smaller."""
    a: Side
    b: Side
    differences: Mapping[str, Difference]
    """By metric: b less a; Holm's correction is over these metrics."""
    meaning: Sequence[str] = ()
    """What the figures of a and b mean where events share their times; one sentence where both mean the same."""

    @property
    def verdict(self) -> str:
        """What the differences show, as a sentence."""
        sure = {name: one for name, one in self.differences.items() if one.p_holm < LEVEL}
        shown = [
            f"{word} in {' and '.join(found)}"
            for word, sign in (("better", 1), ("worse", -1))
            if (found := [_said(name, one, sign) for name, one in sure.items() if sign * one.mean > 0])
        ]
        parts = [f"B is {', and '.join(shown)}"] if shown else []
        if other := [name for name in self.differences if name not in sure]:
            parts.append(f"{'no' if shown else 'No'} difference shown in {', '.join(other)}")
        return f"{'; '.join(parts)}."


def compare(
    a: Path,
    b: Path,
    config: EvaluateConfig,
    method_a: str = METHOD,
    method_b: str = METHOD,
    despite: Collection[str] = (),
) -> Comparison:
    """Compare a method of each of two evaluations; only the users of both count, each with himself.

    Args:
        a: folder of the evaluate step, such as that of the champion.
        b: the other one, such as the challenger's; the same one to compare two of its methods.
        config: resamples and seed; the metrics are those that both evaluations have.
        method_a: the method of a.
        method_b: the method of b.
        despite: what may differ nevertheless, of DESPITE.

    Raises:
        ValueError: evaluations of another category, split or catalogue, or with other items excluded; a shared user
            with two targets; no shared user; an unknown method.
    """
    first, second = _document(a), _document(b)
    _check(first, second, despite)
    ids_a, rank_a = _ranks(a, method_a)
    ids_b, rank_b = _ranks(b, method_b)
    at = pc.index_in(ids_a, value_set=ids_b)
    shared = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    check(len(shared) > 0, f"{a} and {b} have no user in common; evaluate both on the same sample of users")
    its = at.drop_null().to_numpy()
    _same_targets(a, b, ids_a.take(pa.array(shared)))
    k = min(int(first["k"]), int(second["k"]))
    metrics = _metrics(first, second, k, config)
    ours, theirs = (np.where(ranks <= k, ranks, 0) for ranks in (rank_b[its], rank_a[shared]))
    side_a, side_b = (
        Side(str(folder), method, figures(np.bincount(ranks, minlength=k + 1), metrics), len(ids) - len(shared))
        for folder, method, ranks, ids in ((a, method_a, theirs, ids_a), (b, method_b, ours, ids_b))
    )
    found = correct_holm([differences(ours, theirs, metrics)])[0]
    meaning = dict.fromkeys(one["meaning"] for one in (first, second) if one.get("meaning"))
    return Comparison(first["domain"], first["split"], len(shared), k, side_a, side_b, found, list(meaning))


def _document(folder: Path) -> dict[str, Any]:
    artifacts.read_manifest(folder, "evaluation")
    document: dict[str, Any] = json.loads((Path(folder) / "metrics.json").read_text())
    return document


def _check(a: Mapping[str, Any], b: Mapping[str, Any], despite: Collection[str]) -> None:
    for name in despite:
        check(name in DESPITE, f"only {' and '.join(DESPITE)} may differ; got {name!r}")
    for name, what in (("domain", "category"), ("split", "split")):
        check(a[name] == b[name], f"the evaluations are of another {what}: {a[name]} and {b[name]}")
    check(
        a["exclude_seen"] == b["exclude_seen"] or "exclude_seen" in despite,
        f"exclude_seen is {a['exclude_seen']} and {b['exclude_seen']}, so other items may be in the lists; give "
        "--despite exclude_seen to compare nevertheless",
    )
    check(
        a["data"]["catalogue"] == b["data"]["catalogue"] or "catalogue" in despite,
        f"the catalogues differ ({a['items']:,} and {b['items']:,} items), so one ranking is harder than the other; "
        "give --despite catalogue to compare nevertheless",
    )


def _ranks(folder: Path, method: str) -> tuple[pa.Array, NDArray[np.int32]]:
    """(user ids, ranks) of a method."""
    path = Path(folder) / "ranks.parquet"
    table = pq.read_table(path, columns=["user_id", "rank"], filters=[("method", "==", method)]).combine_chunks()
    if not len(table):
        known = pc.unique(pq.read_table(path, columns=["method"])["method"]).to_pylist()
        raise ValueError(f"{folder} has no method {method!r}; there are: {', '.join(known)}")
    return table["user_id"].chunk(0), table["rank"].to_numpy()


def _same_targets(a: Path, b: Path, users: pa.Array) -> None:
    targets = []
    for folder in (a, b):
        table = pq.read_table(Path(folder) / "users.parquet", columns=["user_id", "target"]).combine_chunks()
        targets.append(table["target"].chunk(0).take(pc.index_in(users, value_set=table["user_id"].chunk(0))))
    other = np.flatnonzero(pc.not_equal(*targets).to_numpy(zero_copy_only=False))
    if len(other):
        at = int(other[0])
        raise ValueError(
            f"{len(other):,} users have another target in {b} than in {a}, such as user {users[at]} with "
            f"{targets[1][at]} and {targets[0][at]}; evaluate both with the same texts"
        )


def _metrics(a: Mapping[str, Any], b: Mapping[str, Any], k: int, config: EvaluateConfig) -> EvaluateConfig:
    """The cut-offs of both evaluations, as far as both lists reach."""
    cuts = {}
    for name in ("recall_at", "ndcg_at"):
        both = set(a["config"]["evaluate"][name]) & set(b["config"]["evaluate"][name])
        cuts[name] = tuple(sorted(cut for cut in both if cut <= k))
    return EvaluateConfig(**cuts, bootstrap=config.bootstrap, seed=config.seed)


# --- for a person -----------------------------------------------------------------------------------------------


def text(comparison: Comparison) -> str:
    """What was compared, a table, and the verdict, for a terminal."""
    table = tables.text([_HEADER, *_rows(comparison)])
    return "\n".join([*map(printing.safe, _about(comparison)), "", table, "", comparison.verdict])


def markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    about = "\n".join(f"- {printing.markdown(line)}" for line in _about(comparison))
    table = tables.markdown(_HEADER, _rows(comparison))
    domain = printing.markdown(comparison.domain)
    return f"# {domain}{_TITLE}\n\n{about}\n\n{table}\n\n**{comparison.verdict}**\n"


def write(comparison: Comparison, out: Path) -> None:
    """Write a comparison as Markdown or JSON, by the ending of the file's name."""
    check_out(out)
    document = {**asdict(comparison), "verdict": comparison.verdict}
    out.parent.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison) if out.suffix == ".md" else json.dumps(document, indent=1) + "\n"
    sealed.replace(out, lambda path: path.write_text(text))


def check_out(out: Path, *inputs: Path) -> None:
    """Refuse, before the work, a file that cannot be written, or that holds something else than a comparison.

    Raises:
        ValueError: as said; it lies in one of the evaluations, or is a folder.
    """
    check(out.suffix in (".md", ".json"), f"a comparison is written as .md or .json; got {out}")
    places.check_file(out, inputs)
    if out.exists():
        old = out.read_text(errors="replace")
        ours = _TITLE in old.partition("\n")[0] if out.suffix == ".md" else old.startswith('{\n "domain"')
        check(ours, f"{out} is there and is no comparison; give another --out")


_HEADER = ("metric", "A", "B", "B less A", "95 % interval", "p", "p (Holm)", "effect d", "better for", "worse for")


def _about(comparison: Comparison) -> list[str]:
    a, b = comparison.a, comparison.b
    return [
        f"A: {a.method} of {a.folder}",
        f"B: {b.method} of {b.folder}",
        f"{comparison.users:,} users of {comparison.domain} with a {comparison.split} item are in both; "
        f"{a.more_users:,} are only in A and {b.more_users:,} only in B; lists of {comparison.k}",
        *comparison.meaning,
    ]


def _rows(comparison: Comparison) -> list[list[str]]:
    return [
        [
            name,
            f"{comparison.a.figures[name].mean:.4f}",
            f"{comparison.b.figures[name].mean:.4f}",
            f"{one.mean:+.4f}",
            f"{one.low:+.4f} – {one.high:+.4f}",
            _p(one.p),
            _p(one.p_holm),
            f"{one.effect:+.3f}",
            f"{one.wins:,}",
            f"{one.losses:,}",
        ]
        for name, one in comparison.differences.items()
    ]


def _said(name: str, one: Difference, sign: int) -> str:
    low, high = sorted((sign * one.low, sign * one.high))
    return f"{name} by {sign * one.mean:.4f} ({low:.4f} – {high:.4f}; p {_p(one.p_holm, '= ')} after Holm)"


def _p(p: float, equals: str = "") -> str:
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"
