"""KFP faces of the watch step: before a training, and before a batch."""

from typing import NamedTuple

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def watch(
    sources: list, targets: list, only_new: bool,
    data: dict, split: dict, text: dict, model: dict, stage1: dict, stage2: dict, refit: dict, generate: dict,
    retrieve: dict, report: dsl.Output[dsl.Markdown],
) -> NamedTuple("Watched", [("Output", str), ("state", str), ("sources", list), ("champions", dict)]):  # type: ignore[valid-type]  # fmt: skip
    """Sources → which version of them lies there now, whether it is new, and which models are in use.

    Args:
        sources: categories as {domain, uri, snapshot}; an empty snapshot is found out.
        targets: categories to train for.
        only_new: whether to stop when the newest models were made from the same data, settings and code.
        data: section of the configuration; a change of it is something new, as with those that follow.
        split: section of the configuration.
        text: section of the configuration.
        model: section of the configuration.
        stage1: section of the configuration.
        stage2: section of the configuration.
        refit: section of the configuration.
        generate: section of the configuration.
        retrieve: section of the configuration.
        report: the decision for a person to read.

    Returns:
        Output: train or "no new data", under the only name that the condition of a local run can read; state: a hash of
        what the models are made from; sources with their snapshots; champions: target → such as models:/calrec-books/3,
        or "not known".
    """
    from pathlib import Path

    from calrec.config.overrides import sections
    from calrec.tracking import runs
    from calrec.watch import current
    from calrec.watch.step import report as words

    shaping = sections(
        data=data, split=split, text=text, model=model, stage1=stage1, stage2=stage2, refit=refit, generate=generate,
        retrieve=retrieve,
    )  # fmt: skip
    with runs.step("watch") as run:
        seen = current.look_up(sources, targets, shaping, only_new)
        Path(report.path).write_text(words(seen.decision))
        run.note(words(seen.decision))
        run.log_request(targets, seen.sources, shaping, words(seen.decision))
    return seen.decision.decision, seen.decision.state, seen.sources, seen.champions


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_champions(sources: list) -> NamedTuple("Found", [("sources", list), ("champions", dict)]):  # type: ignore[valid-type]
    """Sources → which version of them lies there now, and the model in use of each category.

    Args:
        sources: categories as {domain, uri, snapshot}; an empty snapshot is found out.

    Returns:
        the sources with their snapshots; category → its champion, such as models:/calrec-books/3.
    """
    from calrec.system.printing import markdown
    from calrec.tracking import runs
    from calrec.watch import current

    with runs.step("find_champions") as run:
        found = current.find_champions(sources)
        why = "\n".join(f"- {markdown(target)}: {markdown(uri)}" for target, uri in found.champions.items())
        run.note(why)
        run.log_request(list(found.champions), found.sources, {}, f"Recommendations for everybody with\n\n{why}")
    return found.sources, found.champions
