"""The table of steps: what each reads, which settings it takes, what it writes, and the function that does it.

The command line, the KFP components and a run on this machine all start a step from here, so what surrounds it is
written once: its run in MLflow, the record of what it made, and whatever comes after (a headline, a registration).
A function is named by a string, since this room lies below the steps.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calrec.artifacts import Manifest
from calrec.report import kfp_view
from calrec.storage import uris
from calrec.tracking import registry, runs
from calrec.tracking.run import Run

Out = Path | tuple[Path, ...]


@dataclass(frozen=True)
class Call:
    """One step as it is asked for."""

    inputs: Mapping[str, Any]
    """Parameter of the function → a folder, a list of folders, or None."""
    sections: Mapping[str, Any]
    """Section of the configuration → that section."""
    values: Mapping[str, Any]
    """Parameter of the function → a plain value."""
    out: Path
    view: Mapping[str, Any] = field(default_factory=dict)
    """KFP's artifacts of the run view, by name: metrics, summary, report and so on; empty outside a pipeline."""

    @property
    def target(self) -> str:
        """The category; empty when the step works on all of them."""
        return str(self.values.get("domain", ""))


@dataclass(frozen=True)
class Step:
    """A row of the table."""

    function: str
    """`module:function`; it takes `out`, and the inputs, sections and values below, and returns a Manifest."""
    inputs: tuple[str, ...]
    sections: Mapping[str, str]
    """Section of the configuration → parameter of the function."""
    values: tuple[str, ...] = ()
    more: Mapping[str, Callable[[Call, Run], Any]] = field(default_factory=dict)
    """Parameter → what only this room can give: files behind a URI, a model of the registry, a place of curves."""
    out: tuple[str, ...] = ("out",)
    after: str = ""
    """`module:function` of (manifest, call, run), for what is not a file: instead of the usual run view."""


def load(name: str) -> Callable[..., Any]:
    """A function by `module:function`."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _files(call: Call, _: Run) -> Any:
    return uris.files(call.values["source"])


def _cache(call: Call, _: Run) -> Path | None:
    return call.values.get("cache") or uris.cache(call.values["domain"], call.values["source"])


def _training(stage: str) -> Step:
    return Step(
        "calrec.launch.retry:finetune",
        ("texts", "tokens", "model"),
        {stage: "stage", "model": "tuning", "launch": "launch"},
        (),
        {
            "name": lambda call, run: stage,
            "domains": lambda call, run: (call.target,) if call.target else (),
            "train": lambda call, run: load("calrec.finetune.step:finetune"),
            "log": lambda call, run: run.metrics,
            "checkpoints": lambda call, run: call.values.get("checkpoints", os.environ.get("CALREC_CHECKPOINTS", "")),
        },
    )


STAGES = ("stage1", "stage2", "refit")
STEPS: Mapping[str, Step] = {
    "ingest": Step(
        "calrec.ingest.step:ingest", (), {"data": "data"}, ("domain", "source"), {"raw": _files, "cache": _cache}
    ),
    "textify": Step("calrec.textify.step:textify", ("data",), {"text": "text", "split": "parts"}),
    "base_model": Step(
        "calrec.model.step:base_model", ("texts",), {"model": "model"},
        more={"weights": lambda call, run: uris.local(call.sections["model"].name)}, out=("out", "tokens"),
    ),
    **{stage: _training(stage) for stage in STAGES},
    "generate": Step(
        "calrec.generate.step:generate", ("texts", "tokens", "model"), {"generate": "config"}, ("domain",)
    ),
    "retrieve": Step(
        "calrec.retrieve.step:retrieve", ("texts", "generations", "model", "tokens", "learner"), {"retrieve": "config"}
    ),
    "index": Step(
        "calrec.retrieve.stored:build", ("texts", "tokens", "model", "learner"),
        {"retrieve": "config", "generate": "sampling"}, ("domain", "new_items"),
    ),
    "champion": Step(
        "calrec.recommend.champion:rank", ("texts", "generations"), {"retrieve": "retrieve"}, ("champion",),
        {"folder": lambda call, run: registry.download_version(call.values["champion"])},
    ),
    "evaluate": Step(
        "calrec.evaluate.step:evaluate",
        ("texts", "generations", "recommendations", "models", "rankings", "champion"), {"evaluate": "config"},
        after="calrec.evaluate.headline:publish",
    ),
    "promote": Step(
        "calrec.promote.step:promote", ("evaluation", "champion"), {"gate": "rule"},
        after="calrec.promote.register:register",
    ),
}  # fmt: skip
"""The steps of a training in their order; `watch` and `recommend` stand beside it."""


def run(
    name: str,
    out: Out,
    inputs: Mapping[str, Any],
    sections: Mapping[str, Any],
    *,
    view: Mapping[str, Any] | None = None,
    **values: Any,
) -> Any:
    """Run a step inside its run in MLflow, and record what it made.

    Args:
        name: of STEPS.
        out: the folder to make; several for a step that makes several.
        inputs: see Call; so are the others.
        sections: those that the step takes; others are left alone.
        view: KFP's artifacts of the run view.
        values: plain values, such as `domain`, the category.

    Returns:
        the manifest of the (first) folder; None in a process of torchrun that leaves it to the first.
    """
    step, folders = STEPS[name], out if isinstance(out, tuple) else (out,)
    call = Call(inputs, sections, values, folders[0], view or {})
    given = {parameter: sections[section] for section, parameter in step.sections.items()}
    given |= {parameter: value for parameter, value in inputs.items() if parameter in step.inputs}
    given |= {parameter: value for parameter, value in values.items() if parameter in step.values}
    given |= dict(zip(step.out, folders, strict=True))
    with runs.step(name, call.target) as tracked:
        given |= {parameter: find(call, tracked) for parameter, find in step.more.items()}
        made = load(step.function)(**given)
        manifests: tuple[Manifest | None, ...] = made if isinstance(made, tuple) else (made,)
        for manifest, folder in zip(manifests, folders, strict=True):
            metadata = tracked.record(manifest, folder)
            if view and manifest is not None:
                view[step.out[folders.index(folder)]].metadata.update(metadata)
        if step.after:
            load(step.after)(manifests[0], call, tracked)
        elif view:
            _show(manifests, folders, view)
    return manifests[0]


def _show(manifests: tuple[Manifest | None, ...], folders: tuple[Path, ...], view: Mapping[str, Any]) -> None:
    for manifest, folder in zip(manifests, folders, strict=True):
        last = folder == folders[-1]
        kfp_view.fill(manifest, folder, view["metrics"], view["summary"], view.get("report") if last else None)
