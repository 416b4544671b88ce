"""KFP face of the promote step."""

from kfp import dsl

from calrec.config import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    evaluation: dsl.Input[dsl.Dataset], target: str, section: dict,
    decision: dsl.Output[dsl.Artifact], reasons: dsl.Output[dsl.Markdown],
) -> None:  # fmt: skip
    """Metrics → the gate's decision.

    Args:
        evaluation: output of the evaluate step.
        target: the category.
        section: the gate section of the configuration.
        decision: the decision with its manifest.
        reasons: the decision for a person to read.
    """
    import shutil
    from pathlib import Path

    from calrec import tracking
    from calrec.config import GateConfig
    from calrec.promote.step import promote
    from calrec.settings import from_dict

    with tracking.step("promote", target) as run:
        done = promote(Path(evaluation.path), Path(decision.path), from_dict(GateConfig, section))
        decision.metadata.update(run.record(done, decision.path))
        shutil.copy(Path(decision.path) / "decision.md", reasons.path)
