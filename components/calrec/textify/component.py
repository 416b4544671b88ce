"""KFP face of the textify step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def textify(
    data: dsl.Input[list[dsl.Dataset]],
    text: dict,
    split: dict,
    texts: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Cleaned logs of all categories → item texts and split sequences.

    Args:
        data: outputs of the ingest step.
        text: the text section of the configuration.
        split: the split section.
        texts: item texts and sequences.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
        report: the same as a page, with charts.
    """
    from calrec.launch import pod

    pod.run(
        "textify", out=texts, inputs={"data": data}, sections={"text": text, "split": split},
        metrics=metrics, summary=summary, view={"report": report},
    )  # fmt: skip
