"""The one line that says how a target did: the same at the MLflow run of a pipeline and in KFP's run view."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calrec.artifacts import Manifest
from calrec.evaluate.examples import table
from calrec.evaluate.report import words
from calrec.evaluate.results import CHAMPION, METHOD, means
from calrec.evaluate.step import headline
from calrec.report import tables

_MAIN = ("recall_at_10", "ndcg_at_10")


@dataclass(frozen=True)
class Outcome:
    """What :meth:`calrec.tracking.runs.Run.headline` takes."""

    metrics: Mapping[str, float]
    """The model's that matter most."""
    table: str
    """Markdown of a table of one row."""
    data: Mapping[str, str]
    """Category → content hash of its log."""


def outcome(folder: Path, decision: str = "–") -> Outcome:
    """The model with its interval, the champion, the best baseline, and the decision once there is one.

    Args:
        folder: of the evaluate step.
        decision: what became of the model.
    """
    document = json.loads((Path(folder) / "metrics.json").read_text())
    found = means(document)
    ours = {name: found[METHOD][name] for name in _MAIN if name in found[METHOD]} or found[METHOD]
    main = next(iter(ours))
    row = {
        "target": document["domain"],
        "users": document["users"],
        **{words.metric_title(name): f"{mean:.4f}" for name, mean in ours.items()},
        f"{words.metric_title(main)}: 95 % interval": _interval(document["methods"][METHOD]["figures"][main]),
        "champion": f"{found[CHAMPION][main]:.4f}" if CHAMPION in found else "none yet",
        "best other method": _best({name: of[main] for name, of in found.items() if name not in (METHOD, CHAMPION)}),
        "decision": decision,
    }
    return Outcome(ours, tables.markdown(list(row), [list(row.values())]), document["data"]["logs"])


def _interval(figure: Mapping[str, Any]) -> str:
    return f"{figure['low']:.4f} to {figure['high']:.4f}"


def _best(others: Mapping[str, float]) -> str:
    if not others:
        return "–"
    best = max(others, key=lambda name: others[name])
    return f"{others[best]:.4f} {words.name(best)}"


def publish(done: Manifest, call: Any, run: Any) -> None:
    """Tell what came out at the step's run, at its parent, and in KFP's run view; see calrec.launch.steps.Step.after.

    Args:
        done: the evaluation's manifest.
        call: a calrec.launch.steps.Call.
        run: the step's run in MLflow.
    """
    said = outcome(call.out)
    run.table("examples", table(call.out))
    run.headline(str(done.config["domain"]), **vars(said))
    if call.view:
        call.view["metrics"].metadata.update(headline(done))
        shutil.copy(call.out / "report.html", call.view["report"].path)
        Path(call.view["summary"].path).write_text(f"{said.table}\n\n{(call.out / 'report.md').read_text()}")
