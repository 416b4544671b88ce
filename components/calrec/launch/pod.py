"""The body of a KFP component: its artifacts and dictionaries become paths and settings, and the step runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calrec.config.overrides import sections as parsed
from calrec.launch import steps


def run(
    name: str,
    *,
    out: Any,
    inputs: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, Any]],
    metrics: Any,
    summary: Any,
    tokens: Any = None,
    view: Mapping[str, Any] | None = None,
    **values: Any,
) -> None:
    """Run a step of :data:`calrec.launch.steps.STEPS` in a pod.

    Args:
        name: of the step.
        out: KFP's artifact of what it makes.
        inputs: parameter → KFP's artifact, a list of them, or None.
        sections: section of the configuration → its dictionary.
        metrics: KFP's Metrics of the run view.
        summary: KFP's Markdown of the run view.
        tokens: a second artifact that the step makes.
        view: more artifacts of the run view, by name.
        values: plain values.
    """
    shown = {"out": out, "metrics": metrics, "summary": summary, "tokens": tokens, **(view or {})}
    folders = (Path(out.path), Path(tokens.path)) if tokens is not None else Path(out.path)
    given = {parameter: _path(artifact) for parameter, artifact in inputs.items()}
    steps.run(name, folders, given, parsed(**sections), view=shown, **values)


def _path(artifact: Any) -> Any:
    if isinstance(artifact, list):
        return [_path(one) for one in artifact]
    return None if artifact is None else Path(artifact.path)
