"""What the gate and the model card need of an evaluation folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.config import EvaluateConfig, metric_names
from calrec.config.overrides import from_dict
from calrec.evaluate import slices
from calrec.evaluate.metrics import worth
from calrec.evaluate.results import CHAMPION, METHOD, Difference, Evaluation, Figure, Method, Ties
from calrec.promote.gate import Flags, Floats, Results
from calrec.recommend.drift import Drift


def results(folder: Path, document: Mapping[str, Any], method: str = METHOD, floors: Sequence[str] = ()) -> Results:
    """What a method is worth to each user.

    Args:
        folder: of the evaluate step.
        document: its metrics.json.
        method: one of its methods.
        floors: baselines; those that were not evaluated are left out.
    """
    users = artifacts.read_table(folder, "users.parquet", "evaluation")
    asked = users.select(["user_id", "target"]).sort_by("user_id")
    settings = [document[name] for name in ("domain", "split", "k", "exclude_seen")]
    return Results(
        users=users["user_id"].combine_chunks(),
        gains=_gains(folder, document, method, users),
        data=artifacts.short_hash([*settings, document["data"]["catalogue"], *asked.to_pydict().values()]),
        slices=_kinds(users),
        floors={one: _gains(folder, document, one, users) for one in floors if one in document["methods"]},
        cost=document["cost"],
    )


def _gains(folder: Path, document: Mapping[str, Any], method: str, users: pa.Table) -> dict[str, Floats]:
    config = from_dict(EvaluateConfig, document["config"]["evaluate"])
    its = pq.read_table(Path(folder) / "ranks.parquet", columns=["user_id", "rank"], filters=[("method", "==", method)])
    assert its["user_id"].equals(users["user_id"]), f"{folder}: ranks and facts are not of the same users"
    table = worth(np.arange(document["k"] + 1), config)[its["rank"].to_numpy()]
    return dict(zip(metric_names(config), table.T, strict=True))


def _kinds(users: pa.Table) -> dict[str, Flags]:
    """The kinds of users that the report shows; prices are in quarters of the users here, not of the catalogue."""
    every = np.arange(len(users))
    divisions = [
        slices.frequency(users["target_train_count"].to_numpy()),
        slices.history(users["history_length"].to_numpy()),
        slices.repeat(users["target_in_history"].to_numpy()),
        *slices.category(every, users["target_category"].to_pylist()),
        *slices.price(every, users["target_price"].to_numpy()),
    ]
    return {f"{one.by} {value}": one.of == at for one in divisions for at, value in enumerate(one.values)}


def champion_uri(folder: Path) -> str | None:
    """URI of the champion that a model was judged beside; None: there was none; NOT_KNOWN."""
    found = json.loads((folder / "metrics.json").read_text())["data"].get(CHAMPION)
    return None if found is None else str(found)


def parse_evaluation(document: Mapping[str, Any]) -> Evaluation:
    """An evaluation as metrics.json holds it, without its slices and examples."""
    methods = {name: _method(its) for name, its in document["methods"].items()}
    drift = Drift(**document["drift"]) if document.get("drift") else None
    return Evaluation(**{**document, "methods": methods, "drift": drift, "slices": (), "examples": ()})


def _method(its: Mapping[str, Any]) -> Method:
    kinds = {"figures": Figure, "ties": Ties, "against": Difference}
    tables = {name: {metric: kind(**one) for metric, one in its[name].items()} for name, kind in kinds.items()}
    return Method(**{**its, **tables})
