"""A report as blocks that know nothing of a format, and the two formats: what the page says, its Markdown twin says."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from calrec.system import printing


@dataclass(frozen=True)
class Cell:
    """What stands in a table, or one thing of a list."""

    text: str
    beside: str = ""
    """Said in small letters behind it, such as ± 0.012."""
    mark: str = ""
    strong: bool = False
    """Stands out: the best of its column, the target in a list."""
    chart: str = ""
    """An SVG, on the page only."""

    @property
    def words(self) -> str:
        """All that it says."""
        return " ".join(part for part in (self.text, self.beside, self.mark) if part)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = ""
    """lead: what matters most; warning: is marked as one; note: in small letters; code: its lines stay as they are."""


@dataclass(frozen=True)
class Table:
    """Rows below a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset({0})
    """Columns of words; all others are numbers."""
    muted: frozenset[int] = frozenset()
    """Rows that should not be relied on."""


def format_cell(cell: object) -> str:
    """A cell's text: 1234567 is shown as 1,234,567."""
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[object]], words: bool = False) -> Table:
    """A table of plain cells.

    Args:
        header: names of the columns.
        rows: cells; whole numbers get thousands separators.
        words: whether all columns are text; else only the first is.
    """
    columns = frozenset(range(len(header)) if words else {0})
    return Table(header, [[Cell(format_cell(cell)) for cell in row] for row in rows], columns)


@dataclass(frozen=True)
class Charts:
    """Drawings side by side, on the page only: a table says the same."""

    drawings: Sequence[str]


@dataclass(frozen=True)
class Histogram:
    """Bars below their labels, from top to bottom; on the page only."""

    title: str
    bars: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Case:
    """One user."""

    title: str
    good: bool
    lines: Mapping[str, Sequence[Cell]]
    """What → one thing after the other."""
    between: Mapping[str, str]
    """What → what stands between two of its things; absent: they are numbered."""


Block = Text | Table | Charts | Histogram | Case


@dataclass(frozen=True)
class Section:
    """Blocks below a heading."""

    title: str
    blocks: Sequence[Block]
    closed: bool = False
    """On the page its blocks are shown on demand."""


def shorten(text: str, longest: int = 160) -> str:
    """A title in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The document as Markdown; without a title, what stands below it."""
    parts = [f"# {printing.markdown(title)}"] if title else []
    for section in sections:
        parts += [f"## {printing.markdown(section.title)}"] if section.title else []
        parts += [_markdown(block) for block in section.blocks if not isinstance(block, Charts | Histogram)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Text | Table | Case) -> str:
    if isinstance(block, Text):
        return _text_markdown(block)
    if isinstance(block, Case):
        return _case_markdown(block)
    return table_markdown(block)


def table_markdown(table: Table) -> str:
    """A table as Markdown."""
    rows = [
        [printing.markdown(name) for name in table.header],
        ["---" if at in table.words else "---:" for at in range(len(table.header))],
        *([_cell_markdown(cell) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text_markdown(text: Text) -> str:
    if text.kind == "code":
        return "\n".join(f"    {line}" for line in text.text.splitlines())
    said = printing.markdown(text.text)
    return {"lead": f"**{said}**", "warning": f"**Warning: {said}**"}.get(text.kind, said)


def _case_markdown(case: Case) -> str:
    lines = [f"### {printing.markdown(case.title)}", ""]
    for what, cells in case.lines.items():
        between = case.between.get(what)
        things = [_cell_markdown(cell) for cell in cells]
        if between is None:
            numbered = [f"    {place}. {thing}" for place, thing in enumerate(things, 1)]
            lines += [f"- {printing.markdown(what)}:", *numbered]
        else:
            lines.append(f"- {printing.markdown(what)}: {f' {printing.markdown(between)} '.join(things)}")
    return "\n".join(lines)


def _cell_markdown(cell: Cell) -> str:
    text = f"**{printing.markdown(cell.text)}**" if cell.strong and cell.text else printing.markdown(cell.text)
    return " ".join(part for part in (text, printing.markdown(cell.beside), printing.markdown(cell.mark)) if part)


def write(folder: Path, title: str, sections: Sequence[Section], style: str = "") -> None:
    """Write the document as report.md and report.html."""
    (folder / "report.md").write_text(markdown(title, sections))
    (folder / "report.html").write_text(page(title, sections, style))


def page(title: str, sections: Sequence[Section], style: str = "") -> str:
    """The document as one HTML page without scripts or outside resources.

    Args:
        title: heading, and after "CALRec · " the name of the page.
        sections: from top to bottom.
        style: CSS beside that of every page.
    """
    return str(_template().render(title=title, sections=sections, style=style))


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = anchor
    environment.tests |= {kind.__name__.lower(): _is(kind) for kind in (Text, Table, Charts, Histogram, Case)}
    return environment.get_template("page.html")


def _is(kind: type) -> Callable[[object], bool]:
    return lambda block: isinstance(block, kind)


def anchor(title: str) -> str:
    """A title as a name of a place or a file."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
