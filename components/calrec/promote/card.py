"""The model card: what a version of the registry is, what it was judged by, and where it ends."""

import shlex
from collections.abc import Mapping
from typing import Any

from calrec.evaluate.report import tables, words
from calrec.evaluate.results import CHAMPION, METHOD, Evaluation, Figure
from calrec.promote.evaluation import parse_evaluation
from calrec.promote.gate import Decision
from calrec.promote.sections import cost, headline, reasons
from calrec.report import document as report
from calrec.report.document import Section, Text, format_cell
from calrec.system.printing import safe
from calrec.tracking import limits

_OTHERS = 12  # methods beside the model
_BEYOND = ("last_title", "dense", "rerank", "fusion_users")  # settings of retrieve that are off at 0
_OFFLINE = (
    "Judged offline: the one held-out item of each user is the only one that counts as right. What people do when they "
    "see the recommendations was not measured."
)
_USAGE = """
## Use

With MLFLOW_TRACKING_URI set to the server of this registry:

```
mlflow models serve -m {0} --env-manager local
calrec recommend --model {0} --history "TITLE; TITLE"
```
"""


def card(document: Mapping[str, Any], decision: Decision, facts: Mapping[str, object]) -> str:
    """The card as Markdown; all it says of this model stands in its evaluation or in the facts.

    Args:
        document: metrics.json of the evaluation.
        decision: of the gate.
        facts: more about the version, such as its base model and commit.
    """
    evaluation = parse_evaluation(document)
    main, ours = words.main_metrics(evaluation), _model(evaluation.config)
    others = [name for name in evaluation.methods if name != METHOD]
    others.sort(key=lambda name: (name != CHAMPION, -evaluation.methods[name].figures[main[0]].mean))
    verdict = "passes the gate" if decision.promote else "does not pass the gate"
    sections = [
        Section("", [Text(words.verdict(evaluation), "lead")]),
        Section("Model", [tables.settings("Model", {**ours, **_named(facts), **ours})]),
        Section("Data", [tables.settings("Data", _data(evaluation)), Text(words.protocol(evaluation))]),
        Section("Figures", headline(evaluation, [METHOD, *others[:_OTHERS]], main)),
        Section("Decision", [Text(f"It {verdict}."), reasons(decision)]),
        Section("Limits", [Text(limit) for limit in _limits(document, evaluation, main[0])]),
        Section("Cost", cost(evaluation)),
    ]
    usage = _USAGE.format(shlex.quote(safe(f"models:/calrec-{evaluation.domain}@champion")))
    text = report.markdown(f"Model card: {evaluation.domain}", sections)
    return limits.cut(text, limits.DESCRIPTION - len(usage) - 1, "decision.md and report.md") + "\n" + usage


def _model(config: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    generate, retrieve = config["generate"], config["retrieve"]
    more = [f"; {one.replace('_', ' ')} {retrieve[one]:g}" for one in _BEYOND if retrieve[one]]
    stages = {words.step(name): _stage(config[name]) for name in ("stage1", "stage2", "refit") if name in config}
    return {
        "What it does": "writes texts of a user's next item and ranks the items that read most alike",
        **(_base(config["model"]) if "model" in config else {}),
        **stages,
        "Texts": f"{generate['samples']} per user at temperature {generate['temperature']:g}, trie {generate['trie']}",
        "Ranking": f"lists of {retrieve['k']}; BM25 with k1 {retrieve['k1']:g} and b {retrieve['b']:g}{''.join(more)}",
    }


def _named(facts: Mapping[str, object]) -> dict[str, str]:
    return {name.replace("_", " ").capitalize(): format_cell(value) for name, value in facts.items()}


def _base(model: Mapping[str, Any]) -> dict[str, str]:
    scratch = model["name"] == "scratch"
    adapters = f"{'DoRA' if model['dora'] else 'LoRA'} adapters of rank {model['lora_rank']}"
    return {
        "Base model": f"scratch, size {model['size']}" if scratch else model["name"],
        "Licence": "trained from scratch: that of no base model" if scratch else "see the base model",
        "Tuning": "every weight" if model["tuning"] == "full" else adapters,
    }


def _stage(of: Mapping[str, Any]) -> str:
    if not of["steps"]:
        return "none"
    return f"{of['steps']:,} steps with batches of {of['batch_size']}, learning rate {of['lr']:g}"


def _data(evaluation: Evaluation) -> dict[str, str]:
    of = evaluation.data
    return {
        "Category": evaluation.domain,
        "Held out": f"the {evaluation.split} item of each user, split {evaluation.config['split']['kind']}",
        "Events": f"{of['interactions']:,}, of which {of['interactions_in_training']:,} train",
        "Hash of the texts": of["texts"],
        "Hash of the catalogue": of["catalogue"],
    }


def _limits(document: Mapping[str, Any], evaluation: Evaluation, metric: str) -> list[str]:
    ours, found = evaluation.methods[METHOD], evaluation.explanations
    title, figure = words.metric_title(metric), ours.figures[metric]
    limits = [
        f"{title} is known to {words.half(figure)}, from {words.many(evaluation.users, 'user')}; more users narrow it.",
        f"{words.share(found['targets_in_the_history'])} of the targets are items that the user had before, which "
        "repeating the history finds too.",
        _cold(document, metric),
        f"{words.share(ours.coverage)} of the {evaluation.items:,} items are in somebody's list. What is not in the "
        "index is in no list.",
        f"{words.share(found['generations_that_are_an_item_text'])} of the generated texts are an item's, word for "
        "word. Any other can be the reason of a recommendation too.",
        _OFFLINE,
    ]
    drift = evaluation.drift.figures if evaluation.drift else {}
    moved = [f"{words.DRIFT[name][0].lower()} {words.share(value)}" for name, value in drift.items()]
    return [*limits, *([f"Since the champion's data: {', '.join(moved)}."] if moved else [])]


def _cold(document: Mapping[str, Any], metric: str) -> str:
    """What is known of items without training events."""
    for one in document["slices"]:
        if one["by"] == "target frequency" and one["value"].startswith("0"):
            figure = Figure(**one["figures"][METHOD][metric])
            return (
                f"{words.metric_title(metric)} is {figure.mean:.4f} ({figure.low:.4f} to {figure.high:.4f}) for the "
                f"{words.many(one['users'], 'user')} whose target has no training event."
            )
    return "No target is without training events: of new items nothing is known."
