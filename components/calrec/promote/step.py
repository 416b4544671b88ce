"""The promote step: metrics in, the gate's decision out."""

import json
from pathlib import Path

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GateConfig
from calrec.evaluate.results import means
from calrec.promote.gate import decide
from calrec.settings import to_dict


def promote(evaluation: Path, out: Path, rule: GateConfig) -> Manifest:
    """Decide whether the evaluated model passes the gate, and write the reasons for a person to read."""
    of = artifacts.read_manifest(evaluation, "evaluation")
    document = json.loads((Path(evaluation) / "metrics.json").read_text())
    decision = decide(means(document), rule)
    verdict = "passes the gate" if decision.promote else "does not pass the gate"
    lines = [f"**{document['domain']}** {verdict}.", "", *(f"- {reason}" for reason in decision.reasons), ""]
    print(f"promote {document['domain']}: {verdict}; {'; '.join(decision.reasons)}", flush=True)
    with artifacts.writing(Path(out)) as folder:
        (folder / "decision.md").write_text("\n".join(lines))
        return artifacts.finish(
            folder,
            Manifest(
                "decision",
                config={"domain": document["domain"], "gate": to_dict(rule)},
                counts={"promote": int(decision.promote)},
                notes=decision.reasons,
                inputs={"evaluation": of.digest},
            ),
        )
