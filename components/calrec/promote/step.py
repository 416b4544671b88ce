"""The promote step: an evaluation in, the gate's decision out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GateConfig
from calrec.config.overrides import to_dict
from calrec.evaluate.report import tables, words
from calrec.evaluate.results import CHAMPION, METHOD, Evaluation
from calrec.promote.evaluation import parse_evaluation, results
from calrec.promote.gate import Decision, decide
from calrec.promote.sections import cost, headline, reasons
from calrec.report import document as report
from calrec.report.document import Section, Text
from calrec.system.printing import safe


@artifacts.making("decision", "evaluation", "champion")
def promote(evaluation: Path, out: Path, rule: GateConfig, champion: Path | None = None) -> Manifest:
    """Decide whether the evaluated model passes the gate, and write the reasons for a person to read.

    Args:
        evaluation: folder of the evaluate step.
        out: the folder to make, with decision.md.
        rule: what a model must show.
        champion: an evaluation whose model is the champion; None: the champion is the one that `evaluation` ranked
            beside the model, if any.
    """
    of, document = _read(evaluation)
    inputs, shown = {"evaluation": of.digest}, parse_evaluation(document)
    rival = results(evaluation, document, CHAMPION) if CHAMPION in shown.methods else None
    if champion is not None:
        its, theirs = _read(champion)
        inputs["champion"], rival = its.digest, results(champion, theirs)
        shown = replace(shown, methods={**shown.methods, CHAMPION: parse_evaluation(theirs).methods[METHOD]})
    decision = decide(rival, results(evaluation, document, floors=rule.beat), rule)
    verdict = "passes the gate" if decision.promote else "does not pass the gate"
    print(f"promote {safe(shown.domain)}: {verdict}; {safe('; '.join(decision.reasons))}", flush=True)
    gain = decision.gain
    with artifacts.writing(Path(out)) as folder:
        (folder / "decision.md").write_text(_markdown(shown, decision, rule, f"{shown.domain} {verdict}."))
        return artifacts.finish(
            folder,
            Manifest(
                "decision",
                config={"domain": shown.domain, "gate": to_dict(rule)},
                counts={
                    "promote": int(decision.promote),
                    **({"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high} if gain else {}),
                },
                notes=decision.reasons,
                inputs=inputs,
            ),
        )


def _read(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    manifest = artifacts.read_manifest(folder, "evaluation")
    document: dict[str, Any] = json.loads((Path(folder) / "metrics.json").read_text())
    return manifest, document


def _markdown(evaluation: Evaluation, decision: Decision, rule: GateConfig, verdict: str) -> str:
    compared = [CHAMPION] if decision.gain else []
    methods = [one for one in (METHOD, *compared, *rule.beat) if one in evaluation.methods]
    metrics = [
        one for one in dict.fromkeys([rule.metric, *words.main_metrics(evaluation)]) if one in evaluation.metrics
    ]
    sections = [
        Section("", [Text(verdict, "lead"), Text(words.protocol(evaluation).removesuffix(words.PLUS_MINUS))]),
        Section("Why", [reasons(decision)]),
        Section("Figures", headline(evaluation, methods, metrics)),
        Section("Cost", [*cost(evaluation), Text(words.COST)]),
        Section("Rule", [tables.settings("gate", to_dict(rule))]),
    ]
    return report.markdown(f"Decision on {evaluation.domain}", sections)
