"""The evaluate step: rankings in; metrics per user, baselines, intervals, tests and a report out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import BASELINES, EvaluateConfig, RetrieveConfig, metric_names
from calrec.config.checks import check
from calrec.config.overrides import from_dict, to_dict
from calrec.evaluate.baselines.named import baselines
from calrec.evaluate.examples import examples
from calrec.evaluate.figures import correct_holm, differences, figures, means
from calrec.evaluate.generated import load_generated
from calrec.evaluate.inputs import Inputs, load_inputs
from calrec.evaluate.metrics import Scores
from calrec.evaluate.rankings import Reader, drift_of, name_of_champion, of_champion
from calrec.evaluate.report.charts import standalone
from calrec.evaluate.report.drift import warnings
from calrec.evaluate.report.page import drawings, markdown, page
from calrec.evaluate.results import METHOD, Evaluation, Method
from calrec.evaluate.slices import slice_figures
from calrec.evaluate.training import curves_and_cost
from calrec.evaluate.user_facts import Facts, prices
from calrec.evaluate.users import Judged, load_judged
from calrec.model.loading import Users, load_users
from calrec.recommend.drift import PROFILE, profile
from calrec.report import manifests
from calrec.report.progress import Progress
from calrec.retrieve.catalogue import Catalogue, load_catalogue

Floats = NDArray[np.float64]

_USERS = 4096  # whose baseline lists are in memory at once
_ROWS = 1 << 17  # of the ranks that are written at a time
_DRIFT = "drift_"


@artifacts.making("evaluation", "texts", "generations", "recommendations", "models", "rankings", "champion")
def evaluate(
    texts: Path,
    generations: Path,
    recommendations: Path,
    out: Path,
    config: EvaluateConfig,
    models: Sequence[Path] = (),
    rankings: Mapping[str, Path] | None = None,
    champion: Path | None = None,
) -> Manifest:
    """Score a category's rankings, the baselines and others' rankings on the same users, the whole catalogue ranked.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step; its users are judged.
        recommendations: folder of the retrieve step.
        out: the folder to make: ranks and facts per user, metrics.json, report.md, report.html, figures/, and
            profile.json, with which a later run can say how far its data have moved from these.
        config: cut-offs, baselines, bootstrap.
        models: of the stages, in their order, the last one that generated: for learning curves, cost and settings.
        rankings: name → a CSV or Parquet file of user_id, rank, item_id and perhaps score of another recommender.
        champion: folder of :func:`calrec.recommend.champion.rank`: its lists, and how far the data have moved.

    Raises:
        ValueError: faulty rankings, see :meth:`calrec.evaluate.rankings.Reader.ranking`; folders that do not belong
            together; a cut-off deeper than the lists; the name of a ranking is taken.
    """
    rankings = {**(of_champion(champion) if champion else {}), **(rankings or {})}
    inputs = load_inputs(texts, generations, recommendations, models)
    _check(config, inputs.retrieve, recommendations, rankings)
    catalogue, users = load_catalogue(texts, inputs.domain), load_users(texts, [inputs.domain])
    generated = load_generated(generations, catalogue)
    its = load_judged(users, generated.user_id, catalogue, inputs.split, generations)
    methods, match = _methods(its, catalogue, inputs, recommendations, rankings)
    methods |= _baselines(its, users, catalogue, inputs, config)
    facts = Facts(its, generated, catalogue, prices(catalogue), match)
    explanations = {**facts.explanations(), "bm25_margin": float(inputs.recommendations.counts["bm25_margin"])}
    curves, cost = curves_and_cost(models, generations)
    evaluation = Evaluation(
        domain=inputs.domain,
        split=inputs.split,
        users=len(its),
        eligible=its.eligible,
        items=len(catalogue.items),
        k=inputs.retrieve.k,
        exclude_seen=inputs.retrieve.exclude_seen,
        methods=_judgements(methods, config),
        slices=slice_figures(facts.divisions(), methods, config),
        explanations=explanations,
        examples=examples(its, methods[METHOD].rank, catalogue, generations, recommendations),
        curves=curves,
        cost=cost,
        data={
            **inputs.data,
            "catalogue": artifacts.short_hash(sorted(catalogue.item_id)),
            **(name_of_champion(champion) if champion else {}),
        },
        config={**inputs.settings, "evaluate": to_dict(config)},
        warnings=manifests.warnings(inputs.recommendations),
        drift=drift_of(champion) if champion else None,
        meaning=inputs.meaning,
    )
    _print(evaluation, config)
    tables = {"ranks": _rank_tables(its, methods), "users": facts.tables()}
    return _write(out, evaluation, inputs, tables, profile(texts, inputs.domain))


def _write(
    out: Path,
    evaluation: Evaluation,
    inputs: Inputs,
    tables: Mapping[str, Iterator[pa.Table]],
    of_data: Mapping[str, Any],
) -> Manifest:
    with artifacts.writing(Path(out)) as folder:
        for name, parts in tables.items():
            with artifacts.table_writer(folder, f"{name}.parquet", "evaluation") as writer:
                for part in parts:
                    writer.write_table(part)
        (folder / "metrics.json").write_text(json.dumps(asdict(evaluation), indent=1, allow_nan=False) + "\n")
        (folder / PROFILE).write_text(json.dumps(of_data, ensure_ascii=False) + "\n")
        (folder / "figures").mkdir()
        for name, drawing in drawings(evaluation).items():
            (folder / "figures" / f"{name}.svg").write_text(standalone(drawing))
        (folder / "report.md").write_text(markdown(evaluation))
        (folder / "report.html").write_text(page(evaluation))
        return artifacts.finish(folder, _manifest(evaluation, inputs))


def _check(config: EvaluateConfig, retrieve: RetrieveConfig, folder: Path, rankings: Mapping[str, Path]) -> None:
    deepest = max(*config.recall_at, *config.ndcg_at, 1)
    check(
        deepest <= retrieve.k,
        f"evaluate looks at rank {deepest} but {folder} has {retrieve.k} items per user; raise retrieve.k",
    )
    for name in rankings:
        check(bool(re.fullmatch(r"[\w.-]+", name)), f"a ranking's name is of letters, digits, _, . and -; got {name!r}")
        check(name not in (METHOD, *BASELINES), f"the name {name!r} is a method of ours; give the ranking another one")


def _methods(
    its: Judged, catalogue: Catalogue, inputs: Inputs, recommendations: Path, rankings: Mapping[str, Path]
) -> tuple[dict[str, Scores], Floats]:
    """What the lists of files are worth, and how well the model's first items match their texts."""
    reader, match = Reader(its, catalogue, inputs.retrieve), np.full(len(its), np.nan)
    methods = {name: Scores(its.target, catalogue, inputs.retrieve.k) for name in (METHOD, *rankings)}
    for part in reader.recommendations(recommendations):
        methods[METHOD].add(part.users, part.lists)
        match[part.users] = part.first["match"].to_numpy()
    for name, path in rankings.items():
        for part in reader.ranking(path):
            methods[name].add(part.users, part.lists)
    return methods, match


def _baselines(
    its: Judged, users: Users, catalogue: Catalogue, inputs: Inputs, config: EvaluateConfig
) -> dict[str, Scores]:
    """What the configured baselines' lists are worth."""
    if not config.baselines:
        return {}
    ends = users.counted_until(inputs.split).tolist()
    counted = [items[:end].astype(np.int64) for items, end in zip(users.items, ends, strict=True)]
    found = {}
    for name, baseline in baselines(config.baselines, counted, catalogue, inputs.retrieve, config.seed).items():
        found[name] = Scores(its.target, catalogue, inputs.retrieve.k)
        progress = Progress(f"evaluate {inputs.domain}, {name}", len(its))
        for start in range(0, len(its), _USERS):
            some = np.arange(start, min(start + _USERS, len(its)))
            histories = [row.astype(np.int64) for row in its.history(some).rows()]
            banned = [frozenset(row.tolist() if inputs.retrieve.exclude_seen else ()) for row in histories]
            found[name].add(some, baseline(histories, banned))
            progress.add(len(some))
    return found


def _judgements(methods: Mapping[str, Scores], config: EvaluateConfig) -> dict[str, Method]:
    """Every method with its figures; the model against each of the others."""
    others = [name for name in methods if name != METHOD]
    tables = [differences(methods[METHOD].rank, methods[name].rank, config) for name in others]
    against = dict(zip(others, correct_holm(tables), strict=True))
    return {
        name: Method(
            figures=figures(scores.rank_counts(), config),
            on_texts=means(scores.rank_counts(on_texts=True), config),
            ties=scores.ties(config),
            coverage=scores.coverage,
            novelty=scores.novelty,
            against=against.get(name, {}),
        )
        for name, scores in methods.items()
    }


def _print(evaluation: Evaluation, config: EvaluateConfig) -> None:
    headline = f"recall_at_{config.recall_at[-1]}" if config.recall_at else evaluation.metrics[0]
    shown = ", ".join(f"{name} {its.figures[headline].mean:.4f}" for name, its in evaluation.methods.items())
    print(f"evaluate {evaluation.domain}: {headline}: {shown}", flush=True)
    for sentence in (*evaluation.warnings, *_sentences(evaluation)):
        print(f"evaluate {evaluation.domain}: {sentence}", flush=True)


def _sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """What a person must know before reading the figures."""
    return (*([evaluation.meaning] if evaluation.meaning else []), *warnings(evaluation.drift))


def _rank_tables(its: Judged, methods: Mapping[str, Scores]) -> Iterator[pa.Table]:
    """Rows of artifacts.RANKS, part by part."""
    for name, scores in methods.items():
        for start in range(0, len(its), _ROWS):
            users = its.user_id.slice(start, _ROWS)
            ranks = [each[start : start + _ROWS] for each in (scores.rank, scores.best, scores.worst, scores.rank_text)]
            yield pa.table([users, pa.repeat(name, len(users)), *ranks], schema=artifacts.RANKS)


def _manifest(evaluation: Evaluation, inputs: Inputs) -> Manifest:
    """Counts: the model's metrics under their names, `…_text` where items of one text count as one, and `drift_…`."""
    ours = evaluation.methods[METHOD]
    counts = {name: figure.mean for name, figure in ours.figures.items()}
    counts |= {f"{name}_text": value for name, value in ours.on_texts.items()}
    counts |= {"catalogue_coverage": round(ours.coverage, 4), "novelty": round(ours.novelty, 4)}
    if evaluation.drift:
        counts |= {f"{_DRIFT}{name}": round(value, 4) for name, value in evaluation.drift.figures.items()}
    return Manifest(
        "evaluation",
        config={"domain": evaluation.domain, **evaluation.config},
        counts={**counts, **evaluation.explanations},
        notes=_sentences(evaluation),
        warnings=tuple(evaluation.warnings),
        inputs={"recommendations": inputs.recommendations.digest, "texts": inputs.texts.digest},
    )


def headline(done: Manifest) -> dict[str, float]:
    """Of the counts those that a person compares runs by: the model's metrics, and the drift."""
    names = metric_names(from_dict(EvaluateConfig, done.config["evaluate"]))
    return {name: count for name, count in done.counts.items() if name in names or name.startswith(_DRIFT)}
