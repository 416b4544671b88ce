"""The report's section on how far the data moved from the champion's."""

from collections.abc import Mapping

from calrec.evaluate.report import words
from calrec.recommend.drift import Drift
from calrec.report.document import Block, Cell, Table, Text, shorten

SIZES: Mapping[str, str] = {
    "users": "users",
    "events": "events",
    "items": "items",
    "median_length": "median of events per user",
}
LARGE = 0.1
"""Drift that is worth a warning. All its figures are shares of what is counted: from here the champion meets a tenth or
more of it for the first time, and its metrics of before say little about today."""
NOTHING = "There is no champion whose data are known, so there is nothing to compare these data with."


def blocks(drift: Drift | None) -> list[Block]:
    """A warning when they moved far, the figures, how large both are, and the categories that moved most."""
    if drift is None:
        return [Text(NOTHING)]
    tables = (_figures(drift), _sizes(drift), _moved(drift))
    return [*(Text(warning, "lead") for warning in warnings(drift)), *(table for table in tables if table.rows)]


def warnings(drift: Drift | None) -> list[str]:
    """A warning when the data moved far from the champion's."""
    figures = drift.figures if drift else {}
    far = [f"{words.DRIFT[one][0].lower()} {words.share(value)}" for one, value in figures.items() if value >= LARGE]
    return [f"The data moved far from the champion's: {words.join_words(far)}."] if far else []


def _figures(drift: Drift) -> Table:
    rows = []
    for name, value in drift.figures.items():
        title, sentence = words.DRIFT[name]
        large = value >= LARGE
        rows.append([Cell(title), Cell(words.share(value), "large" * large, strong=large), Cell(sentence)])
    return Table(["Drift", "Value", "What it says"], rows, frozenset({0, 2}))


def _sizes(drift: Drift) -> Table:
    rows = [[Cell(SIZES[name]), *(Cell(f"{of:,}") for of in both)] for name, both in drift.sizes.items()]
    return Table(["Data", "champion's", "these"], rows)


def _moved(drift: Drift) -> Table:
    rows = [
        [
            Cell(shorten(name) or "no category"),
            Cell(words.share(before)),
            Cell(words.share(after)),
            Cell(words.format_signed(100 * (after - before), 1)),
        ]
        for name, before, after in drift.moved
    ]
    return Table(["Category, share of the events", "champion's", "these", "points"], rows)
