"""What follows the gate's decision: the model enters the registry, and is the champion when it passed."""

import tempfile
from pathlib import Path
from typing import Any

from calrec.artifacts import Manifest
from calrec.evaluate.headline import outcome
from calrec.evaluate.report.history import Version, history
from calrec.promote.evaluation import champion_uri
from calrec.promote.version import check_answers, example, pack
from calrec.report import kfp_view
from calrec.system.printing import markdown, safe
from calrec.tracking import promotion, registry


def register(done: Manifest, call: Any, run: Any) -> None:
    """Register the model that was judged, and say what became of it; see calrec.launch.steps.Step.after.

    Args:
        done: the decision's manifest.
        call: a calrec.launch.steps.Call; its inputs name the model and its index, and `state` among its values says
            what they were made from. Without a model only the decision is told.
        run: the step's run in MLflow.
    """
    target, judged, view = str(done.config["domain"]), Path(call.inputs["evaluation"]), call.view
    if view:
        kfp_view.fill(done, call.out, view["metrics"], view["summary"])
    if call.inputs.get("model") is None:
        return
    passed = bool(done.counts["promote"])
    said = _entered(done, call, passed) if registry.available() else ""
    print(f"promote {safe(target)}: {safe(said or 'not registered')}", flush=True)
    past = [Version(**one) for one in registry.past(target)] if said else []
    page, words = history(target, past) if past else ("<p>There is no registry that answers.", "")
    decision = Path(view["summary"].path).read_text() if view else (call.out / "decision.md").read_text()
    told = f"In the registry: {markdown(said or 'nothing, since none answers')}.\n\n{decision}"
    run.note(told)
    run.text("history.html", page)
    run.headline(target, **vars(outcome(judged, said or ("passed" if passed else "not passed"))))
    promotion.describe(target, words)
    if view:
        Path(view["history"].path).write_text(page)
        Path(view["summary"].path).write_text(told)


def _entered(done: Manifest, call: Any, passed: bool) -> str:
    """What became of the model in the registry, in a sentence."""
    judged, index = Path(call.inputs["evaluation"]), Path(call.inputs["index"])
    with tempfile.TemporaryDirectory(prefix="calrec-") as scratch:
        version, request = Path(scratch) / registry.FOLDER, example(index)
        settings = call.sections["generate"], call.sections["retrieve"]
        pack(version, Path(call.inputs["model"]), index, judged, call.out, *settings)
        check_answers(version, request)
        return promotion.register_version(version, request, call.values["state"], champion_uri(judged), passed)
