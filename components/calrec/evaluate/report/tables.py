"""The tables of the report: rows of cells from the figures of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from calrec.evaluate.report import charts, words
from calrec.evaluate.results import METHOD, Evaluation, Figure, Slice, Ties
from calrec.report.document import Cell, Table, format_cell, shorten
from calrec.report.progress import duration

_NONE = Cell("–")


def headline(evaluation: Evaluation) -> Table:
    """Methods by metrics, with half intervals, the best of a column, and marks of the tests."""
    metrics, methods = evaluation.metrics, evaluation.methods
    best = {one: max(its.figures[one].mean for its in methods.values()) for one in metrics}
    rows = [
        [
            Cell(words.name(method), strong=method == METHOD),
            *(
                Cell(
                    f"{its.figures[one].mean:.4f}",
                    words.half(its.figures[one]),
                    words.mark(its.against.get(one)),
                    its.figures[one].mean == best[one],
                )
                for one in metrics
            ),
        ]
        for method, its in methods.items()
    ]
    return Table(["Method", *map(words.metric_title, metrics)], rows)


def pairwise(evaluation: Evaluation, metric: str) -> Table:
    """The model less each other method in one metric."""
    rows = []
    for method, its in evaluation.methods.items():
        if one := its.against.get(metric):
            interval = f"{words.format_signed(one.low)} to {words.format_signed(one.high)}"
            tests = [Cell(words.p_value(one.p)), Cell(words.p_value(one.p_holm)), Cell(words.outcome(one))]
            counted = [Cell(words.format_signed(one.effect, 2)), Cell(f"{one.wins:,}"), Cell(f"{one.losses:,}")]
            difference = [Cell(words.format_signed(one.mean)), Cell(interval)]
            rows.append([Cell(words.name(method)), *difference, *tests, *counted])
    header = ["CALRec less", words.metric_title(metric), "95 % interval", "p", "p, Holm", "CALRec is"]
    return Table([*header, "effect d", "wins", "losses"], rows)


def beyond(evaluation: Evaluation, metrics: Sequence[str]) -> Table:
    """Coverage, novelty, and how much ties and equal texts matter."""
    titles = [words.metric_title(one) for one in metrics]
    header = ["Method", "Coverage", "Novelty, bits"]
    header += [f"{title} {what}" for title in titles for what in ("on texts", "ties at best", "ties at worst")]
    rows = []
    for method, its in evaluation.methods.items():
        row = [Cell(words.name(method)), Cell(words.share(its.coverage)), Cell(f"{its.novelty:.2f}")]
        for one in metrics:
            ties: Ties | None = its.ties.get(one)
            values = (its.on_texts.get(one), ties and ties.best, ties and ties.worst)
            row += [_NONE if value is None else Cell(f"{value:.4f}") for value in values]
        rows.append(row)
    return Table(header, rows)


def slices(found: Sequence[Slice], rival: str | None, metric: str) -> Table:
    """One way to divide the users: the model beside the rival, with bars on the page."""
    top = max(figure.high for one in found for figure in _of(one, rival, metric) if figure)
    methods = [words.name(METHOD), *([words.name(rival)] if rival else [])]
    rows = [
        [
            Cell(shorten(one.value), chart=charts.pair(*_of(one, rival, metric), top=top)),
            Cell(f"{one.users:,}", mark="few" if one.users < words.FEW else ""),
            *(Cell(f"{f.mean:.4f}", words.half(f)) for f in _of(one, rival, metric) if f),
        ]
        for one in found
    ]
    muted = frozenset(at for at, one in enumerate(found) if one.users < words.FEW)
    header = [shorten(found[0].by), "users", *methods]
    return Table(header, rows, muted=muted)


def _of(one: Slice, rival: str | None, metric: str) -> tuple[Figure, Figure | None]:
    return one.figures[METHOD][metric], one.figures[rival][metric] if rival else None


def curve_table(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Where each curve begins, ends and is lowest or highest."""
    rows = []
    for stage, points in curves.items():
        for name in terms(points):
            line = [(point["step"], point[name]) for point in points if name in point]
            pick = max if name.endswith("ndcg") else min
            at, best = pick(line, key=lambda pair: pair[1])
            values = [Cell(f"{value:.4f}") for value in (line[0][1], line[-1][1], best)]
            rows.append([Cell(f"{words.step(stage)}, {words.term(name)}"), *values, Cell(f"{int(at):,}")])
    return Table(["Curve", "first", "last", "best", "at step"], rows)


def terms(points: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of the curves that are worth drawing: loss terms, then validation."""
    names = dict.fromkeys(name for point in points for name in point)
    return sorted((name for name in names if name not in words.UNDRAWN), key=lambda name: name.startswith("valid_"))


def cost(costs: Mapping[str, Mapping[str, float]]) -> Table:
    """Time, tokens and memory of each step, as far as known."""
    rows = []
    for step, of in costs.items():
        seconds, tokens, memory = (of.get(name) for name in ("seconds", "tokens", "peak_memory_bytes"))
        rate = of.get("users_per_second")
        rows.append(
            [
                Cell(words.step(step)),
                _NONE if seconds is None else Cell(duration(seconds)),
                _NONE if tokens is None else Cell(f"{tokens:,.0f}"),
                Cell(f"{tokens / seconds:,.0f}") if tokens and seconds else _NONE,
                _NONE if rate is None else Cell(f"{rate:,.1f}"),
                _NONE if memory is None else Cell(f"{memory / 2**30:.2f} GiB"),
            ]
        )
    return Table(["Step", "Time", "Tokens", "Tokens/s", "Users/s", "Peak memory"], rows)


def explanations(found: Mapping[str, float]) -> Table:
    """What explains the figures, each with a sentence."""
    rows = []
    for name, value in found.items():
        title, sentence = words.EXPLANATIONS.get(name, (shorten(name.replace("_", " ")), ""))
        number = words.share(value) if name in words.EXPLANATIONS else f"{value:.4g}"
        rows.append([Cell(title), Cell(number), Cell(sentence)])
    return Table(["Fact", "Value", "What it says"], rows, frozenset({0, 2}))


def settings(title: str, values: Mapping[str, Any], exact: bool = True) -> Table:
    """Nested values by name; `exact` ones are written as they would be set."""
    rows = [[Cell(shorten(name)), Cell(shorten(str(v) if exact else format_cell(v)))] for name, v in _flat(values)]
    return Table([title, "Value"], rows, frozenset({0, 1} if exact else {0}))


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            joined = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            found.append((f"{before}{name}", joined))
    return found
