"""KFP face of the generate step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def generate(
    texts: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    target: str,
    section: dict,
    generations: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """A model and histories → sampled texts of likely next items.

    Args:
        texts: output of the textify step.
        tokens: token cache of the base-model step.
        model: the model of stage 2.
        target: the category.
        section: the generate section of the configuration.
        generations: distinct texts per user, with log-probability and count.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
    """
    from calrec.launch import pod

    pod.run(
        "generate", out=generations, inputs={"texts": texts, "tokens": tokens, "model": model},
        sections={"generate": section}, domain=target, metrics=metrics, summary=summary,
    )  # fmt: skip
