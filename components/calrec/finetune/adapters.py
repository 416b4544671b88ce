"""Adapters kept as such beside the merged weights: all stages since the base model as one adapter, in PEFT's format.

Merging adds s·B·A to a weight, with s = lora_alpha / r. Two stages add s₁·B₁·A₁ + s₂·B₂·A₂ = s₂·[s₁/s₂·B₁ B₂]·[A₁; A₂],
one adapter of rank r₁ + r₂. DoRA does not only add: it scales by the length of the sum, so it is kept when it is alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from calrec.model.checkpoint import ADAPTER, ADAPTER_PREFIX
from calrec.model.inspection import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from calrec.model.origin import Origin

_A, _B = ".lora_A.weight", ".lora_B.weight"
_LOST = {
    "full": "a stage before trained every weight",
    "lora": "adapters of the stages before were not kept, or cannot be one",
}


@dataclass(frozen=True)
class Adapter:
    """What low-rank adapters add to the weights of a base model."""

    config: Mapping[str, Any]
    """As in adapter_config.json."""
    weights: Mapping[str, Tensor]
    """As in adapter_model.safetensors."""

    @property
    def scale(self) -> float:
        """Factor of B·A, the same for every layer."""
        return float(self.config["lora_alpha"] / self.config["r"])

    @property
    def layers(self) -> set[str]:
        """Names of what is adapted, as they begin the names of weights."""
        return {name.removesuffix(_A) for name in self.weights if name.endswith(_A)}


def extract_adapter(network: Any) -> Adapter | None:
    """The adapters of a network that is not merged yet; None of a plain one."""
    if not hasattr(network, "peft_config"):
        return None
    from peft import get_peft_model_state_dict

    config = network.peft_config["default"].to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    weights = get_peft_model_state_dict(network, save_embedding_layers=False)
    return Adapter(plain, {name: weight.detach().cpu().contiguous() for name, weight in weights.items()})


def keep(folder: Path, start: Path, before: Origin, now: Origin, own: Adapter | None) -> str:
    """Write into a stage's model folder what all stages since the base are as one adapter; says why there is none.

    Args:
        folder: of the model that the stage has made.
        start: of the model that it started from.
        before: origin of that one.
        now: origin of the new one.
        own: what the stage has trained as adapters, if anything.
    """
    first = read_adapter(start)
    if before.tuning != "none" and first is None:
        return f"no adapter of the base model is kept: {_LOST[before.tuning]}"
    if now.tuning == "full":
        return ""
    if first and own and (first.config["use_dora"] or own.config["use_dora"]):
        return "no adapter of the base model is kept: DoRA's adapters of two stages cannot be one"
    if adapter := combine_adapters(first, own) if first and own else first or own:
        write(adapter, folder, before.address)
    return ""


def combine_adapters(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that changes the base as both do, one after the other; a layer of one alone keeps its rank."""
    scale = second.scale or 1.0
    weights: dict[str, Tensor] = {}
    for layer in sorted(first.layers | second.layers):
        both = [adapter for adapter in (first, second) if layer in adapter.layers]
        weights[layer + _A] = torch.cat([adapter.weights[layer + _A] for adapter in both])
        weights[layer + _B] = torch.cat([adapter.weights[layer + _B] * (adapter.scale / scale) for adapter in both], 1)
    ranks = {name.removesuffix(_A).removeprefix(ADAPTER_PREFIX): len(w) for name, w in weights.items() if _A in name}
    rank = max(ranks.values())
    lower = {layer: r for layer, r in ranks.items() if r < rank}
    config = {
        **second.config,
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": lower,
        "alpha_pattern": {layer: scale * r for layer, r in lower.items()},
        "target_modules": sorted({*first.config["target_modules"], *second.config["target_modules"]}),
    }
    return Adapter(config, weights)


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter that a model folder keeps."""
    path = Path(folder) / ADAPTER
    if not path.is_dir():
        return None
    return Adapter(json.loads((path / ADAPTER_CONFIG).read_text()), load_file(path / ADAPTER_WEIGHTS))


def write(adapter: Adapter, folder: Path, base: str) -> None:
    """Keep an adapter in a model folder; `base` is the name or folder of the base model."""
    path = folder / ADAPTER
    path.mkdir()
    config = {**adapter.config, "base_model_name_or_path": base, "inference_mode": True}
    (path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file(dict(adapter.weights), path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
