"""What a local run says at its end, on the terminal and at the parent run in MLflow."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from calrec.evaluate.report.words import NAMES
from calrec.evaluate.results import METHOD, means
from calrec.system.printing import redact, safe


@dataclasses.dataclass(frozen=True)
class Result:
    """Where a local run left its things."""

    targets: Mapping[str, Mapping[str, Path]]
    """target → model, index, recommendation, evaluation → folder."""
    tracking_uri: str
    page: str
    """Path of the run in the MLflow UI; empty when it was not tracked."""
    seconds: float
    memory: int
    """Most bytes that the process used at one time; 0: not known."""


def link_outputs(
    folder: Path, shared: Mapping[str, Path], targets: Mapping[str, Mapping[str, Path]]
) -> dict[str, dict[str, Path]]:
    """Readable names for what a run made: links `folder`/texts, `folder`/TARGET/evaluation and so on.

    Args:
        folder: of the run.
        shared: what all targets share, by name.
        targets: target → name → folder.
    """
    links: dict[str, dict[str, Path]] = {}
    for name, path in shared.items():
        (folder / name).symlink_to(path)
    for target, made in targets.items():
        (folder / target).mkdir()
        links[target] = {name: folder / target / name for name in made}
        for name, path in made.items():
            links[target][name].symlink_to(path)
    return links


def summary(result: Result) -> str:
    """The metrics against the baselines, five items for one user next to the history, and where to look further."""
    documents = _documents(result)
    lines = [line for target, document in documents.items() for line in ("", f"{target}:", *_table(document))]
    first = next(iter(documents))
    lines += ["", *_one_user(documents[first]["examples"][0], result.targets[first]["recommendation"]), ""]
    lines += [*_try_it(first, documents[first]["examples"][0], result.targets[first]), ""]
    lines += [f"report:     {folders['evaluation'] / 'report.html'}" for folders in result.targets.values()]
    local = result.tracking_uri.startswith("sqlite")
    server = "http://127.0.0.1:5000" if local else redact(result.tracking_uri).rstrip("/")
    start = f"make ui STORE={shlex.quote(result.tracking_uri)}, then open " if local else ""
    lines += [f"MLflow UI:  {start}{server}{result.page}"]
    lines += [f"by HTTP:    {_serve(first, result.tracking_uri, local)}"]
    memory = f", at most {result.memory / 2**30:.1f} GiB of memory" if result.memory else ""
    lines += [f"took {result.seconds:.0f} s{memory}"]
    return "\n".join(map(safe, lines))


def _try_it(target: str, example: Mapping[str, Any], folders: Mapping[str, Path]) -> list[str]:
    """A command that recommends with what was made."""
    said = _shown(folders["model"]), _shown(folders["index"]), "; ".join(example["history"][-2:])
    model, index, history = (shlex.quote(str(one)) for one in said)
    return [
        f"recommend with the model of {target}:",
        f"  .venv/bin/calrec recommend --model {model} --index {index} \\",
        f"    --history {history} -k 5",
    ]


def _serve(target: str, tracking_uri: str, local: bool) -> str:
    """A command that serves the champion."""
    store = shlex.quote(redact(tracking_uri))
    if local:
        return f"make serve TARGET={shlex.quote(target)} STORE={store}"
    return f"MLFLOW_TRACKING_URI={store} .venv/bin/calrec serve {shlex.quote(f'models:/calrec-{target}@champion')}"


def _shown(path: Path) -> Path:
    """As seen from here, where it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _document(evaluation: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((evaluation / "metrics.json").read_text())
    return document


def _documents(result: Result) -> dict[str, dict[str, Any]]:
    return {target: _document(folders["evaluation"]) for target, folders in result.targets.items()}


def _rows(document: Mapping[str, Any]) -> list[list[str]]:
    """The names of the metrics, and a row of means for each method."""
    found = means(document)
    rows = [[NAMES.get(method, method), *(f"{mean:.4f}" for mean in its.values())] for method, its in found.items()]
    return [["", *found[METHOD]], *rows]


def _table(document: Mapping[str, Any]) -> list[str]:
    rows = _rows(document)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]


def _one_user(example: Mapping[str, Any], recommendations: Path) -> list[str]:
    """What a user bought, what came next, what is recommended."""
    user, where = example["user_id"], f"place {example['rank']}" if example["rank"] else "not in the list"
    table = pq.read_table(recommendations / "recommendations.parquet", filters=[("user_id", "==", user)])
    return [
        f"User {user} bought … {' → '.join(example['history'])},",
        f"then {example['target']} ({where}). Recommended:",
        *(
            f"  {row['rank']}. {row['item_id']:<10} {row['title']}  (score {row['score']:.3f})"
            for row in table.slice(0, 5).to_pylist()
        ),
    ]
