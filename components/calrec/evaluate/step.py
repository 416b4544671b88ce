"""The evaluate step: rankings in; metrics per user, floors, intervals and a report out."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import EvaluateConfig, RetrieveConfig, from_dict, to_dict
from calrec.evaluate import metrics
from calrec.evaluate.floors import floors
from calrec.evaluate.report import METHOD, Example, Report, markdown, page
from calrec.model.loading import Users, load_users
from calrec.retrieve.catalogue import Catalogue, load_catalogue

EXAMPLES = 3


def evaluate(texts: Path, generations: Path, recommendations: Path, out: Path, config: EvaluateConfig) -> Manifest:
    """Score a category's rankings and the floors on the same users, the whole catalogue ranked.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step.
        recommendations: folder of the retrieve step.
        out: the folder to make: ranks and facts per user, metrics.json, report.md, report.html.
        config: cut-offs, floors, bootstrap.

    Raises:
        ValueError: a list with a repeated item, an item or user that the texts do not know, or a list that is shorter
            than k and than the catalogue; counts the faults and names the first.
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
    row_of = {user: row for row, user in enumerate(users.user_id)}
    at = users.test_at if split == "test" else users.valid_at

    def history(row: int) -> list[int]:
        codes: list[int] = users.items[row][: at[row]].tolist()
        return codes

    def excluded(row: int) -> frozenset[int]:
        return frozenset(history(row)) if retrieve.exclude_seen else frozenset()

    lists = _lists(
        recommendations,
        catalogue,
        row_of,
        room=lambda user: min(retrieve.k, len(catalogue.items) - len(excluded(row_of[user]))),
    )
    rows = [row_of[user] for user in lists]
    rankings: dict[str, list[list[int]]] = {METHOD: list(lists.values())}
    for name, rank in floors(config.floors, users, catalogue, retrieve).items():
        rankings[name] = [rank(history(row), excluded(row)) for row in rows]
    targets = [int(users.items[r][at[r]]) for r in rows]
    ranks = {name: _ranks(lists_, targets, catalogue) for name, lists_ in rankings.items()}

    generated = _generated(generations)
    facts = _user_facts(users, rows, at, targets, catalogue, generated)
    results, intervals = _summary(ranks, config)
    exact = float(np.mean([f["exact_match_share"] for f in facts]))
    report = Report(
        domain=domain, split=split, users=len(rows), items=len(catalogue.items), exclude_seen=retrieve.exclude_seen,
        results=results, intervals=intervals,
        facts={
            "distinct_texts_per_sample": round(float(np.mean([f["distinct_share"] for f in facts])), 4),
            "generations_that_are_an_item_text": round(exact, 4),
            "bm25_margin": of.counts["bm25_margin"],
            "targets_in_the_history": round(float(np.mean([f["target_in_history"] for f in facts])), 4),
            "catalogue_coverage": round(len({i for r in rankings[METHOD] for i in r}) / len(catalogue.items), 4),
        },
        examples=_examples(users, rows, at, targets, rankings[METHOD], ranks[METHOD][0], catalogue, generated),
    )  # fmt: skip
    with artifacts.writing(Path(out)) as folder:
        _write_ranks(folder, users, rows, ranks)
        artifacts.write_table(folder, "users.parquet", pa.Table.from_pylist(facts, schema=artifacts.USERS))
        document = {"domain": domain, "results": results, "intervals": intervals, "facts": report.facts}
        (folder / "metrics.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / "report.md").write_text(markdown(report))
        (folder / "report.html").write_text(page(report))
        manifest = artifacts.finish(
            folder,
            Manifest(
                "evaluation",
                config={**of.config, "evaluate": to_dict(config)},
                counts={**results[METHOD], **report.facts},
                inputs={"recommendations": of.digest, "texts": artifacts.read_manifest(texts).digest},
            ),
        )
    headline = f"recall_at_{config.recall_at[-1]}"
    print(
        f"evaluate {domain}: "
        + ", ".join(f"{name} {r[headline]:.4f}" for name, r in results.items())
        + f" ({headline})",
        flush=True,
    )
    return manifest


def _lists(
    folder: Path, catalogue: Catalogue, row_of: dict[str, int], room: Callable[[str], int]
) -> dict[str, list[int]]:
    """user_id → ranked item codes, each list checked; `room` says how many items a user's list must have."""
    table = artifacts.read_table(folder, "recommendations.parquet", "recommendations").sort_by(
        [("user_id", "ascending"), ("rank", "ascending")]
    )
    code_of = dict(zip(catalogue.item_id, catalogue.items.tolist(), strict=True))
    lists: dict[str, list[int]] = defaultdict(list)
    problems: list[str] = []
    for user, item in zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True):
        if user not in row_of:
            problems.append(f"unknown user {user}")
        elif item not in code_of:
            problems.append(f"unknown item {item} of user {user}")
        elif code_of[item] in lists[user]:
            problems.append(f"item {item} twice in the list of user {user}")
        else:
            lists[user].append(code_of[item])
    problems += [f"user {u} has {len(i)} items, expected {room(u)}" for u, i in lists.items() if len(i) != room(u)]
    if problems or not lists:
        raise ValueError(
            f"{folder}: {len(problems)} faults in the rankings: {'; '.join(problems[:3]) or 'no user at all'}"
        )
    return lists


def _ranks(lists: list[list[int]], targets: list[int], catalogue: Catalogue) -> tuple[metrics.Ints, metrics.Ints]:
    """(rank of the target, rank of the first item with the target's text) per user."""
    group = dict(zip(catalogue.items.tolist(), catalogue.group_of.tolist(), strict=True))
    by_item = [metrics.rank_of(target, items) for items, target in zip(lists, targets, strict=True)]
    by_text = [
        metrics.rank_of(group[target], [group[item] for item in items])
        for items, target in zip(lists, targets, strict=True)
    ]
    return np.array(by_item), np.array(by_text)


def _summary(
    ranks: dict[str, tuple[metrics.Ints, metrics.Ints]], config: EvaluateConfig
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]:
    """Means of every metric on items and on text groups, and intervals of those on items."""
    results: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for method, (by_item, by_text) in ranks.items():
        values = metrics.per_user(by_item, config)
        on_text = metrics.per_user(by_text, config)
        results[method] = {name: float(v.mean()) for name, v in values.items()}
        results[method] |= {f"{name}_text": float(v.mean()) for name, v in on_text.items()}
        intervals[method] = {name: metrics.interval(v, config.bootstrap, config.seed) for name, v in values.items()}
    return results, intervals


def _generated(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """user_id → (text, count), most frequent first."""
    table = artifacts.read_table(folder, "generations.parquet", "generations")
    texts: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for user, text, count in zip(*(table[n].to_pylist() for n in ("user_id", "text", "count")), strict=True):
        texts[user].append((text, count))
    return {user: sorted(pairs, key=lambda pair: -pair[1]) for user, pairs in texts.items()}


def _user_facts(
    users: Users, rows: list[int], at: metrics.Ints, targets: list[int], catalogue: Catalogue,
    generated: dict[str, list[tuple[str, int]]],
) -> list[dict[str, Any]]:  # fmt: skip
    known = set(catalogue.group_texts)
    facts = []
    for r, target in zip(rows, targets, strict=True):
        pairs, place = generated[users.user_id[r]], catalogue.at(target)
        samples = sum(count for _, count in pairs)
        facts.append(
            {
                "user_id": users.user_id[r],
                "target": catalogue.item_id[place],
                "history_length": int(at[r]),
                "target_train_count": int(catalogue.train_count[place]),
                "target_in_history": bool(target in users.items[r][: at[r]]),
                "distinct_share": len(pairs) / samples,
                "exact_match_share": sum(count for text, count in pairs if text in known) / samples,
            }
        )
    return facts


def _examples(
    users: Users, rows: list[int], at: metrics.Ints, targets: list[int], lists: list[list[int]], ranks: metrics.Ints,
    catalogue: Catalogue, generated: dict[str, list[tuple[str, int]]],
) -> list[Example]:  # fmt: skip
    """The first users of the sample, hits and misses as they come."""

    def title(item: int) -> str:
        return catalogue.title[catalogue.at(item)] or catalogue.item_id[catalogue.at(item)]

    return [
        Example(
            user_id=users.user_id[r],
            history=[title(item) for item in users.items[r][max(0, at[r] - 5) : at[r]].tolist()],
            target=title(targets[i]),
            recommended=[title(item) for item in lists[i][:5]],
            generated=[f"{text} ({count}x)" for text, count in generated[users.user_id[r]][:3]],
            rank=int(ranks[i]),
        )
        for i, r in enumerate(rows[:EXAMPLES])
    ]


def _write_ranks(
    folder: Path, users: Users, rows: list[int], ranks: dict[str, tuple[metrics.Ints, metrics.Ints]]
) -> None:
    ids = [users.user_id[r] for r in rows]
    tables = [
        pa.table(
            [
                pa.array(ids),
                pa.array([method] * len(ids)),
                pa.array(by_item, pa.int32()),
                pa.array(by_text, pa.int32()),
            ],
            schema=artifacts.RANKS,
        )
        for method, (by_item, by_text) in ranks.items()
    ]
    artifacts.write_table(folder, "ranks.parquet", pa.concat_tables(tables))
