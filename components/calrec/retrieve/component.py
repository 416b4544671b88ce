"""KFP faces of the retrieve step and of the index."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def retrieve(
    texts: dsl.Input[dsl.Dataset],
    generations: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    learner: dsl.Input[dsl.Model],
    target: str,
    section: dict,
    recommendations: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Generated texts → ranked real items.

    Args:
        texts: output of the textify step.
        generations: output of the generate step.
        tokens: token cache of the base-model step.
        model: the model that generated; read when the section ranks by it.
        learner: the model before its refit, whose validation items learned fusion learns from.
        target: the category.
        section: the retrieve section of the configuration.
        recommendations: the top items of each user.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
    """
    from calrec.launch import pod

    pod.run(
        "retrieve", out=recommendations, sections={"retrieve": section}, domain=target,
        inputs={"texts": texts, "generations": generations, "tokens": tokens, "model": model, "learner": learner},
        metrics=metrics, summary=summary,
    )  # fmt: skip


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def index(
    texts: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    learner: dsl.Input[dsl.Model],
    target: str,
    section: dict,
    sampling: dict,
    catalogue: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Texts and a model → the catalogue that recommendations are looked up in.

    Args:
        texts: output of the textify step.
        tokens: token cache of the base-model step.
        model: the model that recommends.
        learner: the model before its refit, whose validation items learned fusion learns from.
        target: the category.
        section: the retrieve section of the configuration.
        sampling: the generate section, for the users that learned fusion learns from.
        catalogue: the index, as `calrec recommend` takes it.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
    """
    from calrec.launch import pod

    pod.run(
        "index", out=catalogue, sections={"retrieve": section, "generate": sampling}, domain=target,
        inputs={"texts": texts, "tokens": tokens, "model": model, "learner": learner},
        metrics=metrics, summary=summary,
    )  # fmt: skip
