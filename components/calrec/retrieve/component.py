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
    from pathlib import Path

    from calrec.config import RetrieveConfig
    from calrec.config.overrides import from_dict
    from calrec.report import kfp_view
    from calrec.retrieve.step import retrieve
    from calrec.tracking import runs

    with runs.step("retrieve", target) as run:
        done = retrieve(
            Path(texts.path),
            Path(generations.path),
            Path(recommendations.path),
            config=from_dict(RetrieveConfig, section),
            model=Path(model.path),
            tokens=Path(tokens.path),
            learner=Path(learner.path),
        )
        recommendations.metadata.update(run.record(done, recommendations.path))
        kfp_view.fill(done, recommendations.path, metrics, summary)


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
    from pathlib import Path

    from calrec.config import GenerateConfig, RetrieveConfig
    from calrec.config.overrides import from_dict
    from calrec.report import kfp_view
    from calrec.retrieve.stored import build
    from calrec.tracking import runs

    with runs.step("index", target) as run:
        done = build(
            Path(texts.path),
            Path(tokens.path),
            Path(model.path),
            target,
            Path(catalogue.path),
            config=from_dict(RetrieveConfig, section),
            sampling=from_dict(GenerateConfig, sampling),
            learner=Path(learner.path),
        )
        catalogue.metadata.update(run.record(done, catalogue.path))
        kfp_view.fill(done, catalogue.path, metrics, summary)
