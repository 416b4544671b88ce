"""The evaluate step: rankings in; metrics per user, floors, intervals and a report out."""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import EvaluateConfig, RetrieveConfig
from calrec.evaluate import metrics
from calrec.evaluate.cases import Case, load_cases
from calrec.evaluate.floors import floors
from calrec.evaluate.report import METHOD, Example, Report, markdown, page
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import Catalogue, load_catalogue
from calrec.retrieve.following import countable
from calrec.settings import from_dict, to_dict

EXAMPLES = 3

Ranks = dict[str, tuple[metrics.Ints, metrics.Ints]]
"""method → per user the rank of the target, and of the first item with the target's text."""
Generated = dict[str, list[tuple[str, int]]]
"""user_id → (text, count), most frequent first."""


def evaluate(texts: Path, generations: Path, recommendations: Path, out: Path, config: EvaluateConfig) -> Manifest:
    """Score a category's rankings and the floors on the same users, the whole catalogue ranked.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step.
        recommendations: folder of the retrieve step.
        out: the folder to make: ranks and facts per user, metrics.json, report.md, report.html.
        config: cut-offs, floors, bootstrap.

    Raises:
        ValueError: faulty rankings, see :func:`calrec.evaluate.cases.load_cases`, or a cut-off deeper than the lists.
    """
    of = artifacts.read_manifest(recommendations, "recommendations")
    domain, split = str(of.config["domain"]), str(of.config["generate"]["split"])
    retrieve = from_dict(RetrieveConfig, of.config["retrieve"])
    deepest = max(*config.recall_at, *config.ndcg_at, 1)
    if deepest > retrieve.k:
        raise ValueError(
            f"evaluate looks at rank {deepest} but {recommendations} has {retrieve.k} items per user; raise retrieve.k"
        )
    catalogue, users = load_catalogue(texts, domain), load_users(texts, [domain])
    cases = load_cases(recommendations, users, catalogue, split, retrieve)
    ranks = {METHOD: _ranks([case.ranking for case in cases], cases, catalogue)}
    for name, rank in floors(config.floors, countable(users, split), catalogue, retrieve).items():
        ranks[name] = _ranks([rank(case.history, case.excluded) for case in cases], cases, catalogue)
    generated = _generated(generations)
    known = frozenset(catalogue.group_texts)
    facts = [_facts(case, catalogue, generated[case.user_id], known) for case in cases]
    results, intervals = _summary(ranks, config)
    report = Report(
        domain=domain,
        split=split,
        users=len(cases),
        items=len(catalogue.items),
        exclude_seen=retrieve.exclude_seen,
        results=results,
        intervals=intervals,
        facts={**_explanation(facts, cases, catalogue), "bm25_margin": of.counts["bm25_margin"]},
        examples=_examples(cases, ranks[METHOD][0], catalogue, generated),
    )
    headline = f"recall_at_{config.recall_at[-1]}"
    shown = ", ".join(f"{name} {figures[headline]:.4f}" for name, figures in results.items())
    print(f"evaluate {domain}: {headline}: {shown}", flush=True)
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "ranks.parquet", _rank_table(ranks, cases))
        artifacts.write_table(folder, "users.parquet", pa.Table.from_pylist(facts, schema=artifacts.USERS))
        document: dict[str, Any] = {"domain": domain, "results": results, "intervals": intervals, "facts": report.facts}
        document["examples"] = [asdict(example) for example in report.examples]
        (folder / "metrics.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / "report.md").write_text(markdown(report))
        (folder / "report.html").write_text(page(report))
        return artifacts.finish(
            folder,
            Manifest(
                "evaluation",
                config={**of.config, "evaluate": to_dict(config)},
                counts={**results[METHOD], **report.facts},
                inputs={"recommendations": of.digest, "texts": artifacts.read_manifest(texts).digest},
            ),
        )


def _ranks(rankings: list[list[int]], cases: list[Case], catalogue: Catalogue) -> tuple[metrics.Ints, metrics.Ints]:
    group = dict(zip(catalogue.items.tolist(), catalogue.group_of.tolist(), strict=True))
    pairs = list(zip(cases, rankings, strict=True))
    by_item = [metrics.rank_of(case.target, items) for case, items in pairs]
    by_text = [metrics.rank_of(group[case.target], [group[item] for item in items]) for case, items in pairs]
    return np.array(by_item), np.array(by_text)


def _summary(
    ranks: Ranks, config: EvaluateConfig
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]:
    """Means of every metric on items and on text groups, and intervals of those on items."""
    results: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for method, (by_item, by_text) in ranks.items():
        values, on_text = (metrics.per_user(each, config) for each in (by_item, by_text))
        results[method] = {name: float(v.mean()) for name, v in values.items()}
        results[method] |= {f"{name}_text": float(v.mean()) for name, v in on_text.items()}
        intervals[method] = {name: metrics.interval(v, config.bootstrap, config.seed) for name, v in values.items()}
    return results, intervals


def _generated(folder: Path) -> Generated:
    table = artifacts.read_table(folder, "generations.parquet", "generations")
    texts: Generated = defaultdict(list)
    for user, text, count in zip(*(table[n].to_pylist() for n in ("user_id", "text", "count")), strict=True):
        texts[user].append((text, count))
    return {user: sorted(pairs, key=lambda pair: -pair[1]) for user, pairs in texts.items()}


def _facts(case: Case, catalogue: Catalogue, generated: list[tuple[str, int]], known: frozenset[str]) -> dict[str, Any]:
    """A row of the users table; `known` are the texts of the catalogue."""
    samples = sum(count for _, count in generated)
    return {
        "user_id": case.user_id,
        "target": catalogue.item_id[catalogue.at(case.target)],
        "history_length": len(case.history),
        "target_train_count": int(catalogue.train_count[catalogue.at(case.target)]),
        "target_in_history": case.target in case.history,
        "distinct_share": len(generated) / samples,
        "exact_match_share": sum(count for text, count in generated if text in known) / samples,
    }


def _explanation(facts: list[dict[str, Any]], cases: list[Case], catalogue: Catalogue) -> dict[str, float]:
    """What explains the metrics, averaged over users."""

    def mean(name: str) -> float:
        return round(float(np.mean([fact[name] for fact in facts])), 4)

    recommended = {item for case in cases for item in case.ranking}
    return {
        "distinct_texts_per_sample": mean("distinct_share"),
        "generations_that_are_an_item_text": mean("exact_match_share"),
        "targets_in_the_history": mean("target_in_history"),
        "catalogue_coverage": round(len(recommended) / len(catalogue.items), 4),
    }


def _examples(cases: list[Case], ranks: metrics.Ints, catalogue: Catalogue, generated: Generated) -> list[Example]:
    """The first users of the sample, hits and misses as they come."""

    def title(item: int) -> str:
        return catalogue.title[catalogue.at(item)] or catalogue.item_id[catalogue.at(item)]

    return [
        Example(
            user_id=case.user_id,
            history=[title(item) for item in case.history[-5:]],
            target=title(case.target),
            recommended=[title(item) for item in case.ranking[:5]],
            generated=[f"{text} ({count}x)" for text, count in generated[case.user_id][:3]],
            rank=int(rank),
        )
        for case, rank in zip(cases[:EXAMPLES], ranks.tolist(), strict=False)
    ]


def _rank_table(ranks: Ranks, cases: list[Case]) -> pa.Table:
    users = [case.user_id for case in cases]
    columns = (
        [users, [method] * len(users), pa.array(by_item, pa.int32()), pa.array(by_text, pa.int32())]
        for method, (by_item, by_text) in ranks.items()
    )
    return pa.concat_tables(pa.table(each, schema=artifacts.RANKS) for each in columns)
