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
        uri: sample:DEPARTMENT, or folders, files and globs, local, gs:// or https://, separated by commas.
        snapshot: version of the data behind the URI; only there to be part of the cache key.
        data: the data section of the configuration.
        interactions: the cleaned log.
        metrics: counts for the KFP run view.
        summary: the same in words, with warnings.
        report: the same as a page, with charts.
    """
    from pathlib import Path

    from calrec.config import DataConfig
    from calrec.config.overrides import from_dict
    from calrec.ingest.step import ingest
    from calrec.report import kfp_view
    from calrec.storage import uris
    from calrec.tracking import runs

    with runs.step("ingest", domain) as run:
        done = ingest(
            domain,
            uri,
            Path(interactions.path),
            from_dict(DataConfig, data),
            uris.files(uri),
            uris.cache(domain, uri),
        )
        interactions.metadata.update(run.record(done, interactions.path))
        kfp_view.fill(done, interactions.path, metrics, summary, report)
