"""Which weights of a network are trained: all of them, or low-rank adapters that are merged when the stage ends."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from calrec.config import ModelConfig
from calrec.config.checks import check


def add_adapters(network: Any, tuning: ModelConfig) -> Any:
    """The network with every weight trainable (full), or frozen below LoRA or DoRA adapters (lora).

    Raises:
        ValueError: a target that names no linear layer, or the output layer where it shares the embedding's weights.
    """
    if tuning.tuning == "full":
        return network.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    layers = _linear_layers(network)
    _check_targets(network, layers, tuning.lora_targets)
    torch.manual_seed(tuning.seed)
    config = LoraConfig(
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        use_dora=tuning.dora,
        target_modules=list(tuning.lora_targets) or "all-linear",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),  # GPT-2 stores its matrices so
        task_type="CAUSAL_LM",
    )
    return get_peft_model(network, config)


def merge_adapters(network: Any) -> Any:
    """The plain network again, adapters added into its weights; a network without adapters as it is.

    Raises:
        ValueError: a merged weight is not finite.
    """
    return network.merge_and_unload(safe_merge=True) if hasattr(network, "merge_and_unload") else network


def _linear_layers(network: Any) -> dict[str, Any]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, (torch.nn.Linear, Conv1D))}


def _check_targets(network: Any, layers: dict[str, Any], targets: Sequence[str]) -> None:
    head = network.get_output_embeddings()
    tied = head is not None and head.weight is network.get_input_embeddings().weight
    free = {name: layer for name, layer in layers.items() if not (tied and layer is head)}
    known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in free}))
    for target in targets:
        check(
            not _matches(target, layers) or bool(_matches(target, free)),
            f"model.lora_targets: {target!r} shares its weights with the input embedding, so merging an adapter would "
            f"change both; leave it out, the others are: {known}",
        )
        check(
            bool(_matches(target, layers)),
            f"model.lora_targets: {target!r} is no linear layer of {type(network).__name__}; those are: {known}",
        )


def _matches(target: str, layers: dict[str, Any]) -> list[str]:
    """Layers that a target means: the end of their name, from a dot on."""
    return [name for name in layers if name == target or name.endswith(f".{target}")]
