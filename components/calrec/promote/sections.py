"""What the decision and the model card both show."""

from collections.abc import Sequence

from calrec.evaluate.report import tables, words
from calrec.evaluate.results import METHOD, Evaluation
from calrec.promote.gate import Decision
from calrec.report.document import Block, Cell, Table, Text


def headline(evaluation: Evaluation, methods: Sequence[str], metrics: Sequence[str]) -> list[Block]:
    """Methods by metrics with their 95 % intervals, and what these mean where events share their times."""
    rows = [
        [Cell(words.name(method), strong=method == METHOD)]
        + [
            Cell(f"{figure.mean:.4f}", f"({figure.low:.4f} to {figure.high:.4f})")
            for figure in (evaluation.methods[method].figures[metric] for metric in metrics)
        ]
        for method in methods
    ]
    table = Table(["Method, with 95 % interval", *map(words.metric_title, metrics)], rows)
    return [table, *([Text(evaluation.meaning)] if evaluation.meaning else [])]


def reasons(decision: Decision) -> Table:
    """What passed and what failed."""
    rows = []
    for reason in decision.reasons:
        result, _, said = reason.partition(": ")
        rows.append([Cell(result, strong=result == "failed"), Cell(said[0].upper() + said[1:])])
    return Table(["Result", "Reason"], rows, frozenset({0, 1}))


def cost(evaluation: Evaluation) -> list[Block]:
    """What each step took."""
    return [tables.cost(evaluation.cost) if evaluation.cost else Text("No step left a record of what it took.")]
