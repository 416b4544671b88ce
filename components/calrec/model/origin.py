"""What a model was made from: its base, and how it was tuned since, which each stage's manifest passes on."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.model.checkpoint import ADAPTER
from calrec.model.inspection import ADAPTER_CONFIG


@dataclass(frozen=True)
class Origin:
    """The entry `base` of a stage's manifest."""

    name: str
    """The base model, as in `model.name`."""
    digest: str
    """Content hash of the folder of the base-model step; empty when a folder of before does not say it."""
    tuning: str
    """What was trained since: none (it is the base itself), lora (adapters alone), or full."""

    @property
    def address(self) -> str:
        """Where the base is found again; one from scratch is told by its content, and found by nobody."""
        return f"scratch-{self.digest}" if self.name == "scratch" else self.name

    def after(self, tuning: str) -> "Origin":
        """Of a model that a stage made of this one: adapters on whole new weights stay whole new weights."""
        return replace(self, tuning="full" if "full" in (self.tuning, tuning) else tuning)


def origin_of(of_model: Manifest) -> Origin:
    """The origin of a model of the base-model step or of a stage."""
    config = of_model.config
    if "base" in config:
        return Origin(**config["base"])
    settings = config.get("model", {})
    if config.get("stage") == "base":
        return Origin(settings["name"], of_model.digest, "none")
    return Origin(settings.get("name", ""), "", settings.get("tuning", "full"))


def base_of(folder: Path) -> dict[str, Any]:
    """What a person who meets a model asks of it.

    Returns:
        base_model, base_digest and tuning, as in :class:`Origin`; adapter: whether the folder also has what was trained
        as an adapter of the base; parameters: how many the model has.
    """
    from safetensors import safe_open

    folder = Path(folder)
    origin = origin_of(artifacts.read_manifest(folder, "model"))
    parameters = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            parameters += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return {
        "base_model": origin.name,
        "base_digest": origin.digest,
        "tuning": origin.tuning,
        "adapter": (folder / ADAPTER / ADAPTER_CONFIG).is_file(),
        "parameters": parameters,
    }
