"""A target's metrics over its registered versions: one page that stands alone and its Markdown twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calrec.config.checks import check
from calrec.evaluate.report import charts, words
from calrec.evaluate.report.charts import Line
from calrec.report import document
from calrec.report.document import Block, Cell, Charts, Section, Table, Text, shorten

SHOWN = 50
"""The newest versions that are drawn and listed."""
_LOW, _HIGH = "_low", "_high"
_NOTE = (
    "What each version was judged by when it was made, on the users of its data: between versions of other data a "
    "difference may also come from these. Whiskers: 95 % interval over users, where it is known."
)


@dataclass(frozen=True)
class Version:
    """A registered version as it was judged."""

    number: int
    date: str
    """Of its registration, such as 2026-03-01."""
    metrics: Mapping[str, float]
    """By name; NAME_low and NAME_high are the ends of the interval of NAME."""
    champion: bool = False
    data: str = ""
    """Digest of the texts that it was made from."""

    def interval(self, name: str) -> tuple[float, float] | None:
        """The ends of a metric's interval, if they are known."""
        ends = self.metrics.get(name + _LOW), self.metrics.get(name + _HIGH)
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def history(target: str, versions: Sequence[Version]) -> tuple[str, str]:
    """The page, and the same as Markdown, of the newest versions.

    Args:
        target: the category.
        versions: at least one, in any order.
    """
    check(bool(versions), f"{target} has no version yet; register one before its history is drawn")
    newest = sorted(versions, key=lambda one: one.number)[-SHOWN:]
    names = list(dict.fromkeys(name for one in newest for name in one.metrics))
    names = [name for name in names if name.removesuffix(_LOW).removesuffix(_HIGH) not in set(names) - {name}]
    title, sections = f"Versions of {shorten(target)}", [Section("", _blocks(newest, names, len(versions)))]
    return document.page(title, sections, charts.STYLE), document.markdown(title, sections)


def _blocks(versions: Sequence[Version], names: Sequence[str], count: int) -> list[Block]:
    main = words.main_of(names)
    cut = [Text(f"The newest {len(versions)} of {count} versions.")] if len(versions) < count else []
    drawn = Charts([_drawn(versions, name) for name in main])
    return [*_lead(versions, main), *cut, drawn, _table(versions, names), Text(_NOTE, "note")]


def _lead(versions: Sequence[Version], main: Sequence[str]) -> list[Block]:
    """Which version is in use, and what the newest one has."""
    champion, newest = next((one for one in versions if one.champion), None), versions[-1]
    if champion is newest:
        return [Text(f"Version {newest.number}, the newest, is the champion{_having(newest, main)}.", "lead")]
    first = (
        f"Version {champion.number} is the champion{_having(champion, main)}" if champion else "No champion is shown"
    )
    return [Text(f"{first}; the newest is version {newest.number}{_having(newest, main)}.", "lead")]


def _having(version: Version, main: Sequence[str]) -> str:
    found = [f"{words.metric_title(name)} {version.metrics[name]:.4f}" for name in main if name in version.metrics]
    return f", with {' and '.join(found)}" if found else ""


def _drawn(versions: Sequence[Version], name: str) -> str:
    judged = [one for one in versions if name in one.metrics]
    ends = [(one.number, *interval) for one in judged if (interval := one.interval(name))]
    lines = [Line("every version", [(one.number, one.metrics[name]) for one in judged], ends)]
    champion = [(one.number, one.metrics[name]) for one in judged if one.champion]
    lines += [Line("the champion", champion, radius=6)] if champion else []
    span = versions[0].number - 0.5, versions[-1].number + 0.5
    return charts.curves(words.metric_title(name), lines, "version", span)


def _table(versions: Sequence[Version], names: Sequence[str]) -> Table:
    rows = [
        [
            Cell(str(one.number), mark="champion" if one.champion else "", strong=one.champion),
            Cell(one.date),
            *(_cell(one, name) for name in names),
            Cell(one.data),
        ]
        for one in reversed(versions)
    ]
    header = ["Version", "Date", *map(words.metric_title, names), "Data"]
    return Table(header, rows)


def _cell(version: Version, name: str) -> Cell:
    if name not in version.metrics:
        return Cell("–")
    interval = version.interval(name)
    return Cell(f"{version.metrics[name]:.4f}", f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "")
