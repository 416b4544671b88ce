"""KFP face of the finetune step, used for stage 1, stage 2 and the refit."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(
    texts: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    start: dsl.Input[dsl.Model],
    stage: str,
    section: dict,
    model: dict,
    launch: dict,
    tuned: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    target: str = "",
) -> None:
    """A model → the same model trained with the CALRec loss.

    Args:
        texts: output of the textify step.
        tokens: token cache of the base-model step.
        start: the base model, or the model of the stage before.
        stage: stage1, stage2 or refit.
        section: that section of the configuration.
        model: the model section: full or LoRA.
        launch: the launch section: processes and machines.
        tuned: the trained model.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings and the validations.
        target: the one category to train on; empty means the section's domains.
    """
    from calrec.launch import pod

    pod.run(
        stage, out=tuned, inputs={"texts": texts, "tokens": tokens, "model": start},
        sections={stage: section, "model": model, "launch": launch}, domain=target, metrics=metrics, summary=summary,
    )  # fmt: skip
