"""KFP face of the ingest step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    domain: str,
    uri: str,
    snapshot: str,
    data: dict,
    interactions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Raw log of one category → interactions, items and rejects.

    Args:
        domain: name of the category.
        uri: sample:DEPARTMENT, or folders, files and globs, local, gs://, s3:// or https://, separated by commas.
        snapshot: version of the data behind the URI; only there to be part of the cache key.
        data: the data section of the configuration.
        interactions: the cleaned log.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
        report: the same as a page, with charts.
    """
    from calrec.launch import pod

    pod.run(
        "ingest", out=interactions, inputs={}, sections={"data": data}, domain=domain, source=uri,
        metrics=metrics, summary=summary, view={"report": report},
    )  # fmt: skip
