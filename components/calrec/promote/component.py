"""KFP face of the promote step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    evaluation: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    index: dsl.Input[dsl.Dataset],
    target: str,
    state: str,
    champions: dict,
    section: dict,
    generate: dict,
    retrieve: dict,
    decision: dsl.Output[dsl.Artifact],
    reasons: dsl.Output[dsl.Markdown],
) -> None:
    """Metrics → the gate's decision; the model is registered, and is the champion when it passes.

    Args:
        evaluation: output of the evaluate step.
        model: the model that was evaluated.
        index: its index.
        target: the category.
        state: which data and settings the model is made from, by the watch step.
        champions: target → folder of the champion that the model was compared with.
        section: the gate section of the configuration.
        generate: the generate section, with which the model will recommend.
        retrieve: the retrieve section, for the same.
        decision: the decision with its manifest.
        reasons: the decision for a person to read.
    """
    import shutil
    from pathlib import Path

    from calrec import registry, tracking
    from calrec.config import GateConfig
    from calrec.promote.step import promote
    from calrec.settings import from_dict, sections

    with tracking.step("promote", target) as run:
        done = promote(Path(evaluation.path), Path(decision.path), from_dict(GateConfig, section))
        decision.metadata.update(run.record(done, decision.path))
        shutil.copy(Path(decision.path) / "decision.md", reasons.path)
        registry.settle(
            target,
            {"model": Path(model.path), "index": Path(index.path)},
            sections(generate=generate, retrieve=retrieve),
            state,
            champions.get(target),
            promote=bool(done.counts["promote"]),
        )
