"""Versions as the promote step makes them, of the small model of the tests."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from calrec.config import EvaluateConfig, GateConfig, GenerateConfig, RetrieveConfig
from calrec.evaluate.step import evaluate
from calrec.generate.step import generate
from calrec.promote.step import promote
from calrec.promote.version import pack
from calrec.retrieve import stored
from calrec.retrieve.step import retrieve

GENERATE = GenerateConfig(samples=4, max_new_tokens=20, max_users=15, threads=1)
RETRIEVE = RetrieveConfig(k=5, threads=1)
EVALUATE = EvaluateConfig(recall_at=(1, 5), ndcg_at=(5,), baselines=("popularity",), bootstrap=50)
GATE = GateConfig(metric="recall_at_5", beat=())


@dataclass(frozen=True)
class Judged:
    """The folders of what was made and judged."""

    model: Path
    index: Path
    evaluation: Path
    decision: Path

    def version(self, out: Path, target: str = "", retrieve: RetrieveConfig = RETRIEVE) -> Path:
        """A version's folder.

        Args:
            out: the folder to make.
            target: its name in the registry, so that tests do not meet there; empty: that of the category.
            retrieve: other settings than those that were judged make another version.
        """
        pack(out, **vars(self), generate=GENERATE, retrieve=retrieve)
        if target:
            document = json.loads((out / "manifest.json").read_text())
            document["config"]["target"] = target
            (out / "manifest.json").write_text(json.dumps(document))
        return out


def judged(root: Path, small: SimpleNamespace) -> Judged:
    """Take the small model through all steps behind its training."""
    texts, tokens, model = small.texts, small.tokens, small.base
    stored.build(texts, tokens, model, "home", root / "index", RETRIEVE)
    generate(texts, tokens, model, root / "generations", "home", GENERATE)
    retrieve(texts, root / "generations", root / "recommendations", RETRIEVE, model, tokens)
    evaluate(texts, root / "generations", root / "recommendations", root / "evaluation", EVALUATE, [model])
    promote(root / "evaluation", root / "decision", GATE)
    return Judged(model, root / "index", root / "evaluation", root / "decision")
