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
    section: dict,
    generate: dict,
    retrieve: dict,
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    reasons: dsl.Output[dsl.Markdown],
    history: dsl.Output[dsl.HTML],
) -> None:
    """Metrics → the gate's decision; the model is registered, and is the champion when it passes.

    Args:
        evaluation: output of the evaluate step.
        model: the model that was evaluated.
        index: its index.
        target: the category.
        state: which data and settings the model is made from, by the watch step.
        section: the gate section of the configuration.
        generate: the generate section, with which the model will recommend.
        retrieve: the retrieve section, for the same.
        decision: the decision with its manifest.
        metrics: whether it passes, and by how much it beats the champion.
        reasons: the decision for a person to read, and what became of the model.
        history: the metrics over the target's versions.
    """
    import tempfile
    from pathlib import Path

    from calrec.config import GateConfig
    from calrec.config.overrides import from_dict, sections
    from calrec.evaluate.outcome import outcome
    from calrec.evaluate.report.history import Version
    from calrec.evaluate.report.history import history as versions
    from calrec.promote.evaluation import compared
    from calrec.promote.step import promote
    from calrec.promote.version import example, pack, tried
    from calrec.report import kfp_view
    from calrec.system.printing import markdown, safe
    from calrec.tracking import promotion, registry, runs

    judged, made, catalogue = Path(evaluation.path), Path(decision.path), Path(index.path)
    with runs.step("promote", target) as run, tempfile.TemporaryDirectory(prefix="calrec-") as scratch:
        done = promote(judged, made, from_dict(GateConfig, section))
        decision.metadata.update(run.record(done, decision.path))
        kfp_view.fill(done, made, metrics, reasons)
        passed, said = bool(done.counts["promote"]), ""
        if registry.available():
            version, request = Path(scratch) / registry.FOLDER, example(catalogue)
            pack(version, Path(model.path), catalogue, judged, made, **sections(generate=generate, retrieve=retrieve))
            tried(version, request)
            said = promotion.settle(version, request, state, compared(judged), passed)
            print(f"promote {safe(target)}: {safe(said or 'not registered')}", flush=True)
        past = [Version(**one) for one in registry.past(target)] if said else []
        page, words = versions(target, past) if past else ("<p>There is no registry that answers.", "")
        Path(history.path).write_text(page)
        told = (
            f"In the registry: {markdown(said or 'nothing, since none answers')}.\n\n{Path(reasons.path).read_text()}"
        )
        Path(reasons.path).write_text(told)
        run.note(told)
        run.text("history.html", page)
        run.headline(target, **vars(outcome(judged, said or ("passed" if passed else "not passed"))))
        promotion.describe(target, words)
