"""The batch pipeline: logs → the champions' recommendations for all users in them."""

from kfp import dsl

from calrec.ingest.component import ingest
from calrec.recommend.component import recommend
from calrec.watch.component import find_champions
from pipelines.pods import Pods


@dsl.pipeline(name="calrec-users", display_name="Users")
def per_category(
    domain: str,
    uri: str,
    snapshot: str,
    champions: dict,
    data: dict,
    batch_: dict,
    data_cpu: str,
    data_memory: str,
    infer_cpu: str,
    infer_memory: str,
    infer_gpus: str,
    accelerator: str,
    node_selector: dict,
    tolerations: list,
) -> None:
    """One category's log, and the lists of its users."""
    pods = Pods(
        data_cpu, data_memory, infer_cpu=infer_cpu, infer_memory=infer_memory, infer_gpus=infer_gpus,
        accelerator=accelerator, node_selector=node_selector, tolerations=tolerations,
    )  # fmt: skip
    log = pods.data(ingest(domain=domain, uri=uri, snapshot=snapshot, data=data), "Ingest")
    task = recommend(interactions=log.outputs["interactions"], target=domain, champions=champions, section=batch_)
    pods.infer(task, "Recommend", effects=True)


@dsl.pipeline(name="calrec-lists", display_name="Lists")
def lists(
    sources: list,
    champions: dict,
    data: dict,
    batch_: dict,
    data_cpu: str,
    data_memory: str,
    infer_cpu: str,
    infer_memory: str,
    infer_gpus: str,
    accelerator: str,
    node_selector: dict,
    tolerations: list,
) -> None:
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
            data_cpu=data_cpu,
            data_memory=data_memory,
            infer_cpu=infer_cpu,
            infer_memory=infer_memory,
            infer_gpus=infer_gpus,
            accelerator=accelerator,
            node_selector=node_selector,
            tolerations=tolerations,
        ).set_display_name("Users")


@dsl.pipeline(name="calrec-batch", display_name="CALRec batch")
def batch(
    sources: list,
    data: dict,
    batch: dict,
    data_cpu: str,
    data_memory: str,
    infer_cpu: str,
    infer_memory: str,
    infer_gpus: str,
    accelerator: str,
    node_selector: dict,
    tolerations: list,
) -> None:
    """Recommendations for all users of some categories, from the champion of each.

    Args:
        sources: categories as {domain, uri, snapshot}; an empty snapshot is found out by each run, so that a schedule
            reads what lies there then.
        data: reading and cleaning; min_user and min_item are 0, so that no user is left out for having bought little.
        batch: how many items per user, and where the lists are copied to.
        data_cpu: CPUs of ingest.
        data_memory: memory of ingest.
        infer_cpu: CPUs of recommend.
        infer_memory: memory of recommend.
        infer_gpus: GPUs of recommend; 0: none.
        accelerator: resource name of the GPUs.
        node_selector: labels of the nodes that recommend.
        tolerations: taints that these pods bear.
    """
    found = Pods(data_cpu, data_memory).data(find_champions(sources=sources), "Find champions", effects=True)
    lists(
        sources=found.outputs["sources"],
        champions=found.outputs["champions"],
        data=data,
        batch_=batch,
        data_cpu=data_cpu,
        data_memory=data_memory,
        infer_cpu=infer_cpu,
        infer_memory=infer_memory,
        infer_gpus=infer_gpus,
        accelerator=accelerator,
        node_selector=node_selector,
        tolerations=tolerations,
    ).set_display_name("Lists")
