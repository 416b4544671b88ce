"""The finetune step, used for both stages: a model in, a model out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calrec import artifacts
from calrec.artifacts import Manifest, output
from calrec.config import ComputeConfig, ModelConfig, StageConfig
from calrec.config.overrides import to_dict
from calrec.finetune import adapters, arithmetic, attention, ranks, telemetry, towers
from calrec.finetune.checkpoints import Checkpoints
from calrec.finetune.order import trainable
from calrec.finetune.ranks import Ranks
from calrec.finetune.telemetry import Log, Report
from calrec.finetune.towers import Towers
from calrec.finetune.trainer import PRECISIONS, Data, Trainer
from calrec.finetune.tuning import add_adapters, merge_adapters
from calrec.model import checkpoint
from calrec.model.device import fast_bf16, keep_memory, use_threads
from calrec.model.loading import load_model, load_users, saw_validation
from calrec.model.origin import origin_of
from calrec.storage.files import Remote


def no_log(step: int, metrics: dict[str, float]) -> None:
    """Track nothing."""


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
    remote: Remote | None = None,
    sharding: str = "ddp",
) -> Manifest | None:
    """Train `model` on the training part of some categories and write the best validated weights.

    Under torchrun (WORLD_SIZE in the environment) it is one of several processes that share each batch.

    Args:
        texts: folder of the textify step.
        tokens: token cache of the base-model step.
        model: model folder to start from: the base model, or the model of the stage before.
        out: the model folder to make; checkpoints lie beside it until the step is done.
        stage: loss and schedule; 0 steps pass the model through.
        tuning: full or LoRA, from the model section; adapters are merged, and kept as one of the base too.
        name: "stage1", "stage2" or "refit", for progress lines and the manifest.
        domains: categories to train on; empty means `stage.domains`, and if that is empty too, all.
        log: called with (step, metrics).
        remote: folder elsewhere that keeps a copy of the checkpoints, and from which the stage goes on.
        sharding: ddp or fsdp, with several processes.

    Returns:
        the manifest; None on ranks other than 0, which write nothing.

    Raises:
        ValueError: unknown category, too few users, a model and a token cache that do not belong together, a
            checkpoint of another run, more ranks than users in a batch.
        FloatingPointError: non-finite loss.
        OSError: a checkpoint cannot be written.
        SystemExit: 75 after SIGTERM; the same call goes on from the checkpoint.
    """
    threads = use_threads(stage.threads)
    domains = tuple(domains) or stage.domains
    label = f"{name} {'+'.join(domains)}" if domains else name
    users = load_users(texts, domains).trained_until(stage.until)
    network, tokenizer, cache, of_model = load_model(model, tokens, texts)
    keep_memory(network)
    of_texts = artifacts.read_manifest(texts, "texts")
    data = Data(users, cache, artifacts.read_table(texts, "items.parquet", "texts")["group"].to_numpy())
    config = {"stage": name, "domains": list(domains), name: to_dict(stage), "model": to_dict(tuning)}
    if (stage.steps and stage.until == "test") or saw_validation(of_model):
        config["until"] = "test"
    inputs = {"texts": of_texts.digest, "model": of_model.digest}
    counts: dict[str, Any] = {"steps": 0, "users": len(users), "threads": threads}
    checkpoints = Checkpoints(
        Path(out).with_name(Path(out).name + ".checkpoint"),
        {**config, "inputs": inputs},
        stage.keep_checkpoints,
        remote,
    )
    base, own = origin_of(of_model), None
    with ranks.process_group() as (among, device), _alone(among, out, texts, tokens, model):
        report = Report(label, stage.steps, log, 0, quiet=not among.main)
        if stage.steps:
            _check(data, stage, among, network)
            network = add_adapters(network.to(device), tuning)
            weights, trained = _train(
                network, data, stage, checkpoints if among.main else None, report, among, sharding
            )
            counts |= trained
            if among.main:
                if among.size > 1 and sharding == "fsdp":  # what is spread over ranks cannot be saved as a model
                    network = add_adapters(checkpoint.load(model)[0], tuning)
                ranks.fill(network, weights)
                own = adapters.extract_adapter(network)
                network = merge_adapters(network).to("cpu")
        else:
            report.line("0 steps, the model passes through")
        if not among.main:
            return None
        checkpoints.wait()  # what its uploads have to say belongs into the manifest
        with artifacts.writing(Path(out)) as folder:
            checkpoint.save(network, tokenizer, folder)
            now = base.after(tuning.tuning) if stage.steps else base
            why = adapters.keep(folder, model, base, now, own)
            notes = (*checkpoints.notes, *([why] if why and tuning.tuning == "lora" else []))
            artifacts.write_record(folder, report.record.cost, report.record.curves)
            config["base"] = asdict(now)  # the identity of checkpoints has it by its inputs
            manifest = artifacts.finish(folder, Manifest("model", config, counts, notes=notes, inputs=inputs))
    checkpoints.remove()
    return manifest


def _alone(among: Ranks, out: Path, *inputs: Path) -> AbstractContextManager[Any]:
    """The model's folder, and the checkpoints beside it, are for one process at a time: for the first rank."""
    return output.claim(out, "model", inputs) if among.main else nullcontext()


def _train(
    network: Any,
    data: Data,
    stage: StageConfig,
    checkpoints: Checkpoints | None,
    report: Report,
    among: Ranks,
    sharding: str,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained weights, and what the manifest counts of them."""
    torch.manual_seed(stage.seed + among.rank)  # dropout; ranks draw apart
    found = checkpoints.load() if checkpoints else None
    dtype = precision(stage, ranks.device_of(network), among, found[1].precision if found else "")
    kernel = reading(network, stage, dtype, report.line)
    if stage.gradient_checkpointing:
        towers.recompute(network)
    hooks = towers.drop(network, stage.dropout) if stage.dropout else []
    if stage.compile:
        for layer in towers.layers(network):
            layer.compile(dynamic=True)
    spread = ranks.distribute(towers.core(network), towers.layers(network), among, sharding, dtype)
    reader = Towers(network, spread, kernel, dtype)
    report.peak = telemetry.peak_flops(reader.device, dtype) * among.size
    try:
        trainer = Trainer(network, reader, data, stage, checkpoints, report, among, found)
        if trainer.progress.step == 0:
            for line in arithmetic.arithmetic(trainer):
                report.line(line)
        weights = trainer.train()
        report.count()
    finally:
        report.close()
        reader.close()
        for hook in hooks:
            hook.remove()
    done = trainer.progress
    counts: dict[str, Any] = {"steps": done.step, "attention": kernel, "precision": done.precision}
    counts |= {"ranks": among.size}
    if stage.valid_every and trainer.held_out:
        score = done.best_score if stage.valid_metric == "nig" else -done.best_score
        report.line(f"best validation {stage.valid_metric} {score:.4f} at step {done.best_step}")
        counts |= {"best_step": done.best_step, f"best_valid_{stage.valid_metric}": score}
    return weights, counts


def precision(compute: ComputeConfig, device: torch.device, among: Ranks, before: str = "") -> torch.dtype:
    """Of matrix products; `auto` is what the stage began with, `before`, or else what rank 0's machine is made for."""
    asked = before if compute.precision == "auto" else compute.precision
    return PRECISIONS[among.share(asked or ("bf16" if fast_bf16(device) else "fp32"))]


def reading(network: Any, compute: ComputeConfig, dtype: torch.dtype, say: Callable[[str], None]) -> str:
    """How the network's packed rows attend, or "padded" when it cannot be packed, which is said.

    Raises:
        ValueError: the kernel that `attention` names does not work for this network on this machine; the network
            is no causal one.
    """
    name = type(towers.core(network)).__name__
    if towers.looks_ahead(network):
        raise ValueError(
            f"{name} lets a token see those after it, so it would read its targets; give a causal LM (some, such as "
            "BERT, become one by is_decoder = true in their config.json)"
        )
    if compute.attention == "padded":
        return "padded"
    auto = compute.attention == "auto"
    why = ""
    for kernel in attention.candidates(ranks.device_of(network), dtype) if auto else [compute.attention]:
        found = towers.suits(network, kernel, dtype)
        if not found:
            return kernel
        why = f"{why}; {kernel}: {found}".lstrip("; ")
    if not auto:
        raise ValueError(f"attention = {compute.attention} does not work for {name} here ({why}); use auto")
    say(f"{name} cannot be packed ({why}); training goes on padded, which is slower")
    return "padded"


def _check(data: Data, stage: StageConfig, among: Ranks, network: Any) -> None:
    """Refuse what cannot be trained."""
    able, size = int(trainable(data.users).sum()), stage.batch_size
    if able < size:
        raise ValueError(f"{able} users can train, fewer than batch_size = {size}; lower batch_size or add data")
    if size % among.size:
        raise ValueError(
            f"batch_size = {size} cannot be shared by {among.size} processes; make it a multiple, such as "
            f"{-(-size // among.size) * among.size}, or lower launch.processes"
        )
    if stage.negatives == "micro" and size == among.size:
        raise ValueError(
            f"negatives = micro with batch_size = {size} on {among.size} processes leaves each user alone: both "
            "contrastive losses are identically 0; raise batch_size or use negatives = batch"
        )
    room = int(getattr(network.config, "max_position_embeddings", 0) or 0)
    longest = data.cache.max_tokens + int(data.cache.units.lengths().max())
    if 0 < room < longest:
        raise ValueError(
            f"history and target may take {longest} tokens, but the model has {room} positions; run textify and the "
            f"base-model step again with a lower text.max_tokens"
        )
