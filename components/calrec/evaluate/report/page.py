"""The report that a person reads: one page that stands alone and its Markdown twin, from the same blocks."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from calrec.evaluate.report import charts, drift, tables, words
from calrec.evaluate.report.charts import Bar, Line
from calrec.evaluate.results import METHOD, Evaluation, Example
from calrec.report import document
from calrec.report.document import Block, Case, Cell, Charts, Section, Text, anchor, shorten

_EXAMPLES, _LISTED, _HISTORY, _TEXTS = 10, 10, 8, 5  # shown
_UNTRAINED = "0 steps: the stage passes the model through."
_NO_CURVES = "No training record is at hand: the evaluate step was not given the models, or they are of before."


def markdown(evaluation: Evaluation) -> str:
    """The report as Markdown."""
    return document.markdown(_title(evaluation), _sections(evaluation))


def page(evaluation: Evaluation) -> str:
    """The report as one HTML page without scripts or outside resources."""
    return document.page(_title(evaluation), _sections(evaluation), charts.STYLE)


def drawings(evaluation: Evaluation) -> dict[str, str]:
    """The drawings of the page as SVG, by names that can be those of files: metrics with intervals, learning curves."""
    return _bars(evaluation) | _curves_drawn(evaluation)


def _title(evaluation: Evaluation) -> str:
    return f"Next items in {shorten(evaluation.domain)}"


def _sections(evaluation: Evaluation) -> list[Section]:
    warned = [Text(warning, "warning") for warning in evaluation.warnings]
    lead = [*warned, Text(words.verdict(evaluation), "lead"), Text(words.protocol(evaluation))]
    found = [
        Section("", lead),
        Section("Result", _result(evaluation)),
        Section("Against each method", _against(evaluation)),
        Section("Beyond accuracy", _beyond(evaluation)),
        Section("Kinds of users", _slices(evaluation)),
        Section("Learning curves", _curves(evaluation)),
        Section("Worked examples", _examples(evaluation.examples)),
        Section("What explains the figures", [tables.explanations(evaluation.explanations)]),
        Section("Drift", drift.blocks(evaluation.drift)),
        Section("Cost", _cost(evaluation)),
        Section("Data", [tables.settings("Data", evaluation.data, exact=False)]),
        Section("Settings", [tables.settings("Setting", evaluation.config)], closed=True),
    ]
    return [section for section in found if section.blocks]


def _result(evaluation: Evaluation) -> list[Block]:
    marks = [Text(words.MARKS, "note")] if len(evaluation.methods) > 1 else []
    return [tables.headline(evaluation), *_meaning(evaluation), *marks, Charts(list(_bars(evaluation).values()))]


def _meaning(evaluation: Evaluation) -> list[Block]:
    return [Text(evaluation.meaning)] if evaluation.meaning else []


def _bars(evaluation: Evaluation) -> dict[str, str]:
    return {
        metric: charts.bars(
            words.metric_title(metric),
            [Bar(words.name(m), its.figures[metric], m == METHOD) for m, its in evaluation.methods.items()],
        )
        for metric in words.main_metrics(evaluation)
    }


def _against(evaluation: Evaluation) -> list[Block]:
    found = [tables.pairwise(evaluation, metric) for metric in words.main_metrics(evaluation)]
    return [*found, *_meaning(evaluation), Text(words.PAIRWISE, "note")] if found[0].rows else []


def _beyond(evaluation: Evaluation) -> list[Block]:
    return [
        tables.beyond(evaluation, words.main_metrics(evaluation)),
        *_meaning(evaluation),
        Text(words.BEYOND, "note"),
    ]


def _slices(evaluation: Evaluation) -> list[Block]:
    if not evaluation.slices:
        return []
    metric, rival = words.main_metrics(evaluation)[0], words.rival(evaluation)
    ways = [list(found) for _, found in groupby(evaluation.slices, key=lambda one: one.by)]
    few = any(one.users < words.FEW for one in evaluation.slices)
    note = Text(words.slicing(rival, metric, few), "note")
    return [note, *(tables.slices(found, rival, metric) for found in ways), *_meaning(evaluation)]


def _curves(evaluation: Evaluation) -> list[Block]:
    if not evaluation.curves:
        return [Text(_NO_CURVES)]
    notes: list[Block] = [
        Text(f"{words.step(stage)}: {_UNTRAINED}") for stage, rows in evaluation.curves.items() if not rows
    ]
    table, drawn = tables.curve_table(evaluation.curves), list(_curves_drawn(evaluation).values())
    return [Charts(drawn), table, Text(words.CURVES, "note"), *notes] if table.rows else notes


def _curves_drawn(evaluation: Evaluation) -> dict[str, str]:
    """The loss terms in one drawing; each validation in one of its own, beside the same term in training."""
    found: dict[str, list[Line]] = {}
    for stage, rows in evaluation.curves.items():
        title, names = words.step(stage), tables.terms(rows)
        trained = [name for name in names if not name.startswith("valid_")]
        if trained:
            found[f"{title}: training"] = [_line(rows, words.term(name), name) for name in trained]
        for name in names[len(trained) :]:
            plain = name.removeprefix("valid_")
            beside = [_line(rows, "training", plain)] if plain in trained else []
            found[f"{title}: {words.term(plain)}"] = [_line(rows, "validation", name), *beside]
    return {anchor(title): charts.curves(title, lines) for title, lines in found.items()}


def _line(rows: Sequence[Mapping[str, float]], label: str, name: str) -> Line:
    return Line(label, [(row["step"], row[name]) for row in rows if name in row])


def _examples(examples: Sequence[Example]) -> list[Block]:
    if not examples:
        return []
    return [Text(words.EXAMPLES, "note"), *(_case(one) for one in examples[:_EXAMPLES])]


def _case(example: Example) -> Case:
    """What a user had, what came next, what was written and what is recommended."""
    where = f"found at place {example.rank}" if example.rank else "missed: the target is not in the list"
    listed = example.recommended[:_LISTED]
    items = [
        Cell(shorten(text), "(the target)" if place == example.rank else "", strong=place == example.rank)
        for place, text in enumerate(listed, 1)
    ]
    lines = {
        "history, oldest first": [Cell(shorten(text)) for text in example.history[-_HISTORY:]] or [Cell("nothing")],
        "target": [Cell(shorten(example.target), strong=True)],
        "generated": [Cell(shorten(text) or "(empty)", f"×{count}") for text, count in example.generated[:_TEXTS]],
        "recommended": items,
    }
    return Case(
        f"User {shorten(example.user_id, 40)}: {where}",
        example.rank > 0,
        {what: cells for what, cells in lines.items() if cells},
        {"history, oldest first": "→", "target": ""},
    )


def _cost(evaluation: Evaluation) -> list[Block]:
    if not evaluation.cost:
        return [Text("No step left a record of what it took.")]
    return [tables.cost(evaluation.cost), Text(words.COST, "note")]
