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
    from pathlib import Path

    from calrec.config import ModelConfig
    from calrec.config.overrides import from_dict
    from calrec.model.step import base_model
    from calrec.report import kfp_view
    from calrec.storage import uris
    from calrec.tracking import runs

    with runs.step("base_model") as run:
        section = from_dict(ModelConfig, model)
        weights = uris.local(section.name)
        done, of_tokens = base_model(Path(texts.path), Path(base.path), Path(tokens.path), section, weights)
        base.metadata.update(run.record(done, base.path))
        tokens.metadata.update(run.record(of_tokens, tokens.path))
        kfp_view.fill(done, base.path, metrics, summary)
        kfp_view.fill(of_tokens, tokens.path, metrics, summary, report)
