"""The batch pipeline: logs → the champions' recommendations for all users in them."""

from kfp import dsl

from calrec.ingest.component import ingest
from calrec.recommend.component import recommend
from calrec.watch.component import find_champions
from pipelines import pods


@dsl.pipeline(name="calrec-users", display_name="Users")
def per_category(domain: str, uri: str, snapshot: str, champions: dict, data: dict, batch_: dict) -> None:
    """One category's log, and the lists of its users."""
    log = pods.data(ingest(domain=domain, uri=uri, snapshot=snapshot, data=data), "Ingest")
    task = recommend(interactions=log.outputs["interactions"], target=domain, champions=champions, section=batch_)
    pods.infer(task, "Recommend", effects=True)


@dsl.pipeline(name="calrec-lists", display_name="Lists")
def lists(sources: list, champions: dict, data: dict, batch_: dict) -> None:
    """Every category; the parameters are those of `batch`, and what was found.

    A pipeline of its own, since a loop of KFP's local runner takes another output of the task that gives its items for
    an item.
    """
    with dsl.ParallelFor(sources) as source:
        per_category(
            domain=source.domain,
            uri=source.uri,
            snapshot=source.snapshot,
            champions=champions,
            data=data,
            batch_=batch_,
        ).set_display_name("Users")


@dsl.pipeline(name="calrec-batch", display_name="CALRec batch")
def batch(sources: list, data: dict, batch: dict) -> None:
    """Recommendations for all users of some categories, from the champion of each.

    Args:
        sources: categories as {domain, uri, snapshot}; an empty snapshot is found out by each run, so that a schedule
            reads what lies there then.
        data: reading and cleaning; min_user and min_item are 0, so that no user is left out for having bought little.
        batch: how many items per user, and where the lists are copied to.
    """
    found = pods.data(find_champions(sources=sources), "Find champions", effects=True)
    lists(
        sources=found.outputs["sources"], champions=found.outputs["champions"], data=data, batch_=batch
    ).set_display_name("Lists")
