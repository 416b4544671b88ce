"""`calrec study`: the rows of RESULTS.md on public data, one step at a time (calrec.launch.folders).

A study can be stopped anywhere, goes on with the same command, and rows share what they have in common. A stopped
training goes on from its checkpoint. The root may lie on a volume that several machines use in turn.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calrec.api.run import Training, here
from calrec.config import Config
from calrec.config.checks import one_of
from calrec.config.overrides import override
from calrec.config.runs import ABLATIONS, apply_ablations, get_run
from calrec.evaluate.results import METHOD
from calrec.launch.folders import Folders
from calrec.report import tables
from calrec.watch import current


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
        config = apply_ablations(get_run(ROWS[row].run), ROWS[row].ablations)
        one_of("set", target, [source.domain for source in config.sources])
        sources = tuple(
            dataclasses.replace(source, uri=f"{self.data.rstrip('/')}/{source.domain}")
            for source in config.sources
            if not ROWS[row].alone or source.domain == target
        )
        config = dataclasses.replace(config, sources=sources, targets=(target,))
        config = override(config, (*ROWS[row].of_set.get(target, ()), *self.settings)).whole()
        here(config)
        return config

    def run(self, row: str, target: str) -> Path:
        """Every step of a row on a set that is not there yet; returns the folder of the evaluation."""
        config = self.configuration(row, target)
        print(f"study: {row} on {target}", flush=True)
        config = dataclasses.replace(config, sources=tuple(current.snapshots([vars(one) for one in config.sources])))
        training = Training(config, Folders(self.root))
        return training.evaluation(target, training.rank(target), rankings=self._others(target))

    def _others(self, target: str) -> dict[str, Path]:
        """Rankings by other recommenders for a set, by method."""
        if self.rankings is None:
            return {}
        found = {path.name.split(".")[1]: path for path in sorted(self.rankings.glob(f"{target}.*.parquet"))}
        if not found:
            print(f"study: {self.rankings} holds no {target}.METHOD.parquet, so no other recommender is compared")
        return found


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
            f"## {target}\n\n{tables.markdown(['method', 'users', *metrics], lines)}\n\n"
            f"`calrec study {given} --target {target} {again}`\n"
        )
    return "\n".join(parts)


def _line(label: str, found: Mapping[str, Any], method: str, metrics: Sequence[str]) -> list[object]:
    """Cells of a row: means, with half of their 95 % intervals."""
    figures = [found["methods"][method]["figures"][name] for name in metrics]
    return [label, found["users"], *(f"{f['mean']:.4f} ± {(f['high'] - f['low']) / 2:.4f}" for f in figures)]
