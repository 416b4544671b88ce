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
    from pathlib import Path

    from calrec.config import SplitConfig, TextConfig
    from calrec.config.overrides import from_dict
    from calrec.report import kfp_view
    from calrec.textify.step import textify
    from calrec.tracking import runs

    with runs.step("textify") as run:
        folders = [Path(one.path) for one in data]
        done = textify(folders, Path(texts.path), from_dict(TextConfig, text), from_dict(SplitConfig, split))
        texts.metadata.update(run.record(done, texts.path))
        kfp_view.fill(done, texts.path, metrics, summary, report)
