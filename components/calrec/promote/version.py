"""A version of a target's model: all that recommending takes, in one folder whose every file is known by its hash."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GateConfig, GenerateConfig, RetrieveConfig
from calrec.config.overrides import from_dict, to_dict
from calrec.evaluate.results import METHOD
from calrec.model.origin import base_of
from calrec.promote.card import card
from calrec.promote.gate import Decision
from calrec.recommend.champion import open_version
from calrec.recommend.recommender import Recommender

_EXAMPLE = 3  # items of the input example


@artifacts.making("version", "model", "index", "evaluation", "decision")
def pack(
    out: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    decision: Path,
    generate: GenerateConfig,
    retrieve: RetrieveConfig,
) -> Manifest:
    """Put what was made and judged into one folder that needs nothing else.

    Args:
        out: the folder to make: `model/`, `index/`, settings.json, card.md, profile.json.
        model: folder of the finetune step, what was judged.
        index: folder of `calrec index` for it.
        evaluation: folder of the evaluate step.
        decision: folder of the promote step.
        generate: how texts are sampled.
        retrieve: how items are ranked.

    Returns:
        its manifest: `config` has what the registry's tags say, `counts` the model's metrics.
    """
    of_model, of_index = artifacts.read_verified(model, "model"), artifacts.read_verified(index, "index")
    judged, gate = artifacts.read_manifest(evaluation, "evaluation"), artifacts.read_manifest(decision, "decision")
    document = json.loads((evaluation / "metrics.json").read_text())
    base = base_of(model)
    settings = {"generate": to_dict(generate), "retrieve": to_dict(retrieve)}
    verdict = Decision(bool(gate.counts["promote"]), gate.notes)
    with artifacts.writing(out) as folder:
        for part, source in (("model", model), ("index", index)):
            shutil.copytree(source, folder / part, copy_function=_link_or_copy)
        (folder / "settings.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        (folder / "card.md").write_text(card(document, verdict, base))
        shutil.copyfile(evaluation / "profile.json", folder / "profile.json")
        facts = {
            "target": str(document["domain"]),
            "model": artifacts.short_hash([settings, of_model.digest, of_index.digest]),
            "data": judged.inputs["texts"],
            "config": artifacts.short_hash(judged.config),
            **{name: str(value) for name, value in base.items()},
        }
        metric = from_dict(GateConfig, gate.config["gate"]).metric
        inputs = {"model": of_model.digest, "index": of_index.digest, "evaluation": judged.digest}
        return artifacts.finish(folder, Manifest("version", facts, _metrics(document, metric), inputs=inputs))


def example(index: Path) -> list[dict[str, Any]]:
    """A request with the category's most frequent items: what a person may send, and nobody's history."""
    items = artifacts.read_table(index, "items.parquet", "index")
    order = pc.sort_indices(items, [("train_count", "descending"), ("item_id", "ascending")])[:_EXAMPLE]
    return [{"items": items["item_id"].take(order).to_pylist(), "k": 5}]


def check_answers(folder: Path, request: Sequence[Mapping[str, Any]]) -> None:
    """Let a version answer, since MLflow registers without a word what cannot.

    Raises:
        Exception: why it cannot.
    """
    from calrec.serve.answers import Answers
    from calrec.serve.query import Query

    champion = open_version(folder)
    recommender = Recommender(champion.model, champion.index, champion.generate, champion.retrieve)
    Answers(recommender)([Query(**one) for one in request])


def _link_or_copy(source: str, target: str) -> None:
    """A second name for a file that nobody writes to again; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _metrics(document: Mapping[str, Any], main: str) -> dict[str, float]:
    """The model's means, and the interval of the metric that decides."""
    figures = document["methods"][METHOD]["figures"]
    means = {name: float(figure["mean"]) for name, figure in figures.items()}
    ends = {f"{main}_{end}": float(figures[main][end]) for end in ("low", "high")} if main in figures else {}
    return means | ends
