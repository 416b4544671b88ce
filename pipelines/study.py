"""`python -m pipelines study`: the rows of RESULTS.md on public data, one cached step at a time.

Each step's output lies below the root in a folder named after a hash of its settings and of the content of its inputs,
so a study can be stopped anywhere, goes on with the same command, and rows share what they have in common. A stopped
training goes on from its checkpoint. The root may lie on a volume that several machines use in turn.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import Config, Source
from calrec.config.checks import one_of
from calrec.config.overrides import override, to_dict
from calrec.config.runs import ABLATIONS, ablated, named
from calrec.evaluate.results import METHOD
from calrec.evaluate.step import evaluate
from calrec.finetune.step import finetune as train
from calrec.generate.step import generate
from calrec.ingest.step import ingest
from calrec.launch import launch
from calrec.model.step import base_model
from calrec.report import pages
from calrec.retrieve.step import retrieve
from calrec.storage import uris
from calrec.textify.step import textify
from calrec.tracking import runs


@dataclass(frozen=True)
class Row:
    """A way to train and rank, on any of the sets."""

    run: str
    ablations: tuple[str, ...] = ()
    alone: bool = False
    """Read the target's set alone: nothing is learned from the others, not even the tokenizer."""
    of_set: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings for single sets, as SECTION.KEY=VALUE."""


ROWS: Mapping[str, Row] = {
    "paper": Row("study", of_set={"beauty2014": ("stage2.steps=2000",), "games2018": ("stage2.steps=2000",)}),
    "best": Row(
        "best",
        alone=True,
        of_set={
            "beauty2014": ("stage2.steps=1750", "stage2.dropout=0.3", "refit.steps=175", "refit.dropout=0.3"),
            "games2018": ("stage2.steps=3940", "stage2.dropout=0.3", "refit.steps=394", "refit.dropout=0.3"),
        },
    ),
    **{name: Row("study", (name,)) for name in ABLATIONS if name not in ("train-on-last", "exclude-seen")},
}
"""The two headline rows; and each ablation of `paper` by its name, less those that `paper` is."""


@dataclass(frozen=True)
class Study:
    """Where the data lie and where the steps' outputs go."""

    data: str
    """Folder or URI that holds a folder for each set."""
    root: Path
    rankings: Path | None = None
    """Folder of rankings by other recommenders, named SET.METHOD.parquet."""
    settings: tuple[str, ...] = ()
    """SECTION.KEY=VALUE over those of each row."""

    def configuration(self, row: str, target: str) -> Config:
        """The settings of a row on a set.

        Raises:
            ValueError: no such row or set; settings that do not go together.
        """
        one_of("row", row, list(ROWS))
        config = ablated(named(ROWS[row].run), ROWS[row].ablations)
        one_of("set", target, [source.domain for source in config.sources])
        sources = tuple(
            dataclasses.replace(source, uri=f"{self.data.rstrip('/')}/{source.domain}")
            for source in config.sources
            if not ROWS[row].alone or source.domain == target
        )
        config = dataclasses.replace(config, sources=sources, targets=(target,))
        return override(config, (*ROWS[row].of_set.get(target, ()), *self.settings)).whole()

    def run(self, row: str, target: str) -> Path:
        """Every step of a row on a set that is not there yet; returns the folder of the evaluation."""
        config = self.configuration(row, target)
        print(f"study: {row} on {target}", flush=True)
        logs = {source.domain: self._log(config, source) for source in config.sources}
        texts = self._step(
            "textify", [config.text, config.split], logs,
            lambda out, its: textify(list(its.values()), out, config.text, config.split),
        )  # fmt: skip
        base, tokens = self._base(config, texts)
        given = {"texts": texts, "tokens": tokens}
        models = [base]  # a stage of 0 steps leaves the model as it is, and makes none
        for stage, domain in (("stage1", ""), ("stage2", target), ("refit", target)):
            if getattr(config, stage).steps:
                models.append(self._trained(config, stage, {**given, "model": models[-1]}, domain))
        of_model = {**given, "model": models[-1]}
        learner = {"learner": models[-2]} if config.refit.steps else {}
        generations = self._step(
            "generate", [config.generate, target], of_model,
            lambda out, its: generate(its["texts"], its["tokens"], its["model"], out, target, config.generate),
        )  # fmt: skip
        ranked = self._step(
            "retrieve", [config.retrieve], {**of_model, **learner, "generations": generations},
            lambda out, its: retrieve(
                its["texts"], its["generations"], out, config.retrieve, its["model"], its["tokens"], its.get("learner")
            ),
        )  # fmt: skip
        others = self._others(target)
        return self._step(
            "evaluate", [config.evaluate, {name: artifacts.file_hash(path) for name, path in others.items()}],
            {"texts": texts, "generations": generations, "recommendations": ranked, "model": models[-1]},
            lambda out, its: evaluate(
                its["texts"], its["generations"], its["recommendations"], out, config.evaluate, models, others
            ),
            target,
        )  # fmt: skip

    # --- steps ------------------------------------------------------------------------------------------------------

    def _step(
        self,
        name: str,
        settings: Sequence[Any],
        inputs: Mapping[str, Path],
        make: Callable[[Path, dict[str, Path]], Manifest | None],
        label: str = "",
    ) -> Path:
        """The folder that a step makes of these inputs with these settings; made only when it is not there."""
        values = [_chosen(value) if dataclasses.is_dataclass(value) else value for value in settings]
        digests = {key: artifacts.read_manifest(path).digest for key, path in inputs.items()}
        out = self.root / f"{name}-{artifacts.short_hash([values, digests])}"
        if (out / artifacts.MANIFEST).is_file():
            artifacts.read_manifest(out)
            print(f"study: {name} is in {out}", flush=True)
            return out
        with runs.step(name, label) as run:
            made = make(out, dict(inputs))
            assert made is not None, "the study trains in one process"
            run.record(made, out)
        return out

    def _log(self, config: Config, source: Source) -> Path:
        seen = uris.snapshot(source.uri)
        return self._step(
            "ingest", [config.data, source.domain, seen], {},
            lambda out, _: ingest(source.domain, source.uri, out, config.data, uris.files(source.uri)),
            source.domain,
        )  # fmt: skip

    def _base(self, config: Config, texts: Path) -> tuple[Path, Path]:
        """The base model and the token cache, which is written last and so is the one that is looked for."""

        def make(out: Path, its: dict[str, Path]) -> Manifest:
            return base_model(its["texts"], out.with_name(out.name + ".model"), out, config.model)[1]

        tokens = self._step("tokens", [config.model], {"texts": texts}, make)
        return tokens.with_name(tokens.name + ".model"), tokens

    def _trained(self, config: Config, stage: str, inputs: Mapping[str, Path], target: str) -> Path:
        section = getattr(config, stage)

        def make(out: Path, its: dict[str, Path]) -> Manifest | None:
            return launch.finetune(
                its["texts"], its["tokens"], its["model"], out, stage=section, tuning=config.model, name=stage,
                domains=[target] if target else [], launch=config.launch,
                train=train, log=runs.joined(runs.active()).metrics,
            )  # fmt: skip

        return self._step(stage, [section, config.model, target], inputs, make, target)

    def _others(self, target: str) -> dict[str, Path]:
        """Rankings by other recommenders for a set, by method."""
        if self.rankings is None:
            return {}
        found = {path.name.split(".")[1]: path for path in sorted(self.rankings.glob(f"{target}.*.parquet"))}
        if not found:
            print(f"study: {self.rankings} holds no {target}.METHOD.parquet, so no other recommender is compared")
        return found


def _chosen(section: Any) -> dict[str, Any]:
    """Settings of a section that are not the default ones: a setting that is added later changes no step's hash."""
    defaults = to_dict(type(section)())
    return {name: value for name, value in to_dict(section).items() if value != defaults[name]}


def table(study: Study, evaluations: Mapping[tuple[str, str], Path]) -> str:
    """The rows as Markdown, a table per set: each row's model, then what it is compared with on the first row's users.

    Args:
        study: for the command that makes a table again.
        evaluations: (row, set) → folder of the evaluation.
    """
    parts = []
    for target in dict.fromkeys(target for _, target in evaluations):
        found = {
            row: json.loads((path / "metrics.json").read_text())
            for (row, of), path in evaluations.items()
            if of == target
        }
        first = next(iter(found.values()))
        metrics = list(first["methods"][METHOD]["figures"])
        lines = [_line(row, one, METHOD, metrics) for row, one in found.items()]
        lines += [_line(name, first, name, metrics) for name in first["methods"] if name != METHOD]
        again = " ".join(f"--row {row}" for row in found)
        given = f"--data {study.data}" + (f" --rankings {study.rankings}" if study.rankings else "")
        given += "".join(f" --set {setting}" for setting in study.settings)
        parts.append(
            f"## {target}\n\n{pages.markdown(['method', 'users', *metrics], lines)}\n\n"
            f"`python -m pipelines study {given} --target {target} {again}`\n"
        )
    return "\n".join(parts)


def _line(label: str, found: Mapping[str, Any], method: str, metrics: Sequence[str]) -> list[object]:
    """Cells of a row: means, with half of their 95 % intervals."""
    figures = [found["methods"][method]["figures"][name] for name in metrics]
    return [label, found["users"], *(f"{f['mean']:.4f} ± {(f['high'] - f['low']) / 2:.4f}" for f in figures)]
