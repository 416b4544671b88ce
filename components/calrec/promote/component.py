"""KFP face of the promote step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    evaluation: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    index: dsl.Input[dsl.Dataset],
    target: str,
    state: str,
    section: dict,
    generate: dict,
    retrieve: dict,
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    reasons: dsl.Output[dsl.Markdown],
    history: dsl.Output[dsl.HTML],
) -> None:
    """Metrics → the gate's decision; the model is registered, and is the champion when it passes.

    Args:
        evaluation: output of the evaluate step.
        model: the model that was evaluated.
        index: its index.
        target: the category.
        state: which data and settings the model is made from, by the watch step.
        section: the gate section of the configuration.
        generate: the generate section, with which the model will recommend.
        retrieve: the retrieve section, for the same.
        decision: the decision with its manifest.
        metrics: whether it passes, and by how much it beats the champion.
        reasons: the decision for a person to read, and what became of the model.
        history: the metrics over the target's versions.
    """
    from calrec.launch import pod

    pod.run(
        "promote", out=decision, inputs={"evaluation": evaluation, "model": model, "index": index},
        sections={"gate": section, "generate": generate, "retrieve": retrieve}, domain=target, state=state,
        metrics=metrics, summary=reasons, view={"history": history},
    )  # fmt: skip
