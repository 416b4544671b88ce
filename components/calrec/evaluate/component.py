"""KFP face of the evaluate step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    texts: dsl.Input[dsl.Dataset],
    generations: dsl.Input[dsl.Dataset],
    recommendations: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    tuned: dsl.Input[dsl.Model],
    joint: dsl.Input[dsl.Model],
    target: str,
    section: dict,
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Rankings → metrics against the baselines, and a report.

    Args:
        texts: output of the textify step.
        generations: output of the generate step.
        recommendations: output of the retrieve step.
        champion: lists of the model in use for the same users, and how far the data moved from its own.
        model: the model that generated, for its learning curves and cost.
        tuned: the model of stage 2, for the same.
        joint: the model of stage 1, for the same.
        target: the category.
        section: the evaluate section of the configuration.
        evaluation: ranks and facts per user, metrics.json, the reports and their figures.
        metrics: the ranking metrics and the drift for the KFP run view.
        report: the report as a page.
        summary: the report as Markdown.
    """
    from calrec.launch import pod

    pod.run(
        "evaluate", out=evaluation, sections={"evaluate": section}, domain=target, metrics=metrics, summary=summary,
        inputs={
            "texts": texts, "generations": generations, "recommendations": recommendations, "champion": champion,
            "models": [joint, tuned, model],
        },
        view={"report": report},
    )  # fmt: skip
