"""KFP face of the base-model step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def base_model(
    texts: dsl.Input[dsl.Dataset],
    model: dict,
    base: dsl.Output[dsl.Model],
    tokens: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> None:
    """A name, a folder, a URI or "scratch" → the base model, and the token ids of every item text.

    Args:
        texts: output of the textify step.
        model: the model section of the configuration.
        base: the model in Hugging Face format.
        tokens: the token cache.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
        report: the same of the token cache as a page, with charts.
    """
    from calrec.launch import pod

    pod.run(
        "base_model", out=base, tokens=tokens, inputs={"texts": texts}, sections={"model": model},
        metrics=metrics, summary=summary, view={"report": report},
    )  # fmt: skip
