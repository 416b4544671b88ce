"""The training pipeline: raw logs of several categories → one model, ranked items and a report per target.

The sub-pipeline per target keeps the body of the loop to one task, and takes what it needs as its own parameters:
inside a loop the compiler loses parameters that only resource settings use.
"""

from typing import NamedTuple

from kfp import dsl, kubernetes

from calrec.config import IMAGE
from calrec.evaluate.component import evaluate
from calrec.finetune.component import finetune
from calrec.generate.component import generate
from calrec.ingest.component import ingest
from calrec.model.component import base_model
from calrec.promote.component import promote
from calrec.retrieve.component import index, retrieve
from calrec.textify.component import textify

# Where the tracking server is, and its credentials, the cache of raw files and the mirror of checkpoints: all optional,
# and none in the YAML.
SETTINGS = "calrec"
_CONFIG = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "CALREC_TRACKING", "CALREC_CACHE", "CALREC_CHECKPOINTS")
RETRIES, BACKOFF = 2, "30s"  # attempts after the first of a training, and the pause before the second
_SECRET = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def in_pod(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """Name the task for the run view, and give its pod the run's id and the settings of the tracking server."""
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(task, SETTINGS, {name: name for name in _CONFIG}, optional=True)
    kubernetes.use_secret_as_env(task, SETTINGS, {name: name for name in _SECRET}, optional=True)
    return task.set_display_name(title)


def trained(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """A training's pod is told its image, which a TrainJob takes too, and is started again when it ends badly.

    Each attempt goes on from the last checkpoint in CALREC_CHECKPOINTS, when the settings have that.
    """
    task.set_env_variable("CALREC_IMAGE", IMAGE)
    task.set_retry(RETRIES, backoff_duration=BACKOFF, backoff_factor=2.0, backoff_max_duration="600s")
    return in_pod(task, title)


class TargetOutputs(NamedTuple):
    """What a target's sub-pipeline gives back."""

    model: dsl.Model
    index: dsl.Dataset
    recommendations: dsl.Dataset
    evaluation: dsl.Dataset


@dsl.pipeline(name="calrec-target", display_name="Target")
def per_target(
    target: str,
    texts: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    joint: dsl.Input[dsl.Model],
    model: dict,
    stage2: dict,
    refit: dict,
    launch: dict,
    generate_: dict,
    retrieve_: dict,
    evaluate_: dict,
    gate: dict,
) -> TargetOutputs:
    """One target: stage 2 → refit → generate → retrieve → evaluate → promote, and the index to recommend with."""
    tuned = trained(
        finetune(
            texts=texts,
            tokens=tokens,
            start=joint,
            stage="stage2",
            section=stage2,
            model=model,
            launch=launch,
            target=target,
        ),
        "Stage 2",
    )
    final = trained(
        finetune(
            texts=texts,
            tokens=tokens,
            start=tuned.outputs["tuned"],
            stage="refit",
            section=refit,
            model=model,
            launch=launch,
            target=target,
        ),
        "Refit",
    )
    stored = in_pod(
        index(
            texts=texts,
            tokens=tokens,
            model=final.outputs["tuned"],
            target=target,
            section=retrieve_,
            sampling=generate_,
            learner=tuned.outputs["tuned"],
        ),
        "Index",
    )
    texts_of = in_pod(
        generate(texts=texts, tokens=tokens, model=final.outputs["tuned"], target=target, section=generate_), "Generate"
    )
    ranked = in_pod(
        retrieve(
            texts=texts,
            generations=texts_of.outputs["generations"],
            tokens=tokens,
            model=final.outputs["tuned"],
            learner=tuned.outputs["tuned"],
            target=target,
            section=retrieve_,
        ),
        "Retrieve",
    )
    judged = in_pod(
        evaluate(
            texts=texts,
            generations=texts_of.outputs["generations"],
            recommendations=ranked.outputs["recommendations"],
            model=final.outputs["tuned"],
            tuned=tuned.outputs["tuned"],
            joint=joint,
            target=target,
            section=evaluate_,
        ),
        "Evaluate",
    ).set_caching_options(False)
    in_pod(
        promote(evaluation=judged.outputs["evaluation"], target=target, section=gate), "Promote"
    ).set_caching_options(False)
    return TargetOutputs(
        model=final.outputs["tuned"],
        index=stored.outputs["catalogue"],
        recommendations=ranked.outputs["recommendations"],
        evaluation=judged.outputs["evaluation"],
    )


class TrainingOutputs(NamedTuple):
    """What all targets share, and one entry per target, in the order of `targets`."""

    texts: dsl.Dataset
    tokens: dsl.Dataset
    models: list[dsl.Model]
    indexes: list[dsl.Dataset]
    recommendations: list[dsl.Dataset]
    evaluations: list[dsl.Dataset]


@dsl.pipeline(name="calrec-training", display_name="CALRec training")
def training(
    sources: list,
    targets: list,
    data: dict,
    split: dict,
    text: dict,
    model: dict,
    stage1: dict,
    stage2: dict,
    refit: dict,
    launch: dict,
    generate: dict,
    retrieve: dict,
    evaluate: dict,
    gate: dict,
) -> TrainingOutputs:
    """CALRec: two-stage contrastive fine-tuning of a causal LM for sequential recommendation.

    Args:
        sources: categories as {domain, uri, snapshot}; a new snapshot reads the log again.
        targets: categories to fine-tune for in stage 2; each must be the domain of a source.
        data: reading and cleaning.
        split: which events are training, validation and test.
        text: item texts and prompts.
        model: base model; full or LoRA.
        stage1: joint fine-tuning over categories.
        stage2: fine-tuning per target.
        refit: how stage 2's model is trained on, its validation items too; 0 steps: it stays as it is.
        launch: processes and machines of a stage.
        generate: sampling of next-item texts.
        retrieve: BM25 and fusion.
        evaluate: metrics and baselines.
        gate: what a model must show.

    Returns:
        the texts and the token cache; per target the model, its index, the recommendations and the evaluation.
    """
    with dsl.ParallelFor(sources) as source:
        log = in_pod(ingest(domain=source.domain, uri=source.uri, snapshot=source.snapshot, data=data), "Ingest")
    texts = in_pod(textify(data=dsl.Collected(log.outputs["interactions"]), text=text, split=split), "Textify")
    base = in_pod(base_model(texts=texts.outputs["texts"], model=model), "Base model")
    joint = trained(
        finetune(
            texts=texts.outputs["texts"],
            tokens=base.outputs["tokens"],
            start=base.outputs["base"],
            stage="stage1",
            section=stage1,
            model=model,
            launch=launch,
        ),
        "Stage 1",
    )
    with dsl.ParallelFor(targets) as target:
        result = per_target(
            target=target,
            texts=texts.outputs["texts"],
            tokens=base.outputs["tokens"],
            joint=joint.outputs["tuned"],
            model=model,
            stage2=stage2,
            refit=refit,
            launch=launch,
            generate_=generate,
            retrieve_=retrieve,
            evaluate_=evaluate,
            gate=gate,
        ).set_display_name("Target")
    return TrainingOutputs(
        texts=texts.outputs["texts"],
        tokens=base.outputs["tokens"],
        models=dsl.Collected(result.outputs["model"]),
        indexes=dsl.Collected(result.outputs["index"]),
        recommendations=dsl.Collected(result.outputs["recommendations"]),
        evaluations=dsl.Collected(result.outputs["evaluation"]),
    )
