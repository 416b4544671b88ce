"""KFP faces of what recommends with a registered model: for all users of a log, and for those of a test."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def champion(
    texts: dsl.Input[dsl.Dataset],
    generations: dsl.Input[dsl.Dataset],
    target: str,
    champions: dict,
    section: dict,
    rankings: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """The model in use → its lists for the users that the new model is judged by.

    Args:
        texts: output of the textify step.
        generations: output of the generate step, which names the users.
        target: the category.
        champions: target → its champion, such as models:/calrec-books/3; a target without one gets no lists. One that
            is not known is asked for again.
        section: the retrieve section of the configuration.
        rankings: the champion's lists, and how far the data moved from its own.
        metrics: counts for the KFP run view.
        summary: the same in words.
    """
    from calrec.launch import pod
    from calrec.watch import current

    pod.run(
        "champion", out=rankings, inputs={"texts": texts, "generations": generations}, sections={"retrieve": section},
        domain=target, champion=current.champion_of(target, champions), metrics=metrics, summary=summary,
    )  # fmt: skip


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def recommend(
    interactions: dsl.Input[dsl.Dataset],
    target: str,
    champions: dict,
    section: dict,
    recommendations: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Cleaned log → the champion's recommendations for every user in it.

    Args:
        interactions: output of the ingest step.
        target: the category.
        champions: target → its champion, such as models:/calrec-books/3.
        section: the batch section of the configuration.
        recommendations: parts of the lists, and what of the histories was left out.
        metrics: counts for the KFP run view.
        summary: the same in words.
    """
    import os
    from pathlib import Path

    from calrec.config import BatchConfig
    from calrec.config.overrides import from_dict
    from calrec.launch import shared_folder
    from calrec.recommend.champion import recommend
    from calrec.recommend.second_place import Copies
    from calrec.report import kfp_view
    from calrec.storage import uris
    from calrec.tracking import registry, runs

    batch, place = from_dict(BatchConfig, section), os.environ.get("CALREC_CHECKPOINTS", "")
    remote = uris.folder(place) if place else None
    with runs.step("recommend", target) as run:
        champion = champions[target]
        done = recommend(
            registry.download_version(champion),
            Path(interactions.path),
            Path(recommendations.path),
            batch,
            champion,
            remote,
        )
        recommendations.metadata.update(run.record(done, recommendations.path))
        kfp_view.fill(done, recommendations.path, metrics, summary)
        shared_folder.publish(Path(recommendations.path), batch.destination, target)
        Copies(remote, done.config).remove()
