"""The folders of an evaluation: that they belong together, and with which settings they were made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.config.overrides import from_dict
from calrec.textify.baskets import meaning
from calrec.textify.report import tied_share


@dataclass(frozen=True)
class Inputs:
    """What the manifests say."""

    texts: Manifest
    recommendations: Manifest
    models: tuple[Manifest, ...]
    """Of the model and of those that it was made from, as far as given, in the order of the stages."""

    @property
    def domain(self) -> str:
        """The category."""
        return str(self.recommendations.config["domain"])

    @property
    def split(self) -> str:
        """Which item was held out: test or valid."""
        return from_dict(GenerateConfig, self.recommendations.config["generate"]).split

    @property
    def retrieve(self) -> RetrieveConfig:
        """How the items were ranked."""
        return from_dict(RetrieveConfig, self.recommendations.config["retrieve"])

    @property
    def meaning(self) -> str:
        """What the figures mean where events share their times."""
        share = tied_share(self.texts.counts["by_category"][self.domain], self.split)
        return meaning(self.texts.config["split"]["unit"], share)

    @property
    def settings(self) -> dict[str, Any]:
        """Sections of the configuration that the folders were made with."""
        found = {name: self.texts.config[name] for name in ("text", "split")}
        for manifest in self.models:
            stage = str(manifest.config.get("stage", ""))
            found |= {name: manifest.config[name] for name in (stage, "model") if name in manifest.config}
        return found | {name: self.recommendations.config[name] for name in ("generate", "retrieve")}

    @property
    def data(self) -> dict[str, Any]:
        """Digests of the texts and of the logs behind them, and the sizes of the category."""
        logs = {name.removeprefix("data."): digest for name, digest in self.texts.inputs.items()}
        sizes: Mapping[str, int] = self.texts.counts["by_category"][self.domain]
        return {"texts": self.texts.digest, "logs": logs, **sizes}


def load_inputs(texts: Path, generations: Path, recommendations: Path, folders: Sequence[Path]) -> Inputs:
    """Read the manifests.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step.
        recommendations: folder of the retrieve step.
        folders: models in the order of the stages; the last one generated.

    Raises:
        ValueError: a folder was not made from the one that is given beside it.
    """
    of_texts = artifacts.read_manifest(texts, "texts")
    of_generations = artifacts.read_manifest(generations, "generations")
    ranked = artifacts.read_manifest(recommendations, "recommendations")
    _check(recommendations, ranked, "texts", texts, of_texts)
    _check(recommendations, ranked, "generations", generations, of_generations)
    models: list[Manifest] = []
    made, of = generations, of_generations
    for folder in reversed(folders):
        found = artifacts.read_manifest(folder, "model")
        _check(made, of, "model", folder, found)
        models.insert(0, found)
        made, of = folder, found
    return Inputs(of_texts, ranked, tuple(models))


def _check(made: Path, of: Manifest, name: str, source: Path, of_source: Manifest) -> None:
    if of.inputs.get(name) != of_source.digest:
        raise ValueError(f"{made} was not made from {source}; give the {name} that it was made from, or make it again")
