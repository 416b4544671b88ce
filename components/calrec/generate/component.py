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
    from pathlib import Path

    from calrec.config import GenerateConfig
    from calrec.config.overrides import from_dict
    from calrec.generate.step import generate
    from calrec.report import kfp_view
    from calrec.tracking import runs

    with runs.step("generate", target) as run:
        done = generate(
            Path(texts.path),
            Path(tokens.path),
            Path(model.path),
            Path(generations.path),
            domain=target,
            config=from_dict(GenerateConfig, section),
        )
        generations.metadata.update(run.record(done, generations.path))
        kfp_view.fill(done, generations.path, metrics, summary)
