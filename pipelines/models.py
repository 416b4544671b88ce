"""What a training makes: logs of several categories → one model, ranked items and a report per target.

Each loop has a body of one task; that of the targets is a pipeline of its own.
"""

from typing import NamedTuple

from kfp import dsl

from calrec.evaluate.component import evaluate
from calrec.finetune.component import finetune
from calrec.generate.component import generate
from calrec.ingest.component import ingest
from calrec.model.component import base_model
from calrec.promote.component import promote
from calrec.recommend.component import champion
from calrec.retrieve.component import index, retrieve
from calrec.textify.component import textify
from pipelines import pods


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
    state: str,
    champions: dict,
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
    tuned = pods.train(
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
    final = pods.train(
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
    stored = pods.infer(
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
    texts_of = pods.infer(
        generate(texts=texts, tokens=tokens, model=final.outputs["tuned"], target=target, section=generate_), "Generate"
    )
    ranked = pods.infer(
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
    rival = pods.infer(
        champion(
            texts=texts,
            generations=texts_of.outputs["generations"],
            target=target,
            champions=champions,
            section=retrieve_,
        ),
        "Champion",
    )
    judged = pods.data(
        evaluate(
            texts=texts,
            generations=texts_of.outputs["generations"],
            recommendations=ranked.outputs["recommendations"],
            champion=rival.outputs["rankings"],
            model=final.outputs["tuned"],
            tuned=tuned.outputs["tuned"],
            joint=joint,
            target=target,
            section=evaluate_,
        ),
        "Evaluate",
        effects=True,
    )
    pods.infer(
        promote(
            evaluation=judged.outputs["evaluation"],
            model=final.outputs["tuned"],
            index=stored.outputs["catalogue"],
            target=target,
            state=state,
            section=gate,
            generate=generate_,
            retrieve=retrieve_,
        ),
        "Promote",
        effects=True,
    )
    return TargetOutputs(
        model=final.outputs["tuned"],
        index=stored.outputs["catalogue"],
        recommendations=ranked.outputs["recommendations"],
        evaluation=judged.outputs["evaluation"],
    )


class ModelsOutputs(NamedTuple):
    """What all targets share, and one entry per target, in the order of `targets`."""

    texts: dsl.Dataset
    tokens: dsl.Dataset
    models: list[dsl.Model]
    indexes: list[dsl.Dataset]
    recommendations: list[dsl.Dataset]
    evaluations: list[dsl.Dataset]


@dsl.pipeline(name="calrec-models", display_name="Models")
def models(
    sources: list,
    targets: list,
    state: str,
    champions: dict,
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
) -> ModelsOutputs:
    """Logs → texts → stage 1 on all categories → each target; the parameters are those of `training`, and what it saw.

    Returns:
        the texts and the token cache; per target the model, its index, the recommendations and the evaluation.
    """
    with dsl.ParallelFor(sources) as source:
        task = ingest(domain=source.domain, uri=source.uri, snapshot=source.snapshot, data=data)
        log = pods.data(task, "Ingest")
    texts = pods.data(textify(data=dsl.Collected(log.outputs["interactions"]), text=text, split=split), "Textify")
    base = pods.data(base_model(texts=texts.outputs["texts"], model=model), "Base model")
    joint = pods.train(
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
            state=state,
            champions=champions,
            model=model,
            stage2=stage2,
            refit=refit,
            launch=launch,
            generate_=generate,
            retrieve_=retrieve,
            evaluate_=evaluate,
            gate=gate,
        ).set_display_name("Target")
    return ModelsOutputs(
        texts=texts.outputs["texts"],
        tokens=base.outputs["tokens"],
        models=dsl.Collected(result.outputs["model"]),
        indexes=dsl.Collected(result.outputs["index"]),
        recommendations=dsl.Collected(result.outputs["recommendations"]),
        evaluations=dsl.Collected(result.outputs["evaluation"]),
    )
