"""The finetune step, used for both stages: a model in, a model out."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import ModelConfig, StageConfig
from calrec.finetune.state import Checkpoints
from calrec.finetune.trainer import Data, Log, no_log, train
from calrec.model import checkpoint
from calrec.model.device import device, use_threads
from calrec.model.loading import load_model, load_users
from calrec.settings import to_dict


def finetune(
    texts: Path,
    tokens: Path,
    model: Path,
    out: Path,
    stage: StageConfig,
    tuning: ModelConfig,
    name: str = "stage1",
    domains: Sequence[str] = (),
    log: Log = no_log,
) -> Manifest:
    """Train `model` on the training part of some categories and write the best validated weights.

    Args:
        texts: folder of the textify step.
        tokens: token cache of the base-model step.
        model: model folder to start from: the base model, or the model of stage 1.
        out: the model folder to make; a checkpoint lies beside it until the step is done.
        stage: loss and schedule; 0 steps pass the model through.
        tuning: full or LoRA, from the model section.
        name: "stage1" or "stage2", for progress lines and the manifest.
        domains: categories to train on; empty means `stage.domains`, and if that is empty too, all.
        log: called with (step, metrics).

    Raises:
        ValueError: unknown category, too few users, a model and a token cache that do not belong together.
        FloatingPointError: non-finite loss.
    """
    threads = use_threads(stage.threads)
    domains = tuple(domains) or stage.domains
    users = load_users(texts, domains)
    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    of_texts = artifacts.read_manifest(texts, "texts")
    groups = artifacts.read_table(texts, "items.parquet", "texts")["group"].to_numpy()
    label = f"{name} {'+'.join(domains)}" if domains else name
    config = {"stage": name, "domains": list(domains), name: to_dict(stage), "model": to_dict(tuning)}
    inputs = {"texts": of_texts.digest, "model": of_model.digest}
    counts: dict[str, Any] = {"steps": 0, "users": len(users), "threads": threads}
    checkpoints = Checkpoints(Path(out).with_name(Path(out).name + ".checkpoint"), _fingerprint(config, inputs))
    if stage.steps:
        network = trainable(network.to(device()), tuning)
        progress = train(network, Data(users, cache, groups), stage, checkpoints, label, log)
        network = merged(network).to("cpu")
        counts |= {"steps": progress.step, "best_step": progress.best_step}
        counts |= {"best_valid_nig": progress.best_nig} if stage.valid_every else {}
    else:
        print(f"{label}: 0 steps, the model passes through", flush=True)
    with artifacts.writing(Path(out)) as folder:
        checkpoint.save(network, tokenizer, folder)
        manifest = artifacts.finish(folder, Manifest("model", config=config, counts=counts, inputs=inputs))
    checkpoints.remove()
    return manifest


def _fingerprint(config: dict[str, Any], inputs: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([config, inputs], sort_keys=True).encode()).hexdigest()


def trainable(network: Any, tuning: ModelConfig) -> Any:
    """The network as it is (full), or with low-rank adapters on every linear layer and all else frozen (lora)."""
    if tuning.tuning == "full":
        return network.requires_grad_(True)
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(tuning.seed)
    adapters = LoraConfig(
        r=tuning.lora_rank, lora_alpha=tuning.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(network, adapters)


def merged(network: Any) -> Any:
    """The plain network again, adapters added into its weights."""
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
