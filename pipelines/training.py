"""The training pipeline: look at what is new, then train, unless only new data are wanted and there are none.

What is trained is a pipeline of its own, `models`, which a local run executes directly.
"""

from kfp import dsl

from calrec.watch.component import watch
from calrec.watch.step import TRAIN
from pipelines import pods
from pipelines.models import models


@dsl.pipeline(name="calrec-training", display_name="CALRec training")
def training(
    sources: list,
    targets: list,
    only_new: bool,
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
) -> None:
    """CALRec: two-stage contrastive fine-tuning of a causal LM for sequential recommendation.

    Args:
        sources: categories as {domain, uri, snapshot}; an empty snapshot is found out by each run, so that a schedule
            trains on what lies there then.
        targets: categories to fine-tune for in stage 2; each must be the domain of a source.
        only_new: end early when the newest models were made from the same data, settings and code; for schedules.
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
        gate: what a model must show to become the champion.
    """
    seen = pods.data(
        watch(
            sources=sources,
            targets=targets,
            only_new=only_new,
            data=data,
            split=split,
            text=text,
            model=model,
            stage1=stage1,
            stage2=stage2,
            refit=refit,
            generate=generate,
            retrieve=retrieve,
        ),
        "Watch",
        effects=True,
    )
    with dsl.If(seen.outputs["Output"] == TRAIN, name="new"):
        models(
            sources=seen.outputs["sources"],
            targets=targets,
            state=seen.outputs["state"],
            champions=seen.outputs["champions"],
            data=data,
            split=split,
            text=text,
            model=model,
            stage1=stage1,
            stage2=stage2,
            refit=refit,
            launch=launch,
            generate=generate,
            retrieve=retrieve,
            evaluate=evaluate,
            gate=gate,
        ).set_display_name("Models")
